//! What the API promises: a request and what is stored become a document and a [`Txn`], or a Status.
//!
//! What it is for: everything between "the body is read" and "the store compares and swaps": metadata, defaults,
//! admission, validation, allocation, deletion, and who may do what ([`rbac`]).
//!
//! What it may not know: the store, the network, the clock. Time, uids and random numbers are in the [`Context`].
//!
//! ```
//! use sealane_api::kinds::by_kind;
//! use sealane_registry::{Context, create};
//! use serde_json::json;
//!
//! let kind = by_kind("v1", "Namespace").unwrap();
//! let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
//! let made = create(kind, body, "", &Context { now: 1_700_000_000, ..Context::default() }).unwrap();
//! assert_eq!(made["metadata"]["creationTimestamp"], "2023-11-14T22:13:20Z");
//! assert_eq!(made["status"]["phase"], "Active");
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod allocate;
pub mod bootstrap;
mod delete;
pub mod escalation;
mod metadata;
pub mod pods;
pub mod rbac;
pub mod services;
pub mod txn;
mod write;

pub use allocate::{Allocations, Claim, Ranges};
pub use delete::{DeleteOptions, Deletion, delete};
pub use metadata::{check_preconditions, uuid};
pub use txn::{Expect, Txn, Write};
pub use write::{Part, create, finalized, replace, stored};

use sealane_api::{Object, Status};

/// What a write may know beyond the request and the object that it changes.
#[derive(Clone, Copy, Default)]
pub struct Context<'a> {
    /// Seconds since 1970.
    pub now: i64,
    /// Random bytes that become the uid of a created object.
    pub uid: [u8; 16],
    /// Random bytes of a generated name's suffix.
    pub suffix: [u8; 5],
    /// The Namespace that the request names, where it exists.
    pub namespace: Option<&'a Object>,
    /// A created Pod's ServiceAccount, where it exists.
    pub service_account: Option<&'a Object>,
    /// Who writes, for `metadata.managedFields`; "" where nobody is to own what is written.
    pub manager: &'a str,
    /// Families of the cluster's Services, the default first; none: IPv4.
    pub families: &'a [&'a str],
    /// The Node that a Pod is created on or bound to, where it exists.
    pub node: Option<&'a Object>,
}

/// A request's answer: what to do, or why not.
pub type Result<T> = std::result::Result<T, Status>;
