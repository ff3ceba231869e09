//! The articles' programs as images: busybox and nginx from the distribution's packages, the rest from the
//! programs that Sealane carries.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::command::{run, sealane};
use crate::image::{Files, Image};

/// Where Debian and others put them.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

#[track_caller]
fn installed(program: &str, package: &str) -> PathBuf {
    let found = FOLDERS.iter().map(|f| Path::new(f).join(program)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{program} is not installed: apt-get install {package}"))
}

fn base() -> Files {
    let mut files = Files::default();
    files.directory("tmp");
    files.file(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        0o644,
    );
    files.file("etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644);
    files.directory("root");
    files
}

fn with_busybox(files: &mut Files) {
    let program = installed("busybox", "busybox-static");
    files.file("bin/busybox", std::fs::read(&program).unwrap(), 0o755);
    for applet in run(Command::new(program).arg("--list"), b"").ok().lines().filter(|a| *a != "busybox") {
        files.link(&format!("bin/{applet}"), "busybox");
    }
}

/// busybox with all its applets.
#[track_caller]
pub fn busybox() -> Image {
    let mut files = base();
    with_busybox(&mut files);
    Image::new(files)
}

/// nginx as the hub's image has it: the page in /usr/share/nginx/html, logs to standard output, workers that give
/// root up; with busybox for a shell.
#[track_caller]
pub fn nginx(page: &str) -> Image {
    let mut files = base();
    with_busybox(&mut files);
    let program = installed("nginx", "nginx-light");
    files.file("usr/sbin/nginx", std::fs::read(&program).unwrap(), 0o755);
    for line in run(Command::new("ldd").arg(&program), b"").ok().lines() {
        // `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…)`, and the loader without an arrow.
        let Some(library) = line.split_whitespace().find(|w| w.starts_with('/')) else { continue };
        files.file(library.trim_start_matches('/'), std::fs::read(library).unwrap(), 0o755);
    }
    for folder in ["var/lib/nginx", "var/log/nginx", "run"] {
        files.directory(folder);
    }
    let config = "user nobody nogroup;\nworker_processes 1;\nerror_log /dev/stderr;\npid /run/nginx.pid;\n\
        events {}\nhttp {\n  access_log /dev/stdout;\n  server { listen 80; root /usr/share/nginx/html; }\n}\n";
    files.file("etc/nginx/nginx.conf", config, 0o644);
    files.file("usr/share/nginx/html/index.html", page, 0o644);
    Image::new(files).named("", &["nginx", "-g", "daemon off;"], &[])
}

/// The programs that the binary carries: it runs the one by whose name it is called. Made once: it is large.
#[track_caller]
pub fn demo() -> Image {
    static MADE: OnceLock<Image> = OnceLock::new();
    let make = || {
        let mut files = base();
        let folder = tempfile::tempdir().unwrap();
        let slim = folder.path().join("sealane");
        // Without debugging information it is a third of the size, and it is hashed and unpacked more than once.
        run(Command::new("strip").arg("-o").arg(&slim).arg(sealane()), b"").ok();
        files.file("bin/sealane", std::fs::read(slim).unwrap(), 0o755);
        let programs = [
            "grpc-server",
            "grpc-client",
            "kuard",
            "web",
            "sh",
            "nslookup",
            "dig",
            "curl",
            "ping",
            "sleep",
            "printenv",
            "env",
            "cat",
            "ls",
            "hostname",
        ];
        for program in programs {
            files.link(&format!("bin/{program}"), "sealane");
        }
        Image::new(files)
    };
    MADE.get_or_init(make).clone()
}
