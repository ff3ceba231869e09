//! An hour without upstreams, an hour without the API: in simulated time.

use std::time::Duration;

use sealane_dns::message::rcode;
use sealane_dns::{Effect, Event, MOST_WAITING, Message, Now, Server, Transport, decode, encode};

use crate::cluster::{ask, at, dig, query, server, synced};

const HOUR: u64 = 3_600_000;

/// A quarter of a second after the other, ticks and all.
fn every_tick(from: u64, to: u64) -> impl Iterator<Item = Now> {
    (from..to)
        .step_by(250)
        .map(|millis| Now { random: millis.wrapping_mul(0x9e37_79b9_7f4a_7c15), ..at(millis) })
}

#[test]
fn the_cluster_is_answered_from_for_as_long_as_the_api_is_away() {
    let corefile = ".:53 {\n errors\n ready\n cache 30\n kubernetes cluster.local\n}";
    let mut server = synced(corefile);
    let first = dig(&mut server, "service-test.default.svc.cluster.local A");
    assert!(first.contains("10.102.251.155"), "{first}");
    for now in every_tick(0, HOUR) {
        assert!(server.step(Event::Tick, now).is_empty());
        if now.monotonic.as_secs().is_multiple_of(60) {
            for (name, expected) in [("service-test", rcode::NOERROR), ("no", rcode::NXDOMAIN)] {
                let effects = ask(
                    &mut server,
                    &query(&format!("{name}.default.svc.cluster.local A")),
                    Transport::Udp,
                    now,
                );
                let [Effect::Reply(bytes)] = effects.as_slice() else { panic!("{effects:?}") };
                assert_eq!(decode(bytes).unwrap().rcode, expected, "{name} after {:?}", now.monotonic);
            }
            assert!(server.ready());
        }
    }
}

