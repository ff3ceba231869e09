//! The master file's grammar.

use proptest::prelude::*;
use sealane_dns::message::presentation::{self, seconds};
use sealane_dns::message::{Data, Record, rtype};
use sealane_dns::zone::{no_include, parse};

use crate::{lines, name, records};

/// RFC 1035 section 5.3's file (its addresses changed for example ones).
#[test]
fn the_example_of_rfc_1035() {
    let text = "@   IN  SOA     VENERA      Action\\.domains (
                                 20     ; SERIAL
                                 7200   ; REFRESH
                                 600    ; RETRY
                                 3600000; EXPIRE
                                 60)    ; MINIMUM

        NS      A.ISI.EDU.
        NS      VAXA
        MX      10      VENERA
        MX      20      VAXA

A       A       192.0.2.27

VENERA  A       192.0.2.52
        A       192.0.2.44
";
    let got = lines(&records("isi.edu.", &format!("$TTL 1d\n{text}")));
    assert_eq!(
        got,
        [
            "isi.edu. 86400 IN SOA VENERA.isi.edu. Action\\.domains.isi.edu. 20 7200 600 3600000 60",
            "isi.edu. 86400 IN NS A.ISI.EDU.",
            "isi.edu. 86400 IN NS VAXA.isi.edu.",
            "isi.edu. 86400 IN MX 10 VENERA.isi.edu.",
            "isi.edu. 86400 IN MX 20 VAXA.isi.edu.",
            "A.isi.edu. 86400 IN A 192.0.2.27",
            "VENERA.isi.edu. 86400 IN A 192.0.2.52",
            "VENERA.isi.edu. 86400 IN A 192.0.2.44",
        ]
    );
}

