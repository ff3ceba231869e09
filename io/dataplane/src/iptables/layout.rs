//! From frontends to chains: what iptables-restore is told, as text. Nothing is run here.

use super::names::{EXT, FW, SVC, SVL, ServicePort, protocol};
use sealane_proxy::{
    Backend, Cidr, Class, Frontend, FrontendKey, Masquerade, NodeContext, PodInterface, Target,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub(super) const SERVICES: &str = "KUBE-SERVICES";
pub(super) const NODE_PORTS: &str = "KUBE-NODEPORTS";
pub(super) const EXTERNAL: &str = "KUBE-EXTERNAL-SERVICES";
pub(super) const FIREWALL: &str = "KUBE-PROXY-FIREWALL";
pub(super) const MARK_MASQ: &str = "KUBE-MARK-MASQ";
pub(super) const POSTROUTING: &str = "KUBE-POSTROUTING";
pub(super) const FORWARD: &str = "KUBE-FORWARD";
/// Marks whoever is no Pod, where that takes more than one rule to say.
pub(super) const OFF_CLUSTER: &str = "KUBE-MARK-MASQ-OFF-CLUSTER";
/// It has a rule of its own, so that flushing is seen like removing.
pub(super) const CANARY: &str = "KUBE-PROXY-CANARY";

/// A link's name has at most so many bytes, `+` included (IFNAMSIZ without its end).
const LONGEST_LINK: usize = 15;
/// Up to so many endpoints five digits say a probability well enough: within 0.05 % of it.
const FEW: usize = 100;

/// A table of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TableName {
    Filter,
    Nat,
}

impl TableName {
    pub(super) fn name(self) -> &'static str {
        match self {
            TableName::Filter => "filter",
            TableName::Nat => "nat",
        }
    }
}

/// A chain that all Service ports share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shared {
    /// KUBE-SERVICES of nat.
    Services,
    /// KUBE-NODEPORTS of nat.
    NodePorts,
    /// KUBE-SERVICES of filter: cluster addresses that nobody serves.
    Unserved,
    /// KUBE-EXTERNAL-SERVICES: other addresses.
    External,
    /// KUBE-PROXY-FIREWALL.
    Firewall,
}

impl Shared {
    pub(super) const ALL: [Shared; 5] =
        [Shared::Services, Shared::NodePorts, Shared::Unserved, Shared::External, Shared::Firewall];

    pub(super) fn place(self) -> (TableName, &'static str) {
        match self {
            Shared::Services => (TableName::Nat, SERVICES),
            Shared::NodePorts => (TableName::Nat, NODE_PORTS),
            Shared::Unserved => (TableName::Filter, SERVICES),
            Shared::External => (TableName::Filter, EXTERNAL),
            Shared::Firewall => (TableName::Filter, FIREWALL),
        }
    }
}

/// Where the built-in chains lead to ours: table, built-in chain, ours, its comment, and whether new connections alone do.
/// Each is put first, so that the last ends up before the others. The second but one is not kube-proxy's, where the node
/// itself is not refused at external addresses.
pub(super) const JUMPS: &[(TableName, &str, &str, &str, bool)] = &[
    (TableName::Filter, "INPUT", EXTERNAL, "kubernetes externally-visible service portals", true),
    (TableName::Filter, "FORWARD", EXTERNAL, "kubernetes externally-visible service portals", true),
    (TableName::Filter, "OUTPUT", EXTERNAL, "kubernetes externally-visible service portals", true),
    (TableName::Filter, "FORWARD", SERVICES, "kubernetes service portals", true),
    (TableName::Filter, "OUTPUT", SERVICES, "kubernetes service portals", true),
    (TableName::Filter, "FORWARD", FORWARD, "kubernetes forwarding rules", false),
    (TableName::Filter, "INPUT", FIREWALL, "kubernetes load balancer firewall", true),
    (TableName::Filter, "OUTPUT", FIREWALL, "kubernetes load balancer firewall", true),
    (TableName::Filter, "FORWARD", FIREWALL, "kubernetes load balancer firewall", true),
    (TableName::Nat, "OUTPUT", SERVICES, "kubernetes service portals", false),
    (TableName::Nat, "PREROUTING", SERVICES, "kubernetes service portals", false),
    (TableName::Nat, "POSTROUTING", POSTROUTING, "kubernetes postrouting rules", false),
];

