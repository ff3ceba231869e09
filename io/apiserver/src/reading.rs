//! get, list and watch, from the cache.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE_NO_PAD};
use http::{HeaderValue, Response, header};
use sealane_api::validation::options;
use sealane_api::{Kind, Status};
use sealane_store::Revision;
use serde_json::{Value, json};

use crate::answer::{self, Answer};
use crate::cache::Listing;
use crate::call::Call;
use crate::selection::Selection;
use crate::shared::now;
use crate::watching::{self, Watch};

/// How long a read waits for a version that is not there yet, at most.
const PATIENCE: Duration = Duration::from_secs(3);

/// The version of a query: `None` where it has none.
fn version(text: &str) -> Result<Option<Revision>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Status::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: \
             invalid syntax"
        ))
    })
}

/// Waits until the cache shows a version.
async fn reach(call: &Call, wanted: Revision) -> Result<(), Status> {
    let cache = &call.shared.cache;
    if cache.revision() >= wanted {
        return Ok(());
    }
    let asked = call.query.get("timeoutSeconds").parse().map_or(PATIENCE, Duration::from_secs);
    if tokio::time::timeout(asked.min(PATIENCE), cache.shows(wanted)).await.is_ok() {
        return Ok(());
    }
    let message = format!("Timeout: Too large resource version: {wanted}, current: {}", cache.revision());
    let mut status = Status::new(504, "Timeout", message);
    let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
    status.details = json!({"causes": [cause], "retryAfterSeconds": 1});
    Err(status)
}

pub(crate) async fn get(call: &Call, kind: &'static Kind) -> Answer {
    let format = call.format(true)?;
    if let Some(wanted) = version(call.query.get("resourceVersion"))? {
        reach(call, wanted).await?;
    }
    let name = &call.path.name;
    let found =
        call.shared.cache.get(kind, call.namespace(), name).ok_or_else(|| Status::not_found(kind, name))?;
    Ok(answer::object(200, kind, &found, format))
}

/// Where a page ended: the version of the whole list, and the last key that was sent.
struct Place {
    version: Revision,
    after: String,
}

impl Place {
    fn write(&self) -> String {
        // Upstream's shape (`storage/continue.go`); clients treat it as opaque.
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.version, "start": format!("{}\0", self.after)});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn read(text: &str) -> Result<Self, Status> {
        let invalid = |why: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        // Go's decoder does not mind what a cut token's last bits are.
        let lenient = GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));
        let bytes = lenient.decode(text.trim_end_matches('=')).map_err(|_| invalid("illegal base64 data"))?;
        let first = bytes.first().copied().unwrap_or(b' ');
        let token: Value = serde_json::from_slice(&bytes).map_err(|_| {
            let shown = if first.is_ascii_graphic() {
                char::from(first).to_string()
            } else {
                format!("\\u{first:04x}")
            };
            invalid(&format!("invalid character '{shown}' looking for beginning of value"))
        })?;
        match (token["rv"].as_u64(), token["start"].as_str()) {
            (Some(version), Some(start)) => {
                Ok(Place { version, after: start.trim_end_matches('\0').to_owned() })
            }
            _ => Err(invalid("incorrect encoded start resourceVersion")),
        }
    }
}

fn checked<'a>(call: &'a Call, watch: bool) -> Result<options::List<'a>, Status> {
    let query = &call.query;
    let options = options::List {
        watch,
        resource_version: query.get("resourceVersion"),
        version_match: query.get("resourceVersionMatch"),
        continues: query.get("continue"),
        initial_events: query.flag("sendInitialEvents"),
    };
    let errors = options::list(options);
    if errors.is_empty() {
        Ok(options)
    } else {
        Err(Status::invalid_of("meta.k8s.io", "ListOptions", "", &errors))
    }
}

pub(crate) fn selection(call: &Call, kind: &'static Kind) -> Result<Selection, Status> {
    let name = &call.path.name;
    let fields = call.query.get("fieldSelector");
    // A watch of one object by the old path is one by its name.
    let fields = if name.is_empty() { fields.to_owned() } else { format!("metadata.name={name}") };
    Selection::parse(kind, call.namespace(), call.query.get("labelSelector"), &fields)
}

