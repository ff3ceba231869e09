//! Discovery: the documents that tell clients what is served, built from the tables of kinds.

use serde_json::{Value, json};

use crate::document::omit_empty;
use crate::kinds::{KINDS, Kind, ResponseKind, Scope, VIRTUAL, Virtual};

/// The served groups in upstream's order of preference, core apart.
pub const GROUPS: &[&str] = &[
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "networking.k8s.io",
    "rbac.authorization.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
];

fn kinds_of(group: &str) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |k| k.group == group)
}

fn virtual_of(group: &str) -> impl Iterator<Item = &'static Virtual> {
    VIRTUAL.iter().filter(move |v| v.group == group)
}

/// The versions of a group, the preferred one first.
pub fn versions(group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&str> =
        kinds_of(group).map(|k| k.version).chain(virtual_of(group).map(|v| v.version)).collect();
    versions.sort_unstable();
    versions.dedup();
    versions
}

/// `/api`: `server` is the address that clients reach it at, e.g. `127.0.0.1:6443`.
pub fn api_versions(server: &str) -> Value {
    json!({"kind": "APIVersions", "versions": versions(""),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}]})
}

/// `/apis`.
pub fn group_list() -> Value {
    let groups: Vec<Value> = GROUPS.iter().filter_map(|g| group_entry(g)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`, `None` where there is no such group.
pub fn group(name: &str) -> Option<Value> {
    let mut group = group_entry(name)?;
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Some(group)
}

fn group_entry(name: &str) -> Option<Value> {
    let versions: Vec<Value> =
        versions(name).iter().map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v})).collect();
    let preferred = versions.first().filter(|_| !name.is_empty())?.clone();
    Some(json!({"name": name, "versions": versions, "preferredVersion": preferred}))
}

/// `/api/v1`, `/apis/GROUP/VERSION`; `None` where there is no such version.
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in kinds_of(group).filter(|k| k.version == version) {
        let mut resource = json!({"name": kind.plural, "singularName": kind.singular,
            "namespaced": kind.namespaced(), "kind": kind.kind, "verbs": kind.verbs,
            "shortNames": kind.short_names, "categories": kind.categories});
        omit_empty(&mut resource, &["shortNames", "categories"]);
        resources.push(resource);
        for sub in kind.subresources {
            let answer = sub.response_kind(kind);
            let mut resource = json!({"name": format!("{}/{}", kind.plural, sub.as_str()), "singularName": "",
                "namespaced": kind.namespaced(), "group": answer.group, "version": answer.version,
                "kind": answer.kind, "verbs": sub.verbs()});
            omit_empty(&mut resource, &["group", "version"]);
            resources.push(resource);
        }
    }
    for answered in virtual_of(group).filter(|v| v.version == version) {
        resources.push(json!({"name": answered.plural, "singularName": answered.singular,
            "namespaced": answered.scope == Scope::Namespaced, "kind": answered.kind, "verbs": ["create"]}));
    }
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    if resources.is_empty() {
        return None;
    }
    let mut list = json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources});
    if !group.is_empty() {
        // The core's list alone comes without (it is older).
        list["apiVersion"] = json!("v1");
        list["groupVersion"] = json!(format!("{group}/{version}"));
    }
    Some(list)
}

/// `/api` (`core`) or `/apis` as `apidiscovery.k8s.io/v2 APIGroupDiscoveryList`.
pub fn aggregated(core: bool) -> Value {
    let groups: &[&str] = if core { &[""] } else { GROUPS };
    let groups: Vec<Value> = groups
        .iter()
        .map(|group| {
            let versions: Vec<Value> = versions(group)
                .iter()
                .map(|v| json!({"version": v, "resources": discovered(group, v), "freshness": "Current"}))
                .collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": groups})
}

fn response(kind: ResponseKind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn discovered(group: &str, version: &str) -> Vec<Value> {
    let own = |kind| response(ResponseKind { group: "", version: "", kind });
    let mut resources = Vec::new();
    for kind in kinds_of(group).filter(|k| k.version == version) {
        let subresources: Vec<Value> = kind
            .subresources
            .iter()
            .map(|sub| {
                json!({"subresource": sub.as_str(), "responseKind": response(sub.response_kind(kind)),
                    "verbs": sub.verbs()})
            })
            .collect();
        let scope = if kind.namespaced() { "Namespaced" } else { "Cluster" };
        let mut resource = json!({"resource": kind.plural, "responseKind": own(kind.kind), "scope": scope,
            "singularResource": kind.singular, "verbs": kind.verbs, "shortNames": kind.short_names,
            "categories": kind.categories, "subresources": subresources});
        omit_empty(&mut resource, &["shortNames", "categories", "subresources"]);
        resources.push(resource);
    }
    for answered in virtual_of(group).filter(|v| v.version == version) {
        let scope = if answered.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
        resources
            .push(json!({"resource": answered.plural, "responseKind": own(answered.kind), "scope": scope,
            "singularResource": answered.singular, "verbs": ["create"]}));
    }
    resources.sort_by(|a, b| a["resource"].as_str().cmp(&b["resource"].as_str()));
    resources
}
