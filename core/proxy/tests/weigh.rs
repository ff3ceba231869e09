//! Beyond kube-proxy: what Services' annotations do to the shares of their endpoints, in simulated time.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use sealane_catalog::{
    Endpoint, EndpointPort, Entry, NamespacedName, Protocol, Service, ServicePort, Slice, TrafficPolicy,
};
use sealane_proxy::contract::Dice;
use sealane_proxy::weigh::{Flow, Look, News, Stage, Wanted, Weigher};
use sealane_proxy::{Backend, Change, FrontendKey, NodeContext, Shares, Table, cases};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
const PERIOD: Duration = Duration::from_millis(100);

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn name() -> NamespacedName {
    NamespacedName::new("default", "web")
}

fn service(annotations: &[(&str, &str)]) -> Service {
    let port = ServicePort {
        name: "".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: 0,
        app_protocol: "".into(),
    };
    Service {
        cluster_ips: vec![VIP.into()],
        ports: vec![port],
        annotations: annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        ..cases::service("web")
    }
}

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 244, 0, number).into()
}

fn backend(number: u8) -> Backend {
    Backend { address: address(number), port: 8080 }
}

/// Ready endpoints `web-N`, all of one zone.
fn pods(numbers: &[u8]) -> Vec<Endpoint> {
    numbers.iter().map(|n| Endpoint::new(address(*n)).on("n2", "a").with_pod(&format!("web-{n}"))).collect()
}

/// Endpoints with hints for their own zone.
fn zoned(numbers: &[u8], zone: &str) -> Vec<Endpoint> {
    let of = |n: &u8| Endpoint::new(address(*n)).on("n2", zone).with("", vec![zone.into()], vec![]);
    numbers.iter().map(of).collect()
}

fn entry(service: &Service, endpoints: Vec<Endpoint>) -> Entry {
    let port =
        EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: Some(8080), app_protocol: "".into() };
    let slice = Slice {
        key: NamespacedName::new("default", "web-1"),
        service: name(),
        revision: 1,
        ipv6: false,
        ports: [port].into(),
        endpoints: endpoints.into(),
        triggered: 0,
    };
    Entry { service: Some(Arc::new(service.clone())), slices: vec![Arc::new(slice)] }
}

/// A proxy whose flows are those that the test makes.
struct World {
    table: Table,
    weigher: Weigher,
    service: Service,
    flows: BTreeMap<u32, (Backend, Stage)>,
    ended: Vec<(u32, Backend)>,
    next: u32,
    now: Duration,
    news: Vec<News>,
}

impl World {
    fn new(annotations: &[(&str, &str)], endpoints: Vec<Endpoint>) -> Self {
        let node = NodeContext { zone: "a".into(), ..NodeContext::new("n1") };
        let mut world = Self {
            table: Table::new(node),
            weigher: Weigher::default(),
            service: service(annotations),
            flows: BTreeMap::new(),
            ended: Vec::new(),
            next: 1,
            now: s(1000),
            news: Vec::new(),
        };
        world.set(endpoints);
        world
    }

    fn set(&mut self, endpoints: Vec<Endpoint>) -> Vec<Change> {
        let entry = entry(&self.service, endpoints);
        let node = self.table.node().clone();
        let shares = self.weigher.update(&name(), Some(&entry), &node, self.now);
        self.table.set_shares(&name(), shares);
        self.news.extend(self.weigher.take_news());
        self.table.update([(&name(), Some(&entry))])
    }

    fn slots(&self) -> Vec<Backend> {
        let key = FrontendKey { address: VIP.into(), protocol: Protocol::Tcp, port: 80 };
        self.table.frontends()[&key].target.backends().to_vec()
    }

    /// Slots of each endpoint.
    fn counts(&self) -> BTreeMap<u8, usize> {
        let mut counts = BTreeMap::new();
        for slot in self.slots() {
            let IpAddr::V4(address) = slot.address else { panic!("{slot}") };
            *counts.entry(address.octets()[3]).or_default() += 1;
        }
        counts
    }

    /// The part of new connections that an endpoint gets.
    fn part(&self, number: u8) -> f64 {
        let counts = self.counts();
        counts.get(&number).copied().unwrap_or(0) as f64 / counts.values().sum::<usize>() as f64
    }

    fn open(&mut self, at: Backend, stage: Stage) -> u32 {
        self.next += 1;
        self.flows.insert(self.next, (at, stage));
        self.next
    }

