//! Archives made here, loaded, found and removed; and archives that are none.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::Path;

use sealane_images::{Builtin, Config, ImageError, ImageStore, Program};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn sha(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        out.append_data(&mut header, name, *content).unwrap();
    }
    out.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn config(layers: &[Vec<u8>], extra: Value) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|l| sha(l)).collect();
    json!({"architecture": "amd64", "os": "linux", "config": extra, "rootfs": {"type": "layers", "diff_ids": ids}})
        .to_string()
        .into_bytes()
}

/// As `docker save` writes it.
fn docker(tags: &[&str], layers: &[Vec<u8>], extra: Value) -> Vec<u8> {
    let config = config(layers, extra);
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{"Config": "c.json", "RepoTags": tags, "Layers": names}]).to_string();
    let mut files: Vec<(&str, &[u8])> = vec![("manifest.json", manifest.as_bytes()), ("c.json", &config)];
    files.extend(names.iter().map(String::as_str).zip(layers.iter().map(Vec::as_slice)));
    tar(&files)
}

/// An OCI layout with compressed layers.
fn layout(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let config = config(layers, json!({"Cmd": ["/run"], "Env": null}));
    let packed: Vec<Vec<u8>> = layers.iter().map(|l| gzip(l)).collect();
    let describe = |bytes: &[u8]| json!({"digest": sha(bytes), "size": bytes.len()});
    let manifest = json!({"config": describe(&config), "layers": packed.iter().map(|p| describe(p)).collect::<Vec<_>>()})
        .to_string()
        .into_bytes();
    let mut entry = describe(&manifest);
    entry["annotations"] =
        json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "v1"});
    let index = json!({"manifests": [entry]}).to_string();
    let path = |bytes: &[u8]| format!("blobs/{}", sha(bytes).replace(':', "/"));
    let mut files: Vec<(String, &[u8])> = vec![("index.json".into(), index.as_bytes())];
    files.push((path(&manifest), &manifest));
    files.push((path(&config), &config));
    files.extend(packed.iter().map(|p| (path(p), p.as_slice())));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), *b)).collect();
    tar(&files)
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap()
}

#[test]
fn a_docker_archive_is_found_by_every_form_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let layers = [tar(&[("etc/motd", b"one")]), tar(&[("etc/motd", b"two")])];
    let extra = json!({"Entrypoint": ["/bin/x"], "User": "web", "WorkingDir": "/srv", "Env": ["A=b"]});
    let loaded = store.load("x.tar", &mut docker(&["nginx:latest"], &layers, extra).as_slice()).unwrap();
    assert_eq!(loaded[0].references, ["docker.io/library/nginx:latest"]);
    let id = loaded[0].id.clone();
    for name in
        ["nginx", "nginx:latest", "docker.io/nginx", "docker.io/library/nginx:latest", &id, &id[7..20]]
    {
        let found = store.find(name).unwrap().unwrap_or_else(|| panic!("{name}"));
        assert_eq!((&found.id, found.pinned), (&id, true), "{name}");
        assert_eq!(found.config.entrypoint, ["/bin/x"]);
        assert_eq!((found.config.user.as_str(), found.config.working_dir.as_str()), ("web", "/srv"));
        let texts: Vec<String> = found.layers.iter().map(|l| read(l, "etc/motd")).collect();
        assert_eq!(texts, ["one", "two"]);
    }
    for name in ["nginx:1", "other/nginx", "registry.example/nginx"] {
        assert!(store.find(name).unwrap().is_none(), "{name}");
    }
    // What another process wrote is seen without being told.
    assert!(ImageStore::open(dir.path()).unwrap().find("nginx").unwrap().is_some());
}

#[test]
fn layouts_share_layers_and_removal_keeps_what_others_need() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let base = tar(&[("base", b"b")]);
    let (one, two) = (tar(&[("one", b"1")]), tar(&[("two", b"2")]));
    let first = store.load("a", &mut layout("docker.io/a/one:v1", &[base.clone(), one]).as_slice()).unwrap();
    let second = store.load("b", &mut gzip(&layout("docker.io/a/two:v1", &[base, two])).as_slice()).unwrap();
    assert_eq!(first[0].layers[0], second[0].layers[0], "one folder for one layer");
    store.remove("a/one:v1").unwrap();
    assert!(store.find("a/one:v1").unwrap().is_none());
    assert!(!first[0].layers[1].exists());
    assert_eq!(read(&store.find("a/two:v1").unwrap().unwrap().layers[0], "base"), "b");
    assert!(matches!(store.remove("a/one:v1"), Err(ImageError::Unknown(_))));
}

