//! The story `grpc`: three servers behind one name, one client with one channel; first through a ClusterIP, then
//! through a headless Service.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{DeleteParams, LogParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::chart::bars;

/// Where the story plays.
pub(crate) const NAMESPACE: &str = "demo-grpc";
/// The servers' port.
const PORT: u16 = 8001;
/// Calls at a time.
const THREADS: u64 = 10;
/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a client's run gave.
struct Run {
    title: &'static str,
    seconds: f64,
    pods: Vec<(String, u64)>,
}

pub(crate) async fn play(client: Client, calls: u64, colour: bool) -> Result<(), String> {
    remove(&client).await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    create(&namespaces, json!({"metadata": {"name": NAMESPACE}})).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let begun = Instant::now();
    create(&deployments, servers()).await?;
    create(&services, service(false)).await?;
    let ready = await_condition(deployments, "grpc-server", conditions::is_deployment_completed());
    patient("the servers", ready).await?.map_err(|e| e.to_string())?;
    println!("3 Pods of grpc-server, ready in {:.2} s", begun.elapsed().as_secs_f64());

    println!("{calls} calls over one channel through the ClusterIP ...");
    let first = run(&client, "cluster-ip", "ClusterIP: one connection, one Pod", 80, calls).await?;
    // A Service keeps its address for life: its headless twin is another one.
    services.delete("grpc-server-service", &DeleteParams::default()).await.map_err(|e| e.to_string())?;
    create(&services, service(true)).await?;
    println!("{calls} calls over one channel through the headless Service ...");
    let second = run(&client, "headless", "headless: a connection to every Pod", PORT, calls).await?;
    show(&[first, second], &client, colour).await?;
    commands(calls);
    Ok(())
}

/// Removes what the story made, and waits until it is gone.
pub(crate) async fn remove(client: &Client) -> Result<(), String> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let Some(found) = namespaces.get_opt(NAMESPACE).await.map_err(|e| e.to_string())? else { return Ok(()) };
    let uid = found.metadata.uid.unwrap_or_default();
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await.map_err(|e| e.to_string())?;
    let gone = await_condition(namespaces, NAMESPACE, conditions::is_deleted(&uid));
    patient("the namespace's end", gone).await?.map_err(|e| e.to_string())?;
    Ok(())
}

async fn create<K>(api: &Api<K>, object: Value) -> Result<(), String>
where
    K: Resource + Serialize + DeserializeOwned + Clone + Debug,
{
    let object: K = serde_json::from_value(object).map_err(|e| e.to_string())?;
    api.create(&PostParams::default(), &object).await.map(|_| ()).map_err(|e| e.to_string())
}

async fn patient<T>(what: &str, step: impl Future<Output = T>) -> Result<T, String> {
    let waited = tokio::time::timeout(PATIENCE, step).await;
    waited.map_err(|_| format!("{what} took more than {} s", PATIENCE.as_secs()))
}

fn servers() -> Value {
    json!({"metadata": {"name": "grpc-server"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "grpc-server"}},
        "template": {"metadata": {"labels": {"app": "grpc-server"}}, "spec": {"containers": [{"name": "grpc-server",
            "image": "sealane/demo", "imagePullPolicy": "IfNotPresent", "command": ["grpc-server", "--port", PORT.to_string()],
            "ports": [{"containerPort": PORT}], "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1}}]}}}})
}

fn service(headless: bool) -> Value {
    let mut service = json!({"metadata": {"name": "grpc-server-service"}, "spec": {"selector": {"app": "grpc-server"},
        "ports": [{"port": 80, "targetPort": PORT}]}});
    if headless {
        service["spec"]["clusterIP"] = json!("None");
    }
    service
}

async fn run(client: &Client, name: &str, title: &'static str, port: u16, calls: u64) -> Result<Run, String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let target = format!("grpc-server-service:{port}");
    let command = json!([
        "grpc-client",
        target,
        "--calls",
        calls.to_string(),
        "--threads",
        THREADS.to_string(),
        "--once"
    ]);
    let pod = json!({"metadata": {"name": name}, "spec": {"restartPolicy": "Never", "containers": [
        {"name": "grpc-client", "image": "sealane/demo", "imagePullPolicy": "IfNotPresent", "command": command}]}});
    create(&pods, pod).await?;
    let done = await_condition(pods.clone(), name, |pod: Option<&Pod>| {
        let phase = pod.and_then(|p| p.status.as_ref()).and_then(|s| s.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    });
    patient("the client", done).await?.map_err(|e| e.to_string())?;
    let log = pods.logs(name, &LogParams::default()).await.map_err(|e| e.to_string())?;
    let result = log
        .lines()
        .find_map(|l| l.strip_prefix("result "))
        .and_then(|r| serde_json::from_str::<Value>(r).ok());
    let result = result
        .ok_or_else(|| format!("the client failed: {}", log.lines().last().unwrap_or("it said nothing")))?;
    let counts = result["pods"].as_object().cloned().unwrap_or_default();
    Ok(Run {
        title,
        seconds: result["seconds"].as_f64().unwrap_or(0.0),
        pods: counts.into_iter().map(|(pod, n)| (pod, n.as_u64().unwrap_or(0))).collect(),
    })
}

async fn show(runs: &[Run], client: &Client, colour: bool) -> Result<(), String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let servers = pods
        .list(&kube::api::ListParams::default().labels("app=grpc-server"))
        .await
        .map_err(|e| e.to_string())?;
    let mut names: Vec<String> = servers.items.into_iter().filter_map(|p| p.metadata.name).collect();
    names.sort();
    for run in runs {
        // Pods that got no call are part of the picture.
        let count = |name: &String| run.pods.iter().find(|(pod, _)| pod == name).map_or(0, |(_, n)| *n);
        let counts: Vec<(String, u64)> = names.iter().map(|n| (n.clone(), count(n))).collect();
        println!("\n{} ({:.1} s)", run.title, run.seconds);
        bars(&counts, colour).iter().for_each(|line| println!("{line}"));
    }
    Ok(())
}

fn commands(calls: u64) {
    println!(
        "
what was done, for a cluster of your own (`sealane up`):
  kubectl create deployment grpc-server --image=sealane/demo --replicas=3 -- grpc-server --port {PORT}
  kubectl expose deployment grpc-server --name=grpc-server-service --port=80 --target-port={PORT}
  kubectl run cluster-ip --image=sealane/demo --restart=Never -- grpc-client grpc-server-service:80 --calls {calls} --once
  kubectl logs -f cluster-ip
  kubectl delete service grpc-server-service
  kubectl expose deployment grpc-server --name=grpc-server-service --port=80 --target-port={PORT} --cluster-ip=None
  kubectl run headless --image=sealane/demo --restart=Never -- grpc-client grpc-server-service:{PORT} --calls {calls} --once
  kubectl logs -f headless"
    );
}
