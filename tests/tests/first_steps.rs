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
    ("up --config tab.yaml", 1, &["tab.yaml", "tab", "line 2 column 1"]),
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
    ("proxy --config field.yaml", 1, &["field.yaml:3:1", "`mod`", "`mode`"]),
    ("proxy --kubeconfig none", 1, &["no way to the API", "none"]),
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
