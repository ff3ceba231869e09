//! `dns64`.

use sealane_dns::Message;

use super::upstream::{exchange, record, refused, zone};
use crate::cluster::{query, server, show};

const ZONE: &str = "
    four. 60 IN A 192.0.2.33
    both. 60 IN A 192.0.2.1
    both. 60 IN AAAA 2001:db8::1
    alias. 20 IN CNAME four.
    long. 86400 IN A 192.0.2.2
    text. 60 IN TXT x
";

const V6: &str = "[2001:db8::9]:4242";

fn check(lines: &str, client: &str, question: &str, answer: &str) {
    let mut server = server(&format!(".:53 {{\n {lines}\n forward . 192.0.2.53\n}}"));
    let outcome = exchange(&mut server, client, &query(question), zone(ZONE));
    assert_eq!(show(outcome.reply()), answer, "{lines} {client} {question}");
}

#[test]
fn addresses() {
    check("dns64", V6, "four AAAA", "NOERROR rd\nfour. 60 IN AAAA 64:ff9b::c000:221");
    check("dns64", V6, "four A", "NOERROR rd,ra\nfour. 60 IN A 192.0.2.33");
    check("dns64", V6, "both AAAA", "NOERROR rd,ra\nboth. 60 IN AAAA 2001:db8::1");
    check("dns64", V6, "none AAAA", "NXDOMAIN rd,ra");
    check("dns64", V6, "text AAAA", "NOERROR rd");
    check(
        "dns64",
        V6,
        "alias AAAA",
        "NOERROR rd\nalias. 20 IN CNAME four.\nfour. 60 IN AAAA 64:ff9b::c000:221",
    );
    check("dns64", "10.0.0.1:9", "four AAAA", "NOERROR rd,ra");
    check("dns64", "[::ffff:10.0.0.1]:9", "four AAAA", "NOERROR rd,ra");
    check(
        "dns64 {\n allow_ipv4\n }",
        "10.0.0.1:9",
        "four AAAA",
        "NOERROR rd\nfour. 60 IN AAAA 64:ff9b::c000:221",
    );
    check("dns64 {\n translate_all\n }", V6, "both AAAA", "NOERROR rd\nboth. 60 IN AAAA 64:ff9b::c000:201");
    check("dns64 64:1337::/96", V6, "four AAAA", "NOERROR rd\nfour. 60 IN AAAA 64:1337::c000:221");
    // Without an SOA ten minutes at most.
    check("dns64", V6, "long AAAA", "NOERROR rd\nlong. 600 IN AAAA 64:ff9b::c000:202");
}

/// RFC 6052 section 2.4.
#[test]
fn prefixes() {
    for (prefix, address) in [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::c000:221"),
        ("2001:db8:122:344:ff::/72", "2001:db8:122:344:c0:2:2100::"),
    ] {
        // The ninth octet is the prefix's own from 72 bits on.
        let address: std::net::Ipv6Addr = address.parse().unwrap();
        let answer = format!("NOERROR rd\nfour. 60 IN AAAA {address}");
        check(&format!("dns64 {{\n prefix {prefix}\n }}"), V6, "four AAAA", &answer);
    }
}

#[test]
fn denials_and_metrics() {
    let mut server = server(".:53 {\n dns64\n forward . 192.0.2.53\n}");
    let upstream = |query: &Message| {
        let mut reply = zone(ZONE)(query);
        if reply.answers.is_empty() {
            reply.authority.push(record("four. 30 IN SOA ns.four. mail.four. 1 2 3 4 5"));
        }
        reply
    };
    let outcome = exchange(&mut server, V6, &query("four AAAA"), upstream);
    assert_eq!(show(outcome.reply()), "NOERROR rd\nfour. 30 IN AAAA 64:ff9b::c000:221");
    // An upstream's failure is like an empty answer (RFC 6147 section 5.1.3).
    let outcome = exchange(&mut server, V6, &query("four AAAA"), |query| {
        if query.questions[0].rtype == 28 { query.reply(2) } else { zone(ZONE)(query) }
    });
    assert_eq!(show(outcome.reply()), "NOERROR rd\nfour. 60 IN AAAA 64:ff9b::c000:221");
    let mut text = String::new();
    server.render_metrics(&mut text);
    let line = "coredns_dns64_requests_translated_total{server=\"dns://:53\"} 2";
    assert!(text.lines().any(|l| l == line), "{text}");
}

#[test]
fn refused_lines() {
    let lengths = "a prefix of dns64 has 32, 40, 48, 56, 64, 72, 80, 88 or 96 bits";
    for (lines, why) in [
        ("dns64 10.0.0.0/8", "2:7: '10.0.0.0/8' is no IPv6 prefix (64:ff9b::/96)".to_owned()),
        ("dns64 64::", "2:7: '64::' is no IPv6 prefix (64:ff9b::/96)".to_owned()),
        ("dns64 64::/24", format!("2:7: {lengths}")),
        ("dns64 64::/33", format!("2:7: {lengths}")),
        ("dns64 64::/104", format!("2:7: {lengths}")),
        ("dns64 64::/96 65::/96", "2:15: 'dns64' takes no '65::/96'".to_owned()),
        ("dns64 {\n prefix\n}", "3:2: 'prefix' needs a prefix".to_owned()),
        ("dns64 {\n allow_ipv4 x\n}", "3:13: 'allow_ipv4' takes no 'x'".to_owned()),
        ("dns64 {\n x\n}", "3:2: option 'x' of 'dns64' is unknown, or not Sealane's yet".to_owned()),
    ] {
        assert_eq!(refused(lines), format!("Corefile:{why}"), "{lines}");
    }
}
