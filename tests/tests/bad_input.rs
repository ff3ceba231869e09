//! What goes wrong says so: one line, what and why and what to do, and the exit status of the interface.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use redb::{Database, TableDefinition};
use sealane_tests::{Done, Start, Up, eventually, run, sealane};

/// Holds a failure of Sealane's own to the interface: status, one line, no panic, and these words.
#[track_caller]
fn refused(done: &Done, code: i32, words: &[&str]) {
    assert_eq!(done.status.code(), Some(code), "{done}");
    for never in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
        assert!(!done.stderr.contains(never), "{done}");
    }
    if code == 1 {
        assert_eq!(done.stderr.lines().count(), 1, "one line: {done}");
        assert!(done.stderr.starts_with("sealane: "), "{done}");
    }
    for word in words {
        assert!(done.stderr.contains(word), "no {word:?}: {done}");
    }
}

#[track_caller]
fn up(start: &Start, args: &[&str]) -> Done {
    run(start.sealane(&["up"]).args(args), b"")
}

/// One that needs no node.
const QUICK: [&str; 3] = ["--api-address", "127.0.0.1:0", "--no-node"];

#[test]
fn command_line() {
    let plain = |args: &[&str]| run(Command::new(sealane()).args(args), b"");
    refused(&plain(&["up", "--no-such-flag"]), 2, &["--no-such-flag", "--help"]);
    refused(&plain(&["upp"]), 2, &["upp"]);
    refused(&plain(&[]), 2, &["Usage"]);
    refused(&plain(&["up", "--api-address", "nowhere"]), 2, &["--api-address", "nowhere"]);
    refused(&plain(&["image", "load"]), 2, &["FILE"]);
    let start = Start::new();
    refused(&up(&start, &["--service-cidr", "10.96.0.0/33"]), 1, &["--service-cidr", "10.96.0.0/33"]);
    refused(&up(&start, &["--service-cidr", "10.0.0.0/8", "--pod-cidr", "10.1.0.0/16"]), 1, &["overlap"]);
    refused(&up(&start, &["--node-port-range", "9-1"]), 1, &["--node-port-range", "9-1"]);
}

#[test]
fn configuration_file() {
    let start = Start::new();
    let file = start.file("up.yaml");
    let name = file.to_str().unwrap();
    let with = |text: &str| {
        std::fs::write(&file, text).unwrap();
        up(&start, &["--config", name])
    };
    refused(&with("apiVersion: sealane.dev/v1\nnoNod: true\n"), 1, &[name, "noNod"]);
    refused(&with("apiVersion: sealane.dev/v9\n"), 1, &[name, "sealane.dev/v9", "sealane.dev/v1"]);
    refused(&with("apiVersion: sealane.dev/v1\nverbose: loud\n"), 1, &[name, "loud"]);
    refused(&with("apiVersion: [\n"), 1, &[name, "line"]);
    refused(&up(&start, &["--config", "/nowhere/up.yaml"]), 1, &["/nowhere/up.yaml"]);
}

#[test]
fn port_taken() {
    let start = Start::new();
    let _other = start.machine.within(|| TcpListener::bind("127.0.0.1:7443")).unwrap();
    refused(&up(&start, &["--no-node", "--api-address", "127.0.0.1:7443"]), 1, &["127.0.0.1:7443", "in use"]);
    assert!(start.machine.leftovers().is_empty());
}

#[test]
fn data_directory() {
    let start = Start::new();
    let running = start.clone().arg("--no-node").up();
    refused(
        &up(&start, &QUICK),
        1,
        &[start.data_dir().to_str().unwrap(), "another", &running.pid().to_string()],
    );
    drop(running);

    let at = |dir: &Path| {
        let mut command = start.machine.command(sealane());
        run(command.args(["up", "--data-dir"]).arg(dir).args(QUICK), b"")
    };
    let file = start.file("a-file");
    std::fs::write(&file, "").unwrap();
    refused(&at(&file), 1, &["--data-dir", file.to_str().unwrap()]);
    // Root may write everywhere but here.
    refused(&at(Path::new("/proc/sealane")), 1, &["--data-dir", "/proc/sealane"]);
}

/// A data directory that an `up` has used and left, with some objects; its store.
#[track_caller]
fn used(start: &Start) -> PathBuf {
    let running = start.clone().arg("--no-node").up();
    for n in 0..20 {
        running.ok(&["create", "configmap", &format!("kept-{n}"), "--from-literal=a=b"]);
    }
    running.stop();
    start.data_dir().join("store.redb")
}

#[test]
fn store_of_a_newer_version() {
    let start = Start::new();
    let store = used(&start);
    let database = Database::open(&store).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta: TableDefinition<&str, u64> = TableDefinition::new("meta");
    transaction.open_table(meta).unwrap().insert("format", 99).unwrap();
    transaction.commit().unwrap();
    drop(database);
    refused(&up(&start, &QUICK), 1, &[store.to_str().unwrap(), "newer", "99"]);
}

