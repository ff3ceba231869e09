//! A Service's address families (`initIPFamilyFields` in `pkg/registry/core/service/storage/alloc.go`).

use serde_json::{Value, json};

use crate::document::{empty, items, map, text};
use crate::field::{FieldError, FieldErrors, Path};
use crate::validation::{address, service};

const V4: &str = "IPv4";
const V6: &str = "IPv6";

/// Settles `ipFamilies` and `ipFamilyPolicy` before addresses are allocated, `cluster` being the
/// families of the cluster's service ranges, the default first. What it refuses is all that the
/// client gets to read: allocation comes before the rest of validation.
pub fn settle(service: &mut Value, cluster: &[&str]) -> FieldErrors {
    if text(&service["spec"]["type"]) == "ExternalName" {
        return Vec::new();
    }
    let mut errors = service::cluster_ips(service);
    if !errors.is_empty() {
        return errors;
    }
    let path = Path::root("spec");
    let spec = map(service, "spec");
    let policy = text(&spec["ipFamilyPolicy"]).to_owned();
    let mut families: Vec<String> = items(&spec["ipFamilies"]).iter().map(|f| text(f).to_owned()).collect();
    for ip in items(&spec["clusterIPs"]).iter().skip(families.len()) {
        if let Some(ip) = address::parse(text(ip)) {
            families.push(if ip.is_ipv6() { V6 } else { V4 }.to_owned());
        }
    }
    let default = cluster.first().copied().unwrap_or(V4);
    let other = |family: &str| if family == V4 { V6 } else { V4 };
    // Nobody allocates for a headless Service without a selector: it may have both families anywhere.
    if text(&spec["clusterIP"]) == "None" && empty(&spec["selector"]) {
        if families.is_empty() {
            families.push(default.to_owned());
        }
        if families.len() == 1 && policy != "SingleStack" {
            families.push(other(&families[0]).to_owned());
        }
        spec["ipFamilies"] = json!(families);
        if policy.is_empty() {
            spec["ipFamilyPolicy"] = json!("RequireDualStack");
        }
        return errors;
    }
    if matches!(&*policy, "" | "SingleStack") && families.len() > 1 {
        let detail =
            "must be 'PreferDualStack' or 'RequireDualStack' when multiple IP families are specified";
        let at = path.child("ipFamilyPolicy");
        errors.push(if policy.is_empty() {
            FieldError::required(&at, detail)
        } else {
            FieldError::invalid(&at, &json!(policy), detail)
        });
    }
    if policy == "RequireDualStack" && cluster.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), &json!(policy), detail));
    }
    for (i, family) in families.iter().enumerate() {
        if !cluster.contains(&&**family) {
            let at = path.child("ipFamilies").index(i);
            errors.push(FieldError::invalid(&at, &json!(family), "not configured on this cluster"));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    if families.is_empty() {
        families.push(default.to_owned());
    }
    let dual = !matches!(&*policy, "" | "SingleStack");
    if dual && families.len() == 1 && cluster.len() > 1 {
        families.push(other(&families[0]).to_owned());
    }
    spec["ipFamilies"] = json!(families);
    if policy.is_empty() {
        spec["ipFamilyPolicy"] = json!("SingleStack");
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(spec: Value, cluster: &[&str]) -> (Value, FieldErrors) {
        let mut service = json!({"spec": spec});
        let errors = settle(&mut service, cluster);
        (service["spec"].clone(), errors)
    }

    #[test]
    fn families_follow_addresses_policy_and_cluster() {
        let both: &[&str] = &[V4, V6];
        let table = [
            (json!({}), &[V4][..], json!([V4]), "SingleStack"),
            (json!({}), &[V6][..], json!([V6]), "SingleStack"),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), &[V4][..], json!([V4]), "PreferDualStack"),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), both, json!([V4, V6]), "PreferDualStack"),
            (json!({"ipFamilies": [V6]}), both, json!([V6]), "SingleStack"),
            (
                json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": [V6]}),
                both,
                json!([V6, V4]),
                "RequireDualStack",
            ),
            (json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}), both, json!([V6]), "SingleStack"),
            (
                json!({"clusterIP": "None", "clusterIPs": ["None"]}),
                &[V4][..],
                json!([V4, V6]),
                "RequireDualStack",
            ),
            (
                json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}}),
                &[V4][..],
                json!([V4]),
                "SingleStack",
            ),
        ];
        for (spec, cluster, families, policy) in table {
            let (made, errors) = settled(spec.clone(), cluster);
            assert_eq!((errors, &made["ipFamilies"]), (Vec::new(), &families), "{spec}");
            assert_eq!(made["ipFamilyPolicy"], policy, "{spec}");
        }
    }

    #[test]
    fn two_families_need_a_policy() {
        let (_, errors) = settled(json!({"ipFamilies": [V4, V6]}), &[V4, V6]);
        assert_eq!(errors.len(), 1);
        let (_, errors) = settled(json!({"clusterIP": "x", "clusterIPs": ["x"]}), &[V4]);
        assert_eq!(errors[0].field, "spec.clusterIPs[0]");
        assert!(settled(json!({"type": "ExternalName"}), &[V4]).0["ipFamilies"].is_null());
    }
}
