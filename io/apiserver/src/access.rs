//! Who asks, and whether they may.

use http::request::Parts;
use http::{HeaderMap, Request, header};
use sealane_api::Status;
use sealane_api::kinds::{self, by_kind};
use sealane_registry::rbac::{Attributes, User};
use serde_json::json;

use crate::request::{Query, ResourcePath};
use crate::shared::{Connection, Shared};
use crate::tokens;

const AUTHENTICATED: &str = "system:authenticated";

pub(crate) fn unauthorized() -> Status {
    Status::new(401, "Unauthorized", "Unauthorized")
}

/// The sender: as the process says, by client certificate, by token; else anonymous.
pub(crate) fn authenticate<B>(shared: &Shared, request: &Request<B>) -> Result<User, Status> {
    if let Some(user) = request.extensions().get::<User>() {
        return Ok(with_group(user.clone(), AUTHENTICATED));
    }
    if let Some(user) = request.extensions().get::<Connection>().and_then(|c| c.certificate.as_ref()) {
        return Ok(with_group(user.clone(), AUTHENTICATED));
    }
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let token = bearer.and_then(|v| v.strip_prefix("Bearer ").or_else(|| v.strip_prefix("bearer ")));
    // Browsers cannot set headers on a WebSocket: the token comes as a subprotocol.
    match token {
        Some(token) => {
            let (user, _) = tokens::verify(shared, token.trim(), &[]).map_err(|_| unauthorized())?;
            Ok(with_group(user, AUTHENTICATED))
        }
        None => {
            let user = User { name: "system:anonymous".into(), ..User::default() };
            Ok(with_group(user, "system:unauthenticated"))
        }
    }
}

fn with_group(mut user: User, group: &str) -> User {
    if !user.is_in(group) {
        user.groups.push(group.to_owned());
    }
    user
}

/// `Impersonate-User`, `Impersonate-Group`: the sender asks to be treated as somebody else, and may.
pub(crate) fn impersonate(shared: &Shared, user: User, headers: &HeaderMap) -> Result<User, Status> {
    let text = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let Some(name) = text("impersonate-user").into_iter().next() else { return Ok(user) };
    let groups = text("impersonate-group");
    let asks = |resource: &'static str, name: &str| -> Result<(), Status> {
        let asked = Attributes { verb: "impersonate", resource, name, ..Attributes::default() };
        allow(shared, &user, &asked)
    };
    match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) => {
            let asked = Attributes {
                verb: "impersonate",
                resource: "serviceaccounts",
                namespace,
                name: account,
                ..Attributes::default()
            };
            allow(shared, &user, &asked)?;
        }
        None => asks("users", &name)?,
    }
    for group in &groups {
        asks("groups", group)?;
    }
    let mut other = User { name: name.clone(), groups, ..User::default() };
    if let Some((namespace, _)) = name.strip_prefix("system:serviceaccount:").and_then(|r| r.split_once(':'))
        && other.groups.is_empty()
    {
        other.groups = tokens::groups(namespace);
    }
    let own = if name == "system:anonymous" { "system:unauthenticated" } else { AUTHENTICATED };
    Ok(with_group(other, own))
}

/// Whether a user may do something: RBAC, and for nodes what is their own alone.
pub(crate) fn allowed(shared: &Shared, user: &User, asked: &Attributes<'_>) -> bool {
    if user.is_in("system:nodes")
        && let Some(node) = user.name.strip_prefix("system:node:")
        && asked.resource == "nodes"
        && !matches!(asked.verb, "get" | "list" | "watch" | "create")
        && asked.name != node
    {
        // NodeRestriction: a node changes no other.
        return false;
    }
    shared.with_rules(|rules| rules.allows(user, asked))
}

/// Refuses what a user may not do.
pub(crate) fn allow(shared: &Shared, user: &User, asked: &Attributes<'_>) -> Result<(), Status> {
    if allowed(shared, user, asked) { Ok(()) } else { Err(forbidden(user, asked)) }
}

/// `pods "x" is forbidden: User "u" cannot get resource "pods" in API group "" in the namespace "n"`
/// (`responsewriters.ForbiddenMessage`).
fn forbidden(user: &User, asked: &Attributes<'_>) -> Status {
    let who = &user.name;
    if asked.resource.is_empty() {
        let path = asked.path;
        let message = format!("forbidden: User {who:?} cannot {} path {path:?}", asked.verb);
        let mut status = Status::new(403, "Forbidden", message);
        status.details = json!({});
        return status;
    }
    let resource = match asked.subresource {
        "" => asked.resource.to_owned(),
        sub => format!("{}/{sub}", asked.resource),
    };
    let place = match asked.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let qualified = match asked.group {
        "" => asked.resource.to_owned(),
        group => format!("{}.{group}", asked.resource),
    };
    let named = if asked.name.is_empty() { qualified } else { format!("{qualified} {:?}", asked.name) };
    let message = format!(
        "{named} is forbidden: User {who:?} cannot {} resource {resource:?} in API group {:?} {place}",
        asked.verb, asked.group
    );
    let mut status = Status::new(403, "Forbidden", message);
    let mut details = json!({"kind": asked.resource});
    if !asked.name.is_empty() {
        details["name"] = json!(asked.name);
    }
    if !asked.group.is_empty() {
        details["group"] = json!(asked.group);
    }
    status.details = details;
    status
}

/// Authorizes a request for a resource.
pub(crate) fn authorize(
    shared: &Shared,
    user: &User,
    path: &ResourcePath,
    verb: &'static str,
    query: &Query,
) -> Result<(), Status> {
    // A list or watch of one name is authorized as that name.
    let selected = match (verb, kinds::by_resource(&path.group, &path.version, &path.resource)) {
        ("list" | "watch" | "deletecollection", Some(kind)) => {
            sealane_api::selector::FieldSelector::parse(query.get("fieldSelector"), kind)
                .ok()
                .and_then(|s| s.required("metadata.name").map(str::to_owned))
        }
        _ => None,
    };
    let name = selected.unwrap_or_else(|| path.name.clone());
    // A Namespace is authorized in itself (`requestinfo.go`: namespaces are their own namespace).
    let is_namespace =
        path.group.is_empty() && path.resource == "namespaces" && by_kind("v1", "Namespace").is_some();
    let namespace = if is_namespace && !path.name.is_empty() { &path.name } else { &path.namespace };
    let asked = Attributes {
        verb,
        group: &path.group,
        resource: &path.resource,
        subresource: &path.subresource,
        namespace,
        name: &name,
        path: "",
    };
    allow(shared, user, &asked)
}

/// Authorizes a request for a path that is no resource.
pub(crate) fn authorize_path(shared: &Shared, user: &User, parts: &Parts) -> Result<(), Status> {
    let verb = parts.method.as_str().to_ascii_lowercase();
    let asked = Attributes { verb: &verb, path: parts.uri.path(), ..Attributes::default() };
    allow(shared, user, &asked)
}
