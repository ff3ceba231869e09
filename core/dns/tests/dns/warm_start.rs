//! Answers while the API is away: from the last snapshot for as long as it takes, and from a saved one after a start.

use std::sync::Arc;
use std::time::Duration;

use sealane_catalog::{Builder, Event as Change, Saved, Snapshot, Source, save};
use sealane_dns::{Config, Effect, Event, Now, Server, Transport, decode};

use crate::cluster::{ask, at, dig, objects, query, relisted, server, show, snapshot};

const SOURCES: [Source; 3] = [Source::Services, Source::EndpointSlices, Source::Namespaces];
const COREFILE: &str = ". {\n kubernetes cluster.local {\n  warm_start /var/lib/dns/view 2h\n }\n}";
const NAME: &str = "web-0.web.default.svc.cluster.local A";
const START: u64 = 1_700_000_000;

fn after(seconds: u64) -> Now {
    Now { unix: START + seconds, monotonic: Duration::from_secs(seconds), ..at(0) }
}

fn age(server: &Server) -> Option<u64> {
    let mut page = String::new();
    server.render_metrics(&mut page);
    page.lines().find_map(|line| line.strip_prefix("sealane_dns_view_age_seconds ")?.parse().ok())
}

/// The answer to a client that speaks EDNS.
fn dig_at(server: &mut Server, now: Now) -> String {
    let effects = ask(server, &query(&format!("{NAME} +edns")), Transport::Udp, now);
    let [Effect::Reply(bytes)] = effects.as_slice() else { panic!("{effects:?}") };
    show(&decode(bytes).unwrap())
}

/// A builder that begins with the tables' cluster as it was.
fn restored() -> (Builder, Arc<Snapshot>) {
    let mut file = Vec::new();
    save(&snapshot(), &SOURCES, START - 60, &mut file).unwrap();
    let mut builder = Builder::new(&SOURCES);
    builder.restore(&Saved::read(&file).unwrap()).unwrap();
    let snapshot = builder.publish().0;
    (builder, snapshot)
}

#[test]
fn an_api_that_is_away_for_an_hour_is_missed_by_nobody_and_shows_in_the_metric() {
    let mut builder = restored().0;
    let mut server = server(COREFILE);
    assert_eq!(age(&server), None);
    let fresh = relisted(&mut builder, &objects());
    assert!(!fresh.restored());
    server.step(Event::Snapshot(fresh), at(0));
    assert_eq!(age(&server), Some(0));
    for source in SOURCES {
        builder.apply(Change::Lost(source, START + 100));
    }
    let lost = builder.publish().0;
    assert_eq!(lost.as_of(), Some(START + 100));
    server.step(Event::Snapshot(lost), after(100));
    for second in (100..3700).step_by(30) {
        server.step(Event::Tick, after(second));
        assert_eq!(age(&server), Some(second - 100));
        let answer = dig_at(&mut server, after(second));
        assert!(answer.contains("A 10.244.0.5") && answer.contains("OPT 1232 [10]"), "{answer}");
        builder.apply(Change::Lost(Source::Services, START + second));
        server.step(Event::Snapshot(builder.publish().0), after(second));
    }
    for source in SOURCES {
        builder.apply(Change::Connected(source));
    }
    server.step(Event::Snapshot(builder.publish().0), after(3700));
    assert_eq!(age(&server), Some(0));
}

#[test]
fn a_saved_cluster_answers_as_the_same_one_did_and_says_that_it_is_stale() {
    let (_, old) = restored();
    assert!(old.synced() && old.restored());
    assert!(*old == *snapshot());
    let mut server = server(COREFILE);
    server.step(Event::Snapshot(old), at(0));
    assert!(server.ready());
    assert_eq!(age(&server), Some(60));
    let plain = dig(&mut server, NAME);
    assert!(plain.starts_with("NOERROR aa") && plain.contains("A 10.244.0.5") && !plain.contains("OPT"));
    for (name, code) in [(NAME, 3u16), ("no.default.svc.cluster.local A", 19)] {
        let reply = crate::cluster::dig_from(&mut server, "10.244.0.9", &format!("{name} +edns"));
        let options = reply.edns.unwrap().options;
        let codes: Vec<u16> = options.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, [10, 15], "{name}");
        assert_eq!(options[1].1[..2], code.to_be_bytes());
        assert_eq!(&options[1].1[2..], b"the Kubernetes API does not answer");
    }
}

#[test]
fn the_apis_word_goes_over_the_saved_one_once_all_of_it_is_there() {
    let (mut builder, old) = restored();
    let mut server = server(COREFILE);
    server.step(Event::Snapshot(old), at(0));
    assert!(dig(&mut server, NAME).contains("A 10.244.0.5"));
    // Services are listed, and there are none any more; endpoints are not yet.
    builder.apply(Change::RelistBegin(Source::Services));
    builder.apply(Change::RelistEnd(Source::Services));
    let (half, delta) = builder.publish();
    assert!(half.restored() && delta.is_empty());
    server.step(Event::Snapshot(half), at(10));
    assert!(dig(&mut server, NAME).contains("A 10.244.0.5"));
    let new = relisted(&mut builder, &[]);
    assert!(new.synced() && !new.restored() && new.as_of().is_none());
    assert_eq!(new.services().count(), 0);
    server.step(Event::Snapshot(new), at(20));
    let gone = dig(&mut server, &format!("{NAME} +edns"));
    assert!(gone.starts_with("NXDOMAIN") && gone.ends_with("OPT 1232 [10]"), "{gone}");
}

#[test]
fn what_is_not_ours_or_not_whole_is_refused() {
    let mut file = Vec::new();
    save(&snapshot(), &SOURCES, START, &mut file).unwrap();
    assert_eq!(Saved::read(&file).unwrap().as_of(), START);
    for cut in 0..file.len() {
        assert!(Saved::read(&file[..cut]).is_err(), "{cut}");
    }
    for at in (0..file.len()).step_by(37) {
        let mut changed = file.clone();
        changed[at] ^= 1;
        assert!(Saved::read(&changed).is_err(), "{at}");
    }
    let mut more = Builder::new(&[Source::Pods]);
    let lacks = more.restore(&Saved::read(&file).unwrap()).unwrap_err();
    assert_eq!(lacks.to_string(), "it has no Pods");
    assert!(!more.publish().0.synced());
}

#[test]
fn the_line() {
    let needs = |text: &str| Config::parse("Corefile", text, &Default::default(), 53).unwrap().needs();
    let warm = needs(COREFILE);
    let file = warm.one_warm_start().unwrap().unwrap();
    assert_eq!((file.path.as_str(), file.max_age), ("/var/lib/dns/view", Duration::from_secs(7200)));
    let day = needs(". {\n kubernetes cluster.local {\n warm_start f\n }\n}");
    assert_eq!(day.one_warm_start().unwrap().unwrap().max_age, Duration::from_secs(86_400));
    assert_eq!(needs(". {\n kubernetes cluster.local\n}").one_warm_start(), Ok(None));
    assert!(warm.and(day).one_warm_start().is_err_and(|why| why.contains("the same line")));
}