#[test]
fn a_cluster_that_was_never_seen_is_servfail_for_as_long_as_that() {
    let mut server = server(".:53 {\n errors\n ready\n cache 30\n kubernetes cluster.local\n}");
    for now in every_tick(0, HOUR).step_by(240) {
        server.step(Event::Tick, now);
        let effects =
            ask(&mut server, &query("service-test.default.svc.cluster.local A"), Transport::Udp, now);
        let reply = effects.iter().find_map(|effect| match effect {
            Effect::Reply(bytes) => decode(bytes).ok(),
            _ => None,
        });
        assert_eq!(reply.unwrap().rcode, rcode::SERVFAIL);
        assert!(!server.ready());
    }
    // The first snapshot is all that it takes, whatever was said before.
    server.step(Event::Snapshot(crate::cluster::snapshot()), at(HOUR));
    let effects =
        ask(&mut server, &query("service-test.default.svc.cluster.local A"), Transport::Udp, at(HOUR));
    let [Effect::Reply(bytes)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(decode(bytes).unwrap().rcode, rcode::NOERROR);
}

/// Carries out what comes of a step; the upstream answers where `there`: replies, and questions asked.
fn carry_out(server: &mut Server, effects: Vec<Effect>, there: bool, now: Now) -> (Vec<Message>, usize) {
    let (mut replies, mut asked, mut left) = (Vec::new(), 0, effects);
    while let Some(effect) = left.pop() {
        match effect {
            Effect::Reply(bytes) => replies.push(decode(&bytes).unwrap()),
            Effect::Ask { message, pending, timeout, .. } => {
                asked += 1;
                left.extend(if there {
                    let bytes = encode(&decode(&message).unwrap().reply(rcode::NOERROR), 512);
                    server.step(Event::Answer { pending, bytes: &bytes }, now)
                } else {
                    let now =
                        Now { monotonic: now.monotonic + timeout.min(Duration::from_millis(10)), ..now };
                    server.step(Event::Failed { pending, why: "no answer".to_owned() }, now)
                });
            }
            Effect::Log(_) => {}
            other => panic!("{other:?}"),
        }
    }
    (replies, asked)
}

#[test]
fn an_hour_without_upstreams_ends_with_the_first_check() {
    let mut server =
        server(".:53 {\n errors {\n  consolidate 1h .*\n }\n forward . 192.0.2.53 192.0.2.54\n}");
    let mut checks = 0;
    for now in every_tick(0, HOUR) {
        let effects = server.step(Event::Tick, now);
        checks += carry_out(&mut server, effects, false, now).1;
        let effects = ask(&mut server, &query("a.example A"), Transport::Udp, now);
        let (replies, asked) = carry_out(&mut server, effects, false, now);
        assert_eq!(replies.iter().map(|reply| reply.rcode).collect::<Vec<_>>(), [rcode::SERVFAIL]);
        // Two attempts an upstream at most, whatever their health.
        assert!(asked <= 4, "{asked}");
    }
    // Every half second each, no more, no less.
    assert!((14_000..=14_400).contains(&checks), "{checks}");
    let now = at(HOUR + 500);
    let effects = server.step(Event::Tick, now);
    assert_eq!(carry_out(&mut server, effects, true, now).1, 2);
    let effects = ask(&mut server, &query("a.example A"), Transport::Udp, now);
    let (replies, asked) = carry_out(&mut server, effects, true, now);
    assert_eq!((replies[0].rcode, asked), (rcode::NOERROR, 1));
    // They are there: nobody looks after them any more.
    let effects = server.step(Event::Tick, at(HOUR + 10_000));
    assert_eq!(carry_out(&mut server, effects, true, now).1, 0);
}

/// Of two `forward`s without `max_concurrent`, together.
#[test]
fn no_more_wait_than_the_server_keeps() {
    let mut server = server(".:53 {\n forward . 192.0.2.53\n}\nb.example:53 {\n forward . 192.0.2.54\n}");
    let now = at(0);
    let asks = |server: &mut Server, number: usize| {
        let name = format!("n{number}.{}.example A", ["a", "b"][number % 2]);
        ask(server, &query(&name), Transport::Udp, now).remove(0)
    };
    let mut waiting: Vec<Effect> = (0..MOST_WAITING).map(|number| asks(&mut server, number)).collect();
    assert!(waiting.iter().all(|effect| matches!(effect, Effect::Ask { .. })));
    for number in 0..3 {
        let Effect::Reply(bytes) = asks(&mut server, number) else { panic!("one more waits") };
        assert_eq!(decode(&bytes).unwrap().rcode, rcode::REFUSED);
    }
    let mut page = String::new();
    server.render_metrics(&mut page);
    assert!(page.contains("\nsealane_dns_waiting_rejects_total 3\n"), "{page}");
    // A place that is left is another's.
    assert_eq!(carry_out(&mut server, waiting.split_off(MOST_WAITING - 1), true, now).0.len(), 1);
    waiting.push(asks(&mut server, 1));
    assert!(matches!(waiting.last(), Some(Effect::Ask { .. })));
    assert!(matches!(asks(&mut server, 2), Effect::Reply(_)));
    // And nothing stays behind.
    let (replies, _) = carry_out(&mut server, waiting, true, now);
    assert_eq!(replies.len(), MOST_WAITING);
    assert!(matches!(asks(&mut server, 3), Effect::Ask { .. }));
}

#[test]
fn more_than_max_concurrent_are_turned_away_and_leave_nothing_behind() {
    let mut server = server(".:53 {\n forward . 192.0.2.53 {\n  max_concurrent 100\n }\n}");
    for time in 0..10u64 {
        let now = at(time * 1000);
        let mut waiting = Vec::new();
        for number in 0..5000 {
            let asked = ask(&mut server, &query(&format!("n{number}.example A")), Transport::Udp, now);
            match asked.into_iter().next() {
                Some(effect @ Effect::Ask { .. }) => waiting.push(effect),
                Some(Effect::Reply(bytes)) => assert_eq!(decode(&bytes).unwrap().rcode, rcode::REFUSED),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(waiting.len(), 100);
        let (replies, _) = carry_out(&mut server, waiting, false, now);
        assert_eq!(replies.len(), 100);
    }
}
