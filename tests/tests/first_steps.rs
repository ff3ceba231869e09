//! What goes wrong at first: a flag misspelt, a file that is wrong or not there, a port that another has. Each command
//! says in a line what it is and what to do about it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{TcpListener, UdpSocket};
use std::process::Command;

use sealane_tests::{free_port, run, sealane};

const FILES: &[(&str, &str)] = &[
    ("unknown.yaml", "apiVersion: sealane.dev/v1\nnoNod: true\n"),
    ("tab.yaml", "apiVersion: sealane.dev/v1\n\tnoNode: true\n"),
    ("Corefile", ".:53 {\n  forwrd . 10.0.0.2\n}\n"),
    ("open", ".:53 {\n  errors\n"),
    ("cluster", ".:1053 {\n  kubernetes cluster.local\n}\n"),
    ("configmap.yaml", "apiVersion: v1\nkind: ConfigMap\ndata:\n  Corefile: |\n    .:53 {\n    }\n"),
    (
        "mode.yaml",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftable\n",
    ),
    ("nodes.yaml", "apiVersion: sealane.dev/v1\nkind: Up\nnodes: three\n"),
    ("many.yaml", "apiVersion: sealane.dev/v1\nnodes: 70000\n"),
    ("switch.yaml", "apiVersion: sealane.dev/v1\nnoNode: maybe\n"),
    ("list.yaml", "apiVersion: sealane.dev/v1\nzones: a\n"),
    ("name.yaml", "apiVersion: sealane.dev/v1\nnodeName: [a]\n"),
    ("address.yaml", "apiVersion: sealane.dev/v1\napiAddress: 6443\n"),
    ("format.yaml", "apiVersion: sealane.dev/v1\nlogFormat: xml\n"),
    ("sink.yaml", "apiVersion: sealane.dev/v1\nproxyMode: ipvs\n"),
    ("range.yaml", "apiVersion: sealane.dev/v1\npodCidr: 10.244.0.0\n"),
    ("overlap.yaml", "apiVersion: sealane.dev/v1\n# The same twice.\npodCidr: 10.96.0.0/16\n"),
    ("headless.yaml", "nodes: 3\n"),
    ("empty.yaml", ""),
    ("version.yaml", "apiVersion: v1\nkind: Up\n"),
    ("kind.yaml", "apiVersion: sealane.dev/v1\nkind: Pod\n"),
    ("twice.yaml", "apiVersion: sealane.dev/v1\nnodes: 3\nnodes: 4\n"),
    ("indent.yaml", "apiVersion: sealane.dev/v1\n  nodes: 3\n"),
    ("colon.yaml", "apiVersion: sealane.dev/v1\nnodes:3\n"),
    (
        "score.yaml",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\noomScoreAdj: low\n",
    ),
    (
        "period.yaml",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\niptables:\n  syncPeriod: 30\n",
    ),
    (
        "inner.yaml",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nnodePortAddresses: 10.0.0.0/8\n",
    ),
    ("old.yaml", "apiVersion: kubeproxy.config.k8s.io/v1\nkind: KubeProxyConfiguration\n"),
    (
        "tabs.yaml",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\tmode: nftables\n",
    ),
    ("context.kubeconfig", "apiVersion: v1\nkind: Config\nclusters: []\ncurrent-context: x\n"),
    ("tab.kubeconfig", "apiVersion: v1\n\tkind: Config\n"),
    ("type.kubeconfig", "apiVersion: v1\nkind: Config\nclusters: {}\n"),
    ("empty.kubeconfig", ""),
    (
        "server.kubeconfig",
        "clusters: [{name: c, cluster: {server: nowhere}}]\nusers: [{name: u, user: {}}]\n\
         contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n",
    ),
    (
        "ca.kubeconfig",
        "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1', certificate-authority: /none/ca}}]\n\
         users: [{name: u, user: {}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n",
    ),
    ("server.corefile", ".:1053 {\n  kubernetes {\n    kubeconfig server.kubeconfig\n  }\n}\n"),
    ("endpoint.corefile", ".:1053 {\n  kubernetes {\n    endpoint nowhere\n  }\n}\n"),
    ("bind.corefile", ".:1053 {\n  bind 127.0.0.1\n}\n.:1053 {\n  bind 127.0.0.1 ::1\n}\n"),
    (
        "field.yaml",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmod: nftables\n",
    ),
];