/// Rules of a chain, without `-A` and its name.
pub(super) type Rules = Vec<String>;

/// Chains that stand there whatever the Services are.
pub(super) fn static_chains(node: &NodeContext, ipv6: bool) -> BTreeMap<(TableName, &'static str), Rules> {
    let mark = format!("{:#x}", 1u32 << (node.masquerade_bit & 31));
    let canary =
        || vec!["-m comment --comment \"sealane looks here whether its rules were flushed\"".to_owned()];
    let mut chains = BTreeMap::from([
        ((TableName::Nat, CANARY), canary()),
        ((TableName::Filter, CANARY), canary()),
        ((TableName::Nat, MARK_MASQ), vec![format!("-j MARK --or-mark {mark}")]),
        (
            (TableName::Nat, POSTROUTING),
            vec![
                format!("-m mark ! --mark {mark}/{mark} -j RETURN"),
                // Cleared, so that a tunnel's outer packet is not taken for one as well.
                format!("-j MARK --xor-mark {mark}"),
                "-m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully"
                    .to_owned(),
            ],
        ),
        (
            (TableName::Filter, FORWARD),
            vec![
                "-m conntrack --ctstate INVALID -j DROP".to_owned(),
                format!(
                    "-m comment --comment \"kubernetes forwarding rules\" -m mark --mark {mark}/{mark} -j ACCEPT"
                ),
                "-m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate \
                 RELATED,ESTABLISHED -j ACCEPT"
                    .to_owned(),
            ],
        ),
    ]);
    let pods = from_pods(node, ipv6);
    if pods.len() > 1 {
        let mut rules: Rules = pods.iter().map(|pod| format!("{pod} -j RETURN")).collect();
        rules.push(format!("-j {MARK_MASQ}"));
        chains.insert((TableName::Nat, OFF_CLUSTER), rules);
    }
    chains
}

/// What matches Pods: their ranges and their links.
fn from_pods(node: &NodeContext, ipv6: bool) -> Vec<String> {
    let ranges = node.pod_cidrs.iter().filter(|c| c.network().is_ipv6() == ipv6);
    let ranges = ranges.map(|range| format!("-s {}", shown(range)));
    let link = node.pod_interface.as_ref().map(|interface| match interface {
        PodInterface::Named(name) => name.to_string(),
        // A prefix as long as a name is one.
        PodInterface::Prefix(prefix) if prefix.len() == LONGEST_LINK => prefix.to_string(),
        PodInterface::Prefix(prefix) => format!("{prefix}+"),
    });
    let link = link.filter(|name| (1..=LONGEST_LINK).contains(&name.len()));
    ranges.chain(link.map(|name| format!("-i {name}"))).collect()
}

pub(super) fn shown(range: &Cidr) -> String {
    format!("{}/{}", range.network(), range.bits())
}

/// What a Service port has of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Laid {
    /// Chains of its own, in nat.
    pub(super) own: BTreeMap<String, Rules>,
    /// What it has in the chains of all, but for KUBE-NODEPORTS.
    pub(super) shared: BTreeMap<Shared, Rules>,
    /// Node ports that are served, and on which addresses.
    pub(super) node_ports: BTreeMap<u16, BTreeSet<IpAddr>>,
}

/// The frontends of one Service port and family, and what they come to.
struct Layout<'a> {
    port: &'a ServicePort,
    node: &'a NodeContext,
    ipv6: bool,
    laid: Laid,
}

