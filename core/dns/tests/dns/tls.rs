//! `tls`: its lines, and what DNS over HTTPS says beside the answer.

use sealane_dns::Config;
use sealane_dns::chain::{ClientAuth, HttpServer, Scheme, ServerAddress, TlsServer};
use sealane_dns::corefile::Sources;
use sealane_dns::message::{Data, Message, Record, Soa, rcode};
use sealane_dns::server::max_age;

use crate::cluster::{query, server};

fn parse(lines: &str) -> Result<Config, String> {
    let text = format!("tls://.:853 https://. {{\n{lines}\n}}");
    Config::parse("Corefile", &text, &Sources::default(), 53).map_err(|error| error.to_string())
}

#[test]
fn lines() {
    let tls = |lines: &str| parse(lines).unwrap().blocks[0].settings.tls.clone().unwrap();
    let plain = TlsServer { certificate: "c".into(), key: "k".into(), ..TlsServer::default() };
    assert_eq!(tls("tls c k"), plain);
    assert_eq!(tls("tls c k /ca"), TlsServer { authorities: Some("/ca".into()), ..plain.clone() });
    for (name, client_auth) in [
        ("nocert", ClientAuth::None),
        ("request", ClientAuth::Request),
        ("require", ClientAuth::Require),
        ("verify_if_given", ClientAuth::VerifyIfGiven),
        ("require_and_verify", ClientAuth::RequireAndVerify),
    ] {
        let found = tls(&format!("tls c k {{\n client_auth {name}\n keylog log\n}}"));
        assert_eq!(found, TlsServer { client_auth, keylog: Some("log".into()), ..plain.clone() });
    }
    for (lines, error) in [
        ("tls", "2:1: 'tls' needs a certificate and its key"),
        ("tls c", "2:1: 'tls' needs a certificate and its key"),
        ("tls c k ca x", "2:12: 'tls' takes no 'x'"),
        ("tls c k\ntls c k", "3:1: plugin 'tls' stands twice in this server block"),
        ("tls c k {\n client_auth\n}", "3:2: 'client_auth' needs a kind of client authentication"),
        (
            "tls c k {\n client_auth maybe\n}",
            "3:14: 'maybe' is no client_auth (nocert, request, require, verify_if_given, require_and_verify)",
        ),
        ("tls c k {\n keylog\n}", "3:2: 'keylog' needs a file"),
        ("tls c k {\n ciphers x\n}", "3:2: option 'ciphers' of 'tls' is unknown, or not Sealane's yet"),
        (
            "tls {\n acme dns.example.org\n}",
            "3:2: 'acme' of 'tls' (ACME) is not Sealane's yet; name a certificate and its key",
        ),
    ] {
        assert_eq!(parse(lines).unwrap_err(), format!("Corefile:{error}"), "{lines}");
    }
    let error = Config::parse("C", "quic://. {\n}", &Sources::default(), 53).unwrap_err();
    assert_eq!(error.to_string(), "C:1:1: quic:// is not Sealane's yet; remove it");
}

#[test]
fn how_much_http_bears() {
    let settings = |lines: &str| parse(lines).map(|config| config.blocks[0].settings.clone());
    let of = |connections, streams| Some(HttpServer { connections, streams });
    assert_eq!(settings("https {\n max_connections 100\n}").unwrap().https, of(Some(100), None));
    let grpc = settings("grpc_server {\n max_streams 50\n max_connections 0\n}").unwrap();
    assert_eq!((grpc.grpc, grpc.https), (of(Some(0), Some(50)), None));
    for (lines, error) in [
        ("https 7", "2:7: 'https' takes no '7'"),
        (
            "https {\n max_streams 7\n}",
            "3:2: option 'max_streams' of 'https' is unknown, or not Sealane's yet",
        ),
        ("https {\n max_connections -1\n}", "3:18: '-1' is no number"),
        ("grpc_server {\n max_streams 1\n max_streams 1\n}", "4:2: 'max_streams' stands twice"),
        ("grpc_server {\n max_streams\n}", "3:2: 'max_streams' needs a number"),
    ] {
        assert_eq!(settings(lines).unwrap_err(), format!("Corefile:{error}"), "{lines}");
    }
}

#[test]
fn how_long_http_may_keep_answers() {
    let asked = query("a.example A");
    let name = || asked.questions[0].name.clone();
    let a = |ttl| Record::new(name(), ttl, Data::A([192, 0, 2, 1].into()));
    let soa = |ttl, minimum| {
        let (mname, rname) = (name(), name());
        let soa = Soa { mname, rname, serial: 1, refresh: 1, retry: 1, expire: 1, minimum };
        Record::new(name(), ttl, Data::Soa(Box::new(soa)))
    };
    for (code, answers, authority, seconds) in [
        (rcode::NOERROR, vec![a(300), a(60)], vec![], 60),
        (rcode::NOERROR, vec![a(300)], vec![soa(30, 7)], 30),
        (rcode::NOERROR, vec![a(1 << 20)], vec![], 3600),
        (rcode::NOERROR, vec![], vec![], 5),
        (rcode::NXDOMAIN, vec![], vec![soa(30, 7)], 7),
        (rcode::NOERROR, vec![], vec![soa(30, 70)], 30),
        (rcode::SERVFAIL, vec![], vec![soa(30, 70)], 5),
        (rcode::REFUSED, vec![], vec![], 5),
    ] {
        let reply = Message { answers, authority, ..asked.reply(code) };
        assert_eq!(max_age(&reply), seconds, "{reply:?}");
    }
}

#[test]
fn responses_are_counted() {
    let mut server = server("https://. {\n errors\n}");
    let https = ServerAddress { scheme: Scheme::Https, ip: None, port: 443 };
    for status in [200, 200, 404] {
        server.answered_https(https, status);
    }
    let mut page = String::new();
    server.render_metrics(&mut page);
    for (status, count) in [(200, 2), (404, 1)] {
        let line = format!(
            "coredns_dns_https_responses_total{{server=\"https://:443\",status=\"{status}\"}} {count}"
        );
        assert!(page.lines().any(|l| l == line), "{page}");
    }
}