#[test]
fn damaged_store() {
    let start = Start::new();
    let store = used(&start);
    let good = std::fs::read(&store).unwrap();
    // Cut off, and no store at all.
    for part in [good[..good.len() / 2].to_vec(), good[..100].to_vec(), vec![b'x'; 8192]] {
        std::fs::write(&store, part).unwrap();
        refused(&up(&start, &QUICK), 1, &[store.to_str().unwrap()]);
    }
    // A bit flipped here and there: found, or in a place that nothing reads; never a panic, never other objects.
    for n in 0..12 {
        let mut bad = good.clone();
        let at = n * bad.len() / 12 + 16 * n + 1;
        bad[at] ^= 1 << (n % 8);
        std::fs::write(&store, bad).unwrap();
        let mut command = start.command();
        let mut child = command.arg("--no-node").stderr(std::process::Stdio::piped());
        child = child.stdout(std::process::Stdio::piped());
        let mut stream = sealane_tests::Stream::piped(child);
        let line = stream
            .expect_line("ready, or an error", |l| l.starts_with("ready in ") || l.starts_with("sealane: "));
        if line.starts_with("sealane: ") {
            assert!(line.contains(store.to_str().unwrap()), "bit at {at}: {line}");
            assert_eq!(stream.ended().0.code(), Some(1), "bit at {at}");
        } else {
            stream.interrupt();
        }
    }
}

/// A file system of the test's own; gone with it.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Disk {
        std::fs::create_dir(&at).unwrap();
        let options = format!("size={size}");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at), b"").ok();
        Disk(at)
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        run(Command::new("mount").args(["-o", &options]).arg(&self.0), b"").ok();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A failure shows as a mount that stays.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn full_disk() {
    let start = Start::new();
    let disk = Disk::mount(start.data_dir(), "8k");
    refused(&up(&start, &QUICK), 1, &[start.data_dir().to_str().unwrap(), "No space left"]);
    // It fills while it runs: what is refused says why, the rest is there, and with room it goes on.
    disk.resize("4m");
    let running = start.clone().arg("--no-node").up();
    let value = format!("--from-literal=a={}", "x".repeat(120_000));
    let mut kept = Vec::new();
    let why = loop {
        let name = format!("large-{}", kept.len());
        let done = running.kubectl(&["create", "configmap", &name, &value]);
        if !done.status.success() {
            break done.stderr;
        }
        kept.push(format!("configmap/{name}"));
        assert!(kept.len() < 100, "4 MB hold more than 12 MB");
    };
    assert!(why.contains("No space left"), "{why}");
    let mut all =
        running.ok(&["get", "configmaps", "-o", "name"]).lines().map(str::to_owned).collect::<Vec<_>>();
    all.retain(|n| n.starts_with("configmap/large-"));
    all.sort();
    kept.sort();
    assert_eq!(all, kept);
    disk.resize("64m");
    running.ok(&["create", "configmap", "small", "--from-literal=a=b"]);
    drop(running);
}

#[test]
fn images() {
    let start = Start::new();
    let load = |content: &[u8]| {
        let file = start.file("archive.tar");
        std::fs::write(&file, content).unwrap();
        run(start.sealane(&["image", "load"]).arg(&file), b"")
    };
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    tar.append_data(&mut header, "readme", &b"hi"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    for content in [&b""[..], b"this is no archive", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0], &tar, &tar[..700]] {
        refused(&load(content), 1, &["archive.tar", "not an image archive"]);
    }
    refused(&run(start.sealane(&["image", "load"]).arg("/nowhere.tar"), b""), 1, &["/nowhere.tar"]);
    refused(&run(&mut start.sealane(&["image", "load", "-"]), b"no archive"), 1, &["standard input"]);
    refused(&run(&mut start.sealane(&["image", "remove", "none:1"]), b""), 1, &["none:1"]);
    refused(&run(&mut start.sealane(&["image", "pull", "UPPER/Case"]), b""), 1, &["UPPER/Case"]);
    let nobody = "127.0.0.1:5999/none:1";
    refused(&run(&mut start.sealane(&["image", "pull", nobody, "--plain-http"]), b""), 1, &[nobody]);
}

#[test]
fn image_that_does_not_exist() {
    let running = Up::start();
    running.ok(&["run", "none", "--image=127.0.0.1:5999/none:1"]);
    eventually("the Pod says why it waits", || {
        let row = running.ok(&["get", "pod", "none", "--no-headers"]);
        if row.contains("ErrImagePull") || row.contains("ImagePullBackOff") { Ok(()) } else { Err(row) }
    });
    eventually("events that say it", || {
        let described = running.ok(&["describe", "pod", "none"]);
        let said = described.contains("Failed to pull image \"127.0.0.1:5999/none:1\"");
        if said && described.contains("Error: ErrImagePull") { Ok(()) } else { Err(described) }
    });
    running.ok(&["run", "BadName", "--image=sealane/demo", "--dry-run=client"]);
    running.stop();
}

