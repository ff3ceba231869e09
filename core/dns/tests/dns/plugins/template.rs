//! `template`.

use proptest::prelude::*;
use sealane_dns::expression::Value;
use sealane_dns::gotemplate::{Data, Known, Template};
use sealane_dns::message::Edns;

use super::upstream::{exchange, refused, zone};
use crate::cluster::{query, server, show};

const UPSTREAM: &str = "
    google.com. 30 IN A 192.0.2.4
    elsewhere. 30 IN A 192.0.2.5
";

/// Lines before `forward`, and what comes of questions.
fn check(lines: &str, cases: &[(&str, &str)]) {
    let mut server = server(&format!(".:53 {{\n errors\n {lines}\n forward . 192.0.2.53\n}}"));
    for (question, answer) in cases {
        let outcome = exchange(&mut server, "10.0.0.1:4242", &query(question), zone(UPSTREAM));
        let expected: Vec<&str> = answer.lines().map(str::trim).collect();
        let shown = show(outcome.reply());
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected, "{lines}\n{question}\n{:?}", outcome.logs);
    }
}

#[test]
fn documented_examples() {
    check("template ANY ANY {\n rcode NXDOMAIN\n }", &[("a.b TXT", "NXDOMAIN aa,rd")]);
    check(
        "template ANY ANY invalid {\n rcode NXDOMAIN\n \
         authority \"invalid. 60 {{ .Class }} SOA ns.invalid. hostmaster.invalid. (1 60 60 60 60)\"\n \
         ederror 21 \"Blocked according to RFC2606\"\n }",
        &[
            (
                "a.Invalid A",
                "NXDOMAIN aa,rd\nN Invalid. 60 IN SOA ns.Invalid. hostmaster.Invalid. 1 60 60 60 60",
            ),
            ("elsewhere A", "NOERROR rd,ra\nelsewhere. 30 IN A 192.0.2.5"),
        ],
    );
    let dc = "N example.com.dc1.example.com. 60 IN SOA ns.example.com. hostmaster.example.com. 1 60 60 60 60";
    check(
        "template IN ANY example.com.dc1.example.com {\n rcode NXDOMAIN\n \
         authority \"{{ .Zone }} 60 IN SOA ns.example.com hostmaster.example.com (1 60 60 60 60)\"\n }",
        &[("www.example.com.dc1.example.com A", &format!("NXDOMAIN aa,rd\n{dc}"))],
    );
    check(
        "template IN ANY example.com {\n match \"example\\.com\\.(dc1\\.example\\.com\\.)$\"\n rcode NXDOMAIN\n \
         authority \"{{ index .Match 1 }} 60 IN SOA ns.{{ index .Match 1 }} hostmaster.{{ index .Match 1 }} (1 60 60 60 60)\"\n \
         fallthrough\n }",
        &[
            (
                "www.example.com.dc1.example.com A",
                "NXDOMAIN aa,rd\nN dc1.example.com. 60 IN SOA ns.dc1.example.com. hostmaster.dc1.example.com. 1 60 60 60 60",
            ),
            ("www.example.com A", "NXDOMAIN rd,ra"),
        ],
    );
    check(
        "template IN A example {\n match (^|[.])ip-(?P<a>[0-9]*)-(?P<b>[0-9]*)-(?P<c>[0-9]*)-(?P<d>[0-9]*)[.]example[.]$\n \
         answer \"{{ .Name }} 60 IN A {{ .Group.a }}.{{ .Group.b }}.{{ .Group.c }}.{{ .Group.d }}\"\n fallthrough\n }\n \
         template IN PTR in-addr.arpa {\n match ^(?P<d>[0-9]*)[.](?P<c>[0-9]*)[.](?P<b>[0-9]*)[.](?P<a>[0-9]*)[.]in-addr[.]arpa[.]$\n \
         answer \"{{ .Name }} 60 IN PTR ip-{{ .Group.a }}-{{ .Group.b }}-{{ .Group.c }}-{{ .Group.d }}.example.\"\n }",
        &[
            ("a.ip-10-1-2-3.example A", "NOERROR aa,rd\na.ip-10-1-2-3.example. 60 IN A 10.1.2.3"),
            ("ip-10-1-2.example A", "NXDOMAIN rd,ra"),
            // No address: no record.
            ("ip-10-1-2-300.example A", "SERVFAIL rd"),
            (
                "3.2.1.10.in-addr.arpa PTR",
                "NOERROR aa,rd\n3.2.1.10.in-addr.arpa. 60 IN PTR ip-10-1-2-3.example.",
            ),
            // No `fallthrough` there.
            ("2.1.10.in-addr.arpa PTR", "SERVFAIL rd"),
            ("3.2.1.10.in-addr.arpa TXT", "NXDOMAIN rd,ra"),
        ],
    );
    check(
        "template IN A example {\n match \"^ip0a(?P<b>[a-f0-9]{2})(?P<c>[a-f0-9]{2})(?P<d>[a-f0-9]{2})[.]example[.]$\"\n \
         answer \"{{ .Name }} 60 IN A 10.{{ parseInt .Group.b 16 8 }}.{{ parseInt .Group.c 16 8 }}.{{ parseInt .Group.d 16 8 }}\"\n \
         fallthrough\n }",
        &[("ip0a7b7bFF.example A", "NOERROR aa,rd\nip0a7b7bFF.example. 60 IN A 10.123.123.255")],
    );
    check(
        "template IN A example {\n match \"^ip-(?P<a>10)-(?P<b>[0-9]*)-(?P<c>[0-9]*)-(?P<d>[0-9]*)[.]dc[.]example[.]$\"\n \
         match \"^(?P<a>[0-9]*)[.](?P<b>[0-9]*)[.](?P<c>[0-9]*)[.](?P<d>[0-9]*)[.]ext[.]example[.]$\"\n \
         answer \"{{ .Name }} 60 IN A {{ .Group.a}}.{{ .Group.b }}.{{ .Group.c }}.{{ .Group.d }}\"\n fallthrough\n }",
        &[
            ("ip-10-1-2-3.dc.example A", "NOERROR aa,rd\nip-10-1-2-3.dc.example. 60 IN A 10.1.2.3"),
            ("8.1.2.3.ext.example A", "NOERROR aa,rd\n8.1.2.3.ext.example. 60 IN A 8.1.2.3"),
        ],
    );
    check(
        "template IN MX example {\n match ^ip-10-(?P<b>[0-9]*)-(?P<c>[0-9]*)-(?P<d>[0-9]*)[.]example[.]$\n \
         answer \"{{ .Name }} 60 IN MX 10 {{ .Name }}\"\n \
         additional \"{{ .Name }} 60 IN A 10.{{ .Group.b }}.{{ .Group.c }}.{{ .Group.d }}\"\n \
         authority  \"example. 60 IN NS ns0.example.\"\n authority  \"example. 60 IN NS ns1.example.\"\n \
         additional \"ns0.example. 60 IN A 203.0.113.8\"\n fallthrough\n }",
        &[(
            "ip-10-1-2-3.example MX",
            "NOERROR aa,rd\nip-10-1-2-3.example. 60 IN MX 10 ip-10-1-2-3.example.\nN example. 60 IN NS ns0.example.\n\
             N example. 60 IN NS ns1.example.\n+ ip-10-1-2-3.example. 60 IN A 10.1.2.3\n+ ns0.example. 60 IN A 203.0.113.8",
        )],
    );
    // An alias, with what the rest of the server knows of its target.
    check(
        "template IN ANY foogle.com {\n match \"^foogle\\.com\\.$\"\n answer \"foogle.com 60 IN CNAME google.com\"\n }",
        &[
            (
                "foogle.com A",
                "NOERROR aa,rd\nfoogle.com. 60 IN CNAME google.com.\ngoogle.com. 30 IN A 192.0.2.4",
            ),
            ("foogle.com TXT", "NOERROR aa,rd\nfoogle.com. 60 IN CNAME google.com."),
        ],
    );
}