    fn flow(&self, id: u32, backend: Backend, stage: Stage) -> Flow {
        let frontend = FrontendKey { address: VIP.into(), protocol: Protocol::Tcp, port: 80 };
        let client = (Ipv4Addr::new(10, 244, 9, 9), (id % 50_000) as u16).into();
        Flow { id, client, frontend, backend, stage }
    }

    /// Time goes by, and flows are looked at; what is to be moved is forgotten.
    fn look(&mut self, after: Duration) -> Vec<Flow> {
        self.now += after;
        let watched = match self.weigher.wanted() {
            Wanted::Flows(watched) => Some(watched),
            Wanted::Time | Wanted::Nothing => None,
        };
        let look = watched.map(|watched| {
            let mut look = Look::new(watched);
            self.flows.iter().for_each(|(id, (at, stage))| look.flow(self.flow(*id, *at, *stage)));
            let ended = std::mem::take(&mut self.ended);
            ended.into_iter().for_each(|(id, at)| look.ended(self.flow(id, at, Stage::Opening)));
            look
        });
        let outcome = self.weigher.look(look.as_ref(), self.now);
        self.table.weigh(outcome.shares);
        self.news.extend(self.weigher.take_news());
        outcome.moves.iter().for_each(|flow| assert!(self.flows.remove(&flow.id).is_some()));
        outcome.moves
    }
}

