//! Zones over the wire, and when.

use std::sync::Arc;
use std::time::Duration;

use sealane_dns::message::{Data, Message, Record, decode, encode, rcode, rtype};
use sealane_dns::zone::secondary::{Action, Event, Secondary};
use sealane_dns::zone::transfer::{
    Extent, Incoming, Step, TransferError, accepts, notified, notify, outgoing, serial_in, serial_query,
};
use sealane_dns::zone::{Zone, is_newer};

use crate::{lines, name, records, zone};

fn small(serial: u32) -> Zone {
    zone("e.", &format!("@ 1 SOA a b {serial} 100 10 1000 1\n@ 1 NS ns\nns 1 A 192.0.2.{serial}\n"))
}

/// RFC 1982: is the second newer than the first?
#[test]
fn serials_wrap() {
    let table = [
        (1, 2, true),
        (2, 1, false),
        (7, 7, false),
        (u32::MAX, 0, true),
        (0, 1 << 31, false),
        (0, (1 << 31) - 1, true),
    ];
    for (a, b, newer) in table {
        assert_eq!(is_newer(a, b), newer, "{a} {b}");
    }
}

#[test]
fn a_zone_goes_out_and_comes_in() {
    let mut text = "@ 1 SOA a b 5 1 1 1 1\n@ 1 NS a\n$GENERATE 0-9999 host-$ TXT 0123456789".to_owned();
    text += "\na 1 A 192.0.2.1";
    let zone = zone("e.", &text);
    let (mut incoming, query) = Incoming::axfr(&name("e."), 9);
    let query = decode(&encode(&query, 65_535)).unwrap();
    let messages: Vec<Message> = outgoing(&zone, &query).unwrap().collect();
    assert!(messages.len() > 3);
    let mut extent = Extent::default();
    for (at, message) in messages.iter().enumerate() {
        let bytes = encode(message, 65_535);
        let message = decode(&bytes).unwrap();
        assert!(message.flags.authoritative && !message.flags.truncated);
        assert_eq!(extent.is_last(&bytes), at + 1 == messages.len());
        match incoming.take(message).unwrap() {
            Step::Done(got) if at + 1 == messages.len() => {
                assert_eq!(got.records().collect::<Vec<_>>(), zone.records().collect::<Vec<_>>());
            }
            Step::More if at + 1 < messages.len() => {}
            other => panic!("{at}: {other:?}"),
        }
    }
    assert_eq!(outgoing(&zone, &query).unwrap().len(), zone.len() + 1);
}

#[test]
fn what_is_no_transfer_ends_at_once() {
    let zone = small(5);
    let (_, query) = Incoming::axfr(&name("e."), 9);
    let all: Vec<Record> = zone.records().cloned().collect();
    let last = |message: &Message| Extent::default().is_last(&encode(message, 65_535));
    assert!(!last(&answer(&query, all.clone())), "the closing SOA is to come");
    assert!(last(&answer(&query, all[1..].to_vec())));
    assert!(last(&answer(&query, Vec::new())));
    assert!(last(&Message { rcode: rcode::REFUSED, ..answer(&query, all) }));
    assert!(Extent::default().is_last(b"?"));
}

#[test]
fn ixfr_out_is_nothing_new_or_everything() {
    let zone = small(5);
    for (have, count) in [(5, 1), (6, 4), (4, 4), (0, 4)] {
        let (_, query) = Incoming::ixfr(&small(have), 1);
        assert_eq!(outgoing(&zone, &query).unwrap().len(), count, "{have}");
    }
    let (_, mut query) = Incoming::ixfr(&small(1), 1);
    query.authority.clear();
    assert_eq!(outgoing(&zone, &query).unwrap_err(), rcode::SERVFAIL);
}

fn answer(query: &Message, answers: Vec<Record>) -> Message {
    Message { answers, ..query.reply(rcode::NOERROR) }
}

/// RFC 1995 section 7's differences.
#[test]
fn differences_are_put_on_the_version_at_hand() {
    let soa = |serial| format!("@ 1 SOA a b {serial} 1 1 1 1\n");
    let base = zone("jain.", &(soa(1) + "@ 1 NS ns\nns 1 A 192.0.2.1\nnezu 1 A 192.0.2.2\n"));
    let steps = [
        soa(3),
        soa(1),
        "nezu 1 A 192.0.2.2\n".into(),
        soa(2),
        "jain-bb 1 A 192.0.2.3\njain-bb 1 A 192.0.2.4\n".into(),
        soa(2),
        "jain-bb 1 A 192.0.2.3\n".into(),
        soa(3),
        "jain-bb 1 A 192.0.2.5\n".into(),
        soa(3),
    ];
    let all = records("jain.", &steps.concat());
    // In one message and in one for each record.
    for size in [all.len(), 1] {
        let (mut incoming, query) = Incoming::ixfr(&base, 3);
        let mut done = None;
        for chunk in all.chunks(size) {
            match incoming.take(answer(&query, chunk.to_vec())).unwrap() {
                Step::Done(zone) => done = Some(zone),
                step => assert!(matches!(step, Step::More) && done.is_none()),
            }
        }
        let got: Vec<String> = done.unwrap().records().map(ToString::to_string).collect();
        let want = zone(
            "jain.",
            &(soa(3) + "@ 1 NS ns\nns 1 A 192.0.2.1\njain-bb 1 A 192.0.2.4\njain-bb 1 A 192.0.2.5"),
        );
        assert_eq!(got, lines(&want.records().cloned().collect::<Vec<_>>()));
    }
    let (mut incoming, query) = Incoming::ixfr(&base, 3);
    let same = records("jain.", &soa(1));
    assert!(matches!(incoming.take(answer(&query, same)).unwrap(), Step::UpToDate));
    let (mut incoming, query) = Incoming::ixfr(&base, 3);
    let wrong = records("jain.", &(soa(3) + &soa(2)));
    assert_eq!(incoming.take(answer(&query, wrong)).unwrap_err(), TransferError::WrongVersion(2));
    // The primary may send all of it.
    let (mut incoming, query) = Incoming::ixfr(&base, 3);
    let whole = records("jain.", &(soa(3) + "x 1 A 192.0.2.1\n" + &soa(3)));
    assert!(matches!(incoming.take(answer(&query, whole)).unwrap(), Step::Done(zone) if zone.len() == 2));
}

