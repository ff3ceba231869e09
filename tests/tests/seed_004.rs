//! Article 004: a StatefulSet behind a headless Service, each Pod reached by its own name. From its first command to
//! its last, with its own YAML.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use sealane_tests::{Start, Up, busybox, demo, eventually, field, nginx, run, table};

const IMAGE: &str = "z.oiox.cn:18082/library/cby:v1";
const FIRST: &str = "这是一个本地构建的nginx镜像,第一版\n";
const SECOND: &str = "这是一个本地构建的nginx镜像,第二版\n";

const CBY: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: nginx
  labels:
    app: nginx
spec:
  ports:
  - port: 80
    name: web
  clusterIP: None   #这使得服务成为无头服务
  selector:
    app: nginx
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: web
spec:
  serviceName: \"nginx\"
  replicas: 2
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
        image: z.oiox.cn:18082/library/cby:v1
        ports:
        - containerPort: 80
          name: web
";

const BUSYBOX: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: busybox
  namespace: default
spec:
  containers:
  - name: busybox
    image: docker-ce.chenby.cn/library/busybox:1.28
    command:
      - sleep
      - \"3600\"
    imagePullPolicy: IfNotPresent
  restartPolicy: Always
";

/// Names and addresses of `web-0` and `web-1`.
#[track_caller]
fn web(up: &Up) -> Vec<(String, String)> {
    let names = up.ready_pods("default", "app=nginx", 2);
    assert_eq!(names, ["web-0", "web-1"]);
    names.into_iter().map(|n| (n.clone(), up.value(&["get", "pod", &n], "{.status.podIP}"))).collect()
}

