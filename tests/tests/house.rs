//! The house's arrows: which room may know which (ARCHITECTURE.md draws them).

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

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

#[test]
fn arrows_point_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap();
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(&root)
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let room = |path: &str| {
        let path = Path::new(path);
        path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned()
    };
    let mut wrong = Vec::new();
    let packages = metadata["packages"].as_array().unwrap();
    for package in packages {
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
    assert!(packages.len() > 15, "the workspace was not read");
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