/// Lays out all frontends of a Service port and family. Those for cluster addresses have one target, the others have
/// theirs in common (sealane_proxy's compile).
pub(super) fn lay_out<'a>(
    port: &ServicePort,
    frontends: impl Iterator<Item = &'a Frontend>,
    node: &NodeContext,
) -> Laid {
    let (cluster, external): (Vec<_>, Vec<_>) = frontends.partition(|f| f.class == Class::ClusterIp);
    let ipv6 = cluster.first().or(external.first()).is_some_and(|f| f.key.address.is_ipv6());
    let mut layout = Layout { port, node, ipv6, laid: Laid::default() };
    let wide = external.first().map(|f| &f.target);
    let narrow = external.first().and_then(|f| f.outside.as_ref());
    let affinity = cluster.iter().chain(&external).find_map(|f| f.affinity);
    // What differs from all endpoints is this node's. Where no other address tells, it goes by the common name.
    let differs = |target: &Target| wide.is_some_and(|wide| !wide.means(target));
    for (prefix, shared) in [(SVC, wide), (SVL, narrow)] {
        let own = |f: &&&Frontend| differs(&f.target) == (prefix == SVL);
        let of_cluster: Vec<&Frontend> = cluster.iter().filter(own).copied().collect();
        let targets = [shared, of_cluster.first().map(|f| &f.target)];
        let served = targets.into_iter().flatten().map(Target::backends).find(|b| !b.is_empty());
        let backends = sorted(served.unwrap_or_default());
        if !backends.is_empty() {
            layout.balance(prefix, &of_cluster, &backends, affinity);
        }
        of_cluster.iter().for_each(|f| layout.cluster_ip(f, prefix));
    }
    let number = cluster.first().map(|f| f.key.port);
    for frontend in &external {
        layout.external(frontend, number.is_some_and(|n| n != frontend.key.port));
    }
    layout.laid
}

/// As kube-proxy orders endpoints: by their text. One with a larger share is there several times.
fn sorted(backends: &[Backend]) -> Vec<Backend> {
    let mut sorted = backends.to_vec();
    sorted.sort_by_cached_key(ToString::to_string);
    sorted
}

/// What matches packets for a frontend.
fn to(key: &FrontendKey) -> String {
    format!("{} -d {}", to_port(key), key.address)
}

/// What matches packets for its port, at any address.
fn to_port(key: &FrontendKey) -> String {
    let name = protocol(key.protocol);
    format!("-p {name} -m {name} --dport {}", key.port)
}

