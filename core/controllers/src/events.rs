//! Events (kind Event): [`Recorder`] says each thing once and counts its repetitions, as client-go's recorder does.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::Controller;
use crate::doc::Key;
use crate::meta;
use crate::plan::{Note, Patch, Write, row};

/// So many different Events are counted on; then the one that was quiet for longest begins anew.
const REMEMBERED: usize = 4096;
/// Repetitions within this time count up the same object.
const SAME_FOR: Duration = Duration::from_secs(600);

/// What makes two notes the same.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct What {
    controller: Controller,
    uid: String,
    name: String,
    warning: bool,
    reason: &'static str,
    message: String,
}

struct Said {
    key: Key,
    count: i32,
    last: Timestamp,
}

/// Turns notes into writes of Events.
#[derive(Default)]
pub struct Recorder {
    said: HashMap<What, Said>,
    by_age: BTreeMap<(Timestamp, String), What>,
}

impl Recorder {
    /// The write that records a note: a new Event, or one more of an old one.
    pub fn record(&mut self, controller: Controller, note: &Note, now: Timestamp) -> Write {
        let about = &note.regarding;
        let name = about.name.clone().unwrap_or_default();
        let what = What {
            controller,
            uid: about.uid.clone().unwrap_or_default(),
            name: name.clone(),
            warning: note.warning,
            reason: note.reason,
            message: note.message.clone(),
        };
        let kind = row("v1", "Event");
        let at = meta::seconds(now).to_string();
        if let Some(said) = self.said.get_mut(&what)
            && Duration::try_from(now.duration_since(said.last)).is_ok_and(|d| d < SAME_FOR)
        {
            self.by_age.remove(&(said.last, said.key.name.to_string()));
            said.count += 1;
            said.last = now;
            self.by_age.insert((now, said.key.name.to_string()), what.clone());
            let body = json!({"count": said.count, "lastTimestamp": at});
            return Write::Patch {
                kind,
                key: said.key.clone(),
                subresource: None,
                patch: Patch::Merge,
                body,
            };
        }
        let namespace =
            about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
        // As client-go names them: the object and the time in hexadecimal; the clock may stand still, so count on.
        let mut stamp = now.as_nanosecond();
        while self.by_age.contains_key(&(now, format!("{name}.{stamp:x}"))) {
            stamp += 1;
        }
        let event = format!("{name}.{stamp:x}");
        let component = controller.component();
        let body = json!({"apiVersion": "v1", "kind": "Event",
            "metadata": {"name": event, "namespace": namespace},
            "involvedObject": about, "reason": note.reason, "message": note.message,
            "source": {"component": component}, "reportingComponent": component, "reportingInstance": "",
            "type": if note.warning { "Warning" } else { "Normal" },
            "firstTimestamp": at, "lastTimestamp": at, "count": 1});
        let key = Key::new(&namespace, &event);
        if let Some(old) = self.said.insert(what.clone(), Said { key, count: 1, last: now }) {
            self.by_age.remove(&(old.last, old.key.name.to_string()));
        }
        self.by_age.insert((now, event), what);
        if self.said.len() > REMEMBERED
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.said.remove(&oldest);
        }
        Write::Create { kind, namespace, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;

    #[test]
    fn repetitions_count_up() {
        let about = ObjectReference {
            name: Some("d".to_owned()),
            namespace: Some("shop".to_owned()),
            uid: Some("u".to_owned()),
            ..ObjectReference::default()
        };
        let note = |message: &str| Note::normal(about.clone(), "ScalingReplicaSet", message.to_owned());
        let mut recorder = Recorder::default();
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut names = std::collections::BTreeSet::new();
        for (after, message, created) in
            [(0, "a", true), (0, "b", true), (0, "a", false), (599, "a", false), (1300, "a", true)]
        {
            match recorder.record(Controller::Deployment, &note(message), meta::plus_seconds(start, after)) {
                Write::Create { body, namespace, .. } => {
                    assert!(created, "{after} {message}");
                    assert_eq!(namespace, "shop");
                    assert!(names.insert(body["metadata"]["name"].as_str().unwrap().to_owned()));
                }
                Write::Patch { body, .. } => {
                    assert!(!created, "{after} {message}");
                    assert!(body["count"].as_i64().unwrap() > 1);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
