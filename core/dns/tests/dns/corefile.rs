//! Corefiles: what they mean, and what is said where they mean nothing.

use std::time::Duration;

use proptest::prelude::*;
use sealane_dns::Config;
use sealane_dns::corefile::Sources;
use sealane_dns::plugins::cache::Cache;
use sealane_dns::plugins::forward::{Forward, Policy, Upstream};
use sealane_dns::plugins::hosts::Hosts;
use sealane_dns::plugins::kubernetes::{Kubernetes, PodMode};

fn parse(text: &str) -> Result<Config, String> {
    let mut sources = Sources::default();
    sources.env.insert("ZONE".into(), "example.org".into());
    sources.env.insert("PORT".into(), "1053".into());
    sources.files.insert("other".into(), vec![("other".into(), "example.net {\n errors\n}".into())]);
    sources.files.insert("self".into(), vec![("self".into(), "import self".into())]);
    Config::parse("Corefile", text, &sources, 53).map_err(|error| error.to_string())
}

#[test]
fn kubeadms() {
    let config = parse(
        ".:53 {
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
            forward . /etc/resolv.conf 10.0.0.2 [fd00::2]:5353 {
               max_concurrent 1000 # comment
               except www.baidu.com.
               policy sequential
            }
            hosts {
               192.168.10.33 harbor.test.com
               fallthrough
            }
            cache 30 {
               disable success cluster.local
               prefetch 5 10m 20%
            }
            loop
            reload 10s 2s
            loadbalance
        }",
    )
    .unwrap();
    let block = &config.blocks[0];
    assert_eq!(config.ports(), [53]);
    let files: Vec<String> = config.files().into_iter().map(|want| want.path).collect();
    assert_eq!(files, ["/etc/hosts", "/etc/resolv.conf"]);
    assert_eq!(block.settings.health.as_ref().unwrap().lameduck, Duration::from_secs(5));
    assert_eq!(block.settings.reload.unwrap().interval, Duration::from_secs(10));
    let kubernetes = config.plugins_of::<Kubernetes>().next().unwrap();
    assert_eq!(kubernetes.pods, PodMode::Insecure);
    assert_eq!((kubernetes.ttl, kubernetes.zones.len()), (30, 3));
    let forward = config.plugins_of::<Forward>().next().unwrap().config();
    assert_eq!(forward.to[0], Upstream::ResolvConf("/etc/resolv.conf".into()));
    assert_eq!(forward.to[2], Upstream::Address("[fd00::2]:5353".parse().unwrap()));
    assert_eq!((forward.max_concurrent, forward.policy), (1000, Policy::Sequential));
    assert_eq!(config.plugins_of::<Hosts>().next().unwrap().inline, "192.168.10.33 harbor.test.com\n");
    let cache = config.plugins_of::<Cache>().next().unwrap().config();
    assert_eq!((cache.success.max_ttl.as_secs(), cache.denial.max_ttl.as_secs()), (30, 30));
    assert_eq!(cache.prefetch.unwrap().percentage, 20);
    // In the order in which a query passes them.
    let order = "reload ready health prometheus errors loadbalance cache hosts kubernetes loop forward";
    assert_eq!(block.plugins.join(" "), order);
    assert!(config.needs().cluster && !config.needs().pods);
}

#[test]
fn snippets_imports_environment_and_quotes() {
    let config = parse(
        "(common) {\n errors\n forward . 10.0.0.1\n}\n{$ZONE}:{$PORT} {\n import common\n}\n\
         a.example, b.example \"c.example\" {\n hosts \"/with space\" {\n 10.0.0.1 x\n }\n}\nimport other\n",
    )
    .unwrap();
    assert_eq!(config.blocks[0].keys[0].zone.to_string(), "example.org.");
    assert_eq!(config.blocks[0].keys[0].port, 1053);
    let forward = config.plugins_of::<Forward>().next().unwrap().config();
    assert_eq!(forward.to, [Upstream::Address("10.0.0.1:53".parse().unwrap())]);
    assert_eq!(config.blocks[1].keys.len(), 3);
    assert_eq!(config.plugins_of::<Hosts>().next().unwrap().path, "/with space");
    assert_eq!(config.blocks[2].keys[0].zone.to_string(), "example.net.");
    // Without braces the rest of the file is one block.
    let config = parse(".:5353\nerrors\nforward . 10.0.0.1").unwrap();
    assert_eq!((config.blocks.len(), config.blocks[0].plugins.len()), (1, 2));
}

