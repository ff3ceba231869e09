//! Endpoints and EndpointSlices.

use serde_json::{Value, json};

use super::preset_each;
use crate::document::{empty, items, items_mut, map, omit_empty, preset};

/// Endpoints: ports are TCP (`SetDefaults_Endpoints`).
pub fn endpoints(object: &mut Value) {
    for subset in items_mut(object, "subsets") {
        preset_each(subset, "ports", "protocol", "TCP");
        for port in items_mut(subset, "ports") {
            omit_empty(port, &["name"]);
        }
        for list in ["addresses", "notReadyAddresses"] {
            for address in items_mut(subset, list) {
                omit_empty(address, &["hostname"]);
            }
        }
        omit_empty(subset, &["addresses", "notReadyAddresses", "ports"]);
    }
    omit_empty(object, &["subsets"]);
}

/// EndpointSlice: ports have a name and a protocol; `endpoints` and `ports` are written even where
/// there are none, as null (Go has no `omitempty` on them).
pub fn endpoint_slice(object: &mut Value) {
    for port in items_mut(object, "ports") {
        preset(port, "name", "");
        preset(port, "protocol", "TCP");
    }
    for endpoint in items_mut(object, "endpoints") {
        map(endpoint, "conditions");
        omit_empty(endpoint, &["deprecatedTopology"]);
    }
    for list in ["endpoints", "ports"] {
        if items(&object[list]).is_empty() {
            object[list] = Value::Null;
        }
    }
    if empty(&object["addressType"]) {
        object["addressType"] = json!("");
    }
}
