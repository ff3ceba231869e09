//! `sealane proxy` in mode ebpf: processes that connect, and what comes in by the links, are led by programs. The processes
//! are in a cgroup of the test's own, which the proxy takes for the root.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use place::{PATIENCE, Place, Proxy, keeps_connecting, keeps_talking, slice, web};
use sealane_tests::{Machine, eventually, run, sealane_ebpf};

const WEB: &str = "10.96.0.50:80";
const NODE_PORT: &str = "192.0.2.10:30080";

/// A cgroup, and the view of a process for which it is the root, with a BPF file system that ends with it.
struct Cell {
    group: PathBuf,
    holder: Child,
}

impl Cell {
    fn new() -> Cell {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|l| l.contains(" - cgroup2 ")).expect("this test needs cgroup v2");
        let root = PathBuf::from(mount.split(' ').nth(4).unwrap());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let group = root.join(format!("sealane-ebpf-{}-{number}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        // So that a thread of the test's can be in it.
        std::fs::write(group.join("cgroup.type"), "threaded").unwrap();
        let inside = "umount -l $1 && mount -t cgroup2 none $1 && { umount -l /sys/fs/bpf 2>/dev/null || true; } && \
                      echo ready && exec sleep infinity";
        let outside = "echo $$ > $0/cgroup.procs && exec unshare --mount --cgroup sh -c \"$2\" sh $1";
        let mut holder = Command::new("sh")
            .args(["-c", outside])
            .args([&group, &root])
            .arg(inside)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Cell { group, holder }
    }

    /// A program in its view, on a machine.
    fn command(pid: u32, machine: &Machine, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = machine.command("nsenter");
        command.args(["--target", &pid.to_string(), "--mount", "--cgroup", "--"]).arg(program);
        command
    }

    /// What stands below the BPF file system's folder.
    fn pins(&self) -> Vec<String> {
        let folder = format!("/proc/{}/root/sys/fs/bpf", self.holder.id());
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::from(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                found.push(entry.file_name().to_string_lossy().into_owned());
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        // What was in it is on its way out.
        while let Err(error) = std::fs::remove_dir(&self.group) {
            assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy, "{error}");
            std::thread::yield_now();
        }
    }
}

struct Scene {
    place: Place,
    config: String,
    cell: Cell,
}

impl Scene {
    /// With a configuration of mode ebpf.
    fn new() -> Scene {
        let cell = Cell::new();
        let pid = cell.holder.id();
        let place = Place::with(move |node| Cell::command(pid, node, sealane_ebpf()));
        let config = place.config("nodePortAddresses: [192.0.2.0/24]\n");
        let scene = Scene { place, config, cell };
        scene.mode("ebpf");
        scene
    }

    fn mode(&self, mode: &str) {
        let text = self.place.config("nodePortAddresses: [192.0.2.0/24]\n");
        let text = std::fs::read_to_string(text).unwrap();
        std::fs::write(&self.config, text.replace("mode: nftables", &format!("mode: {mode}"))).unwrap();
    }

    fn proxy(&self) -> Proxy {
        self.place.proxy(&["--config", &self.config])
    }

    /// As a process of the node whose sockets are led.
    fn as_process<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let threads = self.cell.group.join("cgroup.threads");
        self.place.node().within(move || {
            let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
            std::fs::write(threads, thread).unwrap();
            work()
        })
    }
}

/// Lets clients end with the test, whichever way it ends.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whom the kernel knows a socket of the calling thread's namespace to be connected to, as /proc/net has it.
fn true_peer(local: SocketAddr, table: &str) -> String {
    let port = format!(":{:04X}", local.port());
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
    let mut lines = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words.len() > 2 && words[1].ends_with(&port));
    line.unwrap_or_else(|| panic!("{local} is not in {text}"))[2].to_owned()
}

/// 10.244.0.2:8080.
const POD: &str = "0200F40A:1F90";

/// Speaks to the Service once; whom it was led to.
fn led(to: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    let peer = true_peer(stream.local_addr()?, "tcp");
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_to_string(&mut String::new())?;
    // Where the mode changes between the two, the programs that would say so are gone.
    let said = stream.peer_addr()?;
    if said == to { Ok(peer) } else { Err(std::io::Error::other(format!("{said} in the place of {to}"))) }
}

