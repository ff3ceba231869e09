//! A machine outside the cluster runs `sealane proxy` and uses cluster DNS (article 002, "external resources that connect
//! to Services of the cluster"): names and Services are there what they are inside.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use sealane_tests::{Done, Machine, Start, eventually, run, sealane};

/// curl's exit statuses.
const COULD_NOT_CONNECT: i32 = 7;
const TIMED_OUT: i32 = 28;

const WEB: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - {name: web, image: sealane/demo, command: [web, --port, '8080']}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: 10.96.0.44, ports: [{port: 80}]}
";

fn ip(machine: &Machine, words: &str) {
    run(machine.command("ip").args(words.split_whitespace()), b"").ok();
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The resolver file of a network namespace, which `ip netns exec` puts in place.
struct Resolver(PathBuf);

impl Resolver {
    fn new(machine: &Machine, text: &str) -> Resolver {
        let folder = PathBuf::from("/etc/netns").join(machine.name());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("resolv.conf"), text).unwrap();
        Resolver(folder)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        // Goes with the last of them.
        let _ = fs::remove_dir("/etc/netns");
    }
}

fn curl(machine: &Machine, url: &str) -> Done {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", machine.name(), "curl", "-s", "-S", "--max-time", "5", url]);
    run(&mut command, b"")
}

#[test]
fn names_and_services_work_from_a_machine_outside() {
    let start = Start::new();
    let outside = Machine::new();
    ip(&start.machine, &format!("link add lan0 type veth peer name eth0 netns {}", outside.name()));
    for (machine, link, address) in [(&*start.machine, "lan0", "192.0.2.1"), (&outside, "eth0", "192.0.2.2")]
    {
        ip(machine, &format!("addr add {address}/24 dev {link}"));
        ip(machine, &format!("link set {link} up"));
    }
    // All that it knows of the cluster: the way to its Pods, the API, and the address of its DNS. Whatever else is asked
    // for on its wire, nobody there has it.
    ip(&outside, "route add 10.244.0.0/16 via 192.0.2.1");
    ip(&outside, "route add default dev eth0");
    let _resolver = Resolver::new(
        &outside,
        "nameserver 10.96.0.10\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
    );
    let up = start.arg("--api-address").arg("192.0.2.1:0").up();
    up.apply(WEB).ok();
    up.ready_pods("default", "app=web", 1);
    let refused = curl(&outside, "http://web/");
    assert!(!refused.status.success(), "without the proxy there are no names: {refused}");

    let kubeconfig = up.kubeconfig();
    let mut proxy = outside.command(sealane());
    proxy.args([
        "proxy",
        "--cluster-cidr=10.244.0.0/16",
        "--hostname-override=outside",
        "--conntrack-max-per-core=0",
    ]);
    proxy.arg("--kubeconfig").arg(&kubeconfig).stdin(Stdio::null()).stdout(Stdio::null());
    let _proxy = Running(proxy.spawn().unwrap());
    for url in ["http://web/", "http://web.default/", "http://web.default.svc.cluster.local/"] {
        let page = eventually(url, || match curl(&outside, url) {
            done if done.status.success() => Ok(done.stdout),
            done => Err(done.to_string()),
        });
        // The Pod sees the machine itself.
        assert!(page.contains("ServerName") && page.contains("192.0.2.2"), "{page}");
    }
    // A Service without endpoints refuses; an address of nobody's is answered by nobody, for the ServiceCIDR is known.
    let refused = curl(&outside, "http://10.96.0.44/");
    assert_eq!(refused.status.code(), Some(COULD_NOT_CONNECT), "{refused}");
    let lost = curl(&outside, "http://10.96.77.77/");
    assert_eq!(lost.status.code(), Some(TIMED_OUT), "{lost}");
    // Ranges that overlap by mistake, with each other and with the Pods', hurt nobody.
    let more = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [10.0.0.0/8]}\n";
    up.apply(more).ok();
    let rules = || run(outside.command("nft").args(["list", "chain", "ip", "sealane", "services"]), b"").ok();
    eventually("the wider range is in force", || match rules() {
        text if text.contains("10.0.0.0/8") && !text.contains("10.96.0.0/12") => Ok(()),
        text => Err(text),
    });
    let page = curl(&outside, "http://web/").ok();
    assert!(page.contains("192.0.2.2"), "{page}");
    let address = up.value(&["get", "pod", "web"], "{.status.podIP}");
    let page = curl(&outside, &format!("http://{address}:8080/")).ok();
    assert!(page.contains("192.0.2.2"), "{page}");
    up.ok(&["delete", "servicecidr", "more"]);
    eventually("the range is gone", || match rules() {
        text if text.contains("10.96.0.0/12") => Ok(()),
        text => Err(text),
    });
    let listed = up.ok(&["get", "servicecidrs"]);
    assert!(listed.starts_with("NAME") && listed.contains("kubernetes   10.96.0.0/12"), "{listed}");
    ip(&up.machine, "link del lan0");
    up.stop();
}
