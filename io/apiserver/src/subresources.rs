//! What stands behind an object's name: views of it, and the streams of a Pod's containers.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures::{StreamExt, TryStreamExt};
use http::{HeaderValue, Request, Response, header};
use sealane_api::document::{items, text};
use sealane_api::kinds::{Subresource, by_kind};
use sealane_api::managed::Writer;
use sealane_api::patch::{self, PatchKind};
use sealane_api::validation::options;
use sealane_api::{Kind, Object, Status, decode, scale, time, yaml};
use sealane_registry::{Context, Part, pods, replace};
use serde_json::{Value, json};

use crate::answer::{self, Answer};
use crate::cache::Entry;
use crate::call::{Call, upgrades};
use crate::negotiate;
use crate::reading;
use crate::request::{Query, ResourcePath};
use crate::shared::{Shared, now, stopped};
use crate::streaming;
use crate::tokens;
use crate::writing::{self, dry_run, modify};
use sealane_pod::request::{ExecRequest, LogOptions};

pub(crate) async fn answer(call: &Call, kind: &'static Kind, which: Subresource, body: Bytes) -> Answer {
    match (which, call.verb) {
        (Subresource::Log, _) => log(call).await,
        (Subresource::Scale, _) => scaled(call, kind, body).await,
        (Subresource::Status | Subresource::EphemeralContainers | Subresource::Finalize, "get") => {
            reading::get(call, kind).await
        }
        (Subresource::Status, "update") => writing::update_part(call, kind, Part::Status, body).await,
        (Subresource::Status, "patch") => writing::patch_part(call, kind, Part::Status, body).await,
        (Subresource::EphemeralContainers, "update") => writing::update(call, kind, body).await,
        (Subresource::EphemeralContainers, "patch") => writing::patch(call, kind, body).await,
        (Subresource::Finalize, "update") => writing::update_part(call, kind, Part::Finalizers, body).await,
        (Subresource::Binding, "create") => bind(call, &call.path.name, &loose(call, &body)?).await,
        (Subresource::Eviction, "create") => evict(call, kind, &loose(call, &body)?).await,
        (Subresource::Token, "create") => token(call, kind, &body).await,
        _ => Err(answer::no_verb()),
    }
}

/// A document that no row describes.
pub(crate) fn loose(call: &Call, body: &[u8]) -> Result<Value, Status> {
    let unreadable = |e: String| Status::bad_request(format!("the object provided is unrecognized: {e}"));
    let document = match negotiate::body_format(&call.parts.headers)? {
        decode::Format::Json if body.is_empty() => json!({}),
        decode::Format::Json => decode::any_json(body).map_err(unreadable)?,
        decode::Format::Yaml => yaml::parse(&String::from_utf8_lossy(body)).map_err(unreadable)?,
        decode::Format::Protobuf => {
            sealane_api::protobuf::decode(body).map_err(|e| unreadable(e.to_string()))?
        }
    };
    if document.is_object() { Ok(document) } else { Err(unreadable("it is no object".into())) }
}

fn created() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

/// Binds a Pod to the node that the Binding names.
pub(crate) async fn bind(call: &Call, pod: &str, binding: &Value) -> Answer {
    let format = call.format(false)?;
    let Some(kind) = by_kind("v1", "Pod") else { return Err(answer::no_resource()) };
    let errors = options::binding(binding);
    if !errors.is_empty() {
        return Err(Status::invalid_of("", "Binding", pod, &errors));
    }
    let node = text(&binding["target"]["name"]);
    let found = by_kind("v1", "Node").and_then(|row| call.shared.cache.get(row, "", node));
    let context = Context { now: now(), node: found.as_ref().map(|e| &e.object), ..Context::default() };
    let result = modify(&call.shared, kind, (call.namespace(), pod), dry_run(call), |old| {
        let uid = text(&binding["metadata"]["uid"]);
        sealane_registry::check_preconditions(kind, old, "", uid)?;
        pods::bind(kind, old, node, &context).map(Some).map_err(|mut status| {
            // Upstream names the subresource.
            status.message = status.message.replacen("on pods ", "on pods/binding ", 1);
            if status.details.is_object() {
                status.details["kind"] = json!("pods/binding");
            }
            status
        })
    });
    result.await?;
    Ok(answer::document(201, &created(), format))
}

async fn evict(call: &Call, kind: &'static Kind, eviction: &Value) -> Answer {
    let format = call.format(false)?;
    let mut wish = eviction["deleteOptions"].clone();
    if !wish.is_object() {
        wish = json!({});
    }
    if dry_run(call) {
        wish["dryRun"] = json!(["All"]);
    }
    let errors = options::delete(&wish);
    if !errors.is_empty() {
        return Err(Status::invalid_of("policy", "Eviction", &call.path.name, &errors));
    }
    writing::remove(&call.shared, kind, (call.namespace(), &call.path.name), &wish).await?;
    Ok(answer::document(201, &created(), format))
}

async fn token(call: &Call, kind: &'static Kind, body: &[u8]) -> Answer {
    let format = call.format(false)?;
    let name = &call.path.name;
    let request = loose(call, body)?;
    let account =
        call.shared.cache.get(kind, call.namespace(), name).ok_or_else(|| Status::not_found(kind, name))?;
    Ok(answer::document(201, &tokens::request(&call.shared, &account, request)?, format))
}

