//! `sealane dns` and signals: USR1 loads the Corefile again, HUP is nothing, TERM ends it, as with CoreDNS.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sealane_tests::{free_port, sealane};

struct Dns {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Dns {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads up to a line that holds `text`; one that never comes is the test's time limit, or the program's end.
    fn said(&mut self, text: &str) -> String {
        let line = self.lines.find_map(|line| line.ok().filter(|line| line.contains(text)));
        line.unwrap_or_else(|| panic!("it ended without saying {text}"))
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(command: &mut Command) -> Dns {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Dns { child, lines }
}

#[test]
fn without_a_corefile_it_says_who_asks() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let mut command = Command::new(sealane());
    command.args(["dns", "-p", &port.to_string(), "-pidfile", "pid"]).current_dir(folder.path());
    let mut dns = start(&mut command);
    dns.said(&format!(".:{port}"));
    dns.said("Sealane-");
    let pid = folder.path().join("pid");
    assert_eq!(std::fs::read_to_string(&pid).unwrap(), format!("{}\n", dns.child.id()));
    dns.signal(Signal::INT);
    dns.said("[INFO] SIGINT: Shutting down");
    assert_eq!(dns.child.wait().unwrap().code(), Some(0));
    assert!(!pid.exists());
}

#[test]
fn a_corefile_comes_from_standard_input_and_quiet_is_quiet() {
    let port = free_port();
    let mut command = Command::new(sealane());
    command.args(["dns", "-conf", "stdin", "-quiet"]).stdin(Stdio::piped());
    let mut dns = start(&mut command);
    let health = format!("health 127.0.0.2:{port} {{\n  lameduck 1h\n }}");
    let corefile = format!(".:{port} {{\n bind 127.0.0.1\n {health}\n}}\n");
    dns.child.stdin.take().unwrap().write_all(corefile.as_bytes()).unwrap();
    assert!(dns.lines.next().unwrap().unwrap().contains("Running configuration SHA512 = "));
    dns.signal(Signal::TERM);
    dns.said("[INFO] plugin/health: Going into lameduck mode for 1h0m0s");
    // Who cannot wait does not have to.
    dns.signal(Signal::INT);
    dns.said("[INFO] SIGINT: Force quit");
    assert_eq!(dns.child.wait().unwrap().code(), Some(2));
}

#[test]
fn usr1_reloads_and_hup_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    let port = free_port();
    let corefile = |more: &str| {
        std::fs::write(&path, format!(".:{port} {{\n bind 127.0.0.1\n errors\n{more}}}\n")).unwrap();
    };
    corefile("");
    let mut command = Command::new(sealane());
    command.args(["dns", "-conf"]).arg(&path);
    let mut dns = start(&mut command);
    let first = dns.said("Running configuration SHA512 = ");
    corefile(" log\n");
    dns.signal(Signal::HUP);
    dns.signal(Signal::USR1);
    dns.said("[INFO] SIGUSR1: Reloading");
    assert_ne!(dns.said("Running configuration SHA512 = "), first);
    dns.said("[INFO] Reloading complete");
    corefile(" oops\n");
    dns.signal(Signal::USR1);
    assert!(dns.said("[ERROR] SIGUSR1: ").contains("Corefile:4:2: unknown plugin 'oops'"));
    dns.signal(Signal::TERM);
    assert_eq!(dns.child.wait().unwrap().code(), Some(0));
}