#[test]
fn bad_transfers_give_no_zone() {
    let take = |change: &dyn Fn(&mut Message)| {
        let (mut incoming, query) = Incoming::axfr(&name("e."), 3);
        let mut message = answer(&query, small(1).records().cloned().collect());
        change(&mut message);
        incoming.take(message)
    };
    assert!(matches!(take(&|_| ()), Ok(Step::More)));
    assert_eq!(take(&|m| m.id = 4).unwrap_err(), TransferError::NotAnswer);
    assert_eq!(take(&|m| m.flags.response = false).unwrap_err(), TransferError::NotAnswer);
    assert_eq!(take(&|m| m.questions[0].name = name("f.")).unwrap_err(), TransferError::NotAnswer);
    assert_eq!(take(&|m| m.rcode = rcode::REFUSED).unwrap_err().to_string(), "the primary answered REFUSED");
    assert_eq!(take(&|m| m.flags.truncated = true).unwrap_err(), TransferError::Truncated);
    assert_eq!(take(&|m| m.answers.clear()).unwrap_err(), TransferError::NoSoa);
    assert_eq!(take(&|m| drop(m.answers.remove(0))).unwrap_err(), TransferError::NoSoa);
    let trailing = |m: &mut Message| m.answers.extend([m.answers[0].clone(), m.answers[1].clone()]);
    assert_eq!(take(&trailing).unwrap_err(), TransferError::Trailing);
}

#[test]
fn notify_and_its_answer() {
    let message = decode(&encode(&notify(&name("e."), 7), 512)).unwrap();
    assert_eq!(notified(&message), Some(&name("e.")));
    assert_eq!((message.flags.authoritative, message.questions[0].rtype), (true, rtype::SOA));
    let reply = message.reply(rcode::NOERROR);
    assert!(accepts(&message, &reply) && notified(&reply).is_none());
    assert!(!accepts(&message, &message.reply(rcode::REFUSED)));
    let query = serial_query(&name("e."), 8);
    let got = answer(&query, vec![small(9).soa_record().clone()]);
    assert_eq!((serial_in(&got), serial_in(&query.reply(rcode::NOERROR))), (Some(9), None));
    let Data::Soa(_) = &got.answers[0].data else { panic!() };
}

/// SOA of `small`: refresh 100, retry 10, expire 1000.
#[test]
fn a_secondary_asks_when_it_is_time() {
    let at = Duration::from_secs_f64;
    let mut s = Secondary::new();
    // Nothing at hand: transfers with growing pauses.
    assert_eq!(s.step(Event::Tick, at(0.0), 0), Some(Action::Transfer));
    assert_eq!(s.due(), None);
    let mut now = 0.0;
    for pause in [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0] {
        assert_eq!(s.step(Event::Transferred(None), at(now), 0), None);
        assert_eq!(s.due(), Some(at(now + pause)));
        assert_eq!(s.step(Event::Tick, at(now + pause / 2.0), 0), None, "too early");
        now += pause;
        assert_eq!(s.step(Event::Tick, at(now), 0), Some(Action::Transfer));
    }
    assert!(s.zone(at(now)).is_none());
    s.step(Event::Transferred(Some(Arc::new(small(1)))), at(1000.0), 4_000);
    assert_eq!(s.due(), Some(at(1104.0)));
    // The same serial: fresh again.
    assert_eq!(s.step(Event::Tick, at(1104.0), 0), Some(Action::AskSerial));
    assert_eq!(s.step(Event::Serial(Some(1)), at(1105.0), 0), None);
    assert_eq!(s.due(), Some(at(1205.0)));
    // Nobody answers: retries, and it expires 1000 s after it was last known to be fresh.
    assert_eq!(s.step(Event::Tick, at(1205.0), 0), Some(Action::AskSerial));
    assert_eq!(s.step(Event::Serial(None), at(1206.0), 1_000), None);
    assert_eq!(s.due(), Some(at(1217.0)));
    assert!(s.zone(at(2104.0)).is_some() && s.zone(at(2105.0)).is_none());
    // A NOTIFY asks at once; one that comes meanwhile asks once more after.
    assert_eq!(s.step(Event::Notified, at(2200.0), 0), Some(Action::AskSerial));
    assert_eq!(s.step(Event::Notified, at(2200.0), 0), None);
    assert_eq!(s.step(Event::Serial(Some(2)), at(2200.0), 0), Some(Action::Transfer));
    assert_eq!(s.step(Event::Transferred(Some(Arc::new(small(2)))), at(2201.0), 0), Some(Action::AskSerial));
    assert_eq!(s.step(Event::Serial(Some(1)), at(2202.0), 0), None, "an older serial");
    assert_eq!(s.zone(at(2202.0)).map(|z| z.serial()), Some(2));
    // A transfer that fails is tried again after the retry period.
    s.step(Event::Notified, at(2300.0), 0);
    assert_eq!(s.step(Event::Serial(Some(3)), at(2300.0), 0), Some(Action::Transfer));
    assert_eq!(s.step(Event::Transferred(None), at(2300.0), 0), None);
    assert_eq!(s.due(), Some(at(2310.0)));
}
