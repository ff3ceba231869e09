//! Answers: documents, objects, lists, tables and refusals as responses.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use sealane_api::{Kind, Status, columns, protobuf, yaml};
use sealane_store::StoreError;
use serde_json::{Value, json};

use crate::cache::{Entry, Listing};
use crate::negotiate::{self, Format};
use crate::shared::now;

pub(crate) type Answer = Result<Response<Body>, Status>;

/// A response of bytes.
pub(crate) fn bytes(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body: Bytes = body.into();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A document in the form that was asked for, `Format::Table` and `Format::Partial` being JSON.
pub(crate) fn document(code: u16, value: &Value, format: Format) -> Response<Body> {
    match format {
        Format::Yaml => bytes(code, "application/yaml", yaml::write(value)),
        Format::Protobuf => match protobuf::encode(value) {
            Some(body) => bytes(code, negotiate::PROTOBUF, body),
            None => bytes(code, "application/json", value.to_string()),
        },
        _ => bytes(code, "application/json", value.to_string()),
    }
}

/// An object.
pub(crate) fn object(code: u16, kind: &'static Kind, entry: &Arc<Entry>, format: Format) -> Response<Body> {
    match format {
        Format::Json => {
            let mut out = Vec::with_capacity(entry.body().len() + 64);
            entry.write_whole(&mut out);
            bytes(code, "application/json", out)
        }
        Format::Table(include) => {
            let mut table = columns::table(kind, [&entry.object], now(), include);
            table["metadata"]["resourceVersion"] =
                entry.object.value()["metadata"]["resourceVersion"].clone();
            document(code, &table, format)
        }
        Format::Partial => document(code, &columns::partial(entry.object.value()), format),
        Format::Protobuf => {
            let encoded = entry.object.protobuf(|value| protobuf::encode(value).unwrap_or_default());
            bytes(code, negotiate::PROTOBUF, encoded)
        }
        Format::Yaml => document(code, entry.object.value(), format),
    }
}

/// A list: its `metadata`, its items.
pub(crate) fn list(
    kind: &'static Kind,
    listing: &Listing,
    metadata: &Value,
    format: Format,
) -> Response<Body> {
    let entries = &listing.entries;
    match format {
        Format::Json => {
            let size: usize = entries.iter().map(|e| e.body().len() + 1).sum();
            let mut out = Vec::with_capacity(size + 160);
            let head = format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                kind.list_kind(),
                kind.api_version()
            );
            out.extend_from_slice(head.as_bytes());
            for (n, entry) in entries.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(entry.body());
            }
            out.extend_from_slice(b"]}\n");
            bytes(200, "application/json", out)
        }
        Format::Table(include) => {
            let mut table = columns::table(kind, entries.iter().map(|e| &e.object), now(), include);
            table["metadata"] = metadata.clone();
            document(200, &table, format)
        }
        Format::Partial => {
            let items: Vec<Value> = entries.iter().map(|e| columns::partial(e.object.value())).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": items});
            document(200, &list, format)
        }
        Format::Yaml | Format::Protobuf => {
            let items: Vec<Value> = entries
                .iter()
                .map(|e| {
                    let mut item = e.object.to_value();
                    if let Some(item) = item.as_object_mut() {
                        item.remove("kind");
                        item.remove("apiVersion");
                    }
                    item
                })
                .collect();
            let list = json!({"kind": kind.list_kind(), "apiVersion": kind.api_version(), "metadata": metadata,
                "items": items});
            document(200, &list, format)
        }
    }
}

/// A refusal.
pub(crate) fn refusal(status: &Status, format: Format) -> Response<Body> {
    let mut response = document(status.code, &status.to_value(), format);
    if let Some(seconds) = status.details["retryAfterSeconds"].as_u64() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// `status: Success` with details (an object that is gone).
pub(crate) fn success(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": kind.plural, "uid": uid});
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// The 404 of a path that nothing serves.
pub(crate) fn page_not_found() -> Response<Body> {
    let mut response = bytes(404, "text/plain; charset=utf-8", "404 page not found\n");
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// The 404 of a resource that nothing serves.
pub(crate) fn no_resource() -> Status {
    let mut status = Status::new(404, "NotFound", "the server could not find the requested resource");
    status.details = json!({});
    status
}

/// The 405 of a verb that a resource lacks.
pub(crate) fn no_verb() -> Status {
    let message = "the server does not allow this method on the requested resource";
    let mut status = Status::new(405, "MethodNotAllowed", message);
    status.details = json!({});
    status
}

/// What the client reads where the store fails.
pub(crate) fn store_failed(error: &StoreError) -> Status {
    Status::new(500, "InternalError", format!("Internal error occurred: {error}"))
}

/// Adds `Warning: 299 - "…"` headers (RFC 7234, 5.5; `apiserver/pkg/warning`).
pub(crate) fn warn<'a>(headers: &mut HeaderMap, warnings: impl IntoIterator<Item = &'a str>) {
    for warning in warnings {
        let escaped = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
            headers.append(header::WARNING, value);
        }
    }
}
