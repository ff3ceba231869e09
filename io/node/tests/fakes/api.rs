//! Enough of the Kubernetes API for an agent: get, list, watch, create, patch, delete on documents in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;

type Key = (String, String, String);

#[derive(Default)]
struct Store {
    objects: BTreeMap<Key, Value>,
    log: Vec<(String, &'static str, Value)>,
    uid: u64,
}

#[derive(Clone)]
pub struct Api {
    store: Arc<Mutex<Store>>,
    changed: Arc<watch::Sender<usize>>,
}

impl Api {
    pub fn new() -> Self {
        let api = Api { store: Arc::default(), changed: Arc::new(watch::Sender::new(0)) };
        api.put("serviceaccounts", json!({"metadata": {"name": "default", "namespace": "default"}}));
        api
    }

    pub fn client(&self) -> kube::Client {
        let router = axum::Router::new().fallback(serve).with_state(self.clone());
        kube::Client::new(router, "default")
    }

    fn record(&self, store: &mut Store, resource: &str, kind: &'static str, mut object: Value) -> Value {
        object["metadata"]["resourceVersion"] = json!((store.log.len() + 1).to_string());
        store.log.push((resource.to_owned(), kind, object.clone()));
        self.changed.send_replace(store.log.len());
        object
    }

    /// Creates or replaces.
    pub fn put(&self, resource: &str, mut object: Value) -> Value {
        let mut store = self.store.lock().unwrap();
        let key = key(resource, &object);
        if object["metadata"]["uid"].is_null() {
            store.uid += 1;
            object["metadata"]["uid"] = json!(format!("uid-{}", store.uid));
        }
        if object["metadata"]["creationTimestamp"].is_null() {
            object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let kind = if store.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        let object = self.record(&mut store, resource, kind, object);
        store.objects.insert(key, object.clone());
        object
    }

    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        let store = self.store.lock().unwrap();
        store.objects.iter().find(|((r, _, n), _)| r == resource && n == name).map(|(_, o)| o.clone())
    }

    pub fn list(&self, resource: &str) -> Vec<Value> {
        let store = self.store.lock().unwrap();
        store.objects.iter().filter(|((r, _, _), _)| r == resource).map(|(_, o)| o.clone()).collect()
    }

    /// Marks a Pod as kubectl's delete does.
    pub fn delete(&self, name: &str, grace: i64) {
        let mut pod = self.get("pods", name).unwrap();
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.put("pods", pod);
    }

    /// Waits until `test` gives something, whatever changes meanwhile.
    pub async fn until<T>(&self, what: &str, test: impl Fn(&Api) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                if let Some(found) = test(self) {
                    return found;
                }
                // Files and calls are no changes of the store: look again now and then.
                let _ = tokio::time::timeout(Duration::from_millis(20), changed.changed()).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), wait).await {
            Ok(found) => found,
            Err(_) => panic!("never: {what}; pods: {:#}", json!(self.list("pods"))),
        }
    }
}

fn key(resource: &str, object: &Value) -> Key {
    let text = |k: &str| object["metadata"][k].as_str().unwrap_or("").to_owned();
    (resource.to_owned(), text("namespace"), text("name"))
}

fn status(code: StatusCode, reason: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason,
        "code": code.as_u16()});
    (code, axum::Json(body)).into_response()
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else { return *target = patch.clone() };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else if name == "conditions" && target[name].is_array() {
            for condition in value.as_array().unwrap() {
                let list = target[name].as_array_mut().unwrap();
                match list.iter_mut().find(|c| c["type"] == condition["type"]) {
                    Some(old) => merge(old, condition),
                    None => list.push(condition.clone()),
                }
            }
        } else {
            merge(&mut target[name], value);
        }
    }
}

fn selected(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|s| !s.is_empty()).all(|term| {
        let (path, want) = term.split_once('=').unwrap();
        path.split('.').fold(object, |at, step| &at[step]) == want
    })
}

