//! Which fields a field selector may name, as data (upstream `pkg/apis/*/v1/conversion.go` and the
//! strategies' `GetAttrs`).

use serde_json::Value;

use crate::document::text;

/// A field that a selector may name.
pub struct SelectableField {
    /// Its name in a selector.
    pub label: &'static str,
    /// Where it is in the object.
    pub path: &'static [&'static str],
    /// What its absence reads as, e.g. `false` for a missing boolean.
    pub absent: &'static str,
}

impl SelectableField {
    /// The value that a selector compares.
    pub fn value(&self, object: &Value) -> String {
        let at = self.path.iter().try_fold(object, |at, key| at.get(key)).unwrap_or(&Value::Null);
        match at {
            Value::Null => self.absent.to_owned(),
            Value::Array(list) => {
                // `status.podIPs` is the only list: the addresses, joined.
                list.iter().map(|ip| text(&ip["ip"])).collect::<Vec<_>>().join(",")
            }
            Value::String(s) if s.is_empty() => self.absent.to_owned(),
            Value::String(s) => s.clone(),
            other => other.to_string(),
        }
    }
}

/// How an unknown field is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldRefusal {
    /// `"data.x" is not a known field selector: only "metadata.name", "metadata.namespace"`
    Unknown,
    /// `field label not supported: spec.hostname`
    NotSupported,
}

const fn field(label: &'static str, path: &'static [&'static str]) -> SelectableField {
    SelectableField { label, path, absent: "" }
}

pub(super) static POD: &[SelectableField] = &[
    field("spec.nodeName", &["spec", "nodeName"]),
    field("spec.host", &["spec", "nodeName"]),
    field("spec.restartPolicy", &["spec", "restartPolicy"]),
    field("spec.schedulerName", &["spec", "schedulerName"]),
    field("spec.serviceAccountName", &["spec", "serviceAccountName"]),
    SelectableField { label: "spec.hostNetwork", path: &["spec", "hostNetwork"], absent: "false" },
    field("status.phase", &["status", "phase"]),
    field("status.podIP", &["status", "podIP"]),
    field("status.podIPs", &["status", "podIPs"]),
    field("status.nominatedNodeName", &["status", "nominatedNodeName"]),
];

pub(super) static NODE: &[SelectableField] =
    &[SelectableField { label: "spec.unschedulable", path: &["spec", "unschedulable"], absent: "false" }];

pub(super) static NAMESPACE: &[SelectableField] = &[field("status.phase", &["status", "phase"])];

pub(super) static SECRET: &[SelectableField] = &[field("type", &["type"])];

pub(super) static SERVICE: &[SelectableField] =
    &[field("spec.clusterIP", &["spec", "clusterIP"]), field("spec.type", &["spec", "type"])];

pub(super) static EVENT: &[SelectableField] = &[
    field("involvedObject.kind", &["involvedObject", "kind"]),
    field("involvedObject.namespace", &["involvedObject", "namespace"]),
    field("involvedObject.name", &["involvedObject", "name"]),
    field("involvedObject.uid", &["involvedObject", "uid"]),
    field("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
    field("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
    field("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
    field("reason", &["reason"]),
    field("reportingComponent", &["reportingComponent"]),
    field("source", &["source", "component"]),
    field("type", &["type"]),
];

pub(super) static EVENTS_EVENT: &[SelectableField] = &[
    field("regarding.kind", &["regarding", "kind"]),
    field("regarding.namespace", &["regarding", "namespace"]),
    field("regarding.name", &["regarding", "name"]),
    field("regarding.uid", &["regarding", "uid"]),
    field("regarding.apiVersion", &["regarding", "apiVersion"]),
    field("regarding.resourceVersion", &["regarding", "resourceVersion"]),
    field("regarding.fieldPath", &["regarding", "fieldPath"]),
    field("reason", &["reason"]),
    field("reportingController", &["reportingController"]),
    field("type", &["type"]),
];
