//! Every kind of Service to its end: kubectl on one side, real connections on the other.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use sealane_tests::{Machine, Start, Up, eventually, field, run, table};
use serde_json::{Value, json};

/// For a connection that may meet a rule that swallows it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Labelled `app=web`; says who asks and who answers.
const WEB: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: sealane/demo, command: [web, --port, '8080'], ports: [{name: http, containerPort: 8080}]}
";

fn ip(machine: &Machine, words: &str) {
    run(machine.command("ip").args(words.split_whitespace()), b"").ok();
}

fn with_web(start: &Start) -> Up {
    let up = start.up();
    up.apply(WEB).ok();
    up.ready_pods("default", "app=web", 1);
    up
}

/// A Service of `app=web`, port 80 to 8080, with more of a spec.
fn service(name: &str, annotations: &Value, more: &Value) -> String {
    let mut spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "annotations": annotations}, "spec": spec})
        .to_string()
}

fn balanced(name: &str, annotations: &Value, more: &Value) -> String {
    let mut more = more.clone();
    more["type"] = json!("LoadBalancer");
    service(name, annotations, &more)
}

/// EXTERNAL-IP, as `kubectl get` prints it.
#[track_caller]
fn external_ip(up: &Up, name: &str) -> String {
    table(&up.ok(&["get", "service", name]))[1][3].clone()
}

#[track_caller]
fn becomes(up: &Up, name: &str, wanted: &str) {
    eventually(&format!("EXTERNAL-IP of {name} is {wanted}"), || match external_ip(up, name) {
        found if found == wanted => Ok(()),
        found => Err(format!("{found}\n{}", up.ok(&["describe", "service", name]))),
    });
}

/// Messages of an object's Events, in no order.
#[track_caller]
fn hears(up: &Up, name: &str, message: &str) {
    eventually(&format!("{name} hears {message:?}"), || {
        let all = up.value(&["events", "--for", &format!("service/{name}")], "{.items[*].message}");
        if all.contains(message) { Ok(()) } else { Err(all) }
    });
}

fn finalizers(up: &Up, name: &str) -> String {
    up.value(&["get", "service", name], "{.metadata.finalizers}")
}

#[test]
fn load_balancers_get_addresses_that_the_host_reaches() {
    let up = with_web(&Start::new());
    let mut watch = up.follow(&["get", "services", "--watch"]);
    watch.expect_line("the head", |line| line.contains("EXTERNAL-IP"));
    up.ok(&["expose", "deployment", "web", "--type=LoadBalancer", "--port=80", "--target-port=8080"]);
    // First pending, then an address; the internal pool lies behind the external one.
    watch.expect_line("pending", |line| line.starts_with("web ") && line.contains("<pending>"));
    watch.expect_line("an address", |line| line.starts_with("web ") && line.contains("10.111.254.1"));
    watch.interrupt();
    assert!(up.curl("10.111.254.1").contains("ServerName"));
    let described = up.ok(&["describe", "service", "web"]);
    assert_eq!(field(&described, "LoadBalancer Ingress"), "10.111.254.1 (VIP)");
    hears(&up, "web", "Ensuring load balancer");
    hears(&up, "web", "Ensured load balancer");
    // A Pod reaches it as well.
    up.ok(&["run", "caller", "--image=sealane/demo", "--command", "--", "sleep", "3600"]);
    up.ready_pods("default", "run=caller", 1);
    assert!(up.ok(&["exec", "caller", "--", "curl", "-s", "http://10.111.254.1/"]).contains("ServerName"));

    annotations_pick_the_internal_pool(&up);
    requests_are_met_or_refused_with_a_reason(&up);
    somebody_elses_are_left_alone(&up);

    // Released by another type, and given to the next; so is a deleted one's.
    up.ok(&["patch", "service", "web", "-p", "{\"spec\": {\"type\": \"ClusterIP\"}}"]);
    becomes(&up, "web", "<none>");
    eventually("no finalizer is left", || match finalizers(&up, "web") {
        none if none.is_empty() => Ok(()),
        some => Err(some),
    });
    up.apply(&balanced("next", &json!({}), &json!({}))).ok();
    becomes(&up, "next", "10.111.254.1");
    up.ok(&["delete", "service", "next"]);
    up.apply(&balanced("last", &json!({}), &json!({}))).ok();
    becomes(&up, "last", "10.111.254.1");
    // Ranges of sources pass through.
    assert!(up.curl("10.111.254.1").contains("ServerName"));
    up.ok(&[
        "patch",
        "service",
        "last",
        "-p",
        "{\"spec\": {\"loadBalancerSourceRanges\": [\"203.0.113.0/24\"]}}",
    ]);
    eventually("the host is kept out", || match up.http("GET", "10.111.254.1:80", "/", "") {
        Err(_) => Ok(()),
        Ok(page) => Err(page.body),
    });
    up.ok(&["delete", "service", "last"]);
    up.stop();
}

