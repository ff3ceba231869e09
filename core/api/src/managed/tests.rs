//! Rules that the recordings don't show.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-11-21T00:00:00Z";

fn kind(name: &str) -> &'static Kind {
    crate::kinds::KINDS.iter().find(|k| k.kind == name).unwrap()
}

fn by(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: NOW }
}

fn config(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

fn fields(object: &Value, manager: &str) -> Value {
    let entries = items(&object["metadata"]["managedFields"]);
    entries.iter().find(|e| e["manager"] == manager).map_or(Value::Null, |e| e["fieldsV1"].clone())
}

fn deployment(containers: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"template": {"spec": {"containers": containers}}}})
}

#[test]
fn an_update_takes_what_it_changes_and_gives_up_what_it_removes() {
    let kind = kind("ConfigMap");
    let mut first = config(json!({"a": "1", "b": "2"}));
    update(kind, &mut first, None, &by("one"));
    assert_eq!(fields(&first, "one"), json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}));
    let mut second = config(json!({"a": "9"}));
    update(kind, &mut second, Some(&first), &Writer { now: "2026-11-21T00:00:09Z", ..by("two") });
    assert_eq!(fields(&second, "one"), json!({"f:data": {}}));
    assert_eq!(fields(&second, "two"), json!({"f:data": {"f:a": {}}}));
    let times: Vec<&str> =
        items(&second["metadata"]["managedFields"]).iter().map(|e| text(&e["time"])).collect();
    assert_eq!(times, [NOW, "2026-11-21T00:00:09Z"]);
    // Nothing changed: nothing is written, whoever asks.
    let mut third = second.clone();
    update(kind, &mut third, Some(&second), &by("three"));
    assert_eq!(third, second);
}

#[test]
fn clients_reset_owners_with_one_empty_entry_alone() {
    let kind = kind("ConfigMap");
    let mut old = config(json!({"a": "1"}));
    update(kind, &mut old, None, &by("one"));
    for (sent, left) in [(json!([]), true), (json!([{}]), false), (Value::Null, true)] {
        let mut new = config(json!({"a": "1"}));
        new["metadata"]["managedFields"] = sent.clone();
        update(kind, &mut new, Some(&old), &by("two"));
        assert_eq!(new["metadata"].get("managedFields").is_some(), left, "{sent}");
    }
}

#[test]
fn what_nobody_tracks_is_owned_from_the_first_apply_on() {
    let kind = kind("ConfigMap");
    let live = config(json!({"a": "1"}));
    let mut updated = config(json!({"a": "2"}));
    update(kind, &mut updated, Some(&live), &by("one"));
    assert_eq!(fields(&updated, "one"), Value::Null);
    let object = apply(kind, Some(&live), &config(json!({"b": "1"})), &by("two"), false).unwrap();
    assert_eq!(fields(&object, "before-first-apply"), json!({"f:data": {".": {}, "f:a": {}}}));
    assert_eq!(fields(&object, "two"), json!({"f:data": {"f:b": {}}}));
}

#[test]
fn status_and_the_rest_are_owned_apart() {
    let kind = kind("Node");
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
        "spec": {"podCIDRs": ["10.0.0.0/24"]}, "status": {"phase": "Running"}});
    update(kind, &mut node, None, &by("one"));
    assert_eq!(fields(&node, "one"), json!({"f:spec": {"f:podCIDRs": {".": {}, "v:\"10.0.0.0/24\"": {}}}}));
    let mut next = node.clone();
    next["status"]["phase"] = json!("Pending");
    next["spec"]["unschedulable"] = json!(true);
    update(kind, &mut next, Some(&node), &Writer { subresource: "status", ..by("kubelet") });
    assert_eq!(fields(&next, "kubelet"), json!({"f:status": {"f:phase": {}}}));
    assert_eq!(items(&next["metadata"]["managedFields"])[0]["subresource"], "status");
}

#[test]
fn many_updaters_become_ancient_changes() {
    let kind = kind("ConfigMap");
    let mut object = config(json!({}));
    update(kind, &mut object, None, &by("m00"));
    for n in 0..14 {
        let mut next = object.clone();
        next["data"][format!("k{n:02}")] = json!("v");
        let (manager, now) = (format!("m{n:02}"), format!("2026-11-21T00:00:{n:02}Z"));
        update(kind, &mut next, Some(&object), &Writer { manager: &manager, subresource: "", now: &now });
        object = next;
    }
    assert_eq!(items(&object["metadata"]["managedFields"]).len(), 10);
    let ancient = fields(&object, "ancient-changes");
    assert!(
        ancient["f:data"].get("f:k00").is_some() && ancient["f:data"].get("f:k04").is_some(),
        "{ancient}"
    );
}

