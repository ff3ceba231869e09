use super::*;
use crate::record::{Ended, records};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{from_value, json};

fn pod() -> Pod {
    from_value(json!({"metadata": {"name": "p"}, "spec": {
        "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}, {"name": "b"}]}}))
    .unwrap()
}

fn t(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_000_000 + ms).unwrap()
}

fn seconds(s: i64) -> SignedDuration {
    SignedDuration::from_secs(s)
}

/// Sidecars 0 and 1, containers 2 and 3.
fn up() -> Vec<Record> {
    let mut all = records(&pod());
    all.iter_mut().for_each(|r| r.run(t(0), String::new(), String::new()));
    all
}

fn end(records: &mut [Record], which: &[usize]) {
    which.iter().for_each(|at| records[*at].end(Ended::default()));
}

/// News of the rules, in milliseconds from the deletion.
type News<'a> = &'a [(i64, Exposure)];

/// Lives through an ending, each container ending `takes` after it is told, the rules following as `news` says, the
/// last of it only when the API has heard; when it was told and when the network went.
fn live(why: Why, grace: i64, takes: i64, news: News<'_>, removed_after: Option<i64>) -> (i64, i64) {
    let (mut all, mut ending) = (up(), Ending::new(why, seconds(grace), t(0)));
    let (mut told, mut ends, mut reported) = (None, Vec::new(), None);
    for ms in 0..100_000 {
        news.iter().filter(|(at, _)| *at == ms).for_each(|(_, e)| ending.exposed(*e, t(ms)));
        if removed_after.is_some_and(|after| reported.is_some_and(|at| ms == at + after)) {
            ending.exposed(Exposure::Removed, t(ms));
        }
        ends.iter().filter(|(at, _)| *at == ms).for_each(|(_, c)| end(&mut all, &[*c]));
        match ending.step(&all, true, t(ms)) {
            Step::Wait(until) => assert!(until > t(ms) && reported.is_none() && told.is_none()),
            Step::Report(until) => {
                assert!(until > t(ms));
                reported.get_or_insert(ms);
            }
            Step::Stop(which) => {
                told.get_or_insert(ms);
                for c in which {
                    if ends.iter().all(|(_, known)| *known != c) {
                        ends.push((ms + takes, c));
                    }
                }
            }
            Step::TearDown => return (told.unwrap(), ms),
        }
    }
    panic!("it never ends");
}

/// Name, why it ends, its grace (s), what the rules say when (ms), how long after its last process it leaves them (ms),
/// and when TERM comes and all is gone (ms).
type Row<'a> = (&'a str, Why, i64, News<'a>, Option<i64>, (i64, i64));

/// Endpoint first, process second, network last; what nobody says anything of is waited for a second.
#[test]
fn the_order_and_its_bounds() {
    use Exposure::{Ready, Removed, Terminating};
    // Three steps of 10 ms: containers, one sidecar, the other.
    let rows: &[Row<'_>] = &[
        ("the rules follow", Why::Deleted, 30, &[(7, Terminating)], Some(4), (57, 91)),
        ("they say first what was", Why::Deleted, 30, &[(1, Ready), (7, Terminating)], Some(4), (57, 91)),
        ("no Service has it", Why::Deleted, 30, &[(1, Removed)], None, (1, 31)),
        ("it left while it settled", Why::Deleted, 30, &[(7, Terminating), (20, Removed)], None, (57, 87)),
        ("they never do", Why::Deleted, 30, &[], None, (1000, 2030)),
        ("they never lose it", Why::Deleted, 30, &[(7, Terminating)], None, (57, 1087)),
        ("they follow late", Why::Deleted, 30, &[(990, Terminating)], Some(4), (1000, 1034)),
        ("little grace", Why::Deleted, 1, &[], Some(4), (500, 534)),
        ("by force", Why::Deleted, 0, &[], Some(4), (0, 34)),
        ("the object is gone", Why::Gone, 1, &[(20, Removed)], None, (0, 30)),
        ("and the rules are late", Why::Gone, 1, &[(50, Removed)], None, (0, 50)),
        ("the node stops", Why::Shutdown, 30, &[], None, (0, 30)),
        ("activeDeadlineSeconds", Why::Failed, 30, &[], None, (0, 30)),
    ];
    for (name, why, grace, news, removed_after, expected) in rows {
        assert_eq!(live(*why, *grace, 10, news, *removed_after), *expected, "{name}");
    }
}

/// Whatever the rules do and say, and whenever: TERM comes within a second, and never after half the grace period.
#[test]
fn no_news_hold_it_longer() {
    use Exposure::{Ready, Removed, Terminating};
    for grace in [0, 1, 2, 30] {
        for at in (0..3000).step_by(37) {
            for first in [Ready, Terminating, Removed] {
                for second in [Ready, Terminating, Removed] {
                    let news = [(at, first), (at + 25, second)];
                    let (told, gone) = live(Why::Deleted, grace, 10, &news, None);
                    assert!(told <= 1000.min(grace * 500) && gone <= told + 30 + 1000, "{grace} {news:?}");
                }
            }
        }
    }
}

#[test]
fn a_later_word_shortens_and_never_lengthens() {
    let mut ending = Ending::new(Why::Deleted, seconds(30), t(0));
    assert_eq!((ending.step(&up(), true, t(0)), ending.deadline()), (Step::Wait(t(1000)), t(30_000)));
    ending.again(Why::Deleted, seconds(60), t(100));
    assert_eq!((ending.step(&up(), true, t(100)), ending.deadline()), (Step::Wait(t(1000)), t(30_000)));
    ending.again(Why::Deleted, seconds(1), t(200));
    assert_eq!((ending.step(&up(), true, t(200)), ending.deadline()), (Step::Wait(t(700)), t(1200)));
    ending.again(Why::Gone, seconds(1), t(300));
    assert_eq!((ending.step(&up(), true, t(300)), ending.deadline()), (Step::Stop(vec![2, 3]), t(1200)));
    // What the node ends itself, somebody deletes: then it has its grace.
    let mut ending = Ending::new(Why::Failed, seconds(1), t(0));
    ending.again(Why::Deleted, seconds(30), t(100));
    assert_eq!((ending.why(), ending.deadline()), (Why::Deleted, t(30_100)));
}

#[test]
fn sidecars_go_last_and_backwards() {
    let mut all = up();
    let mut ending = Ending::new(Why::Shutdown, seconds(30), t(0));
    for (ended, next) in [(&[][..], vec![2, 3]), (&[2], vec![3]), (&[3], vec![1]), (&[1], vec![0])] {
        end(&mut all, ended);
        assert_eq!(ending.step(&all, true, t(0)), Step::Stop(next));
    }
    end(&mut all, &[0]);
    assert_eq!(ending.step(&all, true, t(0)), Step::TearDown);
}

/// A Pod that finished by itself, or never began, has nothing that rules could lead to.
#[test]
fn without_a_network_nothing_is_waited_for() {
    let mut all = up();
    end(&mut all, &[0, 1, 2, 3]);
    for why in [Why::Deleted, Why::Gone] {
        assert_eq!(Ending::new(why, seconds(30), t(0)).step(&all, false, t(0)), Step::TearDown);
        assert_eq!(Ending::new(why, seconds(30), t(0)).step(&all, true, t(0)), Step::Report(t(1000)));
    }
}
