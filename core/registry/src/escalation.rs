//! Nobody grants what they do not hold: writes of roles and bindings (`pkg/registry/rbac/*/policybased`,
//! `pkg/registry/rbac/validation`).

use std::collections::{BTreeMap, BTreeSet};

use sealane_api::document::{items, text};
use sealane_api::kinds::by_kind;
use sealane_api::{Kind, Status};
use serde_json::{Value, json};

use crate::rbac::{Attributes, Rules, User};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Whether a user may write `new` over `old` (`None`: create it) in a namespace ("" for cluster-wide kinds): they
/// hold what a role or a binding grants, or have the verb `escalate` or `bind`. Other kinds always pass.
///
/// # Errors
/// 403 with what is missing; 404 where a binding's role is not there.
pub fn check(
    rules: &Rules,
    user: &User,
    kind: &Kind,
    (namespace, new, old): (&str, &Value, Option<&Value>),
) -> Result<(), Status> {
    if kind.group != GROUP || user.is_in("system:masters") || old.is_some_and(|old| same_grant(new, old)) {
        return Ok(());
    }
    let name = text(&new["metadata"]["name"]);
    let (verb, resource, named) = match kind.kind {
        "Role" | "ClusterRole" => ("escalate", kind.plural, if old.is_some() { name } else { "" }),
        _ if text(&new["roleRef"]["kind"]) == "ClusterRole" => {
            ("bind", "clusterroles", text(&new["roleRef"]["name"]))
        }
        _ => ("bind", "roles", text(&new["roleRef"]["name"])),
    };
    let asked = Attributes { verb, group: GROUP, resource, namespace, name: named, ..Attributes::default() };
    if rules.allows(user, &asked) {
        return Ok(());
    }
    let held: Vec<&Value> =
        rules.of(user).filter(|(at, _)| at.is_empty() || *at == namespace).map(|(_, rule)| rule).collect();
    if verb == "escalate" {
        let all = [
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
        ];
        if !new["aggregationRule"].is_null() && !missing(&held, &all).is_empty() {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(Status::forbidden(kind, name, why));
        }
        return confirm(&held, items(&new["rules"]), user).map_err(|why| Status::forbidden(kind, name, &why));
    }
    let (role, home) = if resource == "clusterroles" { ("ClusterRole", "") } else { ("Role", namespace) };
    let Some(granted) = rules.role(home, named) else {
        let row = by_kind("rbac.authorization.k8s.io/v1", role).unwrap_or(kind);
        return Err(Status::not_found(row, named));
    };
    confirm(&held, granted, user).map_err(|why| Status::forbidden(kind, name, &why))
}

/// Whether only what garbage collection needs has changed (`IsOnlyMutatingGCFields`).
fn same_grant(new: &Value, old: &Value) -> bool {
    let bare = |document: &Value| {
        let mut document = document.clone();
        if let Some(meta) = document["metadata"].as_object_mut() {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                meta.remove(field);
            }
        }
        document
    };
    bare(new) == bare(old)
}

fn confirm(held: &[&Value], granted: &[Value], user: &User) -> Result<(), String> {
    let missing = missing(held, granted);
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(user.groups.iter().map(String::as_str)),
        missing.into_iter().collect::<Vec<_>>().join("\n")
    ))
}

/// Go's `%q` of a list.
fn quoted<'a>(list: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", list.map(|item| format!("{item:?}")).collect::<Vec<_>>().join(" "))
}

/// One resource (of a group, perhaps by name) or one path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Thing<'a> {
    Resource { group: &'a str, resource: &'a str, name: Option<&'a str> },
    Path(&'a str),
}

/// What of `granted` no rule of `held` covers, each thing with its verbs as upstream writes them (`CompactString`).
fn missing(held: &[&Value], granted: &[Value]) -> BTreeSet<String> {
    let mut lacking: BTreeMap<Thing<'_>, Vec<&str>> = BTreeMap::new();
    for rule in granted {
        let things = things(rule);
        for verb in items(&rule["verbs"]).iter().map(text) {
            for thing in &things {
                let verbs = lacking.entry(*thing).or_default();
                if !verbs.contains(&verb) && !held.iter().any(|rule| covers(rule, verb, *thing)) {
                    verbs.push(verb);
                }
            }
        }
    }
    lacking.retain(|_, verbs| !verbs.is_empty());
    let mut said = BTreeSet::new();
    for (thing, verbs) in lacking {
        match thing {
            Thing::Resource { group, resource, name } => {
                let name = name.map(|n| format!(", ResourceNames:[{n:?}]")).unwrap_or_default();
                let verbs = quoted(verbs.into_iter());
                said.insert(format!(
                    "{{APIGroups:[{group:?}], Resources:[{resource:?}]{name}, Verbs:{verbs}}}"
                ));
            }
            // Rules for paths are not put together.
            Thing::Path(path) => {
                said.extend(verbs.iter().map(|v| format!("{{NonResourceURLs:[{path:?}], Verbs:[{v:?}]}}")));
            }
        }
    }
    said
}

/// A rule in its smallest parts (`BreakdownRule`).
fn things(rule: &Value) -> Vec<Thing<'_>> {
    let names = items(&rule["resourceNames"]);
    let mut out = Vec::new();
    for group in items(&rule["apiGroups"]).iter().map(text) {
        for resource in items(&rule["resources"]).iter().map(text) {
            if names.is_empty() {
                out.push(Thing::Resource { group, resource, name: None });
            }
            out.extend(names.iter().map(|n| Thing::Resource { group, resource, name: Some(text(n)) }));
        }
    }
    out.extend(items(&rule["nonResourceURLs"]).iter().map(|path| Thing::Path(text(path))));
    out
}

