//! ConfigMaps, Secrets, ServiceAccounts, Events and Leases.

use serde_json::{Value, json};

use super::{AGE, NAME, column, says};
use crate::document::{entries, int, items, text};
use crate::kinds::Column;
use crate::time;

/// ConfigMap.
pub const CONFIG_MAP: &[Column] = &[
    NAME,
    column("Data", "string", 0, says::CONFIG_MAP_DATA, |o, _| {
        json!(entries(&o["data"]).count() + entries(&o["binaryData"]).count())
    }),
    AGE,
];

/// Secret.
pub const SECRET: &[Column] = &[
    NAME,
    column("Type", "string", 0, says::SECRET_TYPE, |o, _| o["type"].clone()),
    column("Data", "string", 0, says::SECRET_DATA, |o, _| json!(entries(&o["data"]).count())),
    AGE,
];

/// ServiceAccount.
pub const SERVICE_ACCOUNT: &[Column] = &[
    NAME,
    column("Secrets", "string", 0, says::SERVICE_ACCOUNT_SECRETS, |o, _| json!(items(&o["secrets"]).len())),
    AGE,
];

/// Lease.
pub const LEASE: &[Column] = &[
    NAME,
    column("Holder", "string", 0, says::LEASE_HOLDER, |o, _| json!(text(&o["spec"]["holderIdentity"]))),
    AGE,
];

/// Event, of both groups.
pub const EVENT: &[Column] = &[
    column("Last Seen", "string", 0, says::EVENT_LAST_SEEN, |o, now| json!(last_seen(o, now))),
    column("Type", "string", 0, says::EVENT_TYPE, |o, _| json!(text(&o["type"]))),
    column("Reason", "string", 0, says::EVENT_REASON, |o, _| json!(text(&o["reason"]))),
    column("Object", "string", 0, says::EVENT_OBJECT, |o, _| {
        let about = involved(o);
        let (kind, name) = (text(&about["kind"]).to_lowercase(), text(&about["name"]));
        json!(if name.is_empty() { kind } else { format!("{kind}/{name}") })
    }),
    column("Subobject", "string", 1, says::EVENT_SUBOBJECT, |o, _| json!(text(&involved(o)["fieldPath"]))),
    column("Source", "string", 1, says::EVENT_SOURCE, |o, _| json!(source(o))),
    column("Message", "string", 0, says::EVENT_MESSAGE, |o, _| {
        let message = if o["message"].is_null() { text(&o["note"]) } else { text(&o["message"]) };
        json!(message.trim())
    }),
    column("First Seen", "string", 1, says::EVENT_FIRST_SEEN, |o, now| json!(first_seen(o, now))),
    column("Count", "string", 1, says::EVENT_COUNT, |o, _| {
        let series = int(&o["series"]["count"]);
        json!(if series > 0 { series } else { stamp_count(o).max(1) })
    }),
    Column {
        format: "name",
        ..column("Name", "string", 1, says::NAME, |o, _| o["metadata"]["name"].clone())
    },
];

fn involved(event: &Value) -> &Value {
    if event["involvedObject"].is_null() { &event["regarding"] } else { &event["involvedObject"] }
}

fn stamp_count(event: &Value) -> i64 {
    if event["count"].is_null() { int(&event["deprecatedCount"]) } else { int(&event["count"]) }
}

fn stamp<'a>(event: &'a Value, core: &str, deprecated: &str) -> &'a str {
    let at = text(&event[core]);
    if at.is_empty() { text(&event[deprecated]) } else { at }
}

fn first_seen(event: &Value, now: i64) -> String {
    let at = stamp(event, "firstTimestamp", "deprecatedFirstTimestamp");
    time::age(if at.is_empty() { text(&event["eventTime"]) } else { at }, now)
}

fn last_seen(event: &Value, now: i64) -> String {
    let series = text(&event["series"]["lastObservedTime"]);
    if !series.is_empty() {
        return time::age(series, now);
    }
    let at = stamp(event, "lastTimestamp", "deprecatedLastTimestamp");
    if at.is_empty() { first_seen(event, now) } else { time::age(at, now) }
}

/// `formatEventSource`.
fn source(event: &Value) -> String {
    let of = if event["source"].is_null() { &event["deprecatedSource"] } else { &event["source"] };
    let (component, host) = (text(&of["component"]), text(&of["host"]));
    let component = [component, text(&event["reportingComponent"]), text(&event["reportingController"])]
        .into_iter()
        .find(|s| !s.is_empty())
        .unwrap_or("");
    let host = if host.is_empty() { text(&event["reportingInstance"]) } else { host };
    [component, host].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(", ")
}
