//! The HTTPS front door: the Kubernetes API over a store.
//!
//! What it is for: authentication and authorization, REST verbs over the table of kinds, watches from a cache that
//! encodes each object once, discovery, and the streams of a node's containers. A write is: read from the cache, let
//! [`sealane_registry`] decide, let the store compare and swap, wait until the cache shows it, answer.
//!
//! What it may not know: how Pods run ([`nodes::NodeBackend`] does), where objects are kept
//! ([`sealane_store::Store`] does).
//!
//! ```
//! use sealane_apiserver::{ApiServer, Config, nodes::NoNodes};
//! use sealane_registry::rbac::User;
//! use std::sync::Arc;
//! use tower::ServiceExt;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let store = Arc::new(sealane_store::MemoryStore::new());
//! let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
//! let tokens = Arc::new(sealane_pki::TokenKey::from_pem(&key).unwrap());
//! let server = ApiServer::new(Config::default(), store, Arc::new(NoNodes), tokens).unwrap();
//! server.bootstrap().await.unwrap();
//! let admin = User { name: "admin".into(), groups: vec!["system:masters".into()], ..User::default() };
//! let request = http::Request::get("/api/v1/namespaces/default").body(axum::body::Body::empty()).unwrap();
//! let answer = server.router_as(admin).oneshot(request).await.unwrap();
//! assert_eq!(answer.status(), 200);
//! # });
//! ```

mod access;
mod answer;
mod backend;
mod bootstrap;
pub mod cache;
mod call;
mod dispatch;
mod handshake;
mod issuer;
mod metrics;
pub mod negotiate;
pub mod nodes;
mod paths;
mod reading;
pub mod request;
mod reviews;
pub mod selection;
mod server;
mod shared;
pub mod streaming;
mod subresources;
mod tokens;
pub mod watching;
mod writing;

pub use bootstrap::BootstrapError;
pub use issuer::TokenIssuer;
pub use server::ApiServer;
pub use shared::{Config, Connection};