impl Layout<'_> {
    fn own(&mut self, prefix: &str) -> &mut Rules {
        self.laid.own.entry(self.port.chain(prefix)).or_default()
    }

    fn shared(&mut self, chain: Shared, rule: String) {
        self.laid.shared.entry(chain).or_default().push(rule);
    }

    fn comment(&self, text: impl std::fmt::Display) -> String {
        self.port.comment(|name| format!("{name}{text}"))
    }

    /// KUBE-SVC- or KUBE-SVL-, with a chain for each endpoint.
    fn balance(&mut self, prefix: &str, cluster: &[&Frontend], backends: &[Backend], affinity: Option<u32>) {
        let mut rules: Rules = cluster.iter().flat_map(|f| self.masquerade(f)).collect();
        let chains: Vec<(String, String)> = backends
            .iter()
            .map(|b| (self.port.endpoint_chain(b), self.comment(format_args!(" -> {b}"))))
            .collect();
        if let Some(seconds) = affinity {
            let mut distinct = chains.clone();
            distinct.dedup();
            rules.extend(distinct.iter().map(|(chain, comment)| {
                format!("{comment} -m recent --name {chain} --rcheck --seconds {seconds} --reap -j {chain}")
            }));
        }
        for (index, (chain, comment)) in chains.iter().enumerate() {
            // Each of those left is as likely as the others; the last takes what comes.
            let left = chains.len() - index;
            let digits = if left <= FEW { 5 } else { 10 };
            let share = 1.0 / left as f64;
            rules.push(match left {
                1 => format!("{comment} -j {chain}"),
                _ => {
                    format!("{comment} -m statistic --mode random --probability {share:.digits$} -j {chain}")
                }
            });
        }
        *self.own(prefix) = rules;
        let name = self.comment("");
        let l4 = protocol(self.port.protocol());
        for (backend, (chain, _)) in backends.iter().zip(chains) {
            let remembered = match affinity {
                Some(_) => format!(" -m recent --name {chain} --set"),
                None => String::new(),
            };
            let endpoint = vec![
                // Who reaches itself would answer itself past the node.
                format!("{name} -s {} -j {MARK_MASQ}", shown(&Cidr::host(backend.address))),
                format!("{name}{remembered} -p {l4} -m {l4} -j DNAT --to-destination {backend}"),
            ];
            self.laid.own.insert(chain, endpoint);
        }
    }

    /// Marks whom a cluster address does not spare.
    fn masquerade(&self, frontend: &Frontend) -> Rules {
        let head = format!("{} {}", self.comment(" cluster IP"), to(&frontend.key));
        let pods = from_pods(self.node, self.ipv6);
        match (frontend.masquerade, pods.as_slice()) {
            (Masquerade::Never, _) => vec![],
            (Masquerade::Always, _) | (Masquerade::OffCluster, []) => vec![format!("{head} -j {MARK_MASQ}")],
            (Masquerade::OffCluster, [one]) => vec![format!("{head} ! {one} -j {MARK_MASQ}")],
            (Masquerade::OffCluster, _) => vec![format!("{head} -j {OFF_CLUSTER}")],
        }
    }

    fn cluster_ip(&mut self, frontend: &Frontend, prefix: &str) {
        match unserved(&frontend.target) {
            None => {
                let (comment, chain) = (self.comment(" cluster IP"), self.port.chain(prefix));
                self.shared(Shared::Services, format!("{comment} {} -j {chain}", to(&frontend.key)));
            }
            Some((why, verdict)) => {
                let comment = self.comment(why);
                self.shared(Shared::Unserved, format!("{comment} {} -j {verdict}", to(&frontend.key)));
            }
        }
    }

    /// An address that those outside of the cluster reach, perhaps a node's.
    fn external(&mut self, frontend: &Frontend, node_port: bool) {
        let key = &frontend.key;
        let beyond = frontend.outside.as_ref().unwrap_or(&frontend.target);
        let served = !frontend.target.backends().is_empty() || !beyond.backends().is_empty();
        if served {
            self.external_chain(frontend);
            let chain = if frontend.sources.is_some() { FW } else { EXT };
            let what = if frontend.sources.is_some() { " loadbalancer IP" } else { " external IP" };
            if node_port {
                self.laid.node_ports.entry(key.port).or_default().insert(key.address);
            } else {
                let rule = format!("{} {} -j {}", self.comment(what), to(key), self.port.chain(chain));
                self.shared(Shared::Services, rule);
            }
        }
        if let Some(ranges) = &frontend.sources {
            let chain = self.port.chain(FW);
            if served {
                let (admitted, rest) = (
                    self.comment(" loadbalancer IP"),
                    self.port
                        .comment(|name| format!("other traffic to {name} will be dropped by {FIREWALL}")),
                );
                let external = self.port.chain(EXT);
                let mut rules: Rules =
                    ranges.iter().map(|r| format!("{admitted} -s {} -j {external}", shown(r))).collect();
                rules.push(rest);
                *self.own(FW) = rules;
            } else if let Some((why, verdict)) = unserved(beyond) {
                // Whom it admits is told the truth; kube-proxy swallows that as well.
                let comment = self.comment(why);
                for range in ranges.iter() {
                    let rule = format!("{comment} -s {} {} -j {verdict}", shown(range), to(key));
                    self.shared(Shared::Firewall, rule);
                }
            }
            let comment = self.comment(format_args!(" traffic not accepted by {chain}"));
            self.shared(Shared::Firewall, format!("{comment} {} -j DROP", to(key)));
        }
        if let Some((why, verdict)) = unserved(beyond)
            && (served || frontend.sources.is_none())
        {
            let rule = format!("{} {} -j {verdict}", self.comment(why), to(key));
            self.shared(Shared::External, rule);
        }
    }

    /// KUBE-EXT-: the same for all external addresses.
    fn external_chain(&mut self, frontend: &Frontend) {
        let (all, here) = (self.port.chain(SVC), self.port.chain(SVL));
        let about = |text: &str| self.port.comment(|name| format!("{text} for {name} external destinations"));
        let mut rules = Rules::new();
        match &frontend.outside {
            None => {
                match frontend.masquerade {
                    Masquerade::Never => {}
                    Masquerade::OffCluster | Masquerade::Always => {
                        rules.push(format!("{} -j {MARK_MASQ}", about("masquerade traffic")));
                    }
                }
                rules.push(format!("-j {all}"));
            }
            Some(outside) => {
                if !frontend.target.backends().is_empty() {
                    let pods = from_pods(self.node, self.ipv6);
                    rules.extend(pods.iter().map(|pod| format!("{} {pod} -j {all}", about("pod traffic"))));
                    let local = "-m addrtype --src-type LOCAL";
                    rules.push(format!("{} {local} -j {MARK_MASQ}", about("masquerade LOCAL traffic")));
                    rules.push(format!("{} {local} -j {all}", about("route LOCAL traffic")));
                }
                if !outside.backends().is_empty() {
                    rules.push(format!("-j {here}"));
                }
            }
        }
        *self.own(EXT) = rules;
    }
}