#[test]
fn errors_say_where_and_what() {
    for (text, error) in [
        ("", "Corefile:1:1: there is no server block"),
        (
            ".:53 {\n  errors\n",
            "Corefile:1:6: this brace is never closed: a '}' is missing at the file's end",
        ),
        ("{\n errors\n}", "Corefile:1:1: a server block needs a zone before its brace, as in '. {'"),
        (". {\n  nonsense\n}", "Corefile:2:3: unknown plugin 'nonsense'"),
        (
            ". {\n route53 name a b\n}",
            "Corefile:2:2: plugin 'route53' is CoreDNS's, but not Sealane's yet; remove it",
        ),
        (
            ". {\n cache {\n  magic\n }\n}",
            "Corefile:3:3: option 'magic' of 'cache' is unknown, or not Sealane's yet",
        ),
        (". {\n cache x..y\n}", "Corefile:2:8: 'x..y' is no zone: empty label"),
        (". {\n errors\n errors\n}", "Corefile:3:2: plugin 'errors' stands twice in this server block"),
        (". {\n forward .\n}", "Corefile:2:10: 'forward' needs where to forward to behind its zone"),
        (
            ". {\n forward . quic://1.1.1.1\n}",
            "Corefile:2:12: forwarding to quic:// is unknown, or not Sealane's yet",
        ),
        (
            ". {\n forward . 10.0.0.1 {\n  doh_method\n }\n}",
            "Corefile:3:3: option 'doh_method' of 'forward' is unknown, or not Sealane's yet",
        ),
        (". {\n health {\n  lameduck 5\n }\n}", "Corefile:3:12: '5' is no duration (5s, 1m30s, 500ms)"),
        (
            ". {\n kubernetes {\n  ttl 9999\n }\n}",
            "Corefile:3:7: a TTL of kubernetes lies between 0 and 3600",
        ),
        (
            ". {\n kubernetes in-addr.arpa\n}",
            "Corefile:2:2: 'kubernetes' needs a zone that is not a reverse one",
        ),
        (
            ". {\n kubernetes {\n  pods maybe\n }\n}",
            "Corefile:3:8: 'maybe' is no mode of pods (disabled, insecure, verified)",
        ),
        (
            ". {\n errors\n}\n.:53 {\n}",
            "Corefile:4:1: cannot serve dns://.:53 - it is already defined at Corefile:1:1; remove one of the two, or \
             let each 'bind' addresses of its own",
        ),
        (
            ". {\n import nothing\n}",
            "Corefile:2:9: there is no snippet (nothing) before this line, and no file nothing",
        ),
        ("import self", "self:1:8: self imports itself"),
        (". {\n log \"x\n}", "Corefile:2:6: this quote never ends"),
        (". {\n loadbalance random\n}", "Corefile:2:14: 'random' is no policy (round_robin, weighted)"),
        (". {\n prometheus here\n}", "Corefile:2:13: 'here' is no address with a port"),
        ("quic://. {\n}", "Corefile:1:1: quic:// is not Sealane's yet; remove it"),
        (". {\n health {\n  lameduck 5s {\n  }\n }\n}", "Corefile:3:15: an option has no block of its own"),
    ] {
        assert_eq!(parse(text).unwrap_err(), error, "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_corefile_or_none(text in ".{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_words_are_a_corefile_or_none(words in prop::collection::vec(prop::sample::select(&[
        ".", ":53", "{", "}", "\n", "\n", "(a)", "import", "a", "self", "other", "\"", "{$ZONE}", "{$", "#", "errors",
        "log", "cache", "30", "forward", "10.0.0.1", "hosts", "kubernetes", "pods", "ttl", "5s", "10.0.0.0/8", "::/0",
        "class", "success", "prefetch", "10%", "health", "lameduck", "{args.0}", ",", "fallthrough", "labels", "bind",
    ][..]), 0..40)) {
        let _ = parse(&words.join(" "));
    }
}