fn key(kind: &Kind, entry: &crate::cache::Entry) -> String {
    let object = &entry.object;
    if kind.namespaced() {
        format!("{}/{}", object.namespace(), object.name())
    } else {
        object.name().to_owned()
    }
}

pub(crate) async fn list(call: &Call, kind: &'static Kind) -> Answer {
    let format = call.format(true)?;
    let options = checked(call, false)?;
    let selection = selection(call, kind)?;
    let place = match options.continues {
        "" => None,
        text => Some(Place::read(text)?),
    };
    let cache = &call.shared.cache;
    let wanted = version(options.resource_version)?;
    if let Some(wanted) = wanted {
        reach(call, wanted).await?;
    }
    let exact = match (&place, wanted, options.version_match) {
        (Some(place), _, _) => Some(place.version),
        (None, Some(wanted), "Exact") => Some(wanted),
        _ => None,
    };
    let mut listing = match exact {
        None => cache.list(kind, call.namespace()),
        Some(at) => cache.list_at(kind, call.namespace(), at).ok_or_else(|| too_old(place.is_some(), at))?,
    };
    if let Some(place) = &place {
        listing.entries.retain(|e| key(kind, e) > place.after);
    }
    listing.entries.retain(|e| selection.has(e));
    let metadata = page(call, kind, &mut listing, &selection);
    Ok(answer::list(kind, &listing, &metadata, format))
}

fn too_old(continued: bool, at: Revision) -> Status {
    let message = if continued {
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
         the continue parameter."
            .to_owned()
    } else {
        format!("The resourceVersion for the provided list is too old: {at}.")
    };
    Status::new(410, "Expired", message)
}

/// Cuts the listing to `limit` and says how it goes on.
fn page(call: &Call, kind: &Kind, listing: &mut Listing, selection: &Selection) -> Value {
    let mut metadata = json!({"resourceVersion": listing.revision.to_string()});
    let limit: usize = call.query.get("limit").parse().unwrap_or(0);
    if limit > 0 && listing.entries.len() > limit {
        let rest = listing.entries.len() - limit;
        listing.entries.truncate(limit);
        if let Some(last) = listing.entries.last() {
            let place = Place { version: listing.revision, after: key(kind, last) };
            metadata["continue"] = json!(place.write());
        }
        if selection.is_everything() {
            metadata["remainingItemCount"] = json!(rest);
        }
    }
    metadata
}

pub(crate) async fn watch(call: &Call, kind: &'static Kind) -> Answer {
    let format = call.format(true)?;
    let options = checked(call, true)?;
    let selection = selection(call, kind)?;
    let cache = &call.shared.cache;
    let wanted = version(options.resource_version)?;
    let initial_events = options.initial_events == Some(true);
    // Without a version, or from 0, what exists comes first; `sendInitialEvents` says so itself.
    let lists = match options.initial_events {
        Some(asked) => asked,
        None => wanted.unwrap_or(0) == 0,
    };
    if initial_events && let Some(wanted) = wanted {
        reach(call, wanted).await?;
    }
    let initial = lists.then(|| cache.list(kind, call.namespace()));
    let from = match wanted {
        Some(wanted) if wanted > 0 => wanted,
        _ => cache.revision(),
    };
    let bookmarks = call.query.flag("allowWatchBookmarks") == Some(true);
    let timeout = call.query.get("timeoutSeconds").parse().map(Duration::from_secs);
    let watch = Watch {
        selection,
        format,
        from,
        initial,
        marks_initial_end: initial_events && bookmarks,
        bookmarks,
        timeout: timeout.ok().filter(|t| !t.is_zero()).unwrap_or(call.shared.config.watch_timeout),
        clock: now,
    };
    let body = watching::body(watch, Arc::clone(cache), call.shared.stop.subscribe());
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.stream_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}
