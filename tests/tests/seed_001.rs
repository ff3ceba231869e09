//! Article 001: Service variables, DNS records, CoreDNS's configuration, session affinity and headless Services. From
//! its first command to its last, with its own YAML; what waits for a LoadBalancer's address is left out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use sealane_tests::{Registry, Start, Up, demo, eventually, field, run, section, table};

const IMAGE: &str = "192.168.10.33:80/k8s/pod_test:v0.1";

const SERVICE_TEST: &str = "\
kind: Service
apiVersion: v1
metadata:
  name: service-test
spec:
  selector:
    app: my-nginx
  ports:
  - name: http
    protocol: TCP
    port: 80
    targetPort: 80
";

/// The article's first form of it says `type: LoadBalancer`; its addresses come with a later proxy, so this is the
/// form that the article's output shows.
const NGINX_SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: nginx-service
spec:
  type: ClusterIP
  ports:
  - port: 80
  selector:
    app: my-nginx
  sessionAffinity: ClientIP
";

const SERVICE_HEADLESS: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: service-headless
spec:
  selector:
    app: my-nginx
  clusterIP: \"None\"
";

/// Two lines into the article's Corefile, after its `forward`, and one into that.
const EDIT: &str = "/max_concurrent/s/.*/       max_concurrent 1000\\n       except www.baidu.com./; \
    s/^\\( *\\)cache 30/\\1hosts {\\n\\1  192.168.10.33 harbor.test.com\\n\\1  fallthrough\\n\\1}\\n\\1cache 30/";

struct Article {
    up: Up,
    registry: Registry,
}

/// `up` on a machine that has the article's registry.
fn article() -> Article {
    let start = Start::new();
    let registry = Registry::open(&start.machine, Ipv4Addr::new(192, 168, 10, 33), 80);
    let variables = ["DEPLOYENV=Production", "RELEASE=Stable", "PS1=[\\u@\\h \\w]\\$ "];
    registry.push(&demo().named(IMAGE, &["web", "--port", "80"], &[]).with_env(&variables));
    Article { up: start.up(), registry }
}

/// Its three Pods: names and addresses.
#[track_caller]
fn create_my_nginx(up: &Up) -> Vec<(String, String)> {
    let image = format!("--image={IMAGE}");
    let said = up.ok(&["create", "deployment", "my-nginx", &image, "--replicas=3"]);
    assert_eq!(said, "deployment.apps/my-nginx created\n");
    let names = up.ready_pods("default", "app=my-nginx", 3);
    names.into_iter().map(|n| (n.clone(), up.value(&["get", "pod", &n], "{.status.podIP}"))).collect()
}

