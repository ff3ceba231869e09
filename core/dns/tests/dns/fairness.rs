//! Fairness in simulated time: clients, the kernel's row of a socket, a server that takes its time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use sealane_dns::fairness::Fairness;

/// Queries that the kernel keeps, and those that are taken out of the row at once.
const ROW: usize = 2700;
const BATCH: usize = 64;
/// Nanoseconds for reading a query, and for answering it: prepared, or by the general path.
const READ: u64 = 700;
const ANSWER: u64 = 2_500;
const DEAR: u64 = 40_000;

#[derive(Clone, Copy, Debug)]
struct Client {
    ip: u32,
    /// Queries a second.
    rate: u64,
    /// It asks what is not prepared.
    dear: bool,
    /// It asks between these milliseconds alone.
    from: u64,
    until: u64,
}

fn client(ip: u32, rate: u64) -> Client {
    Client { ip, rate, dear: false, from: 0, until: u64::MAX }
}

/// Where it runs.
#[derive(Clone, Copy)]
struct Machine {
    fair: bool,
    /// The kernel keeps from a socket what it is told to.
    filters: bool,
    /// It runs so long in each period, nanoseconds, and stands still for the rest.
    quota: Option<(u64, u64)>,
}

const FAIR: Machine = Machine { fair: true, filters: true, quota: None };

fn run(clients: &[Client], millis: u64, fair: bool) -> BTreeMap<u32, (u64, u64)> {
    run_on(Machine { fair, ..FAIR }, clients, millis)
}

/// Queries asked and answered after the first half second, by client. What is in the row when nobody asks any more is
/// answered, too, or let go: a query that still waits at the end would look like one that was lost.
fn run_on(machine: Machine, clients: &[Client], millis: u64) -> BTreeMap<u32, (u64, u64)> {
    let (second, counted) = (1_000_000_000, 500_000_000);
    let mut fairness = machine.fair.then(|| Fairness::new(100, 7));
    let mut shares: BTreeMap<IpAddr, u32> = BTreeMap::new();
    let first =
        clients.iter().enumerate().map(|(at, c)| Reverse((c.from * 1_000_000 + 1_000 * at as u64 + 1, at)));
    let mut next: BinaryHeap<Reverse<(u64, usize)>> = first.collect();
    let (mut row, mut lost) = (VecDeque::new(), 0u32);
    let mut counts = vec![(0, 0); clients.len()];
    let (mut now, mut noise) = (0, 7u64);
    let end = millis * 1_000_000;
    loop {
        if let Some((runs, period)) = machine.quota
            && now % period >= runs
        {
            now = now.next_multiple_of(period);
        }
        // What came by now, in the order in which it came.
        while let Some(Reverse((when, at))) = next.peek().copied().filter(|Reverse((when, _))| *when <= now) {
            next.pop();
            let client = &clients[at];
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let gap = second / client.rate;
            let then = when + gap / 2 + noise % gap + 1;
            if when / 1_000_000 < client.until && then < end {
                next.push(Reverse((then, at)));
            }
            if when >= counted {
                counts[at].0 += 1;
            }
            let share = shares.get(&IpAddr::V4(client.ip.into())).copied().unwrap_or(u32::MAX);
            if noise.rotate_left(29) as u32 > share {
                continue;
            }
            if row.len() < ROW { row.push_back((at, when)) } else { lost += 1 }
        }
        if row.is_empty() {
            let Some(Reverse((when, _))) = next.peek() else { break };
            now = *when;
            continue;
        }
        let batch: Vec<(usize, u64)> = row.drain(..row.len().min(BATCH)).collect();
        if let Some(fairness) = &mut fairness {
            fairness.batch(batch.len(), batch.len() == BATCH, lost, Duration::from_nanos(now));
            if let Some(new) = fairness.shares(Duration::from_nanos(now)).filter(|_| machine.filters) {
                shares = new.into_iter().collect();
            }
        }
        now += READ * batch.len() as u64;
        for (at, when) in batch {
            let client = &clients[at];
            if fairness.as_mut().is_some_and(|fairness| !fairness.admits(IpAddr::V4(client.ip.into()))) {
                continue;
            }
            now += if client.dear { DEAR } else { ANSWER };
            if let Some(fairness) = fairness.as_mut().filter(|_| client.dear) {
                fairness.was_dear();
            }
            if when >= counted {
                counts[at].1 += 1;
            }
        }
    }
    clients.iter().map(|client| client.ip).zip(counts).collect()
}

fn part((asked, answered): (u64, u64)) -> f64 {
    answered as f64 / asked as f64
}

#[test]
fn a_flood_takes_nothing_from_others() {
    for (flood, dear) in [(500_000, false), (50_000, true), (200_000, true), (1_000_000, false)] {
        let clients =
            [Client { dear, ..client(1, flood) }, client(2, 100), Client { dear: true, ..client(3, 200) }];
        let without = run(&clients, 1500, false);
        assert!(part(without[&2]) < 0.7, "{flood} {without:?}: no flood");
        let with = run(&clients, 1500, true);
        for quiet in [2, 3] {
            assert!(part(with[&quiet]) >= 0.99, "{flood} {dear}: {with:?}");
        }
        // The flood has what is left.
        let (cost, rest) = (READ + if dear { DEAR } else { ANSWER }, READ * flood);
        let capacity = (1_000_000_000 - rest.min(900_000_000)) / cost;
        assert!(with[&1].1 * 10 > capacity * 6, "{flood} {dear}: {} of {capacity}", with[&1].1);
    }
}

