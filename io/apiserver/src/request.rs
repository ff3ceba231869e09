//! What a request is about, from its method, path and query (`apiserver/pkg/endpoints/request/requestinfo.go`).

use std::collections::HashMap;

use http::Method;
use sealane_api::kinds::{self, Subresource, VIRTUAL, Virtual};
use sealane_api::{Kind, Scope};

/// The query: every value of every key, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(HashMap<String, Vec<String>>);

impl Query {
    /// Parses `a=b&c=d`.
    pub fn parse(text: &str) -> Self {
        let mut all: HashMap<String, Vec<String>> = HashMap::new();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            all.entry(key.into_owned()).or_default().push(value.into_owned());
        }
        Query(all)
    }

    /// A key's first value, "" where there is none.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).and_then(|v| v.first()).map_or("", String::as_str)
    }

    /// All values of a key.
    pub fn all(&self, key: &str) -> Vec<&str> {
        self.0.get(key).into_iter().flatten().map(String::as_str).collect()
    }

    /// Whether the key is there at all.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// A boolean as upstream reads it: everything but `false` and `0` counts as true; `None` where it is missing.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.has(key).then(|| !matches!(self.get(key).to_ascii_lowercase().as_str(), "false" | "0"))
    }
}

/// What stands in the path of a resource request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// API group, "" for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, "" for none or all.
    pub namespace: String,
    /// Resource, e.g. `pods`.
    pub resource: String,
    /// Name, "" for a collection.
    pub name: String,
    /// Subresource, "" for none.
    pub subresource: String,
    /// What follows the subresource (`proxy/…`).
    pub rest: String,
    /// The old `watch/` prefix stood there.
    pub watch: bool,
}

/// The resource that a path names; `None` for the paths of discovery, health and the like.
pub fn resource_path(path: &str) -> Option<ResourcePath> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, mut rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let mut out = ResourcePath { group: group.into(), version: version.into(), ..ResourcePath::default() };
    if let ["watch", more @ ..] = rest
        && !more.is_empty()
    {
        out.watch = true;
        rest = more;
    }
    // `namespaces/NAME[/status]` is the Namespace itself; anything longer is in it.
    if let ["namespaces", namespace, resource, more @ ..] = rest
        && !matches!(*resource, "status" | "finalize")
    {
        out.namespace = decoded(namespace);
        out.resource = (*resource).into();
        fill(&mut out, more);
        return Some(out);
    }
    let (resource, more) = rest.split_first()?;
    if resource.is_empty() {
        return None;
    }
    out.resource = (*resource).into();
    fill(&mut out, more);
    Some(out)
}

fn fill(out: &mut ResourcePath, parts: &[&str]) {
    if let Some(name) = parts.first() {
        out.name = decoded(name);
    }
    if let Some(subresource) = parts.get(1) {
        out.subresource = (*subresource).into();
    }
    if parts.len() > 2 {
        out.rest = parts[2..].join("/");
    }
}

fn decoded(segment: &str) -> String {
    percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

/// What a resource path leads to.
#[derive(Clone, Copy)]
pub enum Target {
    /// A kind that is stored.
    Stored(&'static Kind, Option<Subresource>),
    /// A kind that is answered.
    Answered(&'static Virtual),
}

impl ResourcePath {
    /// The row that it names; `None` where nothing is served there.
    pub fn target(&self) -> Option<Target> {
        if let Some(kind) = kinds::by_resource(&self.group, &self.version, &self.resource) {
            if !kind.namespaced() && !self.namespace.is_empty() {
                return None;
            }
            let subresource = match self.subresource.as_str() {
                "" => None,
                segment => Some(Subresource::of(kind, segment)?),
            };
            // Only a collection may be read over all namespaces.
            if kind.namespaced() && self.namespace.is_empty() && !self.name.is_empty() {
                return None;
            }
            if !self.rest.is_empty() && subresource != Some(Subresource::Proxy) {
                return None;
            }
            return Some(Target::Stored(kind, subresource));
        }
        let answered = VIRTUAL
            .iter()
            .find(|v| v.plural == self.resource && v.group == self.group && v.version == self.version)?;
        let fits = (answered.scope == Scope::Namespaced) != self.namespace.is_empty();
        (fits && self.name.is_empty()).then_some(Target::Answered(answered))
    }

    /// The verb of RBAC.
    pub fn verb(&self, method: &Method, query: &Query) -> &'static str {
        let collection = self.name.is_empty();
        match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if collection => "deletecollection",
            Method::DELETE => "delete",
            _ if self.watch || query.flag("watch") == Some(true) => "watch",
            _ if collection => "list",
            _ => "get",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        let table = [
            ("/api/v1/pods", ("", "", "pods", "", "")),
            ("/api/v1/namespaces/x/pods/p/log", ("", "x", "pods", "p", "log")),
            ("/api/v1/namespaces/x", ("", "", "namespaces", "x", "")),
            ("/api/v1/namespaces/x/finalize", ("", "", "namespaces", "x", "finalize")),
            ("/apis/apps/v1/namespaces/x/deployments/d/scale", ("apps", "x", "deployments", "d", "scale")),
            ("/api/v1/nodes/n%3A1", ("", "", "nodes", "n:1", "")),
        ];
        for (path, (group, namespace, resource, name, subresource)) in table {
            let found = resource_path(path).unwrap();
            let said = (
                found.group.as_str(),
                found.namespace.as_str(),
                found.resource.as_str(),
                found.name.as_str(),
                found.subresource.as_str(),
            );
            assert_eq!(said, (group, namespace, resource, name, subresource), "{path}");
            assert!(found.target().is_some(), "{path}");
        }
        for path in ["/api/v1", "/apis", "/version", "/apis/apps/v1", "/api/v1/"] {
            assert_eq!(resource_path(path), None, "{path}");
        }
        for path in [
            "/api/v1/nothing",
            "/api/v1/pods/p",
            "/api/v1/namespaces/x/nodes/n",
            "/api/v1/namespaces/x/pods/p/x",
        ] {
            assert!(resource_path(path).unwrap().target().is_none(), "{path}");
        }
    }
}
