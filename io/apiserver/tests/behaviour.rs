//! What clients rely on beyond single answers: writes that race, tokens, rights, what a Service holds.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt;
use sealane_apiserver::nodes::NoNodes;
use sealane_apiserver::{ApiServer, Config};
use sealane_registry::rbac::User;
use serde_json::{Value, json};
use tower::ServiceExt;

async fn server() -> ApiServer {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let tokens = Arc::new(sealane_pki::TokenKey::from_pem(&key).unwrap());
    let store = Arc::new(sealane_store::MemoryStore::new());
    let server = ApiServer::new(Config::default(), store, Arc::new(NoNodes), tokens).unwrap();
    server.bootstrap().await.unwrap();
    server
}

fn admin(server: &ApiServer) -> Router {
    server.router_as(User { name: "admin".into(), groups: vec!["system:masters".into()], ..User::default() })
}

async fn send(
    router: &Router,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Value,
) -> (u16, Value) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let response = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn post(router: &Router, path: &str, body: Value) -> (u16, Value) {
    send(router, Method::POST, path, &[], body).await
}

async fn get(router: &Router, path: &str) -> (u16, Value) {
    send(router, Method::GET, path, &[], Value::Null).await
}

async fn merge(router: &Router, path: &str, body: Value) -> (u16, Value) {
    send(router, Method::PATCH, path, &[("content-type", "application/merge-patch+json")], body).await
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_that_race_all_count() {
    let server = server().await;
    let router = admin(&server);
    post(&router, CONFIG_MAPS, json!({"metadata": {"name": "c"}})).await;
    let path = format!("{CONFIG_MAPS}/c");
    // As many as are tried again at once.
    let racers = (0..8).map(|n| {
        let (router, path) = (router.clone(), path.clone());
        tokio::spawn(async move { merge(&router, &path, json!({"data": {n.to_string(): "x"}})).await.0 })
    });
    for racer in racers.collect::<Vec<_>>() {
        assert_eq!(racer.await.unwrap(), 200);
    }
    let (_, found) = get(&router, &path).await;
    assert_eq!(found["data"].as_object().unwrap().len(), 8);
}

#[tokio::test]
async fn a_write_is_read_and_listed_at_once() {
    let server = server().await;
    let router = admin(&server);
    for n in 0..20 {
        let (status, made) = post(&router, CONFIG_MAPS, json!({"metadata": {"generateName": "c-"}})).await;
        assert_eq!(status, 201);
        let name = made["metadata"]["name"].as_str().unwrap();
        assert_eq!(get(&router, &format!("{CONFIG_MAPS}/{name}")).await.1, made);
        let (_, list) = get(&router, CONFIG_MAPS).await;
        assert_eq!(list["items"].as_array().unwrap().len(), n + 1);
        assert_eq!(list["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    }
}

#[tokio::test]
async fn pages_show_one_version_whatever_happens_in_between() {
    let server = server().await;
    let router = admin(&server);
    for n in 0..5 {
        post(&router, CONFIG_MAPS, json!({"metadata": {"name": format!("c{n}")}})).await;
    }
    let (_, first) = get(&router, &format!("{CONFIG_MAPS}?limit=2")).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    send(&router, Method::DELETE, &format!("{CONFIG_MAPS}/c3"), &[], Value::Null).await;
    post(&router, CONFIG_MAPS, json!({"metadata": {"name": "c31"}})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = get(&router, &format!("{CONFIG_MAPS}?limit=10&continue={token}")).await;
    let names: Vec<&str> =
        rest["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c2", "c3", "c4"]);
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_token_counts_while_its_account_is_there() {
    let server = server().await;
    let router = admin(&server);
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    post(&router, accounts, json!({"metadata": {"name": "web"}})).await;
    let (status, made) = post(&router, &format!("{accounts}/web/token"), json!({})).await;
    assert_eq!(status, 201, "{made}");
    let bearer = format!("Bearer {}", made["status"]["token"].as_str().unwrap());
    let anyone = server.router();
    let headers = [("authorization", bearer.as_str())];
    let list =
        |router: Router| async move { send(&router, Method::GET, CONFIG_MAPS, &headers, Value::Null).await };
    let (status, refused) = list(anyone.clone()).await;
    assert_eq!(status, 403);
    assert!(refused["message"].as_str().unwrap().contains("system:serviceaccount:default:web"), "{refused}");
    let role = json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    assert_eq!(post(&router, &format!("{rbac}/roles"), role).await.0, 201);
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": "default"}]});
    let (status, said) = post(&router, &format!("{rbac}/rolebindings"), binding).await;
    assert_eq!(status, 201, "{said}");
    assert_eq!(list(anyone.clone()).await.0, 200, "rights count from the answer on");
    let review = json!({"spec": {"token": made["status"]["token"]}});
    let (_, reviewed) = post(&router, "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(reviewed["status"]["user"]["username"], "system:serviceaccount:default:web");
    send(&router, Method::DELETE, &format!("{accounts}/web"), &[], Value::Null).await;
    assert_eq!(list(anyone).await.0, 401);
}

#[tokio::test]
async fn nobody_impersonates_without_the_right_to() {
    let server = server().await;
    let somebody = server.router_as(User { name: "eve".into(), ..User::default() });
    let headers = [("impersonate-user", "admin"), ("impersonate-group", "system:masters")];
    assert_eq!(send(&somebody, Method::GET, CONFIG_MAPS, &headers, Value::Null).await.0, 403);
    let headers = [("impersonate-user", "eve")];
    assert_eq!(send(&admin(&server), Method::GET, CONFIG_MAPS, &headers, Value::Null).await.0, 403);
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (_, said) = send(&admin(&server), Method::POST, review, &headers, json!({})).await;
    assert_eq!(said["status"]["userInfo"], json!({"username": "eve", "groups": ["system:authenticated"]}));
}

#[tokio::test]
async fn what_a_service_held_is_free_again() {
    let server = server().await;
    let router = admin(&server);
    let services = "/api/v1/namespaces/default/services";
    let body = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.77",
            "ports": [{"port": 80, "nodePort": 30007}]}})
    };
    assert_eq!(post(&router, services, body("a")).await.0, 201);
    assert_eq!(post(&router, services, body("b")).await.0, 422);
    let dry = send(&router, Method::DELETE, &format!("{services}/a?dryRun=All"), &[], Value::Null).await;
    assert_eq!(dry.0, 200);
    assert_eq!(post(&router, services, body("b")).await.0, 422, "a dry run frees nothing");
    send(&router, Method::DELETE, &format!("{services}/a"), &[], Value::Null).await;
    assert_eq!(post(&router, &format!("{services}?dryRun=All"), body("b")).await.0, 201);
    assert_eq!(post(&router, services, body("b")).await.0, 201, "a dry run takes nothing");
    let (status, plain) =
        merge(&router, &format!("{services}/b"), json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!(status, 200, "{plain}");
    let port = json!({"metadata": {"name": "c"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30007}]}});
    assert_eq!(post(&router, services, port).await.0, 201, "the port went with the type");
}

#[tokio::test]
async fn what_is_held_survives_a_restart() {
    let store = Arc::new(sealane_store::MemoryStore::new());
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let begin = || {
        let tokens = Arc::new(sealane_pki::TokenKey::from_pem(&key).unwrap());
        ApiServer::new(Config::default(), Arc::clone(&store), Arc::new(NoNodes), tokens).unwrap()
    };
    let services = "/api/v1/namespaces/default/services";
    let body = |name: &str| json!({"metadata": {"name": name}, "spec": {"clusterIP": "10.96.0.77", "ports": [{"port": 80}]}});
    let first = begin();
    first.bootstrap().await.unwrap();
    assert_eq!(post(&admin(&first), services, body("a")).await.0, 201);
    let second = begin();
    second.bootstrap().await.unwrap();
    let (status, refused) = post(&admin(&second), services, body("b")).await;
    assert_eq!(status, 422);
    assert!(refused["message"].as_str().unwrap().contains("provided IP is already allocated"), "{refused}");
}

#[tokio::test]
async fn an_object_ends_with_its_last_finalizer() {
    let server = server().await;
    let router = admin(&server);
    post(&router, CONFIG_MAPS, json!({"metadata": {"name": "c", "finalizers": ["x.io/hold"]}})).await;
    let path = format!("{CONFIG_MAPS}/c");
    let (status, marked) = send(&router, Method::DELETE, &path, &[], Value::Null).await;
    assert_eq!((status, marked["metadata"]["deletionTimestamp"].is_string()), (200, true));
    assert_eq!(get(&router, &path).await.0, 200);
    assert_eq!(merge(&router, &path, json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(get(&router, &path).await.0, 404);
}

#[tokio::test]
async fn too_large_is_refused() {
    let server = server().await;
    let router = admin(&server);
    let body = |size: usize| {
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "r"}, "revision": 1,
            "data": {"k": "x".repeat(size)}})
    };
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    for size in [1_600_000, 4_000_000] {
        let (status, refused) = post(&router, revisions, body(size)).await;
        assert_eq!((status, refused["reason"].as_str()), (413, Some("RequestEntityTooLarge")), "{size}");
    }
    assert_eq!(post(&router, revisions, body(1_500_000)).await.0, 201);
}

