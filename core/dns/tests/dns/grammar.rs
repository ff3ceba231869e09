//! The grammar of Corefiles, held to the cases that `coredns/caddy`'s own tests list (`caddyfile/lexer_test.go`,
//! `caddyfile/parse_test.go`), and to what CoreDNS takes and should not.

use proptest::prelude::*;
use sealane_dns::corefile::{Directive, ServerBlock, Sources, import_targets, parse};

fn sources() -> Sources {
    let mut sources = Sources::default();
    for (name, value) in [
        ("PORT", "8080"),
        ("ADDRESS", "servername.com"),
        ("FOOBAR", "foobar"),
        ("PARTIAL_DIR", "r1"),
        ("NESTED", "{$PORT}"),
        ("BRACE", "{"),
        ("EMPTY", ""),
    ] {
        sources.env.insert(name.into(), value.into());
    }
    for (target, files) in [
        ("one.txt", &[("one.txt", "dir2 arg1 arg2\ndir3")][..]),
        ("two.txt", &[("two.txt", "host1 {\n\tdir1\n\tdir2 arg1\n}")]),
        (
            "glob*.txt",
            &[
                ("glob0.txt", "glob0.host0 {\n dir2 arg1\n}\n\nglob0.host1 {\n}\n"),
                ("glob1.txt", "glob1.host0 {\n dir1\n}\n"),
            ],
        ),
        ("none*", &[]),
        ("options", &[("options", "prop1 1\n\tprop2 2")]),
        ("circle", &[("circle", "import circle")]),
        ("ping", &[("ping", "import pong")]),
        ("pong", &[("pong", "import ping")]),
        ("argument", &[("argument", "x.example {\n # not an import\n basicauth / import password\n}")]),
        ("uses", &[("uses", "x.example {\n import common\n}")]),
        ("sub/a", &[("sub/a", "import b\ndir2")]),
        ("sub/b", &[("sub/b", "localhost\ndir1")]),
        ("/abs/c", &[("/abs/c", "c.example")]),
        ("open", &[("open", "x {")]),
    ] {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        sources.files.insert(target.into(), files);
    }
    sources
}

/// `key key: name arg arg {option arg; option}; name | key: …`
fn shown(text: &str) -> Result<String, String> {
    fn line(line: &Directive) -> String {
        let mut words = vec![line.name.text.clone()];
        words.extend(line.args.iter().map(|arg| arg.text.clone()));
        if let Some(block) = &line.block {
            words.push(format!("{{{}}}", lines(block)));
        }
        words.join(" ")
    }
    fn lines(block: &[Directive]) -> String {
        block.iter().map(line).collect::<Vec<_>>().join("; ")
    }
    let block = |block: &ServerBlock| {
        let keys: Vec<_> = block.keys.iter().map(|key| key.text.clone()).collect();
        format!("{}: {}", keys.join(" "), lines(&block.directives)).trim_end().to_owned()
    };
    let blocks = parse("Corefile", text, &sources()).map_err(|error| error.to_string())?;
    Ok(blocks.iter().map(block).collect::<Vec<_>>().join(" | "))
}