/// Words, exit status, and what has to be said.
const MISTAKES: &[(&str, i32, &[&str])] = &[
    ("up --no-nod", 2, &["--no-nod", "'--no-node'"]),
    ("up --config none.yaml", 1, &["--config none.yaml", "No such file", "leave --config out"]),
    ("up --config unknown.yaml", 1, &["unknown.yaml", "noNod", "`noNode`"]),
    ("up --config tab.yaml", 1, &["tab.yaml:2:1: found a tab", "indent with blanks"]),
    (
        "up --config nodes.yaml",
        1,
        &["nodes.yaml:3:8: nodes: ", "\"three\"", "a whole number from 0 to 65535"],
    ),
    ("up --config many.yaml", 1, &["many.yaml:2:8: nodes: ", "70000", "from 0 to 65535"]),
    ("up --config switch.yaml", 1, &["switch.yaml:2:9: noNode: ", "\"maybe\"", "expected true or false"]),
    ("up --config list.yaml", 1, &["list.yaml:2:8: zones: ", "expected a list like [a, b]"]),
    ("up --config name.yaml", 1, &["name.yaml:2:11: nodeName: ", "sequence", "expected a text"]),
    ("up --config address.yaml", 1, &["address.yaml:2:13: apiAddress: ", "like 127.0.0.1:6443"]),
    ("up --config format.yaml", 1, &["format.yaml:2:12: logFormat: ", "`xml`", "expected `text` or `json`"]),
    ("up --config sink.yaml", 1, &["sink.yaml:2:12: proxyMode: ", "`ipvs`", "`nftables`, `iptables`"]),
    ("up --config range.yaml", 1, &["range.yaml:2:10: podCidr: 10.244.0.0 is not", "like 10.244.0.0/16"]),
    (
        "up --config overlap.yaml",
        1,
        &["overlap.yaml:3:10: podCidr 10.96.0.0/16", "overlap; give two that don't"],
    ),
    (
        "up --config headless.yaml",
        1,
        &["headless.yaml: apiVersion is missing", "`apiVersion: sealane.dev/v1`"],
    ),
    ("up --config empty.yaml", 1, &["empty.yaml: apiVersion is missing", "`apiVersion: sealane.dev/v1`"]),
    (
        "up --config version.yaml",
        1,
        &["version.yaml:1:13: apiVersion is \"v1\"", "`apiVersion: sealane.dev/v1`"],
    ),
    ("up --config kind.yaml", 1, &["kind.yaml:2:7: kind is \"Pod\"", "write `kind: Up`"]),
    ("up --config twice.yaml", 1, &["twice.yaml:3:1: ", "duplicate field `nodes`", "write it once"]),
    ("up --config indent.yaml", 1, &["indent.yaml:2:8: ", "indent it as the lines around it"]),
    ("up --config colon.yaml", 1, &["colon.yaml:3:1: ", "write `name: value`"]),
    ("up --nodes three", 2, &["'three'", "--nodes <N>", "--help"]),
    ("up --api-address 6443", 2, &["'6443'", "--api-address <ADDR:PORT>", "--help"]),
    ("up --log-format xml", 2, &["'xml'", "--log-format <FORMAT>", "text, json"]),
    ("up --service-cidr 10.96.0.0", 1, &["--service-cidr", "10.96.0.0", "10.244.0.0/16"]),
    ("dns -cnf Corefile", 1, &["-cnf", "known are -conf"]),
    ("dns Corefile", 1, &["given with -conf"]),
    ("dns -conf none", 1, &["-conf none", "there is no such file", "`stdin`"]),
    ("dns -conf Corefile", 1, &["Corefile:2:3", "is 'forward' meant?"]),
    ("dns -conf open", 1, &["open:1:6", "'}' is missing"]),
    ("dns -p 70000", 1, &["-p 70000", "0 to 65535"]),
    ("dns -conf cluster", 1, &["no way to the API", "KUBECONFIG"]),
    ("proxy --cnfig mode.yaml", 2, &["--cnfig", "sealane proxy --help"]),
    ("proxy --config none.yaml", 1, &["none.yaml", "No such file"]),
    ("proxy --config mode.yaml", 1, &["mode.yaml:3:7", "nftable", "must be nftables, iptables"]),
    ("proxy --config field.yaml", 1, &["field.yaml:3:1", "`mod`", "is `mode` meant?"]),
    (
        "proxy --config score.yaml",
        1,
        &["score.yaml:3:14: oomScoreAdj: ", "\"low\"", "expected a whole number"],
    ),
    ("proxy --config period.yaml", 1, &["period.yaml:4:15: iptables.syncPeriod: ", "such as 30s"]),
    (
        "proxy --config inner.yaml",
        1,
        &["inner.yaml:3:20: nodePortAddresses: ", "expected a list like [a, b]"],
    ),
    (
        "proxy --config old.yaml",
        1,
        &["old.yaml:1:13: apiVersion: ", "must be kubeproxy.config.k8s.io/v1alpha1"],
    ),
    ("proxy --config tabs.yaml", 1, &["tabs.yaml:3:1: found a tab", "indent with blanks"]),
    ("proxy --config headless.yaml", 1, &["headless.yaml:1:1: unknown field `nodes`"]),
    (
        "proxy --kubeconfig none",
        1,
        &["no way to the API: none: No such file", "name a kubeconfig that is there"],
    ),
    (
        "proxy --kubeconfig context.kubeconfig",
        1,
        &["context.kubeconfig: there is no context \"x\"", "current-context"],
    ),
    ("proxy --kubeconfig tab.kubeconfig", 1, &["tab.kubeconfig:1:13: ", "tab", "`kubectl config view`"]),
    ("proxy --kubeconfig type.kubeconfig", 1, &["type.kubeconfig:3:11: ", "`kubectl config view`"]),
    (
        "proxy --kubeconfig empty.kubeconfig",
        1,
        &["empty.kubeconfig: current-context is missing", "a kubeconfig?"],
    ),
    (
        "proxy --kubeconfig server.kubeconfig",
        1,
        &["server.kubeconfig: the server \"nowhere\"", "like https://"],
    ),
    ("proxy --kubeconfig ca.kubeconfig", 1, &["ca.kubeconfig: ", "certificate authority", "/none/ca"]),
    ("proxy --master nowhere", 1, &["--master: the server \"nowhere\"", "like https://10.0.0.1:6443"]),
    (
        "dns -conf server.corefile",
        1,
        &["server.kubeconfig: the server \"nowhere\"", "like https://10.0.0.1:6443"],
    ),
    (
        "dns -conf endpoint.corefile",
        1,
        &["endpoint.corefile:3:14: ", "'nowhere' is no URL (https://HOST:PORT)"],
    ),
    (
        "dns -conf bind.corefile",
        1,
        &["bind.corefile:4:1: cannot serve dns://.:1053 on 127.0.0.1", "bind.corefile:1:1"],
    ),
    ("check", 2, &["<FILE>", "--help"]),
    ("check none", 1, &["cannot read none", "No such file"]),
    ("check Corefile", 1, &["1 problem; put it right"]),
    ("check configmap.yaml", 1, &["is a ConfigMap", "jsonpath={.data.Corefile}", "sealane check -"]),
    ("chek Corefile", 2, &["chek", "'check'"]),
];

