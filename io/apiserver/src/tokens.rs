//! ServiceAccount tokens: their claims (`pkg/serviceaccount/claims.go`), and what a token is worth now.

use sealane_api::document::{items, text};
use sealane_api::kinds::by_kind;
use sealane_api::validation::options;
use sealane_api::{Status, time};
use sealane_registry::rbac::User;
use serde_json::{Value, json};

use crate::cache::Entry;
use crate::shared::{Shared, now, random};

/// Seconds that a token lasts unless it asks otherwise.
const LIFETIME: i64 = 3600;
/// `serviceaccount.WarnOnlyBoundTokenExpirationPeriod`: what a Pod's own mount asks for (3607) is rotated by the
/// node, and lives a year for clients that read it once.
const WARN_ONLY: i64 = 3607;
const YEAR: i64 = 365 * 24 * 3600;

/// The groups of a ServiceAccount.
pub(crate) fn groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")]
}

/// Answers a TokenRequest: the request with its `status`.
pub(crate) fn request(shared: &Shared, account: &Entry, mut body: Value) -> Result<Value, Status> {
    let account = &account.object;
    let errors = options::token_request(&body);
    if !errors.is_empty() {
        return Err(Status::invalid_of("authentication.k8s.io", "TokenRequest", "", &errors));
    }
    let issuer = &shared.config.issuer;
    let mut audiences: Vec<Value> = items(&body["spec"]["audiences"]).to_vec();
    if audiences.is_empty() {
        audiences.push(json!(issuer));
    }
    let asked = body["spec"]["expirationSeconds"].as_i64().unwrap_or(LIFETIME);
    let at = now();
    let (namespace, name) = (account.namespace(), account.name());
    let mut private = json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": account.uid()}});
    let bound = body["spec"]["boundObjectRef"].clone();
    let mut lifetime = asked;
    if bound.is_object() {
        bind(shared, &mut private, namespace, name, &bound)?;
        if asked == WARN_ONLY && audiences == [json!(issuer)] {
            private["warnafter"] = json!(at + WARN_ONLY);
            lifetime = YEAR;
        }
    }
    let id = sealane_registry::uuid(random());
    let claims = json!({"iss": issuer, "aud": audiences, "iat": at, "nbf": at, "exp": at + lifetime, "jti": id,
        "sub": format!("system:serviceaccount:{namespace}:{name}"), "kubernetes.io": private});
    let token = shared.tokens.sign(&claims).map_err(|e| Status::new(500, "InternalError", e.to_string()))?;
    body["kind"] = json!("TokenRequest");
    body["apiVersion"] = json!("authentication.k8s.io/v1");
    let uid = account.uid();
    body["metadata"] =
        json!({"name": name, "namespace": namespace, "uid": uid, "creationTimestamp": time::format(at)});
    if !body["spec"].is_object() {
        body["spec"] = json!({});
    }
    body["spec"]["audiences"] = json!(audiences);
    body["spec"]["expirationSeconds"] = json!(asked);
    if bound.is_null() {
        body["spec"]["boundObjectRef"] = Value::Null;
    }
    body["status"] = json!({"token": token, "expirationTimestamp": time::format(at + lifetime)});
    Ok(body)
}

fn bind(
    shared: &Shared,
    private: &mut Value,
    namespace: &str,
    account: &str,
    bound: &Value,
) -> Result<(), Status> {
    let (kind, name, uid) = (text(&bound["kind"]), text(&bound["name"]), text(&bound["uid"]));
    let row = match kind {
        "Pod" | "Secret" | "Node" => by_kind("v1", kind),
        _ => None,
    };
    let Some(row) = row else {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {account:?} to type {kind:?}"
        )));
    };
    let found = shared.cache.get(row, namespace, name).ok_or_else(|| Status::not_found(row, name))?;
    if !uid.is_empty() && uid != found.object.uid() {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record ({}). \
             The object might have been deleted and then recreated",
            found.object.uid()
        );
        return Err(Status::conflict(row, name, &why));
    }
    if kind == "Pod" {
        let own = found.object.str(&["spec", "serviceAccountName"]);
        if own != account {
            let why = format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            );
            return Err(Status::bad_request(why));
        }
        let node = found.object.str(&["spec", "nodeName"]);
        if !node.is_empty() {
            private["node"] = json!({"name": node});
            if let Some(row) = by_kind("v1", "Node")
                && let Some(found) = shared.cache.get(row, "", node)
            {
                private["node"]["uid"] = json!(found.object.uid());
            }
        }
    }
    private[kind.to_ascii_lowercase()] = json!({"name": name, "uid": found.object.uid()});
    Ok(())
}

/// The user of a token, and which of the audiences it is for (`audiences` empty: the API's own): its account must
/// still be there, and so must the Pod that it is bound to.
pub(crate) fn verify(
    shared: &Shared,
    token: &str,
    audiences: &[String],
) -> Result<(User, Vec<String>), String> {
    let claims = shared.tokens.verify(token, now()).map_err(|e| e.to_string())?;
    let own = [shared.config.issuer.clone()];
    let wanted = if audiences.is_empty() { &own[..] } else { audiences };
    let given = items(&claims["aud"]);
    let fits: Vec<String> =
        wanted.iter().filter(|a| given.iter().any(|g| g == a.as_str())).cloned().collect();
    if fits.is_empty() {
        return Err("the token is for another audience".into());
    }
    let private = &claims["kubernetes.io"];
    let namespace = text(&private["namespace"]);
    let account = &private["serviceaccount"];
    still_there(shared, "ServiceAccount", namespace, account)?;
    if !private["pod"].is_null() {
        still_there(shared, "Pod", namespace, &private["pod"])?;
    }
    let mut extra = vec![(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![format!("JTI={}", text(&claims["jti"]))],
    )];
    for (claim, prefix) in [("node", "node"), ("pod", "pod")] {
        for (field, key) in [("name", "name"), ("uid", "uid")] {
            if let Some(value) = private[claim][field].as_str() {
                extra.push((format!("authentication.kubernetes.io/{prefix}-{key}"), vec![value.to_owned()]));
            }
        }
    }
    let user = User {
        name: text(&claims["sub"]).to_owned(),
        groups: groups(namespace),
        uid: text(&account["uid"]).to_owned(),
        extra,
    };
    Ok((user, fits))
}

fn still_there(shared: &Shared, kind: &str, namespace: &str, named: &Value) -> Result<(), String> {
    let (name, uid) = (text(&named["name"]), text(&named["uid"]));
    let found = by_kind("v1", kind).and_then(|row| shared.cache.get(row, namespace, name));
    match found {
        Some(found) if found.object.uid() == uid => Ok(()),
        Some(_) => Err(format!("{kind} {name:?} is another one by now")),
        None => Err(format!("{kind} {name:?} is gone")),
    }
}
