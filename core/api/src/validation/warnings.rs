//! `Warning` headers for objects that are stored all the same.

use serde_json::Value;

use crate::document::{items, text};

/// Service: external addresses, and what its type leaves unused (`GetWarningsForService`).
pub fn service(new: &Value, _: Option<&Value>) -> Vec<String> {
    let spec = &new["spec"];
    let external_ips = !items(&spec["externalIPs"]).is_empty();
    let headless = text(&spec["clusterIP"]) == "None";
    let external_name = text(&spec["type"]) == "ExternalName";
    let table = [
        (external_ips, "spec.externalIPs is deprecated and may no longer be implemented in some clusters"),
        (external_name && external_ips, "spec.externalIPs is ignored when spec.type is \"ExternalName\""),
        (
            !external_name && !text(&spec["externalName"]).is_empty(),
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
        ),
        (headless && external_ips, "spec.externalIPs is ignored for headless services"),
        (
            headless && text(&spec["sessionAffinity"]) == "ClientIP",
            "spec.SessionAffinity is ignored for headless services",
        ),
    ];
    table.iter().filter(|(so, _)| *so).map(|(_, said)| (*said).to_owned()).collect()
}

/// EndpointSlice: names in the place of addresses.
pub fn endpoint_slice(new: &Value, _: Option<&Value>) -> Vec<String> {
    let names = text(&new["addressType"]) == "FQDN";
    names.then(|| "spec.addressType: FQDN endpoints are deprecated".to_owned()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_ignored_is_said() {
        let spec = json!({"spec": {"clusterIP": "None", "sessionAffinity": "ClientIP", "externalName": "a"}});
        assert_eq!(service(&spec, None).len(), 2);
        assert!(service(&json!({"spec": {"type": "ExternalName", "externalName": "a"}}), None).is_empty());
        assert_eq!(endpoint_slice(&json!({"addressType": "FQDN"}), None).len(), 1);
    }
}
