//! What a server makes before it is ready: namespaces, RBAC, the `kubernetes` Service and where it leads.

use futures::future::join_all;
use sealane_api::document::text;
use sealane_api::kinds::by_kind;
use sealane_api::managed::Writer;
use sealane_api::{Status, time};
use sealane_registry::{Part, bootstrap, replace};
use serde_json::Value;

use crate::server::ApiServer;
use crate::shared::now;
use crate::writing::{insert, modify};

/// Who owns the fields of the first objects.
const MANAGER: &str = "kube-apiserver";

/// Why the first objects could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the cluster's first objects could not be made: {what}: {status}")]
pub struct BootstrapError {
    /// Which object.
    what: String,
    /// Why.
    #[source]
    status: Status,
}

impl ApiServer {
    /// Makes what a cluster begins with, as far as it is not there, and points the `kubernetes` Service at this
    /// server.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn bootstrap(&self) -> Result<(), BootstrapError> {
        let config = &self.0.config;
        // Each stage is one group of commits: waiting for the disk once is enough.
        self.ensure_all(bootstrap::NAMESPACES.iter().map(|n| bootstrap::namespace(n)).collect(), false)
            .await?;
        let mut rest = bootstrap::rbac();
        rest.push(bootstrap::service_cidr(&config.ranges.texts()));
        rest.push(bootstrap::kubernetes_service(config.ranges.address(1), config.advertise.port()));
        self.ensure_all(rest, false).await?;
        // Without a node the API may be on the loopback alone, which nobody reaches by way of a Service, and which
        // endpoints must not name (pkg/apis/core/validation: ValidateNonSpecialIP).
        if config.advertise.ip().is_loopback() {
            return Ok(());
        }
        self.ensure_all(bootstrap::kubernetes_endpoints(config.advertise).to_vec(), true).await
    }

    async fn ensure_all(&self, bodies: Vec<Value>, renew: bool) -> Result<(), BootstrapError> {
        join_all(bodies.into_iter().map(|body| self.ensure(body, renew))).await.into_iter().collect()
    }

    async fn ensure(&self, body: Value, renew: bool) -> Result<(), BootstrapError> {
        let Some(kind) = by_kind(text(&body["apiVersion"]), text(&body["kind"])) else { return Ok(()) };
        let namespace = text(&body["metadata"]["namespace"]).to_owned();
        let name = text(&body["metadata"]["name"]).to_owned();
        let result = if self.0.cache.get(kind, &namespace, &name).is_none() {
            insert(&self.0, kind, body, &namespace, MANAGER, false).await.map(|_| ())
        } else if renew {
            let now = time::format(now());
            let by = Writer { manager: MANAGER, subresource: "", now: &now };
            let renewed = modify(&self.0, kind, (&namespace, &name), false, |old| {
                replace(kind, Part::Whole, body.clone(), old, Some(&by))
            });
            renewed.await.map(|_| ())
        } else {
            Ok(())
        };
        match result {
            // Another server was quicker.
            Err(status) if status.reason == "AlreadyExists" => Ok(()),
            other => other.map_err(|status| BootstrapError { what: format!("{} {name}", kind.kind), status }),
        }
    }
}
