//! `autopath`: search lists that the server goes through.

use sealane_catalog::Source;
use sealane_dns::{Config, Server};
use serde_json::{Value, json};

use crate::cluster::{check, dig_from, knowing, service, show};

fn objects() -> Vec<(Source, Value)> {
    vec![
        (Source::Namespaces, json!({"metadata": {"name": "default"}})),
        (Source::Namespaces, json!({"metadata": {"name": "other"}})),
        service("default", "web", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]})),
        service("other", "api", json!({"clusterIP": "10.96.0.2", "ports": [{"port": 80}]})),
        (
            Source::Pods,
            json!({"metadata": {"namespace": "default", "name": "p"},
                "status": {"podIPs": [{"ip": "10.244.0.9"}, {"ip": "fd00::9"}]}}),
        ),
    ]
}

/// Outside are x.com and wiki.corp.example; everything else of `.` fails, and of `example` is not there.
fn with(pods: &str) -> Server {
    let corefile = format!(
        "cluster.local com corp.example {{
            autopath @kubernetes
            hosts /none {{
                192.0.2.80 x.com wiki.corp.example
                fallthrough
            }}
            kubernetes cluster.local com corp.example {{
                pods {pods}
            }}
        }}"
    );
    knowing(&corefile, &objects())
}

#[test]
fn the_pods_search_list() {
    let mut server = with("verified");
    check(
        &mut server,
        "? x.com.default.svc.cluster.local A
            NOERROR aa,rd
            x.com.default.svc.cluster.local. 3600 IN CNAME x.com.
            x.com. 3600 IN A 192.0.2.80
        ? X.com.Default.svc.cluster.local A
            NOERROR aa,rd
            X.com.Default.svc.cluster.local. 3600 IN CNAME X.com.
            X.com. 3600 IN A 192.0.2.80
        ? wiki.default.svc.cluster.local A
            NOERROR aa,rd
            wiki.default.svc.cluster.local. 3600 IN CNAME wiki.corp.example.
            wiki.corp.example. 3600 IN A 192.0.2.80
        ? api.other.default.svc.cluster.local A
            NOERROR aa,rd
            api.other.default.svc.cluster.local. 5 IN CNAME api.other.svc.cluster.local.
            api.other.svc.cluster.local. 5 IN A 10.96.0.2
        ? web.default.svc.cluster.local A
            NOERROR aa,rd
            web.default.svc.cluster.local. 5 IN A 10.96.0.1
        ? x.com.other.svc.cluster.local A
            NXDOMAIN aa,rd
            N cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1700000000 7200 1800 86400 5
        ? y.com.default.svc.cluster.local A
            NXDOMAIN aa,rd
            N cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1700000000 7200 1800 86400 5",
    );
    // Both of the Pod's addresses are the Pod.
    for client in ["10.244.0.9", "fd00::9", "::ffff:10.244.0.9"] {
        let reply = dig_from(&mut server, client, "x.com.default.svc.cluster.local A");
        assert_eq!(reply.answers.len(), 2, "{client}");
    }
    let stranger = dig_from(&mut server, "10.244.0.8", "x.com.default.svc.cluster.local A");
    assert!(show(&stranger).starts_with("NXDOMAIN"));
    let mut page = String::new();
    server.render_metrics(&mut page);
    assert!(page.contains("coredns_autopath_success_total{server=\"dns://:53\""), "{page}");
}

#[test]
fn pods_have_to_be_known() {
    let reply = dig_from(&mut with("insecure"), "10.244.0.9", "x.com.default.svc.cluster.local A");
    assert!(show(&reply).starts_with("NXDOMAIN"));
}

#[test]
fn a_file_with_a_search_list() {
    let corefile = ". {\n autopath /search.conf\n hosts /none {\n 192.0.2.1 a.b.example\n fallthrough\n }\n kubernetes example\n}";
    let mut server = knowing(corefile, &objects());
    check(
        &mut server,
        "? a.a.example A
            NOERROR aa,rd
            a.a.example. 3600 IN CNAME a.b.example.
            a.b.example. 3600 IN A 192.0.2.1
        ? a.b.example A
            NOERROR aa,rd
            a.b.example. 3600 IN A 192.0.2.1",
    );
}

#[test]
fn refused() {
    for (lines, error) in [
        ("autopath", "2:2: 'autopath' needs a resolv.conf, or '@kubernetes'"),
        ("autopath @erratic", "2:11: '@erratic' has no search lists"),
        ("autopath @kubernetes", "2:11: there is no 'kubernetes' in this server block"),
        ("autopath a..b /x", "2:11: 'a..b' is no zone"),
    ] {
        let corefile = format!(". {{\n {lines}\n}}");
        let found = Config::parse("Corefile", &corefile, &Default::default(), 53).unwrap_err().to_string();
        assert!(found.starts_with(&format!("Corefile:{error}")), "{lines}: {found}");
    }
    let mut config = Config::parse("Corefile", ". {\n autopath /none\n}", &Default::default(), 53).unwrap();
    let found = config.load("/none", None).unwrap_err().to_string();
    assert_eq!(found, "Corefile:2:2: 'autopath' cannot read /none");
}
