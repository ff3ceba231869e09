//! A real node in a user namespace of its own, which touches nothing of the machine's network: sandboxes, containers,
//! exec, terminals, volumes, network, losses. The program is the test, the launcher, and what runs in containers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod inside;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::future::join_all as futures_of;
use rustix::process::{Pid, PidfdFlags};
use sealane_host::runtime::{
    ContainerSpec, ExecSpec, Exit, HostError, HostPort, Identity, Mount, Runtime, SandboxSpec, Started,
};
use sealane_host::{Host, HostConfig, Network, NetworkConfig, Rootless, launcher};
use tokio::io::AsyncReadExt;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(launcher::ARGUMENT) => sealane_host::launcher_main(),
        Some("inside") => inside::main(&arguments[2..]),
        Some("hold") => with_node(Path::new(&arguments[2]), async |node| node.hold().await),
        // What `cargo test` asks of a harness.
        Some("--list") => println!("node: test"),
        _ => test(),
    }
}

fn test() {
    let data = tempfile::tempdir().unwrap();
    // The program is the whole image.
    let image = data.path().join("image");
    fs::create_dir_all(image.join("bin")).unwrap();
    fs::copy("/proc/self/exe", image.join("bin/probe")).unwrap();
    a_killed_node_leaves_nothing(data.path());
    with_node(data.path(), async |node| {
        node.a_container_sees_its_own_world().await;
        node.what_cannot_run_says_why().await;
        node.volumes_are_where_they_should_be().await;
        node.input_exec_and_removal().await;
        node.terminals_have_sizes().await;
        node.processes_can_be_shared().await;
        node.pods_reach_each_other().await;
        node.many_at_once().await;
        node.an_address_is_free_at_once().await;
        node.the_launcher_may_die().await;
        node.several_on_one_network().await;
    });
    assert_eq!(
        fs::read_dir(data.path())
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name() == "containers" })
            .count(),
        0,
        "containers' directories are left"
    );
    println!("test node ... ok");
}

fn with_node(data: &Path, run: impl AsyncFnOnce(&Node)) {
    let rootless = sealane_host::enter_user_namespace().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let node = Node::start(data, rootless).await;
        run(&node).await;
        node.host.shutdown(Duration::from_secs(60)).await.unwrap();
    });
}

