//! The table of kinds: everything generic about a kind is a row of [`KINDS`].

use serde_json::Value;

use crate::field::FieldErrors;

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In none.
    Cluster,
}

/// A subresource that the generic REST verbs know: a view of the object, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `status`: only `status` changes.
    Status,
    /// `scale`: `autoscaling/v1 Scale` over `spec.replicas`.
    Scale,
    /// `binding` of a Pod.
    Binding,
    /// `eviction` of a Pod.
    Eviction,
    /// `token` of a ServiceAccount (TokenRequest).
    Token,
    /// `finalize` of a Namespace.
    Finalize,
    /// `log` of a Pod: streamed by the node.
    Log,
    /// `exec` of a Pod.
    Exec,
    /// `attach` of a Pod.
    Attach,
    /// `portforward` of a Pod.
    PortForward,
    /// `proxy` of a Pod, Service or Node.
    Proxy,
    /// `ephemeralcontainers` of a Pod.
    EphemeralContainers,
}

impl Subresource {
    /// The path segment.
    pub fn as_str(self) -> &'static str {
        match self {
            Subresource::Status => "status",
            Subresource::Scale => "scale",
            Subresource::Binding => "binding",
            Subresource::Eviction => "eviction",
            Subresource::Token => "token",
            Subresource::Finalize => "finalize",
            Subresource::Log => "log",
            Subresource::Exec => "exec",
            Subresource::Attach => "attach",
            Subresource::PortForward => "portforward",
            Subresource::Proxy => "proxy",
            Subresource::EphemeralContainers => "ephemeralcontainers",
        }
    }
}

/// A row: what the API, the registry and kubectl need to know of a kind.
pub struct Kind {
    /// API group, "" for core.
    pub group: &'static str,
    /// API version, e.g. `v1`.
    pub version: &'static str,
    /// `Deployment`.
    pub kind: &'static str,
    /// `deployments`.
    pub plural: &'static str,
    /// `deployment`.
    pub singular: &'static str,
    /// kubectl's short names.
    pub short_names: &'static [&'static str],
    /// `all`, where kubectl's `get all` shows it.
    pub categories: &'static [&'static str],
    /// Where it lives.
    pub scope: Scope,
    /// What stands behind its name in a path.
    pub subresources: &'static [Subresource],
    /// Its key in `schemas.json`.
    pub schema: &'static str,
    /// Fills in what a client left out (upstream `zz_generated.defaults.go`).
    pub default: fn(&mut Value),
    /// Refuses what must not be stored; `old` is set on updates (upstream `pkg/apis/*/validation`).
    pub validate: fn(new: &Value, old: Option<&Value>) -> FieldErrors,
    /// kubectl's columns (upstream `pkg/printers/internalversion`); empty: name and age.
    pub columns: &'static [Column],
    /// `metadata.generation` counts changes of `spec`.
    pub counts_generation: bool,
}

/// A column of a kind's table.
pub struct Column {
    /// Heading, e.g. `Cluster-IP`.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `date`.
    pub kind: &'static str,
    /// OpenAPI format, `name` for the first column.
    pub format: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: u8,
    /// The description that the table's definition carries.
    pub description: &'static str,
    /// The cell; `now` is seconds since 1970.
    pub cell: fn(object: &Value, now: i64) -> Value,
}

impl Kind {
    /// `pods`, `deployments.apps`: how messages name a resource.
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether its objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The store's key of one object: `/GROUP/PLURAL/[NAMESPACE/]NAME`, the group of core being `core`.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let mut key = self.prefix(namespace);
        key.push_str(name);
        key
    }

    /// The store's prefix of all objects, or of those of one namespace where `namespace` is not empty.
    pub fn prefix(&self, namespace: &str) -> String {
        let group = if self.group.is_empty() { "core" } else { self.group };
        if namespace.is_empty() || !self.namespaced() {
            format!("/{group}/{}/", self.plural)
        } else {
            format!("/{group}/{}/{namespace}/", self.plural)
        }
    }
}

/// The row of a resource by its path segments.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.plural == plural && k.group == group && k.version == version)
}

/// The row of an object by its `apiVersion` and `kind`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    KINDS.iter().find(|k| k.kind == kind && k.group == group && k.version == version)
}

fn no_default(_: &mut Value) {}
fn no_validation(_: &Value, _: Option<&Value>) -> FieldErrors {
    Vec::new()
}

use Scope::{Cluster, Namespaced};
use Subresource::{
    Attach, Binding, EphemeralContainers, Eviction, Exec, Finalize, Log, PortForward, Proxy, Scale, Status,
    Token,
};

/// Shorthand for rows.
const fn row(
    gvk: (&'static str, &'static str, &'static str),
    names: (&'static str, &'static str),
    short_names: &'static [&'static str],
    scope: Scope,
    subresources: &'static [Subresource],
    schema: &'static str,
) -> Kind {
    Kind {
        group: gvk.0,
        version: gvk.1,
        kind: gvk.2,
        plural: names.0,
        singular: names.1,
        short_names,
        categories: &[],
        scope,
        subresources,
        schema,
        default: no_default,
        validate: no_validation,
        columns: &[],
        counts_generation: false,
    }
}

