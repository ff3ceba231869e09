//! Drives a real node on this machine, as root or as an ordinary user, from a root file system with busybox:
//! `drive DATA ROOTFS check` shows limits and the host's side, `drive DATA ROOTFS time N` measures starts,
//! `drive DATA ROOTFS hold` keeps a Pod running until it is killed, `drive DATA ROOTFS shell CMD…` enters a node that is held.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sealane_host::runtime::{ContainerSpec, Exit, Identity, Runtime, SandboxSpec, Started};
use sealane_host::{Host, HostConfig, launcher};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == launcher::ARGUMENT) {
        sealane_host::launcher_main();
    }
    let [_, data, rootfs, command, rest @ ..] = &arguments[..] else {
        panic!("usage: drive DATA ROOTFS check|time|hold|shell");
    };
    if command == "shell" {
        sealane_host::enter_node(Path::new(data)).unwrap();
        panic!("{}", std::process::Command::new(&rest[0]).args(&rest[1..]).exec());
    }
    let rootless = (!sealane_host::is_root().unwrap()).then(|| sealane_host::enter_user_namespace().unwrap());
    println!("rootless: {rootless:?}");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = HostConfig {
            data_dir: data.into(),
            name: format!("drive-{}", std::process::id()),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            node_cidr: "10.244.0.0/24".parse().unwrap(),
            service_cidr: "10.96.0.0/12".parse().unwrap(),
            rootless,
            network: None,
        };
        let began = Instant::now();
        let host = Host::start(config).await.unwrap();
        println!("node ready after {:?}", began.elapsed());
        let drive = Drive { host, rootfs: rootfs.into() };
        match command.as_str() {
            "check" => drive.check().await,
            "time" => drive.time(rest[0].parse().unwrap()).await,
            "hold" => drive.hold().await,
            other => panic!("unknown command {other}"),
        }
        drive.host.shutdown(Duration::from_secs(5)).await.unwrap();
    });
}

struct Drive {
    host: Host,
    rootfs: PathBuf,
}

fn text(stream: Option<OwnedFd>) -> String {
    let mut bytes = Vec::new();
    // A terminal whose other end has closed reads as an error.
    let _ = std::fs::File::from(stream.unwrap()).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

async fn get(mut stream: tokio::net::TcpStream) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().last().unwrap_or_default().to_owned()
}

impl Drive {
    fn sandbox(&self, id: &str, last: u8) -> SandboxSpec {
        SandboxSpec {
            id: id.to_owned(),
            hostname: id.to_owned(),
            address: Some([10, 244, 0, last].into()),
            sysctls: vec![("net.core.somaxconn".to_owned(), "333".to_owned())],
            share_processes: false,
            ports: Vec::new(),
        }
    }

    fn container(&self, sandbox: &str, id: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.to_owned(),
            sandbox: sandbox.to_owned(),
            layers: vec![self.rootfs.clone()],
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["GREETING=hello".to_owned()],
            cwd: "/work/here".into(),
            identity: Identity::default(),
            mounts: Vec::new(),
            tty: false,
            stdin: false,
            read_only_root: false,
            privileged: false,
            add_capabilities: Vec::new(),
            drop_capabilities: Vec::new(),
            no_new_privileges: false,
            memory_limit: None,
            cpu_limit_milli: None,
            cpu_request_milli: Some(100),
        }
    }

    async fn run(&self, spec: ContainerSpec) -> (String, String, Exit) {
        self.finish(self.host.start_container(spec).await.unwrap()).await
    }

    async fn finish(&self, started: Started) -> (String, String, Exit) {
        let Started { stdout, stderr, exit, .. } = started;
        let errors = stderr.map(|stderr| tokio::task::spawn_blocking(move || text(Some(stderr))));
        let output = tokio::task::spawn_blocking(move || text(stdout)).await.unwrap();
        let errors = match errors {
            Some(errors) => errors.await.unwrap(),
            None => String::new(),
        };
        (output, errors, exit.await.unwrap())
    }

    /// What the test in a user namespace cannot see: the host's side, and limits.
    async fn check(&self) {
        let host = &self.host;
        host.create_sandbox(self.sandbox("one", 5)).await.unwrap();
        let mut spec = self.container("one", "hungry", "");
        spec.args = ["tail", "/dev/zero"].map(str::to_owned).to_vec();
        spec.memory_limit = Some(32 << 20);
        println!("more memory than its limit: {:?}", self.run(spec).await.2);
        let mut spec = self.container(
            "one",
            "user",
            "id; cat /proc/self/cgroup | tail -1; ls /sys/fs/cgroup; ulimit -n",
        );
        spec.identity = Identity { uid: 1000, gid: 1000, groups: vec![2000] };
        match host.start_container(spec).await {
            Ok(started) => println!("as another user: {:?}", self.finish(started).await),
            Err(error) => println!("as another user: {error}"),
        }
        let server = self.container("one", "server", "echo served > index.html; exec httpd -f -p 8080");
        let server = host.start_container(server).await.unwrap();
        while host.dial("one", 8080).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if host.config().rootless.is_none() {
            let stream = tokio::net::TcpStream::connect("10.244.0.5:8080").await.unwrap();
            println!("from the host, {}: {}", stream.local_addr().unwrap(), get(stream).await);
            for dead in ["10.244.0.77:80", "10.96.3.4:80"] {
                let began = Instant::now();
                let error = tokio::net::TcpStream::connect(dead).await.unwrap_err();
                println!("from the host to {dead}: {error} after {:?}", began.elapsed());
            }
        }
        let ways =
            "ip route; ping -c1 -W1 $(ip route | cut -d' ' -f3) | grep ttl; ping -c1 -W1 1.1.1.1 | tail -2";
        println!("outside: {:?}", self.run(self.container("one", "client", ways)).await.0);
        host.remove_sandbox("one").await.unwrap();
        println!("server: {:?}", server.exit.await.unwrap());
    }

    async fn time(&self, count: u8) {
        let mut sandboxes = Vec::new();
        let mut starts = Vec::new();
        let mut removals = Vec::new();
        for n in 0..count {
            let id = format!("pod{n}");
            let began = Instant::now();
            self.host.create_sandbox(self.sandbox(&id, n + 2)).await.unwrap();
            sandboxes.push(began.elapsed());
            let began = Instant::now();
            let spec = self.container(&id, &format!("c{n}"), "exec sleep 1000");
            self.host.start_container(spec).await.unwrap();
            starts.push(began.elapsed());
        }
        for n in 0..count {
            let began = Instant::now();
            self.host.remove_sandbox(&format!("pod{n}")).await.unwrap();
            removals.push(began.elapsed());
        }
        for (what, mut times) in [("sandbox", sandboxes), ("container", starts), ("removal", removals)] {
            times.sort();
            println!(
                "{what}: best {:?}, median {:?}, worst {:?}",
                times[0],
                times[times.len() / 2],
                times.last().unwrap()
            );
        }
    }

    async fn hold(&self) {
        self.host.create_sandbox(self.sandbox("held", 5)).await.unwrap();
        let spec = self.container("held", "held", "sleep 54321 & exec sleep 54321");
        let started = self.host.start_container(spec).await.unwrap();
        println!("held: launcher {:?}", self.host.launcher_pid());
        started.exit.await.unwrap();
    }
}