fn annotations_pick_the_internal_pool(up: &Up) {
    for (n, (key, value)) in [
        ("service.beta.kubernetes.io/azure-load-balancer-internal", "true"),
        ("service.beta.kubernetes.io/aws-load-balancer-internal", "true"),
        ("service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type", "intranet"),
        ("cloud.google.com/load-balancer-type", "Internal"),
    ]
    .into_iter()
    .enumerate()
    {
        let (name, address) = (format!("inside-{n}"), format!("10.111.255.{}", n + 1));
        up.apply(&balanced(&name, &json!({key: value}), &json!({}))).ok();
        becomes(up, &name, &address);
        assert!(up.curl(&address).contains("ServerName"), "{key}");
    }
}

fn requests_are_met_or_refused_with_a_reason(up: &Up) {
    up.apply(&balanced("asked", &json!({}), &json!({"loadBalancerIP": "10.111.254.9"}))).ok();
    becomes(up, "asked", "10.111.254.9");
    let annotation = json!({"sealane.dev/load-balancer-ips": "10.111.254.8"});
    up.apply(&balanced("noted", &annotation, &json!({}))).ok();
    becomes(up, "noted", "10.111.254.8");
    for (name, wanted, why) in [
        ("taken", "10.111.254.9", "10.111.254.9 is asked for and taken by Service default/asked"),
        ("outside", "192.0.2.1", "192.0.2.1 is asked for and not in --load-balancer-pool 10.111.254.0/24"),
    ] {
        up.apply(&balanced(name, &json!({}), &json!({"loadBalancerIP": wanted}))).ok();
        hears(up, name, &format!("Error syncing load balancer: {why}"));
        assert_eq!(external_ip(up, name), "<pending>");
    }
    // What it waits for comes free.
    up.ok(&["delete", "service", "asked"]);
    becomes(up, "taken", "10.111.254.9");
    // ClusterIPs are not taken from the pools.
    let refused = up.apply(&service("no", &json!({}), &json!({"clusterIP": "10.111.254.77"})));
    assert!(refused.stderr.contains("failed to allocate IP 10.111.254.77"), "{refused}");
}

fn somebody_elses_are_left_alone(up: &Up) {
    up.apply(&balanced("classy", &json!({}), &json!({"loadBalancerClass": "example.com/other"}))).ok();
    let name = "{\"status\": {\"loadBalancer\": {\"ingress\": [{\"hostname\": \"lb.example.com\"}]}}}";
    up.ok(&["patch", "service", "noted", "--subresource=status", "--type=merge", "-p", name]);
    becomes(up, "noted", "lb.example.com");
    // Its address is free by then.
    up.apply(&balanced("after", &json!({}), &json!({"loadBalancerIP": "10.111.254.8"}))).ok();
    becomes(up, "after", "10.111.254.8");
    assert_eq!(external_ip(up, "noted"), "lb.example.com");
    assert_eq!(external_ip(up, "classy"), "<pending>");
    assert_eq!(finalizers(up, "classy"), "");
    up.ok(&["delete", "service", "noted", "classy", "after"]);
}

/// A machine on a link `lan0` of another one, with these addresses.
fn neighbour(machine: &Machine) -> Machine {
    let other = Machine::new();
    ip(machine, &format!("link add lan0 type veth peer name eth0 netns {}", other.name()));
    for (end, link, address) in [(machine, "lan0", "192.0.2.1/24"), (&other, "eth0", "192.0.2.2/24")] {
        ip(end, &format!("address add {address} dev {link}"));
        ip(end, &format!("link set {link} up"));
    }
    other
}

