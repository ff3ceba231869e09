//! `up --nodes 3 --zones a,b`: each node a network of its own, so that policies, hints and the loss of a node are real.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sealane_tests::{
    Machine, Start, Stream, Up, eventually, eventually_within, kubectl, run, sealane, table,
};

/// A Node that falls silent is seen to be after 50 s.
const SILENCE: Duration = Duration::from_secs(100);

fn three() -> Start {
    Start::new().arg("--nodes").arg("3").arg("--zones").arg("a,b")
}

/// The nodes' names, in their order.
fn names(up: &Up) -> [String; 3] {
    let first = up.machine.name();
    [first.to_owned(), format!("{first}-2"), format!("{first}-3")]
}

/// The nodes' addresses, in the same order.
fn addresses(up: &Up) -> [String; 3] {
    names(up)
        .map(|name| up.value(&["get", "node", &name], "{.status.addresses[?(@.type=='InternalIP')].address}"))
}

/// One Pod that serves its page on each node, called web-1, web-2 and web-3; their addresses.
#[track_caller]
fn one_on_each(up: &Up) -> [String; 3] {
    let mut n = 0;
    for node in names(up) {
        n += 1;
        up.apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: web-{n}, labels: {{app: web, web: 'n{n}'}}}}
spec:
  nodeName: {node}
  containers:
  - {{name: c, image: sealane/demo, args: [web, --port, '8080']}}
"
        ))
        .ok();
    }
    up.ready_pods("default", "app=web", 3);
    [1, 2, 3].map(|n| up.value(&["get", "pod", &format!("web-{n}")], "{.status.podIP}"))
}

/// A Service of those Pods.
#[track_caller]
fn service(up: &Up, name: &str, selector: &str, more: &str) {
    up.apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{{selector}}}
  ports: [{{port: 80, targetPort: 8080}}]
{more}
"
    ))
    .ok();
}

/// Who answered, and whom it saw: `…ClientIP: A, ServerName: B, …`.
fn part<'a>(page: &'a str, name: &str) -> &'a str {
    let rest = page.split_once(&format!("{name}: ")).unwrap_or_else(|| panic!("{name}: {page}")).1;
    rest.split([',', '!', '\n']).next().unwrap_or_default()
}

/// The process that stands for a node.
#[track_caller]
fn process(up: &Up, node: &str) -> i32 {
    let mark = format!("{node} at ");
    let line = up.lines.iter().find(|l| l.contains(&mark)).unwrap_or_else(|| panic!("{:#?}", up.lines));
    line.rsplit_once("(process ").unwrap().1.trim_end_matches(')').parse().unwrap()
}

#[test]
fn nodes_have_names_ranges_and_zones_and_reach_each_other() {
    let up = three().up();
    let names = names(&up);
    let rows =
        table(&up.ok(&["get", "nodes", "-L", "topology.kubernetes.io/zone,topology.kubernetes.io/region"]));
    let shown: Vec<[&str; 4]> =
        rows[1..].iter().map(|r| [&*r[0], &*r[1], &*r[r.len() - 2], &*r[r.len() - 1]]).collect();
    let wanted: Vec<[&str; 4]> =
        names.iter().zip(["a", "b", "a"]).map(|(n, z)| [n.as_str(), "Ready", z, "local"]).collect();
    assert_eq!(shown, wanted);
    let ranges = names.clone().map(|n| up.value(&["get", "node", &n], "{.spec.podCIDR}"));
    assert_eq!(ranges, ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]);
    assert_eq!(addresses(&up), ["10.244.0.1", "10.244.1.1", "10.244.2.1"]);

    // Each Pod reaches each by its address, and is seen with its own.
    let pods = one_on_each(&up);
    for (n, from) in pods.iter().enumerate() {
        for (m, to) in pods.iter().enumerate() {
            let page = up.answer(&format!("web-{}", n + 1), &format!("http://{to}:8080/"));
            assert_eq!(
                (part(&page, "ServerName"), part(&page, "ServerIP")),
                (&*format!("web-{}", m + 1), &**to)
            );
            assert_eq!(part(&page, "ClientIP"), from);
        }
    }
    // The machine reaches them too, with an address of its own.
    for to in &pods {
        assert_eq!(part(&up.curl(&format!("{to}:8080")), "ClientIP"), "10.244.255.254");
    }
    services_answer_everywhere(&up);
    replicas_are_spread(&up, &names);
    up.stop();
}

