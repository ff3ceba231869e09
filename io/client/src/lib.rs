//! The API's clients inside Sealane: lists and watches into the controllers' index and the catalog, and planned writes
//! carried out.
//!
//! What it is for: [`run_controllers`], [`watch_catalog`] and [`watch_imports`]. All live on a [`kube::Client`], in process or over the
//! wire alike, and decide nothing: `sealane_controllers` plans, `sealane_catalog` compiles.
//!
//! What it may not know: stores, registries, what a controller wants.
//!
//! ```
//! use std::sync::Arc;
//! use sealane_catalog::{Snapshot, Source};
//! use sealane_client::{CatalogOptions, ControllersConfig, run_controllers, watch_catalog};
//!
//! /// Runs until `stop` is set; DNS and proxy read Snapshots from the other end of `publish`.
//! async fn wire(
//!     client: kube::Client,
//!     publish: tokio::sync::watch::Sender<Arc<Snapshot>>,
//!     stop: tokio::sync::watch::Receiver<bool>,
//! ) {
//!     let stopped = |mut stop: tokio::sync::watch::Receiver<bool>| async move {
//!         let _ = stop.wait_for(|stop| *stop).await;
//!     };
//!     let sources = [Source::Services, Source::EndpointSlices, Source::Namespaces, Source::Nodes];
//!     let controllers = run_controllers(client.clone(), ControllersConfig::default(), stopped(stop.clone()));
//!     let catalog = watch_catalog(client, &sources, CatalogOptions::default(), publish, stopped(stop));
//!     tokio::join!(controllers, catalog);
//! }
//! ```
#![forbid(unsafe_code)]

mod catalog;
mod controllers;
mod execute;
mod feed;
mod imports;
mod queue;
mod service_cidrs;
mod warm;

pub use catalog::{CatalogOptions, watch_catalog};
pub use controllers::{ControllersConfig, run_controllers};
pub use imports::watch_imports;
pub use sealane_controllers::{Pool, Pools};
pub use service_cidrs::watch_service_cidrs;
pub use warm::WarmStart;
