//! The cluster's zones as a whole.

use sealane_dns::message::{Data, Record, rcode, rtype};
use sealane_dns::{Effect, Event, Server, Transport, decode};

use crate::cluster::{ask, at, query, server, snapshot, snapshot_of};

/// The records of a transfer without the SOA at the end, or why there is none.
fn axfr(server: &mut Server, zone: &str) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    for effect in ask(server, &query(&format!("{zone} AXFR")), Transport::Tcp, at(0)) {
        let Effect::Reply(bytes) = effect else { continue };
        let reply = decode(&bytes).unwrap();
        if reply.answers.is_empty() {
            return Err(rcode::name(reply.rcode));
        }
        records.extend(reply.answers);
    }
    let last = records.pop().unwrap();
    assert_eq!((&last, last.data.rtype()), (&records[0], rtype::SOA));
    assert!(records[1..].iter().all(|record| record.data.rtype() != rtype::SOA));
    for (at, record) in records.iter().enumerate() {
        assert!(!records[..at].contains(record), "{record} twice");
    }
    Ok(records)
}

/// What is handed out is what is answered.
fn answered(server: &mut Server, records: &[Record]) {
    for record in records {
        // An alias of `k8s_external` shows itself to those who ask for addresses alone, one in circles to no others.
        let kinds = match record.data.rtype() {
            rtype::CNAME => vec!["A".to_owned(), "CNAME".to_owned()],
            other => vec![rtype::name(other)],
        };
        let mut answers = Vec::new();
        for kind in kinds {
            let effects = ask(server, &query(&format!("{} {kind}", record.name)), Transport::Tcp, at(0));
            let Some(Effect::Reply(bytes)) = effects.last() else { panic!("{record}") };
            answers.extend(decode(bytes).unwrap().answers);
        }
        let same = |answer: &&Record| match (&answer.data, &record.data) {
            // Weights of what is asked for depend on all that answers.
            (Data::Srv(_, _, port, target), Data::Srv(_, _, other, name)) => (port, target) == (other, name),
            (data, other) => data == other,
        };
        assert!(answers.iter().any(|a| same(&a) && a.ttl == record.ttl), "{record}: {answers:?}");
    }
}

fn shown(records: &[Record], part: &str) -> Vec<String> {
    records.iter().map(ToString::to_string).filter(|line| line.contains(part)).collect()
}

#[test]
fn kubernetes() {
    let corefile = ". {\n kubernetes cluster.local 10.in-addr.arpa {\n ttl 9\n }\n transfer {\n to *\n }\n}";
    let mut server = server(corefile);
    assert_eq!(axfr(&mut server, "cluster.local").unwrap_err(), "REFUSED");
    server.step(Event::Snapshot(snapshot()), at(0));
    let records = axfr(&mut server, "cluster.local").unwrap();
    answered(&mut server, &records);
    assert_eq!(shown(&records, " NS "), ["cluster.local. 9 IN NS kube-dns.kube-system.svc.cluster.local."]);
    assert_eq!(
        shown(&records, "dual.default"),
        [
            "dual.default.svc.cluster.local. 9 IN A 10.96.0.40",
            "dual.default.svc.cluster.local. 9 IN AAAA fd00::40",
            "dual.default.svc.cluster.local. 9 IN SRV 0 100 53 dual.default.svc.cluster.local.",
            "_dns._udp.dual.default.svc.cluster.local. 9 IN SRV 0 100 53 dual.default.svc.cluster.local.",
            "_dns-tcp._tcp.dual.default.svc.cluster.local. 9 IN SRV 0 100 53 dual.default.svc.cluster.local.",
        ]
    );
    assert_eq!(
        shown(&records, "web-0.web.default"),
        [
            "web-0.web.default.svc.cluster.local. 9 IN A 10.244.0.5",
            "_http._tcp.web.default.svc.cluster.local. 9 IN SRV 0 33 8080 web-0.web.default.svc.cluster.local.",
            "web-0.web.default.svc.cluster.local. 9 IN AAAA fd00:1::5",
            "_http._tcp.web.default.svc.cluster.local. 9 IN SRV 0 100 8080 web-0.web.default.svc.cluster.local.",
        ]
    );
    assert_eq!(shown(&records, "CNAME").len(), 4);
    assert!(shown(&records, "outside")[0].ends_with(" 9 IN CNAME www.example.com."));
    assert!(shown(&records, "10.244.4.94").is_empty(), "it is not ready");
    assert!(shown(&records, ".lost.").is_empty(), "there is no such Namespace");
    let reverse = axfr(&mut server, "10.in-addr.arpa").unwrap();
    answered(&mut server, &reverse);
    assert!(shown(&reverse, "PTR").len() > 5 && shown(&reverse, " SRV ").is_empty());
    // Nothing below a zone is one.
    assert_eq!(axfr(&mut server, "svc.cluster.local").unwrap_err(), "REFUSED");
}

#[test]
fn k8s_external() {
    let mut server = server(
        ". {\n kubernetes cluster.local\n k8s_external example.org {\n headless\n }\n transfer {\n to *\n }\n}",
    );
    assert_eq!(axfr(&mut server, "example.org").unwrap_err(), "NOERROR");
    server.step(Event::Snapshot(snapshot_of(&crate::k8s_external::objects())), at(0));
    let records = axfr(&mut server, "example.org").unwrap();
    answered(&mut server, &records);
    assert_eq!(
        shown(&records[1..4], ""),
        [
            "example.org. 5 IN NS ns1.dns.example.org.",
            "ns1.dns.example.org. 5 IN A 192.0.2.53",
            "ns1.dns.example.org. 5 IN AAAA fd00:2::53",
        ]
    );
    assert_eq!(
        shown(&records, "svc1"),
        [
            "_http._tcp.svc1.default.example.org. 5 IN SRV 0 33 80 svc1.default.example.org.",
            "svc1.default.example.org. 5 IN A 192.168.200.123",
            "svc1.default.example.org. 5 IN A 192.168.200.124",
            "svc1.default.example.org. 5 IN AAAA fd00:2::1",
            "svc1.default.example.org. 5 IN SRV 0 33 80 svc1.default.example.org.",
        ]
    );
    assert_eq!(shown(&records, " CNAME "), ["lb.default.example.org. 5 IN CNAME lb.example.com."]);
    assert_eq!(
        shown(&records, "db-0.db.default.example.org. 5 IN A "),
        ["db-0.db.default.example.org. 5 IN A 10.244.0.5"]
    );
    assert!(shown(&records, "plain").is_empty(), "nobody reaches it from outside");
}
