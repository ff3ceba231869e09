//! Volumes (`ValidateVolumes`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::each;
use crate::document::{entries, items, text};
use crate::field::{FieldError, FieldErrors, Path};
use crate::names;
use crate::quantity;

/// Checks a Pod's volumes, and returns the names that mounts may use.
pub fn volumes<'a>(errors: &mut FieldErrors, volumes: &'a Value, path: &Path) -> BTreeSet<&'a str> {
    let mut known = BTreeSet::new();
    for (i, volume) in items(volumes).iter().enumerate() {
        let (name, path) = (text(&volume["name"]), path.index(i));
        source(errors, volume, &path);
        if name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
            continue;
        }
        let wrong = names::dns1123_label(name);
        each(errors, &path.child("name"), &volume["name"], &wrong);
        if known.contains(name) {
            errors.push(FieldError::duplicate(&path.child("name"), &volume["name"]));
        } else if wrong.is_empty() {
            known.insert(name);
        }
    }
    known
}

fn source(errors: &mut FieldErrors, volume: &Value, path: &Path) {
    let mut sources = entries(volume).filter(|(key, v)| *key != "name" && !v.is_null());
    let Some((kind, said)) = sources.next() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    for (other, _) in sources {
        errors.push(FieldError::forbidden(&path.child(other), "may not specify more than 1 volume type"));
    }
    let path = path.child(kind);
    let needed = match kind {
        "hostPath" => "path",
        "secret" => "secretName",
        "configMap" => "name",
        "persistentVolumeClaim" => "claimName",
        _ => "",
    };
    if !needed.is_empty() && text(&said[needed]).is_empty() {
        errors.push(FieldError::required(&path.child(needed), ""));
    }
    match kind {
        "hostPath" if text(&said["path"]).split('/').any(|part| part == "..") => {
            errors.push(FieldError::invalid(&path.child("path"), &said["path"], "must not contain '..'"));
        }
        "emptyDir" if quantity::read(&said["sizeLimit"]).is_some_and(quantity::Quantity::is_negative) => {
            let detail = "SizeLimit field must be a valid resource quantity";
            errors.push(FieldError::forbidden(&path.child("sizeLimit"), detail));
        }
        "secret" | "configMap" | "downwardAPI" => {
            mode(errors, said, "defaultMode", &path);
            key_paths(errors, &said["items"], kind != "downwardAPI", &path.child("items"));
        }
        "projected" => {
            mode(errors, said, "defaultMode", &path);
            for (i, part) in items(&said["sources"]).iter().enumerate() {
                let path = path.child("sources").index(i);
                for (kind, part) in entries(part) {
                    let keyed = matches!(kind, "secret" | "configMap");
                    if keyed && text(&part["name"]).is_empty() {
                        errors.push(FieldError::required(&path.child(kind).child("name"), ""));
                    }
                    if keyed || kind == "downwardAPI" {
                        key_paths(errors, &part["items"], keyed, &path.child(kind).child("items"));
                    }
                    if kind == "serviceAccountToken" {
                        token(errors, part, &path.child(kind));
                    }
                }
            }
        }
        _ => {}
    }
}

fn mode(errors: &mut FieldErrors, owner: &Value, key: &str, path: &Path) {
    let mode = &owner[key];
    if mode.as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(&path.child(key), mode, detail));
    }
}

fn key_paths(errors: &mut FieldErrors, list: &Value, keyed: bool, path: &Path) {
    for (i, item) in items(list).iter().enumerate() {
        let path = path.index(i);
        if keyed && text(&item["key"]).is_empty() {
            errors.push(FieldError::required(&path.child("key"), ""));
        }
        if text(&item["path"]).is_empty() {
            errors.push(FieldError::required(&path.child("path"), ""));
        }
        descending(errors, &item["path"], &path.child("path"));
        mode(errors, item, "mode", &path);
    }
}

fn token(errors: &mut FieldErrors, token: &Value, path: &Path) {
    if token["expirationSeconds"].as_i64().is_some_and(|s| s < 600) {
        let detail = "may not specify a duration less than 10 minutes";
        errors.push(FieldError::invalid(
            &path.child("expirationSeconds"),
            &token["expirationSeconds"],
            detail,
        ));
    }
    if text(&token["path"]).is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
}

/// `validateLocalDescendingPath`: relative, and never up.
pub fn descending(errors: &mut FieldErrors, value: &Value, path: &Path) {
    let said = text(value);
    if said.starts_with('/') {
        errors.push(FieldError::invalid(path, &json!(said), "must be a relative path"));
    }
    if said.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, &json!(said), "must not contain '..'"));
    }
}