/// Every kind that Sealane serves.
pub static KINDS: &[Kind] = &[
    row(
        ("", "v1", "Namespace"),
        ("namespaces", "namespace"),
        &["ns"],
        Cluster,
        &[Status, Finalize],
        "io.k8s.api.core.v1.Namespace",
    ),
    row(("", "v1", "Node"), ("nodes", "node"), &["no"], Cluster, &[Status, Proxy], "io.k8s.api.core.v1.Node"),
    Kind {
        categories: &["all"],
        counts_generation: true,
        ..row(
            ("", "v1", "Pod"),
            ("pods", "pod"),
            &["po"],
            Namespaced,
            &[Attach, Binding, EphemeralContainers, Eviction, Exec, Log, PortForward, Proxy, Status],
            "io.k8s.api.core.v1.Pod",
        )
    },
    Kind {
        categories: &["all"],
        ..row(
            ("", "v1", "Service"),
            ("services", "service"),
            &["svc"],
            Namespaced,
            &[Proxy, Status],
            "io.k8s.api.core.v1.Service",
        )
    },
    row(
        ("", "v1", "Endpoints"),
        ("endpoints", "endpoints"),
        &["ep"],
        Namespaced,
        &[],
        "io.k8s.api.core.v1.Endpoints",
    ),
    row(
        ("discovery.k8s.io", "v1", "EndpointSlice"),
        ("endpointslices", "endpointslice"),
        &[],
        Namespaced,
        &[],
        "io.k8s.api.discovery.v1.EndpointSlice",
    ),
    row(
        ("", "v1", "ConfigMap"),
        ("configmaps", "configmap"),
        &["cm"],
        Namespaced,
        &[],
        "io.k8s.api.core.v1.ConfigMap",
    ),
    row(("", "v1", "Secret"), ("secrets", "secret"), &[], Namespaced, &[], "io.k8s.api.core.v1.Secret"),
    row(
        ("", "v1", "ServiceAccount"),
        ("serviceaccounts", "serviceaccount"),
        &["sa"],
        Namespaced,
        &[Token],
        "io.k8s.api.core.v1.ServiceAccount",
    ),
    row(("", "v1", "Event"), ("events", "event"), &["ev"], Namespaced, &[], "io.k8s.api.core.v1.Event"),
    row(
        ("events.k8s.io", "v1", "Event"),
        ("events", "event"),
        &["ev"],
        Namespaced,
        &[],
        "io.k8s.api.events.v1.Event",
    ),
    row(
        ("coordination.k8s.io", "v1", "Lease"),
        ("leases", "lease"),
        &[],
        Namespaced,
        &[],
        "io.k8s.api.coordination.v1.Lease",
    ),
    Kind {
        categories: &["all"],
        counts_generation: true,
        ..row(
            ("apps", "v1", "Deployment"),
            ("deployments", "deployment"),
            &["deploy"],
            Namespaced,
            &[Scale, Status],
            "io.k8s.api.apps.v1.Deployment",
        )
    },
    Kind {
        categories: &["all"],
        counts_generation: true,
        ..row(
            ("apps", "v1", "ReplicaSet"),
            ("replicasets", "replicaset"),
            &["rs"],
            Namespaced,
            &[Scale, Status],
            "io.k8s.api.apps.v1.ReplicaSet",
        )
    },
    Kind {
        categories: &["all"],
        counts_generation: true,
        ..row(
            ("apps", "v1", "StatefulSet"),
            ("statefulsets", "statefulset"),
            &["sts"],
            Namespaced,
            &[Scale, Status],
            "io.k8s.api.apps.v1.StatefulSet",
        )
    },
    row(
        ("apps", "v1", "ControllerRevision"),
        ("controllerrevisions", "controllerrevision"),
        &[],
        Namespaced,
        &[],
        "io.k8s.api.apps.v1.ControllerRevision",
    ),
    row(
        ("rbac.authorization.k8s.io", "v1", "Role"),
        ("roles", "role"),
        &[],
        Namespaced,
        &[],
        "io.k8s.api.rbac.v1.Role",
    ),
    row(
        ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
        ("rolebindings", "rolebinding"),
        &[],
        Namespaced,
        &[],
        "io.k8s.api.rbac.v1.RoleBinding",
    ),
    row(
        ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
        ("clusterroles", "clusterrole"),
        &[],
        Cluster,
        &[],
        "io.k8s.api.rbac.v1.ClusterRole",
    ),
    row(
        ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding"),
        ("clusterrolebindings", "clusterrolebinding"),
        &[],
        Cluster,
        &[],
        "io.k8s.api.rbac.v1.ClusterRoleBinding",
    ),
];