#[track_caller]
fn create_service(up: &Up) -> String {
    let file = up.file("service-test.yml", SERVICE_TEST);
    let said = run(&mut up.kubectl_command(&["apply", "-f", file.to_str().unwrap()]), b"").ok();
    assert_eq!(said, "service/service-test created\n");
    let services = table(&up.ok(&["get", "svc"]));
    assert_eq!(services[0], ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    assert_eq!(services[1][..5], ["kubernetes", "ClusterIP", "10.96.0.1", "<none>", "443/TCP"]);
    let row = &services[2];
    assert_eq!([&row[0], &row[1], &row[3], &row[4]], ["service-test", "ClusterIP", "<none>", "80/TCP"]);
    row[2].clone()
}

#[track_caller]
fn sh(up: &Up, pod: &str, line: &str) -> String {
    up.ok(&["exec", pod, "--", "sh", "-c", line])
}

/// `kubernetes pod-test v0.1!! ClientIP: A, ServerName: B, ServerIP: C!` as (A, B, C).
#[track_caller]
fn answer(text: &str) -> (String, String, String) {
    let rest = text
        .trim_end()
        .strip_prefix("kubernetes pod-test v0.1!! ClientIP: ")
        .unwrap_or_else(|| panic!("{text:?}"));
    let (client, rest) = rest.split_once(", ServerName: ").unwrap();
    let (name, rest) = rest.split_once(", ServerIP: ").unwrap();
    (client.to_owned(), name.to_owned(), rest.strip_suffix('!').unwrap().to_owned())
}

/// Waits until all that the Service selects is behind it.
#[track_caller]
fn endpoints(up: &Up, service: &str, count: usize) {
    eventually(&format!("{count} endpoints of {service}"), || {
        let found = up.value(&["get", "endpoints", service], "{.subsets[*].addresses[*].ip}");
        if found.split_whitespace().count() == count { Ok(()) } else { Err(found) }
    });
}

fn reverse(address: &str) -> String {
    let mut parts: Vec<&str> = address.split('.').collect();
    parts.reverse();
    format!("{}.in-addr.arpa", parts.join("."))
}

#[test]
fn environment_variables_and_dns() {
    let Article { up, registry } = article();
    let cluster_ip = create_service(&up);
    let pods = create_my_nginx(&up);
    assert!(registry.pulls() > 0, "the image came from elsewhere");
    endpoints(&up, "service-test", 3);
    let (pod, pod_ip) = &pods[0];

    let variables = up.ok(&["exec", pod, "--", "printenv"]);
    let hostname = format!("HOSTNAME={pod}");
    let expected = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        &hostname,
        "DEPLOYENV=Production",
        "RELEASE=Stable",
        "PS1=[\\u@\\h \\w]\\$ ",
        &format!("SERVICE_TEST_PORT=tcp://{cluster_ip}:80"),
        "SERVICE_TEST_PORT_80_TCP_PORT=80",
        &format!("SERVICE_TEST_PORT_80_TCP_ADDR={cluster_ip}"),
        "KUBERNETES_PORT=tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP_PROTO=tcp",
        "KUBERNETES_PORT_443_TCP_PORT=443",
        "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
        &format!("SERVICE_TEST_SERVICE_HOST={cluster_ip}"),
        "SERVICE_TEST_SERVICE_PORT=80",
        &format!("SERVICE_TEST_PORT_80_TCP=tcp://{cluster_ip}:80"),
        "SERVICE_TEST_PORT_80_TCP_PROTO=tcp",
        "KUBERNETES_SERVICE_HOST=10.96.0.1",
        "KUBERNETES_SERVICE_PORT=443",
        "KUBERNETES_SERVICE_PORT_HTTPS=443",
        "SERVICE_TEST_SERVICE_PORT_HTTP=80",
        "HOME=/root",
    ];
    let found: BTreeSet<&str> = variables.lines().collect();
    assert_eq!(found, BTreeSet::from(expected));

    // The variables serve inside.
    let said = sh(&up, pod, "curl -s ${SERVICE_TEST_SERVICE_HOST}:${SERVICE_TEST_SERVICE_PORT}");
    assert!(pods.iter().any(|(name, ip)| answer(&said).1 == *name && answer(&said).2 == *ip), "{said}");

    // A Service that is younger than the Pod is not among them.
    up.ok(&["create", "service", "clusterip", "younger", "--tcp=80"]);
    assert!(!up.ok(&["exec", pod, "--", "printenv"]).contains("YOUNGER"));

    let resolv = up.ok(&["exec", pod, "--", "cat", "/etc/resolv.conf"]);
    let lines: Vec<&str> = resolv.lines().collect();
    let expected = [
        "search default.svc.cluster.local svc.cluster.local cluster.local",
        "nameserver 10.96.0.10",
        "options ndots:5",
    ];
    assert_eq!(lines, expected);
    let hosts = up.ok(&["exec", pod, "--", "cat", "/etc/hosts"]);
    assert!(hosts.starts_with("# Kubernetes-managed hosts file.\n"), "{hosts}");
    assert_eq!(hosts.lines().last(), Some(format!("{pod_ip}\t{pod}").as_str()), "{hosts}");

    kube_dns(&up);
    for name in
        ["service-test", "service-test.default.svc.cluster.local", "service-test.default.svc.cluster.local."]
    {
        let (client, server, _) = answer(&up.ok(&["exec", pod, "--", "curl", "-s", name]));
        assert!(pods.iter().any(|(n, _)| *n == server), "{server}");
        // The Pod sees who asked; of itself by way of the Service it sees the node.
        assert!(client == *pod_ip || server == *pod, "{client} asked {server}");
    }
    records(&up, &cluster_ip, &pods);
    up.stop();
}

