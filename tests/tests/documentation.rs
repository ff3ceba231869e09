//! Every Corefile in the documentation is started and asked: README.md and the like, `docs/`, and the doc comments of
//! the program and of `core/dns`.
//!
//! A Corefile is a fenced block without a language, or with `corefile` or `text`, whose first line opens a block
//! (`… {`). One that does not begin with a server's zone is what stands inside of one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use sealane_tests::{Start, Stream, Up, eventually, run, sealane};

/// `kube-dns`'s address, where examples name it.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Asked of a server that knows a cluster, and of one that does not; the second only has to be answered.
const QUESTIONS: [&str; 2] = ["kubernetes.default.svc.cluster.local", "www.example.org"];

/// A fenced block: its place, its language, its lines.
#[derive(Debug, PartialEq)]
struct Fenced {
    place: String,
    language: String,
    text: String,
}

/// Blocks of a page.
fn fenced(name: &str, page: &str) -> Vec<Fenced> {
    let (mut all, mut open) = (Vec::new(), None::<Fenced>);
    for (line, number) in page.lines().zip(1..) {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                let (place, language) = (format!("{name}:{number}"), language.trim().to_owned());
                open = Some(Fenced { place, language, text: String::new() });
            }
            (Some(_), Some(_)) => all.extend(open.take()),
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert_eq!(open, None, "a block has no end");
    all
}

/// A doc comment's own lines, the others empty, so that line numbers stay.
fn comments(source: &str) -> String {
    let lines = source.lines().map(|line| {
        let line = line.trim_start();
        let text = line.strip_prefix("//!").or_else(|| line.strip_prefix("///")).unwrap_or_default();
        format!("{}\n", text.strip_prefix(' ').unwrap_or(text))
    });
    lines.collect()
}

impl Fenced {
    /// The Corefile that it is, if it is one.
    fn corefile(&self) -> Option<String> {
        let first = self.text.lines().find(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#'))?;
        if !["", "corefile", "text"].contains(&self.language.as_str()) || !first.trim_end().ends_with(" {") {
            return self.language.eq("corefile").then(|| self.text.clone());
        }
        let word = first.split_whitespace().next()?;
        let whole = word.contains(['.', ':', '(', '/']);
        Some(if whole { self.text.clone() } else { format!(".:53 {{\n{}}}\n", self.text) })
    }
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

/// Place and text of each.
fn corefiles() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut paths: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|f| root.join(f)).into();
    for (folder, extension) in
        [("docs", "md"), ("core/dns/src", "rs"), ("io/dnsserver/src", "rs"), ("bin/sealane/src", "rs")]
    {
        files(&root.join(folder), extension, &mut paths);
    }
    let mut found = Vec::new();
    for path in paths {
        let page = std::fs::read_to_string(&path).unwrap();
        let page = if path.extension().is_some_and(|e| e == "rs") { comments(&page) } else { page };
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let blocks = fenced(&name, &page);
        found.extend(blocks.into_iter().filter_map(|b| Some((b.corefile()?, b.place))).map(|(t, p)| (p, t)));
    }
    found
}

/// What is wrong with the answers of a server that has this Corefile.
#[track_caller]
fn ask(start: &Start, up: &Up, text: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Corefile"), text).unwrap();
    let checked =
        run(start.machine.command(sealane()).args(["check", "Corefile"]).current_dir(folder.path()), b"");
    if !checked.status.success() {
        return Err(checked.to_string());
    }
    let mut command = start.machine.command(sealane());
    command.args(["dns", "-conf", "Corefile"]).current_dir(folder.path()).env("KUBECONFIG", up.kubeconfig());
    let _server = Stream::piped(&mut command);
    let cluster = text.lines().any(|l| l.trim_start().starts_with("kubernetes"));
    let port = text.lines().find_map(plain_port).ok_or("no server block for plain DNS: nothing to ask")?;
    let question =
        ["@127.0.0.1", "-p", &port, "+tries=1", "+timeout=5", QUESTIONS[usize::from(!cluster)], "A"];
    eventually("an answer", || {
        let done = run(start.machine.command("dig").args(question), b"");
        let right = match cluster {
            true => done.stdout.contains("A\t10.96.0.1\n"),
            false => done.stdout.contains("status: ") && !done.stdout.contains("status: REFUSED"),
        };
        if right { Ok(()) } else { Err(done.to_string()) }
    });
    Ok(())
}

/// The port of a line that opens a server block for plain DNS: `.:53 {`, `example.org {`.
fn plain_port(line: &str) -> Option<String> {
    let addresses = line.strip_suffix('{').filter(|_| !line.starts_with([' ', '\t', '(']))?;
    addresses.split([' ', ',']).filter(|word| !word.is_empty()).find_map(|word| {
        let word = match word.split_once("://") {
            Some(("dns", rest)) => rest,
            Some(_) => return None,
            None => word,
        };
        let port = word.rsplit_once(':').map(|(_, port)| port).filter(|p| p.parse::<u16>().is_ok());
        Some(port.unwrap_or("53").to_owned())
    })
}

#[test]
fn every_corefile_is_started_and_asked() {
    let found = corefiles();
    assert!(found.iter().any(|(place, _)| place.starts_with("docs/dns.md")), "{found:?}");
    let start = Start::new().arg("--no-node");
    start.machine.add_address(SERVER);
    let up = start.up();
    let wrong =
        found.iter().filter_map(|(place, text)| Some(format!("{place}: {}", ask(&start, &up, text).err()?)));
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "of {}:\n{}", found.len(), wrong.join("\n"));
    up.stop();
}

#[test]
fn blocks_are_found() {
    let page = "a\n```\n.:53 {\n}\n```\n```rust\n.:53 {\n```\n```text\nforward . 10.0.0.1 {\n}\n```\n```\nup {x}\n```\n\
                ```corefile\nlog\n```\n";
    let found: Vec<_> = fenced("p", page).iter().map(|b| (b.place.clone(), b.corefile())).collect();
    let whole = Some(".:53 {\n}\n".to_owned());
    let part = Some(".:53 {\nforward . 10.0.0.1 {\n}\n}\n".to_owned());
    let named = Some("log\n".to_owned());
    let expected = [("p:2", whole), ("p:6", None), ("p:9", part), ("p:13", None), ("p:16", named)];
    assert_eq!(found, expected.map(|(place, text)| (place.to_owned(), text)));
    assert_eq!(comments("fn a() {}\n    /// b\n//! c\n"), "\nb\nc\n");
    for (line, port) in [
        (".:53 {", Some("53")),
        ("example.org {", Some("53")),
        ("tls://.:853 .:1053 {", Some("1053")),
        ("tls://. {", None),
        ("(snip) {", None),
        ("    kubernetes cluster.local {", None),
        ("10.0.0.0/8 {", Some("53")),
    ] {
        assert_eq!(plain_port(line).as_deref(), port, "{line}");
    }
}
