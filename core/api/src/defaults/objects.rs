//! ConfigMaps, Secrets, ServiceAccounts, Events and Leases.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::document::{entries, map, omit_empty, preset_zero, remove, text};

/// ConfigMap: nothing but what Go leaves out.
pub fn config_map(object: &mut Value) {
    omit_empty(object, &["data", "binaryData"]);
}

/// Secret: `type`, and `stringData` goes into `data` (`Convert_v1_Secret_To_core_Secret`).
pub fn secret(object: &mut Value) {
    let plain: Vec<(String, String)> =
        entries(&object["stringData"]).map(|(k, v)| (k.to_owned(), STANDARD.encode(text(v)))).collect();
    remove(object, "stringData");
    if !plain.is_empty() {
        let data = map(object, "data");
        for (key, value) in plain {
            data[key] = json!(value);
        }
    }
    preset_zero(object, "type", "Opaque");
    omit_empty(object, &["data"]);
}

/// ServiceAccount: nothing but what Go leaves out.
pub fn service_account(object: &mut Value) {
    omit_empty(object, &["secrets", "imagePullSecrets"]);
}

/// Event: fields that Go writes even where they are empty.
pub fn event(object: &mut Value) {
    map(object, "involvedObject");
    map(object, "source");
    for key in ["firstTimestamp", "lastTimestamp", "eventTime"] {
        if object[key].is_null() {
            object[key] = Value::Null;
        }
    }
    for key in ["reportingComponent", "reportingInstance"] {
        preset_zero(object, key, "");
    }
    omit_empty(object, &["reason", "message", "count", "type", "action", "related", "series"]);
}

/// `events.k8s.io/v1` Event.
pub fn events_event(object: &mut Value) {
    map(object, "regarding");
    if object["eventTime"].is_null() {
        object["eventTime"] = Value::Null;
    }
    omit_empty(object, &["note", "type", "reason", "action", "reportingController", "reportingInstance"]);
}

/// Lease: nothing but what Go leaves out.
pub fn lease(object: &mut Value) {
    map(object, "spec");
}
