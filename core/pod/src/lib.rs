//! A Pod's life as decisions: what to start, stop or wait for next, what its status says, and what goes into its
//! containers' environment and files.
//!
//! What it is for: the node's agent carries out what this crate plans. Everything that can be decided without a
//! process or a clock is decided here.
//!
//! What it may not know: the API, the host, clocks, files. Time is an argument; so are the objects that a
//! Pod refers to.
//!
//! ```
//! use sealane_pod::expand::expand;
//! let greeting = expand("hello $(NAME), $$(NAME), $(NOBODY)", |name| (name == "NAME").then(|| "web-0".into()));
//! assert_eq!(greeting, "hello web-0, $(NAME), $(NOBODY)");
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod backoff;
pub mod downward;
pub mod ending;
pub mod environment;
pub mod expand;
pub mod files;
pub mod identity;
pub mod image;
pub mod logline;
pub mod plan;
pub mod probe;
pub mod projection;
pub mod quantity;
pub mod record;
pub mod request;
pub mod status;

pub use record::{Ended, Record, Role, State};
