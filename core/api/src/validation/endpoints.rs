//! Endpoints and EndpointSlices (`pkg/apis/core/validation`, `pkg/apis/discovery/validation`).

use serde_json::{Value, json};

use super::{PROTOCOLS, address, each, immutable, meta, one_of, port_number};
use crate::document::{int, items, text};
use crate::field::{FieldError, FieldErrors, Path};
use crate::kinds::Scope;
use crate::names;

/// Endpoints a slice may hold.
pub const MAX_ENDPOINTS: usize = 1000;
/// Addresses an endpoint may have.
pub const MAX_ADDRESSES: usize = 100;
/// Ports a slice may hold.
pub const MAX_PORTS: usize = 20_000;

/// Endpoints; on update, subsets that did not change are not looked at again.
pub fn endpoints(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = meta::object(new, old, Scope::Namespaced, names::dns1123_subdomain);
    if old.is_some_and(|old| old["subsets"] == new["subsets"]) {
        return errors;
    }
    for (i, subset) in items(&new["subsets"]).iter().enumerate() {
        let path = Path::root("subsets").index(i);
        if items(&subset["addresses"]).is_empty() && items(&subset["notReadyAddresses"]).is_empty() {
            errors.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (j, endpoint) in items(&subset[list]).iter().enumerate() {
                endpoint_address(&mut errors, &path.child(list).index(j), endpoint);
            }
        }
        let ports = items(&subset["ports"]);
        for (j, port) in ports.iter().enumerate() {
            endpoint_port(&mut errors, &path.child("ports").index(j), port, ports.len() > 1);
        }
    }
    errors
}

fn endpoint_address(errors: &mut FieldErrors, path: &Path, endpoint: &Value) {
    let ip = json!(text(&endpoint["ip"]));
    address::ip(errors, &path.child("ip"), &ip);
    let hostname = &endpoint["hostname"];
    if !text(hostname).is_empty() {
        each(errors, &path.child("hostname"), hostname, &names::dns1123_label(text(hostname)));
    }
    node_name(errors, path, endpoint);
    address::not_special(errors, &path.child("ip"), &ip);
}

fn node_name(errors: &mut FieldErrors, path: &Path, endpoint: &Value) {
    let node = &endpoint["nodeName"];
    if !node.is_null() {
        each(errors, &path.child("nodeName"), node, &names::dns1123_subdomain(text(node)));
    }
}

fn endpoint_port(errors: &mut FieldErrors, path: &Path, port: &Value, several: bool) {
    let name = &port["name"];
    if text(name).is_empty() {
        if several {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
    } else {
        each(errors, &path.child("name"), name, &names::dns1123_label(text(name)));
    }
    port_number(errors, &path.child("port"), &json!(int(&port["port"])));
    one_of(errors, &path.child("protocol"), &port["protocol"], PROTOCOLS);
    app_protocol(errors, path, port);
}

fn app_protocol(errors: &mut FieldErrors, path: &Path, port: &Value) {
    let protocol = &port["appProtocol"];
    if !protocol.is_null() {
        each(errors, &path.child("appProtocol"), protocol, &names::qualified_name(text(protocol)));
    }
}

/// EndpointSlice; on update, endpoints that did not change are not looked at again.
pub fn endpoint_slice(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(old) = old {
        errors.extend(meta::update(new, old));
        immutable(&mut errors, &Path::root("addressType"), &new["addressType"], &old["addressType"]);
    }
    errors.extend(meta::create(new, Scope::Namespaced, names::dns1123_subdomain));
    one_of(&mut errors, &Path::root("addressType"), &new["addressType"], &["FQDN", "IPv4", "IPv6"]);
    if old.is_none_or(|old| old["endpoints"] != new["endpoints"]) {
        slice_endpoints(&mut errors, &new["endpoints"], text(&new["addressType"]));
    }
    if old.is_none_or(|old| old["ports"] != new["ports"]) {
        slice_ports(&mut errors, &new["ports"]);
    }
    errors
}

fn slice_endpoints(errors: &mut FieldErrors, endpoints: &Value, address_type: &str) {
    let (endpoints, path) = (items(endpoints), Path::root("endpoints"));
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(FieldError::too_many(&path, endpoints.len(), MAX_ENDPOINTS));
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(i);
        let (addresses, at) = (items(&endpoint["addresses"]), path.child("addresses"));
        if addresses.is_empty() {
            errors.push(FieldError::required(&at, "must contain at least 1 address"));
        } else if addresses.len() > MAX_ADDRESSES {
            errors.push(FieldError::too_many(&at, addresses.len(), MAX_ADDRESSES));
        }
        for (j, address) in addresses.iter().enumerate() {
            slice_address(errors, &at, j, address, address_type);
        }
        node_name(errors, &path, endpoint);
        for (key, value) in crate::document::entries(&endpoint["deprecatedTopology"]) {
            let at = path.child("deprecatedTopology");
            each(errors, &at, &json!(key), &names::qualified_name(key));
            each(errors, &at, value, &names::label_value(text(value)));
        }
        let hostname = &endpoint["hostname"];
        if !hostname.is_null() {
            each(errors, &path.child("hostname"), hostname, &names::dns1123_label(text(hostname)));
        }
        for (list, key) in [("forZones", "name"), ("forNodes", "name")] {
            let hints = items(&endpoint["hints"][list]);
            let at = path.child("hints").child(list);
            if hints.len() > 8 {
                errors.push(FieldError::too_many(&at, hints.len(), 8));
            }
            for (j, hint) in hints.iter().enumerate() {
                if hints[..j].contains(hint) {
                    errors.push(FieldError::duplicate(&at.index(j).child(key), &hint[key]));
                }
            }
        }
    }
}

fn slice_address(errors: &mut FieldErrors, path: &Path, i: usize, address: &Value, address_type: &str) {
    match address_type {
        "IPv4" | "IPv6" => {
            if !address::ip(errors, &path.index(i), address) {
                return;
            }
            let v6 = address::parse(text(address)).is_some_and(|ip| ip.is_ipv6());
            if v6 == (address_type == "IPv6") {
                address::not_special(errors, &path.index(i), address);
            } else {
                let detail = format!("must be an {address_type} address");
                errors.push(FieldError::invalid(path, address, &detail));
            }
        }
        "FQDN" => {
            let name = text(address);
            let name = name.strip_suffix('.').unwrap_or(name);
            let mut wrong = names::dns1123_subdomain(name);
            if wrong.is_empty() && !name.contains('.') {
                wrong.push("should be a domain with at least two segments separated by dots".to_owned());
            }
            each(errors, &path.index(i), address, &wrong);
        }
        _ => {}
    }
}

fn slice_ports(errors: &mut FieldErrors, ports: &Value) {
    let (ports, path) = (items(ports), Path::root("ports"));
    if ports.len() > MAX_PORTS {
        errors.push(FieldError::too_many(&path, ports.len(), MAX_PORTS));
        return;
    }
    let mut known = std::collections::BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let (name, path) = (text(&port["name"]), path.index(i));
        if !name.is_empty() {
            each(errors, &path.child("name"), &port["name"], &names::dns1123_label(name));
        }
        if !known.insert(name) {
            errors.push(FieldError::duplicate(&path.child("name"), &port["name"]));
        }
        one_of(errors, &path.child("protocol"), &port["protocol"], PROTOCOLS);
        app_protocol(errors, &path, port);
    }
}
