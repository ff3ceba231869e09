//! [`ApiServer`]: made over a store, and its ends.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::{Extension, Router};
use http::{HeaderValue, Request, header};
use sealane_api::kinds::by_kind;
use sealane_registry::rbac::{Rules, User};
use sealane_registry::{Allocations, services};
use sealane_store::{Revision, Store, StoreError};
use tokio::sync::watch;

use crate::backend::hold;
use crate::cache::Cache;
use crate::dispatch;
use crate::issuer::TokenIssuer;
use crate::metrics::Metrics;
use crate::nodes::NodeBackend;
use crate::shared::{Config, Shared};

/// The API server. Cloning is cheap.
#[derive(Clone)]
pub struct ApiServer(pub(crate) Arc<Shared>);

impl ApiServer {
    /// Reads the store and follows it; to be called inside a tokio runtime.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn new<S: Store>(
        config: Config,
        store: Arc<S>,
        nodes: Arc<dyn NodeBackend>,
        tokens: Arc<dyn TokenIssuer>,
    ) -> Result<Self, StoreError> {
        let (values, revision) = store.list("/")?;
        let cache = Arc::new(Cache::new(&values, revision));
        drop(values);
        let mut changes = store.watch(revision)?;
        let mut allocations = Allocations::new(config.ranges);
        if let Some(kind) = by_kind("v1", "Service") {
            for entry in cache.list(kind, "").entries {
                services::claims(entry.object.value()).iter().for_each(|c| allocations.restore(c));
            }
        }
        let follower = Arc::clone(&cache);
        tokio::spawn(async move {
            while let Some(batch) = changes.recv().await {
                follower.apply(&batch);
            }
        });
        Ok(ApiServer(Arc::new(Shared {
            config,
            backend: hold(store),
            cache,
            nodes,
            tokens,
            metrics: Metrics::default(),
            stop: watch::Sender::new(false),
            claims: Mutex::new(allocations),
            rules: ArcSwap::from_pointee((Revision::MAX, Rules::default())),
        })))
    }

    /// The API as a service; a request without a [`Connection`](crate::Connection) or a [`User`] among its extensions is anonymous
    /// unless it has a token.
    pub fn router(&self) -> Router {
        let shared = Arc::clone(&self.0);
        Router::new().fallback(move |request: Request<Body>| {
            let shared = Arc::clone(&shared);
            async move { dispatch::answer(shared, request).await }
        })
    }

    /// The API for callers in this process, who are `user` whatever they send
    /// (`kube::Client::new(server.router_as(user), "default")`).
    pub fn router_as(&self, user: User) -> Router {
        let agent = agent(&user.name).and_then(|a| HeaderValue::from_str(a).ok());
        let named = tower::util::MapRequestLayer::new(move |mut request: Request<Body>| {
            if let Some(agent) = &agent {
                request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| agent.clone());
            }
            request
        });
        self.router().layer(Extension(user)).layer(named)
    }

    /// The cache that reads are served from.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.0.cache
    }

    /// Ends all watches and, where [`ApiServer::serve`] runs, all connections when their requests are answered.
    pub fn shut_down(&self) {
        self.0.stop.send_replace(true);
    }
}

/// What a program of Kubernetes's own calls itself in its requests, and in the managedFields that come of them.
fn agent(user: &str) -> Option<&str> {
    match user.strip_prefix("system:")? {
        node if node.starts_with("node:") => Some("kubelet"),
        program => program.starts_with("kube-").then_some(program),
    }
}
