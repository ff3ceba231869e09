//! `rewrite`.

use sealane_dns::message::{Edns, rcode};

use super::upstream::{dig_with, exchange, refused, zone};
use crate::cluster::{query, server, show};

const ZONE: &str = "
    ftp.service.us-west-1.consul. 0 IN A 10.10.10.10
    30.30.30.10.in-addr.arpa. 60 IN PTR ftp-us-west-1.service.consul.
    my-app.com. 200 IN CNAME my-app.example.
    my-app.example. 200 IN CNAME my-app.com.cdn.example.net.
    my-app.com.cdn.example.net. 300 IN A 20.2.0.1
    my-app.com.other.cdn.com. 100 IN A 30.3.1.2
    www.google.com. 30 IN CNAME lb.google.com.
    lb.google.com. 30 IN A 192.0.2.4
    google.com. 30 IN MX 10 mail.google.com.
    blue. 30 IN SRV 0 0 80 a.blue.
    naptr.blue. 30 IN NAPTR 1 2 S http !^.*$!x! a.blue.
    dname.blue. 30 IN DNAME below.blue.
    blue. 30 IN SOA ns.blue. mail.blue. 1 2 3 4 5
    coredns.rocks. 100 IN A 192.0.2.1
    a.coredns.rocks. 100 IN A 192.0.2.1
";

