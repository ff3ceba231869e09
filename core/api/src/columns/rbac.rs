//! Roles and their bindings.

use serde_json::{Value, json};

use super::{AGE, NAME, column, says};
use crate::document::{items, text};
use crate::kinds::Column;

/// Role and ClusterRole.
pub const ROLE: &[Column] = &[
    NAME,
    Column {
        format: "date-time",
        ..column("Created At", "date", 0, says::AGE, |o, _| json!(text(&o["metadata"]["creationTimestamp"])))
    },
];

/// RoleBinding.
pub const ROLE_BINDING: &[Column] = &[
    NAME,
    column("Role", "string", 0, says::BINDING_ROLE, role),
    AGE,
    column("Users", "string", 1, says::BINDING_USERS, |o, _| subjects(o, "User")),
    column("Groups", "string", 1, says::BINDING_GROUPS, |o, _| subjects(o, "Group")),
    column("ServiceAccounts", "string", 1, says::BINDING_ACCOUNTS, |o, _| subjects(o, "ServiceAccount")),
];

/// ClusterRoleBinding.
pub const CLUSTER_ROLE_BINDING: &[Column] = &[
    NAME,
    column("Role", "string", 0, says::BINDING_ROLE, role),
    AGE,
    column("Users", "string", 1, says::CLUSTER_BINDING_USERS, |o, _| subjects(o, "User")),
    column("Groups", "string", 1, says::CLUSTER_BINDING_GROUPS, |o, _| subjects(o, "Group")),
    column("ServiceAccounts", "string", 1, says::CLUSTER_BINDING_ACCOUNTS, |o, _| {
        subjects(o, "ServiceAccount")
    }),
];

fn role(binding: &Value, _: i64) -> Value {
    json!(format!("{}/{}", text(&binding["roleRef"]["kind"]), text(&binding["roleRef"]["name"])))
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let of_kind = items(&binding["subjects"]).iter().filter(|s| text(&s["kind"]) == kind);
    let names: Vec<String> = of_kind
        .map(|s| match text(&s["namespace"]) {
            "" => text(&s["name"]).to_owned(),
            namespace => format!("{namespace}/{}", text(&s["name"])),
        })
        .collect();
    json!(names.join(", "))
}
