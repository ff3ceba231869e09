use super::*;
use serde_json::{from_value, json};

#[derive(Default)]
struct Objects(Vec<ConfigMap>, Vec<Secret>);

impl References for Objects {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.0.iter().find(|c| c.metadata.name.as_deref() == Some(name))
    }
    fn secret(&self, name: &str) -> Option<&Secret> {
        self.1.iter().find(|c| c.metadata.name.as_deref() == Some(name))
    }
}

fn service(ns: &str, name: &str, ip: &str, created: &str) -> Service {
    from_value(json!({"metadata": {"namespace": ns, "name": name, "creationTimestamp": created},
        "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}, {"port": 53, "protocol": "UDP"}]}}))
    .unwrap()
}

fn pod() -> Pod {
    from_value(json!({"metadata": {"namespace": "shop", "name": "p",
        "creationTimestamp": "2026-01-01T00:00:10Z"}}))
    .unwrap()
}

#[test]
fn services_of_both_forms() {
    let services = [
        service("default", "kubernetes", "10.96.0.1", "2026-01-01T00:00:00Z"),
        service("shop", "red-is", "10.96.0.2", "2026-01-01T00:00:10Z"),
        service("shop", "headless", "None", "2026-01-01T00:00:00Z"),
        service("shop", "younger", "10.96.0.3", "2026-01-01T00:00:11Z"),
        service("other", "elsewhere", "10.96.0.4", "2026-01-01T00:00:00Z"),
    ];
    let env = service_variables(&pod(), &services, true);
    for (key, want) in [
        ("KUBERNETES_SERVICE_HOST", Some("10.96.0.1")),
        ("RED_IS_SERVICE_HOST", Some("10.96.0.2")),
        ("RED_IS_SERVICE_PORT", Some("80")),
        ("RED_IS_SERVICE_PORT_HTTP", Some("80")),
        ("RED_IS_PORT", Some("tcp://10.96.0.2:80")),
        ("RED_IS_PORT_80_TCP", Some("tcp://10.96.0.2:80")),
        ("RED_IS_PORT_80_TCP_PROTO", Some("tcp")),
        ("RED_IS_PORT_80_TCP_PORT", Some("80")),
        ("RED_IS_PORT_80_TCP_ADDR", Some("10.96.0.2")),
        ("RED_IS_PORT_53_UDP", Some("udp://10.96.0.2:53")),
        ("HEADLESS_SERVICE_HOST", None),
        ("YOUNGER_SERVICE_HOST", None),
        ("ELSEWHERE_SERVICE_HOST", None),
    ] {
        assert_eq!(env.get(key).map(String::as_str), want, "{key}");
    }
    let without = service_variables(&pod(), &services, false);
    assert!(without.contains_key("KUBERNETES_SERVICE_HOST"));
    assert!(!without.contains_key("RED_IS_SERVICE_HOST"));
}

#[test]
fn order_and_expansion() {
    let objects = Objects(
        vec![from_value(json!({"metadata": {"name": "cm"}, "data": {"A": "from-map", "B": "b"}})).unwrap()],
        vec![from_value(json!({"metadata": {"name": "s"}, "data": {"KEY": "c2VjcmV0"}})).unwrap()],
    );
    let c: Container = from_value(json!({"name": "c",
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"configMapRef": {"name": "no", "optional": true}}],
        "env": [
            {"name": "X", "value": "$(P_A)-$(SVC)-$(LATER)"},
            {"name": "LATER", "value": "l"},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "KEY"}}},
            {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "NO", "optional": true}}},
            {"name": "NS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "SVC2", "value": "mine"}]}))
    .unwrap();
    let services = BTreeMap::from([("SVC".into(), "svc".into()), ("SVC2".into(), "theirs".into())]);
    let env = container(&pod(), &c, &NodeFacts::default(), &services, &objects).unwrap();
    let get = |k: &str| env.iter().find(|(n, _)| n == k).map(|(_, v)| v.as_str());
    assert_eq!(get("P_B"), Some("b"));
    assert_eq!(get("X"), Some("from-map-svc-$(LATER)"));
    assert_eq!(get("S"), Some("secret"));
    assert_eq!(get("GONE"), None);
    assert_eq!(get("NS"), Some("shop"));
    assert_eq!(get("SVC2"), Some("mine"));
    assert_eq!(get("SVC"), Some("svc"));
    assert_eq!(referenced_objects(&c), (vec!["cm".into(), "no".into()], vec!["s".into()]));
}

#[test]
fn missing_references() {
    for (env, want) in [
        (json!({"secretKeyRef": {"name": "s", "key": "k"}}), "secret \"s\" not found"),
        (json!({"configMapKeyRef": {"name": "cm", "key": "k"}}), "couldn't find key k in ConfigMap shop/cm"),
    ] {
        let objects = Objects(vec![from_value(json!({"metadata": {"name": "cm"}})).unwrap()], vec![]);
        let c = from_value(json!({"name": "c", "env": [{"name": "X", "valueFrom": env}]})).unwrap();
        let err = container(&pod(), &c, &NodeFacts::default(), &BTreeMap::new(), &objects).unwrap_err();
        assert_eq!(err, want);
    }
}
