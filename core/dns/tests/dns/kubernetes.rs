//! Questions about a cluster, with CoreDNS's answers (Kubernetes DNS specification 1.1.0).

use crate::cluster::{check, dig, server, synced};

const KUBEADM: &str = ".:53 {
    errors
    health { 
        lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus :9153
    forward . /resolv.conf {
        max_concurrent 1000
    }
    cache 30
    loop
    reload
}";

fn with(option: &str) -> String {
    format!(".:53 {{\n kubernetes cluster.local in-addr.arpa ip6.arpa {{\n ttl 30\n {option}\n }}\n}}")
}

#[test]
fn services() {
    check(
        &mut synced(KUBEADM),
        "? service-test.default.svc.cluster.local A
            NOERROR aa,rd
            service-test.default.svc.cluster.local. 30 IN A 10.102.251.155
        ? SerVice-TEST.default.svc.Cluster.LOCAL A
            NOERROR aa,rd
            SerVice-TEST.default.svc.Cluster.LOCAL. 30 IN A 10.102.251.155
        ? service-test.default.svc.cluster.local A +edns
            NOERROR aa,rd
            service-test.default.svc.cluster.local. 30 IN A 10.102.251.155
            OPT 1232 [10]
        ? service-test.default.svc.cluster.local A +cd
            NOERROR aa,rd,cd
            service-test.default.svc.cluster.local. 30 IN A 10.102.251.155
        ? service-test.default.svc.cluster.local AAAA
            NODATA
        ? service-test.default.svc.cluster.local MX
            NODATA
        ? service-test.default.svc.cluster.local TXT
            NODATA
        ? dual.default.svc.cluster.local AAAA
            NOERROR aa,rd
            dual.default.svc.cluster.local. 30 IN AAAA fd00::40
        ? _http._tcp.service-test.default.svc.cluster.local SRV
            NOERROR aa,rd
            _http._tcp.service-test.default.svc.cluster.local. 30 IN SRV 0 100 80 service-test.default.svc.cluster.local.
            + service-test.default.svc.cluster.local. 30 IN A 10.102.251.155
        ? _dns._udp.dual.default.svc.cluster.local SRV
            NOERROR aa,rd
            _dns._udp.dual.default.svc.cluster.local. 30 IN SRV 0 50 53 dual.default.svc.cluster.local.
            + dual.default.svc.cluster.local. 30 IN A 10.96.0.40
            + dual.default.svc.cluster.local. 30 IN AAAA fd00::40
        ? service-test.default.svc.cluster.local SRV
            NOERROR aa,rd
            service-test.default.svc.cluster.local. 30 IN SRV 0 100 80 service-test.default.svc.cluster.local.
            + service-test.default.svc.cluster.local. 30 IN A 10.102.251.155
        ? _https._tcp.service-test.default.svc.cluster.local SRV
            NXDOMAIN
        ? _http._udp.service-test.default.svc.cluster.local SRV
            NXDOMAIN
        ? no.default.svc.cluster.local A
            NXDOMAIN
        ? service-test.nowhere.svc.cluster.local A
            NXDOMAIN
        ? svc.lost.svc.cluster.local A
            NXDOMAIN
        ? *.default.svc.cluster.local A
            NXDOMAIN
        ? default.svc.cluster.local A
            NODATA
        ? svc.cluster.local A
            NODATA
        ? cluster.local A
            NODATA
        ? other.cluster.local A
            NXDOMAIN
        ? a.b.c.service-test.default.svc.cluster.local A
            NXDOMAIN",
    );
}

