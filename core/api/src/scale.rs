//! `autoscaling/v1 Scale`: the view of a workload's `scale` subresource.

use serde_json::{Value, json};

use crate::document::{int, map};
use crate::field::{FieldError, FieldErrors, Path};
use crate::selector::Selector;

/// The Scale of a Deployment, ReplicaSet or StatefulSet.
pub fn of(object: &Value) -> Value {
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(key) {
            metadata[key] = value.clone();
        }
    }
    let mut scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": {},
        "status": {"replicas": int(&object["status"]["replicas"])}});
    // Go leaves 0 and "" out.
    let replicas = int(&object["spec"]["replicas"]);
    if replicas != 0 {
        scale["spec"]["replicas"] = json!(replicas);
    }
    let selector = Selector::from_label_selector(&object["spec"]["selector"]).map(|s| s.to_string());
    if let Some(selector) = selector.ok().filter(|s| !s.is_empty()) {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

/// Puts a Scale's replicas into the object, or says why not (the error is of `Scale.autoscaling`).
pub fn apply(object: &mut Value, scale: &Value) -> FieldErrors {
    let replicas = int(&scale["spec"]["replicas"]);
    if replicas < 0 {
        let path = Path::root("spec").child("replicas");
        let detail = "must be greater than or equal to 0";
        return vec![FieldError::invalid(&path, &json!(replicas), detail)];
    }
    map(object, "spec")["replicas"] = json!(replicas);
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_go_there_and_back() {
        let mut object = json!({"metadata": {"name": "w", "labels": {"a": "b"}}, "spec": {"replicas": 2,
            "selector": {"matchLabels": {"app": "w"}}}, "status": {"replicas": 1}});
        assert_eq!(
            of(&object),
            json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "w"},
                "spec": {"replicas": 2}, "status": {"replicas": 1, "selector": "app=w"}})
        );
        assert_eq!(apply(&mut object, &json!({"spec": {"replicas": 0}})), []);
        assert_eq!(of(&object)["spec"], json!({}));
        assert_eq!(apply(&mut object, &json!({"spec": {"replicas": -1}})).len(), 1);
    }
}
