//! Services, Endpoints and EndpointSlices.

use serde_json::{Value, json};

use super::{AGE, NAME, column, labels, or_none, says};
use crate::document::{int, items, text};
use crate::kinds::Column;

/// Service.
pub const SERVICE: &[Column] = &[
    NAME,
    column("Type", "string", 0, says::SERVICE_TYPE, |o, _| json!(text(&o["spec"]["type"]))),
    column("Cluster-IP", "string", 0, says::SERVICE_CLUSTER_IP, |o, _| {
        let first = text(&o["spec"]["clusterIPs"][0]);
        let ip = if first.is_empty() { text(&o["spec"]["clusterIP"]) } else { first };
        json!(or_none(ip.to_owned()))
    }),
    column("External-IP", "string", 0, says::SERVICE_EXTERNAL_IP, |o, _| json!(external_ip(o))),
    column("Port(s)", "string", 0, says::SERVICE_PORTS, |o, _| json!(ports(&o["spec"]["ports"]))),
    AGE,
    column("Selector", "string", 1, says::SERVICE_SELECTOR, |o, _| json!(labels(&o["spec"]["selector"]))),
];

/// Endpoints.
pub const ENDPOINTS: &[Column] =
    &[NAME, column("Endpoints", "string", 0, says::ENDPOINTS, |o, _| json!(endpoints(&o["subsets"]))), AGE];

/// EndpointSlice.
pub const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column("AddressType", "string", 0, says::SLICE_ADDRESS_TYPE, |o, _| o["addressType"].clone()),
    column("Ports", "string", 0, says::SLICE_PORTS, |o, _| json!(slice_ports(&o["ports"]))),
    column("Endpoints", "string", 0, says::SLICE_ENDPOINTS, |o, _| json!(slice_endpoints(&o["endpoints"]))),
    AGE,
];

/// ServiceCIDR.
pub const SERVICE_CIDR: &[Column] = &[
    NAME,
    column("CIDRs", "string", 0, says::SERVICE_CIDRS, |o, _| {
        let ranges: Vec<&str> = items(&o["spec"]["cidrs"]).iter().map(text).collect();
        json!(ranges.join(","))
    }),
    AGE,
];

/// `getServiceExternalIP`.
fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let mut addresses: Vec<&str> = items(&spec["externalIPs"]).iter().map(text).collect();
    match text(&spec["type"]) {
        "ClusterIP" | "NodePort" => or_none(addresses.join(",")),
        "ExternalName" => text(&spec["externalName"]).to_owned(),
        "LoadBalancer" => {
            let given: Vec<&str> = items(&service["status"]["loadBalancer"]["ingress"])
                .iter()
                .map(|i| if text(&i["ip"]).is_empty() { text(&i["hostname"]) } else { text(&i["ip"]) })
                .filter(|a| !a.is_empty())
                .collect();
            // The balancer's addresses in order, then the asked ones.
            let mut sorted = given.clone();
            sorted.sort_unstable();
            sorted.dedup();
            if addresses.is_empty() && sorted.is_empty() {
                return "<pending>".to_owned();
            }
            sorted.append(&mut addresses);
            sorted.join(",")
        }
        _ => "<unknown>".to_owned(),
    }
}

fn ports(ports: &Value) -> String {
    let said: Vec<String> = items(ports)
        .iter()
        .map(|p| match int(&p["nodePort"]) {
            0 => format!("{}/{}", int(&p["port"]), text(&p["protocol"])),
            node => format!("{}:{node}/{}", int(&p["port"]), text(&p["protocol"])),
        })
        .collect();
    or_none(said.join(","))
}

/// `formatEndpoints`: at most three are shown.
fn endpoints(subsets: &Value) -> String {
    let all: Vec<String> = items(subsets)
        .iter()
        .flat_map(|subset| {
            let addresses = items(&subset["addresses"]).iter().map(|a| text(&a["ip"]));
            let ports = items(&subset["ports"]);
            if ports.is_empty() {
                return addresses.map(str::to_owned).collect::<Vec<_>>();
            }
            ports.iter().flat_map(|p| addresses.clone().map(move |a| host_port(a, int(&p["port"])))).collect()
        })
        .collect();
    first_three(&all, "<none>")
}

fn host_port(address: &str, port: i64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn first_three(all: &[String], none: &str) -> String {
    match all {
        [] => none.to_owned(),
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c} + {} more...", rest.len()),
        all => all.join(","),
    }
}

fn slice_ports(ports: &Value) -> String {
    let all: Vec<String> = items(ports)
        .iter()
        .map(|p| match &p["port"] {
            Value::Null => "*".to_owned(),
            port => int(port).to_string(),
        })
        .collect();
    first_three(&all, "<unset>")
}

fn slice_endpoints(endpoints: &Value) -> String {
    let all: Vec<String> = items(endpoints)
        .iter()
        .flat_map(|e| items(&e["addresses"]).iter().map(|a| text(a).to_owned()))
        .collect();
    first_three(&all, "<unset>")
}