fn is_led(scene: &Scene) {
    eventually("sockets are led", || match scene.as_process(|| led(WEB)) {
        Ok(peer) if peer == POD => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn processes_and_the_outside_are_led() {
    let scene = Scene::new();
    let place = &scene.place;
    place.up.apply(&web("")).ok();
    place.up.apply(&slice("web-1", "web", "n1")).ok();
    let mut proxy = scene.proxy();
    is_led(&scene);
    assert_eq!(place.get("127.0.0.1:10249", "/proxyMode").unwrap().body, "ebpf");
    // Who is in no such cgroup has nftables.
    place.reaches(place.node(), WEB, "10.244.0.1");
    // From outside, by the programs at the link that has the node's address, and not by that to the Pod.
    place.reaches(&place.outside, NODE_PORT, "10.244.0.1");
    let at_links = |scene: &Scene| {
        let pins = scene.cell.pins();
        let at = |name: &str| pins.iter().filter(|p| p.starts_with(name)).count();
        (at("from_outside-"), at("to_outside-"))
    };
    assert_eq!(at_links(&scene), (1, 1), "{:?}", scene.cell.pins());
    datagrams_are_led(&scene);
    clients_stay(&scene);
    connections_to_who_left_end(&scene);
    // It ends, and what comes from outside is led all the same.
    assert_eq!(proxy.stop(), 0);
    place.reaches(&place.outside, NODE_PORT, "10.244.0.1");
    assert_eq!(at_links(&scene), (1, 1));
    run(place.sealane().args(["proxy", "--cleanup"]), b"").ok();
    assert_eq!(scene.cell.pins(), Vec::<String>::new());
    assert_eq!(run(place.node().command("nft").args(["list", "ruleset"]), b"").ok(), "");
    scene.as_process(|| led(WEB)).unwrap_err();
    run(place.sealane().args(["proxy", "--cleanup"]), b"").ok();
}

fn datagrams_are_led(scene: &Scene) {
    let server = scene.place.pod.within(|| UdpSocket::bind("10.244.0.2:5353").unwrap());
    std::thread::spawn(move || {
        let mut byte = [0];
        while let Ok((_, from)) = server.recv_from(&mut byte) {
            let _ = server.send_to(from.ip().to_string().as_bytes(), from);
        }
    });
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: udp}\nspec:\n  clusterIP: 10.96.0.53\n  \
                   ports: [{port: 53, targetPort: 5353, protocol: UDP}]\n";
    scene.place.up.apply(service).ok();
    let endpoints =
        slice("udp-1", "udp", "n1").replace("port: 8080, protocol: TCP", "port: 5353, protocol: UDP");
    scene.place.up.apply(&endpoints).ok();
    let to: SocketAddr = "10.96.0.53:53".parse().unwrap();
    eventually("datagrams are led", || {
        scene.as_process(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut said = [0; 64];
            let heard = socket.send_to(b"?", to).and_then(|_| socket.recv_from(&mut said));
            let (length, from) = heard.map_err(|e| e.to_string())?;
            assert_eq!((from, &said[..length]), (to, &b"10.244.0.1"[..]));
            socket.connect(to).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), to);
            assert_eq!(true_peer(socket.local_addr().unwrap(), "udp"), "0200F40A:14E9");
            Ok(())
        })
    });
}

/// Of two endpoints a client under affinity gets one again and again.
fn clients_stay(scene: &Scene) {
    let pod = &scene.place.pod;
    run(pod.command("ip").args(["addr", "add", "10.244.0.3/24", "dev", "eth0"]), b"").ok();
    let listener = pod.within(|| TcpListener::bind("10.244.0.3:8080").unwrap());
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: sticky}\nspec:\n  clusterIP: 10.96.0.54\n  \
                   sessionAffinity: ClientIP\n  ports: [{port: 80, targetPort: 8080}]\n";
    scene.place.up.apply(service).ok();
    let both = "endpoints: [{addresses: [10.244.0.3], nodeName: n1}, {addresses:";
    scene.place.up.apply(&slice("sticky-1", "sticky", "n1").replace("endpoints: [{addresses:", both)).ok();
    let to = "10.96.0.54:80";
    let first = eventually("affinity", || scene.as_process(|| led(to)).map_err(|e| e.to_string()));
    // By chance alone all of them are one in a billion times.
    assert!(scene.as_process(|| (0..30).all(|_| led(to).unwrap() == first)));
}

