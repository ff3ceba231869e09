//! What discovery knows: immutable [`Snapshot`]s of Services and their endpoints, and what changed since the
//! last one. DNS, proxy and mesh read it; none of them reads the API.
//!
//! What it may not know: where events come from, and who reads. One [`Builder`] writes; a reader takes whole
//! snapshots, keeps the last one it applied, and asks the next one for [`Snapshot::since`].
//!
//! ```
//! use sealane_api::Object;
//! use sealane_catalog::{Builder, Event, NamespacedName, Source};
//! let mut builder = Builder::new(&[Source::Services]);
//! builder.apply(Event::RelistBegin(Source::Services));
//! let web = serde_json::json!({"metadata": {"namespace": "default", "name": "web", "resourceVersion": "7"},
//!     "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}});
//! builder.apply(Event::Applied(Source::Services, Object::new(web)));
//! builder.apply(Event::RelistEnd(Source::Services));
//! let (snapshot, delta) = builder.publish();
//! assert!(snapshot.synced());
//! assert_eq!(snapshot.revision(), 7);
//! assert_eq!(delta.services[0].key, NamespacedName::new("default", "web"));
//! assert_eq!(snapshot.by_cluster_ip("10.96.0.7".parse().unwrap())[0].name.as_ref(), "web");
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod builder;
mod compile;
pub mod delta;
mod history;
pub mod imports;
mod intern;
pub mod model;
pub mod read;
mod rules;
pub mod saved;
pub mod snapshot;
mod trie;

pub use builder::{Builder, Event};
pub use delta::{Change, Delta};
pub use imports::Imports;
pub use model::*;
pub use saved::{Saved, SavedError, save};
pub use snapshot::{Snapshot, Source};
