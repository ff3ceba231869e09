//! A request whose sender is known: what each verb is handed.

use std::sync::Arc;

use axum::body::Body;
use http::request::Parts;
use http::{Request, header};
use sealane_api::Status;
use sealane_api::columns::Include;
use sealane_registry::rbac::User;

use crate::negotiate::{self, Format};
use crate::request::{Query, ResourcePath};
use crate::shared::Shared;

/// A request whose sender is known.
pub(crate) struct Call {
    pub shared: Arc<Shared>,
    pub user: User,
    pub path: ResourcePath,
    pub query: Query,
    pub verb: &'static str,
    pub parts: Parts,
}

impl Call {
    /// The form of the answer.
    pub fn format(&self, views: bool) -> Result<Format, Status> {
        let include = Include::parse(self.query.get("includeObject")).unwrap_or_default();
        negotiate::accepted(&self.parts.headers, views, include)
    }

    /// Who owns what is written: `fieldManager`, or the `User-Agent` up to its first slash.
    pub fn manager(&self) -> &str {
        let named = self.query.get("fieldManager");
        if !named.is_empty() {
            return named;
        }
        let agent = self.parts.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let name = agent.split('/').next().unwrap_or("");
        // A name of a manager ends at 128 bytes.
        let name = name.get(..128).unwrap_or(name);
        if name.is_empty() { "unknown" } else { name }
    }

    /// The namespace, "" for none or all.
    pub fn namespace(&self) -> &str {
        &self.path.namespace
    }
}

/// Whether a request asks for an upgrade of its connection.
pub(crate) fn upgrades(request: &Request<Body>) -> bool {
    request.headers().contains_key(header::UPGRADE)
}
