//! No document, however odd, makes a kind's hooks panic; defaults are settled by one application.

use proptest::prelude::*;
use sealane_api::columns::{self, Include};
use sealane_api::{defaults, kinds};
use serde_json::{Value, json};

const KEYS: &[&str] = &[
    "spec",
    "status",
    "metadata",
    "template",
    "containers",
    "initContainers",
    "ports",
    "name",
    "port",
    "targetPort",
    "selector",
    "matchLabels",
    "matchExpressions",
    "labels",
    "annotations",
    "rules",
    "subjects",
    "roleRef",
    "subsets",
    "addresses",
    "endpoints",
    "conditions",
    "data",
    "stringData",
    "volumes",
    "emptyDir",
    "env",
    "valueFrom",
    "resources",
    "limits",
    "requests",
    "cpu",
    "readinessProbe",
    "httpGet",
    "lifecycle",
    "preStop",
    "finalizers",
    "ownerReferences",
    "clusterIP",
    "clusterIPs",
    "ipFamilies",
    "type",
    "strategy",
    "rollingUpdate",
    "updateStrategy",
    "volumeClaimTemplates",
    "containerStatuses",
    "state",
    "terminated",
    "involvedObject",
    "tolerations",
    "taints",
    "loadBalancer",
    "ingress",
    "sessionAffinityConfig",
    "clientIP",
    "affinity",
    "dnsConfig",
    "hostAliases",
    "securityContext",
    "projected",
    "sources",
];
const TEXTS: &[&str] = &[
    "",
    "a",
    "None",
    "ClusterIP",
    "LoadBalancer",
    "ExternalName",
    "RollingUpdate",
    "Always",
    "10.0.0.1",
    "x_Y",
    "100%",
    "1Gi",
    "In",
    "ClientIP",
    "Local",
    "é\u{0}",
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![-2_i64..100_000, any::<i64>()].prop_map(Value::from),
        proptest::sample::select(TEXTS).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::hash_map(proptest::sample::select(KEYS), inner, 0..6)
                .prop_map(|m| m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Value>()),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Value> {
    let field = (proptest::sample::select(KEYS), any_value());
    proptest::collection::vec(field, 0..8).prop_map(|fields| {
        let mut object = json!({"metadata": {"name": "n", "namespace": "ns"}});
        for (key, value) in fields {
            object[key] = value;
        }
        object
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn hooks_take_any_document(new in any_object(), old in any_object()) {
        for kind in kinds::KINDS {
            let mut made = new.clone();
            defaults::apply(kind, &mut made);
            let once = made.clone();
            defaults::apply(kind, &mut made);
            prop_assert_eq!(&made, &once, "{} defaults again", kind.kind);
            (kind.prepare_create)(&mut made);
            let _ = defaults::service_families::settle(&mut made.clone(), &["IPv4"]);
            let account = defaults::pod_admission::Account { automount: None, image_pull_secrets: &Value::Null };
            defaults::pod_admission::admit(&mut made.clone(), account, "abcde");
            let mut updated = once;
            (kind.prepare_update)(&mut updated, &old);
            kind.prepare_status(&mut made, &old);
            for document in [&new, &made, &updated] {
                let _ = (kind.validate)(document, None);
                let _ = (kind.validate)(document, Some(&old));
                let _ = (kind.validate_status)(document, &old);
                let _ = (kind.warnings)(document, Some(&old));
                let _ = kind.generation_changes(document, &old);
                let _ = columns::row(kind, document, 0, Include::Object);
                if let Some(stored) = kind.stored_as {
                    (stored.into)(&mut made.clone());
                    (stored.from)(&mut made.clone());
                }
            }
        }
    }
}
