//! The table of packets against what stands in the maps, and the contract of sinks. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod group;
#[path = "../../dataplane/tests/lab/mod.rs"]
mod lab;

use group::Group;
use sealane_bpf::{BpfSink, Levels, PacketFate, SocketFate, State};
use sealane_catalog::Protocol;
use sealane_proxy::cases::{Cluster, PACKETS, Row, clusters};
use sealane_proxy::{Fate, FrontendKey, InMemorySink, RuleSink, Table, contract, trace_frontend};
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn the_maps_keep_the_contract() {
    let group = Group::new();
    for seed in 0..20 {
        let mut sink = group.sink();
        contract::check(&mut sink, &contract::node(), &contract::history(seed, 15))
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn both_levels_keep_the_contract() {
    let group = Group::new();
    for seed in 100..105 {
        let (mut sockets, mut packets) = (group.sink(), InMemorySink::default());
        let mut levels = Levels { sockets: &mut sockets, packets: &mut packets };
        contract::check(&mut levels, &contract::node(), &contract::history(seed, 15))
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

/// What this level does otherwise than a rule for packets would, and why.
const DIFFERENCES: &[&str] = &[
    // A socket speaks with the endpoint itself: answers come to it by themselves, nobody has to be masqueraded.
    "source kept",
    // Whether a process is within the cluster follows from where it runs, not from its address: a Pod whose address
    // is in no known range gets what Pods get of a Service with externalTrafficPolicy Local.
    "Pod by its socket",
    // A socket that is not bound has no source to hold against source ranges: rules for packets do.
    "left: source ranges",
    // What is swallowed leaves as packets, so that a SYN sent again may reach an endpoint that came meanwhile.
    "left: swallowed",
    // The kernel has no such hooks for SCTP.
    "left: SCTP",
    // Packets from outside to nobody, and those that are refused with an answer, are for the other rules.
    "left: refused or nobody's",
];

/// Sources that are processes of the node; the others come by the network.
fn is_local(row: &Row) -> bool {
    !["out", "far"].contains(&&*row.source)
}

/// What a row meets, by the name of its difference; "": none. An error where it is none of those.
fn difference(cluster: &Cluster, row: &Row, state: &State) -> Result<&'static str, String> {
    let packet = &row.packet;
    let key = FrontendKey { address: packet.destination, protocol: packet.protocol, port: packet.port };
    let frontend = state.frontends.get(&key);
    let met = state.connects(packet);
    match (&row.fate, &met) {
        (Fate::Pass, SocketFate::Left) | (Fate::Reject, SocketFate::Refused) => Ok(""),
        (
            Fate::Dnat { backends, masqueraded, affinity },
            SocketFate::Led { backends: led, affinity: stay },
        ) if (backends, affinity) == (led, stay) => {
            Ok(if masqueraded.is_empty() { "" } else { "source kept" })
        }
        (Fate::Dnat { affinity, .. }, SocketFate::Led { backends: led, affinity: stay }) => {
            // As if it were told from others.
            let known = !cluster.node.is_pod(packet.source, packet.interface) && !packet.from_node;
            let within = frontend.filter(|f| f.outside.is_some()).map(|f| f.target.backends());
            let within: Option<BTreeSet<_>> = within.map(|w| w.iter().copied().collect());
            if known && within.as_ref() == Some(led) && affinity == stay {
                Ok("Pod by its socket")
            } else {
                Err(format!("{met:?}"))
            }
        }
        (_, SocketFate::Left) if packet.protocol == Protocol::Sctp => Ok("left: SCTP"),
        (_, SocketFate::Left) if frontend.is_some_and(|f| f.sources.is_some()) => Ok("left: source ranges"),
        (Fate::Drop, SocketFate::Left) => Ok("left: swallowed"),
        _ => Err(format!("{met:?}")),
    }
}

/// What a row from outside meets, as [`difference`] has it: nothing is otherwise but what is left.
fn from_outside(row: &Row, state: &State) -> Result<&'static str, String> {
    match (&row.fate, state.comes(&row.packet)) {
        (
            Fate::Dnat { backends, masqueraded, affinity },
            PacketFate::Led { backends: led, marked, affinity: stay },
        ) if (backends, masqueraded, affinity) == (&led, &marked, &stay) => Ok("led from outside"),
        (Fate::Drop, PacketFate::Dropped) => Ok("swallowed from outside"),
        (_, PacketFate::Left) if row.packet.protocol == Protocol::Sctp => Ok("left: SCTP"),
        (Fate::Pass | Fate::Reject, PacketFate::Left) => Ok("left: refused or nobody's"),
        // Within the Service ranges, where nobody has it.
        (Fate::Drop, PacketFate::Left) => Ok("left: swallowed"),
        (_, met) => Err(format!("{met:?}")),
    }
}

#[derive(Default)]
struct Tally {
    rows: usize,
    wrong: Vec<String>,
    counts: BTreeMap<&'static str, usize>,
}

impl Tally {
    /// All rows of a cluster: those of processes by what the programs do, and all of them by what the maps hold.
    fn check(&mut self, cluster: &Cluster, sink: &mut BpfSink) {
        let state = sink.state().unwrap();
        for row in &cluster.rows {
            self.rows += 1;
            let mut complain = |what: &str, why: String| {
                let at = format!("line {}: {}, {}", row.line, cluster.title, row.text);
                self.wrong.push(format!("{at}\n  {what} {why}"));
            };
            let key = FrontendKey {
                address: row.packet.destination,
                protocol: row.packet.protocol,
                port: row.packet.port,
            };
            if let Some(frontend) = state.frontends.get(&key) {
                let fate = trace_frontend(frontend, &cluster.node, &row.packet);
                if fate != row.fate {
                    complain("the maps say", format!("{fate:?}"));
                }
            }
            let met =
                if is_local(row) { difference(cluster, row, &state) } else { from_outside(row, &state) };
            match met {
                Ok(name) => *self.counts.entry(name).or_default() += 1,
                Err(why) => complain("the programs say", why),
            }
        }
    }

    fn agree(self) {
        println!("{} rows: {:?}", self.rows, self.counts);
        assert!(
            self.wrong.is_empty(),
            "{} of {} rows:\n{}",
            self.wrong.len(),
            self.rows,
            self.wrong.join("\n")
        );
        assert!(self.rows >= 250, "{}", self.rows);
        // Every difference is one that there is.
        for name in DIFFERENCES {
            assert!(self.counts.contains_key(name), "{name}");
        }
        for (name, least) in [("", 60), ("led from outside", 60), ("swallowed from outside", 10)] {
            assert!(self.counts[name] >= least, "{:?}", self.counts);
        }
    }
}

/// All clusters, one after the other, put into force by `put`.
fn state_agrees(put: impl Fn(&Cluster, &mut BpfSink) -> Result<(), <BpfSink as RuleSink>::Error>) {
    let group = Group::new();
    let mut sink = group.sink();
    let mut tally = Tally::default();
    for cluster in clusters(PACKETS).unwrap() {
        put(&cluster, &mut sink).unwrap();
        tally.check(&cluster, &mut sink);
    }
    tally.agree();
}

#[test]
fn what_stands_in_the_maps_agrees() {
    state_agrees(Cluster::write_into);
}

/// Changes lead where writing anew leads.
#[test]
fn what_changes_lead_to_agrees() {
    state_agrees(Cluster::change_into);
}

/// Thousands of changes with one Service among them that no map has room for at first.
#[test]
fn maps_grow_and_places_are_used_again() {
    let group = Group::new();
    let mut sink = group.sink();
    let mut table = Table::new(lab::context());
    sink.replace(&lab::context(), table.frontends()).unwrap();
    let endpoints = |count: u32, shift: u32| -> Vec<(std::net::IpAddr, &'static str)> {
        let address = |n| std::net::Ipv4Addr::from(0x0af4_0000 + n + shift);
        (1..=count).map(|n| (address(n).into(), "n1")).collect()
    };
    let mut set = |sink: &mut BpfSink, name: &str, address: &str, endpoints: &[_]| {
        let entry = lab::entry(lab::service(name, &[address]), endpoints);
        let changes = table.update([(&lab::name(name), Some(&entry))]);
        sink.apply(&changes).unwrap();
        sink.settle().unwrap();
        let installed = sink.read_back().unwrap();
        assert_eq!(installed.len(), table.frontends().len());
        for (key, wanted) in table.frontends() {
            assert!(wanted.means(&installed[key]), "{key}");
        }
    };
    set(&mut sink, "small", "10.96.0.20", &endpoints(3, 0));
    for shift in 0..300 {
        set(&mut sink, "busy", "10.96.0.21", &endpoints(10, shift));
    }
    set(&mut sink, "large", "10.96.0.22", &endpoints(5000, 0));
    for shift in 0..20 {
        set(&mut sink, "large", "10.96.0.22", &endpoints(5000, shift));
    }
}

#[test]
fn programs_end_with_the_sink() {
    let group = Group::new();
    let mut sink = group.sink();
    assert!(sink.intact().unwrap(), "nothing is due yet");
    sink.replace(&lab::context(), &BTreeMap::new()).unwrap();
    assert!(sink.intact().unwrap());
    // A second sink on the same cgroup is somebody else.
    let mut other = group.sink();
    other.replace(&lab::context(), &BTreeMap::new()).unwrap();
    drop(other);
    assert!(sink.intact().unwrap());
    sink.clear().unwrap();
    assert!(sink.intact().unwrap());
}
