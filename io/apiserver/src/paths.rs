//! Paths that are no resource: discovery, OpenAPI, version, health and metrics.

use http::request::Parts;
use http::{HeaderValue, header};
use sealane_api::kinds::KINDS;
use sealane_api::{discovery, schema};
use serde_json::{Map, Value, json};

use crate::answer::{Answer, bytes, document, page_not_found};
use crate::negotiate::{self, Format};
use crate::request::Query;
use crate::shared::Shared;

const OPENAPI_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub(crate) fn answer(shared: &Shared, parts: &Parts, query: &Query) -> Answer {
    let path = parts.uri.path();
    let trimmed = path.trim_end_matches('/');
    let format = || negotiate::accepted(&parts.headers, false, Default::default());
    match trimmed {
        "/healthz" | "/livez" | "/readyz" => return Ok(health(trimmed, query)),
        "/metrics" => {
            return Ok(bytes(200, "text/plain; version=0.0.4; charset=utf-8", shared.metrics.text()));
        }
        "/version" => return Ok(document(200, &version(), Format::Json)),
        "/openapi/v2" if wants_protobuf(parts) => {
            return Ok(bytes(200, OPENAPI_PROTOBUF, openapi_v2_protobuf()));
        }
        "/openapi/v2" => return Ok(document(200, &openapi_v2(), Format::Json)),
        "/openapi/v3" => return Ok(document(200, &openapi_index(), Format::Json)),
        "" => return Ok(document(200, &root(), Format::Json)),
        "/api" | "/apis" => {
            if aggregated(parts) {
                return Ok(aggregate(parts, trimmed == "/api"));
            }
            let value = match trimmed {
                "/api" => discovery::api_versions(&shared.config.advertise.to_string()),
                _ => discovery::group_list(),
            };
            return Ok(document(200, &value, format()?));
        }
        _ => {}
    }
    let said: Vec<&str> = trimmed.trim_start_matches('/').split('/').collect();
    let found = match said.as_slice() {
        ["api", version] => discovery::resource_list("", version),
        ["apis", group] => discovery::group(group),
        ["apis", group, version] => discovery::resource_list(group, version),
        ["openapi", "v3", "api", version] => openapi(&[""], version),
        ["openapi", "v3", "apis", group, version] => openapi(&[group], version),
        ["healthz" | "livez" | "readyz", "ping" | "store"] => {
            return Ok(bytes(200, "text/plain; charset=utf-8", "ok"));
        }
        _ => None,
    };
    match found {
        Some(value) => Ok(document(200, &value, format()?)),
        None => Ok(page_not_found()),
    }
}

fn version() -> Value {
    json!({"major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35", "gitVersion": concat!("v1.36.3+sealane-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": format!("linux/{}", arch())})
}

/// Go's name of this machine.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn root() -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    for group in discovery::GROUPS {
        paths.push(format!("/apis/{group}"));
        paths.extend(discovery::versions(group).iter().map(|v| format!("/apis/{group}/{v}")));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
            .map(String::from),
    );
    json!({"paths": paths})
}

fn health(path: &str, query: &Query) -> http::Response<axum::body::Body> {
    if !query.has("verbose") {
        return bytes(200, "text/plain; charset=utf-8", "ok");
    }
    let name = path.trim_start_matches('/');
    bytes(200, "text/plain; charset=utf-8", format!("[+]ping ok\n[+]store ok\n{name} check passed\n"))
}

fn aggregated(parts: &Parts) -> bool {
    parts.headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).any(|v| {
        v.split(',').any(|range| {
            range.contains("as=APIGroupDiscoveryList")
                && range.contains("v=v2")
                && !range.contains("v=v2beta1")
        })
    })
}

fn aggregate(parts: &Parts, core: bool) -> http::Response<axum::body::Body> {
    let body = discovery::aggregated(core).to_string();
    // What is served never changes while the process runs: its length and version tell one from another.
    let etag =
        format!("\"{}-{}-{}\"", env!("CARGO_PKG_VERSION"), if core { "api" } else { "apis" }, body.len());
    let known = parts.headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()) == Some(etag.as_str());
    let mut response = if known { bytes(304, AGGREGATED, "") } else { bytes(200, AGGREGATED, body) };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

fn openapi_index() -> Value {
    let mut paths = Map::new();
    let entry = |at: &str| json!({"serverRelativeURL": format!("/openapi/v3/{at}?hash={}", env!("CARGO_PKG_VERSION"))});
    paths.insert("api/v1".into(), entry("api/v1"));
    for group in discovery::GROUPS {
        for version in discovery::versions(group) {
            let at = format!("apis/{group}/{version}");
            paths.insert(at.clone(), entry(&at));
        }
    }
    json!({"paths": paths})
}

