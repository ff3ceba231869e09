//! List and watch of one kind, for as long as it is polled.

use std::time::Duration;

use futures::AsyncBufReadExt;
use http::Request;
use kube::Client;
use sealane_api::Kind;
use sealane_catalog::read::{Fields, Line, ListReader, ReadError, line};
use serde_json::Value;

/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(10));
/// A watch is asked to end after so long (seconds), and is then resumed.
const WATCH_SECONDS: u32 = 290;

/// What is listed and watched: all objects of a kind, or those that a label selector picks.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    /// Key of a label that they have, or, behind a `!`, that they have not; "": all of them.
    pub(crate) label: &'static str,
    /// Name of the only one; "": all of them.
    pub(crate) name: String,
    /// Who may not see them goes on as if there were none.
    pub(crate) optional: bool,
}

/// All objects of a kind.
impl From<&Kind> for Watched {
    fn from(kind: &Kind) -> Self {
        Watched {
            group: kind.group,
            version: kind.version,
            plural: kind.plural,
            label: "",
            name: String::new(),
            optional: false,
        }
    }
}

impl Watched {
    /// Path and query.
    fn uri(&self, query: &str) -> String {
        let Watched { group, version, plural, label, name, .. } = self;
        let path =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let selector = format!("labelSelector={}", label.replace('/', "%2F"));
        let only = format!("fieldSelector=metadata.name%3D{name}");
        let words = [(query, query), (label, &selector), (name, &only)];
        let words = words.iter().filter(|(given, _)| !given.is_empty()).map(|(_, word)| *word);
        let query = words.collect::<Vec<_>>().join("&");
        format!("{path}/{plural}{}{query}", if query.is_empty() { "" } else { "?" })
    }
}

/// What a feed says.
#[derive(Debug)]
pub(crate) enum Fed {
    /// A list begins: what comes up to its end is all there is.
    ListBegins,
    /// An object of the list; it carries neither `apiVersion` nor `kind`.
    Listed(Value),
    /// The list is complete, as of this revision.
    ListEnds(u64),
    /// The list broke off.
    ListFails,
    /// Added or changed.
    Applied(Value),
    /// Deleted; the last version.
    Deleted(Value),
    /// Nothing changed up to this revision.
    Revision(u64),
    /// The watch is there.
    Connected,
    /// There is no list or watch now; it is tried again.
    Lost,
}

