//! What a new cluster begins with: namespaces, the RBAC objects that the system's own users need
//! (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`), the `kubernetes` Service.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::{Value, json};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Namespaces that every cluster has.
pub const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// The Namespace of that name.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// API groups, resources, verbs.
type Rule = (&'static [&'static str], &'static [&'static str], &'static [&'static str]);

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const CORE: &[&str] =
    &["configmaps", "endpoints", "events", "pods", "pods/log", "pods/status", "services", "serviceaccounts"];
const APPS: &[&str] = &[
    "controllerrevisions",
    "deployments",
    "deployments/scale",
    "deployments/status",
    "replicasets",
    "replicasets/scale",
    "replicasets/status",
    "statefulsets",
    "statefulsets/scale",
    "statefulsets/status",
];

const VIEW: &[Rule] = &[
    (&[""], CORE, READ),
    (&[""], &["namespaces"], READ),
    (&["apps"], APPS, READ),
    (&["discovery.k8s.io"], &["endpointslices"], READ),
];
const EDIT: &[Rule] = &[
    (&[""], CORE, WRITE),
    (&[""], &["secrets"], READ),
    (&[""], &["secrets"], WRITE),
    (
        &[""],
        &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "pods/eviction"],
        &["create", "get"],
    ),
    (&[""], &["serviceaccounts/token"], &["create"]),
    (&["apps"], APPS, WRITE),
];
const ADMIN: &[Rule] =
    &[(&[RBAC], &["roles", "rolebindings"], READ), (&[RBAC], &["roles", "rolebindings"], WRITE)];
const NODE: &[Rule] = &[
    (&[""], &["nodes", "nodes/status"], &["create", "get", "list", "watch", "patch", "update"]),
    (&[""], &["pods"], &["create", "delete", "get", "list", "watch"]),
    (&[""], &["pods/status"], &["patch", "update"]),
    (&[""], &["configmaps", "secrets", "services", "namespaces"], READ),
    (&[""], &["serviceaccounts/token"], &["create"]),
    (&[""], &["serviceaccounts"], &["get"]),
    (&[""], &["events"], &["create", "patch", "update"]),
    (&["coordination.k8s.io"], &["leases"], &["create", "delete", "get", "patch", "update"]),
    (&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
    (&["authorization.k8s.io"], &["localsubjectaccessreviews", "subjectaccessreviews"], &["create"]),
];
const DNS: &[Rule] = &[
    (&[""], &["endpoints", "services", "pods", "namespaces"], &["list", "watch"]),
    (&["discovery.k8s.io"], &["endpointslices"], &["list", "watch"]),
];
const BASIC: &[Rule] = &[
    (&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
    (&["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"], &["create"]),
];
const DELEGATOR: &[Rule] = &[
    (&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
    (&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
];

/// ClusterRole, its rules, its paths.
type Role = (&'static str, &'static [&'static [Rule]], &'static [&'static str]);

const ROLES: &[Role] = &[
    ("cluster-admin", &[&[(&["*"], &["*"], &["*"])]], &["*"]),
    ("admin", &[VIEW, EDIT, ADMIN], &[]),
    ("edit", &[VIEW, EDIT], &[]),
    ("view", &[VIEW], &[]),
    (
        "system:discovery",
        &[],
        &[
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/healthz",
            "/livez",
            "/openapi",
            "/openapi/*",
            "/readyz",
            "/version",
            "/version/",
        ],
    ),
    ("system:public-info-viewer", &[], &["/healthz", "/livez", "/readyz", "/version", "/version/"]),
    ("system:basic-user", &[BASIC], &[]),
    ("system:node", &[NODE], &[]),
    ("system:coredns", &[DNS], &[]),
    ("system:auth-delegator", &[DELEGATOR], &[]),
    (
        "system:monitoring",
        &[],
        &["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/readyz", "/readyz/*"],
    ),
];

/// ClusterRoleBinding and role of one name each, and the subject.
const BINDINGS: &[(&str, &str, (&str, &str))] = &[
    ("cluster-admin", "cluster-admin", ("Group", "system:masters")),
    ("system:basic-user", "system:basic-user", ("Group", "system:authenticated")),
    ("system:discovery", "system:discovery", ("Group", "system:authenticated")),
    ("system:public-info-viewer", "system:public-info-viewer", ("Group", "system:authenticated")),
    ("system:public-info-viewer-anonymous", "system:public-info-viewer", ("Group", "system:unauthenticated")),
    ("system:monitoring", "system:monitoring", ("Group", "system:monitoring")),
    ("system:node", "system:node", ("Group", "system:nodes")),
];

/// The ClusterRoles and their bindings.
pub fn rbac() -> Vec<Value> {
    let meta = |name: &str| {
        json!({"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}})
    };
    let roles = ROLES.iter().map(|(name, groups, paths)| {
        let mut rules: Vec<Value> = groups
            .iter()
            .flat_map(|g| g.iter())
            .map(|(groups, resources, verbs)| json!({"apiGroups": groups, "resources": resources, "verbs": verbs}))
            .collect();
        if !paths.is_empty() {
            let verbs = if paths == &["*"] { "*" } else { "get" };
            rules.push(json!({"nonResourceURLs": paths, "verbs": [verbs]}));
        }
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": meta(name), "rules": rules})
    });
    let bindings = BINDINGS.iter().map(|(name, role, (kind, subject))| {
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "metadata": meta(name),
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": RBAC, "kind": kind, "name": subject}]})
    });
    roles.chain(bindings).collect()
}

/// The ServiceCIDR of the cluster's own ranges, by which service proxies know them.
pub fn service_cidr(ranges: &[String]) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ranges}})
}

/// The `kubernetes` Service at its address; `port` is where the API listens.
pub fn kubernetes_service(address: Ipv4Addr, port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": address.to_string(), "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "type": "ClusterIP", "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}})
}

/// Its Endpoints and slice: where Pods reach the API.
pub fn kubernetes_endpoints(at: SocketAddrV4) -> [Value; 2] {
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": at.ip().to_string()}], "ports": [{"name": "https", "port": at.port(), "protocol": "TCP"}]}]});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [at.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": at.port(), "protocol": "TCP"}]});
    [endpoints, slice]
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_api::Object;
    use sealane_api::kinds::by_kind;

    #[test]
    fn everything_that_a_cluster_begins_with_is_valid() {
        let ns = Object::new(namespace("default"));
        let context = crate::Context { namespace: Some(&ns), ..crate::Context::default() };
        let mut all: Vec<Value> = NAMESPACES.iter().map(|n| namespace(n)).collect();
        all.extend(rbac());
        all.push(service_cidr(&["10.96.0.0/12".to_owned(), "fd00:10:96::/108".to_owned()]));
        all.push(kubernetes_service(Ipv4Addr::new(10, 96, 0, 1), 6443));
        all.extend(kubernetes_endpoints("10.244.0.1:6443".parse().unwrap()));
        for body in all {
            let kind = by_kind(body["apiVersion"].as_str().unwrap(), body["kind"].as_str().unwrap()).unwrap();
            let namespace = body["metadata"]["namespace"].as_str().unwrap_or("").to_owned();
            crate::create(kind, body, &namespace, &context).unwrap();
        }
    }
}
