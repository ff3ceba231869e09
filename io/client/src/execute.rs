//! Carries out one planned write. Takes no decisions: what the API answers goes back to the index.

use http::Request;
use http::request::Builder;
use kube::Client;
use sealane_controllers::{Doc, Event, Key, Patch, Row, Write};
use serde_json::{Value, json};

use crate::feed::path;

/// Why a write didn't happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Somebody else wrote or deleted in between: plan again.
    #[error("{0}")]
    Conflict(String),
    /// Refused, or the API couldn't be reached.
    #[error("{0}")]
    Other(String),
}

fn object_path(kind: Row, key: &Key, subresource: Option<&str>) -> String {
    let mut path = path(kind.0, &key.namespace);
    path.push('/');
    path.push_str(&key.name);
    if let Some(subresource) = subresource {
        path.push('/');
        path.push_str(subresource);
    }
    path
}

async fn send(client: &Client, request: Builder, body: Option<&Value>) -> Result<Value, kube::Error> {
    let body = match body {
        Some(body) => serde_json::to_vec(body).map_err(kube::Error::SerdeError)?,
        None => Vec::new(),
    };
    let request = request.header("accept", "application/json").body(body).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

fn failure(error: &kube::Error) -> Failure {
    let text = match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    };
    if code(error) == 409 { Failure::Conflict(text) } else { Failure::Other(text) }
}

fn written(kind: Row, answer: Value) -> Result<Option<Event>, Failure> {
    Doc::of(kind, answer).map(|doc| Some(Event::Written(doc))).map_err(|e| Failure::Other(e.to_string()))
}

/// Whether a request was carried out, and what the index learns by its answer.
pub(crate) struct Answer {
    pub(crate) event: Option<Event>,
    pub(crate) result: Result<(), Failure>,
}

impl Answer {
    fn of(result: Result<Option<Event>, Failure>) -> Self {
        match result {
            Ok(event) => Answer { event, result: Ok(()) },
            Err(failure) => Answer { event: None, result: Err(failure) },
        }
    }
}

/// Sends a write.
pub(crate) async fn execute(client: &Client, write: &Write) -> Answer {
    match write {
        Write::Create { kind, namespace, body } => create(client, *kind, namespace, body).await,
        Write::Update { kind, key, subresource, body } => {
            let path = object_path(*kind, key, subresource.map(|s| s.as_str()));
            let request = Request::put(path).header("content-type", "application/json");
            change(client, *kind, key, request, body).await
        }
        Write::Patch { kind, key, subresource, patch, body } => {
            let path = object_path(*kind, key, subresource.map(|s| s.as_str()));
            let media = match patch {
                Patch::Merge => "application/merge-patch+json",
                Patch::Strategic => "application/strategic-merge-patch+json",
            };
            change(client, *kind, key, Request::patch(path).header("content-type", media), body).await
        }
        Write::Delete { kind, key, uid, resource_version, propagation, grace_seconds } => {
            let mut options =
                json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
            if let Some(version) = resource_version {
                options["preconditions"]["resourceVersion"] = version.as_str().into();
            }
            if let Some(propagation) = propagation {
                options["propagationPolicy"] = propagation.as_str().into();
            }
            if let Some(seconds) = grace_seconds {
                options["gracePeriodSeconds"] = (*seconds).into();
            }
            delete(client, *kind, key, uid, &options).await
        }
        Write::DeleteCollection { kind, namespace } => {
            let request = Request::delete(path(kind.0, namespace)).header("content-type", "application/json");
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
            Answer::of(match send(client, request, Some(&options)).await {
                Err(error) if !matches!(code(&error), 404 | 405) => Err(failure(&error)),
                _ => Ok(None),
            })
        }
        Write::Bind { key, uid, node } => {
            let body = json!({"apiVersion": "v1", "kind": "Binding",
                "metadata": {"name": &*key.name, "namespace": &*key.namespace, "uid": uid},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
            let path = format!("/api/v1/namespaces/{}/pods/{}/binding", key.namespace, key.name);
            let request = Request::post(path).header("content-type", "application/json");
            Answer::of(send(client, request, Some(&body)).await.map(|_| None).map_err(|e| failure(&e)))
        }
        Write::Confirm { kind, key, uid } => confirm(client, *kind, key, uid).await,
    }
}

async fn create(client: &Client, kind: Row, namespace: &str, body: &Value) -> Answer {
    let request = Request::post(path(kind.0, namespace)).header("content-type", "application/json");
    match send(client, request, Some(body)).await {
        Ok(answer) => Answer::of(written(kind, answer)),
        Err(error) => {
            // The name is taken: the index is told by what, so that the next plan knows.
            let mut event = None;
            if let (409, Some(name)) = (code(&error), body["metadata"]["name"].as_str()) {
                let key = Key::new(namespace, name);
                let held = send(client, Request::get(object_path(kind, &key, None)), None).await;
                event = held.ok().and_then(|answer| written(kind, answer).ok().flatten());
            }
            Answer { event, result: Err(failure(&error)) }
        }
    }
}

async fn change(client: &Client, kind: Row, key: &Key, request: Builder, body: &Value) -> Answer {
    match send(client, request, Some(body)).await {
        Ok(answer) => Answer::of(written(kind, answer)),
        Err(error) => {
            let uid = body["metadata"]["uid"].as_str().unwrap_or("").to_owned();
            let gone = code(&error) == 404 && !uid.is_empty();
            let event = gone.then(|| Event::Absent { kind, key: key.clone(), uid });
            let why = if gone { Failure::Conflict(error.to_string()) } else { failure(&error) };
            Answer { event, result: Err(why) }
        }
    }
}

async fn delete(client: &Client, kind: Row, key: &Key, uid: &str, options: &Value) -> Answer {
    let request = Request::delete(object_path(kind, key, None)).header("content-type", "application/json");
    match send(client, request, Some(options)).await {
        // Status: it is gone. The object: it is on its way.
        Ok(answer) if answer["kind"] == "Status" => {
            let event = Event::Removed { kind, key: key.clone(), uid: uid.to_owned() };
            Answer { event: Some(event), result: Ok(()) }
        }
        Ok(answer) => Answer::of(written(kind, answer)),
        Err(error) if code(&error) == 404 => {
            let event = Event::Absent { kind, key: key.clone(), uid: uid.to_owned() };
            Answer { event: Some(event), result: Ok(()) }
        }
        Err(error) => Answer::of(Err(failure(&error))),
    }
}

async fn confirm(client: &Client, kind: Row, key: &Key, uid: &str) -> Answer {
    let absent = || Event::Absent { kind, key: key.clone(), uid: uid.to_owned() };
    match send(client, Request::get(object_path(kind, key, None)), None).await {
        Ok(answer) if uid.is_empty() || answer["metadata"]["uid"] == uid => Answer::of(written(kind, answer)),
        Ok(_) => Answer::of(Ok(Some(absent()))),
        Err(error) if code(&error) == 404 => Answer::of(Ok(Some(absent()))),
        Err(error) => Answer::of(Err(failure(&error))),
    }
}