/// The schemas of a group's kinds and of all that they refer to.
fn schemas(groups: &[&str], version: &str, prefix: &str) -> Map<String, Value> {
    let kinds = KINDS.iter().filter(|k| groups.contains(&k.group) && k.version == version);
    let mut wanted: Vec<&'static str> = kinds.map(|k| k.schema).collect();
    let mut all = Map::new();
    while let Some(key) = wanted.pop() {
        if all.contains_key(key) {
            continue;
        }
        let Some(definition) = schema::definition(key) else {
            all.insert(key.into(), json!({"type": "object"}));
            continue;
        };
        all.insert(key.into(), schema_of(key, definition, prefix, &mut wanted));
    }
    all
}

fn schema_of(
    key: &str,
    definition: &'static schema::Definition,
    prefix: &str,
    wanted: &mut Vec<&'static str>,
) -> Value {
    let mut out = json!({"type": "object"});
    let properties: Map<String, Value> = definition
        .fields
        .iter()
        .map(|(name, field)| ((*name).to_string(), field_schema(field, prefix, wanted)))
        .collect();
    if !properties.is_empty() {
        out["properties"] = Value::Object(properties);
    } else {
        // Quantity, Time, IntOrString and the like are written as text or numbers.
        out = match key.rsplit('.').next().unwrap_or_default() {
            "Quantity" | "Time" | "MicroTime" => json!({"type": "string"}),
            "IntOrString" => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            _ => json!({"type": "object"}),
        };
    }
    if let Some(kind) = KINDS.iter().find(|k| k.schema == key) {
        out["x-kubernetes-group-version-kind"] =
            json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
    }
    out
}

fn field_schema(field: &'static schema::Field, prefix: &str, wanted: &mut Vec<&'static str>) -> Value {
    if !field.reference.is_empty() {
        wanted.push(field.reference);
        return json!({"$ref": format!("{prefix}{}", field.reference)});
    }
    let mut out = json!({"type": if field.kind.is_empty() { "object" } else { field.kind }});
    if !field.format.is_empty() {
        out["format"] = json!(field.format);
    }
    if let Some(items) = &field.items {
        out["items"] = field_schema(items, prefix, wanted);
    }
    if let Some(values) = &field.values {
        out["additionalProperties"] = field_schema(values, prefix, wanted);
    }
    out
}

fn openapi(groups: &[&str], version: &str) -> Option<Value> {
    let all = schemas(groups, version, "#/components/schemas/");
    if all.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    for kind in KINDS.iter().filter(|k| groups.contains(&k.group) && k.version == version) {
        let base = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
        let place = if kind.namespaced() { "/namespaces/{namespace}" } else { "" };
        let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
        let action = |action: &str, parameters: &[&str]| {
            let parameters: Vec<Value> = parameters.iter().map(|p| query(p)).collect();
            json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk, "parameters": parameters,
                "responses": {"200": {"description": "OK"}}})
        };
        // kubectl looks here for whether the server checks fields itself.
        let options = ["dryRun", "fieldManager", "fieldValidation"];
        paths.insert(
            format!("{base}/{}{place}/{}", kind.version, kind.plural),
            json!({"post": action("post", &options), "get": action("list", &["labelSelector", "fieldSelector"])}),
        );
        paths.insert(
            format!("{base}/{}{place}/{}/{{name}}", kind.version, kind.plural),
            json!({"get": action("get", &[]), "put": action("put", &options), "patch": action("patch", &options),
                "delete": action("delete", &["dryRun"])}),
        );
    }
    Some(json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.3"}, "paths": paths,
        "components": {"schemas": all}}))
}

/// What kubectl asks for before it applies a `List` (client-go's discovery_client.go, `openAPISchemaV2`).
fn wants_protobuf(parts: &Parts) -> bool {
    let accepted = parts.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| kind.contains("proto-openapi.spec.v2"))
}

/// A document without definitions (gnostic's `openapiv2/OpenAPIv2.proto`: swagger, and info's title and version). kubectl
/// leaves the fields of kinds that it does not find here to the server, which checks them all.
fn openapi_v2_protobuf() -> Vec<u8> {
    let string = |number: u8, text: &str| [&[number << 3 | 2, text.len() as u8], text.as_bytes()].concat();
    let info = [string(1, "Kubernetes"), string(2, "v1.36.3")].concat();
    [string(1, "2.0"), [&[2 << 3 | 2, info.len() as u8], info.as_slice()].concat()].concat()
}

fn openapi_v2() -> Value {
    let mut all = Map::new();
    for kind in KINDS {
        all.extend(schemas(&[kind.group], kind.version, "#/definitions/"));
    }
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.36.3"}, "paths": {}, "definitions": all})
}