#[test]
fn headless_services_and_endpoints() {
    check(
        &mut synced(KUBEADM),
        "? web.default.svc.cluster.local A
            NOERROR aa,rd
            web.default.svc.cluster.local. 30 IN A 10.244.0.5
            web.default.svc.cluster.local. 30 IN A 10.244.0.6
            web.default.svc.cluster.local. 30 IN A 10.244.0.7
        ? web-0.web.default.svc.cluster.local A
            NOERROR aa,rd
            web-0.web.default.svc.cluster.local. 30 IN A 10.244.0.5
        ? web-0.web.default.svc.cluster.local AAAA
            NOERROR aa,rd
            web-0.web.default.svc.cluster.local. 30 IN AAAA fd00:1::5
        ? web-1.web.default.svc.cluster.local AAAA
            NODATA
        ? 10-244-0-7.web.default.svc.cluster.local A
            NOERROR aa,rd
            10-244-0-7.web.default.svc.cluster.local. 30 IN A 10.244.0.7
        ? 10-244-0-5.web.default.svc.cluster.local A
            NXDOMAIN
        ? 10-244-3-215.service-test.default.svc.cluster.local A
            NOERROR aa,rd
            10-244-3-215.service-test.default.svc.cluster.local. 30 IN A 10.244.3.215
        ? 10-244-4-94.service-test.default.svc.cluster.local A
            NXDOMAIN
        ? _http._tcp.web.default.svc.cluster.local SRV
            NOERROR aa,rd
            _http._tcp.web.default.svc.cluster.local. 30 IN SRV 0 25 8080 web-0.web.default.svc.cluster.local.
            _http._tcp.web.default.svc.cluster.local. 30 IN SRV 0 25 8080 web-1.web.default.svc.cluster.local.
            _http._tcp.web.default.svc.cluster.local. 30 IN SRV 0 25 8080 10-244-0-7.web.default.svc.cluster.local.
            + web-0.web.default.svc.cluster.local. 30 IN A 10.244.0.5
            + web-1.web.default.svc.cluster.local. 30 IN A 10.244.0.6
            + 10-244-0-7.web.default.svc.cluster.local. 30 IN A 10.244.0.7
            + web-0.web.default.svc.cluster.local. 30 IN AAAA fd00:1::5
        ? portless.default.svc.cluster.local A
            NOERROR aa,rd
            portless.default.svc.cluster.local. 30 IN A 10.244.9.1
        ? portless.default.svc.cluster.local SRV
            NODATA
        ? quiet.default.svc.cluster.local A
            NXDOMAIN
        ? plain.default.svc.cluster.local A
            NOERROR aa,rd
            plain.default.svc.cluster.local. 30 IN A 10.96.0.61
        ? plain.default.svc.cluster.local SRV
            NODATA
        ? empty.default.svc.cluster.local A
            NOERROR aa,rd
            empty.default.svc.cluster.local. 30 IN A 10.96.0.60",
    );
}

#[test]
fn pointers() {
    check(
        &mut synced(KUBEADM),
        "? 155.251.102.10.in-addr.arpa PTR
            NOERROR aa,rd
            155.251.102.10.in-addr.arpa. 30 IN PTR service-test.default.svc.cluster.local.
        ? 215.3.244.10.in-addr.arpa PTR
            NOERROR aa,rd
            215.3.244.10.in-addr.arpa. 30 IN PTR 10-244-3-215.service-test.default.svc.cluster.local.
        ? 5.0.244.10.in-addr.arpa PTR
            NOERROR aa,rd
            5.0.244.10.in-addr.arpa. 30 IN PTR web-0.web.default.svc.cluster.local.
        ? 5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa PTR
            NOERROR aa,rd
            5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa. 30 IN PTR web-0.web.default.svc.cluster.local.
        ? service-test.default.svc.cluster.local PTR
            NODATA",
    );
    // Without fallthrough an unknown address is no name of ours.
    let found = dig(&mut synced(&with("")), "94.4.244.10.in-addr.arpa PTR");
    assert!(found.starts_with("NXDOMAIN aa,rd\nN in-addr.arpa. 30 IN SOA ns.dns.in-addr.arpa. "), "{found}");
}

#[test]
fn zone_and_version() {
    // `cache 30` caps what is longer, as CoreDNS's does.
    let found = dig(&mut synced(&with("")), "dns-version.cluster.local TXT");
    assert_eq!(found, "NOERROR aa,rd\ndns-version.cluster.local. 28800 IN TXT \"1.1.0\"");
    check(
        &mut synced(KUBEADM),
        "? dns-version.cluster.local TXT
            NOERROR aa,rd
            dns-version.cluster.local. 30 IN TXT \"1.1.0\"
        ? cluster.local SOA
            NOERROR aa,rd
            SOA
        ? cluster.local NS
            NOERROR aa,rd
            cluster.local. 30 IN NS kube-dns.kube-system.svc.cluster.local.
            + kube-dns.kube-system.svc.cluster.local. 30 IN A 10.96.0.10
        ? ns.dns.cluster.local A
            NOERROR aa,rd
            ns.dns.cluster.local. 30 IN A 10.96.0.10
        ? cluster.local AXFR
            REFUSED rd",
    );
}

#[test]
fn external_names() {
    check(
        &mut synced(KUBEADM),
        "? outside.default.svc.cluster.local CNAME
            NOERROR aa,rd
            outside.default.svc.cluster.local. 30 IN CNAME www.example.com.
        ? outside.default.svc.cluster.local SRV
            NODATA
        ? inside.default.svc.cluster.local A
            NOERROR aa,rd
            inside.default.svc.cluster.local. 30 IN CNAME service-test.default.svc.cluster.local.
            service-test.default.svc.cluster.local. 30 IN A 10.102.251.155
        ? inside.default.svc.cluster.local AAAA
            NODATA
        ? dangling.default.svc.cluster.local A
            NODATA
        ? round.default.svc.cluster.local A
            NODATA
        ? x.outside.default.svc.cluster.local A
            NXDOMAIN",
    );
    // Nobody to ask about the target: the alias stands alone.
    check(
        &mut synced(&with("")),
        "? outside.default.svc.cluster.local A
            NOERROR aa,rd
            outside.default.svc.cluster.local. 30 IN CNAME www.example.com.",
    );
}

