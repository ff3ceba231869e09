//! `Warning` headers for objects that are stored all the same.

use serde_json::Value;

use crate::document::{items, text};

/// Service: external addresses.
pub fn service(new: &Value, _: Option<&Value>) -> Vec<String> {
    let mut said = Vec::new();
    if !items(&new["spec"]["externalIPs"]).is_empty() {
        said.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    said
}

/// EndpointSlice: names in the place of addresses.
pub fn endpoint_slice(new: &Value, _: Option<&Value>) -> Vec<String> {
    let names = text(&new["addressType"]) == "FQDN";
    names.then(|| "spec.addressType: FQDN endpoints are deprecated".to_owned()).into_iter().collect()
}
