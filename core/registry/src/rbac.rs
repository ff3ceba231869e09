//! Who may do what: Role, ClusterRole and their bindings (`plugin/pkg/auth/authorizer/rbac`).

use std::collections::HashMap;

use sealane_api::Object;
use sealane_api::document::{items, text};
use serde_json::Value;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Name, e.g. `system:serviceaccount:default:web`.
    pub name: String,
    /// Groups, e.g. `system:authenticated`.
    pub groups: Vec<String>,
    /// The ServiceAccount's uid, "" for others.
    pub uid: String,
    /// `extra`, by key.
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    /// Whether a group is the user's.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `create`, …
    pub verb: &'a str,
    /// API group of the resource.
    pub group: &'a str,
    /// Resource, "" for a path that is none.
    pub resource: &'a str,
    /// Subresource, "" for none.
    pub subresource: &'a str,
    /// Namespace, "" for all or none.
    pub namespace: &'a str,
    /// Name, "" for none.
    pub name: &'a str,
    /// The path where `resource` is "".
    pub path: &'a str,
}

/// Namespace ("" for ClusterRoles) and name of a role.
type RoleKey = (String, String);

/// The roles and bindings of a cluster, indexed by who is bound.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Role key (`namespace/name`, namespace "" for ClusterRoles) to rules.
    roles: HashMap<RoleKey, Vec<Value>>,
    /// Subject (`User:x`, `Group:x`) to binding's namespace ("" for cluster-wide), role's key.
    bindings: HashMap<String, Vec<(String, RoleKey)>>,
}

impl Rules {
    /// From the stored objects of the four kinds, in any order.
    pub fn new<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Self {
        let mut rules = Rules::default();
        for object in objects {
            let namespace = object.namespace().to_owned();
            match object.kind() {
                "Role" | "ClusterRole" => {
                    let list = object.get(&["rules"]).map(items).unwrap_or_default().to_vec();
                    rules.roles.insert((namespace, object.name().to_owned()), list);
                }
                "RoleBinding" | "ClusterRoleBinding" => rules.bind(object, &namespace),
                _ => {}
            }
        }
        rules
    }

    fn bind(&mut self, binding: &Object, namespace: &str) {
        let home = if binding.str(&["roleRef", "kind"]) == "ClusterRole" { "" } else { namespace };
        let role = (home.to_owned(), binding.str(&["roleRef", "name"]).to_owned());
        for subject in binding.get(&["subjects"]).map(items).unwrap_or_default() {
            let name = text(&subject["name"]);
            let key = match text(&subject["kind"]) {
                "ServiceAccount" => {
                    let own = text(&subject["namespace"]);
                    let from = if own.is_empty() { namespace } else { own };
                    format!("User:system:serviceaccount:{from}:{name}")
                }
                kind => format!("{kind}:{name}"),
            };
            self.bindings.entry(key).or_default().push((namespace.to_owned(), role.clone()));
        }
    }

    /// The rules that hold for a user: where (a namespace, "" for everywhere) and what.
    pub fn of<'a>(&'a self, user: &'a User) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let groups = user.groups.iter().map(|g| format!("Group:{g}"));
        let keys = std::iter::once(format!("User:{}", user.name)).chain(groups);
        keys.filter_map(|key| self.bindings.get(&key))
            .flatten()
            .filter_map(|(namespace, role)| Some((namespace.as_str(), self.roles.get(role)?)))
            .flat_map(|(namespace, list)| list.iter().map(move |rule| (namespace, rule)))
    }

    /// The rules of a role (namespace "" for ClusterRoles), where it is there.
    pub fn role(&self, namespace: &str, name: &str) -> Option<&[Value]> {
        self.roles.get(&(namespace.to_owned(), name.to_owned())).map(Vec::as_slice)
    }

    /// Whether a user may do something.
    pub fn allows(&self, user: &User, asked: &Attributes<'_>) -> bool {
        if user.is_in("system:masters") {
            return true;
        }
        self.of(user).any(|(namespace, rule)| {
            (namespace.is_empty() || namespace == asked.namespace && !asked.resource.is_empty())
                && covers(rule, asked)
        })
    }
}

fn has(list: &Value, wanted: &str) -> bool {
    items(list).iter().any(|v| v == "*" || v == wanted)
}