#[test]
fn pods() {
    check(
        &mut synced(&with("pods insecure")),
        "? 10-9-8-7.default.pod.cluster.local A
            NOERROR aa,rd
            10-9-8-7.default.pod.cluster.local. 30 IN A 10.9.8.7
        ? fd00--1.default.pod.cluster.local AAAA
            NOERROR aa,rd
            fd00--1.default.pod.cluster.local. 30 IN AAAA fd00::1
        ? 10-9-8-7.nowhere.pod.cluster.local A
            NXDOMAIN
        ? web.default.pod.cluster.local A
            NXDOMAIN
        ? default.pod.cluster.local A
            NODATA",
    );
    check(
        &mut synced(&with("pods verified")),
        "? 10-244-0-5.default.pod.cluster.local A
            NOERROR aa,rd
            10-244-0-5.default.pod.cluster.local. 30 IN A 10.244.0.5
        ? 10-244-0-5.void.pod.cluster.local A
            NXDOMAIN
        ? 10-9-8-7.default.pod.cluster.local A
            NXDOMAIN",
    );
    check(
        &mut synced(&with("")),
        "? 10-244-0-5.default.pod.cluster.local A
            NXDOMAIN",
    );
}

#[test]
fn options() {
    for (option, question, expected) in [
        ("endpoint_pod_names", "my-nginx-1.service-test.default.svc.cluster.local A", "NOERROR"),
        ("", "my-nginx-1.service-test.default.svc.cluster.local A", "NXDOMAIN"),
        ("noendpoints", "web.default.svc.cluster.local A", "NXDOMAIN"),
        ("noendpoints", "5.0.244.10.in-addr.arpa PTR", "NXDOMAIN"),
        ("noendpoints", "service-test.default.svc.cluster.local A", "NOERROR"),
        ("ignore empty_service", "empty.default.svc.cluster.local A", "NXDOMAIN"),
        ("ignore empty_service", "service-test.default.svc.cluster.local A", "NOERROR"),
        ("namespaces kube-system", "service-test.default.svc.cluster.local A", "NXDOMAIN"),
        ("namespaces kube-system", "kube-dns.kube-system.svc.cluster.local A", "NOERROR"),
        ("namespaces kube-system", "155.251.102.10.in-addr.arpa PTR", "NXDOMAIN"),
        ("namespace_labels tier=default", "service-test.default.svc.cluster.local A", "NOERROR"),
        ("namespace_labels tier=default", "kube-dns.kube-system.svc.cluster.local A", "NXDOMAIN"),
        ("labels app in (web)", "web.default.svc.cluster.local A", "NOERROR"),
        ("labels app in (web)", "service-test.default.svc.cluster.local A", "NXDOMAIN"),
    ] {
        let found = dig(&mut synced(&with(option)), question);
        assert!(found.starts_with(expected), "{option}: {question}: {found}");
    }
}

#[test]
fn before_the_cluster_is_known() {
    let mut server = server(KUBEADM);
    assert!(!server.ready());
    let found = dig(&mut server, "service-test.default.svc.cluster.local A");
    // Failures are kept for five seconds, but for no longer than the cluster is as it was.
    assert!(found.starts_with("SERVFAIL aa,rd\nN cluster.local. 5 IN SOA"), "{found}");
    server.step(sealane_dns::Event::Snapshot(crate::cluster::snapshot()), crate::cluster::at(0));
    assert!(server.ready());
    assert!(dig(&mut server, "service-test.default.svc.cluster.local A").starts_with("NOERROR"));
}

#[test]
fn what_the_cluster_says_is_always_new() {
    let mut server = synced(KUBEADM);
    let dig_at = |server: &mut sealane_dns::Server, millis: u64| {
        let message = crate::cluster::query("web.default.svc.cluster.local A");
        let now = crate::cluster::at(millis);
        let effects = crate::cluster::ask(server, &message, sealane_dns::Transport::Udp, now);
        let [sealane_dns::Effect::Reply(bytes)] = effects.as_slice() else { panic!("{effects:?}") };
        let reply = sealane_dns::decode(bytes).unwrap();
        (reply.answers.len(), reply.answers.first().or(reply.authority.first()).map(|record| record.ttl))
    };
    assert_eq!(dig_at(&mut server, 0), (3, Some(30)));
    // `cache` sees no need to keep it: its time does not run.
    assert_eq!(dig_at(&mut server, 10_000), (3, Some(30)));
    server.step(sealane_dns::Event::Snapshot(Default::default()), crate::cluster::at(10_000));
    assert_eq!(dig_at(&mut server, 10_001), (0, Some(5)));
    server.step(sealane_dns::Event::Snapshot(crate::cluster::snapshot()), crate::cluster::at(10_002));
    assert_eq!(dig_at(&mut server, 10_003), (3, Some(30)));
}