#[test]
fn variables_and_conditions() {
    let id = "a".repeat(26);
    check(
        "template IN A example.com {\n match ^(?P<ip>[0-9]{1,3}(-[0-9]{1,3}){3})[.](?P<id>[a-z2-7]{26})[.]example[.]com[.]$\n \
         var ip replace(group('ip'), '-', '.')\n \
         expr \"any(['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '169.254.0.0/16'], incidr(ip, #))\"\n \
         answer \"{{ .Name }} 60 IN A {{ .Var.ip }}\"\n fallthrough\n }",
        &[
            (
                &format!("10-1-2-3.{id}.example.com A"),
                &format!("NOERROR aa,rd\n10-1-2-3.{id}.example.com. 60 IN A 10.1.2.3"),
            ),
            // Not in those networks: for the next one. No address at all: a failure.
            (&format!("11-1-2-3.{id}.example.com A"), "NXDOMAIN rd,ra"),
            (&format!("300-1-2-3.{id}.example.com A"), "SERVFAIL rd"),
        ],
    );
    check(
        "template IN TXT example {\n match ^(.)(.*)[.]example[.]$\n var n len(group(2))\n var twice n * 2\n \
         expr n > 1\n expr name() startsWith group(1)\n answer \"{{ .Name }} TXT {{ .Var.n }} {{ .Var.twice }} {{ .Group.nobody }}x\"\n }",
        &[
            ("abc.example TXT", "NOERROR aa,rd\nabc.example. 3600 IN TXT \"2\" \"4\" \"x\""),
            ("ab.example TXT", "SERVFAIL rd"),
        ],
    );
}

