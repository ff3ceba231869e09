//! Pods' way outside: to a server on another machine, behind the address of their own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sealane_tests::{Machine, Stream, eventually, kubectl, run, sealane};

/// For documentation (RFC 5737), and in nobody's routes.
const OUTSIDE: &str = "198.51.100.1";
const OURS: &str = "198.51.100.2";
/// For one connection on the same machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// What serves ordinary users as a way outside.
const PROGRAMS: [&str; 2] = ["pasta", "slirp4netns"];

/// Two machines on one wire. The other one says to whom connects what address it sees.
fn two_machines() -> (Machine, Machine) {
    let (machine, other) = (Machine::new(), Machine::new());
    let ip = |machine: &Machine, args: &str| {
        run(machine.command("ip").args(args.split(' ')), b"").ok();
    };
    ip(&machine, &format!("link add wire0 type veth peer name wire1 netns {}", other.name()));
    for (end, name, address) in [(&machine, "wire0", OURS), (&other, "wire1", OUTSIDE)] {
        ip(end, &format!("address add {address}/24 dev {name}"));
        ip(end, &format!("link set {name} up"));
    }
    ip(&machine, &format!("route add default via {OUTSIDE}"));
    let listener = other.within(|| TcpListener::bind((OUTSIDE, 8080)).unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let Ok(peer) = stream.peer_addr() else { continue };
            let said = format!("you are {}", peer.ip());
            let _ = stream.read(&mut [0; 1024]);
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", said.len());
            let _ = stream.write_all((head + &said).as_bytes());
        }
    });
    (machine, other)
}

/// What a Pod hears from the server outside.
fn heard(machine: &Machine, kubeconfig: &Path) -> String {
    let kubectl =
        |args: &[&str]| run(machine.command(kubectl()).args(args).env("KUBECONFIG", kubeconfig), b"");
    let url = format!("http://{OUTSIDE}:8080/");
    kubectl(&[
        "run",
        "caller",
        "--image=sealane/demo",
        "--restart=Never",
        "--command",
        "--",
        "curl",
        "-s",
        &url,
    ])
    .ok();
    eventually("the caller's end", || {
        let phase = kubectl(&["get", "pod", "caller", "-o", "jsonpath={.status.phase}"]).ok();
        if phase == "Succeeded" { Ok(()) } else { Err(format!("{phase}: {}", kubectl(&["logs", "caller"]))) }
    });
    kubectl(&["logs", "caller"]).ok()
}

#[test]
fn as_root_by_masquerade() {
    let (machine, _other) = two_machines();
    let dir = tempfile::tempdir().unwrap();
    let forwarding = || run(machine.command("cat").arg("/proc/sys/net/ipv4/ip_forward"), b"").ok();
    let before = forwarding();
    let mut command = machine.command(sealane());
    command.args(["up", "--api-address", "127.0.0.1:0", "--node-name", machine.name(), "--data-dir"]);
    let mut stream = Stream::piped(command.arg(dir.path().join("data")));
    stream.expect("ready in ");
    assert_eq!(heard(&machine, &dir.path().join("data/kubeconfig")), format!("you are {OURS}"));
    stream.interrupt();
    assert_eq!(forwarding(), before);
    let left: Vec<String> = machine.leftovers().into_iter().filter(|l| !l.contains("wire0")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A device that any user may open, as on all systems with udev, in a mount namespace of the program's own.
const WITH_TUN: &str = "rm -f \"$1\"/tun && mknod -m 666 \"$1\"/tun c 10 200 && mount --bind \"$1\"/tun /dev/net/tun && \
                        shift && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";

#[test]
fn as_an_ordinary_user_by_what_is_installed() {
    for program in PROGRAMS {
        let (machine, other) = two_machines();
        let dir = tempfile::tempdir().unwrap();
        let (home, bin) = (dir.path().join("home"), dir.path().join("bin"));
        fs::create_dir(&home).unwrap();
        fs::create_dir(&bin).unwrap();
        for path in [dir.path(), &home] {
            chown(path, Some(65534), Some(65534)).unwrap();
        }
        // Where an ordinary user may execute it, and with one way outside alone.
        fs::copy(sealane(), bin.join("sealane")).unwrap();
        let installed = run(Command::new("sh").args(["-c", &format!("command -v {program}")]), b"").ok();
        symlink(installed.trim(), bin.join(program)).unwrap();
        let mark = bin.join(program).display().to_string();
        let start = || {
            let mut command = machine.command("unshare");
            command.args(["-m", "sh", "-c", WITH_TUN, "sh"]).arg(dir.path());
            command.arg("env").arg(format!("PATH={}", bin.display())).arg(bin.join("sealane"));
            command.args(["up", "--api-address", "127.0.0.1:0", "--data-dir"]).arg(home.join("data"));
            let mut stream = Stream::piped(command.env("HOME", &home));
            stream.expect("ready in ");
            assert_eq!(running(&mark).len(), 1, "{program}");
            stream
        };
        let stream = start();
        let kubeconfig = home.join("data/kubeconfig");
        let open = serve(&machine, &kubeconfig);
        assert_eq!(heard(&machine, &kubeconfig), format!("you are {OURS}"), "by {program}");
        // The way leads out alone: what the node and its Pods serve is nothing to the other machine.
        for port in open {
            let to = SocketAddr::new(OURS.parse().unwrap(), port);
            let refused = other.within(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{program}: {to}");
        }
        stream.interrupt();
        eventually("its end", || nothing(running(&mark)));
        // And as kill -9 ends it.
        drop(start());
        eventually("its end with a killed program", || nothing(running(&mark)));
        let links = machine.leftovers().into_iter().filter(|l| !l.contains("wire0")).collect();
        nothing(links).unwrap();
    }
}

/// A Pod that serves on a port of the node's; that port, its own one, and those of kube-dns and of the API for Pods.
fn serve(machine: &Machine, kubeconfig: &Path) -> [u16; 4] {
    let kubectl = |args: &[&str]| {
        run(machine.command(kubectl()).args(args).env("KUBECONFIG", kubeconfig), b"").ok();
    };
    let over = r#"{"spec":{"containers":[{"name":"web","image":"sealane/demo","args":["web","--port","8080"],
        "ports":[{"containerPort":8080,"hostPort":8088}]}]}}"#;
    kubectl(&["run", "web", "--image=sealane/demo", "--overrides", over]);
    kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", "pod/web"]);
    [8088, 8080, 53, 6443]
}

/// The programs that began with these words.
fn running(mark: &str) -> Vec<String> {
    let all = run(Command::new("ps").args(["-eo", "args"]), b"").ok();
    all.lines().filter(|line| line.starts_with(mark)).map(str::to_owned).collect()
}

fn nothing(left: Vec<String>) -> Result<(), String> {
    if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
}