/// `ruleCovers` (`component-helpers/auth/rbac/validation`).
fn covers(rule: &Value, verb: &str, thing: Thing<'_>) -> bool {
    let has = |list: &str, wanted: &str| items(&rule[list]).iter().any(|v| v == "*" || v == wanted);
    if !has("verbs", verb) {
        return false;
    }
    match thing {
        Thing::Path(path) => items(&rule["nonResourceURLs"]).iter().map(text).any(|held| {
            held == path || held.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
        }),
        Thing::Resource { group, resource, name } => {
            let behind = resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
            let names = items(&rule["resourceNames"]);
            has("apiGroups", group)
                && (has("resources", resource) || behind.is_some_and(|any| has("resources", &any)))
                && (names.is_empty() || name.is_some_and(|name| names.iter().any(|n| n == name)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_api::Object;

    fn refused(kind: &str, new: &Value, old: Option<&Value>) -> Option<String> {
        let bound = |role: &str, user: &str| {
            json!({"kind": "RoleBinding", "metadata": {"name": role, "namespace": "x"},
                "roleRef": {"kind": "Role", "name": role}, "subjects": [{"kind": "User", "name": user}]})
        };
        let role = |name: &str, rules: Value| json!({"kind": "Role", "metadata": {"name": name, "namespace": "x"}, "rules": rules});
        let rules = Rules::new(
            &[
                role("own", json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/status"]},
                    {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"]},
                    {"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["roles"], "resourceNames": ["strong"]}])),
                role("strong", json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])),
                role("other", json!([{"verbs": ["delete"], "apiGroups": ["apps"], "resources": ["deployments"]}])),
                bound("own", "ann"),
            ]
            .map(Object::new),
        );
        let ann = User { name: "ann".into(), groups: vec!["a".into(), "b".into()], ..User::default() };
        let row = by_kind("rbac.authorization.k8s.io/v1", kind).unwrap();
        check(&rules, &ann, row, ("x", new, old)).err().map(|status| status.message)
    }

    #[test]
    fn nobody_grants_what_they_do_not_hold() {
        let head = "user \"ann\" (groups=[\"a\" \"b\"]) is attempting to grant RBAC permissions not currently held:\n";
        let rule = |group: &str, resource: &str, verbs: &[&str], names: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs, "resourceNames": names});
        let table = [
            (rule("", "pods", &["get", "list"], &[]), ""),
            (rule("", "pods", &["get"], &["p"]), ""),
            (rule("", "services/status", &["get"], &[]), ""),
            (rule("", "secrets", &["get"], &["s"]), ""),
            (
                rule("", "secrets", &["get"], &[]),
                "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}",
            ),
            (
                rule("", "secrets", &["get"], &["t"]),
                "{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"t\"], Verbs:[\"get\"]}",
            ),
            (
                rule("", "pods", &["get", "watch", "delete"], &[]),
                "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"watch\" \"delete\"]}",
            ),
            (rule("*", "pods", &["get"], &[]), "{APIGroups:[\"*\"], Resources:[\"pods\"], Verbs:[\"get\"]}"),
            (
                json!({"nonResourceURLs": ["/metrics"], "verbs": ["get"]}),
                "{NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}",
            ),
        ];
        for (rule, lacking) in table {
            let new = json!({"metadata": {"name": "r"}, "rules": [rule]});
            let expected = (!lacking.is_empty())
                .then(|| format!("roles.rbac.authorization.k8s.io \"r\" is forbidden: {head}{lacking}"));
            assert_eq!(refused("Role", &new, None), expected, "{rule}");
        }
    }

    #[test]
    fn a_binding_needs_the_role_or_the_verb() {
        let to = |role: &str| json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": role}});
        assert_eq!(refused("RoleBinding", &to("strong"), None), None);
        let why = refused("RoleBinding", &to("other"), None).unwrap();
        assert!(
            why.ends_with("{APIGroups:[\"apps\"], Resources:[\"deployments\"], Verbs:[\"delete\"]}"),
            "{why}"
        );
        let why = refused("RoleBinding", &to("none"), None).unwrap();
        assert_eq!(why, "roles.rbac.authorization.k8s.io \"none\" not found");
        let mut freed = to("other");
        freed["metadata"]["finalizers"] = json!(["x"]);
        assert_eq!(refused("RoleBinding", &to("other"), Some(&freed)), None);
    }

    #[test]
    fn aggregation_is_for_administrators() {
        let new = json!({"metadata": {"name": "r"}, "aggregationRule": {"clusterRoleSelectors": [{}]}});
        let why = refused("ClusterRole", &new, None).unwrap();
        assert!(why.ends_with("must have cluster-admin privileges to use the aggregationRule"), "{why}");
    }
}