/// Its Service, Endpoints and Pods.
#[track_caller]
fn kube_dns(up: &Up) {
    let described = up.ok(&["-n", "kube-system", "describe", "svc", "kube-dns"]);
    let pods = table(&up.ok(&["-n", "kube-system", "get", "pod", "-l", "k8s-app=kube-dns", "-o", "wide"]));
    let head =
        ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"];
    assert_eq!(pods[0], head);
    assert!(pods[1][0].starts_with("coredns-"), "{pods:?}");
    assert_eq!([&pods[1][1], &pods[1][2]], ["1/1", "Running"]);
    assert_eq!(&pods[1][6], up.machine.name());
    let address = &pods[1][5];
    for (port, number) in [("dns  53/UDP", 53), ("dns-tcp  53/TCP", 53), ("metrics  9153/TCP", 9153)] {
        let from: Vec<&str> = described.lines().map(str::trim).collect();
        let at = from.iter().position(|l| l.starts_with("Port:") && l.ends_with(port));
        let at = at.unwrap_or_else(|| panic!("no port {port}:\n{described}"));
        let protocol = &port[port.len() - 3..];
        assert_eq!(field(from[at + 1], "TargetPort"), format!("{number}/{protocol}"));
        assert_eq!(field(from[at + 2], "Endpoints"), format!("{address}:{number}"));
    }
}

/// The article's names and addresses in nslookup's prompt, on a terminal, and in one go.
fn records(up: &Up, cluster_ip: &str, pods: &[(String, String)]) {
    let (pod, _) = &pods[0];
    let mut terminal = up.terminal(&["exec", "-it", pod, "--", "/bin/sh"]);
    terminal.expect("# ");
    terminal.send("nslookup\r");
    terminal.expect("> ");
    for (name, address) in [
        ("service-test.default.svc.cluster.local", cluster_ip),
        ("kube-dns.kube-system.svc.cluster.local", "10.96.0.10"),
    ] {
        terminal.send(&format!("{name}\r"));
        let said = terminal.expect("> ").replace('\r', "");
        assert!(said.contains("Server:\t\t10.96.0.10\nAddress:\t10.96.0.10#53\n"), "{said}");
        assert!(said.contains(&format!("Name:\t{name}\nAddress: {address}\n")), "{said}");
    }
    for (_, address) in pods {
        terminal.send(&format!("{address}\r"));
        let said = terminal.expect("> ");
        let dashed = address.replace('.', "-");
        let line = format!("{}\tname = {dashed}.service-test.default.svc.cluster.local.", reverse(address));
        assert!(said.contains(&line), "no {line:?} in {said}");
    }
    terminal.send("exit\r");
    terminal.expect("# ");
    terminal.send("exit\r");
    assert!(terminal.ended().0.success());

    let said = up.ok(&["exec", pod, "--", "nslookup", "-query=A", "service-test.default.svc.cluster.local"]);
    let answer = format!("Name:\tservice-test.default.svc.cluster.local\nAddress: {cluster_ip}\n");
    assert!(said.contains(&answer), "{said}");
    // The record of a named port, and the Service's own pointer.
    let said = up.ok(&[
        "exec",
        pod,
        "--",
        "nslookup",
        "-query=SRV",
        "_http._tcp.service-test.default.svc.cluster.local",
    ]);
    assert!(said.contains("service = 0 100 80 service-test.default.svc.cluster.local."), "{said}");
    let said = up.ok(&["exec", pod, "--", "nslookup", cluster_ip]);
    assert!(
        said.contains(&format!("{}\tname = service-test.default.svc.cluster.local.", reverse(cluster_ip))),
        "{said}"
    );
}

