//! The house's arrows: which room may know which (ARCHITECTURE.md draws them), and that none run in a circle inside a
//! room.

#![allow(clippy::unwrap_used)]

mod modules;

use std::path::{Path, PathBuf};
use std::process::Command;

use modules::Modules;
use serde_json::Value;

/// Room, and the rooms that it may know; `*` at the end stands for all rooms below a folder.
const ARROWS: &[(&str, &[&str])] = &[
    ("core/api", &[]),
    ("core/registry", &["core/api"]),
    ("core/controllers", &["core/api"]),
    ("core/catalog", &["core/api"]),
    ("core/pod", &["core/api"]),
    ("core/dns", &["core/api", "core/catalog"]),
    ("core/proxy", &["core/api", "core/catalog"]),
    ("core/balance", &[]),
    ("core/mesh", &["core/api", "core/catalog", "core/balance"]),
    ("core/explain", &["core/api", "core/catalog", "core/dns", "core/proxy", "core/mesh"]),
    ("io/host", &["core/*"]),
    ("io/pki", &["core/*"]),
    ("io/store", &["core/*"]),
    // The API server is written against the Store trait; every other room of io is a stranger to the others.
    ("io/apiserver", &["core/*", "io/host", "io/pki", "io/store"]),
    ("io/client", &["core/*", "io/host", "io/pki"]),
    ("io/images", &["core/*", "io/host", "io/pki"]),
    ("io/node", &["core/*", "io/host", "io/pki"]),
    ("io/dnsserver", &["core/*", "io/host", "io/pki"]),
    ("io/dataplane", &["core/*", "io/host", "io/pki"]),
    ("io/bpf", &["core/*", "io/host", "io/pki"]),
    ("io/gateway", &["core/*", "io/host", "io/pki"]),
    // Programs that run inside Pods: clients like anybody's, which share the DNS codec alone.
    ("bin/demo", &["core/dns"]),
    ("bin/sealane", &["core/*", "io/*", "bin/demo"]),
    ("tests", &[]),
    ("bench", &[]),
    ("xtask", &[]),
];

fn allowed(room: &str, other: &str) -> bool {
    let (_, known) =
        ARROWS.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("{room} is in no row"));
    known.iter().any(|k| match k.strip_suffix('*') {
        Some(folder) => other.starts_with(folder),
        None => *k == other,
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap()
}

fn packages() -> Vec<Value> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    let mut metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let packages = metadata["packages"].as_array_mut().unwrap();
    assert!(packages.len() > 15, "the workspace was not read");
    std::mem::take(packages)
}

#[test]
fn arrows_point_one_way() {
    let root = root();
    let room = |path: &str| {
        let path = Path::new(path);
        path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned()
    };
    let mut wrong = Vec::new();
    for package in packages() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let from = room(manifest.parent().unwrap().to_str().unwrap());
        for dependency in package["dependencies"].as_array().unwrap() {
            // What tests need beside the product is no arrow of the house.
            let (Some(path), Value::Null) = (dependency["path"].as_str(), &dependency["kind"]) else {
                continue;
            };
            let to = room(path);
            if !allowed(&from, &to) {
                wrong.push(format!("{from} -> {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that the house does not have: {wrong:#?}");
}

#[test]
fn a_wrong_arrow_would_be_found() {
    for (from, to) in [
        ("core/api", "core/registry"),
        ("core/dns", "core/proxy"),
        ("core/catalog", "io/store"),
        ("io/node", "io/images"),
        ("io/store", "io/apiserver"),
        ("io/client", "bin/sealane"),
    ] {
        assert!(!allowed(from, to), "{from} -> {to}");
    }
}

#[test]
fn modules_know_each_other_one_way() {
    let root = root();
    let read = |file: &Path| std::fs::read_to_string(root.join(file)).ok();
    let (mut circles, mut count) = (Vec::new(), 0);
    for package in packages() {
        for target in package["targets"].as_array().unwrap() {
            let file = Path::new(target["src_path"].as_str().unwrap()).strip_prefix(&root).unwrap();
            if file.components().any(|part| part.as_os_str() == "src") {
                let modules = Modules::read(file, &read);
                count += modules.count();
                circles.extend(modules.circles());
            }
        }
    }
    assert!(count > 200, "{count} modules: the workspace was not read");
    assert!(circles.is_empty(), "modules that know each other in a circle:\n{}", circles.join("\n"));
}

#[test]
fn a_circle_of_modules_would_be_found() {
    let circles = |files: &[(&str, &str)]| {
        let source = |file: &Path| {
            let at = files.iter().find(|(name, _)| Path::new(name) == file);
            at.map(|(_, text)| (*text).to_owned())
        };
        Modules::read(Path::new("lib.rs"), &source).circles()
    };
    let two =
        |a: &str, b: &str| circles(&[("lib.rs", "mod a; mod b; pub use b::B;"), ("a.rs", a), ("b.rs", b)]);
    let b = "use crate::a::A; pub struct B(A); pub fn f() {}";
    for a in [
        "use crate::b::B; pub struct A;",
        "use super::b::{self, f as g}; pub struct A;",
        "use crate::b; pub struct A; fn f() { b::f() }",
        "pub struct A; fn f() { let x: Vec<crate::b::B> = Vec::new(); }",
        "pub struct A; fn f() -> String { format!(\"{}\", super::b::f()) }",
        "use crate::B; pub struct A;",
        "pub struct A; impl A { fn f() { use crate::{b::B}; } }",
        "pub struct A; mod inner { use super::super::b::*; }",
    ] {
        let found = two(a, b);
        assert_eq!(found.len(), 2, "{a}: {found:?}");
        assert!(found[0].starts_with("a.rs -> b.rs: "), "{found:?}");
        assert_eq!(found[1], "b.rs -> a.rs: A");
    }
    for a in [
        "pub struct A;",
        "use other::b::B; pub struct A(::b::B);",
        "pub struct A; #[cfg(test)] mod tests { use crate::b::B; }",
        "/// See [`crate::b::B`].\npub struct A; const WHERE: &str = \"crate::b::B\";",
        "use crate::Root; pub struct A;",
    ] {
        assert_eq!(two(a, b), Vec::<String>::new(), "{a}");
    }
    // A parent is made of its children, which may take what stands in it; through another module it is a circle.
    let parent = ("a/mod.rs", "mod c; use c::C; use crate::b::B; pub struct P;");
    for (b, lines) in [("pub struct B;", 0), ("use crate::a::c::C; pub struct B;", 3)] {
        let child = ("a/c.rs", "use super::P; pub struct C;");
        let found = circles(&[("lib.rs", "mod a; mod b;"), parent, child, ("b.rs", b)]);
        assert_eq!(found.len(), lines, "{found:?}");
    }
}
