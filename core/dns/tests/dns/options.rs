//! A directive or option that parses takes effect or is refused: every word of every plugin's lines, one by one.
//!
//! What a Corefile means is what it becomes. A word that can be taken away, or added, without a change in that and
//! without an error is one that is ignored.

use std::sync::Arc;

use sealane_dns::chain::Randomness;
use sealane_dns::corefile::Sources;
use sealane_dns::{Config, order};

/// Lines with all words that a plugin may have, none of which says what would hold without it.
const LINES: &[&str] = &[
    "shadow 192.0.2.1 example.org {\nsample 7%\nttl 7s\ntimeout 7s\nmax_concurrent 7\nlog 7\n}",
    "fairness 7",
    "root /x",
    "metadata example.org",
    "cancel 7s",
    "https {\nmax_connections 7\n}",
    "grpc_server {\nmax_streams 7\nmax_connections 0\n}",
    "timeouts {\nread 2s\nwrite 3s\nidle 4s\nmaxtcpqueries 5\n}",
    "multisocket 3",
    "reload 40s 10s",
    "nsid a b",
    "bufsize 700",
    "bind 127.0.0.1 ::1 {\nexcept ::1\n}",
    "bind 127.0.0.1\nbind 127.0.0.2",
    "debug",
    "ready :1 {\nmonitor continuously\n}",
    "health :1 {\nlameduck 5s\n}",
    "prometheus :1",
    "errors {\nstacktrace\nconsolidate 1s a warning show_first\nconsolidate 2s b\n}",
    "log example.org {type} {\nclass denial error\n}",
    "log example.org\nlog example.net",
    "dnstap /s full 2 3 {\nidentity a\nversion b\nextra c\n}",
    "dnstap tls://h:1 full {\nskipverify\n}",
    "dnstap listen tls://h:1 full {\nidentity a\nversion b\nextra c\ntls c k a\nskipverify\n}",
    "dnstap /s\ndnstap tcp://h:1",
    "trace h:1 {\nevery 7\nservice a\nclient_server true\nzipkin_max_backlog_size 7\nzipkin_max_batch_size 7\n\
     zipkin_max_batch_interval 7s\n}",
    "trace otlp h:1 {\nevery 0\nservice a\notlp_max_backlog_size 7\notlp_max_batch_size 7\notlp_max_batch_interval 7s\n}",
    "local {\nlocalhost_prefix off\n}",
    "any",
    "chaos version one two",
    "loadbalance weighted /w {\nreload 1s\nprefer 10.0.0.0/8 2001:db8::/32\n}",
    "loadbalance {\nprefer 10.0.0.0/8\n}",
    "rewrite continue name suffix a.example b.example",
    "rewrite ttl suffix a.example 30",
    "rewrite type ANY HINFO",
    "rewrite class CH IN",
    "rewrite edns0 local set 0xffee abc",
    "acl example.org {\nblock type A AAAA net 10.0.0.0/8 192.0.2.1\nallow type MX\ndrop net 2001:db8::/32\nfilter\n}",
    "acl example.org\nacl example.net",
    "cache 30 example.org {\nsuccess 2048 40 3\ndenial 2560\nprefetch 3 2m 20%\nserve_stale 2h verify 1s 30s 20s\n\
     serve_stale_policy prefer_positive\nservfail 7s\ndisable success a.example b.example\ndisable denial c.example\nkeepttl\n}",
    "cache {\ndenial 2560 50 4\nserve_stale 2h immediate 30s 20s\n}",
    "template IN A a.example b.example {\nmatch ^a ^b\nanswer \"{{.Name}} 60 IN A 192.0.2.1\"\n\
     additional \"b. 60 IN A 192.0.2.1\"\nauthority \"c. 60 IN A 192.0.2.1\"\nrcode NXDOMAIN\nederror 21 reason\nfallthrough d.example\n}",
    "hosts /h example.org {\n192.0.2.1 a.example.org b.example.org\nttl 7\nno_reverse\nreload 7s\nfallthrough c.example\n\
     fallthrough_unsupported\n}",
    "kubernetes cluster.local a.example {\npods insecure\nendpoint_pod_names\nttl 7\nnamespaces a b\n\
     labels \"a in (b, c)\"\nnoendpoints\nignore empty_service\nfallthrough b.example c.example\n}",
    "kubernetes cluster.local {\nnamespace_labels a=b\nstartup_timeout 7s\n}",
    "kubernetes cluster.local {\npods verified\nzonal\nsearch collapse\ngrpc_config\nzone_order\n}",
    "kubernetes cluster.local {\nkubeconfig /k context\n}",
    "kubernetes cluster.local a.example b.example {\nmulticluster a.example b.example\n}",
    "kubernetes cluster.local {\nendpoint https://192.0.2.1:6443\ntls c k a\n}",
    "loop",
    "forward a.example 192.0.2.1 192.0.2.2 {\nexcept b.a.example c.a.example\nforce_tcp\nexpire 7s\nmax_fails 7\n\
     max_concurrent 7\npolicy sequential\nhealth_check 1s no_rec domain example.org\n}",
    "forward . /etc/resolv.conf {\nprefer_udp\n}",
    "forward . tls://192.0.2.1 {\ntls c k a\ntls_servername a.example\nmax_age 7m\nmax_idle_conns 7\nread_timeout 7s\n\
     max_connect_attempts 7\nsource_address 192.0.2.7\n}",
    "forward . dns.example {\nresolver 192.0.2.1 192.0.2.2:54\nnext NXDOMAIN SERVFAIL\nnext_on_nodata\n\
     failfast_all_unhealthy_upstreams\nfailover SERVFAIL REFUSED\n}",
    "grpc a.example 192.0.2.1 192.0.2.2:54 {\nexcept b.a.example c.a.example\ntls c k a\ntls_servername d.example\n\
     policy sequential\nfallthrough e.a.example f.a.example\n}",
    "grpc . unix:///s /etc/resolv.conf {\npolicy round_robin\n}",
    "erratic {\ndrop 3\ntruncate 4\ndelay 5 1s\nlarge\n}",
    "whoami",
    "dnssec example.org {\nkey file Ka Kb\ncache_capacity 7\n}",
    "tls c k a {\nclient_auth require_and_verify\n}",
    "transfer example.org {\nto 192.0.2.1 192.0.2.2\nsource 192.0.2.3\n}",
    "secondary example.org a.example {\ntransfer from 192.0.2.1 192.0.2.2\ncatalog b.example c.example\nfallthrough d.example\n}",
    "tsig example.org {\nsecret a YQ==\nsecret b Yg==\nsecrets /s\nrequire A AAAA\nrequire_opcode NOTIFY UPDATE\n}",
    "sign /z example.org a.example {\nkey file Ka Kb\nkey directory /k /l\ndirectory /d\n}",
    "tsig {\nrequire all\nrequire_opcode all\n}",
    "k8s_external example.org a.example {\napex b\nttl 7\nheadless\nfallthrough c.example\n}\nkubernetes cluster.local",
    "file /z example.org a.example {\nreload 7s\nfallthrough b.example\n}",
    "auto example.org {\ndirectory /d (.*)x {1}\nreload 7s\nfallthrough b.example\n}",
    "autopath @kubernetes\nkubernetes cluster.local {\npods verified\n}",
    "header {\nquery set rd\nresponse clear aa ra\n}",
    "dns64 {\nprefix 64:ff9b:1::/96\ntranslate_all\nallow_ipv4\n}",
    "minimal",
    "view v {\nexpr type() == 'A'\nexpr name() == 'a.'\n}",
];