#[test]
fn who_asks_for_nothing_is_not_looked_at() {
    let mut world = World::new(&[("example.com/balance", "best")], pods(&[1, 2, 3]));
    assert_eq!(world.weigher.wanted(), Wanted::Nothing);
    assert_eq!(world.counts(), BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    assert!(world.look(PERIOD).is_empty());
    assert_eq!(world.weigher.figures(), Default::default());
}

#[test]
fn weights_are_followed_to_the_letter() {
    let weights = ("sealane.dev/weights", r#"{"web-1": 3, "10.244.0.2": 2, "web-*": 1, "web-9": 0}"#);
    let mut world = World::new(&[weights], pods(&[1, 2, 3, 9]));
    assert_eq!(world.counts(), BTreeMap::from([(1, 3), (2, 2), (3, 1)]));
    assert_eq!(world.weigher.wanted(), Wanted::Nothing, "nothing changes by itself");
    // All that are left have none: none is worse than another.
    world.set(pods(&[9]));
    assert_eq!(world.counts(), BTreeMap::from([(9, 1)]));
    // Without the annotation it is as ever.
    world.service = service(&[]);
    world.set(pods(&[1, 2]));
    assert_eq!(world.counts(), BTreeMap::from([(1, 1), (2, 1)]));
    assert_eq!(world.weigher.figures().services, 0);
}

#[test]
fn what_is_not_understood_is_said_once_and_disturbs_nothing() {
    let wrong = [("sealane.dev/balance", "best"), ("sealane.dev/slow-start", "soon")];
    let mut world = World::new(&wrong, pods(&[1, 2]));
    world.set(pods(&[1, 2, 3]));
    assert_eq!(world.counts(), BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    let said: Vec<String> = world.news.iter().map(News::to_string).collect();
    assert_eq!(
        said,
        [
            "Service default/web: annotation sealane.dev/balance: \"best\" is neither least-connections nor random; it is not followed",
            "Service default/web: annotation sealane.dev/slow-start: \"soon\" is no time such as 30s or 2m, from 1s to 1h; it is not followed",
        ]
    );
    assert_eq!((world.weigher.figures().problems, world.weigher.figures().services), (2, 0));
    assert_eq!(world.weigher.wanted(), Wanted::Nothing);
    // One that is wrong does not keep another from being followed; affinity forbids what it would undo.
    let mut both = service(&[("sealane.dev/rebalance", "5/s"), ("sealane.dev/weights", r#"{"web-1": 2}"#)]);
    both.affinity_seconds = Some(60);
    world.service = both;
    world.set(pods(&[1, 2]));
    assert_eq!(world.counts(), BTreeMap::from([(1, 2), (2, 1)]));
    assert!(world.news.last().unwrap().to_string().contains("sessionAffinity"));
}

#[test]
fn a_slow_start_rises_from_a_tenth_in_time() {
    let mut world = World::new(&[("sealane.dev/slow-start", "30s")], pods(&[1, 2]));
    assert_eq!(world.counts(), BTreeMap::from([(1, 1), (2, 1)]), "who was there before is old");
    assert_eq!(world.weigher.wanted(), Wanted::Nothing);
    world.set(pods(&[1, 2, 3]));
    assert_eq!(world.weigher.wanted(), Wanted::Time);
    let mut last = 0.0;
    // As the thread does it: for as long as it is wanted.
    for (seconds, weight) in [(0, 0.1), (10, 0.4), (20, 0.7), (29, 0.97), (30, 1.0)] {
        while world.now < s(1000 + seconds) {
            // A period that ends beside the end of the slow start.
            match world.weigher.wanted() {
                Wanted::Nothing => world.now += Duration::from_millis(70),
                _ => drop(world.look(Duration::from_millis(70))),
            }
            assert!(world.part(3) >= last, "it never falls");
            last = world.part(3);
        }
        let expected = weight / (2.0 + weight);
        assert!(
            (world.part(3) - expected).abs() <= 1.0 / 64.0 + 0.001,
            "{seconds} s: {} {expected}",
            world.part(3)
        );
    }
    assert_eq!(world.counts(), BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    assert_eq!(world.weigher.wanted(), Wanted::Nothing, "it is over");
    // Not ready for a while: it starts again. So does another Pod with the same address.
    world.set(pods(&[1, 2]));
    world.set(pods(&[1, 2, 3]));
    assert!(world.part(3) < 0.1);
    world.look(s(30));
    let mut other = pods(&[1, 2]);
    other.push(Endpoint::new(address(3)).with_pod("web-other"));
    world.set(other);
    assert!(world.part(3) < 0.1);
    // All new: all alike.
    world.set(vec![]);
    world.set(pods(&[5, 6]));
    assert_eq!(world.counts(), BTreeMap::from([(5, 1), (6, 1)]));
}

/// A change of one share rewrites few slots.
#[test]
fn slots_keep_their_places() {
    let mut world = World::new(&[("sealane.dev/slow-start", "60s")], pods(&[1, 2, 3, 4]));
    world.set(pods(&[1, 2, 3, 4, 5]));
    let mut before = world.slots();
    for _ in 0..590 {
        world.look(PERIOD);
        let after = world.slots();
        let moved = after.iter().zip(&before).filter(|(a, b)| a != b).count();
        assert!(after.len() == 64 && moved <= 4, "{moved}");
        before = after;
    }
}

#[test]
fn an_endpoint_that_fails_is_out_for_a_while() {
    let mut world = World::new(&[("sealane.dev/eject", "failures=3,time=10s")], pods(&[1, 2, 3, 4]));
    assert!(matches!(world.weigher.wanted(), Wanted::Flows(_)));
    world.look(PERIOD);
    // Two SYNs to 1 stay without an answer, one is refused; 2 fails as often, and answers in between.
    for number in [1, 2] {
        world.open(backend(number), Stage::Opening);
        world.open(backend(number), Stage::Opening);
    }
    world.look(PERIOD);
    assert_eq!(world.counts().len(), 4, "a second has not gone by");
    world.look(s(1));
    world.open(backend(2), Stage::Over);
    world.look(PERIOD);
    assert_eq!(world.counts().len(), 4, "two failures are not three");
    for number in [1, 2] {
        world.next += 1;
        world.ended.push((world.next, backend(number)));
    }
    world.look(PERIOD);
    assert_eq!(world.counts(), BTreeMap::from([(2, 1), (3, 1), (4, 1)]));
    assert_eq!(world.news.len(), 1);
    assert_eq!(
        world.news[0].to_string(),
        "Service default/web: connections to 10.244.0.1:8080 fail; it gets no new ones for 10s"
    );
    // The Service changes meanwhile: it stays out, and comes back in time.
    world.set(pods(&[1, 2, 3, 4, 5]));
    assert!(!world.counts().contains_key(&1));
    world.look(s(10));
    assert_eq!(world.counts().len(), 5);
    assert_eq!((world.weigher.figures().ejections, world.weigher.figures().out), (1, 0));
}

/// They are led anew with their next SYN. Whoever is answered, waits for others, or has nobody else, stays.
#[test]
fn who_waits_for_an_endpoint_that_is_out_is_led_anew() {
    let mut world = World::new(&[("sealane.dev/eject", "failures=3,share=100%,panic=0%")], pods(&[1, 2]));
    world.look(PERIOD);
    let ids = |moves: Vec<Flow>| moves.iter().map(|flow| flow.id).collect::<BTreeSet<_>>();
    let waits: BTreeSet<u32> = (0..3).map(|_| world.open(backend(1), Stage::Opening)).collect();
    world.open(backend(1), Stage::Over);
    world.open(backend(2), Stage::Opening);
    assert_eq!(ids(world.look(PERIOD)), BTreeSet::new());
    assert_eq!(ids(world.look(s(1))), waits, "it is out");
    let late = world.open(backend(1), Stage::Opening);
    assert_eq!(ids(world.look(PERIOD)), BTreeSet::from([late]), "what was on its way");
    assert_eq!(world.weigher.figures().moved, 0);
    // The other one is out as well: then both are used.
    for _ in 0..3 {
        world.open(backend(2), Stage::Opening);
    }
    world.look(PERIOD);
    assert_eq!(ids(world.look(s(1))), BTreeSet::new());
    assert_eq!((world.counts().len(), world.weigher.figures().out), (2, 2));
}

#[test]
fn where_too_many_would_be_out_all_are_used() {
    let fail = |world: &mut World, numbers: &[u8]| {
        for number in numbers {
            for _ in 0..3 {
                world.next += 1;
                world.ended.push((world.next, backend(*number)));
            }
        }
        world.look(PERIOD);
    };
    // At most half of them are ejected.
    let mut world = World::new(&[("sealane.dev/eject", "on")], pods(&[1, 2, 3, 4]));
    world.look(PERIOD);
    fail(&mut world, &[1, 2, 3, 4]);
    assert_eq!(world.counts(), BTreeMap::from([(3, 1), (4, 1)]));
    // Those that were well leave: less than half are left, and all are used.
    world.set(pods(&[1, 2, 3]));
    assert_eq!(world.counts(), BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    // However many may be out, never all.
    let mut world = World::new(&[("sealane.dev/eject", "share=100%,panic=0%")], pods(&[1, 2]));
    world.look(PERIOD);
    fail(&mut world, &[1]);
    assert_eq!(world.counts(), BTreeMap::from([(2, 1)]));
    fail(&mut world, &[2]);
    assert_eq!(world.counts(), BTreeMap::from([(1, 1), (2, 1)]));
    // One alone is never out.
    let mut world = World::new(&[("sealane.dev/eject", "share=100%,panic=0%")], pods(&[1]));
    world.look(PERIOD);
    fail(&mut world, &[1]);
    assert_eq!((world.counts().len(), world.weigher.figures().ejections), (1, 0));
}

#[test]
fn resets_of_established_connections_count_where_it_is_asked_for() {
    for (value, expected) in [("on", 2), ("resets=all", 1)] {
        let mut world = World::new(&[("sealane.dev/eject", value)], pods(&[1, 2]));
        world.look(PERIOD);
        for _ in 0..3 {
            world.open(backend(1), Stage::Reset);
        }
        world.look(PERIOD);
        assert_eq!(world.counts().len(), expected, "{value}");
    }
}

#[test]
fn other_zones_help_in_proportion() {
    let endpoints = || [zoned(&[1, 2], "a"), zoned(&[3, 4, 5], "b")].concat();
    let mut world = World::new(&[("sealane.dev/spill-over", "10")], endpoints());
    assert_eq!(world.counts(), BTreeMap::from([(1, 1), (2, 1)]), "hints alone");
    // Two endpoints may have ten each. With 20 all is well; with 25 a fifth goes elsewhere, with 80 three quarters.
    for (flows, part) in [(20, 0.0), (25, 0.2), (40, 0.5), (80, 0.75), (20, 0.0)] {
        world.flows.clear();
        for n in 0..flows {
            world.open(backend(1 + n % 2), Stage::Open);
        }
        world.look(PERIOD);
        let beyond: f64 = [3, 4, 5].iter().map(|n| world.part(*n)).sum();
        assert!((beyond - part).abs() <= 2.0 / 64.0, "{flows} flows: {beyond}");
    }
    // Where they are counts for nothing: what 3 has, 1 and 2 would have.
    for _ in 0..40 {
        world.open(backend(3), Stage::Open);
    }
    world.look(PERIOD);
    assert!((world.part(1) + world.part(2) - 20.0 / 60.0).abs() <= 2.0 / 64.0);
    // Without hints there is no beyond.
    world.set(pods(&[1, 2]));
    world.look(PERIOD);
    assert_eq!(world.counts(), BTreeMap::from([(1, 1), (2, 1)]));
    // With ejection, others take over where all that are near are out.
    let both = [("sealane.dev/spill-over", "10"), ("sealane.dev/eject", "share=100%,panic=0%")];
    let mut world = World::new(&both, endpoints());
    world.look(PERIOD);
    for id in 0..6 {
        world.ended.push((id, backend(1 + (id % 2) as u8)));
    }
    world.look(PERIOD);
    assert_eq!(world.counts(), BTreeMap::from([(3, 1), (4, 1), (5, 1)]));
}

#[test]
fn after_a_scale_out_the_oldest_move_within_the_budget() {
    let mut world = World::new(&[("sealane.dev/rebalance", "10/s")], pods(&[1, 2]));
    world.look(PERIOD);
    let oldest = world.open(backend(1), Stage::Open);
    world.look(PERIOD);
    for n in 0..199 {
        world.open(backend(1 + n % 2), Stage::Open);
    }
    for _ in 0..100 {
        assert!(world.look(PERIOD).is_empty(), "nothing was scaled out");
    }
    // Nobody is fuller than chance would have it: 100 each. With a third one, 66.7 are fair.
    world.set(pods(&[1, 2, 3]));
    let mut moved = Vec::new();
    let mut seconds = 0;
    while seconds < 60 {
        let mut second = 0;
        for _ in 0..10 {
            let moves = world.look(PERIOD);
            second += moves.len();
            // Their clients come back, and land anywhere; half a look later.
            for flow in &moves {
                world.open(backend(1 + (moved.len() % 3) as u8), Stage::Open);
                moved.push(*flow);
            }
        }
        assert!(second <= 11, "{second} in a second");
        seconds += 1;
    }
    assert_eq!(moved[0].id, oldest);
    let at = |n| world.flows.values().filter(|(b, _)| *b == backend(n)).count();
    assert_eq!(world.flows.len(), 200, "nobody was lost");
    let fair = 200.0 / 3.0;
    for n in [1, 2] {
        assert!((at(n) as f64) <= fair + fair / 4.0, "{n} has {}", at(n));
    }
    assert!(moved.len() < 120 && at(3) > 20, "{} moved", moved.len());
    assert_eq!(world.weigher.figures().moved, moved.len() as u64);
    // It is over: what comes uneven then is left alone.
    for _ in 0..200 {
        world.open(backend(1), Stage::Open);
    }
    for _ in 0..100 {
        assert!(world.look(PERIOD).is_empty());
    }
}

/// Requests of heavy-tailed duration (bounded Pareto, 50 ms to 30 s, 0.2 s in the mean), 500 a second over ten
/// endpoints, one of which takes three times as long. Gives back the mean and the 99th percentile, over arrivals, of
/// how many the worst endpoint has. With `choices` 2, the better of two at the moment is taken, which no rule can.
fn worst(annotations: &[(&str, &str)], choices: usize, seed: u64) -> (f64, usize) {
    const RATE: f64 = 500.0;
    let (tail, low, high) = (1.2f64, 0.05f64, 30.0f64);
    let mut dice = Dice::new(seed);
    let numbers: Vec<u8> = (1..=10).collect();
    let mut world = World::new(annotations, pods(&numbers));
    let mut ends: BinaryHeap<Reverse<(Duration, u32)>> = BinaryHeap::new();
    let mut have: BTreeMap<Backend, usize> = BTreeMap::new();
    let (begun, mut now, mut due) = (world.now, world.now, world.now);
    let mut seen = Vec::new();
    let end = |world: &mut World, have: &mut BTreeMap<Backend, usize>, ends: &mut BinaryHeap<_>, at| {
        while let Some(Reverse((when, id))) = ends.peek().copied().filter(|Reverse((when, _))| *when <= at) {
            let _ = when;
            ends.pop();
            let (backend, _) = world.flows.remove(&id).unwrap();
            *have.get_mut(&backend).unwrap() -= 1;
        }
    };
    while now < begun + s(60) {
        now += Duration::from_secs_f64(-(1.0 - dice.fraction()).ln() / RATE);
        while due <= now {
            end(&mut world, &mut have, &mut ends, due);
            let after = due - world.now;
            world.look(after);
            due += PERIOD;
        }
        end(&mut world, &mut have, &mut ends, now);
        let slots = world.slots();
        let drawn = (0..choices).map(|_| slots[(dice.fraction() * slots.len() as f64) as usize]);
        let at = drawn.min_by_key(|b| have.get(b).copied().unwrap_or(0)).unwrap();
        let id = world.open(at, Stage::Open);
        *have.entry(at).or_default() += 1;
        let u = dice.fraction();
        let (l, h) = (low.powf(tail), high.powf(tail));
        let takes = (-(u * h - u * l - h) / (h * l)).powf(-1.0 / tail);
        let takes = if at == backend(10) { 3.0 * takes } else { takes };
        ends.push(Reverse((now + Duration::from_secs_f64(takes), id)));
        if now > begun + s(15) {
            seen.push(have.values().copied().max().unwrap());
        }
    }
    seen.sort_unstable();
    (seen.iter().sum::<usize>() as f64 / seen.len() as f64, seen[seen.len() * 99 / 100])
}

#[test]
fn least_connections_beats_randoms_worst_endpoint() {
    let mut factors = Vec::new();
    for seed in 1..=5 {
        let random = worst(&[], 1, seed);
        let least = worst(&[("sealane.dev/balance", "least-connections")], 1, seed);
        let two = worst(&[], 2, seed);
        println!(
            "seed {seed}: worst endpoint's flows, mean and p99: {random:?}, least {least:?}, two {two:?}"
        );
        assert!(least.0 <= 1.25 * two.0, "near to what two choices reach: {least:?} {two:?}");
        factors.push((random.0 / least.0, random.1 as f64 / least.1 as f64));
    }
    // 1.9 to 2.2 and 2.0 to 2.3 over these seeds; docs/proxy.md says so.
    let least = factors.iter().fold((f64::MAX, f64::MAX), |a, f| (a.0.min(f.0), a.1.min(f.1)));
    assert!(least.0 >= 1.8 && least.1 >= 1.9, "{factors:?}");
}

#[test]
fn least_connections_fills_who_has_fewest() {
    let mut world = World::new(&[("sealane.dev/balance", "least-connections")], pods(&[1, 2, 3]));
    world.look(PERIOD);
    assert_eq!(world.counts(), BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    for _ in 0..30 {
        world.open(backend(1), Stage::Open);
        world.open(backend(2), Stage::Open);
    }
    world.look(PERIOD);
    // Everybody keeps a slot; what ended counts for nothing.
    assert_eq!(world.counts(), BTreeMap::from([(1, 1), (2, 1), (3, 62)]));
    world.flows.values_mut().filter(|(b, _)| *b == backend(1)).for_each(|(_, stage)| *stage = Stage::Over);
    for _ in 0..30 {
        world.look(PERIOD);
    }
    let parts = [1, 2, 3].map(|n| world.part(n));
    assert!((parts[0] - parts[2]).abs() < 0.05 && parts[1] < 0.02, "{parts:?}");
    // Weights count: who should have twice as many, is as full with twice as many.
    world.service =
        service(&[("sealane.dev/balance", "least-connections"), ("sealane.dev/weights", r#"{"web-1": 2}"#)]);
    world.set(pods(&[1, 2]));
    world.flows.clear();
    for n in 0..30 {
        world.open(backend(if n % 3 == 0 { 2 } else { 1 }), Stage::Open);
    }
    for _ in 0..30 {
        world.look(PERIOD);
    }
    assert!((world.part(1) - 2.0 / 3.0).abs() < 0.02, "{}", world.part(1));
}

#[test]
fn policies_and_too_many_endpoints() {
    // Local keeps to this node, and to its weights.
    let mut world = World::new(&[("sealane.dev/weights", r#"{"web-1": 3}"#)], vec![]);
    world.service.internal_policy = TrafficPolicy::Local;
    let mut endpoints = pods(&[1, 2, 3]);
    for (endpoint, n) in endpoints.iter_mut().zip(1..).take(2) {
        *endpoint = Endpoint::new(address(n)).on("n1", "a").with_pod(&format!("web-{n}"));
    }
    world.set(endpoints);
    assert_eq!(world.counts(), BTreeMap::from([(1, 3), (2, 1)]));
    // Weighing has an end.
    let many = (0..5000u32).map(|n| Endpoint::new(Ipv4Addr::from(0x0a80_0000 + n).into())).collect();
    world.service.internal_policy = TrafficPolicy::Cluster;
    world.set(many);
    assert_eq!(world.slots().iter().collect::<BTreeSet<_>>().len(), 5000);
    assert!(world.news.last().unwrap().to_string().contains("too many"));
    // Shares for nobody that is there spread evenly.
    let mut shares = Shares::default();
    shares.set(&"".into(), false, BTreeMap::from([(backend(77), 3)]));
    world.service = service(&[]);
    world.set(pods(&[1, 2]));
    world.table.weigh([(name(), Some(shares))]);
    assert_eq!(world.counts(), BTreeMap::from([(1, 1), (2, 1)]));
}
