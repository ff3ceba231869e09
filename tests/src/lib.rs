//! Black-box tests: the built binary, real clients, real sockets. The tests themselves are in `tests/`; this
//! crate holds what they share.
//!
//! What it may not know: Sealane's own crates. It sees what a user sees.
//!
//! ```
//! let rows = sealane_tests::table("NAME    AGE\nweb-0   12m\n");
//! assert_eq!(rows[1], ["web-0", "12m"]);
//! ```
// A test that meets what it did not expect ends there, with what it saw.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod command;
mod http;
mod image;
mod machine;
mod ports;
mod programs;
mod registry;
mod stream;
mod text;
mod up;

pub use command::{Done, eventually, eventually_within, kubectl, run, sealane, sealane_ebpf};
pub use http::{Page, request};
pub use image::{Image, archive};
pub use machine::Machine;
pub use ports::free_port;
pub use programs::{busybox, demo, nginx};
pub use registry::Registry;
pub use stream::Stream;
pub use text::{field, section, table};
pub use up::{Family, Start, Up};
