//! Where `up` cannot run as it would: what it says, and what it makes do with.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Output};

use sealane_tests::{Machine, Start, Stream, sealane};

/// One line on standard error, exit status 1.
#[track_caller]
fn refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lines: Vec<&str> = said.lines().filter(|l| l.starts_with("sealane: ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains(why), "{why}: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn root_without_capabilities_is_told_which_flag() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("setpriv")
        .args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"])
        .arg(sealane())
        .args(["up", "--api-address", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    refused(&output, "start it with --privileged");
}

#[test]
fn a_kernel_without_user_namespaces_is_named() {
    let dir = tempfile::tempdir().unwrap();
    // The limit of the outer namespace is used up by the inner one, in which an ordinary user runs.
    let script = "echo 1 > /proc/sys/user/max_user_namespaces; \
                  exec unshare -U --map-user=1000 --map-group=1000 \"$0\" up --api-address 127.0.0.1:0 --data-dir \"$1\"";
    let output = Command::new("unshare")
        .args(["-Ur", "sh", "-c", script])
        .arg(sealane())
        .arg(dir.path().join("data"))
        .output()
        .unwrap();
    refused(&output, "user.max_user_namespaces");
}

#[test]
fn on_an_overlay_containers_write_to_memory() {
    let machine = Machine::new();
    let dir = tempfile::tempdir().unwrap();
    // Mounted in a namespace of its own, which goes with the program.
    let script = "mkdir \"$1\"/l \"$1\"/u \"$1\"/w \"$1\"/m; mount -t overlay overlay \
                  -o lowerdir=\"$1\"/l,upperdir=\"$1\"/u,workdir=\"$1\"/w \"$1\"/m; \
                  exec \"$0\" up --api-address 127.0.0.1:0 --node-name overlay --data-dir \"$1\"/m/data";
    let mut command = machine.command("unshare");
    command.args(["-m", "sh", "-c", script]).arg(sealane()).arg(dir.path());
    let mut stream = Stream::piped(&mut command);
    stream.expect("ready in ");
    stream.interrupt();
}

#[test]
fn a_chroot_that_is_no_mount_is_told_to_be_one() {
    let machine = Machine::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(sealane(), dir.path().join("sealane")).unwrap();
    // Mounted in a namespace of its own, which goes with the program.
    let script = "cd \"$0\" && mkdir -p proc sys dev tmp && mount -t proc proc proc && mount -t sysfs sysfs sys && \
                  mount --rbind /dev dev && exec chroot . /sealane up --api-address 127.0.0.1:0 --data-dir /tmp/data";
    let output =
        machine.command("unshare").args(["-m", "sh", "-c", script]).arg(dir.path()).output().unwrap();
    refused(&output, "mount --bind DIR DIR");
}

#[test]
fn an_ordinary_user_runs_the_demo() {
    let machine = Machine::new();
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    // Where an ordinary user may execute it.
    let program = dir.path().join("sealane");
    std::fs::copy(sealane(), &program).unwrap();
    let mut command = machine.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    let output = command.args(["demo", "grpc", "--calls", "3000"]).env("HOME", &home).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let after = out.split("headless: ").nth(1).unwrap_or_else(|| panic!("{out}{err}"));
    let shares: Vec<&str> = after.lines().skip(1).take(3).collect();
    assert!(shares.iter().all(|line| line.contains("1000")), "{out}");
    assert!(out.contains("3000  100 %"), "{out}");
}

#[test]
fn a_pod_that_ignores_its_end_holds_nothing_up() {
    let start = Start::new();
    let up = start.up();
    up.ok(&[
        "run",
        "stubborn",
        "--image=sealane/demo",
        "--command",
        "--",
        "sh",
        "-c",
        "trap '' TERM; while true; do sleep 1; done",
    ]);
    up.ready_pods("default", "run=stubborn", 1);
    up.stop();
}