#[test]
fn a_tag_moves_to_the_image_loaded_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    for text in ["first", "second"] {
        let layer = tar(&[("t", text.as_bytes())]);
        store.load("x", &mut docker(&["web:1"], &[layer], json!({})).as_slice()).unwrap();
        assert_eq!(read(&store.find("web:1").unwrap().unwrap().layers[0], "t"), text);
    }
    assert_eq!(store.list().unwrap().len(), 2, "the first one is still there, without a name");
}

#[test]
fn whiteouts_hide_what_lower_layers_have() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let layer = tar(&[("etc/.wh.motd", b""), ("var/.wh..wh..opq", b""), ("var/new", b"n")]);
    let image = store.load("x", &mut docker(&["w"], &[layer], json!({})).as_slice()).unwrap().remove(0);
    let hidden = fs::symlink_metadata(image.layers[0].join("etc/motd")).unwrap();
    assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
    let mut value = [0; 8];
    let n = rustix::fs::getxattr(image.layers[0].join("var"), "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..n], b"y");
    assert_eq!(read(&image.layers[0], "var/new"), "n");
}

#[test]
fn nothing_is_written_outside() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    let mut out = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    out.append_link(&mut link, "out", dir.path()).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.as_gnu_mut().unwrap().name[..14].copy_from_slice(b"../../../evil1");
    header.set_cksum();
    out.append(&header, &b"evil"[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"out/evil2");
    header.set_cksum();
    out.append(&header, &b"evil"[..]).unwrap();
    let layer = out.into_inner().unwrap();
    // Refused or left out: both are well, as long as nothing is there afterwards.
    let _ = store.load("x", &mut docker(&["evil"], &[layer], json!({})).as_slice());
    for name in ["evil1", "evil2"] {
        assert!(!dir.path().join(name).exists() && !dir.path().join("store").join(name).exists(), "{name}");
    }
}

#[test]
fn what_is_no_image_is_refused_with_its_name_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let layer = tar(&[("a", b"1")]);
    let mut lying = config(&[tar(&[("a", b"2")])], json!({}));
    lying.push(b'\n');
    let manifest = json!([{"Config": "c", "RepoTags": ["x"], "Layers": ["l"]}]).to_string();
    let wrong_digest = tar(&[("manifest.json", manifest.as_bytes()), ("c", &lying), ("l", &layer)]);
    let no_layer = tar(&[("manifest.json", manifest.as_bytes()), ("c", &lying)]);
    let bad_json = tar(&[("manifest.json", b"{")]);
    let whole = docker(&["x"], &[layer], json!({}));
    let cases: &[(&[u8], &str)] = &[
        (b"", "empty"),
        (b"hello, this is a text file and no archive", "tar"),
        (&tar(&[("readme", b"hi")]), "neither manifest.json nor index.json"),
        (&bad_json, "manifest.json"),
        (&no_layer, "missing"),
        (&wrong_digest, "digest"),
        (&whole[..700], "tar"),
        (&gzip(&whole)[..200], "tar"),
    ];
    for (bytes, why) in cases {
        let error = store.load("file.tar", &mut &**bytes).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
    assert!(store.list().unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0, "nothing half done stays");
}

#[test]
fn built_in_images_are_links_to_one_program() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = ImageStore::open(dir.path()).unwrap();
    let builtin = Builtin {
        reference: "sealane/demo".into(),
        commands: vec!["sh".into(), "web".into()],
        program: "/proc/self/exe".into(),
        config: Config::default(),
    };
    store.add_builtin(&builtin).unwrap();
    store.add_builtin(&builtin).unwrap();
    let image = store.find("sealane/demo").unwrap().unwrap();
    assert_eq!(fs::read_link(image.layers[0].join("bin/web")).unwrap(), Path::new("sealane"));
    assert!(image.layers[0].join(Program::PATH.trim_start_matches('/')).exists());
    assert!(matches!(store.remove("sealane/demo"), Err(ImageError::BuiltIn(_))));
}
