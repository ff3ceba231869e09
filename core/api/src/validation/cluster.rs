//! Namespaces and Nodes.

use serde_json::Value;

use super::{each, meta};
use crate::document::{items, text};
use crate::field::{FieldError, FieldErrors, Path};
use crate::kinds::Scope;
use crate::names;
use crate::quantity;

/// Namespace.
pub fn namespace(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = meta::object(new, old, Scope::Cluster, names::dns1123_label);
    for (i, finalizer) in items(&new["spec"]["finalizers"]).iter().enumerate() {
        let path = Path::root("spec").child("finalizers").index(i);
        each(&mut errors, &path, finalizer, &names::qualified_name(text(finalizer)));
        meta::standard_finalizer(&mut errors, &path, finalizer);
    }
    errors
}

/// Node.
pub fn node(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = meta::object(new, old, Scope::Cluster, names::dns1123_subdomain);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    taints(&mut errors, &path.child("taints"), &spec["taints"]);
    for (i, range) in items(&spec["podCIDRs"]).iter().enumerate() {
        super::address::cidr(&mut errors, &path.child("podCIDRs").index(i), range);
    }
    for list in ["capacity", "allocatable"] {
        for (name, amount) in crate::document::entries(&new["status"][list]) {
            if quantity::read(amount).is_some_and(quantity::Quantity::is_negative) {
                let path = Path::root("status").child(list).key(name);
                errors.push(FieldError::invalid(&path, amount, super::NOT_NEGATIVE));
            }
        }
    }
    if let Some(old) = old {
        let before = &old["spec"];
        if !items(&before["podCIDRs"]).is_empty() && before["podCIDRs"] != spec["podCIDRs"] {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(FieldError::forbidden(&path.child("podCIDRs"), detail));
        }
        if !text(&before["providerID"]).is_empty() && before["providerID"] != spec["providerID"] {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.push(FieldError::forbidden(&path.child("providerID"), detail));
        }
    }
    errors
}

/// ServiceCIDR (`ValidateServiceCIDR` in `pkg/apis/networking/validation`).
pub fn service_cidr(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = meta::object(new, old, Scope::Cluster, names::dns1123_subdomain);
    let (cidrs, path) = (&new["spec"]["cidrs"], Path::root("spec").child("cidrs"));
    let list = items(cidrs);
    if let Some(old) = old {
        super::immutable(&mut errors, &path, cidrs, &old["spec"]["cidrs"]);
        return errors;
    }
    if list.is_empty() {
        errors.push(FieldError::required(&path, "at least one CIDR required"));
        return errors;
    }
    if list.len() > 2 {
        errors.push(FieldError::invalid(&path, cidrs, "may only hold up to 2 values"));
        return errors;
    }
    for (i, range) in list.iter().enumerate() {
        super::address::cidr(&mut errors, &path.index(i), range);
    }
    if list.len() == 2 && text(&list[0]).contains(':') == text(&list[1]).contains(':') {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(&path, cidrs, detail));
    }
    errors
}

fn taints(errors: &mut FieldErrors, path: &Path, taints: &Value) {
    const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let taints = items(taints);
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        each(errors, &path.child("key"), &taint["key"], &names::qualified_name(text(&taint["key"])));
        if !text(&taint["value"]).is_empty() {
            each(errors, &path.child("value"), &taint["value"], &names::label_value(text(&taint["value"])));
        }
        super::one_of(errors, &path.child("effect"), &taint["effect"], EFFECTS);
        if taints[..i].iter().any(|t| t["key"] == taint["key"] && t["effect"] == taint["effect"]) {
            let mut error = FieldError::duplicate(&path, taint);
            error.message.push_str(": taints must be unique by key and effect pair");
            errors.push(error);
        }
    }
}
