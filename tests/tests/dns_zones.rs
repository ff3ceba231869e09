//! Zones that go from server to server: from CoreDNS and Knot to Sealane, and from Sealane, signed, to Knot; and their
//! next version by NOTIFY.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sealane_tests::{Machine, eventually_within, sealane};

const PRIMARY: u16 = 5301;
const MIDDLE: u16 = 5300;
const LAST: u16 = 5302;
/// From exec to the zone's last stop, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than one message: 3,000 records of a hundred octets.
const MANY: usize = 3000;

struct Running(Child, PathBuf);

impl Running {
    #[track_caller]
    fn start(mut command: Command, log: PathBuf) -> Running {
        let out = std::fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let child = command.spawn().unwrap_or_else(|why| panic!("{command:?}: {why}; is it installed?"));
        Running(child, log)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.1).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn zone(serial: u8) -> String {
    let many: String = (0..MANY).map(|n| format!("h{n} 60 TXT \"{}\"\n", "x".repeat(80))).collect();
    format!("@ 60 SOA ns noc {serial} 3600 600 86400 60\n@ 60 NS ns\nns 60 A 192.0.2.{serial}\n{many}")
}

/// Whether the server there has this version of the zone, its last name included.
fn has(port: u16, serial: u8) -> Result<(), String> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(1))).map_err(|e| e.to_string())?;
    socket.connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    let mut buffer = [0; 512];
    for (name, rtype, part) in
        [("ns", 1, vec![192, 0, 2, serial]), (&*format!("h{}", MANY - 1), 16, b"xxxx".to_vec())]
    {
        let mut query = vec![7, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in [name, "example", "org"] {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.bytes());
        }
        query.extend([0, 0, rtype, 0, 1]);
        socket.send(&query).map_err(|e| e.to_string())?;
        let len = socket.recv(&mut buffer).map_err(|e| e.to_string())?;
        let reply = &buffer[..len];
        if !reply.windows(part.len()).any(|window| window == part) {
            return Err(format!("port {port}: no {name} of version {serial} in {reply:02x?}"));
        }
    }
    Ok(())
}

fn knot(machine: &Machine, folder: &Path, port: u16, more: &str) -> Command {
    let own = folder.join(format!("knot-{port}"));
    std::fs::create_dir_all(&own).unwrap();
    let own = own.display();
    let conf = format!(
        "server:\n    rundir: {own}\n    listen: 127.0.0.1@{port}\nlog:\n  - target: stderr\n    any: debug\n\
         database:\n    storage: {own}\n{more}"
    );
    let path = folder.join(format!("knot-{port}.conf"));
    std::fs::write(&path, conf).unwrap();
    let mut command = machine.command(std::env::var_os("SEALANE_KNOTD").unwrap_or_else(|| "knotd".into()));
    command.arg("-c").arg(path);
    command
}

/// A primary whose zone file is `db`, which tells the middle.
fn primary(name: &str, machine: &Machine, folder: &Path) -> Running {
    let db = folder.join("db").display().to_string();
    let command = match name {
        "knot" => knot(
            machine,
            folder,
            PRIMARY,
            &format!(
                "remote:\n  - id: middle\n    address: 127.0.0.1@{MIDDLE}\nacl:\n  - id: any\n    \
                 address: 127.0.0.1\n    action: transfer\nzone:\n  - domain: example.org\n    file: {db}\n    \
                 zonefile-sync: -1\n    zonefile-load: whole\n    journal-content: none\n    notify: middle\n    acl: any\n"
            ),
        ),
        _ => {
            let text = format!(
                "example.org:{PRIMARY} {{\n bind 127.0.0.1\n file {db} {{\n  reload 1s\n }}\n transfer {{\n  to 127.0.0.1:{MIDDLE}\n }}\n log\n errors\n}}\n"
            );
            let corefile = folder.join(format!("Corefile-{name}"));
            std::fs::write(&corefile, text).unwrap();
            let mut command = match name {
                "sealane" => {
                    let mut command = machine.command(sealane());
                    command.arg("dns");
                    command
                }
                _ => {
                    let built = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/coredns/coredns"));
                    machine.command(match std::env::var_os("SEALANE_COREDNS") {
                        Some(path) => path.into(),
                        None if built.is_file() => built,
                        None => "coredns".into(),
                    })
                }
            };
            command.arg("-conf").arg(corefile);
            command
        }
    };
    Running::start(command, folder.join(format!("log-{name}")))
}

#[track_caller]
fn goes_through(name: &str) {
    let (machine, folder) = (Machine::new(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    std::fs::write(folder.join("db"), zone(1)).unwrap();
    let primary = primary(name, &machine, folder);
    let text = format!(
        "example.org:{MIDDLE} {{\n bind 127.0.0.1\n secondary {{\n  transfer from 127.0.0.1:{PRIMARY}\n }}\n \
         tsig {{\n  secret middle. MDEyMzQ1Njc4OWFiY2RlZg==\n  require AXFR IXFR\n }}\n transfer {{\n  to 127.0.0.1:{LAST}\n }}\n log\n errors\n}}\n"
    );
    std::fs::write(folder.join("Corefile"), text).unwrap();
    let mut command = machine.command(sealane());
    command.arg("dns").arg("-conf").arg(folder.join("Corefile"));
    let middle = Running::start(command, folder.join("log-middle"));
    // NOTIFYs are not signed.
    let last = knot(
        &machine,
        folder,
        LAST,
        &format!(
            "key:\n  - id: middle\n    algorithm: hmac-sha256\n    secret: MDEyMzQ1Njc4OWFiY2RlZg==\n\
             remote:\n  - id: middle\n    address: 127.0.0.1@{MIDDLE}\n    key: middle\nacl:\n  - id: notify\n    \
             address: 127.0.0.1\n    action: notify\nzone:\n  - domain: example.org\n    master: middle\n    \
             acl: notify\n    zonefile-sync: -1\n    journal-content: none\n"
        ),
    );
    let last = Running::start(last, folder.join("log-last"));
    let arrives = |serial| {
        let look = || machine.within(|| has(MIDDLE, serial).and_then(|()| has(LAST, serial)));
        let logs = || format!("{}\n{}\n{}", primary.log(), middle.log(), last.log());
        eventually_within(PATIENCE, "the zone", || look().map_err(|why| format!("{name}: {why}\n{}", logs())));
    };
    arrives(1);
    std::fs::write(folder.join("db"), zone(2)).unwrap();
    if name == "knot" {
        // It reads its file when it is told to.
        let pid = rustix::process::Pid::from_child(&primary.0);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }
    arrives(2);
}

#[test]
fn from_coredns() {
    goes_through("coredns");
}

#[test]
fn from_knot() {
    goes_through("knot");
}

#[test]
fn from_sealane() {
    goes_through("sealane");
}