/// Of several lines the first that matches answers; zones, classes and types are looked at before expressions.
#[test]
fn several_lines() {
    check(
        "template IN A a.example {\n match ^x\n answer \"{{ .Name }} 1 IN A 192.0.2.1\"\n fallthrough b.a.example\n }\n \
         template IN A example b.a.example {\n answer \"{{ .Name }} 2 IN TXT {{ .Zone }} {{ .Type }} {{ .Remote }}\"\n }",
        &[
            ("xyz.a.example A", "NOERROR aa,rd\nxyz.a.example. 1 IN A 192.0.2.1"),
            ("y.a.example A", "SERVFAIL rd"),
            ("y.b.a.example A", "NOERROR aa,rd\ny.b.a.example. 2 IN TXT \"b.a.example.\" \"A\" \"10.0.0.1\""),
            ("y.c.example A", "NOERROR aa,rd\ny.c.example. 2 IN TXT \"example.\" \"A\" \"10.0.0.1\""),
            ("y.c.example ANY", "NOERROR aa,rd\ny.c.example. 2 IN TXT \"example.\" \"A\" \"10.0.0.1\""),
            ("y.c.example AAAA", "NXDOMAIN rd,ra"),
        ],
    );
    check(
        "template IN A {\n rcode REFUSED\n }\n template IN TXT {\n rcode SERVFAIL\n answer \"x\"\n }",
        &[("a A", "REFUSED aa,rd"), ("a TXT", "SERVFAIL rd")],
    );
}

#[test]
fn extended_errors() {
    let mut server = server(".:53 {\n template ANY ANY {\n rcode NXDOMAIN\n ederror 21 \"Blocked\"\n }\n}");
    let mut query = query("a A");
    query.edns = Some(Edns { udp_size: 1232, ..Edns::default() });
    let outcome = exchange(&mut server, "10.0.0.1:9", &query, |query| query.reply(0));
    let edns = outcome.reply().edns.clone().unwrap();
    assert_eq!((edns.udp_size, edns.options), (1232, vec![(15, Box::from(*b"\0\x15Blocked"))]));
}

