//! The suite that every [`RuleSink`] passes: histories of Services are played into a table, its changes into the
//! sink, and what is read back is held against a table made from scratch, frontend by frontend and packet by packet.
//! Between changes endpoints get other shares, so that a backend may have several slots.

use crate::{Backend, FrontendKey, NodeContext, Packet, RuleSink, Shares, Table, cases, trace_frontend};
use sealane_catalog::{
    Endpoint, EndpointPort, Entry, Ingress, NamespacedName, Protocol, Service, ServicePort, ServiceType,
    Slice, TrafficPolicy,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Services that change together, with their new state.
pub type Round = Vec<(NamespacedName, Option<Entry>)>;

/// Numbers that look random and follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Those that follow from a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `sides`, which is not 0.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.bits() % sides
    }

    /// From 0 up to 1, and never that.
    pub fn fraction(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Once in `times`, which is not 0.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }
}

/// The node that histories are for: `n1` in zone `a`, with a Pod range for each family.
pub fn node() -> NodeContext {
    let pod_cidrs = ["10.244.0.0/16", "fd00:244::/32"].iter().filter_map(|c| c.parse().ok()).collect();
    NodeContext {
        zone: "a".into(),
        addresses: vec![Ipv4Addr::new(192, 0, 2, 10).into(), v6(0xa)],
        node_port_addresses: vec![Ipv4Addr::new(192, 0, 2, 10).into(), v6(0xa)],
        pod_cidrs,
        ..NodeContext::new("n1")
    }
}

fn v6(last: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, last).into()
}

/// A history that follows from a seed: some rounds over a handful of Services that come, change, share external
/// addresses, lose their endpoints and go.
pub fn history(seed: u64, rounds: usize) -> Vec<Round> {
    let mut dice = Dice::new(seed);
    (0..rounds)
        .map(|_| {
            let changed = 1 + dice.roll(3);
            let mut round: BTreeMap<NamespacedName, Option<Entry>> = BTreeMap::new();
            for _ in 0..changed {
                let number = dice.roll(6) as u8;
                let key = NamespacedName { namespace: "default".into(), name: format!("s{number}").into() };
                let entry = (!dice.once_in(6)).then(|| entry(&key, number, &mut dice));
                round.insert(key, entry);
            }
            round.into_iter().collect()
        })
        .collect()
}

fn entry(key: &NamespacedName, number: u8, dice: &mut Dice) -> Entry {
    let policy = |local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let kind =
        [ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::LoadBalancer][dice.roll(3) as usize];
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][dice.roll(3) as usize];
    let port = |name: &str, number: u16, node_port| ServicePort {
        name: name.into(),
        protocol,
        port: number,
        node_port: if kind == ServiceType::ClusterIp { 0 } else { node_port },
        app_protocol: "".into(),
    };
    let mut ports = vec![port("a", 80, 30_000 + u16::from(number))];
    if dice.once_in(2) {
        ports.push(port("b", 81, 30_100 + u16::from(number)));
    }
    let mut cluster_ips = vec![Ipv4Addr::new(10, 96, 0, 10 + number).into()];
    if dice.once_in(3) {
        cluster_ips.push(v6(0x100 + u16::from(number)));
    }
    let ingress = Ingress {
        ip: Some(Ipv4Addr::new(198, 51, 100, dice.roll(2) as u8).into()),
        hostname: "".into(),
        proxy_mode: dice.once_in(4),
    };
    let service = Service {
        key: key.clone(),
        created: dice.roll(3) as i64,
        kind,
        cluster_ips,
        ports,
        affinity_seconds: dice.once_in(3).then_some(10_800),
        internal_policy: policy(dice.once_in(4)),
        external_policy: policy(dice.once_in(2)),
        // Two Services may claim the same.
        external_ips: if dice.once_in(3) { vec![Ipv4Addr::new(203, 0, 113, 1).into()] } else { vec![] },
        ingress: if kind == ServiceType::LoadBalancer { vec![ingress] } else { vec![] },
        source_ranges: match dice.roll(4) {
            0 => vec![
                "198.18.0.0/16".into(),
                "198.18.0.0/24".into(),
                "192.0.2.0/24".into(),
                "fd00::/16".into(),
            ],
            1 => vec!["10.244.0.0/16".into(), "garbage".into()],
            _ => vec![],
        },
        ..cases::service(&key.name)
    };
    let slices = [false, true].map(|ipv6| Arc::new(slice(key, protocol, ipv6, dice)));
    Entry { service: Some(Arc::new(service)), slices: slices.into() }
}

fn slice(key: &NamespacedName, protocol: Protocol, ipv6: bool, dice: &mut Dice) -> Slice {
    let port = |name: &str, number| EndpointPort {
        name: name.into(),
        protocol,
        port: Some(number),
        app_protocol: "".into(),
    };
    let count = dice.roll(6);
    let endpoints = (0..count).map(|_| {
        let last = dice.roll(8) as u8 + 1;
        let ready = !dice.once_in(4);
        let terminating = !ready && dice.once_in(2);
        let address = if ipv6 {
            Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, last.into()).into()
        } else {
            Ipv4Addr::new(10, 244, 0, last).into()
        };
        let node = if last.is_multiple_of(3) { "n1" } else { "n2" };
        let mut endpoint = Endpoint::new(address).on(node, "");
        (endpoint.ready, endpoint.terminating) = (ready, terminating);
        endpoint.serving = ready || terminating;
        endpoint
    });
    Slice {
        key: NamespacedName { name: format!("{}-{ipv6}", key.name).into(), ..key.clone() },
        service: key.clone(),
        revision: 1,
        ipv6,
        endpoints: endpoints.collect(),
        ports: [port("a", 8080), port("b", 8081)].into(),
        triggered: 0,
    }
}

