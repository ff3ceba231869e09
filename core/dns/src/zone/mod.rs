//! Zones from master files and transfers: what the plugins file, auto, secondary, transfer and dnssec stand on.
//!
//! ```
//! use sealane_dns::zone::{Found, Zone, no_include, parse};
//! let origin = "example.org.".parse().unwrap();
//! let text = b"@ 3600 IN SOA ns hostmaster 1 1h 10m 1w 5m\n@ NS ns\nns A 192.0.2.1\n*.web CNAME ns";
//! let records = parse("db.example.org", text, &origin, &mut no_include).unwrap();
//! let zone = Zone::new(&origin, records).unwrap();
//! let Found::Answer(found) = zone.lookup(&"a.web.example.org.".parse().unwrap(), 1, false) else { panic!() };
//! assert_eq!(found.answer[1].to_string(), "ns.example.org. 3600 IN A 192.0.2.1");
//! ```

pub mod catalog;
pub mod dnssec;
mod error;
mod generate;
mod lexer;
mod lookup;
mod master;
pub mod secondary;
mod serial;
pub mod transfer;
mod tree;

pub use error::{Cause, MasterError};
pub use lookup::{Answer, Chase, Chased, Found, Outcome};
pub use master::{Include, no_include, parse};
pub use serial::is_newer;
pub use tree::{Zone, ZoneError};
