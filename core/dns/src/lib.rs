//! DNS as a pure state machine: a Corefile becomes a chain of plugins, and [`Server::step`] turns queries,
//! upstreams' answers and the catalog's snapshots into replies and questions to upstreams.
//!
//! What it may not know: sockets, files, clocks, and how the catalog came by its snapshot. Answers about the
//! cluster are CoreDNS 1.14's, but for one thing: they never pass through `cache`, so that an endpoint that is gone
//! is gone from the next answer (CoreDNS does so with `disable success cluster.local`).
//!
//! ```
//! use sealane_dns::{Config, Effect, Event, Message, Now, Server, Transport, decode, encode};
//! let corefile = ".:53 {\n  hosts /dev/null {\n    192.0.2.7 web.example\n    fallthrough\n  }\n}";
//! let config = Config::parse("Corefile", corefile, &Default::default(), 53).unwrap();
//! let mut server = Server::new(config, &Default::default(), vec![], Now::default());
//! let query = encode(&Message::query(1, "web.example".parse().unwrap(), 1), 512);
//! let client = "192.0.2.1:4242".parse().unwrap();
//! let event = Event::Query { port: 53, transport: Transport::Udp, client, bytes: &query };
//! let effects = server.step(event, Now::default());
//! let [Effect::Reply(bytes)] = effects.as_slice() else { panic!() };
//! assert_eq!(decode(bytes).unwrap().answers[0].to_string(), "web.example. 3600 IN A 192.0.2.7");
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod cache;
pub mod config;
pub mod corefile;
pub mod hosts;
pub mod kubernetes;
pub mod message;
pub mod metrics;
pub mod name;
pub mod server;
pub mod zone;

pub use config::Config;
pub use message::{Message, decode, encode};
pub use name::Name;
pub use server::{Effect, Event, Now, Pending, Server, Transport};
