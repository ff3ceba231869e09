//! DNS as a pure state machine: a Corefile becomes a chain of plugins, and [`Server::step`] turns queries,
//! upstreams' answers and the catalog's snapshots into replies and questions to upstreams.
//!
//! What it may not know: sockets, files, clocks, and how the catalog came by its snapshot. Answers are CoreDNS 1.14's.
//!
//! ```
//! use sealane_dns::{Config, Effect, Event, Message, Now, Server, Transport, decode, encode};
//! let corefile = ".:53 {\n  hosts /dev/null {\n    192.0.2.7 web.example\n    fallthrough\n  }\n}";
//! let config = Config::parse("Corefile", corefile, &Default::default(), 53).unwrap();
//! let mut server = Server::new(config, vec![], Now::default());
//! let query = encode(&Message::query(1, "web.example".parse().unwrap(), 1), 512);
//! let client = "192.0.2.1:4242".parse().unwrap();
//! let event = Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: &query };
//! let effects = server.step(event, Now::default());
//! let [Effect::Reply(bytes)] = effects.as_slice() else { panic!() };
//! assert_eq!(decode(bytes).unwrap().answers[0].to_string(), "web.example. 3600 IN A 192.0.2.7");
//! ```
//!
//! # A query's way
//!
//! ```text
//! bytes -> intake: decoded, block chosen (listener, longest zone, views)
//!   down:  errors > log > loadbalance > cache > hosts > kubernetes > forward     (order::ROWS, as in plugin.cfg)
//!            each says Next, Reply, Fail, Drop, Ask (an upstream), Lookup (this server) or Wait
//!   up:    errors < log < loadbalance < cache <---------------------- Reply      (Plugin::up; Plugin::failed)
//! bytes <- finish: id, question, flags, EDNS and size as the client's; counted
//! ```
//!
//! A plugin is a file in `plugins/` and a row in [`order::ROWS`]. The file has a `setup`, which reads the plugin's
//! line with [`chain::args`] and puts a [`chain::Plugin`] into the chain (or a setting into the block's
//! [`chain::Settings`]), and the plugin's `impl`. All of the trait's methods have defaults. What belongs to one query
//! goes into its [`chain::Note`], what belongs to the plugin into `self`, what it needs to know besides is in its
//! [`chain::Context`]: the cluster, the time, counters, the block's other plugins.
//!
//! One that answers TXT questions with the client's address, and adds a record to everybody else's answers:
//!
//! ```
//! use sealane_dns::chain::{Context, Flow, Note, Plugin, Query, Reply, Row, Setup, Up, args};
//! use sealane_dns::corefile::{CorefileError, Directive};
//! use sealane_dns::message::{Data, Message, Record, rtype};
//!
//! #[derive(Debug)]
//! struct Mirror {
//!     ttl: u32,
//! }
//!
//! /// `mirror [TTL]`
//! fn setup(setup: &mut Setup<'_>, line: &Directive) -> Result<(), CorefileError> {
//!     args::no_options(line)?;
//!     let ttl = line.args.first().map_or(Ok(5), |token| args::number(token, "number of seconds"))?;
//!     args::no_more("mirror", line.args.get(1..).unwrap_or(&[]))?;
//!     setup.add(Mirror { ttl });
//!     Ok(())
//! }
//!
//! impl Mirror {
//!     fn record(&self, query: &Query) -> Record {
//!         let text = query.client.ip().to_string().into_bytes().into();
//!         Record::new(query.question().name.clone(), self.ttl, Data::Txt(vec![text]))
//!     }
//! }
//!
//! impl Plugin for Mirror {
//!     fn down(&mut self, query: &mut Query, _: &mut Note, _: &mut Context<'_>) -> Flow {
//!         if query.question().rtype != rtype::TXT {
//!             return Flow::Next;
//!         }
//!         Flow::Reply(Reply { answers: vec![self.record(query)], ..Reply::default() }.into())
//!     }
//!
//!     fn up(&mut self, query: &mut Query, _: &mut Note, reply: &mut Message, _: &mut Context<'_>) -> Up {
//!         reply.additional.push(self.record(query));
//!         Up::Pass
//!     }
//! }
//!
//! // A table of two: what is before the other in it is before the other in the chain.
//! use sealane_dns::{Config, Effect, Event, Now, Server, Transport, decode, encode, order};
//! let hosts = order::ROWS.iter().find(|row| row.name == "hosts").unwrap();
//! let rows = [
//!     Row { name: "mirror", setup: Some(setup), many: false },
//!     Row { name: hosts.name, setup: hosts.setup, many: hosts.many },
//! ];
//! let corefile = ". {\n  hosts /dev/null {\n    192.0.2.7 a.example\n  }\n  mirror 9\n}";
//! let config = Config::parse_with(&rows, "Corefile", corefile, &Default::default(), 53).unwrap();
//! let mut server = Server::new(config, vec![], Now::default());
//! let mut ask = |name: &str, rtype| {
//!     let bytes = encode(&Message::query(1, name.parse().unwrap(), rtype), 512);
//!     let client = "192.0.2.1:4242".parse().unwrap();
//!     let event = Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: &bytes };
//!     let effects = server.step(event, Now::default());
//!     let [Effect::Reply(bytes)] = effects.as_slice() else { panic!() };
//!     decode(bytes).unwrap()
//! };
//! assert_eq!(ask("b.example", rtype::TXT).answers[0].to_string(), "b.example. 9 IN TXT \"192.0.2.1\"");
//! let reply = ask("a.example", rtype::A);
//! assert_eq!(reply.answers[0].to_string(), "a.example. 3600 IN A 192.0.2.7");
//! assert_eq!(reply.additional[0].to_string(), "a.example. 9 IN TXT \"192.0.2.1\"");
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod chain;
pub mod config;
pub mod corefile;
pub mod expression;
pub mod fairness;
pub mod gotemplate;
pub mod message;
pub mod metrics;
pub mod name;
pub mod order;
pub mod plugins;
pub mod prepared;
pub mod relay;
pub mod server;
pub mod tsig;
pub mod zone;

pub use chain::{Now, Transport, Via};
pub use config::Config;
pub use message::{Message, decode, encode};
pub use name::Name;
pub use server::{Effect, Event, MOST_WAITING, Pending, Relay, Server};