/// `VerbMatches`, `APIGroupMatches`, `ResourceMatches`, `ResourceNameMatches`, `NonResourceURLMatches`
/// (`pkg/apis/rbac/v1/evaluation_helpers.go`).
fn covers(rule: &Value, asked: &Attributes<'_>) -> bool {
    if !has(&rule["verbs"], asked.verb) {
        return false;
    }
    if asked.resource.is_empty() {
        return items(&rule["nonResourceURLs"]).iter().any(|url| {
            let url = text(url);
            match url.strip_suffix('*') {
                Some(prefix) => asked.path.starts_with(prefix),
                None => url == asked.path,
            }
        });
    }
    if !has(&rule["apiGroups"], asked.group) {
        return false;
    }
    let whole = match asked.subresource {
        "" => asked.resource.to_owned(),
        sub => format!("{}/{sub}", asked.resource),
    };
    let resource = items(&rule["resources"]).iter().any(|r| {
        let r = text(r);
        r == "*" || r == whole || (!asked.subresource.is_empty() && r == format!("*/{}", asked.subresource))
    });
    let names = items(&rule["resourceNames"]);
    resource && (names.is_empty() || names.iter().any(|n| n == asked.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules() -> Rules {
        let objects = [
            json!({"kind": "ClusterRole", "metadata": {"name": "reader"}, "rules": [
                {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
                {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/apis/*"]}]}),
            json!({"kind": "Role", "metadata": {"name": "one", "namespace": "x"}, "rules": [
                {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*/status"]},
                {"verbs": ["update"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["c"]}]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "reader"},
                "subjects": [{"kind": "Group", "name": "team"}]}),
            json!({"kind": "RoleBinding", "metadata": {"name": "b", "namespace": "y"},
                "roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [{"kind": "User", "name": "eve"}]}),
            json!({"kind": "RoleBinding", "metadata": {"name": "o", "namespace": "x"}, "roleRef": {"kind": "Role", "name": "one"},
                "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": "z"}]}),
        ];
        Rules::new(&objects.map(Object::new))
    }

    fn user(name: &str, groups: &[&str]) -> User {
        User { name: name.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..User::default() }
    }

    #[test]
    fn rules_cover_what_they_say_and_no_more() {
        let rules = rules();
        let ann = user("ann", &["team"]);
        let eve = user("eve", &[]);
        let web = user("system:serviceaccount:z:web", &[]);
        let root = user("root", &["system:masters"]);
        let pods =
            Attributes { verb: "get", resource: "pods", namespace: "x", name: "p", ..Attributes::default() };
        let table: &[(&User, Attributes<'_>, bool)] = &[
            (&ann, pods.clone(), true),
            (&ann, Attributes { subresource: "log", ..pods.clone() }, true),
            (&ann, Attributes { subresource: "exec", ..pods.clone() }, false),
            (&ann, Attributes { verb: "delete", ..pods.clone() }, false),
            (&ann, Attributes { group: "apps", ..pods.clone() }, false),
            (&ann, Attributes { verb: "get", path: "/apis/apps/v1", ..Attributes::default() }, true),
            (&ann, Attributes { verb: "get", path: "/metrics", ..Attributes::default() }, false),
            (&eve, pods.clone(), false),
            (&eve, Attributes { namespace: "y", ..pods.clone() }, true),
            (&eve, Attributes { namespace: "", ..pods.clone() }, false),
            (&eve, Attributes { verb: "get", path: "/healthz", ..Attributes::default() }, false),
            (
                &web,
                Attributes {
                    verb: "patch",
                    group: "apps",
                    resource: "deployments",
                    subresource: "status",
                    namespace: "x",
                    name: "d",
                    path: "",
                },
                true,
            ),
            (
                &web,
                Attributes {
                    verb: "update",
                    resource: "configmaps",
                    namespace: "x",
                    name: "c",
                    ..Attributes::default()
                },
                true,
            ),
            (
                &web,
                Attributes {
                    verb: "update",
                    resource: "configmaps",
                    namespace: "x",
                    name: "d",
                    ..Attributes::default()
                },
                false,
            ),
            (&root, Attributes { verb: "delete", resource: "nodes", ..Attributes::default() }, true),
            (&user("nobody", &[]), pods, false),
        ];
        for (user, asked, expected) in table {
            assert_eq!(rules.allows(user, asked), *expected, "{} {asked:?}", user.name);
        }
    }
}
