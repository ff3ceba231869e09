//! Cases that every way to carry frontends out agrees on: clusters, packets, and what becomes of them. The table
//! (`packets.table`) is run against [`Table::trace`](crate::Table::trace), against what stands in a kernel, and with
//! real connections.
//!
//! A cluster in the table:
//!
//! ```text
//! cluster TITLE
//! node [zone=Z] [pods|pods4|link=L|links=PREFIX] [masquerade-all] [services[=RANGES]] [nodeports=ADDRESSES] [own=ADDRESS] [nameless]
//! service NAME TYPE [nodeports] [at=ADDRESSES] ports=PORT/PROTOCOL,... [external=] [balancer=] [proxied=] [ranges=]
//!     [inside=Local] [outside=Local] [sticky=SECONDS] [age=RANK] [label=KEY]
//! endpoints SERVICE [only=4|6] [ports=PORT/PROTOCOL,...] NAME@NODE[/ZONE HINT[/NODE HINT]][-|~|!] ...
//! ```
//!
//! Addresses and ports are words ([`address`], [`port`]); a node is `here`, `there` or `nowhere`; `-` is not ready, `~`
//! terminates and serves, `!` terminates and does not.

mod given;

use crate::{Backend, Fate, NodeContext, Packet, RuleSink, Table};
use sealane_catalog::{Entry, Labels, NamespacedName, Protocol, Service, ServiceType, TrafficPolicy};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The table's text.
pub const PACKETS: &str = include_str!("packets.table");

/// A Service of the namespace `default` of type ClusterIP, without addresses and ports: where tests begin.
#[must_use]
pub fn service(name: &str) -> Service {
    Service {
        key: NamespacedName::new("default", name),
        revision: 1,
        created: 0,
        kind: ServiceType::ClusterIp,
        headless: false,
        cluster_ips: vec![],
        external_name: "".into(),
        ports: vec![],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        external_ips: vec![],
        ingress: vec![],
        source_ranges: vec![],
        health_check_node_port: 0,
        publish_not_ready: false,
        traffic_distribution: "".into(),
        grpc_policy: None,
        labels: Labels::default(),
        annotations: Labels::default(),
    }
}

/// Some Services on a node, and packets that meet them.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What it is about.
    pub title: String,
    /// As written, without the rows.
    pub given: String,
    /// The node.
    pub node: NodeContext,
    /// An address of a Service that is the node's as well.
    pub own: Option<IpAddr>,
    /// The Services with their slices.
    pub services: Vec<(NamespacedName, Entry)>,
    /// The packets.
    pub rows: Vec<Row>,
}

impl Cluster {
    /// The table of its Services.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut table = Table::new(self.node.clone());
        table.update(self.services.iter().map(|(key, entry)| (key, Some(entry))));
        table
    }

    /// Puts it into a sink as a whole.
    ///
    /// # Errors
    ///
    /// The sink's.
    pub fn write_into<S: RuleSink>(&self, sink: &mut S) -> Result<(), S::Error> {
        sink.replace(&self.node, self.table().frontends())
    }

    /// Puts it into a sink by changes, Service by Service: they come with all that they have, lose their endpoints, and
    /// get them again. That leads where [`write_into`](Self::write_into) leads.
    ///
    /// # Errors
    ///
    /// The sink's.
    pub fn change_into<S: RuleSink>(&self, sink: &mut S) -> Result<(), S::Error> {
        let mut table = Table::new(self.node.clone());
        sink.replace(&self.node, table.frontends())?;
        for bare in [false, true, false] {
            for (key, entry) in &self.services {
                let mut entry = entry.clone();
                if bare {
                    entry.slices.clear();
                }
                let changes = table.update([(key, Some(&entry))]);
                sink.apply(&changes)?;
            }
        }
        sink.settle()
    }
}

/// A packet and what becomes of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Line in the table, from 1.
    pub line: usize,
    /// As written: `tcp cluster:http | pod: a b`.
    pub text: String,
    /// Who sends it, by the table's word: `pod`, an endpoint's name, `node`, `out`, `far`, or an address of the node.
    pub source: String,
    /// The packet.
    pub packet: Packet<'static>,
    /// What becomes of it.
    pub fate: Fate,
}

/// Words for addresses, of both families. Pods are numbered by their place here, from `a`.
const ADDRESSES: &[(&str, &str, &str)] = &[
    ("a", "10.244.0.2", "fd00:244:0::2"),
    ("b", "10.244.1.2", "fd00:244:1::2"),
    ("c", "10.244.2.2", "fd00:244:2::2"),
    ("d", "10.244.3.2", "fd00:244:3::2"),
    ("pod", "10.244.4.2", "fd00:244:4::2"),
    ("node", "192.0.2.10", "2001:db8:2::10"),
    ("out", "192.0.2.1", "2001:db8:2::1"),
    ("far", "198.18.0.1", "2001:db8:18::1"),
    ("cluster", "10.96.0.20", "fd00:96::20"),
    ("other", "10.96.0.21", "fd00:96::21"),
    ("unused", "10.96.0.99", "fd00:96::99"),
    ("external", "203.0.113.1", "2001:db8:203::1"),
    ("balancer", "198.51.100.1", "2001:db8:198::1"),
    ("spare", "198.51.100.2", "2001:db8:198::2"),
    ("loopback", "127.0.0.1", "::1"),
];

/// Links of the node by who is behind them.
const LINKS: &[(&str, &str)] = &[
    ("a", "pod0"),
    ("b", "pod1"),
    ("c", "pod2"),
    ("d", "pod3"),
    ("pod", "pod4"),
    ("out", "out"),
    ("far", "out"),
];