#[test]
fn conflicts_name_every_field_and_force_takes_them() {
    let kind = kind("ConfigMap");
    let live = apply(kind, None, &config(json!({"a": "1", "b": "1"})), &by("one"), false).unwrap();
    let other = config(json!({"a": "2", "b": "2"}));
    let refused = apply(kind, Some(&live), &other, &by("two"), false).unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.a\n- .data.b"
    );
    let forced = apply(kind, Some(&live), &other, &by("two"), true).unwrap();
    assert_eq!((fields(&forced, "one"), &forced["data"]["a"]), (Value::Null, &json!("2")));
}

#[test]
fn a_container_that_is_given_up_stays_while_another_owns_some_of_it() {
    let kind = kind("Deployment");
    let both = deployment(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]));
    let live = apply(kind, None, &both, &by("one"), false).unwrap();
    let env = deployment(json!([{"name": "b", "workingDir": "/"}]));
    let live = apply(kind, Some(&live), &env, &by("two"), false).unwrap();
    let less = deployment(json!([{"name": "a", "image": "x"}]));
    let live = apply(kind, Some(&live), &less, &by("one"), false).unwrap();
    let left = json!([{"name": "a", "image": "x"}, {"name": "b", "workingDir": "/"}]);
    assert_eq!(live["spec"]["template"]["spec"]["containers"], left);
    let gone = apply(kind, Some(&live), &deployment(json!([])), &by("two"), false).unwrap();
    assert_eq!(gone["spec"]["template"]["spec"]["containers"], json!([{"name": "a", "image": "x"}]));
}

#[test]
fn merged_lists_keep_the_live_order_and_the_applied_one() {
    let kind = kind("Deployment");
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&["c"], &["side"], &["c", "side"]),
        (&["a", "b", "c"], &["c", "a"], &["b", "c", "a"]),
        (&["a", "b"], &["x", "b"], &["a", "x", "b"]),
        (&["a", "b"], &["a", "x", "b"], &["a", "x", "b"]),
        (&[], &["b", "a"], &["b", "a"]),
    ];
    let list = |names: &[&str]| -> Value { names.iter().map(|n| json!({"name": n})).collect() };
    for (live, applied, wanted) in cases {
        let object =
            apply(kind, Some(&deployment(list(live))), &deployment(list(applied)), &by("m"), true).unwrap();
        assert_eq!(object["spec"]["template"]["spec"]["containers"], list(wanted), "{live:?} {applied:?}");
    }
}

#[test]
fn configurations_that_cannot_be_applied_are_refused() {
    let kind = kind("Deployment");
    let cases = [
        (
            json!({"apiVersion": "apps/v2"}),
            400,
            "Incorrect version specified in apply patch. Specified patch version: apps/v2, expected: apps/v1",
        ),
        (
            json!({"apiVersion": "apps/v1", "metadata": {"managedFields": [{"manager": "x"}]}}),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            json!({"apiVersion": "apps/v1", "metadata": {"name": "d"}, "spec": {"foo": 1}}),
            500,
            "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema",
        ),
        (
            deployment(json!([{"name": "a"}, {"name": "a"}])),
            500,
            "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
    ];
    for (applied, code, message) in cases {
        let refused = apply(kind, None, &applied, &by("m"), false).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (code, message));
    }
}

/// A configuration as clients send it, without an empty map.
fn sent(data: &Value) -> Value {
    let mut config = config(data.clone());
    crate::document::omit_empty(&mut config, &["data"]);
    config
}

fn data() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-d]", "[12]", 0..4).prop_map(|m| json!(m))
}

proptest! {
    /// Applying has the last word on what it names, forgets what only it named, and applied again changes nothing.
    #[test]
    fn apply_settles(steps in prop::collection::vec((0usize..3, data()), 1..8)) {
        let kind = kind("ConfigMap");
        let mut live: Option<Value> = None;
        let mut last: [Value; 3] = [json!({}), json!({}), json!({})];
        for (who, data) in steps {
            let manager = ["x", "y", "z"][who];
            let mut next = apply(kind, live.as_ref(), &sent(&data), &by(manager), true).unwrap();
            // As decoding leaves it.
            crate::document::drop_nulls(&mut next);
            last[who] = data.clone();
            for (key, value) in data.as_object().unwrap() {
                prop_assert_eq!(&next["data"][key], value);
            }
            // Every key that is left, somebody's last configuration names.
            for key in next["data"].as_object().into_iter().flatten().map(|(key, _)| key) {
                prop_assert!(last.iter().any(|d| d.get(key).is_some()), "{} {:?}", next, last);
            }
            let again = apply(kind, Some(&next), &sent(&data), &by(manager), false).unwrap();
            prop_assert_eq!(&again["data"], &next["data"]);
            prop_assert_eq!(&again["metadata"], &next["metadata"]);
            live = Some(next);
        }
    }
}
