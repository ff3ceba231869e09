//! The Kubernetes API's kinds as documents.
//!
//! What it is for: everything that can be said about an object without knowing the cluster: its
//! [`kinds::Kind`], defaults, validation, selectors, patches, codecs (JSON, YAML, protobuf) and the
//! columns of its table. A kind is a row of [`kinds::KINDS`]; adding one adds a row.
//!
//! What it may not know: stores, sockets, clocks, other objects.
//!
//! ```
//! use sealane_api::Object;
//! let pod = Object::new(serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-0"}}));
//! assert_eq!(pod.name(), "web-0");
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod columns;
pub mod decode;
pub mod defaults;
pub mod discovery;
pub mod document;
pub mod field;
pub mod kinds;
pub mod managed;
pub mod names;
pub mod object;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod scale;
pub mod schema;
pub mod selector;
pub mod status;
pub mod time;
pub mod validation;
pub mod yaml;

pub use kinds::{Kind, Scope};
pub use object::Object;
pub use status::Status;

/// A JSON document: what an object is before and after it is an [`Object`].
pub type Document = serde_json::Value;