/// An endpoint that leaves one Service keeps its connections; one that leaves all has none.
fn connections_to_who_left_end(scene: &Scene) {
    let place = &scene.place;
    let listener = place.pod.within(|| TcpListener::bind("10.244.0.3:8083").unwrap());
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).collect::<Vec<_>>());
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: long}\nspec:\n  clusterIP: 10.96.0.55\n  \
                   ports: [{port: 80, targetPort: 8083}]\n";
    place.up.apply(service).ok();
    let endpoint = slice("long-1", "long", "n1").replace("8080", "8083").replace("10.244.0.2", "10.244.0.3");
    place.up.apply(&endpoint).ok();
    let to: SocketAddr = "10.96.0.55:80".parse().unwrap();
    let mut stream = eventually("the long one", || {
        scene.as_process(|| TcpStream::connect_timeout(&to, PATIENCE)).map_err(|e| e.to_string())
    });
    assert_eq!(stream.peer_addr().unwrap(), to);
    place.up.ok(&["delete", "endpointslice", "long-1"]);
    eventually("nobody serves", || match scene.as_process(|| TcpStream::connect_timeout(&to, PATIENCE)) {
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // It serves `sticky` yet: longer than departures are looked for.
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Sockets are looked for where processes are: this one lives.
    let ended = scene.as_process(|| {
        place.up.ok(&["delete", "endpointslice", "sticky-1"]);
        stream.read(&mut [0]).unwrap_err().kind()
    });
    assert_eq!(ended, std::io::ErrorKind::ConnectionAborted);
}

#[test]
fn connections_outlive_a_kill() {
    let scene = Scene::new();
    scene.place.serve_echo();
    let mut echo = web("").replace("name: web", "name: out").replace("10.96.0.50", "10.96.0.56");
    echo = echo.replace("30080", "30081").replace("8080", "8082");
    scene.place.up.apply(&echo).ok();
    scene.place.up.apply(&slice("out-1", "out", "n1").replace("port: 8080", "port: 8082")).ok();
    let mut proxy = scene.proxy();
    is_led(&scene);
    scene.place.reaches(&scene.place.outside, NODE_PORT, "10.244.0.1");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = Done(&done);
        let place = &scene.place;
        let outside = scope.spawn(|| keeps_talking(&place.outside, "192.0.2.10:30081", &done));
        let inside = scope.spawn(|| keeps_talking(place.node(), "10.96.0.51:80", &done));
        let socket = scene.as_process(|| TcpStream::connect("10.96.0.51:80").unwrap());
        for _ in 0..2 {
            drop(std::mem::replace(&mut proxy, scene.place.start(&["--help"])));
            // Dead, its programs at links go on.
            place.reaches(&place.outside, NODE_PORT, "10.244.0.1");
            proxy = scene.proxy();
            is_led(&scene);
            place.reaches(&place.outside, NODE_PORT, "10.244.0.1");
        }
        // What a socket was told of its peer it is told again by the programs that came after.
        assert_eq!(socket.peer_addr().unwrap(), "10.96.0.51:80".parse().unwrap());
        drop(end);
        for answered in [outside, inside].map(|t| t.join().unwrap().unwrap()) {
            assert!(answered > 20, "{answered}");
        }
    });
}

#[test]
fn the_mode_changes_while_connections_go_on() {
    let scene = Scene::new();
    scene.place.serve_echo();
    let mut proxy = scene.proxy();
    is_led(&scene);
    scene.place.reaches(&scene.place.outside, NODE_PORT, "10.244.0.1");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = Done(&done);
        let place = &scene.place;
        let talking = [place.node(), &place.outside]
            .map(|from| scope.spawn(|| keeps_talking(from, "10.96.0.51:80", &done)));
        let connecting = [(place.node(), WEB), (&place.outside, NODE_PORT)]
            .map(|(from, to)| scope.spawn(|| keeps_connecting(from, to, &done)));
        for mode in ["nftables", "ebpf", "nftables"] {
            scene.mode(mode);
            eventually(mode, || match place.get("127.0.0.1:10249", "/proxyMode")?.body {
                said if said == mode => Ok(()),
                said => Err(said),
            });
            let wanted = if mode == "ebpf" { POD } else { "3200600A:0050" };
            eventually("whom sockets are led to", || match scene.as_process(|| led(WEB)) {
                Ok(peer) if peer == wanted => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
        drop(end);
        for clients in connecting {
            let (reached, failed) = clients.join().unwrap();
            assert!(reached > 20 && failed.is_empty(), "{reached} and {failed:?}");
        }
        for answered in talking.map(|t| t.join().unwrap().unwrap()) {
            assert!(answered > 20, "{answered}");
        }
    });
    assert_eq!(scene.place.figure("sealane_proxy_failures_total{task=\"rules\"}"), 0.0);
    assert_eq!(proxy.stop(), 0);
    // The next start in another mode removes what was left for connections of before.
    let mut proxy = scene.proxy();
    eventually("nothing is left", || match scene.cell.pins() {
        pins if pins.is_empty() => Ok(()),
        pins => Err(format!("{pins:?}")),
    });
    assert_eq!(proxy.stop(), 0);
}