/// Text after `$ORIGIN example.` and what a server shows of it.
const READS: &[(&str, &str)] = &[
    ("a 60 A 192.0.2.1", "a.example. 60 IN A 192.0.2.1"),
    ("a IN 60 A 192.0.2.1", "a.example. 60 IN A 192.0.2.1"),
    ("a 1h30m in a 192.0.2.1 ; comment", "a.example. 5400 IN A 192.0.2.1"),
    ("a IN A 192.0.2.1", "a.example. 0 IN A 192.0.2.1"),
    ("a 1W AAAA 2001:db8:0:0::1", "a.example. 604800 IN AAAA 2001:db8::1"),
    ("@ 1 NS a.b.", "example. 1 IN NS a.b."),
    ("@ 1 MX 5 @", "example. 1 IN MX 5 example."),
    ("a\\.b 1 PTR c\\032d", "a\\.b.example. 1 IN PTR c\\ d.example."),
    (
        "t 1 TXT one \"two three\" \"\\\"q\\\" \\; ; no comment\"",
        "t.example. 1 IN TXT \"one\" \"two three\" \"\\\"q\\\" ; ; no comment\"",
    ),
    ("t 1 TXT \"\"", "t.example. 1 IN TXT \"\""),
    ("t 1 TXT a\"b\"c", "t.example. 1 IN TXT \"a\" \"b\" \"c\""),
    ("t 1 TXT ( \"a\n b\" )", "t.example. 1 IN TXT \"a\\010 b\""),
    ("_s._tcp 1 SRV 0 5 80 x", "_s._tcp.example. 1 IN SRV 0 5 80 x.example."),
    ("h 1 HINFO \"PC\" Linux", "h.example. 1 IN HINFO \"PC\" \"Linux\""),
    ("c 1 CAA 0 issue \"ca.example; x=y\"", "c.example. 1 IN CAA 0 issue \"ca.example; x=y\""),
    ("d 1 DNAME to.", "d.example. 1 IN DNAME to."),
    (
        "d 1 DS 60485 RSASHA1 1 ( 2BB183AF5F22588179A53B0A\n 98631FAD1A292118 )",
        "d.example. 1 IN DS 60485 5 1 2bb183af5f22588179a53b0a98631fad1a292118",
    ),
    ("k 1 DNSKEY 256 3 5 AQPS kmyn", "k.example. 1 IN DNSKEY 256 3 5 AQPSkmyn"),
    (
        "r 1 RRSIG A 5 3 86400 20030322173103 20030220173103 2642 e. oJB1W6WN",
        "r.example. 1 IN RRSIG A 5 3 86400 20030322173103 20030220173103 2642 e. oJB1W6WN",
    ),
    (
        "n 1 NSEC host ( A MX RRSIG NSEC TYPE1234 )",
        "n.example. 1 IN NSEC host.example. A MX RRSIG NSEC TYPE1234",
    ),
    (
        "n 1 NSEC3 1 1 12 aabbccdd 2t7b4g4vsa5smi47k61mv5bv1a22bojr MX DNSKEY",
        "n.example. 1 IN NSEC3 1 1 12 aabbccdd 2T7B4G4VSA5SMI47K61MV5BV1A22BOJR MX DNSKEY",
    ),
    ("n 1 NSEC3PARAM 1 0 0 -", "n.example. 1 IN NSEC3PARAM 1 0 0 -"),
    ("_443._tcp 1 TLSA 3 1 1 AB cd", "_443._tcp.example. 1 IN TLSA 3 1 1 abcd"),
    ("s 1 SSHFP 4 2 ab", "s.example. 1 IN SSHFP 4 2 ab"),
    (
        "n 1 NAPTR 100 50 \"s\" \"z3950+I2L\" \"\" _z._tcp",
        "n.example. 1 IN NAPTR 100 50 \"s\" \"z3950+I2L\" \"\" _z._tcp.example.",
    ),
    ("u 1 URI 10 1 \"ftp://x/\"", "u.example. 1 IN URI 10 1 \"ftp://x/\""),
    (
        "l 1 LOC 42 21 54 N 71 06 18 W -24m 30m",
        "l.example. 1 IN LOC 42 21 54.000 N 71 6 18.000 W -24.00m 30.00m 10000.00m 10.00m",
    ),
    ("e 1 EUI48 00-00-5e-00-53-2a", "e.example. 1 IN EUI48 00-00-5e-00-53-2a"),
    ("i 1 NID 10 0014:4fff:ff20:ee64", "i.example. 1 IN NID 10 0014:4fff:ff20:ee64"),
    // RFC 9460 appendix D.
    ("w 1 HTTPS 0 foo.example.com.", "w.example. 1 IN HTTPS 0 foo.example.com."),
    ("w 1 SVCB 16 foo port=53", "w.example. 1 IN SVCB 16 foo.example. port=\"53\""),
    (
        "w 1 SVCB 1 foo key667=\"hello\\210qoo\"",
        "w.example. 1 IN SVCB 1 foo.example. key667=\"hello\\210qoo\"",
    ),
    (
        "w 1 SVCB 1 foo ipv6hint=\"2001:db8::1,2001:db8::53:1\"",
        "w.example. 1 IN SVCB 1 foo.example. ipv6hint=\"2001:db8::1,2001:db8::53:1\"",
    ),
    (
        "w 1 SVCB 16 foo alpn=h2,h3-19 mandatory=ipv4hint,alpn ipv4hint=192.0.2.1",
        "w.example. 1 IN SVCB 16 foo.example. mandatory=\"alpn,ipv4hint\" alpn=\"h2,h3-19\" ipv4hint=\"192.0.2.1\"",
    ),
    (
        "w 1 SVCB 16 foo alpn=\"f\\\\\\\\oo\\\\,bar,h2\"",
        "w.example. 1 IN SVCB 16 foo.example. alpn=\"f\\\\\\\\oo\\\\,bar,h2\"",
    ),
    ("x 1 TYPE731 \\# 6 abcd (\n ef 01 23 45 )", "x.example. 1 IN TYPE731 \\# 6 abcdef012345"),
    ("x 1 A \\# 4 C0000201", "x.example. 1 IN A 192.0.2.1"),
    ("x CLASS32 1 TYPE62347 \\# 0", "x.example. 1 CLASS32 TYPE62347 \\# 0"),
];

#[test]
fn lines_read_and_print() {
    for (text, shown) in READS {
        let got = parse("db", text.as_bytes(), &name("example."), &mut no_include);
        let got = got.unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(lines(&got), [*shown], "{text}");
        // What is shown is a master file, too, and the same.
        let again = parse("db", shown.as_bytes(), &name("other."), &mut no_include);
        assert_eq!(again.unwrap_or_else(|e| panic!("{shown}: {e}")), got, "{shown}");
    }
}