async fn serve(
    State(api): State<Api>,
    method: Method,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Response {
    let mut parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    parts.drain(..if parts[0] == "api" { 2 } else { 3 });
    let mut namespace = "";
    if parts[0] == "namespaces" && parts.len() > 2 {
        namespace = parts[1];
        parts.drain(..2);
    }
    let resource = parts[0].to_owned();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(name) = parts.get(1) else {
        if method == Method::POST {
            let mut object = body;
            if !namespace.is_empty() {
                object["metadata"]["namespace"] = json!(namespace);
            }
            return axum::Json(api.put(&resource, object)).into_response();
        }
        let selector = query.get("fieldSelector").cloned().unwrap_or_default();
        let namespace = namespace.to_owned();
        let wanted = move |o: &Value| {
            (namespace.is_empty() || o["metadata"]["namespace"] == namespace) && selected(o, &selector)
        };
        if query.get("watch").is_some_and(|w| w == "true" || w == "1") {
            let from = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
            return watching(api, resource, from, wanted);
        }
        let items: Vec<Value> = api.list(&resource).into_iter().filter(|o| wanted(o)).collect();
        let revision = api.store.lock().unwrap().log.len().to_string();
        let kind = if resource == "pods" { "PodList" } else { "List" };
        let list = json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": items});
        return axum::Json(list).into_response();
    };
    if parts.get(2) == Some(&"token") {
        let mut answer = body;
        answer["metadata"] = json!({});
        answer["status"] = json!({"token": "t0ken", "expirationTimestamp": "2030-01-01T00:00:00Z"});
        return axum::Json(answer).into_response();
    }
    one(&api, &method, (resource, namespace.to_owned(), (*name).to_owned()), &body)
}

fn one(api: &Api, method: &Method, key: Key, body: &Value) -> Response {
    let mut store = api.store.lock().unwrap();
    let Some(mut object) = store.objects.get(&key).cloned() else {
        return status(StatusCode::NOT_FOUND, "NotFound");
    };
    match *method {
        Method::PATCH => {
            let uid = &body["metadata"]["uid"];
            if !uid.is_null() && *uid != object["metadata"]["uid"] {
                return status(StatusCode::CONFLICT, "Conflict");
            }
            merge(&mut object, body);
            let object = api.record(&mut store, &key.0, "MODIFIED", object);
            store.objects.insert(key, object.clone());
            axum::Json(object).into_response()
        }
        Method::DELETE => {
            let uid = &body["preconditions"]["uid"];
            if !uid.is_null() && *uid != object["metadata"]["uid"] {
                return status(StatusCode::CONFLICT, "Conflict");
            }
            store.objects.remove(&key);
            axum::Json(api.record(&mut store, &key.0, "DELETED", object)).into_response()
        }
        _ => axum::Json(object).into_response(),
    }
}

fn watching(
    api: Api,
    resource: String,
    from: usize,
    wanted: impl Fn(&Value) -> bool + Send + 'static,
) -> Response {
    let changed = api.changed.subscribe();
    let events = futures::stream::unfold((from, changed), move |(mut at, mut changed)| {
        let (api, resource) = (api.clone(), resource.clone());
        async move {
            let (line, next) = loop {
                let next = {
                    let store = api.store.lock().unwrap();
                    store.log.get(at).cloned()
                };
                match next {
                    Some((r, kind, object)) => {
                        at += 1;
                        if r == resource {
                            break (json!({"type": kind, "object": object}), at);
                        }
                    }
                    None => changed.changed().await.ok()?,
                }
            };
            Some((line, (next, changed)))
        }
    });
    use futures::StreamExt;
    let lines = events.filter(move |e| std::future::ready(wanted(&e["object"])));
    let lines = lines.map(|e| Ok::<_, std::convert::Infallible>(format!("{e}\n")));
    Body::from_stream(lines).into_response()
}