/// What CoreDNS takes, with the same meaning.
#[test]
fn taken() {
    for (text, meaning) in [
        // Words.
        ("", ""),
        ("\n", ""),
        (" \t\n", ""),
        ("localhost", "localhost:"),
        ("a {\n x \"quoted value\" b\n y\n}", "a: x quoted value b; y"),
        ("a {\n x \"quoted \\\"value\\\" inside\" B\n}", "a: x quoted \"value\" inside B"),
        (
            "a {\n x \"don't\\escape\" \"don't\\\\escape\" \"C:\\php\\php-cgi.exe\"\n}",
            "a: x don't\\escape don't\\\\escape C:\\php\\php-cgi.exe",
        ),
        // A backslash before a backslash takes nothing from the quote behind it.
        ("a {\n x \"end\\\\\" y\n}", "a: x end\\\\ y"),
        ("a {\n x \"line\nbreak\" {\n y\n }\n}", "a: x line\nbreak {y}"),
        ("a {\n x \"line\nbreak\" more\n}", "a: x line\nbreak more"),
        ("a {\n x \"a\"b mid\"dle\" \"\" end\n}", "a: x a b mid\"dle\"  end"),
        ("skip {\r\n those CR\r\n}\r\n", "skip: those CR"),
        ("\u{feff}:8080", ":8080:"),
        ("a {\n #comment\n directive\n # comment\n foobar # another comment\n}", "a: directive; foobar"),
        ("a {\n x y#comment\n z y# \n}", "a: x y; z y"),
        ("a {\n x \"#\" y\n}", "a: x # y"),
        ("a\u{a0}{\u{2003}\n\u{85}x\n}", "a: x"),
        // Keys.
        ("localhost\n dir1", "localhost: dir1"),
        ("localhost:1234\n dir1 foo bar", "localhost:1234: dir1 foo bar"),
        ("localhost {\n dir1\n}", "localhost: dir1"),
        ("localhost:1234 {\n dir1 foo bar\n dir2\n}", "localhost:1234: dir1 foo bar; dir2"),
        ("dns://a tls://b\n dir1 foo bar", "dns://a tls://b: dir1 foo bar"),
        ("dns://a, tls://b {\n dir1 foo bar\n}", "dns://a tls://b: dir1 foo bar"),
        (
            "host1:80, dns://host2.com\n dir1 foo bar\n dir2 baz",
            "host1:80 dns://host2.com: dir1 foo bar; dir2 baz",
        ),
        ("dns://h1,\n tls://h2,\n\n h3", "dns://h1 tls://h2 h3:"),
        ("a,\nb {\n x\n}", "a b: x"),
        ("a b\n{\n x\n}", "a b: x"),
        ("a {\n}\nb {\n}", "a: | b:"),
        ("a { }\nb { } c {\n x\n}", "a: | b: | c: x"),
        ("a, b {\n}\nc, d {\n}", "a b: | c d:"),
        ("\"a\" \"\" b {\n}", "a b:"),
        // Options.
        ("a\n dir1 foo {\n bar baz\n }\n dir2", "a: dir1 foo {bar baz}; dir2"),
        (
            "127.0.0.1\n dir1 {\n bar baz\n }\n dir2 {\n foo bar\n }",
            "127.0.0.1: dir1 {bar baz}; dir2 {foo bar}",
        ),
        ("a\n dir1 {\n }", "a: dir1 {}"),
        ("a {\n dir1 { }\n dir2 { opt 3 }\n dir3 { opt\n }\n}", "a: dir1 {}; dir2 {opt 3}; dir3 {opt}"),
        ("a { dir1\n dir2\n}", "a: dir1; dir2"),
        ("a {\n x {$BRACE}b \"{\" \"}\"\n}", "a: x {b { }"),
        // Imports.
        ("a\n dir1 arg1\n import one.txt", "a: dir1 arg1; dir2 arg1 arg2; dir3"),
        ("import two.txt", "host1: dir1; dir2 arg1"),
        ("import sub/a", "localhost: dir1; dir2"),
        ("import /abs/c", "c.example:"),
        ("import glob*.txt", "glob0.host0: dir2 arg1 | glob0.host1: | glob1.host0: dir1"),
        ("import none*\na", "a:"),
        ("a {\n import none*\n}", "a:"),
        (
            "a\n dir1\n proxy {\n import options\n transparent\n }",
            "a: dir1; proxy {prop1 1; prop2 2; transparent}",
        ),
        ("import argument", "x.example: basicauth / import password"),
        ("import open\n dir1\n}", "x: dir1"),
        ("a { import one.txt\n}", "a: dir2 arg1 arg2; dir3"),
        ("a {\n x { import one.txt\n }\n}", "a: x {import one.txt}"),
        // Snippets.
        ("(common) {\n gzip foo\n errors stderr\n}\nb {\n import common\n}", "b: gzip foo; errors stderr"),
        ("(common) {\n gzip foo\n}\nimport uses", "x.example: gzip foo"),
        ("(s) {\n x {\n y\n }\n}\na {\n import s\n import s\n}", "a: x {y}; x {y}"),
        ("(one) { opt 1 }\na {\n d {\n import one\n import one\n }\n}", "a: d {opt 1; opt 1}"),
        ("(in) {\n x\n}\n(out) {\n import in\n}\na {\n import out\n}", "a: x"),
        ("({$FOOBAR}) {\n x\n}\na {\n import {$FOOBAR}\n}", "a: x"),
        ("(b) {\n b.example {\n x\n }\n}\nimport b", "b.example: x"),
        // Environment.
        ("{$ADDRESS}", "servername.com:"),
        ("di{$PARTIAL_DIR}", "dir1:"),
        ("{$ADDRESS}:{$PORT}", "servername.com:8080:"),
        ("{%ADDRESS%}:{$PORT}", "servername.com:8080:"),
        ("{$ADDRESS}:{%PORT%}", "servername.com:8080:"),
        (":{%PORT%}\ndir1 {$FOOBAR}", ":8080: dir1 foobar"),
        (":{%PORT%}\ndir1 {%ADDRESS%}/{%FOOBAR%}", ":8080: dir1 servername.com/foobar"),
        (":1234\ndir1 {%ADDRESS}", ":1234: dir1 {%ADDRESS}"),
        (":{$PORT$}", "::"),
        (":1234\ndir1 \"Test {$FOOBAR} test\"", ":1234: dir1 Test foobar test"),
        (":1234\nanswer \"{{ .Name }} {$FOOBAR}\"", ":1234: answer {{ .Name }} foobar"),
        (":1\n x {$} {$EMPTY}{$UNSET}y {%}", ":1: x {$} y {%}"),
    ] {
        assert_eq!(shown(text).as_deref(), Ok(meaning), "{text}");
    }
}