/// Words for ports: the Service's, the node's, the endpoint's.
const PORTS: &[(&str, u16, u16, u16)] = &[
    ("http", 80, 30_080, 8080),
    ("alt", 81, 30_081, 8081),
    ("dns", 53, 30_053, 8080),
    ("sig", 9900, 30_099, 8080),
];

/// An address by its word; one that ends in 6 is of IPv6.
///
/// # Errors
///
/// There is no such word.
pub fn address(word: &str) -> Result<IpAddr, String> {
    let (name, ipv6) = match word.strip_suffix('6') {
        Some(name) => (name, true),
        None => (word, false),
    };
    let found = ADDRESSES.iter().find(|(n, ..)| *n == name);
    let text = found.map(|(_, v4, v6)| if ipv6 { *v6 } else { *v4 });
    text.and_then(|t| t.parse().ok()).ok_or_else(|| format!("no address is called {word:?}"))
}

/// A port by its word: a Service's, `node-` and one for a node's, `target` for an endpoint's, `none` for one that
/// nobody has.
///
/// # Errors
///
/// There is no such word.
pub fn port(word: &str) -> Result<u16, String> {
    let (name, of_node) = match word.strip_prefix("node-") {
        Some(name) => (name, true),
        None => (word, false),
    };
    match (name, PORTS.iter().find(|(n, ..)| *n == name)) {
        (_, Some((_, service, node, _))) => Ok(if of_node { *node } else { *service }),
        ("none", _) => Ok(9),
        ("target", _) => Ok(8080),
        _ => Err(format!("no port is called {word:?}")),
    }
}

fn target_port(word: &str) -> Result<u16, String> {
    let found = PORTS.iter().find(|(n, ..)| *n == word);
    found.map(|(.., target)| *target).ok_or_else(|| format!("no port is called {word:?}"))
}

fn protocol(word: &str) -> Result<Protocol, String> {
    match word {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(format!("no protocol is called {word:?}")),
    }
}

/// All clusters of a table such as [`PACKETS`].
///
/// # Errors
///
/// Says in which line what is not understood.
pub fn clusters(table: &str) -> Result<Vec<Cluster>, String> {
    let mut clusters: Vec<Cluster> = Vec::new();
    for (line, text) in (1..).zip(table.lines()).filter(|(_, t)| !t.is_empty() && !t.starts_with('#')) {
        take(&mut clusters, line, text).map_err(|e| format!("line {line}: {e}"))?;
    }
    Ok(clusters)
}

fn take(clusters: &mut Vec<Cluster>, line: usize, text: &str) -> Result<(), String> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    if word == "cluster" {
        clusters.push(Cluster {
            title: rest.to_owned(),
            given: String::new(),
            node: NodeContext::new("n1"),
            own: None,
            services: Vec::new(),
            rows: Vec::new(),
        });
        return Ok(());
    }
    let cluster = clusters.last_mut().ok_or("no cluster yet")?;
    match word {
        "node" => given::node(cluster, rest)?,
        "service" => given::service(cluster, rest)?,
        "endpoints" => given::endpoints(cluster, rest)?,
        _ => return rows(cluster, line, text),
    }
    cluster.given += text;
    cluster.given.push('\n');
    Ok(())
}

fn rows(cluster: &mut Cluster, line: usize, text: &str) -> Result<(), String> {
    let mut cells = text.split('|').map(str::trim);
    let head = cells.next().unwrap_or_default();
    let (protocol_word, destination) = head.split_once(' ').ok_or("PROTOCOL DESTINATION:PORT")?;
    let (destination_word, port_word) = destination.split_once(':').ok_or("DESTINATION:PORT")?;
    let destination = address(destination_word)?;
    for cell in cells {
        let (word, fate) = cell.split_once(": ").ok_or("SOURCE: FATE")?;
        let source = address(&if destination.is_ipv6() { format!("{word}6") } else { word.to_owned() })?;
        let link = LINKS.iter().find(|(name, _)| *name == word).map(|(_, link)| *link);
        let own = |a: IpAddr| Some(a) == cluster.own || a.is_loopback() || word_of_node(a);
        cluster.rows.push(Row {
            line,
            text: format!("{head} | {cell}"),
            source: word.to_owned(),
            packet: Packet {
                source,
                destination,
                protocol: protocol(protocol_word)?,
                port: port(port_word)?,
                from_node: own(source),
                to_node: own(destination),
                interface: link.unwrap_or(""),
            },
            fate: fate_of(fate, destination.is_ipv6())?,
        });
    }
    Ok(())
}

fn word_of_node(address: IpAddr) -> bool {
    ["node", "node6"].iter().any(|word| self::address(word) == Ok(address))
}

fn fate_of(text: &str, ipv6: bool) -> Result<Fate, String> {
    match text {
        "reject" => return Ok(Fate::Reject),
        "drop" => return Ok(Fate::Drop),
        "pass" => return Ok(Fate::Pass),
        _ => {}
    }
    let (mut backends, mut masqueraded, mut affinity) = (BTreeSet::new(), BTreeSet::new(), None);
    for word in text.split_whitespace() {
        if let Some(seconds) = word.strip_prefix("stay=") {
            affinity = Some(seconds.parse().map_err(|_| format!("{seconds:?} are no seconds"))?);
            continue;
        }
        let (name, seen_as_node) = match word.strip_suffix('*') {
            Some(name) => (name, true),
            None => (word, false),
        };
        let (name, port) = name.split_once(':').unwrap_or((name, "http"));
        let address = address(&if ipv6 { format!("{name}6") } else { name.to_owned() })?;
        let backend = Backend { address, port: target_port(port)? };
        backends.insert(backend);
        if seen_as_node {
            masqueraded.insert(backend);
        }
    }
    Ok(Fate::Dnat { backends, masqueraded, affinity })
}