const REFUSED: &[(&str, &str)] = &[
    ("a A 192.0.2.1", "db:1: the record has no TTL, and there is no $TTL before it"),
    ("\n\n 1 A 192.0.2.1", "db:3: the line begins with a blank, and no owner is known yet"),
    ("a 1 A", "db:1: A: there is too little data"),
    ("a 1 A 192.0.2.256", "db:1: A: \"192.0.2.256\" is no IPv4 address"),
    ("a 1 A 192.0.2.1 x", "db:1: A: \"x\" is too much"),
    ("a 1 B x", "db:1: \"B\" is no TTL, class or record type"),
    ("a 1 ANY", "db:1: there is no record type"),
    ("a 1 AXFR x", "db:1: a zone holds no records of type AXFR"),
    ("a 1", "db:1: there is no record type"),
    ("; one\na 1 TXT (\n\"x\"", "db:2: the parenthesis that begins here has no end"),
    ("a 1 TXT \"x", "db:1: the quote that begins here has no end"),
    ("a 1 TXT x )", "db:1: a closing parenthesis without an opening one"),
    ("a..b 1 TXT x", "db:1: \"a..b\" is no name: empty label"),
    ("a 1 NS x\\", "db:1: a backslash has nothing behind it"),
    ("a 1 TXT \\256", "db:1: TXT: \\256 is no octet"),
    ("a 1 TYPE999 x", "db:1: data of type TYPE999 is written as \\# LENGTH HEX (RFC 3597)"),
    ("a 1 TYPE999 \\# 2 ab", "db:1: \\# says 2 octets, and 1 follow"),
    ("a 1 A \\# 1 ab", "db:1: these octets are no data of type A"),
    ("a 1 SVCB 1 b mandatory=port", "db:1: SVCB: service parameter \"port\" is mandatory and not given"),
    ("$ORIGIN", "db:1: $ORIGIN takes one name"),
    ("$TTL x", "db:1: $TTL takes seconds or 1h30m"),
    ("$FOO", "db:1: \"$FOO\" is no directive ($ORIGIN, $TTL, $INCLUDE, $GENERATE)"),
    ("$INCLUDE x", "db:1: can't include \"x\": $INCLUDE is not allowed here"),
    (
        "$GENERATE 5-1 a$ A 192.0.2.$",
        "db:1: $GENERATE: the range is START-STOP[/STEP] and makes at most 65536 records",
    ),
    (
        "$GENERATE \"\" a$ TXT x",
        "db:1: $GENERATE: the range is START-STOP[/STEP] and makes at most 65536 records",
    ),
    ("\n$GENERATE 1-2 a${x} A 192.0.2.$", "db:2: $GENERATE: ${OFFSET[,WIDTH[,d|o|x|X]]} is expected"),
    (
        "$GENERATE 1-2 a${-2} A 192.0.2.$",
        "db:1: $GENERATE: an offset makes numbers below 0 or above 2147483647",
    ),
];

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (text, sentence) in REFUSED {
        let got = parse("db", text.as_bytes(), &name("example."), &mut no_include);
        assert_eq!(got.expect_err(text).to_string(), *sentence, "{text}");
    }
}

#[test]
fn ttls_and_owners_carry_on() {
    let text = "a 60 TXT 1\n TXT 2\nb TXT 3\n$TTL 5\nc TXT 4\nc 7 TXT 5\nc TXT 6\n$ORIGIN sub\nc TXT 7\n$ORIGIN .\nc TXT 8";
    assert_eq!(
        lines(&records("example.", text)),
        [
            "a.example. 60 IN TXT \"1\"",
            "a.example. 60 IN TXT \"2\"",
            "b.example. 60 IN TXT \"3\"",
            "c.example. 5 IN TXT \"4\"",
            "c.example. 7 IN TXT \"5\"",
            "c.example. 5 IN TXT \"6\"",
            "c.sub.example. 5 IN TXT \"7\"",
            "c. 5 IN TXT \"8\"",
        ]
    );
}