#[test]
fn each_mistake_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in FILES {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let mut wrong = Vec::new();
    for (words, code, said) in MISTAKES {
        let mut command = Command::new(sealane());
        command.args(words.split(' ')).current_dir(folder.path());
        command.env_remove("KUBECONFIG").env("HOME", folder.path());
        let done = run(&mut command, b"");
        let all = said.iter().all(|part| done.stderr.contains(part));
        let lines = done.stderr.lines().filter(|line| line.starts_with("sealane: ")).count();
        if !all || done.status.code() != Some(*code) || lines > 1 || *code == 1 && lines == 0 {
            wrong.push(format!("{words}: not {code} with {said:?}, but {done}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `up`'s port is in `bad_input`.
#[test]
fn a_port_that_is_taken_is_named_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let (_tcp, _udp) =
        (TcpListener::bind(("127.0.0.1", port)).unwrap(), UdpSocket::bind(("127.0.0.1", port)).unwrap());
    let path = folder.path().join("Corefile");
    std::fs::write(&path, format!(".:{port} {{\n bind 127.0.0.1\n errors\n}}\n")).unwrap();
    let done = run(Command::new(sealane()).args(["dns", "-conf"]).arg(&path), b"");
    assert_eq!(done.status.code(), Some(1), "{done}");
    for part in [format!("127.0.0.1:{port}"), "in use".to_owned(), "name another port (`.:1053`)".to_owned()]
    {
        assert!(done.stderr.contains(&part), "{part}: {done}");
    }
}