/// What CoreDNS refuses, too.
#[test]
fn refused() {
    for (text, why) in [
        ("a, {\n}", "1:1: another zone is missing behind this comma"),
        ("a, \"\"", "1:1: another zone is missing behind this comma"),
        ("a, b,", "1:4: another zone is missing behind this comma"),
        ("a\n dir1 {\n foo", "2:7: this brace is never closed"),
        ("a\n dir1 {\n } }", "3:4: this closing brace needs a line of its own"),
        ("a { dir1 }", "1:10: this closing brace needs a line of its own"),
        ("a {\n dir1", "1:3: this brace is never closed: a '}' is missing at the file's end"),
        (
            "a {\n dir1\n {\n x\n }\n}",
            "3:2: an opening brace stands at the end of the line that it belongs to",
        ),
        (
            "a {\n import one.txt two.txt\n}",
            "2:17: import takes one name and no arguments: 'two.txt' is too many",
        ),
        ("a {\n import one.txt }", "2:17: import takes one name and no arguments: '}' is too many"),
        ("import", "1:1: import needs a snippet's name or a file"),
        ("import \"\"", "1:8: import needs a name that is not empty"),
        ("import {$UNSET}", "1:8: import needs a name that is not empty"),
        (
            "import not_found.txt",
            "1:8: there is no snippet (not_found.txt) before this line, and no file not_found.txt",
        ),
        ("import }{$\"", "1:8: there is no snippet (}{$\") before this line, and no file }{$\""),
        ("import /*/*.txt", "1:8: import's '/*/*.txt' may hold one '*' and one '?', and no [...]"),
        ("import /???/?*?o", "1:8: import's '/???/?*?o' may hold one '*' and one '?', and no [...]"),
        ("import /??", "1:8: import's '/??' may hold one '*' and one '?', and no [...]"),
        ("import /[a-z]", "1:8: import's '/[a-z]' may hold one '*' and one '?', and no [...]"),
        ("import {$}", "1:8: there is no snippet ({$}) before this line, and no file {$}"),
        ("(loop) {\n import loop\n}\nimport loop", "2:9: (loop) imports itself"),
        ("(a) {\n import b\n}\n(b) {\n import a\n}\nimport a", "5:9: (a) imports itself"),
        ("import circle", "circle:1:8: circle imports itself"),
        ("import ping", "pong:1:8: ping imports itself"),
        ("(s) {\n x", "1:5: snippet (s) has no closing brace"),
        ("(s) {\n}\n(s) {\n}", "3:5: there are two snippets (s)"),
        // It has to be there before it is used.
        (
            "a {\n import comon\n}\n(common) {\n}",
            "2:9: there is no snippet (comon) before this line, and no file comon",
        ),
        (
            "(common) {\n}\na {\n import comon\n}",
            "4:9: there is no snippet (comon) before this line, and no file comon; did you mean (common)?",
        ),
    ] {
        let error = shown(text).unwrap_err();
        assert_eq!(error.strip_prefix("Corefile:").unwrap_or(&error), why, "{text}");
    }
}