/// Why, and what becomes of packets that nobody serves.
fn unserved(target: &Target) -> Option<(&'static str, &'static str)> {
    match target {
        Target::Balance(_) => None,
        Target::Reject => Some((" has no endpoints", "REJECT")),
        Target::Drop => Some((" has no local endpoints", "DROP")),
    }
}

/// A chain that all share, from what each Service port has in it.
pub(super) fn shared_chain<'a>(
    chain: Shared,
    laid: impl Iterator<Item = (&'a ServicePort, &'a Laid)> + Clone,
) -> Rules {
    let mut rules: Rules =
        laid.clone().flat_map(|(_, l)| l.shared.get(&chain).into_iter().flatten().cloned()).collect();
    let addresses: BTreeSet<IpAddr> =
        laid.clone().flat_map(|(_, l)| l.node_ports.values().flatten().copied()).collect();
    match chain {
        Shared::Services => rules.extend(addresses.iter().map(|address| {
            format!(
                "-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this \
                 chain\" -d {address} -j {NODE_PORTS}"
            )
        })),
        Shared::NodePorts => {
            for (port, laid) in laid {
                for (number, own) in &laid.node_ports {
                    rules.extend(node_port(port, *number, own, &addresses));
                }
            }
        }
        Shared::Unserved | Shared::External | Shared::Firewall => {}
    }
    rules
}

