//! Kinds that are kept in another's form: `events.k8s.io` Events are core Events
//! (`pkg/apis/events/v1/conversion.go`).

use serde_json::Value;

use crate::document::{map, remove};

/// The form that a kind's objects are kept in.
pub struct Stored {
    /// The kept form's `apiVersion`.
    pub api_version: &'static str,
    /// The kept form's `kind`.
    pub kind: &'static str,
    /// From the kind's form to the kept one.
    pub into: fn(&mut Value),
    /// From the kept form to the kind's.
    pub from: fn(&mut Value),
}

/// (core, events.k8s.io)
const FIELDS: &[(&str, &str)] = &[
    ("message", "note"),
    ("involvedObject", "regarding"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

pub(super) static EVENT: Stored =
    Stored { api_version: "v1", kind: "Event", into: event_into_core, from: event_from_core };

fn rename(object: &mut Value, from: &str, to: &str) {
    if let Some(value) = object.get_mut(from).map(Value::take) {
        object[to] = value;
        remove(object, from);
    }
}

fn event_into_core(object: &mut Value) {
    for (core, own) in FIELDS {
        rename(object, own, core);
    }
    object["apiVersion"] = Value::from("v1");
    map(object, "involvedObject");
    map(object, "source");
}

fn event_from_core(object: &mut Value) {
    for (core, own) in FIELDS {
        rename(object, core, own);
    }
    object["apiVersion"] = Value::from("events.k8s.io/v1");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_go_there_and_back() {
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a"},
            "note": "n", "regarding": {"kind": "Pod"}, "reportingController": "c", "eventTime": null,
            "deprecatedSource": {}, "deprecatedCount": 2, "reason": "R"});
        let mut made = event.clone();
        event_into_core(&mut made);
        assert_eq!(made["message"], "n");
        assert_eq!(made["involvedObject"]["kind"], "Pod");
        assert_eq!(made["count"], 2);
        event_from_core(&mut made);
        assert_eq!(made, event);
    }
}
