//! Article 002: Services, kuard, readiness, NodePort, load balancers, internal ones by annotation, endpoints that are
//! watched, variables, Endpoints that a user writes. The article's commands were pictures; these are the ones of the
//! book that it translates ("Kubernetes: Up and Running", Service Discovery). What it says of machines outside the
//! cluster is in outside_proxy.rs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::process::Command;

use sealane_tests::{Machine, Start, Stream, Up, demo, eventually, field, run, table};
use serde_json::{Value, json};

const BLUE: &str = "gcr.io/kuar-demo/kuard-amd64:blue";
const GREEN: &str = "gcr.io/kuar-demo/kuard-amd64:green";

/// What the book has its reader add to the container.
const PROBE: &str = "s/^\\( *\\)name: kuard-amd64$/&\\n\\1readinessProbe:\\n\\1  httpGet:\\n\\1    path: \\/ready\\n\
    \\1    port: 8080\\n\\1  periodSeconds: 2\\n\\1  initialDelaySeconds: 0\\n\\1  failureThreshold: 3\\n\
    \\1  successThreshold: 1/";

fn start() -> Up {
    let start = Start::new();
    start.load(&[demo().named(BLUE, &["kuard"], &[]), demo().named(GREEN, &["kuard"], &[])]);
    start.up()
}

#[track_caller]
fn create(up: &Up, name: &str, image: &str, replicas: usize) -> Vec<String> {
    let image = format!("--image={image}");
    let said = up.ok(&["create", "deployment", name, &image, "--port=8080"]);
    assert_eq!(said, format!("deployment.apps/{name} created\n"));
    let said = up.ok(&["scale", "deployment", name, "--replicas", &replicas.to_string()]);
    assert_eq!(said, format!("deployment.apps/{name} scaled\n"));
    up.ready_pods("default", &format!("app={name}"), replicas)
}

/// `kubectl edit` with sed in the editor's place.
#[track_caller]
fn edit(up: &Up, object: &str, script: &str) -> String {
    let editor = up.file("editor", &format!("#!/bin/sh\nexec sed -i '{script}' \"$1\"\n"));
    run(Command::new("chmod").arg("+x").arg(&editor), b"").ok();
    run(up.kubectl_command(&["edit", object]).env("KUBE_EDITOR", &editor), b"").ok()
}

#[track_caller]
fn port_forward(up: &Up, pod: &str) -> Stream {
    let mut forward = up.follow(&["port-forward", pod, "48858:8080"]);
    forward.expect("Forwarding from 127.0.0.1:48858 -> 8080");
    forward
}

const FORWARDED: &str = "127.0.0.1:48858";

#[track_caller]
fn addresses(up: &Up, selector: &str) -> BTreeSet<String> {
    let listed = up.value(&["get", "pods", "-l", selector], "{.items[*].status.podIP}");
    listed.split_whitespace().map(str::to_owned).collect()
}

/// The addresses in a row of `kubectl get endpoints`.
fn ends(row: &str) -> BTreeSet<String> {
    let cells = table(row).into_iter().next().unwrap_or_default();
    let list = cells.get(1).map(String::as_str).unwrap_or_default();
    list.split(',').filter_map(|end| end.strip_suffix(":8080")).map(str::to_owned).collect()
}

#[track_caller]
fn row_with(watch: &mut Stream, what: &str, wanted: &BTreeSet<String>) {
    watch.expect_line(what, |line| line.starts_with("alpaca-prod ") && ends(line) == *wanted);
}