/// `autoscaling/v1 Scale`.
async fn scaled(call: &Call, kind: &'static Kind, body: Bytes) -> Answer {
    let format = call.format(false)?;
    let place = (call.namespace(), call.path.name.as_str());
    if call.verb == "get" {
        let found = call.shared.cache.get(kind, place.0, place.1);
        let found = found.ok_or_else(|| Status::not_found(kind, place.1))?;
        return Ok(answer::document(200, &scale::of(found.object.value()), format));
    }
    let asked = if call.verb == "update" { Some(loose(call, &body)?) } else { None };
    let language = if asked.is_none() { Some(writing::patch_kind(call)?) } else { None };
    let at = time::format(now());
    let by = Writer { manager: call.manager(), subresource: "scale", now: &at };
    let change = |old: &Object| -> Result<Option<Value>, Status> {
        let wanted = match (&asked, language) {
            (Some(scale), _) => scale.clone(),
            // A Scale has no lists: strategic merge and apply are plain merges.
            (None, Some(PatchKind::Strategic)) => {
                patch::apply(kind, PatchKind::Merge, &scale::of(old.value()), &body)?
            }
            (None, language) => {
                let language = language.unwrap_or(PatchKind::Merge);
                patch::apply(kind, language, &scale::of(old.value()), &body)?
            }
        };
        let mut new = old.to_value();
        if let Some(version) = wanted["metadata"]["resourceVersion"].as_str().filter(|v| !v.is_empty()) {
            new["metadata"]["resourceVersion"] = json!(version);
        }
        let errors = scale::apply(&mut new, &wanted);
        if !errors.is_empty() {
            return Err(Status::invalid_of("autoscaling", "Scale", old.name(), &errors));
        }
        replace(kind, Part::Whole, new, old, Some(&by))
    };
    let made = modify(&call.shared, kind, place, dry_run(call), change).await?;
    Ok(answer::document(200, &scale::of(made.object.value()), format))
}

/// The container that a request means: the one that it names, the Pod's default one, or the only one
/// (`pkg/registry/core/pod/strategy.go`, `podutils.DefaultContainerAnnotationName`).
fn container(pod: &Entry, asked: &str) -> Result<String, Status> {
    let pod = pod.object.value();
    let names = |list: &str| -> Vec<String> {
        items(&pod["spec"][list]).iter().map(|c| text(&c["name"]).to_owned()).collect()
    };
    let all = names("containers");
    let (init, ephemeral) = (names("initContainers"), names("ephemeralContainers"));
    let pod_name = text(&pod["metadata"]["name"]);
    if asked.is_empty() {
        return match all.as_slice() {
            [only] => Ok(only.clone()),
            _ => {
                let init = match init.len() {
                    0 => String::new(),
                    _ => format!(" or one of the init containers: [{}]", init.join(" ")),
                };
                Err(Status::bad_request(format!(
                    "a container name must be specified for pod {pod_name}, choose one of: [{}]{init}",
                    all.join(" ")
                )))
            }
        };
    }
    if [&all, &init, &ephemeral].iter().any(|list| list.iter().any(|n| n == asked)) {
        return Ok(asked.to_owned());
    }
    Err(Status::bad_request(format!("container {asked} is not valid for pod {pod_name}")))
}

fn pod(shared: &Shared, namespace: &str, name: &str) -> Result<Arc<Entry>, Status> {
    let Some(kind) = by_kind("v1", "Pod") else { return Err(answer::no_resource()) };
    let found = shared.cache.get(kind, namespace, name).ok_or_else(|| Status::not_found(kind, name))?;
    if found.object.str(&["spec", "nodeName"]).is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    Ok(found)
}

async fn log(call: &Call) -> Answer {
    let (namespace, name) = (call.namespace(), call.path.name.as_str());
    let found = pod(&call.shared, namespace, name)?;
    let query = &call.query;
    let options = LogOptions {
        container: container(&found, query.get("container"))?,
        follow: query.flag("follow") == Some(true),
        previous: query.flag("previous") == Some(true),
        timestamps: query.flag("timestamps") == Some(true),
        tail_lines: query.get("tailLines").parse().ok(),
        limit_bytes: query.get("limitBytes").parse().ok(),
        since_seconds: query.get("sinceSeconds").parse().ok(),
        since_time: Some(query.get("sinceTime").to_owned()).filter(|t| !t.is_empty()),
    };
    let lines =
        call.shared.nodes.logs(namespace.to_owned(), name.to_owned(), options).await.map_err(Status::from)?;
    // A follower ends with the server.
    let stopped = stopped(call.shared.stop.subscribe());
    let body = Body::from_stream(lines.map_err(std::io::Error::other).take_until(Box::pin(stopped)).boxed());
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// exec, attach and portforward.
pub(crate) async fn stream(
    shared: Arc<Shared>,
    request: Request<Body>,
    path: &ResourcePath,
    query: &Query,
    which: Option<Subresource>,
) -> Answer {
    if path.resource != "pods" {
        return Err(answer::no_resource());
    }
    let (namespace, name) = (path.namespace.clone(), path.name.clone());
    let found = pod(&shared, &namespace, &name)?;
    let nodes = Arc::clone(&shared.nodes);
    if which == Some(Subresource::PortForward) {
        let ports =
            query.all("ports").iter().flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
        return streaming::port_forward(request, nodes, namespace, name, ports).await;
    }
    if which == Some(Subresource::Proxy) {
        return Err(Status::new(501, "", "proxying to Pods by the API is not served; use port-forward"));
    }
    if !upgrades(&request) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let on = |key: &str| query.flag(key) == Some(true);
    let exec = ExecRequest {
        container: container(&found, query.get("container"))?,
        command: query.all("command").iter().map(|c| (*c).to_owned()).collect(),
        tty: on("tty"),
        stdin: on("stdin"),
        stdout: on("stdout"),
        stderr: on("stderr") && !on("tty"),
    };
    if which == Some(Subresource::Exec) && exec.command.is_empty() {
        return Err(Status::bad_request("you must specify at least 1 command for the container"));
    }
    streaming::exec(request, nodes, namespace, name, exec).await
}