#[test]
fn coredns_configuration() {
    let Article { up, registry: _registry } = article();
    let maps = table(&up.ok(&["-n", "kube-system", "get", "cm"]));
    let row = maps.iter().find(|r| r[0] == "coredns").expect("the ConfigMap");
    assert_eq!(row[1], "1");
    let described = up.ok(&["-n", "kube-system", "describe", "configmap", "coredns"]);
    for line in [
        ".:53 {",
        "errors",
        "lameduck 5s",
        "ready",
        "kubernetes cluster.local in-addr.arpa ip6.arpa {",
        "pods insecure",
        "fallthrough in-addr.arpa ip6.arpa",
        "ttl 30",
        "prometheus :9153",
        "forward . /etc/resolv.conf {",
        "max_concurrent 1000",
        "cache 30",
        "loop",
        "reload",
        "loadbalance",
    ] {
        assert!(described.lines().any(|l| l.trim() == line), "no {line} in\n{described}");
    }
    assert!(described.contains("Corefile:\n----\n"), "{described}");

    create_service(&up);
    let before = up.ready_pods("kube-system", "k8s-app=kube-dns", 1);
    // The Corefile in the editor is a block of text: two lines are put in, as the article does by hand.
    let editor = up.file("editor", &format!("#!/bin/sh\nexec sed -i '{EDIT}' \"$1\"\n"));
    run(std::process::Command::new("chmod").arg("+x").arg(&editor), b"").ok();
    let mut edit = up.kubectl_command(&["edit", "configmap", "coredns", "-n", "kube-system"]);
    let said = run(edit.env("KUBE_EDITOR", &editor), b"").ok();
    assert_eq!(said, "configmap/coredns edited\n");
    let deleted = up.ok(&["-n", "kube-system", "delete", "pod", "-l", "k8s-app=kube-dns"]);
    assert!(deleted.starts_with(&format!("pod \"{}\" deleted", before[0])), "{deleted}");
    let after = up.ready_pods("kube-system", "k8s-app=kube-dns", 1);
    assert_ne!(before, after);

    // The Service and the Deployment are made anew.
    let deleted = up.ok(&["delete", "service", "service-test"]);
    assert!(deleted.starts_with("service \"service-test\" deleted"), "{deleted}");
    create_service(&up);
    let pods = create_my_nginx(&up);
    let row = table(&up.ok(&["get", "deployments.apps"]));
    assert_eq!(row[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]);
    assert_eq!(row[1][..4], ["my-nginx", "3/3", "3", "3"]);
    let (pod, _) = &pods[0];
    let ping = |name: &str| up.kubectl(&["exec", pod, "--", "ping", "-c", "1", name]);
    let known = eventually("the new entry", || {
        let done = ping("harbor.test.com");
        if done.status.success() { Ok(done.stdout) } else { Err(done.to_string()) }
    });
    assert!(known.starts_with("PING harbor.test.com (192.168.10.33): 56 data bytes\n"), "{known}");
    assert!(known.contains("64 bytes from 192.168.10.33: seq=0 ttl="), "{known}");
    let refused = ping("www.baidu.com").fails();
    assert!(refused.contains("ping: bad address 'www.baidu.com'"), "{refused}");
    up.stop();
}