#[tokio::test]
async fn both_groups_show_the_same_events() {
    let server = server().await;
    let router = admin(&server);
    let body = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Started", "message": "it started", "type": "Normal"});
    let (status, made) = post(&router, "/api/v1/namespaces/default/events", body).await;
    assert_eq!(status, 201, "{made}");
    let (status, seen) = get(&router, "/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!((status, &seen["note"]), (200, &json!("it started")));
    assert_eq!(seen["apiVersion"], "events.k8s.io/v1");
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let server = server().await;
    let root = admin(&server);
    let base = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let roles = format!("{base}/roles");
    let rule = |groups: &[&str], resource: &str| json!({"apiGroups": groups, "resources": [resource], "verbs": ["*"]});
    let own = [rule(&["rbac.authorization.k8s.io"], "roles"), rule(&[""], "configmaps")];
    // Every verb on roles would be `escalate` too.
    let verbs = json!(["create", "update", "patch", "get"]);
    let own = json!([{"apiGroups": own[0]["apiGroups"], "resources": ["roles"], "verbs": verbs}, own[1]]);
    assert_eq!(post(&root, &roles, json!({"metadata": {"name": "own"}, "rules": own})).await.0, 201);
    let binding = json!({"metadata": {"name": "own"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "own"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    assert_eq!(post(&root, &format!("{base}/rolebindings"), binding).await.0, 201);

    let ann = server.router_as(User { name: "ann".into(), ..User::default() });
    let role = |resource: &str| json!({"metadata": {"name": "r"}, "rules": [rule(&[""], resource)]});
    assert_eq!(post(&ann, &roles, role("secrets")).await.0, 403);
    assert_eq!(post(&ann, &roles, role("configmaps")).await.0, 201);
    let path = format!("{roles}/r");
    assert_eq!(send(&ann, Method::PUT, &path, &[], role("secrets")).await.0, 403);
    assert_eq!(merge(&ann, &path, json!({"rules": [rule(&[""], "secrets")]})).await.0, 403);
    assert_eq!(merge(&root, &path, json!({"rules": [rule(&[""], "secrets")]})).await.0, 200);
}
