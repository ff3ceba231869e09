//! `sealane dns` and signals: USR1 loads the Corefile again, HUP is nothing, TERM ends it, as with CoreDNS.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sealane_tests::sealane;

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

#[test]
fn usr1_reloads_and_hup_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let corefile = |more: &str| {
        std::fs::write(&path, format!(".:{port} {{\n bind 127.0.0.1\n errors\n{more}}}\n")).unwrap();
    };
    corefile("");
    let mut command = Command::new(sealane());
    command.args(["dns", "-conf"]).arg(&path).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut dns = Dns { child, lines };
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