/// One rule for all addresses, or, where another Service has some of them, one for each.
fn node_port(
    port: &ServicePort,
    number: u16,
    own: &BTreeSet<IpAddr>,
    all: &BTreeSet<IpAddr>,
) -> impl Iterator<Item = String> {
    let name = protocol(port.protocol());
    let head = format!("{} -p {name} -m {name} --dport {number}", port.comment(str::to_owned));
    let chain = port.chain(EXT);
    let at: Vec<String> = if own == all {
        vec![String::new()]
    } else {
        own.iter().map(|address| format!(" -d {address}")).collect()
    };
    at.into_iter().map(move |at| format!("{head}{at} -j {chain}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_proxy::cases::clusters;

    /// A cluster in the words of sealane_proxy's cases, and IPv4's rules: `CHAIN RULE`, where `web` stands for the hash of
    /// the Service port, and `a` and `b` for those of its endpoints.
    const TABLE: &[(&str, &str)] = &[
        (
            "node pods\nservice web ClusterIP at=cluster ports=http/tcp\nendpoints web a@here b@there",
            "\
filter KUBE-SERVICES
nat KUBE-SEP-a -m comment --comment \"default/web:http-tcp\" -s 10.244.0.2/32 -j KUBE-MARK-MASQ
nat KUBE-SEP-a -m comment --comment \"default/web:http-tcp\" -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:8080
nat KUBE-SEP-b -m comment --comment \"default/web:http-tcp\" -s 10.244.1.2/32 -j KUBE-MARK-MASQ
nat KUBE-SEP-b -m comment --comment \"default/web:http-tcp\" -p tcp -m tcp -j DNAT --to-destination 10.244.1.2:8080
nat KUBE-SERVICES -m comment --comment \"default/web:http-tcp cluster IP\" -p tcp -m tcp --dport 80 -d 10.96.0.20 -j KUBE-SVC-web
nat KUBE-SVC-web -m comment --comment \"default/web:http-tcp cluster IP\" -p tcp -m tcp --dport 80 -d 10.96.0.20 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
nat KUBE-SVC-web -m comment --comment \"default/web:http-tcp -> 10.244.0.2:8080\" -m statistic --mode random --probability 0.50000 -j KUBE-SEP-a
nat KUBE-SVC-web -m comment --comment \"default/web:http-tcp -> 10.244.1.2:8080\" -j KUBE-SEP-b",
        ),
        // Nobody serves it.
        (
            "node pods\nservice web NodePort nodeports at=cluster ports=http/tcp",
            "\
filter KUBE-EXTERNAL-SERVICES -m comment --comment \"default/web:http-tcp has no endpoints\" -p tcp -m tcp --dport 30080 -d 192.0.2.10 -j REJECT
filter KUBE-SERVICES -m comment --comment \"default/web:http-tcp has no endpoints\" -p tcp -m tcp --dport 80 -d 10.96.0.20 -j REJECT",
        ),
        // Served elsewhere alone, both policies Local.
        (
            "node pods\nservice web NodePort nodeports inside=Local outside=Local at=cluster ports=http/tcp\nendpoints web b@there",
            "\
filter KUBE-EXTERNAL-SERVICES -m comment --comment \"default/web:http-tcp has no local endpoints\" -p tcp -m tcp --dport 30080 -d 192.0.2.10 -j DROP
filter KUBE-SERVICES -m comment --comment \"default/web:http-tcp has no local endpoints\" -p tcp -m tcp --dport 80 -d 10.96.0.20 -j DROP
nat KUBE-EXT-web -m comment --comment \"pod traffic for default/web:http-tcp external destinations\" -s 10.244.0.0/16 -j KUBE-SVC-web
nat KUBE-EXT-web -m comment --comment \"masquerade LOCAL traffic for default/web:http-tcp external destinations\" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
nat KUBE-EXT-web -m comment --comment \"route LOCAL traffic for default/web:http-tcp external destinations\" -m addrtype --src-type LOCAL -j KUBE-SVC-web
nat KUBE-NODEPORTS -m comment --comment \"default/web:http-tcp\" -p tcp -m tcp --dport 30080 -j KUBE-EXT-web
nat KUBE-SEP-b -m comment --comment \"default/web:http-tcp\" -s 10.244.1.2/32 -j KUBE-MARK-MASQ
nat KUBE-SEP-b -m comment --comment \"default/web:http-tcp\" -p tcp -m tcp -j DNAT --to-destination 10.244.1.2:8080
nat KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -d 192.0.2.10 -j KUBE-NODEPORTS
nat KUBE-SVC-web -m comment --comment \"default/web:http-tcp -> 10.244.1.2:8080\" -j KUBE-SEP-b",
        ),
        // Local policies have a chain of their own, and the same endpoints' chains.
        (
            "node pods\nservice web ClusterIP inside=Local outside=Local at=cluster ports=http/tcp external=external\nendpoints web a@here b@there",
            "\
nat KUBE-EXT-web -m comment --comment \"pod traffic for default/web:http-tcp external destinations\" -s 10.244.0.0/16 -j KUBE-SVC-web
nat KUBE-EXT-web -m comment --comment \"masquerade LOCAL traffic for default/web:http-tcp external destinations\" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
nat KUBE-EXT-web -m comment --comment \"route LOCAL traffic for default/web:http-tcp external destinations\" -m addrtype --src-type LOCAL -j KUBE-SVC-web
nat KUBE-EXT-web -j KUBE-SVL-web
nat KUBE-SERVICES -m comment --comment \"default/web:http-tcp cluster IP\" -p tcp -m tcp --dport 80 -d 10.96.0.20 -j KUBE-SVL-web
nat KUBE-SERVICES -m comment --comment \"default/web:http-tcp external IP\" -p tcp -m tcp --dport 80 -d 203.0.113.1 -j KUBE-EXT-web
nat KUBE-SVC-web -m comment --comment \"default/web:http-tcp -> 10.244.0.2:8080\" -m statistic --mode random --probability 0.50000 -j KUBE-SEP-a
nat KUBE-SVC-web -m comment --comment \"default/web:http-tcp -> 10.244.1.2:8080\" -j KUBE-SEP-b
nat KUBE-SVL-web -m comment --comment \"default/web:http-tcp cluster IP\" -p tcp -m tcp --dport 80 -d 10.96.0.20 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
nat KUBE-SVL-web -m comment --comment \"default/web:http-tcp -> 10.244.0.2:8080\" -j KUBE-SEP-a",
        ),
        // Source ranges and affinity.
        (
            "node masquerade-all\nservice web LoadBalancer sticky=60 at=cluster ports=http/tcp balancer=balancer ranges=198.18.0.0/16\nendpoints web a@here",
            "\
filter KUBE-PROXY-FIREWALL -m comment --comment \"default/web:http-tcp traffic not accepted by KUBE-FW-web\" -p tcp -m tcp --dport 80 -d 198.51.100.1 -j DROP
nat KUBE-EXT-web -m comment --comment \"masquerade traffic for default/web:http-tcp external destinations\" -j KUBE-MARK-MASQ
nat KUBE-EXT-web -j KUBE-SVC-web
nat KUBE-FW-web -m comment --comment \"default/web:http-tcp loadbalancer IP\" -s 198.18.0.0/16 -j KUBE-EXT-web
nat KUBE-FW-web -m comment --comment \"other traffic to default/web:http-tcp will be dropped by KUBE-PROXY-FIREWALL\"
nat KUBE-SEP-a -m comment --comment \"default/web:http-tcp\" -s 10.244.0.2/32 -j KUBE-MARK-MASQ
nat KUBE-SEP-a -m comment --comment \"default/web:http-tcp\" -m recent --name KUBE-SEP-a --set -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:8080
nat KUBE-SERVICES -m comment --comment \"default/web:http-tcp cluster IP\" -p tcp -m tcp --dport 80 -d 10.96.0.20 -j KUBE-SVC-web
nat KUBE-SERVICES -m comment --comment \"default/web:http-tcp loadbalancer IP\" -p tcp -m tcp --dport 80 -d 198.51.100.1 -j KUBE-FW-web
nat KUBE-SVC-web -m comment --comment \"default/web:http-tcp cluster IP\" -p tcp -m tcp --dport 80 -d 10.96.0.20 -j KUBE-MARK-MASQ
nat KUBE-SVC-web -m comment --comment \"default/web:http-tcp -> 10.244.0.2:8080\" -m recent --name KUBE-SEP-a --rcheck --seconds 60 --reap -j KUBE-SEP-a
nat KUBE-SVC-web -m comment --comment \"default/web:http-tcp -> 10.244.0.2:8080\" -j KUBE-SEP-a",
        ),
    ];

    fn backend(last: &str) -> Backend {
        Backend { address: format!("10.244.{last}.2").parse().unwrap(), port: 8080 }
    }

    fn lines(given: &str) -> Vec<String> {
        let cluster = clusters(&format!("cluster x\n{given}")).unwrap().remove(0);
        let table = cluster.table();
        let frontends: Vec<&Frontend> = table.frontends().values().map(|f| &**f).collect();
        let port = ServicePort::of(frontends[0]);
        let laid = lay_out(&port, frontends.into_iter(), &cluster.node);
        let mut chains: BTreeMap<(&str, String), Rules> = BTreeMap::new();
        for shared in Shared::ALL {
            let (table, name) = shared.place();
            chains
                .insert((table.name(), name.to_owned()), shared_chain(shared, [(&port, &laid)].into_iter()));
        }
        chains.extend(laid.own.into_iter().map(|(chain, rules)| (("nat", chain), rules)));
        let plain = |text: String| {
            let text = text.replace(&port.endpoint_chain(&backend("0")), "KUBE-SEP-a");
            let text = text.replace(&port.endpoint_chain(&backend("1")), "KUBE-SEP-b");
            text.replace(port.chain("").as_str(), "web")
        };
        let rules = chains.into_iter().flat_map(|((table, chain), rules)| {
            rules.into_iter().map(move |rule| format!("{table} {chain} {rule}"))
        });
        rules.map(plain).collect()
    }

    #[test]
    fn frontends_come_to_kube_proxys_rules() {
        for (given, expected) in TABLE {
            let found = lines(given);
            // What a row before has told of endpoints' chains is not told again.
            let told: Vec<&str> = expected.lines().filter(|l| l.split(' ').count() > 2).collect();
            let of_endpoints = |l: &&String| l.starts_with("nat KUBE-SEP-");
            let skip = !told.iter().any(|l| l.starts_with("nat KUBE-SEP-"));
            let mut found: Vec<String> =
                found.iter().filter(|l| !(skip && of_endpoints(l))).cloned().collect();
            found.sort_by_key(|line| {
                line.split(' ').take(2).collect::<Vec<_>>().join(" ").replace("web", "~")
            });
            let mut told: Vec<String> = told.into_iter().map(str::to_owned).collect();
            told.sort_by_key(|line| {
                line.split(' ').take(2).collect::<Vec<_>>().join(" ").replace("web", "~")
            });
            assert_eq!(found.join("\n"), told.join("\n"), "{given}");
        }
    }

    /// Whatever is asked of an endpoint that has more than its share: a rule for each.
    #[test]
    fn shares_and_many_endpoints() {
        let cluster = clusters(
            "cluster x\nnode\nservice web ClusterIP at=cluster ports=http/tcp\nendpoints web a@here b@here",
        )
        .unwrap()
        .remove(0);
        let table = cluster.table();
        let plain = table.frontends().values().next().unwrap();
        let of = |backends: Vec<Backend>| Frontend {
            target: Target::Balance(backends.into()),
            affinity: Some(9),
            ..Frontend::clone(plain)
        };
        let port = ServicePort::of(plain);
        let rules = |frontend: &Frontend| {
            let laid = lay_out(&port, [frontend].into_iter(), &cluster.node);
            laid.own[&port.chain(SVC)].clone()
        };
        let uneven = rules(&of(vec![backend("0"), backend("1"), backend("0")]));
        assert_eq!(uneven.iter().filter(|r| r.contains("recent")).count(), 2);
        let chances: Vec<&str> =
            uneven.iter().filter_map(|r| r.split_once("--probability ")).map(|(_, r)| &r[..7]).collect();
        assert_eq!(chances, ["0.33333", "0.50000"]);
        let first = port.endpoint_chain(&backend("0"));
        assert_eq!(uneven.iter().filter(|r| !r.contains("recent") && r.contains(&first)).count(), 2);
        let many = rules(&of((0..200).map(|n| backend(&n.to_string())).collect()));
        let chance = |n: usize| {
            many[200 + n].split("--probability ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
        };
        assert_eq!(
            (chance(0), chance(100), chance(198)),
            ("0.0050000000".into(), "0.01000".into(), "0.50000".into())
        );
    }

    #[test]
    fn pods_are_told_by_ranges_and_links() {
        let node = |cidrs: &[&str], interface: Option<PodInterface>| NodeContext {
            pod_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
            pod_interface: interface,
            ..NodeContext::new("n1")
        };
        let prefix = |text: &str| Some(PodInterface::Prefix(text.into()));
        let table: &[(NodeContext, &[&str])] = &[
            (node(&[], None), &[]),
            (node(&["10.1.0.0/16", "fd00::/64", "10.2.0.0/16"], None), &["-s 10.1.0.0/16", "-s 10.2.0.0/16"]),
            (node(&[], prefix("veth")), &["-i veth+"]),
            (node(&[], prefix("fifteen-letters")), &["-i fifteen-letters"]),
            (node(&[], prefix("sixteen-letters-")), &[]),
            (node(&[], Some(PodInterface::Named("cni0".into()))), &["-i cni0"]),
        ];
        for (node, expected) in table {
            assert_eq!(from_pods(node, false), *expected, "{node:?}");
            let several = static_chains(node, false).contains_key(&(TableName::Nat, OFF_CLUSTER));
            assert_eq!(several, expected.len() > 1);
        }
        let bit = NodeContext { masquerade_bit: 5, ..NodeContext::new("n1") };
        assert_eq!(static_chains(&bit, true)[&(TableName::Nat, MARK_MASQ)], ["-j MARK --or-mark 0x20"]);
    }
}