#[test]
fn headless_service_of_a_stateful_set() {
    let start = Start::new();
    start.load(&[
        // FROM nginx, and a page.
        nginx(FIRST).named(IMAGE, &["nginx", "-g", "daemon off;"], &[]),
        busybox().named("docker-ce.chenby.cn/library/busybox:1.28", &[], &["sh"]),
        demo().named("docker-ce.chenby.cn/library/nginx-demo:v1", &["sleep", "infinity"], &[]),
    ]);
    let up = start.up();
    let file = up.file("cby.yaml", CBY);
    let said = run(&mut up.kubectl_command(&["apply", "-f", file.to_str().unwrap()]), b"").ok();
    assert_eq!(said, "service/nginx created\nstatefulset.apps/web created\n");
    let pods = web(&up);
    eventually("the StatefulSet's status", || {
        let sets = table(&up.ok(&["get", "statefulsets"]));
        assert_eq!(sets[0], ["NAME", "READY", "AGE"]);
        if sets[1][..2] == ["web", "2/2"] { Ok(()) } else { Err(format!("{sets:?}")) }
    });
    let rows = table(&up.ok(&["get", "pod"]));
    assert_eq!(rows[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(rows[1][..4], ["web-0", "1/1", "Running", "0"]);
    assert_eq!(rows[2][..4], ["web-1", "1/1", "Running", "0"]);
    let row = table(&up.ok(&["get", "svc", "nginx"])).remove(1);
    assert_eq!(row[..5], ["nginx", "ClusterIP", "None", "<none>", "80/TCP"]);

    let write = "echo 这是一个本地构建的nginx镜像,第二版 > /usr/share/nginx/html/index.html";
    assert_eq!(up.ok(&["exec", "web-1", "--", "sh", "-c", write]), "");
    let wide = table(&up.ok(&["get", "pod", "-o", "wide"]));
    for (row, (name, address)) in wide[1..].iter().zip(&pods) {
        assert_eq!((&row[0], &row[5], row[6].as_str()), (name, address, up.machine.name()));
        assert_eq!(row[7..], ["<none>", "<none>"]);
    }
    assert_eq!(up.curl(&pods[0].1), FIRST);
    assert_eq!(up.curl(&pods[1].1), SECOND);

    let described = up.ok(&["describe", "svc", "nginx"]);
    let ends = format!("{}:80,{}:80", pods[0].1, pods[1].1);
    for (name, value) in [
        ("Name", "nginx"),
        ("Namespace", "default"),
        ("Labels", "app=nginx"),
        ("Annotations", "<none>"),
        ("Selector", "app=nginx"),
        ("Type", "ClusterIP"),
        ("IP Family Policy", "SingleStack"),
        ("IP Families", "IPv4"),
        ("IP", "None"),
        ("IPs", "None"),
        ("Port", "web  80/TCP"),
        ("TargetPort", "80/TCP"),
        ("Endpoints", &ends),
        ("Session Affinity", "None"),
        ("Internal Traffic Policy", "Cluster"),
        ("Events", "<none>"),
    ] {
        assert_eq!(field(&described, name), value, "{described}");
    }

    let said = up.apply(BUSYBOX).ok();
    assert_eq!(said, "pod/busybox created\n");
    eventually("busybox", || {
        let phase = up.value(&["get", "pod", "busybox"], "{.status.phase}");
        if phase == "Running" { Ok(()) } else { Err(up.ok(&["describe", "pod", "busybox"])) }
    });
    in_busybox(&up, &pods);
    in_nginx_demo(&up);
    names_stay(&up, &pods);
    up.stop();
}

/// The article's session: pings until ^C, and the hosts file.
fn in_busybox(up: &Up, pods: &[(String, String)]) {
    let mut terminal = up.terminal(&["exec", "-ti", "busybox", "--", "sh"]);
    terminal.expect("/ # ");
    let all: Vec<&str> = pods.iter().map(|(_, ip)| ip.as_str()).collect();
    for (name, addresses) in [("nginx", &all[..]), ("web-0.nginx", &all[..1]), ("web-1.nginx", &all[1..])] {
        let name = format!("{name}.default.svc.cluster.local");
        terminal.send(&format!("ping {name}\r"));
        let head = terminal.expect_line("ping's first line", |l| l.starts_with("PING "));
        let expected = |a: &&&str| head == format!("PING {name} ({a}): 56 data bytes");
        let address =
            addresses.iter().find(expected).unwrap_or_else(|| panic!("{head}: not of {addresses:?}"));
        for seq in 0..2 {
            terminal.expect(&format!("64 bytes from {address}: seq={seq} ttl="));
        }
        terminal.send("\u{3}");
        terminal.expect(&format!("--- {name} ping statistics ---"));
        terminal.expect("0% packet loss");
        terminal.expect("round-trip min/avg/max = ");
        terminal.expect("/ # ");
    }
    terminal.send("cat /etc/hosts\r");
    let hosts = terminal.expect("/ # ");
    let lines: Vec<Vec<&str>> = hosts.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
    let own = up.value(&["get", "pod", "busybox"], "{.status.podIP}");
    let expected: [&[&str]; 8] = [
        &["#", "Kubernetes-managed", "hosts", "file."],
        &["127.0.0.1", "localhost"],
        &["::1", "localhost", "ip6-localhost", "ip6-loopback"],
        &["fe00::0", "ip6-localnet"],
        &["fe00::0", "ip6-mcastprefix"],
        &["fe00::1", "ip6-allnodes"],
        &["fe00::2", "ip6-allrouters"],
        &[&own, "busybox"],
    ];
    assert_eq!(lines[..8], expected, "{hosts}");
    terminal.send("exit\r");
    assert!(terminal.ended().0.success());
}

/// The common name gives either page, each Pod's own name always its own.
fn in_nginx_demo(up: &Up) {
    up.ok(&["create", "deployment", "nginx-demo", "--image=docker-ce.chenby.cn/library/nginx-demo:v1"]);
    let pod = up.ready_pods("default", "app=nginx-demo", 1).remove(0);
    let mut terminal = up.terminal(&["exec", "-ti", &pod, "--", "sh"]);
    terminal.expect("# ");
    let mut curl = |name: &str| {
        terminal.send(&format!("curl {name}.default.svc.cluster.local\r"));
        let said = terminal.expect("# ").replace('\r', "");
        let page =
            said.lines().find(|l| l.starts_with("这是")).unwrap_or_else(|| panic!("curl {name}: {said}"));
        format!("{page}\n")
    };
    let seen: BTreeSet<String> = (0..40).map(|_| curl("nginx")).collect();
    assert_eq!(seen, BTreeSet::from([FIRST.to_owned(), SECOND.to_owned()]));
    for _ in 0..3 {
        assert_eq!(curl("web-0.nginx"), FIRST);
        assert_eq!(curl("web-1.nginx"), SECOND);
    }
    terminal.send("exit\r");
    assert!(terminal.ended().0.success());
}

/// Pods that are replaced have the names of those before them, and DNS follows.
fn names_stay(up: &Up, before: &[(String, String)]) {
    let uids = "{.items[*].metadata.uid}";
    let old = up.value(&["get", "pods", "-l", "app=nginx"], uids);
    up.ok(&["delete", "pod", "web-0", "web-1"]);
    let pods = web(up);
    let new = up.value(&["get", "pods", "-l", "app=nginx"], uids);
    assert!(old.split(' ').all(|uid| !new.contains(uid)), "{old} and {new}");
    assert_eq!(pods.len(), before.len());
    for (name, address) in &pods {
        let name = format!("{name}.nginx.default.svc.cluster.local");
        // An answer of before is kept for its time to live, 30 s.
        eventually(&name, || {
            let done = up.kubectl(&["exec", "busybox", "--", "ping", "-c", "1", "-W", "1", &name]);
            let good = done.status.success() && done.stdout.contains(&format!("({address})"));
            if good { Ok(()) } else { Err(done.to_string()) }
        });
        assert_eq!(up.curl(address), FIRST);
    }
}
