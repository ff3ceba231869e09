//! `sealane check`: every problem of a Corefile with its place, and the exit status of the interface.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use sealane_tests::{Done, run, sealane};

fn check(folder: &std::path::Path, args: &[&str], input: &str) -> Done {
    run(Command::new(sealane()).arg("check").args(args).current_dir(folder), input.as_bytes())
}

const GOOD: &str = "(usual) {\n  errors\n  cache 30\n}\n.:53, 10.0.0.0/15 {\n  import usual\n  import parts/*.conf\n  \
                    forward . 10.0.0.2 {\n    except a.example\n  }\n}\n";

#[test]
fn a_good_one_is_silent() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("parts")).unwrap();
    std::fs::write(folder.path().join("parts/a.conf"), "log\n").unwrap();
    std::fs::write(folder.path().join("Corefile"), GOOD).unwrap();
    for (args, input, out) in [
        (&["Corefile"][..], "", ""),
        (&["-"], GOOD, ""),
        (&["Corefile", "-"], GOOD, ""),
        (&["--output", "json", "Corefile"], "", "[]\n"),
    ] {
        let done = check(folder.path(), args, input);
        assert!(done.status.success(), "{done}");
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), (out, ""), "{done}");
    }
}

#[test]
fn every_problem_has_its_place() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("part"), "health {\n  lameduck soon\n}\n").unwrap();
    let text = ".:53 {\r\n  errors\r\n  foward . 10.0.0.2\r\n  import part\r\n  cache {\r\n    size 3\r\n  }\r\n}\r\n";
    std::fs::write(folder.path().join("Corefile"), text).unwrap();
    let done = check(folder.path(), &["Corefile"], "");
    assert_eq!(done.status.code(), Some(1), "{done}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{done}");
    for (line, start) in
        lines.iter().zip(["Corefile:3:3: unknown plugin 'foward'", "Corefile:6:5: ", "part:2:12: "])
    {
        assert!(line.starts_with(start), "{start}: {done}");
    }
    assert_eq!(done.stderr, "sealane: check: 3 problems; put them right and check again\n");
    let done = check(folder.path(), &["--output", "json", "-"], text);
    let rows: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 3, "{done}");
    assert_eq!(
        (&rows[0]["file"], &rows[0]["line"], &rows[0]["column"]),
        (&"<stdin>".into(), &3.into(), &3.into()),
        "{done}"
    );
    assert!(rows[0]["message"].as_str().unwrap().contains("'foward'"));
    assert_eq!(done.status.code(), Some(1), "{done}");
}

#[test]
fn what_is_no_corefile() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pod.yaml"), "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n")
        .unwrap();
    std::fs::write(folder.path().join("bytes"), [0xff, 0xfe, 0]).unwrap();
    for (args, input, code, words) in [
        (&["nowhere"][..], "", 1, "cannot read nowhere: "),
        (&["."], "", 1, "cannot read .: "),
        (&["bytes"], "", 1, "cannot read bytes: "),
        (&["pod.yaml"], "", 1, "pod.yaml is a Pod, neither a Corefile"),
        (&["-"], "", 1, "1 problem;"),
        (&["-"], ". {\n log \"x\n}", 1, "1 problem;"),
        (&[], "", 2, "<FILE>..."),
        (&["--output", "xml", "-"], "", 2, "xml"),
    ] {
        let done = check(folder.path(), args, input);
        assert_eq!(done.status.code(), Some(code), "{done}");
        assert!(done.stderr.contains(words), "{words}: {done}");
        assert!(code == 2 || done.stderr.lines().count() == 1, "{done}");
    }
    let help = run(Command::new(sealane()).args(["check", "--help"]), b"");
    assert!(
        help.status.success() && help.stdout.contains("Examples:\n  sealane check /etc/coredns/Corefile"),
        "{help}"
    );
}