#[test]
fn a_pool_on_the_hosts_network_is_announced_there() {
    let start = Start::new().arg("--load-balancer-pool").arg("192.0.2.100-192.0.2.101");
    let client = neighbour(&start.machine);
    let up = with_web(&start.arg("--announce").arg("lan0"));
    for name in ["one", "two", "three"] {
        up.apply(&balanced(name, &json!({}), &json!({}))).ok();
    }
    becomes(&up, "one", "192.0.2.100");
    becomes(&up, "two", "192.0.2.101");
    hears(&up, "three", "no address is free in --load-balancer-pool 192.0.2.100-192.0.2.101");
    assert_eq!(external_ip(&up, "three"), "<pending>");
    assert!(up.curl("192.0.2.100").contains("ServerName"), "the host itself");
    let page = eventually("the neighbour gets in", || {
        sealane_tests::request(&client, "GET", "192.0.2.101:80".parse().unwrap(), "/", "")
    });
    assert!(page.body.contains("ServerName"), "{page:?}");
    let mac = run(up.machine.command("ip").args(["-br", "link", "show", "lan0"]), b"").ok();
    let mac = mac.split_whitespace().nth(2).unwrap();
    let known = run(client.command("ip").args(["neigh", "show", "192.0.2.101"]), b"").ok();
    assert!(known.contains(mac), "{known} is not {mac}");
    // With policy Local the Pod sees who asks.
    up.ok(&["patch", "service", "two", "-p", "{\"spec\": {\"externalTrafficPolicy\": \"Local\"}}"]);
    eventually("the source is kept", || {
        let page = sealane_tests::request(&client, "GET", "192.0.2.101:80".parse().unwrap(), "/", "")?;
        if page.body.contains("192.0.2.2") { Ok(()) } else { Err(page.body) }
    });
    // One that comes free goes to who waits, and is heard of there at once.
    up.ok(&["delete", "service", "one"]);
    becomes(&up, "three", "192.0.2.100");
    eventually("the neighbour gets in", || {
        sealane_tests::request(&client, "GET", "192.0.2.100:80".parse().unwrap(), "/", "")
    });
    ip(&up.machine, "link del lan0");
    up.stop();
}