/// What CoreDNS takes for something that nobody means.
#[test]
fn refused_here_alone() {
    for (text, why) in [
        ("{\n x\n}", "1:1: a server block needs a zone before its brace, as in '. {'"),
        ("\"\"", "1:1: a server block needs a zone, and empty quotes are none"),
        ("\"\"\na {\n}", "1:1: a server block needs a zone, and empty quotes are none"),
        ("a {\n x\n}\n}", "4:1: this brace closes nothing"),
        ("a\nx\n}", "3:1: this brace closes nothing"),
        ("a {\n x \"y\n}", "2:4: this quote never ends"),
        ("a {\n x \"y\\", "2:4: this quote never ends"),
        ("a,b {\n}", "1:1: a comma stands right behind a zone, with a space before the next"),
        ("a , b {\n}", "1:3: a comma stands right behind a zone, with a space before the next"),
        ("a,, b {\n}", "1:1: a comma stands right behind a zone, with a space before the next"),
        ("a{\n}", "1:1: a space is missing before the brace"),
        ("(s)\nx", "1:1: a snippet is '(s) {', with its lines up to a '}'"),
        ("(s) (t) {\n}", "1:1: a snippet is '(s) {', with its lines up to a '}'"),
        ("a {\n x {$PORT:53}\n}", "2:4: CoreDNS knows no default for a variable: write {$PORT}"),
        ("a {\n x {\n y\n } z\n}", "4:4: 'z' needs a line of its own, behind the brace's"),
        ("a {\n x {\n y {\n }\n }\n}", "3:4: an option has no block of its own"),
        (
            "a {\n x 1.1.1.1#one 8.8.8.8\n}",
            "2:11: a '#' right behind '1.1.1.1' is read one way by CoreDNS and another by people; put a space \
             before the comment, or the word into quotes",
        ),
        (
            "a\nx\nb.example {\n y\n}",
            "3:1: 'b.example' is no plugin; the server block 'a' has no braces and ends with the file: put its \
             lines into braces to begin another",
        ),
    ] {
        let error = shown(text).unwrap_err();
        assert_eq!(error.strip_prefix("Corefile:").unwrap_or(&error), why, "{text}");
    }
}

/// Those that Kubernetes distributions ship.
#[test]
fn real_ones() {
    let mut sources = Sources::default();
    for (target, files) in [
        ("/etc/coredns/custom/*.override", vec![]),
        (
            "/etc/coredns/custom/*.server",
            vec![(
                "/etc/coredns/custom/a.server".to_owned(),
                "a.example:53 {\r\n\tforward . 10.0.0.9\r\n}".to_owned(),
            )],
        ),
    ] {
        sources.files.insert(target.into(), files);
    }
    let k3s = ".:53 {\n    errors\n    health\n    ready\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n      \
               pods insecure\n      fallthrough in-addr.arpa ip6.arpa\n    }\n    hosts /etc/coredns/NodeHosts {\n      \
               ttl 60\n      reload 15s\n      fallthrough\n    }\n    prometheus :9153\n    cache 30\n    loop\n    \
               reload\n    loadbalance\n    import /etc/coredns/custom/*.override\n    forward . \
               /etc/resolv.conf\n}\nimport /etc/coredns/custom/*.server\n";
    let blocks = parse("/etc/coredns/Corefile", k3s, &sources).unwrap();
    let shape: Vec<_> =
        blocks.iter().map(|block| (block.keys[0].text.as_str(), block.directives.len())).collect();
    assert_eq!(shape, [(".:53", 11), ("a.example:53", 1)]);
    assert_eq!(blocks[0].directives[4].block.as_ref().map(Vec::len), Some(3));
    let node_local = "cluster.local:53 {\n    errors\n    cache {\n            success 9984 30\n            denial 9984 \
                      5\n    }\n    reload\n    loop\n    bind 169.254.20.10 10.96.0.10\n    forward . 10.96.0.11 \
                      {\n            force_tcp\n    }\n    prometheus :9253\n    health 169.254.20.10:8080\n    \
                      }\nin-addr.arpa:53 {\n    errors\n    cache 30\n    }\n.:53 {\n    errors\n    }\n";
    let blocks = parse("Corefile", node_local, &sources).unwrap();
    let shape: Vec<_> =
        blocks.iter().map(|block| (block.keys[0].text.as_str(), block.directives.len())).collect();
    assert_eq!(shape, [("cluster.local:53", 8), ("in-addr.arpa:53", 2), (".:53", 1)]);
}

#[test]
fn positions() {
    let text = "a {\n\tx é \"b\nc\" d # e\n  y {\n    z\n  }\n}\n";
    let blocks = parse("/etc/Corefile", text, &Sources::default()).unwrap();
    let [x, y] = blocks[0].directives.as_slice() else { panic!("{blocks:?}") };
    let at: Vec<_> = x.args.iter().map(|arg| arg.at.to_string()).collect();
    assert_eq!(at, ["/etc/Corefile:2:4", "/etc/Corefile:2:6", "/etc/Corefile:3:4"]);
    assert_eq!((x.at().column, x.end.line, x.end.column), (2, 3, 4));
    assert_eq!((y.at().line, y.end.to_string().as_str()), (4, "/etc/Corefile:6:3"));
    let imported = parse("Corefile", "import glob*.txt", &sources()).unwrap();
    assert_eq!(imported[2].directives[0].at().to_string(), "glob1.txt:2:2");
}

