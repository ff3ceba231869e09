//! `view`.

use sealane_dns::message::{Edns, rcode, rtype};

use super::upstream::{exchange, refused};
use crate::cluster::{query, server};

fn answered(server: &mut sealane_dns::Server, client: &str, question: &str) -> String {
    let outcome = exchange(server, client, &query(question), |query| query.reply(0));
    let answers: Vec<String> = outcome.reply().answers.iter().map(ToString::to_string).collect();
    answers.join("\n")
}

#[test]
fn networks() {
    let mut server = server(
        ". {\n view example1 {\n expr incidr(client_ip(), '127.0.0.0/24')\n }\n hosts /none {\n 1.1.1.1 test\n }\n}
        . {\n view example2 {\n expr incidr(client_ip(), '192.168.0.0/16')\n }\n hosts /none {\n 2.2.2.2 test\n }\n}
        . {\n view v6_example1 {\n expr incidr(client_ip(), '2001:0DB8::/32')\n }\n hosts /none {\n 2001:0DB8::1 test\n }\n}
        . {\n hosts /none {\n 3.3.3.3 test\n }\n}",
    );
    for (client, question, answer) in [
        ("127.0.0.1:9", "test A", "test. 3600 IN A 1.1.1.1"),
        ("192.168.3.1:9", "test A", "test. 3600 IN A 2.2.2.2"),
        ("[2001:db8::77]:9", "test AAAA", "test. 3600 IN AAAA 2001:db8::1"),
        ("[2001:db9::77]:9", "test A", "test. 3600 IN A 3.3.3.3"),
        ("10.0.0.1:9", "test A", "test. 3600 IN A 3.3.3.3"),
    ] {
        assert_eq!(answered(&mut server, client, question), answer, "{client}");
    }
    let mut text = String::new();
    server.render_metrics(&mut text);
    let counted = "coredns_dns_requests_total{server=\"dns://:53\",zone=\".\",view=\"example1\",";
    assert!(text.lines().any(|line| line.starts_with(counted)), "{text}");
}

/// An expression, and whether it is for this query: www.Example. AAAA from 10.0.0.1 port 4242 with OPT of 1232, DO.
#[test]
fn functions() {
    for (expression, holds) in [
        ("type() in ['A', 'AAAA']", true),
        ("type() in ['A', 'MX']", false),
        ("(type() == 'A' && name() == 'www.example.') || client_ip() == '10.0.0.1'", true),
        ("name() matches '^www\\\\..*\\\\.$'", true),
        ("name() matches '^abc\\\\..*\\\\.example\\\\.com\\\\.$'", false),
        ("bufsize() == 1232 and do() and id() == 77 and opcode() == 0", true),
        ("class() == 'IN' and port() == '4242' and proto() == 'udp'", true),
        ("server_ip() == '10.244.0.2' and server_port() == '53' and size() == 40", true),
        ("metadata('view/name') == ''", true),
        // No bool, or nothing at all: it does not hold.
        ("first([name()])", false),
        ("incidr('x', '10.0.0.0/8')", false),
        ("not incidr('10.0.0.1', '10.0.0.0')", false),
        ("incidr(client_ip(), '::/0')", false),
    ] {
        let mut server = server(&format!(
            ".:53 {{\n view v {{\n expr {expression}\n }}\n hosts /none {{\n 192.0.2.1 a\n }}\n}}"
        ));
        let mut query = query("www.Example AAAA");
        assert_eq!(query.questions[0].rtype, rtype::AAAA);
        query.edns = Some(Edns { udp_size: 1232, dnssec_ok: true, ..Edns::default() });
        let outcome = exchange(&mut server, "10.0.0.1:4242", &query, |query| query.reply(0));
        assert_eq!(
            outcome.reply().rcode,
            if holds { rcode::SERVFAIL } else { rcode::REFUSED },
            "{expression}"
        );
    }
}

/// Labels are known when blocks are chosen; all conditions of a block hold.
#[test]
fn metadata_and_several_conditions() {
    let mut server = server(
        ".:53 {\n metadata\n view one {\n expr metadata('view/name') == 'one'\n expr type() == 'A'\n }\n hosts /none {\n 1.1.1.1 a\n }\n}\n\
         .:53 {\n hosts /none {\n 2.2.2.2 a\n 2::2 a\n }\n}",
    );
    assert_eq!(answered(&mut server, "10.0.0.1:9", "a A"), "a. 3600 IN A 1.1.1.1");
    assert_eq!(answered(&mut server, "10.0.0.1:9", "a AAAA"), "a. 3600 IN AAAA 2::2");
}

#[test]
fn refused_lines() {
    for (lines, why) in [
        ("view", "2:1: 'view' needs a name"),
        ("view a b", "2:8: 'view' takes one name"),
        ("view a {\n expr\n}", "3:2: 'expr' needs an expression"),
        ("view a {\n when true\n}", "3:2: option 'when' of 'view' is unknown, or not Sealane's yet"),
        ("view a {\n expr name() = 'a'\n}", "3:14: expression: this is too much"),
        ("view a {\n expr name() == \"foo\n}", "3:17: this quote never ends"),
        ("view a {\n expr \"name() == foo\"\n}", "3:18: expression: 'foo' is no variable"),
        ("view a {\n expr name()\n}", "3:7: this expression is never true or false"),
        ("view a {\n expr id() == '1'\n}", "3:12: expression: '==' never goes with number and string"),
        ("view a {\n expr group(1) == 'a'\n}", "3:7: expression: 'group' is no function that there is"),
    ] {
        assert_eq!(refused(lines), format!("Corefile:{why}"), "{lines}");
    }
}
