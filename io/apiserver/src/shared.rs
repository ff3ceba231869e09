//! What all requests share: the configuration, the handles of what answers them, and the clock. It knows nobody who
//! asks.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use sealane_api::kinds::by_kind;
use sealane_registry::rbac::{Rules, User};
use sealane_registry::{Allocations, Ranges};
use sealane_store::Revision;
use tokio::sync::watch;

use crate::backend::Backend;
use crate::cache::Cache;
use crate::issuer::TokenIssuer;
use crate::metrics::Metrics;
use crate::nodes::NodeBackend;

/// What a server is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ranges of Services and node ports.
    pub ranges: Ranges,
    /// Where Pods reach the API: the `kubernetes` Service's endpoint, which may not be a loopback address.
    pub advertise: SocketAddrV4,
    /// `iss` of ServiceAccount tokens, and the audience that they have unless they ask for another.
    pub issuer: String,
    /// How long a watch lasts that doesn't say.
    pub watch_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            ranges: Ranges::default(),
            // The first address of the default Pod range: the node's bridge.
            advertise: SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 1), 6443),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            watch_timeout: Duration::from_secs(3600),
        }
    }
}

/// What a connection tells of its client: put into requests by who accepts it.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The client certificate's user (CN) and groups (O).
    pub certificate: Option<User>,
}

pub(crate) struct Shared {
    pub config: Config,
    pub backend: Arc<dyn Backend>,
    pub cache: Arc<Cache>,
    pub nodes: Arc<dyn NodeBackend>,
    pub tokens: Arc<dyn TokenIssuer>,
    pub metrics: Metrics,
    pub stop: watch::Sender<bool>,
    pub claims: Mutex<Allocations>,
    pub rules: ArcSwap<(Revision, Rules)>,
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// Returns when the server shuts down.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the server is gone: that is a stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Linux has had getrandom(2) since 3.17, and it blocks rather than fail.
    if getrandom::fill(&mut bytes).is_err() {
        tracing::error!("no randomness from the kernel");
    }
    bytes
}

impl Shared {
    pub fn allocations(&self) -> MutexGuard<'_, Allocations> {
        // Claims are taken and released one by one; a panic leaves none half taken.
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The RBAC rules as the cache has them now.
    pub fn with_rules<T>(&self, ask: impl FnOnce(&Rules) -> T) -> T {
        let kinds: Vec<_> = ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"]
            .iter()
            .filter_map(|kind| by_kind("rbac.authorization.k8s.io/v1", kind))
            .collect();
        let newest = kinds.iter().map(|k| self.cache.last_change(k)).max().unwrap_or(0);
        let held = self.rules.load();
        if held.0 == newest {
            return ask(&held.1);
        }
        let listings: Vec<_> = kinds.iter().map(|k| self.cache.list(k, "")).collect();
        let rules = Rules::new(listings.iter().flat_map(|l| &l.entries).map(|e| &e.object));
        let made = Arc::new((newest, rules));
        self.rules.store(Arc::clone(&made));
        ask(&made.1)
    }
}