#[test]
fn what_may_be_imported() {
    let text =
        "import a/*.conf\n. {\n import {$FOOBAR}\n x import y\n z {\n  import /etc/o\n }\n}\n\"import\" q";
    let targets = import_targets("/etc/dns/Corefile", text, &sources()).unwrap();
    assert_eq!(targets, ["/etc/dns/a/*.conf", "/etc/dns/foobar", "/etc/o"]);
}

#[test]
fn what_grows_without_end_is_refused() {
    let mut text = "(s0) {\n x y z\n}\n".to_owned();
    for n in 1..40 {
        text += &format!("(s{n}) {{\n import s{0}\n import s{0}\n}}\n", n - 1);
    }
    let error = parse("Corefile", &(text + "a {\n import s39\n}"), &Sources::default()).unwrap_err();
    assert_eq!(error.message, "there are too many imports");
    let mut sources = Sources::default();
    for n in 0..200 {
        sources.files.insert(format!("f{n}"), vec![(format!("f{n}"), format!("import f{}", n + 1))]);
    }
    let error = parse("Corefile", "import f0", &sources).unwrap_err();
    assert_eq!(error.message, "imports are nested too deep, or go in circles");
}

/// A word as a Corefile has to write it.
fn written(word: &str) -> String {
    let plain = !word.is_empty()
        && !word.contains(|c: char| c.is_whitespace() || c == '#' || c == '\\')
        && !word.starts_with('"')
        && !["{", "}", "import"].contains(&word);
    if plain { word.to_owned() } else { format!("\"{}\"", word.replace('"', "\\\"")) }
}

/// A name, its arguments and its options' words.
type Line = (String, Vec<String>, Option<Vec<Vec<String>>>);

fn lines(lines: &[Line]) -> String {
    let mut out = String::new();
    for (name, args, options) in lines {
        let words: Vec<_> = std::iter::once(name).chain(args).map(|word| written(word)).collect();
        out += &format!("  {}", words.join(" "));
        if let Some(options) = options {
            out += " {\n";
            for option in options {
                let words: Vec<_> = option.iter().map(|word| written(word)).collect();
                out += &format!("    {} # comment\n", words.join(" "));
            }
            out += "  }";
        }
        out.push('\n');
    }
    out
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[a-c{}()$%\"\\\\#,. \r\n\t\u{a0}é]{0,200}") {
        let _ = parse("Corefile", &text, &sources());
        let _ = import_targets("Corefile", &text, &sources());
    }

    #[test]
    fn any_words_are_read_or_refused(words in prop::collection::vec(prop::sample::select(&[
        ".", ":53", "{", "}", "\n", "\n", "\n", "(a)", "(b)", "import", "\nimport", "a", "b", "glob*.txt", "circle",
        "open", "\"", "{$PORT}", "{%PORT%}", "{$", "#", "x,", "x",
    ][..]), 0..60)) {
        let _ = parse("Corefile", &words.join(" "), &sources());
    }

    #[test]
    fn what_is_written_is_read(
        keys in prop::collection::vec("[a-z]{1,3}", 1..4),
        directives in prop::collection::vec((
            "[a-z]{1,8}",
            // Not before the closing quote, where a backslash would be its escape; no variables.
            prop::collection::vec("[ -#%-~\nµ]{0,8}[a-z]|", 0..4),
            prop::option::of(prop::collection::vec(prop::collection::vec("[a-z0-9.\"# ]{0,5}", 1..4), 0..4)),
        ), 0..5),
    ) {
        // `\"` in a word can't be written: the backslash would have to be escaped.
        let writable = |word: &String| !word.contains("\\\"") && !word.contains("{%") && word != "import";
        prop_assume!(directives.iter().all(|(name, args, _)| writable(name) && args.iter().all(writable)));
        let text = format!("{} {{\n{}}}\n", keys.join(", "), lines(&directives));
        let blocks = parse("Corefile", &text, &Sources::default()).unwrap();
        prop_assert_eq!(blocks.len(), 1);
        let read: Vec<_> = blocks[0].keys.iter().map(|key| key.text.clone()).collect();
        prop_assert_eq!(read, keys);
        let words = |line: &Directive| {
            std::iter::once(&line.name).chain(&line.args).map(|token| token.text.clone()).collect::<Vec<_>>()
        };
        let read: Vec<_> = blocks[0].directives.iter().map(|line| {
            let mut words = words(line);
            let options = line.block.as_ref().map(|block| block.iter().map(|option| {
                std::iter::once(&option.name).chain(&option.args).map(|token| token.text.clone()).collect::<Vec<_>>()
            }).collect::<Vec<_>>());
            (words.remove(0), words, options)
        }).collect();
        prop_assert_eq!(read, directives);
    }
}