/// Plays a history into a sink; the first round by `replace`, the others by `apply`.
///
/// # Errors
///
/// Says at which round the sink broke which part of its contract.
pub fn check<S: RuleSink>(sink: &mut S, node: &NodeContext, history: &[Round]) -> Result<(), String> {
    let mut table = Table::new(node.clone());
    let mut state: BTreeMap<NamespacedName, Entry> = BTreeMap::new();
    let mut shares: Weights = BTreeMap::new();
    let mut dice = Dice::new(history.len() as u64);
    for (number, round) in history.iter().enumerate() {
        for (key, entry) in round {
            match entry {
                Some(entry) => state.insert(key.clone(), entry.clone()),
                None => state.remove(key),
            };
        }
        let changes = table.update(round.iter().map(|(key, entry)| (key, entry.as_ref())));
        let done = if number == 0 { sink.replace(node, table.frontends()) } else { sink.apply(&changes) };
        done.map_err(|e| format!("round {number}: {e}"))?;
        compare(sink, &scratch(node, &state, &shares))
            .map_err(|e| format!("round {number}, applied: {e}"))?;
        sink.settle().map_err(|e| format!("round {number}: {e}"))?;
        compare(sink, &scratch(node, &state, &shares))
            .map_err(|e| format!("round {number}, settled: {e}"))?;
        // Backends get several slots, some none, and some Services even shares again.
        let weighed: Vec<_> = state.iter().filter_map(|(key, e)| reweigh(key, e, &mut dice)).collect();
        shares.extend(weighed.iter().cloned());
        let changes = table.weigh(weighed);
        sink.apply(&changes).map_err(|e| format!("round {number}: {e}"))?;
        compare(sink, &scratch(node, &state, &shares))
            .map_err(|e| format!("round {number}, weighed: {e}"))?;
        if !sink.intact().map_err(|e| e.to_string())? {
            return Err(format!("round {number}: the sink says that somebody else wrote"));
        }
    }
    sink.replace(node, &BTreeMap::new()).map_err(|e| e.to_string())?;
    compare(sink, &Table::new(node.clone())).map_err(|e| format!("emptied: {e}"))
}

/// Services that were given shares; `None`: even ones.
type Weights = BTreeMap<NamespacedName, Option<Shares>>;

/// Another share for every backend of a Service, once in three times.
fn reweigh(key: &NamespacedName, entry: &Entry, dice: &mut Dice) -> Option<(NamespacedName, Option<Shares>)> {
    if !dice.once_in(3) {
        return None;
    }
    let mut shares = Shares::default();
    for slice in &entry.slices {
        for port in &slice.ports {
            let mut slots = BTreeMap::new();
            for endpoint in &slice.endpoints {
                let backend = Backend { address: endpoint.address, port: port.port.unwrap_or(0) };
                slots.insert(backend, dice.roll(5) as u32);
            }
            shares.set(&port.name, slice.ipv6, slots);
        }
    }
    Some((key.clone(), (!dice.once_in(4)).then_some(shares)))
}

fn scratch(node: &NodeContext, state: &BTreeMap<NamespacedName, Entry>, shares: &Weights) -> Table {
    let mut table = Table::new(node.clone());
    for (key, shares) in shares {
        table.set_shares(key, shares.clone());
    }
    table.update(state.iter().map(|(key, entry)| (key, Some(entry))));
    table
}

fn compare<S: RuleSink>(sink: &mut S, table: &Table) -> Result<(), String> {
    let installed = sink.read_back().map_err(|e| e.to_string())?;
    if let Some(key) = installed.keys().find(|k| !table.frontends().contains_key(k)) {
        return Err(format!("{key} is in force and should not be"));
    }
    for (key, wanted) in table.frontends() {
        let Some(found) = installed.get(key) else { return Err(format!("{key} is not in force")) };
        if !wanted.means(found) {
            return Err(format!("{key} should be\n{wanted:?}\nand is\n{found:?}"));
        }
        for packet in packets(key) {
            let fate = trace_frontend(found, table.node(), &packet);
            if fate != table.trace(&packet) {
                return Err(format!("{packet:?} should meet {:?} and meets {fate:?}", table.trace(&packet)));
            }
        }
    }
    Ok(())
}

/// A Pod, the node, a stranger, and an endpoint that may reach itself.
fn packets(key: &FrontendKey) -> Vec<Packet<'static>> {
    let sources: [(IpAddr, IpAddr, bool); 4] = [
        (Ipv4Addr::new(10, 244, 9, 9).into(), Ipv6Addr::new(0xfd00, 0x244, 0, 9, 0, 0, 0, 9).into(), false),
        (Ipv4Addr::new(192, 0, 2, 10).into(), v6(0xa), true),
        (Ipv4Addr::new(198, 18, 0, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), false),
        (Ipv4Addr::new(10, 244, 0, 3).into(), Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 3).into(), false),
    ];
    let ipv4 = key.address.is_ipv4();
    sources
        .into_iter()
        .map(|(source4, source6, from_node)| Packet {
            source: if ipv4 { source4 } else { source6 },
            destination: key.address,
            protocol: key.protocol,
            port: key.port,
            from_node,
            to_node: false,
            interface: "",
        })
        .collect()
}