#[test]
fn requests() {
    let start = Start::new();
    let up = start.clone().arg("--no-node").up();
    let create = |args: &[&str], body: &str| {
        run(&mut up.kubectl_command(&[&["create"], args].concat()), body.as_bytes())
    };
    let raw = ["--raw", "/api/v1/namespaces/default/configmaps", "-f", "-"];

    // Found by kubectl itself.
    let said = up.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a\n").fails();
    assert!(said.contains("error converting YAML to JSON"), "{said}");
    let said = up.apply("{\"apiVersion\": \"v1\", \"kind\": ").fails();
    assert!(said.starts_with("error: "), "{said}");
    // And by the API.
    for body in ["{\"apiVersion\": \"v1\", \"kind\": ", "[1, 2]", "\"text\"", "\u{0}\u{1}"] {
        let said = create(&raw, body).fails();
        assert!(said.contains("Error from server (BadRequest)"), "{body:?}: {said}");
    }

    // Each from a file, which is named.
    for (text, words) in [
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n\tname: a\n",
            &["line 4", "cannot start any token"][..],
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n   labels: {}\n",
            &["line 5", "mapping values"],
        ),
        ("apiVersion: v1\nmetadata: {name: a}\n", &["kind"]),
        ("kind: ConfigMap\nmetadata: {name: a}\n", &["apiVersion"]),
        ("apiVersion: apps/v2\nkind: Deployment\nmetadata: {name: a}\n", &["\"Deployment\"", "\"apps/v2\""]),
        ("apiVersion: v1\nkind: ConfigMpa\nmetadata: {name: a}\n", &["\"ConfigMpa\"", "\"v1\""]),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n", &["name"]),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {n: 3}\n",
            &["ConfigMap.data", "string"],
        ),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndta: {n: x}\n", &["unknown field \"dta\""]),
    ] {
        let file = start.file("first.yaml");
        std::fs::write(&file, text).unwrap();
        let said = up.kubectl(&["apply", "-f", file.to_str().unwrap()]).fails();
        for word in words.iter().chain(&["first.yaml"]) {
            assert!(said.contains(word), "no {word:?}: {text}{said}");
        }
    }

    let unknown = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports: [{port: 80, protcol: TCP}]\n  foo: 1\n";
    let strict = ["-f", "-", "--validate=strict"];
    let said = create(&strict, unknown).fails();
    assert!(said.contains("strict decoding error"), "{said}");
    for name in ["unknown field \"spec.foo\"", "unknown field \"spec.ports[0].protcol\""] {
        assert!(said.contains(name), "{said}");
    }
    assert!(up.kubectl(&["get", "service", "a"]).fails().contains("(NotFound)"));
    let twice = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\",\"name\":\"b\"}}";
    // kubectl would keep the last of them to itself.
    let strictly = ["--raw", "/api/v1/namespaces/default/configmaps?fieldValidation=Strict", "-f", "-"];
    let said = create(&strictly, twice).fails();
    assert!(said.contains("duplicate field \"metadata.name\""), "{said}");
    let warned = create(&["-f", "-", "--validate=warn"], unknown);
    assert!(warned.stderr.contains("Warning: unknown field \"spec.foo\""), "{warned}");
    warned.ok();

    // 1.5 MiB is the most of an object, 3 MiB of a request.
    for size in [1_600_000, 4_000_000] {
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "large"},
            "spec": {"containers": [{"name": "c", "image": "i", "args": ["x".repeat(size)]}]}});
        let said = create(&["-f", "-"], &pod.to_string()).fails();
        assert!(said.to_lowercase().contains("too large"), "{}", said.chars().take(500).collect::<String>());
    }

    for (args, name) in [
        (&["create", "deployment", "Bad_Name", "--image=i"][..], "Bad_Name"),
        (&["create", "configmap", "a..b"], "a..b"),
        (&["run", "-x-", "--image=i"], "-x-"),
        (&["create", "namespace", "UPPER"], "UPPER"),
    ] {
        let words = if name.starts_with('-') { vec!["run", "--image=i", "--", name] } else { args.to_vec() };
        let said = up.kubectl(&words).fails();
        assert!(said.contains("is invalid") && said.contains("RFC 1123"), "{words:?}: {said}");
    }
    let said = up.kubectl(&["create", "service", "clusterip", "nine_lives", "--tcp=80"]).fails();
    assert!(said.contains("metadata.name: Invalid value: \"nine_lives\""), "{said}");
    up.stop();
}