/// Lines, question, what the upstream is asked, answer.
const CASES: &[(&str, &str, &str, &str)] = &[
    (
        "rewrite name regex (.*)-(us-west-1)\\.example\\.org {1}.service.{2}.consul",
        "ftp-us-west-1.example.org A",
        "ftp.service.us-west-1.consul. A",
        "ftp.service.us-west-1.consul. 0 IN A 10.10.10.10",
    ),
    (
        "rewrite stop {\n name regex (.*)-(us-west-1)\\.coredns\\.rocks {1}.service.{2}.consul\n \
             answer name (.*)\\.service\\.(us-west-1)\\.consul {1}-{2}.coredns.rocks\n}",
        "ftp-us-west-1.coredns.rocks A",
        "ftp.service.us-west-1.consul. A",
        "ftp-us-west-1.coredns.rocks. 0 IN A 10.10.10.10",
    ),
    (
        "rewrite name substring service.us-west-1.example.org service.us-west-1.consul",
        "ftp.service.us-west-1.example.org A",
        "ftp.service.us-west-1.consul. A",
        "ftp.service.us-west-1.consul. 0 IN A 10.10.10.10",
    ),
    (
        "rewrite name suffix .schmoogle.com. .google.com.",
        "www.schmoogle.com A",
        "www.google.com. A",
        "www.google.com. 30 IN CNAME lb.google.com.\nlb.google.com. 30 IN A 192.0.2.4",
    ),
    (
        "rewrite name suffix .schmoogle.com .google.com answer auto",
        "www.schmoogle.com A",
        "www.google.com. A",
        "www.schmoogle.com. 30 IN CNAME lb.schmoogle.com.\nlb.schmoogle.com. 30 IN A 192.0.2.4",
    ),
    (
        "rewrite name schmoogle.com google.com",
        "schmoogle.com MX",
        "google.com. MX",
        "schmoogle.com. 30 IN MX 10 mail.schmoogle.com.",
    ),
    ("rewrite name exact RED BLUE", "red SRV", "blue. SRV", "red. 30 IN SRV 0 0 80 a.red."),
    ("rewrite name RED BLUE", "red SOA", "blue. SOA", "red. 30 IN SOA ns.red. mail.blue. 1 2 3 4 5"),
    (
        "rewrite name regex (.*)\\.red {1}.blue answer value (.*)\\.blue {1}.red answer name (.*)\\.blue {1}.red",
        "naptr.red NAPTR",
        "naptr.blue. NAPTR",
        "naptr.red. 30 IN NAPTR 1 2 \"S\" \"http\" \"!^.*$!x!\" a.red.",
    ),
    (
        "rewrite name prefix b a answer auto value (.*)\\.blue {1}.red",
        "b.coredns.rocks A",
        "a.coredns.rocks. A",
        "b.coredns.rocks. 100 IN A 192.0.2.1",
    ),
    (
        "rewrite stop {\n name suffix .arpa .arpa\n answer name auto\n \
             answer value (.*)\\.service\\.consul\\. {1}.coredns.rocks.\n}",
        "30.30.30.10.in-addr.arpa PTR",
        "30.30.30.10.in-addr.arpa. PTR",
        "30.30.30.10.in-addr.arpa. 60 IN PTR ftp-us-west-1.coredns.rocks.",
    ),
    (
        "rewrite name exact dname.red dname.blue answer value below.blue below.red",
        "dname.red DNAME",
        "dname.blue. DNAME",
        "dname.red. 30 IN DNAME below.red.",
    ),
    // Two rules: the question in the lines' order, the answer the other way round.
    (
        "rewrite continue name suffix .one .two answer auto\nrewrite name suffix .two .rocks answer auto",
        "a.coredns.one A",
        "a.coredns.rocks. A",
        "a.coredns.one. 100 IN A 192.0.2.1",
    ),
    (
        "rewrite name coredns.two coredns.rocks\nrewrite name coredns.rocks nowhere",
        "coredns.two A",
        "coredns.rocks. A",
        "coredns.two. 100 IN A 192.0.2.1",
    ),
    // A prefix ends with a label.
    ("rewrite name prefix a b", "a.coredns.rocks A", "b.coredns.rocks. A", "NXDOMAIN"),
    ("rewrite name prefix co b", "coredns.rocks A", "coredns.rocks. A", "coredns.rocks. 100 IN A 192.0.2.1"),
    ("rewrite type ANY A", "coredns.rocks ANY", "coredns.rocks. A", "coredns.rocks. 100 IN A 192.0.2.1"),
    (
        "rewrite ttl regex (.*)\\.coredns\\.rocks 15",
        "a.coredns.rocks A",
        "a.coredns.rocks. A",
        "a.coredns.rocks. 15 IN A 192.0.2.1",
    ),
    (
        "rewrite ttl coredns.rocks 30-300",
        "coredns.rocks A",
        "coredns.rocks. A",
        "coredns.rocks. 100 IN A 192.0.2.1",
    ),
    (
        "rewrite ttl coredns.rocks -30",
        "coredns.rocks A",
        "coredns.rocks. A",
        "coredns.rocks. 30 IN A 192.0.2.1",
    ),
    (
        "rewrite ttl suffix coredns.rocks 130-",
        "a.coredns.rocks A",
        "a.coredns.rocks. A",
        "a.coredns.rocks. 130 IN A 192.0.2.1",
    ),
    (
        "rewrite ttl example.com 30",
        "coredns.rocks A",
        "coredns.rocks. A",
        "coredns.rocks. 100 IN A 192.0.2.1",
    ),
];

#[test]
fn names() {
    for &(lines, question, asked, answer) in CASES {
        let mut server = server(&format!(".:53 {{\n forward . 192.0.2.53\n {lines}\n}}"));
        let query = query(question);
        let outcome = exchange(&mut server, "10.244.0.9:4242", &query, zone(ZONE));
        let reply = outcome.reply();
        assert_eq!(reply.questions, query.questions, "{lines}");
        let question = &outcome.asked[0].questions[0];
        let kind = sealane_dns::message::rtype::name(question.rtype);
        assert_eq!(format!("{} {kind}", question.name), asked, "{lines}");
        let shown = show(reply);
        let (head, records) = shown.split_once('\n').unwrap_or((&shown, ""));
        let head = head.split(' ').next().unwrap();
        assert_eq!(if records.is_empty() { head } else { records }, answer, "{lines}");
    }
}

