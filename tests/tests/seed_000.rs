//! Article 000: a headless Service beside a normal one, and why gRPC calls over one channel need it. From its first
//! command to its last, with its own YAML.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use sealane_tests::{Start, Up, demo, eventually, field, nginx, run, table};
use serde_json::Value;

const NGINX: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: nginx-deployment
  labels:
    app: nginx
spec:
  replicas: 1
  selector:
    matchLabels:
      app: nginx
  template:
    metadata:
      labels:
        app: nginx
    spec:
      containers:
      - name: nginx
        image: nginx:latest
        ports:
        - containerPort: 80
";

const NGINX_SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: nginx-service
  labels:
    app: nginx
spec:
  ports:
  - port: 88
    targetPort: 80
  selector:
    app: nginx
  type: NodePort
";

const HEADLESS_SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: headless-service
spec:
  selector:
    app: nginx
  ports:
    - protocol: TCP
      port: 80
      targetPort: 80
  clusterIP: None
";

const SERVER: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: grpc-server
  labels:
    app: grpc-server
spec:
  replicas: 3
  selector:
    matchLabels:
      app: grpc-server
  template:
    metadata:
      labels:
        app: grpc-server
    spec:
      containers:
        - name: grpc-server
          image: techdozo/grpc-lb-server:1.0.0
";

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: grpc-server-service
spec:
  type: ClusterIP
  selector:
    app: grpc-server
  ports:
    - port: 80
      targetPort: 8001
";

const HEADLESS: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: grpc-server-service
spec:
  clusterIP: None
  selector:
    app: grpc-server
  ports:
    - port: 80
      targetPort: 8001
";

/// The client's Deployment; the article gives `SERVER_HOST` three values in turn.
fn client(server_host: &str) -> String {
    format!(
        "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: grpc-client
  labels:
    app: grpc-client
spec:
  replicas: 1
  selector:
    matchLabels:
      app: grpc-client
  template:
    metadata:
      labels:
        app: grpc-client
    spec:
      containers:
        - name: grpc-client
          image: techdozo/grpc-lb-client:1.0.0
          env:
            - name: SERVER_HOST
              value: {server_host}
"
    )
}

/// Calls that the client makes: fewer than the article's million, by the image's own variable.
const CALLS: u64 = 3000;

