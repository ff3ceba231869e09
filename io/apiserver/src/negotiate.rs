//! Content negotiation: which form an answer takes, and which a body has
//! (`apiserver/pkg/endpoints/handlers/negotiation`).

use http::{HeaderMap, header};
use sealane_api::columns::Include;
use sealane_api::{Status, decode};

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
    /// JSON of a `meta.k8s.io/v1 Table`.
    Table(Include),
    /// JSON of `meta.k8s.io/v1 PartialObjectMetadata`, or a list of it.
    Partial,
}

/// Protobuf's media type.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

impl Format {
    /// The answer's content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Json | Format::Table(_) | Format::Partial => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => PROTOBUF,
        }
    }

    /// A watch's content type.
    pub fn stream_type(self) -> &'static str {
        match self {
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            other => other.content_type(),
        }
    }
}

/// The first form of the Accept header that can be served; `views` says whether tables and metadata can be.
///
/// # Errors
/// 406 where none can.
pub fn accepted(headers: &HeaderMap, views: bool, include: Include) -> Result<Format, Status> {
    let mut given = false;
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or("").split(',').map(str::trim).filter(|r| !r.is_empty()) {
            given = true;
            if let Some(format) = served(range, views, include) {
                return Ok(format);
            }
        }
    }
    if !given {
        return Ok(Format::Json);
    }
    let mut status = Status::new(
        406,
        "NotAcceptable",
        "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, \
         application/vnd.kubernetes.protobuf",
    );
    status.details = serde_json::json!({});
    Err(status)
}

fn served(range: &str, views: bool, include: Include) -> Option<Format> {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next()?;
    let (mut kind, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", v)) => kind = v,
            Some(("g", v)) => group = v,
            Some(("v", v)) => version = v,
            _ => {}
        }
    }
    if !kind.is_empty() {
        let json = matches!(media, "application/json" | "*/*" | "application/*");
        if !views || !json || group != "meta.k8s.io" || version != "v1" {
            return None;
        }
        return match kind {
            "Table" => Some(Format::Table(include)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Format::Partial),
            _ => None,
        };
    }
    match media {
        "application/json" | "*/*" | "application/*" => Some(Format::Json),
        "application/yaml" => Some(Format::Yaml),
        PROTOBUF => Some(Format::Protobuf),
        _ => None,
    }
}

/// The form of a body by its content type; JSON where there is none.
///
/// # Errors
/// 415 for every other.
pub fn body_format(headers: &HeaderMap) -> Result<decode::Format, Status> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    match given.split(';').next().unwrap_or("").trim() {
        "" | "application/json" | "*/*" => Ok(decode::Format::Json),
        "application/yaml" => Ok(decode::Format::Yaml),
        PROTOBUF => Ok(decode::Format::Protobuf),
        _ => Err(Status::new(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_can_be_served_is_taken() {
        let table = Format::Table(Include::Metadata);
        let cases = [
            ("", Some(Format::Json)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some(table)),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json", Some(Format::Json)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Format::Partial)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Format::Protobuf)),
            ("application/yaml", Some(Format::Yaml)),
            ("application/cbor, */*", Some(Format::Json)),
            ("text/html", None),
        ];
        for (accept, expected) in cases {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(accepted(&headers, true, Include::Metadata).ok(), expected, "{accept}");
        }
    }
}