#[test]
fn a_name_that_is_none_is_a_failure() {
    let mut server =
        server(".:53 {\n errors\n rewrite name regex ^(.*)x(.*)[.]$ {1}..{2}\n forward . 192.0.2.53\n}");
    let outcome = exchange(&mut server, "192.0.2.1:9", &query("axb A"), zone(""));
    assert_eq!(outcome.reply().rcode, rcode::SERVFAIL);
    assert!(outcome.asked.is_empty());
    assert_eq!(outcome.logs.len(), 1);
    assert!(outcome.logs[0].ends_with("invalid name after rewrite: a..b."), "{:?}", outcome.logs);
}

#[test]
fn aliases_get_another_target() {
    let lines = "rewrite cname regex (.*).cdn.example.net. {1}.other.cdn.com.";
    let mut server = server(&format!(".:53 {{\n forward . 192.0.2.53\n {lines}\n}}"));
    assert_eq!(
        dig_with(&mut server, "my-app.com A", zone(ZONE)),
        "NOERROR rd,ra\nmy-app.com. 200 IN CNAME my-app.example.\nmy-app.example. 200 IN CNAME my-app.com.other.cdn.com.\n\
         my-app.com.other.cdn.com. 100 IN A 30.3.1.2"
    );
    assert_eq!(dig_with(&mut server, "coredns.rocks A", zone(ZONE)).lines().count(), 2);
    // The new target's records pass the rules as well; a circle ends.
    let mut server = crate::cluster::server(
        ".:53 {\n forward . 192.0.2.53\n rewrite cname lb.google.com www.google.com\n}",
    );
    let reply = dig_with(&mut server, "www.google.com A", zone(ZONE));
    assert!(reply.starts_with("NOERROR"), "{reply}");
}

#[test]
fn response_codes() {
    for (lines, question, expected) in [
        ("rewrite rcode regex (.*)\\.coredns\\.rocks SERVFAIL NOERROR", "a.coredns.rocks A", "NOERROR"),
        ("rewrite continue {\n rcode regex (.*)\\.coredns\\.rocks 2 0\n}", "a.coredns.rocks A", "NOERROR"),
        ("rewrite rcode a.coredns.rocks SERVFAIL nxdomain", "a.coredns.rocks A", "NXDOMAIN"),
        ("rewrite rcode b.coredns.rocks SERVFAIL nxdomain", "a.coredns.rocks A", "SERVFAIL"),
        ("rewrite rcode suffix rocks NXDOMAIN NOERROR", "a.coredns.rocks A", "SERVFAIL"),
    ] {
        // Written by an upstream, and a failure of this server's own.
        let mut one = server(&format!(".:53 {{\n forward . 192.0.2.53\n {lines}\n}}"));
        let reply = dig_with(&mut one, question, |query| query.reply(rcode::SERVFAIL));
        assert_eq!(reply.split(' ').next(), Some(expected), "{lines}");
        let mut other = server(&format!(".:53 {{\n hosts /none\n {lines}\n}}"));
        assert_eq!(crate::cluster::dig(&mut other, question).split(' ').next(), Some(expected), "{lines}");
    }
}