#[test]
fn headless_service() {
    let start = Start::new();
    start.load(&[nginx("welcome to nginx\n").named("nginx:latest", &["nginx", "-g", "daemon off;"], &[])]);
    let up = start.up();
    assert_eq!(up.apply(NGINX).ok(), "deployment.apps/nginx-deployment created\n");
    assert_eq!(up.apply(NGINX_SERVICE).ok(), "service/nginx-service created\n");
    let pod = up.ready_pods("default", "app=nginx", 1).remove(0);
    let pod_ip = up.value(&["get", "pod", &pod], "{.status.podIP}");

    let services = table(&up.ok(&["get", "svc"]));
    assert_eq!(services[0], ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    let row = services.iter().find(|r| r[0] == "nginx-service").expect("the Service's row");
    assert_eq!([&row[1], &row[3]], ["NodePort", "<none>"]);
    let cluster_ip = row[2].clone();
    let port = row[4].strip_prefix("88:").and_then(|p| p.strip_suffix("/TCP")).expect("88:PORT/TCP");
    assert!((30000..=32767).contains(&port.parse::<u16>().unwrap()), "{port}");

    assert_eq!(up.apply(HEADLESS_SERVICE).ok(), "service/headless-service created\n");
    let row = table(&up.ok(&["get", "svc", "headless-service"])).remove(1);
    assert_eq!(row[..5], ["headless-service", "ClusterIP", "None", "<none>", "80/TCP"]);

    // The details: endpoints with the container's port behind both.
    let described = up.ok(&["describe", "svc", "nginx-service"]);
    assert_eq!(field(&described, "IP"), cluster_ip);
    assert_eq!(field(&described, "Endpoints"), format!("{pod_ip}:80"));
    assert_eq!(field(&up.ok(&["describe", "svc", "headless-service"]), "IP"), "None");

    // The name of the normal one is its own address, that of the headless one the Pod's, which answers echoes.
    let ping = |name: &str| {
        let name = format!("{name}.default.svc.cluster.local");
        up.kubectl(&["exec", &pod, "--", "ping", "-c", "1", "-W", "1", &name])
    };
    let said = eventually("the Service's name", || {
        let said = ping("nginx-service").stdout;
        if said.starts_with("PING") { Ok(said) } else { Err(said) }
    });
    assert!(said.contains(&format!("({cluster_ip})")), "{said}");
    let said = ping("headless-service").ok();
    assert!(said.contains(&format!("({pod_ip})")), "{said}");
    assert!(said.contains("1 packets received"), "{said}");

    // From outside the Pods: by the Service's address, by the Pod's, and by the node's port.
    let node_ip =
        up.value(&["get", "nodes"], "{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}");
    for address in [format!("{cluster_ip}:88"), format!("{pod_ip}:80"), format!("{node_ip}:{port}")] {
        assert_eq!(up.curl(&address), "welcome to nginx\n", "{address}");
    }
    up.stop();
}

/// `{pod: calls}` that the client counted, once it has made them all.
#[track_caller]
fn counts(up: &Up) -> Vec<(String, u64)> {
    let pod = up.ready_pods("default", "app=grpc-client", 1).remove(0);
    let mut log = up.follow(&["logs", "--follow", &pod]);
    let line = log.expect_line("the client's result", |l| l.starts_with("result "));
    let result: Value = serde_json::from_str(line.strip_prefix("result ").unwrap()).unwrap();
    assert_eq!((result["failed"].as_u64(), result["calls"].as_u64()), (Some(0), Some(CALLS)), "{line}");
    result["pods"].as_object().unwrap().iter().map(|(p, n)| (p.clone(), n.as_u64().unwrap())).collect()
}

/// What nslookup found: names with their addresses, after the server's own two lines.
#[track_caller]
fn nslookup(up: &Up, name: &str) -> Vec<String> {
    let said = up.ok(&["exec", "dnsutils", "--", "nslookup", name]);
    let mut lines = said.lines().filter(|l| !l.trim().is_empty());
    assert_eq!(lines.next(), Some("Server:\t\t10.96.0.10"), "{said}");
    assert_eq!(lines.next(), Some("Address:\t10.96.0.10#53"), "{said}");
    let lines: Vec<&str> = lines.collect();
    let full = format!("Name:\t{name}.default.svc.cluster.local");
    assert!(lines.chunks(2).all(|pair| pair[0] == full), "{said}");
    let mut found: Vec<_> = lines.chunks(2).map(|pair| pair[1].replace("Address: ", "")).collect();
    found.sort();
    found
}

#[test]
fn grpc_load_balancing() {
    let start = Start::new();
    let calls = format!("CALLS={CALLS}");
    start.load(&[
        demo().named("techdozo/grpc-lb-server:1.0.0", &["grpc-server", "--port", "8001"], &[]),
        demo().named("techdozo/grpc-lb-client:1.0.0", &["grpc-client"], &[]).with_env(&[&calls]),
        demo().named("tutum/dnsutils", &[], &["sh"]),
    ]);
    let up = start.up();
    let apply = |name: &str, yaml: &str| {
        let file = up.file(name, yaml);
        run(&mut up.kubectl_command(&["apply", "-f", file.to_str().unwrap()]), b"")
    };

    assert_eq!(apply("deployment-server.yaml", SERVER).ok(), "deployment.apps/grpc-server created\n");
    let servers = up.ready_pods("default", "app=grpc-server", 3);
    let pods = table(&up.ok(&["get", "pods"]));
    assert_eq!(pods[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(pods.len(), 4, "{pods:?}");
    for row in &pods[1..] {
        assert!(row[0].starts_with("grpc-server-"), "{row:?}");
        assert_eq!(row[1..4], ["1/1", "Running", "0"], "{row:?}");
    }
    let mut log = up.follow(&["logs", "--follow", &servers[0]]);
    log.expect_line("the server's first line", |l| l.contains("listening on :8001"));

    assert_eq!(apply("service.yaml", SERVICE).ok(), "service/grpc-server-service created\n");
    let jsonpath = "{range .items[*]}{.status.podIP}{\"\\n\"}{end}";
    let mut addresses: Vec<String> =
        up.value(&["get", "pods", "-l", "app=grpc-server"], jsonpath).lines().map(str::to_owned).collect();
    addresses.sort();
    let cluster_ip = up.value(&["get", "svc", "grpc-server-service"], "{.spec.clusterIP}");
    eventually("the Service's endpoints", || {
        let described = up.ok(&["describe", "svc", "grpc-server-service"]);
        let expected = [
            ("Name", "grpc-server-service"),
            ("Namespace", "default"),
            ("Selector", "app=grpc-server"),
            ("Type", "ClusterIP"),
            ("IP Family Policy", "SingleStack"),
            ("IP Families", "IPv4"),
            ("IP", &cluster_ip),
            ("IPs", &cluster_ip),
            ("Port", "<unset>  80/TCP"),
            ("TargetPort", "8001/TCP"),
            ("Session Affinity", "None"),
        ];
        for (name, value) in expected {
            assert_eq!(field(&described, name), value, "{described}");
        }
        let mut ends: Vec<String> = field(&described, "Endpoints").split(',').map(str::to_owned).collect();
        ends.sort();
        let wanted: Vec<String> = addresses.iter().map(|a| format!("{a}:8001")).collect();
        if ends == wanted { Ok(()) } else { Err(described) }
    });

    // One channel, one connection, one Pod.
    let yaml = client("grpc-server-service:80");
    assert_eq!(apply("deployment-client.yaml", &yaml).ok(), "deployment.apps/grpc-client created\n");
    let by_cluster_ip = counts(&up);
    assert_eq!(by_cluster_ip.len(), 1, "{by_cluster_ip:?}");
    let (busy, calls) = by_cluster_ip[0].clone();
    assert_eq!(calls, CALLS);
    let said = eventually("the server's count", || {
        let said = up.ok(&["logs", &busy]);
        if said.contains(&format!("{CALLS} in all")) { Ok(said) } else { Err(said) }
    });
    assert!(said.contains("calls"));
    for idle in servers.iter().filter(|s| **s != busy) {
        assert!(!up.ok(&["logs", idle]).contains("in all"), "{idle} served calls");
    }

    let words = ["run", "dnsutils", "--image=tutum/dnsutils", "--command", "--", "sleep", "infinity"];
    assert_eq!(up.ok(&words), "pod/dnsutils created\n");
    up.ready_pods("default", "run=dnsutils", 1);
    assert_eq!(nslookup(&up, "grpc-server-service"), [cluster_ip]);

    // The address stays what it is for as long as the Service is there.
    let refused = apply("service.yaml", HEADLESS).fails();
    assert!(refused.contains("The Service \"grpc-server-service\" is invalid:"), "{refused}");
    assert!(refused.contains("spec.clusterIPs[0]: Invalid value:"), "{refused}");
    assert!(refused.contains("may not change once set"), "{refused}");
    let deleted = up.ok(&["delete", "service", "grpc-server-service"]);
    assert!(deleted.starts_with("service \"grpc-server-service\" deleted"), "{deleted}");
    assert_eq!(apply("service.yaml", HEADLESS).ok(), "service/grpc-server-service created\n");
    eventually("the Pods' addresses in DNS", || {
        let said = up.kubectl(&["exec", "dnsutils", "--", "nslookup", "grpc-server-service"]);
        if said.stdout.matches("Name:").count() == 3 { Ok(()) } else { Err(said.to_string()) }
    });
    assert_eq!(nslookup(&up, "grpc-server-service"), addresses);

    // The same client on the headless name: every Pod takes its share.
    for target in ["grpc-server-service:8001", "\"grpc-server-service.default.svc.cluster.local:8001\""] {
        let deleted = up.ok(&["delete", "deployment.apps/grpc-client"]);
        assert!(deleted.starts_with("deployment.apps \"grpc-client\" deleted"), "{deleted}");
        eventually("the old client's end", || {
            let left = up.ok(&["get", "pods", "-l", "app=grpc-client", "-o", "name"]);
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        let yaml = client(target);
        assert_eq!(apply("deployment-client.yaml", &yaml).ok(), "deployment.apps/grpc-client created\n");
        let headless = counts(&up);
        let names: Vec<&String> = headless.iter().map(|(name, _)| name).collect();
        assert_eq!(names, servers.iter().collect::<Vec<_>>());
        for (pod, calls) in &headless {
            assert!(*calls > CALLS / 4, "{pod} served {calls} of {CALLS}");
        }
    }
    up.stop();
}