#[test]
fn files_include_files() {
    let mut include = |path: &str| match path {
        "/z/sub/b.db" => Ok(b"@ TXT b\n$INCLUDE c.db\n$TTL 1\n".to_vec()),
        "/z/sub/c.db" => Ok(b"c TXT c".to_vec()),
        "/z/loop" => Ok(b"$INCLUDE loop".to_vec()),
        "/bad" => Ok(b"\na A x".to_vec()),
        _ => Err("there is no such file".to_owned()),
    };
    let mut read = |text: &str| parse("/z/a.db", text.as_bytes(), &name("example."), &mut include);
    let got = read("$TTL 9\na TXT a\n$INCLUDE sub/b.db in\n TXT z\n").unwrap();
    assert_eq!(
        lines(&got),
        [
            "a.example. 9 IN TXT \"a\"",
            "in.example. 9 IN TXT \"b\"",
            "c.in.example. 9 IN TXT \"c\"",
            "a.example. 9 IN TXT \"z\"",
        ]
    );
    assert_eq!(
        read("$INCLUDE loop").unwrap_err().to_string(),
        "/z/loop:1: files include files deeper than 7"
    );
    assert_eq!(read("$TTL 1\n$INCLUDE /bad").unwrap_err().to_string(), "/bad:2: A: \"x\" is no IPv4 address");
    assert_eq!(
        read("$INCLUDE none").unwrap_err().to_string(),
        "/z/a.db:1: can't include \"/z/none\": there is no such file"
    );
}

#[test]
fn records_are_generated() {
    let text =
        "$TTL 60\n$GENERATE 1-3/2 h$ A 192.0.2.${10}\n$GENERATE 9-10 ${0,4,x} 5 TXT \"$$ \\$ ${-1,2}\" ; end";
    assert_eq!(
        lines(&records("example.", text)),
        [
            "h1.example. 3600 IN A 192.0.2.11",
            "h3.example. 3600 IN A 192.0.2.13",
            "0009.example. 5 IN TXT \"$ $ 08\"",
            "000a.example. 5 IN TXT \"$ $ 09\"",
        ]
    );
}

#[test]
fn long_strings_of_txt_are_cut_in_pieces() {
    let got = records("example.", &format!("a 1 TXT {}\n", "x".repeat(300)));
    let Data::Txt(strings) = &got[0].data else { panic!() };
    assert_eq!(strings.iter().map(|s| s.len()).collect::<Vec<_>>(), [255, 45]);
}

#[test]
fn periods_have_units() {
    let table =
        [("0", Some(0)), ("1w2d3h4m5s", Some(788_645)), ("1H30", Some(3630)), ("x", None), ("", None)];
    for (text, want) in table {
        assert_eq!(seconds(text.as_bytes()), want, "{text}");
    }
    assert_eq!(seconds(b"4294967296"), None);
}

fn any_name() -> impl Strategy<Value = sealane_dns::Name> {
    let label = prop::collection::vec(any::<u8>(), 1..20);
    prop::collection::vec(label, 0..5)
        .prop_map(|labels| sealane_dns::Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap())
}

proptest! {
    /// Octets of any type, known and unknown, survive being written and read.
    #[test]
    fn what_is_printed_reads_the_same(
        owner in any_name(),
        target in any_name(),
        rtype in prop_oneof![1u16..70, 99u16..110, 256u16..262, 1000u16..1010],
        ttl in any::<u32>(),
        octets in prop::collection::vec(any::<u8>(), 0..60),
        named in any::<bool>(),
        head in prop::sample::select(vec![0usize, 2, 4, 6, 18]),
    ) {
        prop_assume!(!rtype::is_meta(rtype));
        let mut wire = octets;
        if named {
            wire.truncate(head);
            wire.extend_from_slice(target.wire());
        }
        // Compressed names in older types are not what stands in a zone.
        let Ok(data) = Data::from_wire(rtype, &wire) else { return Ok(()) };
        let record = Record::new(owner, ttl, data);
        let text = record.to_string();
        let got = parse("db", text.as_bytes(), &name("."), &mut no_include);
        match got {
            Ok(got) => prop_assert_eq!(got, vec![record], "{}", text),
            // A known type whose octets don't fit it is printed by RFC 3597, and refused.
            Err(error) => prop_assert!(text.contains("\\#"), "{}: {}", text, error),
        }
    }

    #[test]
    fn no_text_is_too_much(text in "[-a-z0-9 \t\n.@\\\\\"();$*{}/,]{0,80}") {
        let _ = parse("db", text.as_bytes(), &name("example."), &mut no_include);
        let _ = parse("db", format!("$TTL 1\n$GENERATE {text}").as_bytes(), &name("example."), &mut no_include);
    }

    #[test]
    fn no_octets_are_too_much(octets in prop::collection::vec(any::<u8>(), 0..200), rtype in any::<u16>()) {
        let _ = parse("db", &octets, &name("example."), &mut no_include);
        if let Ok(data) = Data::from_wire(rtype, &octets) {
            let _ = (presentation::print(&data), presentation::canonical(&data));
        }
    }
}