/// Lines, the client's options (no EDNS for `-`), those the upstream sees, those that come back.
#[test]
fn options() {
    for (lines, client, before, after, back) in [
        ("local set 0xffee 0x61626364", "10.0.0.1", "-", "65518=61626364", "65518=61626364"),
        ("local set 0xffee abcd", "10.0.0.1", "65518=00", "65518=61626364", "65518=61626364"),
        ("local append 65518 abcd", "10.0.0.1", "65518=00", "65518=00", "65518=00"),
        ("local append 65518 abcd", "10.0.0.1", "65001=00", "65001=00 65518=61626364", "65518=61626364"),
        ("local replace 65518 abcd", "10.0.0.1", "", "", ""),
        ("local replace 65518 abcd", "10.0.0.1", "65518=00", "65518=61626364", "65518=61626364"),
        ("local unset 65518", "10.0.0.1", "65518=00 65001=", "65001=", ""),
        ("local set 0xffee {client_ip}", "10.0.0.1", "", "65518=0a000001", "65518=0a000001"),
        (
            "local set 0xffee {client_ip}",
            "[2001:db8::1]",
            "",
            "65518=20010db8000000000000000000000001",
            "65518=20010db8000000000000000000000001",
        ),
        ("local set 0xffee {server_ip}", "10.0.0.1", "", "65518=0af40002", "65518=0af40002"),
        ("local set 0xffee {server_ip}", "[2001:db8::1]", "", "", ""),
        ("local set 0xffee {client_port}", "10.0.0.1", "", "65518=1092", "65518=1092"),
        ("local set 0xffee {server_port}", "10.0.0.1", "", "65518=0035", "65518=0035"),
        ("local set 0xffee {protocol}", "10.0.0.1", "", "65518=756470", "65518=756470"),
        ("local set 0xffee {qname}", "10.0.0.1", "", "65518=612e", "65518=612e"),
        ("local set 0xffee {qtype}", "10.0.0.1", "", "65518=0001", "65518=0001"),
        ("local set 0xffee {some-plugin/some-label}", "10.0.0.1", "", "", ""),
        ("nsid set", "10.0.0.1", "3=6162", "3=", "3="),
        ("nsid append", "10.0.0.1", "", "3=", "3="),
        ("nsid unset", "10.0.0.1", "3=6162", "", ""),
        ("subnet set 24 56", "10.1.2.3", "", "8=000118000a0102", ""),
        ("subnet set 20 56", "10.1.255.3", "", "8=000114000a01f0", ""),
        ("subnet set 24 56", "[2001:db8:1:2ff::1]", "", "8=0002380020010db8000102", ""),
        ("subnet unset", "10.1.2.3", "8=00", "", ""),
        ("local set 0xffee abcd revert", "10.0.0.1", "", "65518=61626364", ""),
        ("local set 0xffee abcd revert", "10.0.0.1", "65518=00", "65518=61626364", "65518=00"),
        ("nsid set revert", "10.0.0.1", "3=6162", "3=", "3=6162"),
    ] {
        options_case(&format!("rewrite edns0 {lines}"), client, before, after, back);
    }
    let two =
        "rewrite continue {\n edns0 local set 0xffee abcd\n}\nrewrite edns0 local replace 0xffee bcde revert";
    options_case(two, "10.0.0.1", "", "65518=62636465", "65518=61626364");
}

fn options_case(lines: &str, client: &str, before: &str, after: &str, back: &str) {
    let read = |text: &str| -> Vec<(u16, Box<[u8]>)> {
        let option = |word: &str| {
            let (code, hex) = word.split_once('=').unwrap();
            let octet = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (code.parse().unwrap(), (0..hex.len()).step_by(2).map(octet).collect())
        };
        text.split_whitespace().map(option).collect()
    };
    let mut server = server(&format!(".:53 {{\n forward . 192.0.2.53\n {lines}\n}}"));
    let mut query = query("a A");
    if before != "-" {
        query.edns = Some(Edns { udp_size: 1232, options: read(before), ..Edns::default() });
    }
    let outcome = exchange(&mut server, &format!("{client}:4242"), &query, |query| query.reply(0));
    let asked = outcome.asked[0].edns.clone().unwrap();
    assert_eq!(asked.options, read(after), "{lines}: asked");
    assert_eq!(asked.udp_size, if before == "-" { 4096 } else { 1232 }, "{lines}");
    assert_eq!(outcome.reply().edns.clone().unwrap().options, read(back), "{lines}: answered");
}

#[test]
fn classes() {
    let mut server = server(".:53 {\n forward . 192.0.2.53\n rewrite class CH IN\n}");
    let mut query = query("coredns.rocks A");
    query.questions[0].class = 3;
    let outcome = exchange(&mut server, "192.0.2.1:9", &query, zone(ZONE));
    assert_eq!(outcome.asked[0].questions[0].class, 1);
    assert_eq!(outcome.reply().questions[0].class, 3);
    assert_eq!(outcome.reply().answers.len(), 1);
}

