//! Kinds that are answered and not stored: reviews of access and tokens, and Bindings.

use axum::body::Bytes;
use sealane_api::Status;
use sealane_api::document::{items, text};
use sealane_api::kinds::Virtual;
use sealane_registry::rbac::{Attributes, User};
use serde_json::{Map, Value, json};

use crate::access;
use crate::answer::{self, Answer};
use crate::call::Call;
use crate::subresources;
use crate::tokens;

pub(crate) async fn answer(call: &Call, kind: &'static Virtual, body: &Bytes) -> Answer {
    let mut review = subresources::loose(call, body)?;
    if kind.kind == "Binding" {
        let pod = text(&review["metadata"]["name"]).to_owned();
        return subresources::bind(call, &pod, &review).await;
    }
    let format = call.format(false)?;
    let group_version = format!("{}/{}", kind.group, kind.version);
    let (given, given_kind) = (text(&review["apiVersion"]), text(&review["kind"]));
    if !given.is_empty() && given != group_version || !given_kind.is_empty() && given_kind != kind.kind {
        return Err(Status::bad_request(format!(
            "{given_kind} in version {given:?} cannot be handled as a {}",
            kind.kind
        )));
    }
    review["apiVersion"] = json!(group_version);
    review["kind"] = json!(kind.kind);
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    let status = match kind.kind {
        "SelfSubjectReview" => json!({"userInfo": user_info(&call.user)}),
        "SelfSubjectAccessReview" => decision(call, &call.user, &review["spec"]),
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            decision(call, &subject(&review["spec"]), &review["spec"])
        }
        "SelfSubjectRulesReview" => rules(call, text(&review["spec"]["namespace"])),
        "TokenReview" => token(call, &review["spec"]),
        _ => return Err(answer::no_resource()),
    };
    review["status"] = status;
    Ok(answer::document(201, &review, format))
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        let extra: Map<String, Value> = user.extra.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        info["extra"] = Value::Object(extra);
    }
    info
}

fn subject(spec: &Value) -> User {
    User {
        name: text(&spec["user"]).to_owned(),
        groups: items(&spec["groups"]).iter().map(|g| text(g).to_owned()).collect(),
        uid: text(&spec["uid"]).to_owned(),
        extra: Vec::new(),
    }
}

fn decision(call: &Call, user: &User, spec: &Value) -> Value {
    let resource = &spec["resourceAttributes"];
    let path = &spec["nonResourceAttributes"];
    let asked = if resource.is_object() {
        Attributes {
            verb: text(&resource["verb"]),
            group: text(&resource["group"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
            path: "",
        }
    } else {
        Attributes { verb: text(&path["verb"]), path: text(&path["path"]), ..Attributes::default() }
    };
    if access::allowed(&call.shared, user, &asked) {
        json!({"allowed": true, "reason": "allowed by RBAC"})
    } else {
        json!({"allowed": false})
    }
}

/// What a user may do in a namespace; `system:masters` may do everything without a rule saying so.
fn rules(call: &Call, namespace: &str) -> Value {
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if call.user.is_in("system:masters") {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    call.shared.with_rules(|all| {
        for (place, rule) in all.of(&call.user) {
            if !items(&rule["nonResourceURLs"]).is_empty() {
                if place.is_empty() {
                    paths.push(json!({"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]}));
                }
            } else if place.is_empty() || place == namespace {
                let mut said = json!({"verbs": rule["verbs"], "apiGroups": rule["apiGroups"],
                    "resources": rule["resources"]});
                if !items(&rule["resourceNames"]).is_empty() {
                    said["resourceNames"] = rule["resourceNames"].clone();
                }
                resources.push(said);
            }
        }
    });
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

fn token(call: &Call, spec: &Value) -> Value {
    let audiences: Vec<String> = items(&spec["audiences"]).iter().map(|a| text(a).to_owned()).collect();
    match tokens::verify(&call.shared, text(&spec["token"]), &audiences) {
        Ok((mut user, fits)) => {
            user.groups.push("system:authenticated".into());
            json!({"authenticated": true, "user": user_info(&user), "audiences": fits})
        }
        Err(why) => json!({"authenticated": false, "error": why, "user": {}}),
    }
}