#[test]
fn services_readiness_and_endpoints() {
    let up = start();
    create(&up, "alpaca-prod", BLUE, 3);
    assert_eq!(up.ok(&["expose", "deployment", "alpaca-prod"]), "service/alpaca-prod exposed\n");
    let bandicoots = create(&up, "bandicoot-prod", GREEN, 2);
    assert_eq!(up.ok(&["expose", "deployment", "bandicoot-prod"]), "service/bandicoot-prod exposed\n");

    let services = table(&up.ok(&["get", "services", "-o", "wide"]));
    assert_eq!(services[0], ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"]);
    assert_eq!(services.len(), 4, "{services:?}");
    for (row, name, port) in
        [(1, "alpaca-prod", "8080/TCP"), (2, "bandicoot-prod", "8080/TCP"), (3, "kubernetes", "443/TCP")]
    {
        let row = &services[row];
        assert_eq!([&row[0], &row[1], &row[3], &row[4]], [name, "ClusterIP", "<none>", port]);
        let selector = if name == "kubernetes" { "<none>".to_owned() } else { format!("app={name}") };
        assert_eq!(row[6], selector);
    }
    let cluster_ip = services[1][2].clone();

    let first = "{.items[0].metadata.name}";
    let pod = up.value(&["get", "pods", "-l", "app=alpaca-prod"], first);
    let forward = port_forward(&up, &pod);
    let page = up.http("GET", FORWARDED, "/", "").unwrap();
    assert!(page.status == 200 && page.body.contains(&format!("<h1>{pod}</h1>")), "{page:?}");
    for name in ["alpaca-prod", "alpaca-prod.default", "alpaca-prod.default.svc.cluster.local."] {
        let query = json!({"type": "A", "name": name}).to_string();
        let page = up.http("POST", FORWARDED, "/dns/api", &query).unwrap();
        let said: Value = serde_json::from_str(&page.body).unwrap();
        let said = said["result"].as_str().unwrap();
        let answer = said.lines().find(|l| l.starts_with("alpaca-prod.default.svc.cluster.local."));
        let fields: Vec<&str> = answer.unwrap_or_else(|| panic!("{said}")).split_whitespace().collect();
        assert_eq!([fields[2], fields[3], fields[4]], ["IN", "A", &cluster_ip], "{said}");
    }
    forward.interrupt();

    readiness(&up);
    node_port(&up, &cluster_ip);
    load_balancer(&up);
    internal_load_balancers(&up);
    watched_endpoints(&up);
    variables(&up, &cluster_ip, &bandicoots);

    let said = up.ok(&["delete", "services,deployments", "-l", "app"]);
    for gone in [
        "service \"alpaca-prod\"",
        "service \"bandicoot-prod\"",
        "deployment.apps \"alpaca-prod\"",
        "deployment.apps \"bandicoot-prod\"",
    ] {
        assert!(said.contains(&format!("{gone} deleted")), "{said}");
    }
    eventually("what belonged to them goes", || {
        let left = up.ok(&["get", "replicasets,pods,endpoints,endpointslices", "-l", "app", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    up.stop();
}

/// A probe by `kubectl edit`; then one Pod fails it until told otherwise, and endpoints are watched.
fn readiness(up: &Up) {
    let before = addresses(up, "app=alpaca-prod");
    assert_eq!(edit(up, "deployment/alpaca-prod", PROBE), "deployment.apps/alpaca-prod edited\n");
    let said = up.ok(&["rollout", "status", "deployment/alpaca-prod"]);
    assert!(said.contains("deployment \"alpaca-prod\" successfully rolled out"), "{said}");
    let pod = up.ready_pods("default", "app=alpaca-prod", 3).remove(0);
    let probe = up.json(&["get", "pod", &pod])["spec"]["containers"][0]["readinessProbe"].clone();
    let expected = json!({"httpGet": {"path": "/ready", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 2,
        "failureThreshold": 3, "successThreshold": 1, "timeoutSeconds": 1});
    assert_eq!(probe, expected);
    let all = addresses(up, "app=alpaca-prod");
    assert_ne!(all, before);

    let forward = port_forward(up, &pod);
    let mut watch = up.follow(&["get", "endpoints", "alpaca-prod", "--watch"]);
    let head = watch.expect_line("the head", |l| l.starts_with("NAME"));
    assert_eq!(table(&head)[0], ["NAME", "ENDPOINTS", "AGE"]);
    row_with(&mut watch, "three endpoints", &all);
    let address = up.value(&["get", "pod", &pod], "{.status.podIP}");
    let rest: BTreeSet<String> = all.iter().filter(|a| **a != address).cloned().collect();
    for _ in 0..2 {
        up.http("PUT", FORWARDED, "/ready/api", "{\"failNext\": -1}").unwrap();
        row_with(&mut watch, "two endpoints", &rest);
        let row = table(&up.ok(&["get", "pod", &pod])).remove(1);
        assert_eq!(row[1..4], ["0/1", "Running", "0"]);
        // It is asked all the same, and gets no connection of the Service's.
        let history = up.http("GET", FORWARDED, "/ready/api", "").unwrap().body;
        assert!(history.contains("500,500,500"), "{history}");
        let described = up.ok(&["describe", "endpoints", "alpaca-prod"]);
        assert_eq!(field(&described, "NotReadyAddresses"), address, "{described}");
        up.http("PUT", FORWARDED, "/ready/api", "{\"failNext\": 0}").unwrap();
        row_with(&mut watch, "three endpoints again", &all);
    }
    watch.interrupt();
    forward.interrupt();
}

fn node_port(up: &Up, cluster_ip: &str) {
    assert_eq!(
        edit(up, "service/alpaca-prod", "s/type: ClusterIP/type: NodePort/"),
        "service/alpaca-prod edited\n"
    );
    let described = up.ok(&["describe", "service", "alpaca-prod"]);
    assert_eq!(field(&described, "Type"), "NodePort");
    assert_eq!(field(&described, "IP"), cluster_ip);
    let port = field(&described, "NodePort");
    let port =
        port.strip_prefix("<unset>").map(str::trim).and_then(|p| p.strip_suffix("/TCP")).unwrap_or_default();
    assert!((30000..=32767).contains(&port.parse::<u16>().unwrap()), "{described}");
    assert_eq!(field(&described, "Endpoints").split(',').count(), 3);
    let node = up.value(&["get", "nodes"], "{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}");
    let names: BTreeSet<String> = up.ready_pods("default", "app=alpaca-prod", 3).into_iter().collect();
    let heading = |page: &str| names.iter().find(|n| page.contains(&format!("<h1>{n}</h1>"))).cloned();
    for address in [format!("{node}:{port}"), format!("{cluster_ip}:8080")] {
        let seen: BTreeSet<String> = (0..60).filter_map(|_| heading(&up.curl(&address))).collect();
        assert_eq!(seen, names, "{address}");
    }
}

/// Which of the three Pods of alpaca-prod answer at an address, over many connections.
#[track_caller]
fn answering(up: &Up, address: &str) -> BTreeSet<String> {
    let names = up.ready_pods("default", "app=alpaca-prod", 3);
    let heading = |page: &str| names.iter().find(|n| page.contains(&format!("<h1>{n}</h1>"))).cloned();
    (0..60).filter_map(|_| heading(&up.curl(address))).collect()
}

/// `kubectl edit` once more: pending, then an address, which the machine itself reaches.
fn load_balancer(up: &Up) {
    let mut watch = up.follow(&["get", "services", "alpaca-prod", "--watch"]);
    watch.expect_line("a NodePort", |line| line.starts_with("alpaca-prod ") && line.contains(" NodePort "));
    assert_eq!(
        edit(up, "service/alpaca-prod", "s/type: NodePort/type: LoadBalancer/"),
        "service/alpaca-prod edited\n"
    );
    watch.expect_line("pending", |line| line.contains(" LoadBalancer ") && line.contains("<pending>"));
    let row = watch
        .expect_line("an address", |line| line.contains(" LoadBalancer ") && !line.contains("<pending>"));
    watch.interrupt();
    let address = table(&row)[0][3].clone();
    assert_eq!(table(&up.ok(&["get", "services", "alpaca-prod"]))[1][3], address);
    let described = up.ok(&["describe", "service", "alpaca-prod"]);
    assert_eq!(field(&described, "Type"), "LoadBalancer");
    assert_eq!(field(&described, "LoadBalancer Ingress"), format!("{address} (VIP)"));
    assert_eq!(field(&described, "Endpoints").split(',').count(), 3);
    assert_eq!(answering(up, &format!("{address}:8080")).len(), 3);
    // The NodePort is there still.
    let node = up.value(&["get", "nodes"], "{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}");
    let port = up.value(&["get", "service", "alpaca-prod"], "{.spec.ports[0].nodePort}");
    assert_eq!(answering(up, &format!("{node}:{port}")).len(), 3);
}

/// The article's list of annotations: addresses that the outside does not have.
fn internal_load_balancers(up: &Up) {
    let outside = up.value(&["get", "service", "alpaca-prod"], "{.status.loadBalancer.ingress[0].ip}");
    let (public, _) = outside.rsplit_once('.').unwrap();
    let mut given = BTreeSet::new();
    for (cloud, annotation) in [
        ("azure", "service.beta.kubernetes.io/azure-load-balancer-internal: \"true\""),
        ("aws", "service.beta.kubernetes.io/aws-load-balancer-internal: \"true\""),
        ("alibaba", "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type: \"intranet\""),
        ("google", "cloud.google.com/load-balancer-type: \"Internal\""),
    ] {
        let name = format!("alpaca-{cloud}");
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  annotations:\n    {annotation}\nspec:\n  \
             type: LoadBalancer\n  selector:\n    app: alpaca-prod\n  ports:\n  - port: 8080\n    protocol: TCP\n    \
             targetPort: 8080\n"
        );
        up.apply(&yaml).ok();
        let address = eventually(&name, || match table(&up.ok(&["get", "service", &name]))[1][3].clone() {
            pending if pending == "<pending>" => Err(pending),
            address => Ok(address),
        });
        assert!(!address.starts_with(public), "{cloud}: {address} is of the pool of {outside}");
        assert_eq!(answering(up, &format!("{address}:8080")).len(), 3, "{cloud}");
        given.insert(address);
        assert_eq!(
            up.ok(&["delete", "service", &name]),
            format!("service \"{name}\" deleted from default namespace\n")
        );
    }
    assert_eq!(given.len(), 1, "one after the other they have the same: {given:?}");
}

/// A database outside of the cluster: a Service without a selector, and Endpoints with its address.
#[test]
fn a_database_outside_by_hand_made_endpoints() {
    let start = Start::new();
    let database = Machine::new();
    let ip = |machine: &Machine, words: &str| {
        run(machine.command("ip").args(words.split_whitespace()), b"").ok();
    };
    ip(&start.machine, &format!("link add lan0 type veth peer name eth0 netns {}", database.name()));
    for (machine, link, address) in [(&*start.machine, "lan0", "192.0.2.1"), (&database, "eth0", "192.0.2.2")]
    {
        ip(machine, &format!("addr add {address}/24 dev {link}"));
        ip(machine, &format!("link set {link} up"));
    }
    let listener = database.within(|| TcpListener::bind("192.0.2.2:1433").unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 8\r\n\r\ndatabase");
        }
    });
    let up = start.up();
    let yaml = "\
kind: Service
apiVersion: v1
metadata:
  name: my-database-server
spec:
  ports:
  - protocol: TCP
    port: 1433
    targetPort: 1433
---
kind: Endpoints
apiVersion: v1
metadata:
  name: my-database-server
subsets:
- addresses:
  - ip: 192.0.2.2
  ports:
  - port: 1433
";
    up.apply(yaml).ok();
    let described = up.ok(&["describe", "service", "my-database-server"]);
    assert_eq!(field(&described, "Selector"), "<none>");
    eventually("the endpoint is there", || match up.ok(&["describe", "service", "my-database-server"]) {
        text if field(&text, "Endpoints") == "192.0.2.2:1433" => Ok(()),
        text => Err(text),
    });
    up.ok(&["run", "client", "--image=sealane/demo", "--command", "--", "sleep", "3600"]);
    up.ready_pods("default", "run=client", 1);
    let said = eventually("a Pod reaches it by its name", || {
        let done = up.kubectl(&["exec", "client", "--", "curl", "-s", "http://my-database-server:1433/"]);
        if done.status.success() { Ok(done.stdout) } else { Err(done.to_string()) }
    });
    assert_eq!(said, "database");
    ip(&up.machine, "link del lan0");
    up.stop();
}

/// The Deployment is deleted and made anew under the eyes of a watch.
fn watched_endpoints(up: &Up) {
    let before = addresses(up, "app=alpaca-prod");
    let described = up.ok(&["describe", "endpoints", "alpaca-prod"]);
    let listed: BTreeSet<String> = field(&described, "Addresses").split(',').map(str::to_owned).collect();
    assert_eq!(listed, before);
    assert!(described.contains("<unset>  8080  TCP"), "{described}");
    let mut watch = up.follow(&["get", "endpoints", "alpaca-prod", "--watch"]);
    row_with(&mut watch, "three endpoints", &before);
    up.ok(&["delete", "deployment", "alpaca-prod"]);
    let none = |line: &str| line.starts_with("alpaca-prod ") && table(line)[0][1] == "<none>";
    watch.expect_line("no endpoints", none);
    create(up, "alpaca-prod", BLUE, 3);
    row_with(&mut watch, "three new endpoints", &addresses(up, "app=alpaca-prod"));
    watch.interrupt();
}

/// Discovery by labels, and the variables of Services that were there before the Pod.
fn variables(up: &Up, cluster_ip: &str, bandicoots: &[String]) {
    let all = table(&up.ok(&["get", "pods", "-o", "wide", "--show-labels"]));
    assert_eq!(all[0].last().map(String::as_str), Some("LABELS"));
    assert_eq!(all.len(), 6, "{all:?}");
    let some = table(&up.ok(&["get", "pods", "-o", "wide", "--selector=app=alpaca-prod"]));
    assert_eq!(some.len(), 4, "{some:?}");
    let found: BTreeSet<String> = some[1..].iter().map(|r| r[5].clone()).collect();
    assert_eq!(found, addresses(up, "app=alpaca-prod"));

    let forward = port_forward(up, &bandicoots[0]);
    let page: Value = serde_json::from_str(&up.http("GET", FORWARDED, "/env/api", "").unwrap().body).unwrap();
    let page = &page["env"];
    let url = format!("tcp://{cluster_ip}:8080");
    for (name, value) in [
        ("ALPACA_PROD_PORT", url.as_str()),
        ("ALPACA_PROD_PORT_8080_TCP", &url),
        ("ALPACA_PROD_PORT_8080_TCP_ADDR", cluster_ip),
        ("ALPACA_PROD_PORT_8080_TCP_PORT", "8080"),
        ("ALPACA_PROD_PORT_8080_TCP_PROTO", "tcp"),
        ("ALPACA_PROD_SERVICE_HOST", cluster_ip),
        ("ALPACA_PROD_SERVICE_PORT", "8080"),
    ] {
        assert_eq!(page[name], value, "{name}");
    }
    // Its own Service came after it.
    assert!(page["BANDICOOT_PROD_SERVICE_HOST"].is_null());
    forward.interrupt();
}