/// Why a list or watch ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the connection broke: {0}")]
    Connection(#[from] std::io::Error),
    #[error("the API's answer cannot be read: {0}")]
    Answer(#[from] ReadError),
    /// A watch's last words.
    #[error("the watch was ended: {1} ({0})")]
    Status(u64, String),
}

/// The path of all objects of a kind.
pub(crate) fn path(kind: &Kind, namespace: &str) -> String {
    let group = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    if kind.namespaced() && !namespace.is_empty() {
        format!("{group}/namespaces/{namespace}/{}", kind.plural)
    } else {
        format!("{group}/{}", kind.plural)
    }
}

fn number(revision: &str) -> u64 {
    revision.parse().unwrap_or(0)
}

fn code(error: &Broken) -> u64 {
    match error {
        Broken::Api(kube::Error::Api(status)) => status.code.into(),
        Broken::Status(code, _) => *code,
        _ => 0,
    }
}

fn get(uri: String) -> Result<Request<Vec<u8>>, kube::Error> {
    // Compressed streams come late, and cost more than they save so near the API.
    let request =
        Request::get(uri).header("accept", "application/json").header("accept-encoding", "identity");
    request.body(Vec::new()).map_err(kube::Error::HttpError)
}

/// Feeds `emit` until it says that nobody listens any more. Lists, watches on from there, resumes a watch that ends, and
/// lists again where the API has forgotten the revision. A kind that isn't served counts as one without objects. Of
/// objects only `fields` are kept, and never more than one at a time.
pub(crate) async fn feed(
    client: Client,
    watched: impl Into<Watched>,
    fields: &'static Fields,
    mut emit: impl FnMut(Fed) -> bool,
) {
    let watched = watched.into();
    let mut pause = PAUSES.0;
    let mut at: Option<String> = None;
    let mut absent = false;
    loop {
        let error = match at.take() {
            None => match list(&client, &watched, fields, &mut emit).await {
                Ok(Some(revision)) => {
                    at = Some(revision);
                    absent = false;
                    pause = PAUSES.0;
                    continue;
                }
                Ok(None) => return,
                Err(error) => error,
            },
            Some(from) => match watch(&client, &watched, fields, from, &mut emit).await {
                Ok(Some(revision)) => {
                    at = Some(revision);
                    pause = PAUSES.0;
                    continue;
                }
                Ok(None) => return,
                Err((error, last)) => {
                    // 410: the revision is too old, 404: the kind has gone, so list again; anything else may pass.
                    at = Some(last).filter(|_| !matches!(code(&error), 404 | 410));
                    error
                }
            },
        };
        let code = code(&error);
        if code == 410 {
            continue;
        }
        if (code == 404 || code == 403 && watched.optional) && at.is_none() {
            if !absent {
                if code == 403 {
                    tracing::warn!(kind = watched.plural, %error, "going on without");
                }
                if !emit(Fed::ListBegins) || !emit(Fed::ListEnds(0)) {
                    return;
                }
            }
            absent = true;
        } else {
            tracing::warn!(kind = watched.plural, %error, "watching failed; trying again");
            if !emit(Fed::Lost) {
                return;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn list(
    client: &Client,
    watched: &Watched,
    fields: &'static Fields,
    emit: &mut impl FnMut(Fed) -> bool,
) -> Result<Option<String>, Broken> {
    let body = client.request_stream(get(watched.uri(""))?).await?;
    if !emit(Fed::ListBegins) {
        return Ok(None);
    }
    let listed = items(body, fields, emit).await;
    if listed.is_err() && !emit(Fed::ListFails) {
        return Ok(None);
    }
    let Some(metadata) = listed? else { return Ok(None) };
    let at = metadata["resourceVersion"].as_str().unwrap_or("0").to_owned();
    Ok(emit(Fed::ListEnds(number(&at))).then_some(at))
}

/// A list's items as they come; then its metadata.
async fn items(
    body: impl futures::AsyncBufRead,
    fields: &'static Fields,
    emit: &mut impl FnMut(Fed) -> bool,
) -> Result<Option<Value>, Broken> {
    let mut body = std::pin::pin!(body);
    let (mut reader, mut heard) = (ListReader::new(fields), true);
    loop {
        let bytes = body.fill_buf().await?;
        if bytes.is_empty() {
            return Ok(Some(reader.finish()?));
        }
        reader.push(bytes, |item| heard = heard && emit(Fed::Listed(item)))?;
        if !heard {
            return Ok(None);
        }
        let taken = bytes.len();
        body.as_mut().consume(taken);
    }
}

/// Watches from a revision on; returns the last one seen when the watch ends, also beside an error.
async fn watch(
    client: &Client,
    watched: &Watched,
    fields: &'static Fields,
    from: String,
    emit: &mut impl FnMut(Fed) -> bool,
) -> Result<Option<String>, (Broken, String)> {
    let uri = watched.uri(&format!(
        "watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={from}"
    ));
    let mut at = from;
    let request = get(uri).map_err(|e| (e.into(), at.clone()))?;
    let body = client.request_stream(request).await.map_err(|e| (e.into(), at.clone()))?;
    if !emit(Fed::Connected) {
        return Ok(None);
    }
    let mut body = std::pin::pin!(body);
    let mut text = Vec::new();
    let mut quiet = true;
    loop {
        text.clear();
        match body.read_until(b'\n', &mut text).await {
            // What a line lacks at the end of the stream comes with the next watch.
            Ok(_) if text.last() != Some(&b'\n') => {
                if quiet {
                    // A watch that ends at once is not asked for again at once.
                    tokio::time::sleep(PAUSES.0).await;
                }
                return Ok(Some(at));
            }
            Ok(_) if text.trim_ascii().is_empty() => continue,
            Ok(_) => quiet = false,
            Err(error) => return Err((error.into(), at)),
        }
        let line = line(fields, &text).map_err(|e| (e.into(), at.clone()))?;
        let seen = |object: &Value| object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        let fed = match line {
            Line::Applied(object) => {
                at = seen(&object).unwrap_or(at);
                Fed::Applied(object)
            }
            Line::Deleted(object) => {
                at = seen(&object).unwrap_or(at);
                Fed::Deleted(object)
            }
            Line::Bookmark(object) => {
                at = seen(&object).unwrap_or(at);
                Fed::Revision(number(&at))
            }
            Line::Error(status) => {
                let why = status["message"].as_str().unwrap_or_default().to_owned();
                return Err((Broken::Status(status["code"].as_u64().unwrap_or(0), why), at));
            }
        };
        if !emit(fed) {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_objects_are() {
        let slices = Watched {
            group: "discovery.k8s.io",
            version: "v1",
            plural: "endpointslices",
            label: "",
            name: String::new(),
            optional: false,
        };
        let labelled = Watched { label: "a.b/c", ..slices.clone() };
        let without = Watched { label: "!a.b/c", ..slices.clone() };
        let pods = Watched { group: "", version: "v1", plural: "pods", ..slices.clone() };
        let one = Watched { name: "n1".to_owned(), ..pods.clone() };
        for (watched, query, uri) in [
            (&slices, "", "/apis/discovery.k8s.io/v1/endpointslices"),
            (&slices, "watch=true", "/apis/discovery.k8s.io/v1/endpointslices?watch=true"),
            (&labelled, "", "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=a.b%2Fc"),
            (&labelled, "w=1", "/apis/discovery.k8s.io/v1/endpointslices?w=1&labelSelector=a.b%2Fc"),
            (&without, "", "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=!a.b%2Fc"),
            (&pods, "w=1", "/api/v1/pods?w=1"),
            (&one, "w=1", "/api/v1/pods?w=1&fieldSelector=metadata.name%3Dn1"),
        ] {
            assert_eq!(watched.uri(query), uri);
        }
    }
}
