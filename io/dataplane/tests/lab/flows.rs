//! What becomes of flows when Services change, by whatever sink writes the rules.

use super::{
    Lab, Namespace, Rules, answers, ask, connect, connected, context, endpoints, entry, pod_ip, service,
};
use sealane_catalog::Service;
use sealane_proxy::RuleSink;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The proxy's threads look after flows so often.
const LOOK: Duration = Duration::from_millis(250);
const WEB: &str = "10.96.0.20";
const WEB_PORT: &str = "10.96.0.20:80";

/// Pod 3's connections spread over Pods 0 to 2, which see it as it is.
pub fn spread_evenly(lab: &Lab) {
    let mut counts = BTreeMap::new();
    for (number, source) in answers(&lab.pods[3], WEB_PORT, 600) {
        *counts.entry(number).or_insert(0) += 1;
        assert_eq!(source, pod_ip(3), "Pods keep their source");
    }
    // 200 each, standard deviation 11.5: beyond 6 of them once in half a billion runs.
    assert!(counts.len() == 3 && counts.values().all(|c| (130..=270).contains(c)), "{counts:?}");
}

/// Replacing endpoints under load fails no connection.
pub fn changes_lose_no_connection<S: RuleSink>(open: impl FnOnce(&Namespace) -> S, changes: usize) {
    let lab = Lab::new(4);
    lab.serve();
    let mut rules = Rules::of(open(&lab.node));
    let web = service("web", &[WEB]);
    rules.set(entry(web.clone(), &endpoints(&[0, 1, 2])));
    let changed = AtomicBool::new(false);
    let outcomes = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut outcomes = Vec::new();
            while !changed.load(Ordering::Relaxed) {
                outcomes.extend(connect(&lab.pods[3], WEB_PORT, 20));
            }
            outcomes
        });
        let sets: [&[usize]; 4] = [&[0], &[1, 2], &[0, 1, 2], &[2]];
        for set in sets.into_iter().cycle().take(changes) {
            rules.set(entry(web.clone(), &endpoints(set)));
        }
        // All anew, as after a failure, and what is done about flows behind that: at once, and in the look that follows.
        let mut anew = Instant::now();
        for _ in 0..4 {
            rules.sink.replace(&context(), rules.table.frontends()).unwrap();
            rules.sink.settle().unwrap();
            rules.sink.forget_flows().unwrap();
            anew = Instant::now();
        }
        while anew.elapsed() < LOOK {
            rules.sink.forget_flows().unwrap();
        }
        changed.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    let failed: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), outcomes.len(), failed[0]);
}

/// A client stays where it was led first. `outlasting`: also where all is written anew.
pub fn affinity_sticks_until_the_endpoint_goes<S: RuleSink>(
    open: impl FnOnce(&Namespace) -> S,
    outlasting: bool,
) {
    let lab = Lab::new(6);
    lab.serve();
    let mut rules = Rules::of(open(&lab.node));
    let sticky = Service { affinity_seconds: Some(10_800), ..service("web", &[WEB]) };
    rules.set(entry(sticky.clone(), &endpoints(&[0, 1, 2, 3])));
    let seen = |pod: usize, times| -> BTreeSet<usize> {
        answers(&lab.pods[pod], WEB_PORT, times).into_iter().map(|(n, _)| n).collect()
    };
    let led = |pod: usize| {
        let pods = seen(pod, 20);
        assert_eq!(pods.len(), 1, "client {pod} was led to {pods:?}");
        pods.into_iter().next().unwrap()
    };
    let but = |gone: usize| endpoints(&(0..4).filter(|n| *n != gone).collect::<Vec<_>>());
    let (first, second) = (led(4), led(5));
    // Another Service that comes, and endpoints that come, move nobody.
    rules.set(entry(service("other", &["10.96.0.21"]), &endpoints(&[0])));
    assert_eq!((led(4), led(5)), (first, second));
    rules.set(entry(sticky.clone(), &but(first)));
    let moved = led(4);
    assert_ne!(moved, first);
    if second != first {
        assert_eq!(led(5), second);
    }
    rules.set(entry(sticky.clone(), &endpoints(&[0, 1, 2, 3])));
    assert_eq!(led(4), moved, "who comes back does not take its clients back");
    // Others that leave move nobody either.
    rules.set(entry(sticky.clone(), &endpoints(&[moved, (moved + 1) % 4])));
    assert_eq!(led(4), moved);
    if outlasting {
        rules.sink.replace(&context(), rules.table.frontends()).unwrap();
        assert_eq!(led(4), moved);
    }
    rules.set(entry(sticky.clone(), &but(moved)));
    assert_ne!(led(4), moved);
    // Without affinity it spreads again.
    rules.set(entry(Service { affinity_seconds: None, ..sticky }, &endpoints(&[0, 1, 2, 3])));
    assert_eq!(seen(4, 60).len(), 4);
}

/// One client, one socket, one flow: it follows who serves.
pub fn udp_flows_leave_with_their_endpoint<S: RuleSink>(open: impl FnOnce(&Namespace) -> S) {
    let lab = Lab::new(3);
    lab.serve();
    let mut rules = Rules::of(open(&lab.node));
    let dns = service("dns", &["10.96.0.10"]);
    rules.set(entry(dns.clone(), &endpoints(&[0])));
    let socket = connected(&lab.pods[2], "10.96.0.10:80");
    assert_eq!(ask(&socket).unwrap().0, 0);
    rules.set(entry(dns.clone(), &endpoints(&[1])));
    assert_eq!(ask(&socket).unwrap().0, 1, "the flow follows");
    rules.set(entry(dns.clone(), &endpoints(&[0, 1])));
    assert_eq!(ask(&socket).unwrap().0, 1, "who comes takes nobody away");
    rules.set(entry(dns.clone(), &[]));
    assert_eq!(ask(&socket).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    rules.set(entry(dns, &endpoints(&[0])));
    assert_eq!(ask(&socket).unwrap().0, 0);
}
