//! Drives a real node on this machine, as root or as an ordinary user, from a root file system with busybox:
//! `drive DATA ROOTFS check` goes through what a Pod needs, `drive DATA ROOTFS time N` measures starts,
//! `drive DATA ROOTFS hold` keeps a Pod running until it is killed, `drive DATA ROOTFS shell CMD…` enters a node that is held.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sealane_host::runtime::{
    ContainerSpec, ExecSpec, Exit, HostError, Identity, Mount, Runtime, SandboxSpec, Started,
};
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
        };
        let began = Instant::now();
        let host = Host::start(config).await.unwrap();
        println!("node ready after {:?}", began.elapsed());
        let drive = Drive { host, rootfs: rootfs.into(), data: data.into() };
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
    data: PathBuf,
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

    async fn exec(&self, container: &str, script: &str, tty: bool) -> Result<Started, HostError> {
        let args = script.split(' ').map(str::to_owned).collect();
        self.host.exec(ExecSpec { container: container.to_owned(), args, tty, stdin: false }).await
    }

    async fn check(&self) {
        let host = &self.host;
        host.create_sandbox(self.sandbox("one", 5)).await.unwrap();
        host.create_sandbox(self.sandbox("two", 6)).await.unwrap();
        let script = "id; pwd; echo $GREETING $HOSTNAME $HOME; cat /proc/sys/net/core/somaxconn; ps | wc -l; \
             ls /dev | tr '\\n' ' '; ip -4 addr show eth0 | grep inet; ip route; grep Cap /proc/self/status; \
             grep Seccomp: /proc/self/status; cat /proc/self/cgroup; ls /sys/fs/cgroup; echo oops >&2; \
             touch /proc/sys/kernel/x /sys/x; mount -t tmpfs x /mnt; unshare -U true; exit 3";
        let (output, errors, exit) = self.run(self.container("one", "plain", script)).await;
        println!("{output}\n--- stderr\n{errors}\n--- {exit:?}");
        assert_eq!(exit, Exit { code: 3, signal: 0, oom_killed: false, node_lost: false });

        self.check_errors().await;
        self.check_mounts().await;
        self.check_running().await;
        self.check_terminal().await;
        self.check_shared().await;
        self.check_network().await;
        host.remove_sandbox("one").await.unwrap();
        host.remove_sandbox("two").await.unwrap();
        host.remove_sandbox("two").await.unwrap();
        let left = std::fs::read_dir(self.data.join("containers")).unwrap().count();
        assert_eq!(left, 0, "containers' directories are left");
        host.create_sandbox(self.sandbox("two", 6)).await.unwrap();
        self.check_lost().await;
        println!("all good");
    }

    async fn check_errors(&self) {
        let mut spec = self.container("one", "missing", "");
        spec.args = vec!["foo".to_owned()];
        println!("missing program: {}", self.host.start_container(spec).await.unwrap_err());
        let mut spec = self.container("one", "missing", "");
        spec.args = vec!["/etc".to_owned()];
        println!("directory as program: {}", self.host.start_container(spec).await.unwrap_err());
        let mut spec = self.container("one", "missing", "true");
        spec.layers = vec!["/does/not/exist".into()];
        println!("missing layer: {}", self.host.start_container(spec).await.unwrap_err());
        let mut spec = self.container(
            "one",
            "user",
            "id; touch /x; ls -l /proc/self/fd/1 | wc -l; echo x > /dev/stdout",
        );
        spec.identity = Identity { uid: 1000, gid: 1000, groups: vec![2000] };
        match self.host.start_container(spec).await {
            Ok(started) => println!("as user: {:?}", self.finish(started).await),
            Err(error) => println!("as user: {error}"),
        }
        println!("signal to none: {}", self.host.signal("none", 15).await.unwrap_err());
    }

    async fn check_mounts(&self) {
        let volume = self.data.join("volume");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("file"), "from outside").unwrap();
        let mut spec = self.container(
            "one",
            "volumes",
            "cat /v/file /deep/in/file; touch /v/x /deep/in/y; echo a > /ro; df /memory | tail -1; echo new > /v/new; rm -f /v/new; \
             echo > /root-file",
        );
        let mount = |source: &Path, target: &str, read_only: bool, tmpfs: Option<u64>| Mount {
            source: source.to_owned(),
            target: target.into(),
            read_only,
            tmpfs,
        };
        spec.mounts = vec![
            mount(&volume, "/v", false, None),
            mount(&volume, "/deep/in", true, None),
            mount(&volume.join("file"), "/ro", true, None),
            mount(Path::new(""), "/memory", false, Some(1 << 20)),
        ];
        spec.read_only_root = true;
        println!("volumes: {:?}", self.run(spec).await);
    }

    async fn check_running(&self) {
        let host = &self.host;
        let mut spec = self.container("one", "long", "trap 'exit 7' TERM; cat; sleep 1000 & wait");
        spec.stdin = true;
        let mut started = host.start_container(spec).await.unwrap();
        std::fs::File::from(started.stdin.take().unwrap()).write_all(b"to the program\n").unwrap();
        let exec = self.exec("long", "ps", false).await.unwrap();
        println!("exec: {:?}", self.finish(exec).await);
        println!("exec of none: {}", self.exec("long", "foo", false).await.unwrap_err());
        host.signal("long", 15).await.unwrap();
        let (output, _, exit) = self.finish(started).await;
        println!("stdin gave {output:?}, {exit:?}");
        assert_eq!((output.as_str(), exit.code), ("to the program", 7));
        let mut spec = self.container("one", "bad-directory", "true");
        spec.cwd = "/etc/passwd".into();
        println!("file as directory: {}", host.start_container(spec).await.unwrap_err());
        println!("exec after its end: {}", self.exec("long", "ps", false).await.unwrap_err());
        host.remove_container("long").await.unwrap();
        host.remove_container("long").await.unwrap();

        let stuck = self.container("one", "stuck", "exec sleep 1000");
        let started = host.start_container(stuck).await.unwrap();
        host.remove_container("stuck").await.unwrap();
        assert_eq!(started.exit.await.unwrap().signal, 9);

        let mut spec = self.container("one", "hungry", "head -c 200000000 /dev/zero | tail | wc; true");
        spec.args = vec!["tail".into(), "/dev/zero".into()];
        spec.memory_limit = Some(32 << 20);
        let (_, _, exit) = if std::fs::metadata("/sys/fs/cgroup/memory/tasks").is_ok()
            && rustix::process::geteuid().is_root()
            && self.host.config().rootless.is_none()
        {
            self.run(spec).await
        } else {
            (String::new(), String::new(), Exit { code: 0, signal: 0, oom_killed: false, node_lost: false })
        };
        println!("memory limit: {exit:?}");
    }

    async fn check_terminal(&self) {
        let mut spec =
            self.container("one", "terminal", "tty; stty size; sleep 0.2; stty size; tty < /dev/tty");
        spec.tty = true;
        let started = self.host.start_container(spec).await.unwrap();
        self.host.resize(started.stdout.as_ref().unwrap(), 123, 45).unwrap();
        println!("terminal: {:?}", self.finish(started).await);
        let started =
            self.host.start_container(self.container("one", "base", "exec sleep 1000")).await.unwrap();
        let exec = self.exec("base", "tty", true).await.unwrap();
        println!("exec in a terminal: {:?}", self.finish(exec).await);
        self.host.remove_container("base").await.unwrap();
        assert_eq!(started.exit.await.unwrap().signal, 9);
    }

    async fn check_shared(&self) {
        let mut spec = self.sandbox("shared", 7);
        spec.share_processes = true;
        self.host.create_sandbox(spec).await.unwrap();
        let long = self
            .host
            .start_container(self.container("shared", "a", "sleep 1000 & exec sleep 2000"))
            .await
            .unwrap();
        let (output, _, _) = self.run(self.container("shared", "b", "ps")).await;
        println!("shared processes:\n{output}");
        let exec = self.exec("a", "ps", false).await.unwrap();
        println!("exec in shared: {:?}", self.finish(exec).await);
        self.host.signal("a", 9).await.unwrap();
        println!("{:?}", long.exit.await.unwrap());
        self.host.remove_sandbox("shared").await.unwrap();
    }

    async fn check_network(&self) {
        let host = &self.host;
        let server = self.container("one", "server", "echo served > index.html; exec httpd -f -p 8080");
        let server = host.start_container(server).await.unwrap();
        for _ in 0..500 {
            if host.dial("one", 8080).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let address = "10.244.0.5:8080".parse().unwrap();
        println!("dial: {}", get(host.dial("one", 8080).await.unwrap()).await);
        println!("from the node: {}", get(host.connect_from_node(address).await.unwrap()).await);
        if host.config().rootless.is_none() {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            println!("from the host, {}: {}", stream.local_addr().unwrap(), get(stream).await);
        }
        let script = "wget -qO- http://10.244.0.5:8080/; ping -c1 -W1 10.244.0.5 | grep ttl; \
             ping -c1 -W1 10.244.0.1 | grep ttl; ping -c1 -W1 192.0.2.1; wget -qO- http://127.0.0.1:8080/";
        let (output, errors, _) = self.run(self.container("two", "client", script)).await;
        println!("Pod to Pod: {output} {errors}");
        let listener = host.node_network(|| std::net::TcpListener::bind("10.244.0.1:6443")).await.unwrap();
        println!("listener in the node: {:?}", listener.unwrap().local_addr());
        host.remove_container("server").await.unwrap();
        server.exit.await.unwrap();
    }

    async fn check_lost(&self) {
        let host = &self.host;
        let started = host.start_container(self.container("two", "last", "exec sleep 1000")).await.unwrap();
        let pid = host.launcher_pid().unwrap();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid as i32).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        host.lost().await;
        println!("lost: {:?}", started.exit.await.unwrap());
        println!("after the loss: {}", host.create_sandbox(self.sandbox("x", 9)).await.unwrap_err());
        let began = Instant::now();
        host.restart().await.unwrap();
        println!("restarted in {:?}", began.elapsed());
        host.create_sandbox(self.sandbox("one", 5)).await.unwrap();
        println!("{:?}", self.run(self.container("one", "again", "echo again")).await);
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