#[test]
fn refused_lines() {
    for (line, why) in [
        ("rewrite", "1: 'rewrite' needs a field: name, type, class, edns0, ttl, cname, rcode"),
        ("rewrite stop", "1: 'rewrite' needs a field: name, type, class, edns0, ttl, cname, rcode"),
        (
            "rewrite names a b",
            "9: 'names' is no field of 'rewrite' (name, type, class, edns0, ttl, cname, rcode)",
        ),
        ("rewrite answer name a b", "9: 'answer' belongs behind a 'name' rule"),
        ("rewrite name a", "9: 'name' takes [exact|prefix|suffix|substring|regex] FROM TO [answer …]"),
        (
            "rewrite name like a b",
            "14: names are not matched by 'like' (exact, prefix, suffix, substring, regex)",
        ),
        ("rewrite name regex ( b", "20: '(' is no regular expression: unclosed group"),
        ("rewrite name regex (a) {2}", "24: {2} is no group of the regular expression, which has 1"),
        ("rewrite name substring a b c", "28: 'c' stands where only 'answer' may"),
        ("rewrite name exact a b answer", "24: 'answer' needs auto, name or value"),
        ("rewrite name exact a b answer ttl 3 4", "31: 'answer' takes no 'ttl' (auto, name, value)"),
        ("rewrite name exact a b answer name c", "31: 'answer name' needs a regular expression and a name"),
        (
            "rewrite name exact a b answer auto name c d",
            "31: 'answer auto' and 'answer name' exclude each other",
        ),
        ("rewrite class IN", "9: 'class' takes two of them: FROM TO"),
        ("rewrite class IN XY", "18: 'XY' is no class"),
        ("rewrite type A B", "16: 'B' is no type"),
        ("rewrite ttl a 1-0", "15: '1-0' is no TTL: SECONDS, MIN-MAX, MIN- or -MAX"),
        ("rewrite ttl a -", "15: '-' is no TTL: SECONDS, MIN-MAX, MIN- or -MAX"),
        ("rewrite ttl a", "9: 'ttl' takes [exact|prefix|suffix|substring|regex] NAME SECONDS|MIN-MAX"),
        ("rewrite rcode a 24 0", "17: '24' is no response code"),
        ("rewrite rcode a 2", "9: 'rcode' takes [exact|prefix|suffix|substring|regex] NAME FROM TO"),
        ("rewrite cname a", "9: 'cname' takes [exact|prefix|suffix|substring|regex] FROM TO"),
        (
            "rewrite edns0 local",
            "9: 'edns0' needs 'local', 'nsid' or 'subnet', and set, append, replace or unset",
        ),
        ("rewrite edns0 local put 1 a", "21: 'put' is no action (set, append, replace, unset)"),
        ("rewrite edns0 local set 1", "15: 'local' takes an action, the option's code and its data"),
        ("rewrite edns0 local set 65536 a", "25: '65536' is no number up to 65535 (0xffee, 65001)"),
        ("rewrite edns0 local set 1 0xabc", "27: '0xabc' is not in hex, two digits an octet"),
        ("rewrite edns0 local set 1 {dummy}", "27: '{dummy}' is neither a variable nor a label of metadata"),
        ("rewrite edns0 nsid set 1", "15: 'nsid' takes an action alone"),
        ("rewrite edns0 subnet set 33 56", "26: '33' is no prefix length up to 32"),
        ("rewrite edns0 cookie set", "15: 'cookie' is no option of edns0 (local, nsid, subnet)"),
        (
            "rewrite name a b {\n answer auto\n}",
            "2: option 'answer' of 'rewrite' is unknown, or not Sealane's yet",
        ),
    ] {
        let error = refused(line);
        let error = error.strip_prefix("Corefile:").unwrap().split_once(':').unwrap().1;
        assert_eq!(error, why, "{line}");
    }
    let long = "a".repeat(10_001);
    let error = refused(&format!("rewrite name regex {long} b"));
    assert_eq!(error, "Corefile:2:20: a regular expression has 10000 characters at most");
}