/// Lines that say what holds anyway, and that line without it.
const DEFAULTS: &[(&str, &str)] = &[
    (
        "shadow 192.0.2.1:53 {\nsample 100%\nttl 30s\ntimeout 2s\nmax_concurrent 1000\nlog 10\n}",
        "shadow 192.0.2.1",
    ),
    ("fairness 100", "fairness"),
    ("bufsize 1232", "bufsize"),
    ("cancel 5001ms", "cancel"),
    ("reload 30s 15s", "reload"),
    ("ready :8181 {\nmonitor until-ready\n}", "ready"),
    ("health :8080 {\nlameduck 0\n}", "health"),
    ("prometheus localhost:9153", "prometheus"),
    ("errors stdout", "errors"),
    ("log .", "log"),
    ("log {common}", "log"),
    ("log {\nclass all\n}", "log"),
    ("local {\nlocalhost_prefix on\n}", "local"),
    ("loadbalance round_robin", "loadbalance"),
    ("cache . {\nsuccess 9984 3600 5\ndenial 9984 1800 5\nservfail 5s\n}", "cache"),
    ("cache {\nserve_stale 1h immediate 0 0\n}", "cache {\nserve_stale\n}"),
    ("cache {\nserve_stale 1h verify 0 0 0\n}", "cache {\nserve_stale 1h verify\n}"),
    ("cache {\nprefetch 2 1m 10%\n}", "cache {\nprefetch 2\n}"),
    ("cache {\ndisable success .\n}", "cache {\ndisable success\n}"),
    ("hosts /etc/hosts . {\nttl 3600\nreload 5s\n}", "hosts"),
    ("hosts /h {\nfallthrough .\n}", "hosts /h {\nfallthrough\n}"),
    ("dnstap /s full 1 1", "dnstap unix:///s full"),
    ("trace zipkin localhost:9411 {\nevery 1\nservice coredns\nclient_server false\n}", "trace"),
    (
        "trace {\nzipkin_max_backlog_size 1000\nzipkin_max_batch_size 100\nzipkin_max_batch_interval 1s\n}",
        "trace {\nzipkin_max_backlog_size 0\nzipkin_max_batch_size 0\nzipkin_max_batch_interval 0\n}",
    ),
    ("grpc . 192.0.2.1 {\npolicy random\n}", "grpc . 192.0.2.1:53"),
    ("grpc . 192.0.2.1 {\nfallthrough .\n}", "grpc . 192.0.2.1 {\nfallthrough\n}"),
    ("erratic {\ndrop 2\n}", "erratic"),
    ("erratic {\ndelay 2 100ms\n}", "erratic {\ndelay\n}"),
    ("tsig {\nrequire none\nrequire_opcode none\n}", "tsig"),
    ("acl {\nblock type * net *\n}", "acl {\nblock type * net 0.0.0.0/0 ::/0\n}"),
];

