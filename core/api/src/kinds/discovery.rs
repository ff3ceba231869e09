//! What discovery tells of subresources and of the kinds that are answered, not stored.

use super::{Kind, Scope};

/// What stands behind an object's name in a path: a view of the object or of a part of it, or a connection.
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

/// The group, version and kind of what a resource answers with; group and version are "" where they
/// are the resource's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseKind {
    /// API group, "" for the resource's own.
    pub group: &'static str,
    /// API version, "" for the resource's own.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
}

const READ_WRITE: &[&str] = &["get", "patch", "update"];

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

    /// The subresource of a kind by its path segment.
    pub fn of(kind: &Kind, segment: &str) -> Option<Self> {
        kind.subresources.iter().copied().find(|s| s.as_str() == segment)
    }

    /// What discovery says can be done with it, in discovery's order.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Subresource::Status | Subresource::Scale | Subresource::EphemeralContainers => READ_WRITE,
            Subresource::Binding | Subresource::Eviction | Subresource::Token => &["create"],
            Subresource::Finalize => &["update"],
            Subresource::Log => &["get"],
            Subresource::Exec | Subresource::Attach | Subresource::PortForward => &["create", "get"],
            Subresource::Proxy => &["create", "delete", "get", "patch", "update"],
        }
    }

    /// What it answers with.
    pub fn response_kind(self, of: &Kind) -> ResponseKind {
        let own = |kind| ResponseKind { group: "", version: "", kind };
        match self {
            Subresource::Status
            | Subresource::Finalize
            | Subresource::Log
            | Subresource::EphemeralContainers => own(of.kind),
            Subresource::Binding => own("Binding"),
            Subresource::Scale => ResponseKind { group: "autoscaling", version: "v1", kind: "Scale" },
            Subresource::Eviction => ResponseKind { group: "policy", version: "v1", kind: "Eviction" },
            Subresource::Token => {
                ResponseKind { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest" }
            }
            Subresource::Exec => own("PodExecOptions"),
            Subresource::Attach => own("PodAttachOptions"),
            Subresource::PortForward => own("PodPortForwardOptions"),
            Subresource::Proxy => own(match of.kind {
                "Node" => "NodeProxyOptions",
                "Service" => "ServiceProxyOptions",
                _ => "PodProxyOptions",
            }),
        }
    }
}

/// A kind that is answered and never stored: `create` is its only verb.
pub struct Virtual {
    /// API group, "" for core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The path segment.
    pub plural: &'static str,
    /// The singular name.
    pub singular: &'static str,
    /// Where it is asked.
    pub scope: Scope,
    /// Its key in `schemas.json`.
    pub schema: &'static str,
}

const fn answered(
    gvk: (&'static str, &'static str, &'static str),
    names: (&'static str, &'static str),
    scope: Scope,
    schema: &'static str,
) -> Virtual {
    Virtual { group: gvk.0, version: gvk.1, kind: gvk.2, plural: names.0, singular: names.1, scope, schema }
}

/// The kinds that are answered and never stored.
pub static VIRTUAL: &[Virtual] = &[
    answered(("", "v1", "Binding"), ("bindings", "binding"), Scope::Namespaced, "io.k8s.api.core.v1.Binding"),
    answered(
        ("authentication.k8s.io", "v1", "SelfSubjectReview"),
        ("selfsubjectreviews", "selfsubjectreview"),
        Scope::Cluster,
        "io.k8s.api.authentication.v1.SelfSubjectReview",
    ),
    answered(
        ("authentication.k8s.io", "v1", "TokenReview"),
        ("tokenreviews", "tokenreview"),
        Scope::Cluster,
        "io.k8s.api.authentication.v1.TokenReview",
    ),
    answered(
        ("authorization.k8s.io", "v1", "LocalSubjectAccessReview"),
        ("localsubjectaccessreviews", "localsubjectaccessreview"),
        Scope::Namespaced,
        "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
    ),
    answered(
        ("authorization.k8s.io", "v1", "SelfSubjectAccessReview"),
        ("selfsubjectaccessreviews", "selfsubjectaccessreview"),
        Scope::Cluster,
        "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    ),
    answered(
        ("authorization.k8s.io", "v1", "SelfSubjectRulesReview"),
        ("selfsubjectrulesreviews", "selfsubjectrulesreview"),
        Scope::Cluster,
        "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    ),
    answered(
        ("authorization.k8s.io", "v1", "SubjectAccessReview"),
        ("subjectaccessreviews", "subjectaccessreview"),
        Scope::Cluster,
        "io.k8s.api.authorization.v1.SubjectAccessReview",
    ),
];
