//! The cluster that the service proxy's figures are measured on: Services of two ports and ten endpoints, as their
//! controllers write them.

use std::net::Ipv4Addr;

use serde_json::json;

use crate::played::{LISTED, Lists};

/// Where clients are: nobody's source is replaced.
pub(super) const CLIENTS: &str = "10.1.0.0/24";
/// The Node that the proxy is for.
pub(crate) const NODE: &str = "node-1";
/// Endpoints of one Service.
pub(crate) const ENDPOINTS: usize = 10;
/// The Services' ports and the endpoints': name, port, target.
pub(crate) const PORTS: [(&str, u16, u16); 2] = [("http", 80, 8080), ("metrics", 9153, 9153)];
/// Nodes that endpoints are on.
const NODES: usize = 100;

/// The range that all endpoints lie in.
pub(crate) const PODS: &str = "10.128.0.0/9";

/// A Service's address.
pub(crate) fn cluster_ip(at: usize) -> Ipv4Addr {
    address([10, 97, 0, 0], at)
}

/// An endpoint's address.
pub(crate) fn endpoint(at: usize, number: usize) -> Ipv4Addr {
    address([10, 128, 0, 0], at * ENDPOINTS + number)
}

/// An address of RFC 2544's range: of the endpoint that a change brings. After 2^17 they come again.
pub(crate) fn fresh(count: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be_bytes([198, 18, 0, 0]) + u32::try_from(count % FRESH).unwrap_or_default())
}

/// So many addresses has [`fresh`].
pub(crate) const FRESH: usize = 1 << 17;

/// Which of [`fresh`]'s addresses these four octets are.
pub(crate) fn is_fresh(octets: [u8; 4]) -> Option<usize> {
    let number = u32::from_be_bytes(octets).wrapping_sub(u32::from_be_bytes([198, 18, 0, 0]));
    usize::try_from(number).ok().filter(|number| *number < FRESH)
}

fn address(first: [u8; 4], number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be_bytes(first) + u32::try_from(number + 1).unwrap_or(u32::MAX))
}

fn namespace(at: usize) -> String {
    format!("team-{}", at % 100)
}

/// An identifier as the API gives them.
fn uid(kind: u32, number: usize) -> String {
    format!("{kind:08x}-5ea1-4a9e-8001-{number:012x}")
}

fn service(at: usize) -> String {
    let ip = cluster_ip(at).to_string();
    let ports: Vec<_> = PORTS
        .iter()
        .map(|(name, port, target)| json!({ "name": name, "port": port, "protocol": "TCP", "targetPort": target }))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": format!("service-{at}"), "namespace": namespace(at), "uid": uid(1, at),
            "resourceVersion": (at + 1).to_string(), "creationTimestamp": "2026-11-21T10:00:00Z",
            "labels": { "app": format!("service-{at}") },
        },
        "spec": {
            "clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP", "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "selector": { "app": format!("service-{at}") }, "ports": ports,
        },
        "status": { "loadBalancer": {} },
    })
    .to_string()
}

/// A slice as it was listed, its first endpoint another one. Text alone: thousands are due in a second.
pub(crate) fn changed(listed: &str, at: usize, first: Ipv4Addr, revision: u64) -> String {
    let address = |ip: Ipv4Addr| format!("[\"{ip}\"]");
    let version = |revision: u64| format!("\"resourceVersion\":\"{revision}\"");
    listed.replacen(&address(endpoint(at, 0)), &address(first), 1).replacen(
        &version(FIRST),
        &version(revision),
        1,
    )
}

/// The slices' resourceVersion.
const FIRST: u64 = LISTED - 1;

/// A Service's endpoints.
fn slice(at: usize) -> String {
    let name = format!("service-{at}");
    let endpoints: Vec<_> = (0..ENDPOINTS)
        .map(|number| {
            json!({
                "addresses": [endpoint(at, number).to_string()],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": format!("node-{}", (at + number) % NODES),
                "targetRef": {
                    "kind": "Pod", "namespace": namespace(at), "name": format!("{name}-{number:05x}"),
                    "uid": uid(2, at * ENDPOINTS + number),
                },
            })
        })
        .collect();
    let ports: Vec<_> = PORTS
        .iter()
        .map(|(name, _, target)| json!({ "name": name, "port": target, "protocol": "TCP" }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-{at:05x}"), "generateName": format!("{name}-"), "namespace": namespace(at),
            "uid": uid(3, at), "resourceVersion": FIRST.to_string(),
            "labels": {
                "app": name, "kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": name, "uid": uid(1, at), "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    })
    .to_string()
}

fn node(address: Ipv4Addr) -> String {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": NODE, "uid": uid(4, 1), "resourceVersion": "1" },
        "spec": { "podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"] },
        "status": { "addresses": [{ "type": "InternalIP", "address": address.to_string() }] },
    })
    .to_string()
}

/// So many Services, their endpoints, and the Node, which has this address.
pub(crate) fn lists(services: usize, own: Ipv4Addr) -> Lists {
    Lists::from([
        ("services", (0..services).map(service).collect()),
        ("endpointslices", (0..services).map(slice).collect()),
        ("nodes", vec![node(own)]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_change_brings_is_told_from_what_is_there() {
        for count in [0, 1, 70_000, FRESH - 1, FRESH] {
            assert_eq!(is_fresh(fresh(count).octets()), Some(count % FRESH));
        }
        assert_eq!(is_fresh(endpoint(49_999, 9).octets()), None);
        assert_eq!(is_fresh([198, 20, 0, 0]), None);
        let text = changed(&slice(7), 7, fresh(3), 8);
        assert!(text.contains("\"198.18.0.3\"") && !text.contains("\"10.128.0.71\""), "{text}");
        assert!(text.contains("\"resourceVersion\":\"8\""), "{text}");
    }
}