/// Words that change nothing in their line, and why.
const IDLE: &[(&str, &str)] = &[
    ("'::1' of 'bind 127.0.0.1 ::1 {'", "what is excepted need not be bound"),
    ("a word behind 'except ::1'", "what is excepted need not be bound"),
    ("'true' of 'client_server true'", "it is what the word alone says"),
    ("startup_timeout 7s", "what is not known yet is answered with SERVFAIL from the start"),
];

/// What a server block with these lines becomes, or why it is refused.
fn meaning(lines: &str) -> Result<String, String> {
    let text = format!(". {{\n{lines}\n}}");
    let random = Randomness::new(Arc::new(ring::rand::SystemRandom::new()));
    let sources = Sources { random, ..Sources::default() };
    let config = Config::parse("Corefile", &text, &sources, 53);
    config.map(|config| format!("{config:?}")).map_err(|error| error.to_string())
}

/// Words, quoted ones whole.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (i, part) in line.split('"').enumerate() {
        match i % 2 {
            1 => words.push(format!("\"{part}\"")),
            _ => words.extend(part.split_whitespace().map(str::to_owned)),
        }
    }
    words
}

/// The lines with one of them in another form; none where that is empty.
fn with(lines: &[Vec<String>], at: usize, line: Option<Vec<String>>) -> String {
    let lines = lines
        .iter()
        .enumerate()
        .filter_map(|(i, old)| if i == at { line.clone() } else { Some(old.clone()) });
    lines.map(|line| line.join(" ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_word_takes_effect_or_is_refused() {
    let mut all = Vec::new();
    for text in LINES {
        let meant = meaning(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
        assert_eq!(meaning(text).as_ref(), Ok(&meant), "{text}: it means another thing each time");
        let lines: Vec<Vec<String>> = text.lines().map(words).collect();
        let mut ignored = |changed: &str, what: &str| {
            if meaning(changed).as_ref() == Ok(&meant) && !IDLE.iter().any(|(idle, _)| *idle == what) {
                all.push(format!("{what} is ignored in: {text}"));
            }
        };
        for (at, line) in lines.iter().enumerate() {
            let braces = [vec!["}".to_owned()]];
            if braces.contains(line) {
                continue;
            }
            // A line less.
            if !line.ends_with(&["{".to_owned()]) {
                ignored(&with(&lines, at, None), &line.join(" "));
            }
            // A word less.
            for word in (1..line.len()).filter(|word| line[*word] != "{") {
                let mut shorter = line.clone();
                let gone = shorter.remove(word);
                ignored(&with(&lines, at, Some(shorter)), &format!("'{gone}' of '{}'", line.join(" ")));
            }
            // A word more.
            let mut longer = line.clone();
            let end = longer.len() - usize::from(line.ends_with(&["{".to_owned()]));
            longer.insert(end, "10.9.8.7".to_owned());
            ignored(&with(&lines, at, Some(longer)), &format!("a word behind '{}'", line.join(" ")));
        }
        // An option that there is not, in each block that is there, or in one of its own.
        let first = lines[0].iter().filter(|word| *word != "{").cloned().collect::<Vec<_>>().join(" ");
        let unknown = meaning(&format!("{first} {{\nno_such_option\n}}"));
        assert!(unknown.is_err(), "{first} takes any option");
    }
    assert!(all.is_empty(), "{}", all.join("\n\n"));
}

#[test]
fn defaults_are_what_they_are_said_to_be() {
    for (written, short) in DEFAULTS {
        // What `*` is made of shows only in the answers: tests of `acl`.
        if !written.starts_with("acl") {
            assert_eq!(meaning(written), meaning(short), "{written}");
        }
        meaning(written).unwrap_or_else(|error| panic!("{written}\n{error}"));
    }
}

#[test]
fn every_plugin_is_in_the_table() {
    let missing: Vec<&str> = order::plugin_names()
        .filter(|name| !LINES.iter().any(|line| line.split_whitespace().next() == Some(name)))
        .collect();
    assert!(missing.is_empty(), "no lines for {missing:?}: add one of each with all its options to LINES");
    // What is not there is refused by name.
    for row in order::ROWS.iter().filter(|row| row.setup.is_none()) {
        let error = meaning(row.name).unwrap_err();
        assert!(error.contains(&format!("plugin '{}' is CoreDNS's", row.name)), "{error}");
    }
}

/// Those of clouds and of other stores are CoreDNS's; those that are not even that have no meaning here.
#[test]
fn what_is_not_there_is_refused_by_name() {
    for name in ["geoip", "etcd", "route53", "azure", "clouddns", "nomad"] {
        let expected =
            format!("Corefile:2:1: plugin '{name}' is CoreDNS's, but not Sealane's yet; remove it");
        assert_eq!(meaning(&format!("{name} a {{\nb c\n}}")), Err(expected));
    }
    for name in ["kubeapi", "unbound", "alternate"] {
        assert_eq!(meaning(name), Err(format!("Corefile:2:1: unknown plugin '{name}'")));
    }
}

#[test]
fn what_stands_twice_is_several_or_refused() {
    for row in order::ROWS.iter().filter(|row| row.setup.is_some() && !row.many) {
        let line = LINES.iter().find(|line| line.split_whitespace().next() == Some(row.name)).unwrap();
        let error = meaning(&format!("{line}\n{line}")).unwrap_err();
        assert!(
            error.ends_with(&format!("plugin '{}' stands twice in this server block", row.name)),
            "{error}"
        );
    }
}

/// The options that CoreDNS documents for the plugins that each Corefile of a cluster has: each is in a line of the
/// table, or refused with a sentence about itself.
#[test]
fn every_option_of_the_great_three_is_known() {
    let refused = ["apiserver_qps", "apiserver_burst", "apiserver_max_inflight", "doh_method"];
    for (first, options) in [
        (
            "kubernetes cluster.local",
            "endpoint tls kubeconfig apiserver_qps apiserver_burst apiserver_max_inflight namespaces namespace_labels \
             labels pods endpoint_pod_names ttl noendpoints fallthrough ignore multicluster zonal startup_timeout",
        ),
        (
            "forward . 192.0.2.1",
            "except force_tcp prefer_udp expire max_age max_idle_conns read_timeout max_fails max_connect_attempts \
             doh_method tls tls_servername policy health_check max_concurrent next next_on_nodata \
             failfast_all_unhealthy_upstreams failover source_address resolver",
        ),
        ("cache", "success denial prefetch serve_stale serve_stale_policy servfail disable keepttl"),
    ] {
        let plugin = first.split_whitespace().next().unwrap();
        let lines: Vec<&str> =
            LINES.iter().filter(|line| line.starts_with(plugin)).flat_map(|text| text.lines()).collect();
        for option in options.split_whitespace() {
            let tried = lines.iter().any(|line| line.split_whitespace().next() == Some(option));
            let error = meaning(&format!("{first} {{\n{option} 7\n}}")).err();
            let said = error.filter(|error| error.contains(&format!("'{option}'")));
            assert!(tried != refused.contains(&option), "{plugin} {{ {option} }}");
            assert!(tried || said.is_some(), "{plugin} {{ {option} }} is refused without a reason");
        }
    }
}