#[test]
fn addresses_and_ports_by_choice_and_by_chance() {
    let up = with_web(&Start::new());
    let node = up.value(&["get", "nodes"], "{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}");
    let refused = |name: &str, more: Value, why: &str| {
        let done = up.apply(&service(name, &json!({}), &more));
        assert!(!done.status.success() && done.stderr.contains(why), "{why}: {done}");
    };
    // A NodePort by choice, one by chance.
    let port = json!({"type": "NodePort", "ports": [{"port": 80, "targetPort": "http", "nodePort": 30080}]});
    up.apply(&service("chosen", &json!({}), &port)).ok();
    assert!(up.curl(&format!("{node}:30080")).contains("ServerName"));
    refused(
        "twice",
        port,
        "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
    );
    let beyond = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 20000}]});
    refused("beyond", beyond, "The range of valid ports is 30000-32767");
    up.apply(&service("drawn", &json!({}), &json!({"type": "NodePort"}))).ok();
    let drawn = up.value(&["get", "service", "drawn"], "{.spec.ports[0].nodePort}");
    assert!((30086..=32767).contains(&drawn.parse::<u16>().unwrap()), "{drawn}");
    assert!(up.curl(&format!("{node}:{drawn}")).contains("ServerName"));
    // A ClusterIP that is asked for.
    up.apply(&service("asked", &json!({}), &json!({"clusterIP": "10.96.0.77"}))).ok();
    assert!(up.curl("10.96.0.77").contains("ServerName"));
    refused("again", json!({"clusterIP": "10.96.0.77"}), "provided IP is already allocated");
    refused(
        "afar",
        json!({"clusterIP": "10.1.2.3"}),
        "the provided network does not match the current range",
    );
    up.ok(&["delete", "service", "asked", "chosen"]);
    up.apply(&service("again", &json!({}), &json!({"clusterIP": "10.96.0.77"}))).ok();

    // An external address is led to the node by whoever has it.
    up.apply(&service("external", &json!({}), &json!({"externalIPs": ["203.0.113.9"]}))).ok();
    assert_eq!(external_ip(&up, "external"), "203.0.113.9");
    ip(&up.machine, &format!("route add 203.0.113.9 via {node} dev sealane onlink"));
    assert!(up.curl("203.0.113.9").contains("ServerName"));
    // A name outside, and nothing else.
    let name = "apiVersion: v1\nkind: Service\nmetadata: {name: elsewhere}\nspec: {type: ExternalName, externalName: db.example.com}\n";
    up.apply(name).ok();
    let row = table(&up.ok(&["get", "service", "elsewhere"])).remove(1);
    assert_eq!(row[1..5], ["ExternalName", "<none>", "db.example.com", "<none>"]);
    let answer = run(
        up.machine.command("dig").args([
            "@10.96.0.10",
            "+short",
            "elsewhere.default.svc.cluster.local",
            "CNAME",
        ]),
        b"",
    )
    .ok();
    assert_eq!(answer.trim(), "db.example.com.");
    let slices = up.ok(&[
        "get",
        "endpointslices,endpoints",
        "-l",
        "kubernetes.io/service-name=elsewhere",
        "-o",
        "name",
    ]);
    assert_eq!(slices, "");
    ip(&up.machine, "route del 203.0.113.9");

    // An address that no Service has is nobody's: packets to it go nowhere, rather than round and round.
    let nowhere: SocketAddr = "10.96.200.200:80".parse().unwrap();
    let error = up.machine.within(move || TcpStream::connect_timeout(&nowhere, PATIENCE)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    not_ready_addresses(&up);
    hints(&up);
    up.stop();
}