#[test]
fn session_affinity() {
    let Article { up, registry: _registry } = article();
    let cluster_ip = create_service(&up);
    let pods = create_my_nginx(&up);
    endpoints(&up, "service-test", 3);
    let names: BTreeSet<String> = pods.iter().map(|(n, _)| n.clone()).collect();
    // Without affinity connections go everywhere: of 60 a Pod is missed once in ten thousand million runs.
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let (_, name, address) = answer(&up.curl(&cluster_ip));
        assert!(pods.contains(&(name.clone(), address)), "{name}");
        seen.insert(name);
    }
    assert_eq!(seen, names);

    let file = up.file("nginx-service.yml", NGINX_SERVICE);
    let said = up.ok(&["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(said, "service/nginx-service created\n");
    let row = table(&up.ok(&["get", "service", "nginx-service"])).remove(1);
    assert_eq!([&row[0], &row[1], &row[3], &row[4]], ["nginx-service", "ClusterIP", "<none>", "80/TCP"]);
    let described = up.ok(&["describe", "service", "nginx-service"]);
    assert_eq!(field(&described, "Session Affinity"), "ClientIP");
    let seconds = "{.spec.sessionAffinityConfig.clientIP.timeoutSeconds}";
    assert_eq!(up.value(&["get", "service", "nginx-service"], seconds), "10800");
    endpoints(&up, "nginx-service", 3);
    let first = answer(&up.curl(&row[2])).1;
    for _ in 0..30 {
        assert_eq!(answer(&up.curl(&row[2])).1, first);
    }
    // Each Pod is a client of its own and stays with what it found first.
    for (pod, _) in &pods {
        let line = "for i in 1 2 3 4 5 6; do curl -s nginx-service; done";
        let said = sh(&up, pod, line);
        let seen: BTreeSet<String> = said.lines().map(|l| answer(l).1).collect();
        assert_eq!((seen.len(), said.lines().count()), (1, 6), "{said}");
    }

    let said = up.ok(&["delete", "deployments.apps", "my-nginx"]);
    assert!(said.starts_with("deployment.apps \"my-nginx\" deleted"), "{said}");
    eventually("the Pods' end", || {
        let left = up.ok(&["get", "pods", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    // Nobody is there: refused, not a time-out.
    eventually("the last endpoint's end", || match up.http("GET", &format!("{cluster_ip}:80"), "/", "") {
        Err(why) if why.contains("refused") => Ok(()),
        Err(why) => Err(why),
        Ok(page) => Err(page.body),
    });
    up.stop();
}

#[test]
fn headless_services() {
    let Article { up, registry: _registry } = article();
    let said = up.ok(&["create", "service", "clusterip", "service-headless-cmd", "--clusterip=None"]);
    assert_eq!(said, "service/service-headless-cmd created\n");
    let row = |name: &str| table(&up.ok(&["get", "svc", name])).remove(1);
    assert_eq!(
        row("service-headless-cmd")[..5],
        ["service-headless-cmd", "ClusterIP", "None", "<none>", "<none>"]
    );
    let file = up.file("service-headless.yml", SERVICE_HEADLESS);
    assert_eq!(up.ok(&["apply", "-f", file.to_str().unwrap()]), "service/service-headless created\n");
    assert_eq!(row("service-headless")[..5], ["service-headless", "ClusterIP", "None", "<none>", "<none>"]);

    let pods = create_my_nginx(&up);
    endpoints(&up, "service-headless", 3);
    let described = up.ok(&["describe", "service", "service-headless"]);
    for (name, value) in [
        ("Name", "service-headless"),
        ("Namespace", "default"),
        ("Labels", "<none>"),
        ("Annotations", "<none>"),
        ("Selector", "app=my-nginx"),
        ("Type", "ClusterIP"),
        ("IP Family Policy", "SingleStack"),
        ("IP Families", "IPv4"),
        ("IP", "None"),
        ("IPs", "None"),
        ("Session Affinity", "None"),
        ("Events", "<none>"),
    ] {
        assert_eq!(field(&described, name), value, "{described}");
    }
    let described = up.ok(&["describe", "ep", "service-headless"]);
    assert_eq!(field(&described, "Name"), "service-headless");
    assert!(described.contains("service.kubernetes.io/headless="), "{described}");
    assert!(described.contains("endpoints.kubernetes.io/last-change-trigger-time: "), "{described}");
    let subsets = section(&described, "Subsets");
    let listed: BTreeSet<String> = field(&subsets, "Addresses").split(',').map(str::to_owned).collect();
    let addresses: BTreeSet<String> = pods.iter().map(|(_, ip)| ip.clone()).collect();
    assert_eq!(listed, addresses, "{described}");
    assert_eq!(field(&subsets, "NotReadyAddresses"), "<none>", "{described}");

    let (pod, pod_ip) = &pods[0];
    let wide = table(&up.ok(&["get", "pods", "-o", "wide"]));
    assert_eq!(wide.len(), 4, "{wide:?}");
    assert!(wide[1..].iter().all(|r| addresses.contains(&r[5])), "{wide:?}");
    let line = format!(
        "{}\tname = {}.service-headless.default.svc.cluster.local.",
        reverse(pod_ip),
        pod_ip.replace('.', "-")
    );
    eventually("the Pod's name", || {
        let said = up.kubectl(&["exec", pod, "--", "nslookup", pod_ip]);
        if said.stdout.contains(&line) { Ok(()) } else { Err(format!("no {line:?} in {said}")) }
    });
    let said = up.ok(&["exec", pod, "--", "nslookup", "service-headless.default.svc.cluster.local"]);
    let found: BTreeSet<String> =
        said.lines().skip(3).filter_map(|l| l.strip_prefix("Address: ")).map(str::to_owned).collect();
    assert_eq!(found, addresses, "{said}");
    assert_eq!(said.matches("Name:\tservice-headless.default.svc.cluster.local").count(), 3, "{said}");

    // Four Pods: `describe` and `get` shorten the list, and a Pod that is replaced is replaced there too.
    up.apply(SERVICE_TEST).ok();
    up.ok(&["scale", "deployment", "my-nginx", "--replicas=4"]);
    up.ready_pods("default", "app=my-nginx", 4);
    endpoints(&up, "service-test", 4);
    let described = up.ok(&["describe", "svc", "service-test"]);
    assert!(field(&described, "Endpoints").ends_with(" + 1 more..."), "{described}");
    let shown = table(&up.ok(&["get", "endpoints", "service-test"]));
    assert_eq!(shown[0], ["NAME", "ENDPOINTS", "AGE"]);
    assert!(shown[1][1].ends_with(" + 1 more..."), "{shown:?}");
    up.ok(&["delete", "pod", pod]);
    let names = up.ready_pods("default", "app=my-nginx", 4);
    assert!(!names.contains(pod));
    endpoints(&up, "service-test", 4);
    up.stop();
}