/// By name and address from each node's Pods, and from the machine; on each node's port.
#[track_caller]
fn services_answer_everywhere(up: &Up) {
    service(up, "all", "app: web", "  type: NodePort");
    let address = up.value(&["get", "service", "all"], "{.spec.clusterIP}");
    let port = up.value(&["get", "service", "all"], "{.spec.ports[0].nodePort}");
    let of_nodes = addresses(up);
    for n in 1..=3 {
        let from = format!("web-{n}");
        up.answer(&from, "http://all.default.svc.cluster.local/");
        up.answer(&from, &format!("http://{address}/"));
        for node in &of_nodes {
            up.answer(&from, &format!("http://{node}:{port}/"));
        }
        // Every endpoint is chosen in the end, on whichever node it is.
        let mut left: BTreeSet<&str> = ["web-1", "web-2", "web-3"].into();
        eventually("all endpoints answer", || {
            let page = up.ask(&from, &format!("http://{address}/"))?;
            left.remove(part(&page, "ServerName"));
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?} not yet")) }
        });
        let done = up.kubectl(&["exec", &from, "--", "nslookup", "kubernetes.default"]);
        assert!(done.stdout.contains("10.96.0.1"), "{done}");
    }
    for at in of_nodes.iter().map(|node| format!("{node}:{port}")).chain([address]) {
        let mut left: BTreeSet<String> = ["web-1", "web-2", "web-3"].map(str::to_owned).into();
        eventually(&format!("all endpoints answer the machine at {at}"), || {
            left.remove(part(&up.curl(&at), "ServerName"));
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?} not yet")) }
        });
    }
}

/// One replica on each node; kube-dns on two.
#[track_caller]
fn replicas_are_spread(up: &Up, names: &[String; 3]) {
    up.ok(&["create", "deployment", "d", "--image=sealane/demo", "--replicas=3", "--", "sleep", "infinity"]);
    up.ready_pods("default", "app=d", 3);
    let on = |namespace: &str, selector: &str| -> BTreeSet<String> {
        let nodes = up.value(&["-n", namespace, "get", "pods", "-l", selector], "{.items[*].spec.nodeName}");
        nodes.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(on("default", "app=d"), names.iter().cloned().collect());
    up.ready_pods("kube-system", "k8s-app=kube-dns", 2);
    assert_eq!(on("kube-system", "k8s-app=kube-dns").len(), 2);
}

#[test]
fn policies_and_hints_keep_traffic_where_they_say() {
    let up = three().up();
    one_on_each(&up);
    let nodes = addresses(&up);

    // One endpoint, on the second node: its own port leads to it and keeps who asks, the others' drop.
    let balanced =
        "  type: LoadBalancer\n  loadBalancerClass: example.org/ours\n  healthCheckNodePort: 31999\n";
    service(&up, "local", "web: n2", &format!("{balanced}  externalTrafficPolicy: Local"));
    let port = up.value(&["get", "service", "local"], "{.spec.ports[0].nodePort}");
    let page = up.curl(&format!("{}:{port}", nodes[1]));
    assert_eq!((part(&page, "ServerName"), part(&page, "ClientIP")), ("web-2", "10.244.255.254"));
    for node in [&nodes[0], &nodes[2]] {
        let error = up.http("GET", &format!("{node}:{port}"), "/", "").unwrap_err();
        assert!(error.contains("timed out"), "dropped, not refused: {error}");
        // Nor is a Pod of another node led past it.
        let error = up.ask("web-2", &format!("http://{node}:{port}/")).unwrap_err();
        assert!(!error.contains("refused"), "{error}");
    }
    // A load balancer's address is led to a node that has one.
    let balanced = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"10.111.200.9"}]}}}"#;
    up.ok(&["patch", "service", "local", "--subresource=status", "--type=merge", "-p", balanced]);
    let page = up.curl("10.111.200.9");
    assert_eq!((part(&page, "ServerName"), part(&page, "ClientIP")), ("web-2", "10.244.255.254"));
    // Who asks the nodes for their health is told so.
    let check = up.value(&["get", "service", "local"], "{.spec.healthCheckNodePort}");
    for (node, status, count) in [(&nodes[0], 503, 0), (&nodes[1], 200, 1), (&nodes[2], 503, 0)] {
        let page = eventually("a health check", || up.http("GET", &format!("{node}:{check}"), "/", ""));
        assert_eq!(page.status, status, "{node}: {}", page.body);
        assert!(page.body.contains(&format!("\"localEndpoints\":{count}")), "{}", page.body);
    }

    // Within the cluster likewise.
    service(&up, "inner", "web: n2", "  internalTrafficPolicy: Local");
    let inner = format!("http://{}/", up.value(&["get", "service", "inner"], "{.spec.clusterIP}"));
    assert_eq!(part(&up.answer("web-2", &inner), "ServerName"), "web-2");
    for from in ["web-1", "web-3"] {
        up.ask(from, &inner).unwrap_err();
    }

    // Zone b is the second node alone, zone a the other two.
    service(&up, "zonal", "app: web", "  trafficDistribution: PreferSameZone");
    let zonal = format!("http://{}/", up.value(&["get", "service", "zonal"], "{.spec.clusterIP}"));
    eventually("hints", || {
        let path = "{.items[*].endpoints[*].hints.forZones[*].name}";
        let zones = up.value(&["get", "endpointslices", "-l", "kubernetes.io/service-name=zonal"], path);
        let mut zones: Vec<&str> = zones.split_whitespace().collect();
        zones.sort_unstable();
        if zones == ["a", "a", "b"] { Ok(()) } else { Err(format!("{zones:?}")) }
    });
    for (from, wanted) in
        [("web-2", &["web-2"][..]), ("web-1", &["web-1", "web-3"]), ("web-3", &["web-1", "web-3"])]
    {
        // As long as it takes the node's rules to know the hints; from then on no other answers.
        let twelve = || -> Result<BTreeSet<String>, String> {
            (0..12).map(|_| Ok(part(&up.ask(from, &zonal)?, "ServerName").to_owned())).collect()
        };
        let wanted: BTreeSet<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
        eventually(&format!("{from} stays in its zone"), || {
            let found = twelve()?;
            if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
        });
        let found = twelve().unwrap();
        assert!(found.is_subset(&wanted), "{from}: {found:?}");
    }
    up.stop();
}