/// Published all the same where the Service says so, in slices, Endpoints and DNS.
fn not_ready_addresses(up: &Up) {
    let pod = "\
apiVersion: v1
kind: Pod
metadata: {name: late, labels: {app: late}}
spec:
  containers:
  - name: late
    image: sealane/demo
    command: [web, --port, '8080']
    readinessProbe: {httpGet: {path: /, port: 9}, periodSeconds: 1}
";
    up.apply(pod).ok();
    for (name, publishes) in [("shy", false), ("open", true)] {
        let spec =
            json!({"selector": {"app": "late"}, "clusterIP": "None", "publishNotReadyAddresses": publishes});
        up.apply(&service(name, &json!({}), &spec)).ok();
    }
    let address =
        eventually("the Pod has an address", || match up.value(&["get", "pod", "late"], "{.status.podIP}") {
            none if none.is_empty() => Err(none),
            address => Ok(address),
        });
    let ready = |name: &str| {
        let label = format!("kubernetes.io/service-name={name}");
        up.value(&["get", "endpointslices", "-l", &label], "{.items[*].endpoints[*].conditions.ready}")
    };
    eventually("slices", || match (ready("shy"), ready("open")) {
        (shy, open) if shy == "false" && open == "true" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let listed = |name: &str, field: &str| {
        up.value(&["get", "endpoints", name], &format!("{{.subsets[*].{field}[*].ip}}"))
    };
    eventually("Endpoints", || match (listed("shy", "notReadyAddresses"), listed("open", "addresses")) {
        (a, b) if a == address && b == address => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for (name, expected) in [("open", address.as_str()), ("shy", "")] {
        let name = format!("{name}.default.svc.cluster.local");
        eventually(&name, || {
            let answer = run(up.machine.command("dig").args(["@10.96.0.10", "+short", &name]), b"").ok();
            if answer.trim() == expected { Ok(()) } else { Err(answer) }
        });
    }
    up.ok(&["delete", "pod", "late", "--grace-period=1"]);
}

fn hints(up: &Up) {
    let node = up.value(&["get", "nodes"], "{.items[0].metadata.name}");
    up.ok(&["label", "node", &node, "topology.kubernetes.io/zone=a"]);
    up.apply(&service("near", &json!({}), &json!({}))).ok();
    let found = || {
        let label = "kubernetes.io/service-name=near";
        up.value(&["get", "endpointslices", "-l", label], "{.items[0].endpoints[0].hints}")
    };
    for (wish, hints) in [
        ("PreferSameZone", json!({"forZones": [{"name": "a"}]})),
        ("PreferSameNode", json!({"forZones": [{"name": "a"}], "forNodes": [{"name": node}]})),
        ("PreferClose", json!({"forZones": [{"name": "a"}]})),
    ] {
        up.ok(&[
            "patch",
            "service",
            "near",
            "-p",
            &json!({"spec": {"trafficDistribution": wish}}).to_string(),
        ]);
        eventually(wish, || match serde_json::from_str::<Value>(&found()) {
            Ok(value) if value == hints => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let address = up.value(&["get", "service", "near"], "{.spec.clusterIP}");
        assert!(up.curl(&address).contains("ServerName"));
    }
    up.ok(&["patch", "service", "near", "-p", "{\"spec\": {\"trafficDistribution\": null}}"]);
    eventually("no hints", || match found() {
        none if none.is_empty() => Ok(()),
        some => Err(some),
    });
}

/// Answers whoever connects.
fn says(machine: &Machine, at: &str, what: &'static str) {
    let at: SocketAddr = at.parse().unwrap();
    let listener = machine.within(move || TcpListener::bind(at).unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", what.len());
            let _ = stream.write_all((head + what).as_bytes());
        }
    });
}

#[test]
fn endpoints_that_somebody_wrote_lead_outside() {
    let start = Start::new();
    let database = neighbour(&start.machine);
    says(&database, "192.0.2.2:3306", "database");
    let up = start.up();
    let yaml = "\
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: 10.96.0.33, ports: [{port: 33, targetPort: 3306}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: db}
subsets: [{addresses: [{ip: 192.0.2.2}], ports: [{port: 3306}]}]
";
    up.apply(yaml).ok();
    up.ok(&["run", "client", "--image=sealane/demo", "--command", "--", "sleep", "3600"]);
    up.ready_pods("default", "run=client", 1);
    // The machine itself gets there as well, whose address on the node's link is its own to the kernel.
    let answer = |who: &'static str| {
        eventually(&format!("the {who} answers a Pod by way of the Service"), || {
            let done = up.kubectl(&["exec", "client", "--", "curl", "-s", "http://db:33/"]);
            if done.stdout == who { Ok(()) } else { Err(done.to_string()) }
        });
        eventually(&format!("the {who} answers the host"), || {
            match up.http("GET", "10.96.0.33:33", "/", "") {
                Ok(page) if page.body == who => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    let answers = || answer("database");
    let refuses = || {
        eventually("nobody is there any more", || match up.http("GET", "10.96.0.33:33", "/", "") {
            Err(why) if why.contains("refused") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    answers();
    let slices =
        || up.json(&["get", "endpointslices", "-l", "kubernetes.io/service-name=db"])["items"].clone();
    let slice = slices()[0].clone();
    let manager = &slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    assert_eq!(manager, "endpointslicemirroring-controller.k8s.io");
    assert_eq!(slice["endpoints"], json!([{"addresses": ["192.0.2.2"], "conditions": {"ready": true}}]));
    // Marked so, they are nobody's to mirror.
    let skip = "endpointslice.kubernetes.io/skip-mirror";
    up.ok(&["label", "endpoints", "db", &format!("{skip}=true")]);
    refuses();
    assert_eq!(slices(), json!([]));
    up.ok(&["label", "endpoints", "db", &format!("{skip}-")]);
    answers();
    up.ok(&["delete", "endpoints", "db"]);
    refuses();
    // Slices by hand: somebody outside, and a program on the host.
    says(&start.machine, "192.0.2.1:3307", "host");
    for (address, port, who) in [("192.0.2.2", 3306, "database"), ("192.0.2.1", 3307, "host")] {
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
            "endpoints": [{"addresses": [address]}], "ports": [{"port": port, "protocol": "TCP"}]});
        up.apply(&slice.to_string()).ok();
        answer(who);
    }
    ip(&up.machine, "link del lan0");
    up.stop();
}