/// A main process is killed: its launcher, and the container that it started, go with it.
fn a_killed_node_leaves_nothing(data: &Path) {
    let fifo = data.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
    let mut main = std::process::Command::new("/proc/self/exe")
        .args(["hold", data.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Open until the container's process, which holds the other end, has gone.
    let mut held = fs::File::open(&fifo).unwrap();
    let mut line = String::new();
    BufReader::new(main.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let launcher = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    let launcher = rustix::process::pidfd_open(launcher, PidfdFlags::empty()).unwrap();
    main.kill().unwrap();
    main.wait().unwrap();
    assert_eq!(held.read(&mut [0]).unwrap(), 0);
    let mut polled = [rustix::event::PollFd::new(&launcher, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut polled, None).unwrap(), 1);
    assert!(data.join("containers/held").exists(), "left for the next start to remove");
}

struct Node {
    host: Host,
    data: PathBuf,
    ids: u32,
}

async fn text(stream: Option<OwnedFd>) -> String {
    let Some(stream) = stream else { return String::new() };
    let read = || {
        let mut bytes = Vec::new();
        // A terminal whose other end has closed reads as an error.
        let _ = fs::File::from(stream).read_to_end(&mut bytes);
        String::from_utf8(bytes).unwrap()
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// Reads the first line and gives the stream back.
async fn first_line(stream: Option<OwnedFd>) -> (String, OwnedFd) {
    let read = || {
        let mut file = fs::File::from(stream.unwrap());
        let mut line = Vec::new();
        let mut byte = [0];
        while file.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        (String::from_utf8(line).unwrap(), file.into())
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

async fn finish(started: Started) -> (String, String, Exit) {
    let Started { stdin, stdout, stderr, exit, .. } = started;
    drop(stdin);
    let (output, errors) = tokio::join!(text(stdout), text(stderr));
    (output, errors, exit.await.unwrap())
}

fn ended(code: i32) -> Exit {
    Exit { code, signal: 0, oom_killed: false, node_lost: false }
}

const KILLED: Exit = Exit { code: 137, signal: 9, oom_killed: false, node_lost: false };

impl Node {
    async fn start(data: &Path, rootless: Rootless) -> Node {
        let ids = rootless.ids;
        let config = HostConfig {
            data_dir: data.to_owned(),
            name: format!("test-{}", std::process::id()),
            // RFC 2544's range for measurements: in use nowhere.
            pod_cidr: "198.18.0.0/16".parse().unwrap(),
            node_cidr: "198.18.7.0/24".parse().unwrap(),
            service_cidr: "198.19.0.0/16".parse().unwrap(),
            rootless: Some(rootless),
            network: None,
        };
        let host = Host::start(config).await.unwrap();
        Node { host, data: data.to_owned(), ids }
    }

    /// Two more, linked to a network between them: they reach each other, and neither needs the other.
    async fn several_on_one_network(&self) {
        let network = Network::start(NetworkConfig {
            pod_cidr: self.host.config().pod_cidr,
            service_cidr: self.host.config().service_cidr,
            other_ranges: vec!["192.0.2.0/24".parse().unwrap()],
            own_cidr: "198.18.255.0/24".parse().unwrap(),
            rootless: true,
        });
        let network = network.await.unwrap();
        let start = |n: u8| {
            Host::start(HostConfig {
                data_dir: self.data.join(format!("node-{n}")),
                name: format!("test-{}-{n}", std::process::id()),
                node_cidr: format!("198.18.{n}.0/24").parse().unwrap(),
                network: Some(network.clone()),
                ..self.host.config().clone()
            })
        };
        let (one, two) = tokio::try_join!(start(8), start(9)).unwrap();
        assert_eq!(one.config().host_address().octets(), [198, 18, 255, 1]);
        let bound = two.node_network(|| TcpListener::bind("198.18.9.1:0")).await.unwrap();
        let listener = bound.unwrap();
        let to = listener.local_addr().unwrap();
        let source = move || {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
            Ok::<_, std::io::Error>(stream.local_addr()?.ip().to_string())
        };
        assert_eq!(one.node_network(source).await.unwrap().unwrap(), "198.18.8.1");
        assert_eq!(network.within(source).await.unwrap().unwrap(), "198.18.255.1");
        one.shutdown(Duration::from_secs(60)).await.unwrap();
        assert_eq!(network.within(source).await.unwrap().unwrap(), "198.18.255.1");
        two.shutdown(Duration::from_secs(60)).await.unwrap();
        // Its namespace lives as long as the listener; nothing leads there any more.
        let error = network.within(source).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable);
        drop(listener);
        network.shutdown().await.unwrap();
    }

    async fn sandbox(&self, id: &str, last: u8) {
        let spec = SandboxSpec {
            id: id.to_owned(),
            hostname: format!("host-{id}"),
            address: Some([198, 18, 7, last].into()),
            sysctls: vec![("net.ipv4.ip_default_ttl".to_owned(), "77".to_owned())],
            share_processes: id == "shared",
            ports: Vec::new(),
        };
        self.host.create_sandbox(spec).await.unwrap();
    }

    fn container(&self, sandbox: &str, id: &str, commands: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.to_owned(),
            sandbox: sandbox.to_owned(),
            layers: vec![self.data.join("image")],
            args: format!("probe inside {commands}").split(' ').map(str::to_owned).collect(),
            env: vec!["GREETING=hello".to_owned()],
            cwd: "/made/where/missing".into(),
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
            cpu_request_milli: None,
        }
    }

    async fn exec(&self, container: &str, commands: &str, tty: bool) -> Result<Started, HostError> {
        let args = format!("probe inside {commands}").split(' ').map(str::to_owned).collect();
        self.host.exec(ExecSpec { container: container.to_owned(), args, tty, stdin: false }).await
    }

    async fn run(&self, spec: ContainerSpec) -> (String, String, Exit) {
        finish(self.host.start_container(spec).await.unwrap()).await
    }

    /// Keeps a container running until somebody kills this process.
    async fn hold(&self) {
        self.sandbox("held", 5).await;
        let mut spec = self.container("held", "held", "hold /fifo");
        spec.mounts.push(self.mount("fifo", "/fifo", false));
        let started = self.host.start_container(spec).await.unwrap();
        let (line, _stdout) = first_line(started.stdout).await;
        assert_eq!(line, "holding");
        println!("{}", self.host.launcher_pid().unwrap());
        std::io::stdout().flush().unwrap();
        started.exit.await.unwrap();
    }

    fn mount(&self, source: &str, target: &str, read_only: bool) -> Mount {
        Mount { source: self.data.join(source), target: target.into(), read_only, tmpfs: None }
    }

    async fn a_container_sees_its_own_world(&self) {
        assert!(!self.data.join("containers/held").exists(), "a killed run's directory is still there");
        self.sandbox("one", 5).await;
        let twin = SandboxSpec {
            id: "twin".to_owned(),
            hostname: "twin".to_owned(),
            address: Some([198, 18, 7, 5].into()),
            sysctls: Vec::new(),
            share_processes: false,
            ports: Vec::new(),
        };
        let error = self.host.create_sandbox(twin).await.unwrap_err();
        assert_eq!(error.to_string(), "make the sandbox twin: the Pod host-one has its address");
        let commands = "environment GREETING ; environment HOSTNAME ; environment HOME ; directory ; host-name ; \
                        read /proc/sys/net/ipv4/ip_default_ttl ; status CapEff ; status Seccomp: ; processes ; \
                        hidden /proc/kcore ; hidden /proc/keys ; hidden /proc/timer_list ; write /proc/sys/net/ipv4/ip_forward 0 ; \
                        write /sys/x x ; write /dev/null x ; write /file x ; namespace ; complain oops ; exit 3";
        let (output, errors, exit) = self.run(self.container("one", "world", commands)).await;
        let expected = "GREETING=hello\nHOSTNAME=host-one\nHOME=/\n/made/where/missing\nhost-one\n\
             /proc/sys/net/ipv4/ip_default_ttl: 77\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n[1]\n\
             /proc/kcore: true\n/proc/keys: true\n/proc/timer_list: true\n\
             /proc/sys/net/ipv4/ip_forward: Read-only file system (os error 30)\n\
             /sys/x: Read-only file system (os error 30)\n/dev/null: written\n/file: written\n\
             namespace: Operation not permitted (os error 1)\n";
        assert_eq!(output, expected);
        assert_eq!(errors, "oops\n");
        assert_eq!(exit, ended(3));

        let mut spec =
            self.container("one", "powerless", "status CapEff ; status CapBnd ; status NoNewPrivs");
        spec.drop_capabilities = vec!["ALL".to_owned()];
        spec.add_capabilities = vec!["NET_BIND_SERVICE".to_owned()];
        spec.no_new_privileges = true;
        let (output, _, _) = self.run(spec).await;
        assert_eq!(output, "CapEff:\t0000000000000400\nCapBnd:\t0000000000000400\nNoNewPrivs:\t1\n");

        let commands = "write /proc/sys/net/ipv4/ip_default_ttl 33 ; write /dev/null x ; namespace";
        let mut spec = self.container("one", "powerful", commands);
        spec.privileged = true;
        let (output, errors, _) = self.run(spec).await;
        let expected = "/proc/sys/net/ipv4/ip_default_ttl: written\n/dev/null: written\nnamespace: made\n";
        assert_eq!((output.as_str(), errors.as_str()), (expected, ""));
    }

    async fn what_cannot_run_says_why(&self) {
        let failure = async |spec: ContainerSpec| self.host.start_container(spec).await.unwrap_err();
        let with = |program: &str| {
            let mut spec = self.container("one", "broken", "");
            spec.args = vec![program.to_owned()];
            spec
        };
        let error = failure(with("foo")).await;
        assert!(matches!(&error, HostError::CannotRun(_)), "{error:?}");
        assert_eq!(error.to_string(), "exec: \"foo\": executable file not found in $PATH");
        assert_eq!(failure(with("/bin")).await.to_string(), "exec: \"/bin\": stat /bin: is a directory");
        let mut spec = self.container("one", "broken", "");
        spec.layers = vec!["/does/not/exist".into()];
        let error = failure(spec).await.to_string();
        assert_eq!(error, "read the image layer /does/not/exist: No such file or directory (os error 2)");
        let error = failure(self.container("none", "broken", "")).await;
        assert_eq!(error.to_string(), "no such sandbox none");
        let mut spec = self.container("one", "broken", "");
        spec.add_capabilities = vec!["FLY".to_owned()];
        assert_eq!(failure(spec).await.to_string(), "unknown capability \"FLY\"");
        let mut spec = self.container("one", "somebody", "status Uid");
        spec.identity.uid = self.ids;
        assert!(failure(spec).await.to_string().contains("/etc/subuid"));
        assert_eq!(
            self.host.signal("none", 15).await.unwrap_err().to_string(),
            "no such running container none"
        );
    }

    async fn volumes_are_where_they_should_be(&self) {
        fs::create_dir_all(self.data.join("volume")).unwrap();
        fs::write(self.data.join("volume/file"), "from outside").unwrap();
        let commands = "read /v/file ; write /v/new x ; read /deep/in/file ; write /deep/in/new x ; read /one ; \
                        write /one x ; write /memory/file x ; write /file x";
        let mut spec = self.container("one", "volumes", commands);
        spec.read_only_root = true;
        spec.mounts = vec![
            self.mount("volume", "/v", false),
            self.mount("volume", "/deep/in", true),
            self.mount("volume/file", "/one", true),
            Mount { tmpfs: Some(1 << 20), ..self.mount("", "/memory", false) },
        ];
        let (output, errors, exit) = self.run(spec).await;
        let refused = "Read-only file system (os error 30)";
        let expected = format!(
            "/v/file: from outside\n/v/new: written\n/deep/in/file: from outside\n/deep/in/new: {refused}\n\
             /one: from outside\n/one: {refused}\n/memory/file: written\n/file: {refused}\n"
        );
        assert_eq!((output, errors, exit), (expected, String::new(), ended(0)));
        assert_eq!(fs::read_to_string(self.data.join("volume/new")).unwrap(), "x");
    }

    async fn input_exec_and_removal(&self) {
        let mut spec = self.container("one", "echo", "echo");
        spec.stdin = true;
        let mut started = self.host.start_container(spec).await.unwrap();
        fs::File::from(started.stdin.take().unwrap()).write_all(b"to the program").unwrap();
        assert_eq!(finish(started).await, ("to the program\n".to_owned(), String::new(), ended(0)));
        let error = self.exec("echo", "say x", false).await.unwrap_err();
        assert_eq!(error.to_string(), "no such running container echo");

        let mut started = self.host.start_container(self.container("one", "long", "wait")).await.unwrap();
        let (line, _stdout) = first_line(started.stdout.take()).await;
        assert_eq!(line, "waiting");
        let exec =
            self.exec("long", "host-name ; environment GREETING ; status Seccomp: ; exit 9", false).await;
        let expected = "host-one\nGREETING=hello\nSeccomp:\t2\n".to_owned();
        assert_eq!(finish(exec.unwrap()).await, (expected, String::new(), ended(9)));
        let args = vec!["foo".to_owned()];
        let exec = ExecSpec { container: "long".to_owned(), args, tty: false, stdin: false };
        let error = self.host.exec(exec).await.unwrap_err();
        assert_eq!(error.to_string(), "exec: \"foo\": executable file not found in $PATH");
        // One can be killed by itself, and no other process by its number.
        let mut exec = self.exec("long", "wait", false).await.unwrap();
        let (line, _stdout) = first_line(exec.stdout.take()).await;
        assert_eq!(line, "waiting");
        self.host.kill_exec(started.process).await.unwrap();
        self.host.kill_exec(exec.process).await.unwrap();
        assert_eq!(exec.exit.await.unwrap(), KILLED);
        self.host.kill_exec(exec.process).await.unwrap();
        // A running exec ends with its container.
        let mut exec = self.exec("long", "wait", false).await.unwrap();
        let (line, _stdout) = first_line(exec.stdout.take()).await;
        assert_eq!(line, "waiting");
        let twice = self.host.start_container(self.container("one", "long", "wait")).await.unwrap_err();
        assert_eq!(twice.to_string(), "start the container long: entity already exists");
        self.host.remove_container("long").await.unwrap();
        assert_eq!(started.exit.await.unwrap(), KILLED);
        assert_eq!(exec.exit.await.unwrap(), KILLED);
        assert!(!self.data.join("containers/long").exists());
        self.host.remove_container("long").await.unwrap();
        // Larger than a packet of the launcher's socket.
        let mut spec = self.container("one", "large", "say x");
        spec.env.extend((0..2000).map(|n| format!("VARIABLE_{n}={}", "x".repeat(100))));
        assert_eq!(self.run(spec).await.2, ended(0));
    }

    async fn terminals_have_sizes(&self) {
        let mut spec = self.container("one", "terminal", "terminal");
        spec.tty = true;
        let mut started = self.host.start_container(spec).await.unwrap();
        self.host.resize(started.stdout.as_ref().unwrap(), 123, 45).unwrap();
        fs::File::from(started.stdin.take().unwrap()).write_all(b"go\n").unwrap();
        let (output, _, exit) = finish(started).await;
        // The terminal echoes what it is given.
        assert_eq!((output.as_str(), exit), ("go\r\n/dev/pts/0 123x45\r\n", ended(0)));

        let mut started = self.host.start_container(self.container("one", "base", "wait")).await.unwrap();
        let _ = first_line(started.stdout.take()).await;
        let mut exec = self.exec("base", "terminal", true).await.unwrap();
        self.host.resize(exec.stdout.as_ref().unwrap(), 80, 24).unwrap();
        fs::File::from(exec.stdin.take().unwrap()).write_all(b"go\n").unwrap();
        let (output, _, exit) = finish(exec).await;
        assert_eq!((output.as_str(), exit), ("go\r\n/dev/pts/0 80x24\r\n", ended(0)));
        self.host.remove_container("base").await.unwrap();
        assert_eq!(started.exit.await.unwrap(), KILLED);
    }

    async fn processes_can_be_shared(&self) {
        self.sandbox("shared", 6).await;
        let mut first = self.host.start_container(self.container("shared", "a", "wait")).await.unwrap();
        let _ = first_line(first.stdout.take()).await;
        let (output, _, _) = self.run(self.container("shared", "b", "processes")).await;
        assert_eq!(output, "[1, 2, 3]\n");
        let exec = self.exec("a", "processes", false).await.unwrap();
        assert_eq!(finish(exec).await.0, "[1, 2, 4]\n");
        self.host.signal("a", 15).await.unwrap();
        assert_eq!(first.exit.await.unwrap(), Exit { code: 143, signal: 15, ..ended(0) });
        let last = self.host.start_container(self.container("shared", "c", "wait")).await.unwrap();
        self.host.remove_sandbox("shared").await.unwrap();
        assert_eq!(last.exit.await.unwrap(), KILLED);
        assert!(!self.data.join("containers/c").exists());
        self.host.remove_sandbox("shared").await.unwrap();
    }

    async fn pods_reach_each_other(&self) {
        let mut server =
            self.host.start_container(self.container("one", "server", "serve 80")).await.unwrap();
        let (line, _stdout) = first_line(server.stdout.take()).await;
        assert_eq!(line, "listening");
        self.sandbox("two", 6).await;
        let (output, _, _) = self
            .run(self.container("two", "client", "get 198.18.7.5:80 ; get 198.18.7.99:80 ; get 127.0.0.1:80"))
            .await;
        assert_eq!(
            output,
            "hello 198.18.7.6\nNo route to host (os error 113)\nConnection refused (os error 111)\n"
        );
        let mut text = String::new();
        let mut dialled = self.host.dial("one", 80).await.unwrap();
        dialled.read_to_string(&mut text).await.unwrap();
        let to = "198.18.7.5:80".parse().unwrap();
        self.host.connect_from_node(to).await.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello 127.0.0.1\nhello 198.18.7.1\n");
        let listener =
            self.host.node_network(|| std::net::TcpListener::bind("198.18.7.1:443")).await.unwrap();
        assert_eq!(listener.unwrap().local_addr().unwrap().to_string(), "198.18.7.1:443");
        self.the_nodes_own_network_can_be_used().await;
        self.the_nodes_ports_lead_to_pods().await;
        self.host.remove_sandbox("one").await.unwrap();
        assert_eq!(server.exit.await.unwrap(), KILLED);
        let error = self.host.connect_from_node(to).await.unwrap_err().to_string();
        assert_eq!(error, "connect to 198.18.7.5:80: No route to host (os error 113)");
        // The address is free again, while a connection still holds the old namespace.
        self.sandbox("again", 5).await;
        let (output, _, _) = self.run(self.container("again", "other-client", "get 198.18.7.6:80")).await;
        assert_eq!(output, "Connection refused (os error 111)\n");
        drop(dialled);
    }

    async fn the_nodes_ports_lead_to_pods(&self) {
        let port = |address: Option<[u8; 4]>, port| HostPort {
            protocol: 6,
            address: address.map(Into::into),
            port,
            target: 80,
        };
        let spec = SandboxSpec {
            id: "open".to_owned(),
            hostname: "open".to_owned(),
            address: Some([198, 18, 7, 8].into()),
            sysctls: Vec::new(),
            share_processes: false,
            ports: vec![port(None, 8000), port(Some([198, 18, 7, 1]), 8001)],
        };
        self.host.create_sandbox(spec).await.unwrap();
        let mut server =
            self.host.start_container(self.container("open", "open-server", "serve 80")).await.unwrap();
        let (_, _stdout) = first_line(server.stdout.take()).await;
        // What comes from the node's Pods or itself comes back this way, so it has the node's address.
        for (sandbox, name) in [("two", "client-of-port"), ("open", "client-of-own-port")] {
            let client = self.container(sandbox, name, "get 198.18.7.1:8000 ; get 198.18.7.1:8001");
            assert_eq!(self.run(client).await.0, "hello 198.18.7.1\nhello 198.18.7.1\n", "{sandbox}");
        }
        let get = async |to: &str| {
            let mut text = String::new();
            let mut stream =
                self.host.connect_from_node(to.parse().unwrap()).await.map_err(|e| e.to_string())?;
            stream.read_to_string(&mut text).await.unwrap();
            Ok::<_, String>(text)
        };
        for to in ["127.0.0.1:8000", "198.18.7.1:8000", "198.18.7.1:8001"] {
            assert_eq!(get(to).await.unwrap(), "hello 198.18.7.1\n", "{to}");
        }
        for to in ["127.0.0.1:8001", "198.18.7.1:8002"] {
            assert!(get(to).await.unwrap_err().contains("refused"), "{to}");
        }
        self.host.remove_sandbox("open").await.unwrap();
        assert_eq!(server.exit.await.unwrap(), KILLED);
        assert!(get("198.18.7.1:8000").await.unwrap_err().contains("refused"));
    }

    async fn the_nodes_own_network_can_be_used(&self) {
        let spec = SandboxSpec {
            id: "own".to_owned(),
            hostname: "node-name".to_owned(),
            address: None,
            sysctls: Vec::new(),
            share_processes: false,
            ports: Vec::new(),
        };
        self.host.create_sandbox(spec).await.unwrap();
        let client = self.container("own", "own-client", "host-name ; get 198.18.7.5:80");
        assert_eq!(self.run(client).await.0, "node-name\nhello 198.18.7.1\n");
        let mut server =
            self.host.start_container(self.container("own", "own-server", "serve 8080")).await.unwrap();
        let (_, _stdout) = first_line(server.stdout.take()).await;
        let mut text = String::new();
        self.host.dial("own", 8080).await.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello 127.0.0.1\n");
        let client = self.container("two", "client-of-node", "get 198.18.7.1:8080");
        assert_eq!(self.run(client).await.0, "hello 198.18.7.6\n");
        self.host.remove_sandbox("own").await.unwrap();
        assert_eq!(server.exit.await.unwrap(), KILLED);
    }

    async fn many_at_once(&self) {
        let pods = futures_of((0..20).map(|n| async move {
            let id = format!("many-{n}");
            self.sandbox(&id, 100 + n).await;
            let run = futures_of(
                (0..3).map(|c| self.run(self.container(&id, &format!("{id}-{c}"), "host-name ; exit 5"))),
            );
            for (output, _, exit) in run.await {
                assert_eq!((output, exit), (format!("host-{id}\n"), ended(5)));
            }
            self.host.remove_sandbox(&id).await.unwrap();
        }));
        pods.await;
    }

    /// The kernel removes a Pod's link while the next Pod with that address is made: before it, after it, or within.
    async fn an_address_is_free_at_once(&self) {
        for n in 0..100 {
            let id = format!("next-{n}");
            self.sandbox(&id, 90).await;
            self.host.remove_sandbox(&id).await.unwrap();
            // The kernel takes about ten milliseconds with that, more beside others: sooner, later, and as near to it as
            // a hundred times come.
            tokio::time::sleep(Duration::from_micros(n * 200)).await;
        }
    }

    async fn the_launcher_may_die(&self) {
        let started = self.host.start_container(self.container("two", "last", "wait")).await.unwrap();
        let pid = i32::try_from(self.host.launcher_pid().unwrap()).unwrap();
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
        assert_eq!(started.exit.await.unwrap(), Exit { node_lost: true, ..KILLED });
        self.host.lost().await;
        assert!(matches!(self.host.signal("last", 9).await, Err(HostError::Lost)));
        self.host.restart().await.unwrap();
        self.sandbox("one", 5).await;
        assert_eq!(self.run(self.container("one", "again", "say again")).await.0, "again\n");
    }
}