#[test]
fn other_classes() {
    let mut server = server(
        ".:53 {\n template ANY ANY invalid {\n rcode NXDOMAIN\n authority \"invalid. 60 {{ .Class }} TXT x\"\n }\n}",
    );
    let mut query = query("a.invalid TXT");
    query.questions[0].class = 3;
    let outcome = exchange(&mut server, "10.0.0.1:9", &query, |query| query.reply(0));
    assert_eq!(outcome.reply().authority[0].class, 3);
}

#[test]
fn metadata_and_metrics() {
    let mut server = server(
        ".:53 {\n metadata\n view inner {\n expr true\n }\n errors\n template IN TXT ok {\n answer \"{{ .Name }} TXT \\\"{{ .Meta \\\"view/name\\\" }}\\\"\"\n }\n \
         template IN TXT bad {\n answer \"{{ index .Match 3 }} TXT x\"\n }\n template IN TXT worse {\n answer \"{{ .Name }} TXT\"\n }\n}",
    );
    let mut logs = Vec::new();
    for (question, answer) in [
        ("a.ok TXT", "NOERROR aa,rd\na.ok. 3600 IN TXT \"inner\""),
        ("bad TXT", "SERVFAIL rd"),
        ("worse TXT", "SERVFAIL rd"),
    ] {
        let outcome = exchange(&mut server, "10.0.0.1:9", &query(question), |query| query.reply(0));
        assert_eq!(show(outcome.reply()), answer, "{question} {:?}", outcome.logs);
        logs.extend(outcome.logs);
    }
    assert!(logs[0].ends_with("bad. TXT: template: answer: index out of range: 3"), "{logs:?}");
    assert!(logs[1].contains("worse. TXT: template: answer: 'worse. TXT' is no record: "), "{logs:?}");
    let mut text = String::new();
    server.render_metrics(&mut text);
    for line in [
        "coredns_template_matches_total{server=\"dns://:53\",zone=\"ok.\",view=\"inner\",class=\"IN\",type=\"TXT\"} 1",
        "coredns_template_template_failures_total{server=\"dns://:53\",zone=\"bad.\",view=\"inner\",class=\"IN\",type=\"TXT\",section=\"answer\",template=\"{{ index .Match 3 }} TXT x\"} 1",
        "coredns_template_rr_failures_total{server=\"dns://:53\",zone=\"worse.\",view=\"inner\",class=\"IN\",type=\"TXT\",section=\"answer\",template=\"{{ .Name }} TXT\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[test]
fn refused_lines() {
    for (lines, why) in [
        ("template", "2:1: 'template' needs a class and a type"),
        ("template IN", "2:1: 'template' needs a class and a type"),
        ("template X A", "2:10: 'X' is no class"),
        ("template IN X", "2:13: 'X' is no type"),
        ("template IN A a..b", "2:15: 'a..b' is no zone: empty label"),
        ("template IN A {\n match\n}", "3:2: 'match' needs a regular expression"),
        ("template IN A {\n match a b(\n}", "3:10: 'b(' is no regular expression: unclosed group"),
        ("template IN A {\n answer\n}", "3:2: 'answer' needs a record"),
        ("template IN A {\n answer \"a {{ .Nam }}\"\n}", "3:15: template: there is no .Nam"),
        ("template IN A {\n answer \"a {{ .Name\"\n}", "3:20: template: '}}' is missing here"),
        ("template IN A {\n answer \"a {{ .Var.x }}\"\n}", "3:15: template: there is no .Var.x"),
        (
            "template IN A {\n answer \"a {{ html .Name }}\"\n}",
            "3:15: template: 'html' is no function that there is",
        ),
        (
            "template IN A {\n answer \"a\nb {{ define }}\"\n}",
            "4:6: template: 'define' is not there: a record needs no named templates",
        ),
        ("template IN A {\n var x\n}", "3:2: 'var' needs a name and an expression"),
        ("template IN A {\n var len 1\n}", "3:6: 'len' cannot name a variable"),
        ("template IN A {\n var group 1\n}", "3:6: 'group' cannot name a variable"),
        ("template IN A {\n var 1x 1\n}", "3:6: '1x' cannot name a variable"),
        ("template IN A {\n var x y\n}", "3:8: expression: 'y' is no variable"),
        ("template IN A {\n expr\n}", "3:2: 'expr' needs an expression"),
        ("template IN A {\n rcode\n}", "3:2: 'rcode' needs a response code"),
        ("template IN A {\n rcode NOPE\n}", "3:8: 'NOPE' is no response code"),
        ("template IN A {\n ederror x\n}", "3:10: 'x' is no extended error code"),
        (
            "template IN A {\n ederror 1 a b\n}",
            "3:2: 'ederror' needs a code and, in quotes where it has blanks, a reason",
        ),
        (
            "template IN A {\n upstream\n}",
            "3:2: option 'upstream' of 'template' is unknown, or not Sealane's yet",
        ),
    ] {
        assert_eq!(refused(lines), format!("Corefile:{why}"), "{lines}");
    }
}

struct Words;

impl Data for Words {
    fn field(&self, name: &str) -> Option<Value> {
        let list = || Value::List(["a", "b", "c"].into_iter().map(Value::from).collect());
        Some(match name {
            "List" => list(),
            "Empty" => Value::List(vec![]),
            "Map" => Value::Map([("k".to_owned(), "v".into()), ("l".to_owned(), "w".into())].into()),
            "Text" => "text".into(),
            "N" => Value::Int(7),
            _ => return None,
        })
    }

    fn method(&self, name: &str, arg: &str) -> Option<Value> {
        (name == "Twice").then(|| format!("{arg}{arg}").into())
    }
}

fn filled(text: &str) -> Result<String, String> {
    let fields: [(&str, Option<&[&str]>); 5] =
        [("List", Some(&[])), ("Empty", Some(&[])), ("Map", None), ("Text", Some(&[])), ("N", Some(&[]))];
    let known = Known { fields: &fields, methods: &["Twice"] };
    let template = Template::read(text, known).map_err(|error| format!("{}: {error}", error.at))?;
    template.fill(&Words)
}

/// What Go's `text/template` makes of these.
#[test]
fn go_templates() {
    for (text, out) in [
        ("a {{ .Text }} b", "a text b"),
        ("a {{- .Text -}} b", "atextb"),
        ("a {{- /* nothing */ -}} b", "ab"),
        (
            "{{ \"q\\t\\x41\" }}{{ `r\\n` }}{{ 'A' }}{{ 0x1f }}{{ -2 }}{{ 1.5 }}{{ true }}",
            "q\tAr\\n6531-21.5true",
        ),
        ("{{ .Map.k }}{{ .Map.none }}{{ index .Map \"l\" }}{{ index .List 1 }}", "vwb"),
        ("{{ .List }} {{ .Map }} {{ len .List }} {{ len .Text }}", "[a b c] map[k:v l:w] 3 4"),
        ("{{ if .Empty }}x{{ else if eq .N 7 }}y{{ else }}z{{ end }}", "y"),
        ("{{ if not .Empty }}x{{ end }}{{ if and .Text .N }}y{{ end }}{{ or .Empty .Text }}", "xytext"),
        ("{{ range .List }}<{{ . }}>{{ end }}{{ range .Empty }}x{{ else }}none{{ end }}", "<a><b><c>none"),
        (
            "{{ range $i, $e := .List }}{{ if eq $i 1 }}{{ continue }}{{ end }}{{ $i }}{{ $e }}{{ end }}",
            "0a2c",
        ),
        ("{{ range .List }}{{ if eq . \"b\" }}{{ break }}{{ end }}{{ . }}{{ $.Text }}{{ end }}", "atext"),
        ("{{ range $k, $v := .Map }}{{ $k }}={{ $v }};{{ end }}{{ range 3 }}{{ . }}{{ end }}", "k=v;l=w;012"),
        (
            "{{ with .Text }}{{ . }}{{ end }}{{ with .Empty }}x{{ else with .N }}{{ . }}{{ else }}y{{ end }}",
            "text7",
        ),
        ("{{ $x := .N }}{{ $x }}{{ $x = 8 }}{{ if true }}{{ $x := 9 }}{{ $x }}{{ end }}{{ $x }}", "798"),
        ("{{ .Text | printf \"%s-%d\" \"a\" | len }}", "Err: printf: %d does not go with string"),
        (
            "{{ .N | printf \"%s-%03d|%-4d|%x|%q|%5.2f|%v%%\" \"a\" 5 6 255 \"q\" 1.5 }}",
            "a-005|6   |ff|\"q\"| 1.50|7%",
        ),
        ("{{ .Twice \"ab\" }}{{ .Text | .Twice }}{{ (.Twice .Text) | len }}", "ababtexttext8"),
        (
            "{{ eq .N 1 7 }}{{ ne .Text \"x\" }}{{ lt 1 2 }}{{ le 2 2 }}{{ gt 1 2 }}{{ ge 1 2 }}",
            "truetruetruetruefalsefalse",
        ),
        ("{{ slice .Text 1 3 }}{{ slice .List 1 }}{{ print 1 2 \"a\" 3 }}", "ex[b c]1 2a3"),
        ("{{ parseInt \"ff\" 16 8 }} {{ parseInt \"0x10\" 0 64 }}", "255 16"),
        ("{{ parseInt \"100\" 16 8 }}", "Err: parseInt: parsing \"100\": value out of range"),
        ("{{ parseInt \"-1\" 10 8 }}", "Err: parseInt: parsing \"-1\": invalid syntax"),
        ("{{ index .List 3 }}", "Err: index out of range: 3"),
        ("{{ eq .N \"7\" }}", "Err: incompatible types for comparison"),
        ("{{ . }}", "Err: '.' as a whole has no value"),
        // Not even read.
        ("{{ .Nope }}", "Err: 3: there is no .Nope"),
        ("{{ range .List }}{{ $.Nope }}{{ end }}", "Err: 20: there is no .Nope"),
        ("{{ $y }}", "Err: 3: $y is no variable"),
        ("{{ if .N }}{{ $z := 1 }}{{ end }}{{ $z }}", "Err: 36: $z is no variable"),
        ("{{ if .N }}", "Err: 3: its 'end' is missing"),
        ("{{ end }}", "Err: 9: there is nothing here that it could end"),
        ("{{ break }}", "Err: 3: 'break' stands in no 'range'"),
        ("{{ len }}", "Err: 3: 'len' does not take 0 arguments"),
        ("{{ .Text 1 }}", "Err: 3: this is no function, and takes no arguments"),
        ("{{ \"a }}", "Err: 3: this quote never ends"),
        ("{{ }}", "Err: 3: a value is missing here"),
        ("{{ template \"x\" }}", "Err: 3: 'template' is not there: a record needs no named templates"),
    ] {
        let found = filled(text).unwrap_or_else(|why| format!("Err: {why}"));
        assert_eq!(found, out, "{text}");
    }
}

proptest! {
    /// Whatever is read, nothing panics.
    #[test]
    fn any_template(text in "(\\{\\{|\\}\\}|-| |if |end|else|range |with |\\$x|:=|=|\\.List|\\.|\\||\\(|\\)|\"a\"|'|1|len |printf |é){0,16}") {
        let _ = filled(&text);
    }
}
