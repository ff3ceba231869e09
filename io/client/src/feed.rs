//! List and watch of one kind, for as long as it is polled.

use std::time::Duration;

use futures::TryStreamExt;
use http::Request;
use kube::Client;
use kube::core::WatchEvent;
use sealane_api::Kind;
use serde_json::Value;

/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(10));
/// A watch is asked to end after so long (seconds), and is then resumed.
const WATCH_SECONDS: u32 = 290;

/// What a feed says.
#[derive(Debug)]
pub(crate) enum Fed {
    /// A list begins: what comes up to its end is all there is.
    ListBegins,
    /// An object of the list; it carries neither `apiVersion` nor `kind`.
    Listed(Value),
    /// The list is complete, as of this revision.
    ListEnds(u64),
    /// Added or changed.
    Applied(Value),
    /// Deleted; the last version.
    Deleted(Value),
    /// Nothing changed up to this revision.
    Revision(u64),
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

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

fn get(uri: String) -> Result<Request<Vec<u8>>, kube::Error> {
    Request::get(uri).header("accept", "application/json").body(Vec::new()).map_err(kube::Error::HttpError)
}

/// Feeds `emit` until it says that nobody listens any more. Lists, watches on from there, resumes a watch that ends, and
/// lists again where the API has forgotten the revision. `select` is a query that narrows it down, "" for all. A kind that isn't served counts as one without objects.
pub(crate) async fn feed(
    client: Client,
    kind: &'static Kind,
    select: String,
    mut emit: impl FnMut(Fed) -> bool,
) {
    let mut pause = PAUSES.0;
    let mut at: Option<String> = None;
    let mut absent = false;
    loop {
        let error = match at.take() {
            None => match list(&client, kind, &select, &mut emit).await {
                Ok(Some(revision)) => {
                    at = Some(revision);
                    absent = false;
                    pause = PAUSES.0;
                    continue;
                }
                Ok(None) => return,
                Err(error) => error,
            },
            Some(from) => match watch(&client, kind, &select, from, &mut emit).await {
                Ok(Some(revision)) => {
                    at = Some(revision);
                    pause = PAUSES.0;
                    continue;
                }
                Ok(None) => return,
                Err((error, last)) => {
                    // 410: the revision is too old, so list again; anything else may pass.
                    at = Some(last).filter(|_| code(&error) != 410);
                    error
                }
            },
        };
        let code = code(&error);
        if code == 410 {
            continue;
        }
        if code == 404 && at.is_none() && !absent {
            absent = true;
            if !emit(Fed::ListBegins) || !emit(Fed::ListEnds(0)) {
                return;
            }
        } else if code != 404 {
            tracing::warn!(kind = kind.plural, %error, "watching failed; trying again");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn list(
    client: &Client,
    kind: &Kind,
    select: &str,
    emit: &mut impl FnMut(Fed) -> bool,
) -> Result<Option<String>, kube::Error> {
    let mut value: Value = client.request(get(format!("{}?{select}", path(kind, "")))?).await?;
    let at = value["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    let items = value.get_mut("items").map(Value::take);
    if !emit(Fed::ListBegins) {
        return Ok(None);
    }
    if let Some(Value::Array(items)) = items {
        for item in items {
            if !emit(Fed::Listed(item)) {
                return Ok(None);
            }
        }
    }
    Ok(emit(Fed::ListEnds(number(&at))).then_some(at))
}

/// Watches from a revision on; returns the last one seen when the watch ends, also beside an error.
async fn watch(
    client: &Client,
    kind: &Kind,
    select: &str,
    from: String,
    emit: &mut impl FnMut(Fed) -> bool,
) -> Result<Option<String>, (kube::Error, String)> {
    let uri = format!(
        "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={from}&{select}",
        path(kind, "")
    );
    let mut at = from;
    let request = get(uri).map_err(|e| (e, at.clone()))?;
    let events = client.request_events::<Value>(request).await.map_err(|e| (e, at.clone()))?;
    let mut events = std::pin::pin!(events);
    let mut quiet = true;
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) if quiet => {
                // A watch that ends at once is not asked for again at once.
                tokio::time::sleep(PAUSES.0).await;
                return Ok(Some(at));
            }
            Ok(None) => return Ok(Some(at)),
            Err(error) => return Err((error, at)),
        };
        quiet = false;
        let seen = |object: &Value| object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        let fed = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                at = seen(&object).unwrap_or(at);
                Fed::Applied(object)
            }
            WatchEvent::Deleted(object) => {
                at = seen(&object).unwrap_or(at);
                Fed::Deleted(object)
            }
            WatchEvent::Bookmark(bookmark) => {
                at = bookmark.metadata.resource_version;
                Fed::Revision(number(&at))
            }
            WatchEvent::Error(status) => return Err((kube::Error::Api(status), at)),
        };
        if !emit(fed) {
            return Ok(None);
        }
    }
}