/// It has a 25th of a core: all that floods send while it stands still is in the row at once.
#[test]
fn a_flood_takes_nothing_from_others_where_reading_it_costs_more_than_there_is() {
    let capacity = 1_000_000_000 / 25 / (READ + ANSWER);
    for (times, floods) in [(5, 1), (20, 1), (5, 3), (50, 2)] {
        let mut clients: Vec<Client> =
            (1..=floods).map(|n| client(n, capacity * times / u64::from(floods))).collect();
        clients.push(client(9, 100));
        let machine = Machine { quota: Some((1_000_000, 25_000_000)), ..FAIR };
        let [with, without] =
            [true, false].map(|filters| run_on(Machine { filters, ..machine }, &clients, 4000));
        assert!(part(with[&9]) >= 0.95, "{times}, {floods}: {with:?}");
        assert!(part(without[&9]) < part(with[&9]), "{times}, {floods}: {without:?}");
        // Those who flood have what is left, within a factor, and more than where all that they send is read.
        let answered = |found: &BTreeMap<u32, (u64, u64)>| (1..=floods).map(|n| found[&n].1).sum::<u64>();
        let enough = answered(&with) * 10 > capacity * 35 / 10 * 3 && answered(&with) > answered(&without);
        assert!(enough, "{times}, {floods}: {with:?} of {capacity}/s, {without:?}");
    }
}

/// What is told of a client's queries that are not even read.
#[test]
fn queries_that_are_not_read_are_counted_about() {
    let mut fairness = Fairness::new(100, 7);
    let flood: IpAddr = [127, 0, 0, 2].into();
    let (mut share, mut sent, mut come) = (u32::MAX, 0.0, 0.0);
    for milli in 0..2000 {
        let now = Duration::from_millis(milli);
        fairness.batch(64, true, u32::try_from(milli).unwrap(), now);
        if let Some(shares) = fairness.shares(now) {
            share = shares.first().map_or(u32::MAX, |(_, share)| *share);
        }
        come += 10_000.0 * f64::from(share) / f64::from(u32::MAX);
        sent += 10_000.0;
        while come >= 1.0 {
            come -= 1.0;
            fairness.admits(flood);
        }
    }
    let counted = fairness.turned_away(true, Duration::from_secs(2))[0];
    assert_eq!(counted.0, flood);
    assert!((counted.1 as f64 / sent - 1.0).abs() < 0.1, "{counted:?} of {sent}");
    assert!(share < u32::MAX / 10);
    // It is over, and nobody else asks: all of it is read again.
    let looks = (2000..4000).filter_map(|milli| fairness.shares(Duration::from_millis(milli)));
    assert!(looks.last().is_some_and(|shares| shares.is_empty()));
    assert_eq!(fairness.shares(Duration::from_secs(5)), None);
}

#[test]
fn floods_have_equal_parts_and_who_asks_for_little_all_of_it() {
    let mut clients: Vec<Client> = (1..=5).map(|n| client(n, 50_000 * u64::from(n))).collect();
    clients.extend((10..40).map(|n| client(n, 150)));
    let found = run(&clients, 1500, true);
    let floods: Vec<u64> = (2..=5).map(|n| found[&n].1).collect();
    let (least, most) = (floods.iter().min().unwrap(), floods.iter().max().unwrap());
    assert!(most * 10 < least * 13, "{found:?}");
    let quiet = (10..40).map(|n| found[&n]).reduce(|a, b| (a.0 + b.0, a.1 + b.1)).unwrap();
    assert!(part(quiet) >= 0.99, "{found:?}");
}

/// Work counts, not queries: who asks much of what is at hand does not pay for who asks for what is not.
#[test]
fn what_costs_more_counts_for_more() {
    let found = run(&[Client { dear: true, ..client(1, 40_000) }, client(2, 45_000)], 1500, true);
    assert!(part(found[&2]) >= 0.97, "{found:?}");
}

#[test]
fn nobody_is_held_back_where_nothing_is_lost() {
    for clients in [
        vec![client(1, 200_000), client(2, 100)],
        vec![Client { dear: true, ..client(1, 20_000) }, client(2, 1000)],
    ] {
        let found = run(&clients, 1200, true);
        assert!(found.values().all(|counts| part(*counts) > 0.999), "{found:?}");
    }
}

#[test]
fn it_ends_with_the_flood() {
    // The second asks for more than its share would be while the flood is there, and for half of all when it is gone.
    let clients = [Client { until: 700, ..client(1, 900_000) }, Client { from: 2500, ..client(2, 120_000) }];
    let found = run(&clients, 3000, true);
    assert!(part(found[&2]) > 0.999, "{found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Whatever others do, who asks no more than the rate that nobody is denied is answered, as long as reading alone
    /// is not too much.
    #[test]
    fn the_quiet_are_heard(
        floods in proptest::collection::vec((1u64..200_000, any::<bool>()), 1..3),
        quiet in 1u64..100,
    ) {
        let mut clients: Vec<Client> = floods
            .iter()
            .zip(1..)
            .map(|((rate, dear), ip)| Client { dear: *dear, ..client(ip, *rate) })
            .collect();
        clients.push(client(99, quiet));
        let (asked, answered) = run(&clients, 1500, true)[&99];
        // One in a hundred, and what the first moment takes.
        prop_assert!(answered + asked / 100 + 2 >= asked, "{answered} of {asked}: {clients:?}");
    }
}