#[test]
fn a_node_is_drained_and_another_dies() {
    let start = three();
    let up = start.up();
    let [_, second, third] = names(&up);
    up.ok(&[
        "create",
        "deployment",
        "d",
        "--image=sealane/demo",
        "--replicas=6",
        "--",
        "web",
        "--port",
        "8080",
    ]);
    up.ok(&["expose", "deployment", "d", "--port=80", "--target-port=8080"]);
    up.ready_pods("default", "app=d", 6);
    let on = |node: &str| -> usize {
        let field = format!("spec.nodeName={node}");
        let all = up.ok(&["get", "pods", "-A", "--field-selector", &field, "--no-headers"]);
        all.lines().filter(|l| !l.starts_with("No resources")).count()
    };
    assert!(on(&third) >= 2, "{}", up.ok(&["get", "pods", "-A", "-o", "wide"]));

    up.ok(&["drain", &third, "--ignore-daemonsets", "--delete-emptydir-data", "--grace-period=1"]);
    up.ready_pods("default", "app=d", 6);
    eventually("the drained node is empty", || {
        if on(&third) == 0 { Ok(()) } else { Err(on(&third).to_string()) }
    });
    assert!(up.ok(&["get", "node", &third]).contains("SchedulingDisabled"));
    up.ok(&["uncordon", &third]);

    // The second one's power goes.
    let dead: BTreeSet<String> = {
        let field = format!("spec.nodeName={second}");
        let ips =
            up.value(&["get", "pods", "-l", "app=d", "--field-selector", &field], "{.items[*].status.podIP}");
        ips.split_whitespace().map(str::to_owned).collect()
    };
    assert!(!dead.is_empty());
    kill_process(Pid::from_raw(process(&up, &second)).unwrap(), Signal::KILL).unwrap();
    let said = format!("node {second} is lost");
    eventually("it is said", || {
        let log = fs::read_to_string(start.file("stderr")).unwrap();
        if log.contains(&said) { Ok(()) } else { Err(log) }
    });
    // Nobody speaks for it any more: it is known by its silence.
    eventually_within(SILENCE, "the node is not ready", || {
        let rows = table(&up.ok(&["get", "nodes"]));
        let states: Vec<(String, String)> = rows[1..].iter().map(|r| (r[0].clone(), r[1].clone())).collect();
        let wanted = |name: &str| if name == second { "NotReady" } else { "Ready" };
        if states.iter().all(|(name, state)| state == wanted(name)) {
            Ok(())
        } else {
            Err(format!("{states:?}"))
        }
    });
    eventually("its endpoints leave", || {
        let path = "{.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}";
        let left = up.value(&["get", "endpointslices", "-l", "kubernetes.io/service-name=d"], path);
        let left: BTreeSet<String> = left.split_whitespace().map(str::to_owned).collect();
        if !left.is_empty() && left.is_disjoint(&dead) { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let address = up.value(&["get", "service", "d"], "{.spec.clusterIP}");
    for _ in 0..12 {
        let page = up.curl(&address);
        assert!(!dead.contains(part(&page, "ServerIP")), "{page}");
    }

    // Deleted, it takes its Pods with it, and others come in their place.
    up.ok(&["delete", "node", &second]);
    up.ready_pods("default", "app=d", 6);
    assert_eq!(on(&second), 0);
    up.ready_pods("kube-system", "k8s-app=kube-dns", 2);
    assert_eq!(table(&up.ok(&["get", "nodes"])).len(), 3);
    up.stop();
    // The next one has it again.
    let up = start.up();
    assert_eq!(table(&up.ok(&["get", "nodes"])).len(), 4);
    up.stop();
}

#[test]
fn the_first_node_is_no_more_than_another() {
    let start = three();
    let up = start.up();
    let [first, second, _] = names(&up);
    let pods = one_on_each(&up);
    service(&up, "two", "web: n2", "");
    let address = up.value(&["get", "service", "two"], "{.spec.clusterIP}");
    up.curl(&address);
    kill_process(Pid::from_raw(process(&up, &first)).unwrap(), Signal::KILL).unwrap();
    eventually("its Pod answers no more", || match up.http("GET", &format!("{}:8080", pods[0]), "/", "") {
        Ok(page) => Err(page.body),
        Err(_) => Ok(()),
    });
    // The machine reaches Services by another node, Pods the API by the network between them.
    up.curl(&address);
    up.answer("web-3", &format!("http://{address}/"));
    up.answer("web-3", &format!("http://{}:8080/", pods[1]));
    // Whoever wants to look from inside chooses one that lives.
    let shell = |node: &str| {
        let mut command = start.machine.command(sealane());
        command.arg("shell").arg("--data-dir").arg(start.data_dir()).args(["--node", node, "--"]);
        run(command.args(["ip", "-4", "-o", "address", "show", "sealane0"]), b"")
    };
    let said = shell(&second).ok();
    assert!(said.contains("10.244.1.1/24"), "{said}");
    let said = shell(&first).fails();
    assert!(said.contains("no node runs"), "{said}");
    let logs = up.kubectl(&["logs", "web-1"]).fails();
    assert!(logs.contains(&format!("lost: {first}")), "{logs}");
    up.stop();
}

#[test]
fn killed_it_leaves_nothing_and_comes_again() {
    let start = three();
    let up = start.up();
    let pods = one_on_each(&up);
    let family = up.family();
    kill_process(Pid::from_raw(up.pid()).unwrap(), Signal::KILL).unwrap();
    up.killed(&family);
    eventually("links and routes go with it", || {
        let left = start.machine.leftovers();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let up = start.up();
    up.ready_pods("default", "app=web", 3);
    for (n, address) in pods.iter().enumerate() {
        eventually("the Pods serve again", || {
            let page = up.http("GET", &format!("{address}:8080"), "/", "")?;
            if page.body.contains(&format!("web-{}", n + 1)) { Ok(()) } else { Err(page.body) }
        });
    }
    up.stop();
}

#[test]
fn with_fewer_nodes_the_pods_of_the_others_move() {
    let one = Start::new();
    let up = one.clone().arg("--nodes").arg("3").up();
    up.ok(&["create", "deployment", "d", "--image=sealane/demo", "--replicas=3", "--", "sleep", "infinity"]);
    up.ready_pods("default", "app=d", 3);
    up.stop();
    let up = one.up();
    eventually("one node is left", || {
        let nodes = up.value(&["get", "nodes"], "{.items[*].metadata.name}");
        if nodes == up.machine.name() { Ok(()) } else { Err(nodes) }
    });
    up.ready_pods("default", "app=d", 3);
    up.ready_pods("kube-system", "k8s-app=kube-dns", 2);
    let on = up.value(&["get", "pods", "-A"], "{.items[*].spec.nodeName}");
    assert!(on.split_whitespace().all(|n| n == up.machine.name()), "{on}");
    assert_eq!(fs::read_dir(one.data_dir().join("nodes")).unwrap().count(), 0);
    up.stop();
}

#[test]
fn a_node_that_is_called_otherwise_has_the_pods_of_the_one_before() {
    let one = Start::new();
    let up = one.up();
    up.ok(&["create", "deployment", "d", "--image=sealane/demo", "--", "sleep", "infinity"]);
    up.ready_pods("default", "app=d", 1);
    up.stop();
    let other = format!("{}-b", one.machine.name());
    let up = one.clone().arg("--node-name").arg(&other).up();
    up.ready_pods("default", "app=d", 1);
    up.ready_pods("kube-system", "k8s-app=kube-dns", 1);
    assert_eq!(up.value(&["get", "nodes"], "{.items[*].metadata.name}"), other);
    let pod = up.value(&["get", "pods"], "{.items[*].metadata.name}");
    up.stop();
    // Whatever the machine is called, the node is what it was the last time, and so are its Pods.
    let mut stream = Stream::piped(&mut one.sealane(&["up", "--api-address", "127.0.0.1:0"]));
    stream.expect(&format!("{other} at"));
    stream.expect("ready in ");
    let mut pods = one.machine.command(kubectl());
    pods.args(["get", "pods", "-o", "name"]).env("KUBECONFIG", one.data_dir().join("kubeconfig"));
    assert_eq!(run(&mut pods, b"").ok().trim(), format!("pod/{pod}"));
    stream.interrupt();
}

#[test]
fn an_ordinary_users_nodes_reach_each_other() {
    let machine = Machine::new();
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    for path in [dir.path(), &home] {
        chown(path, Some(65534), Some(65534)).unwrap();
    }
    // Where an ordinary user may execute it.
    let (program, curl) = (dir.path().join("sealane"), dir.path().join("curl"));
    fs::copy(sealane(), &program).unwrap();
    symlink("sealane", &curl).unwrap();
    let data = home.join("data");
    let user = |words: &[&str]| {
        let mut command = machine.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(words);
        command.arg("--data-dir").arg(&data).env("HOME", &home);
        command
    };
    let mut stream =
        Stream::piped(&mut user(&["up", "--api-address", "127.0.0.1:0", "--nodes", "2", "--node-name", "n"]));
    stream.expect("ready in ");
    let kubectl = |args: &[&str]| {
        run(machine.command(kubectl()).args(args).env("KUBECONFIG", data.join("kubeconfig")), b"")
    };
    for (pod, node) in [("one", "n"), ("two", "n-2")] {
        let over = format!(
            r#"{{"spec":{{"nodeName":"{node}","containers":[{{"name":"{pod}","image":"sealane/demo","args":["web"]}}]}}}}"#
        );
        kubectl(&["run", pod, "--image=sealane/demo", "--overrides", &over]).ok();
    }
    kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", "pod/one", "pod/two"]).ok();
    kubectl(&["expose", "pod", "two", "--port=80"]).ok();
    let address = |pod: &str| kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]).ok();
    for (from, to) in [("one", "two"), ("two", "one")] {
        let page =
            kubectl(&["exec", from, "--", "curl", "-s", "-m", "5", &format!("http://{}/", address(to))]).ok();
        assert_eq!((part(&page, "ServerName"), part(&page, "ClientIP")), (to, &*address(from)));
    }
    let page = eventually("the Service answers", || {
        let done = kubectl(&["exec", "one", "--", "curl", "-s", "-m", "2", "http://two/"]);
        if done.status.success() { Ok(done.stdout) } else { Err(done.to_string()) }
    });
    assert_eq!(part(&page, "ServerName"), "two");
    // From the node's network, for whoever looks.
    let mut shell = machine.command("setpriv");
    shell.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    shell
        .args(["shell", "--data-dir"])
        .arg(&data)
        .arg("--")
        .arg(&curl)
        .arg("-s")
        .arg(format!("http://{}/", address("two")));
    let page = run(shell.env("HOME", &home), b"").ok();
    assert_eq!(part(&page, "ServerName"), "two");
    stream.interrupt();
}
