//! kube-proxy's metrics under kube-proxy's names (pkg/proxy/metrics/metrics.go), for its modes nftables and iptables.

use sealane_proxy::health::Progress;
use sealane_proxy::{FlowTable, RuleCounts, Tally};
use std::fmt::Write;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The label of each family.
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// Upper bounds of a round's buckets in seconds: from 0.1 ms, below kube-proxy's 1 ms, by doubling to 26 s.
fn rounds() -> Vec<f64> {
    (0..19).map(|bucket| 0.0001 * f64::from(1u32 << bucket)).collect()
}

/// kube-proxy's for the way from a change to the kernel, with finer ones below its 0.25 s.
fn programming() -> Vec<f64> {
    let fine = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5];
    let seconds = (1..60).map(f64::from).chain((0..12).map(|n| 60.0 + 5.0 * f64::from(n)));
    fine.into_iter().chain(seconds).chain((0..7).map(|n| 120.0 + 30.0 * f64::from(n))).collect()
}

/// What may fail, each for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Rules,
    StaleFlows,
    FlowTable,
    Notifications,
    Weights,
    Family,
}

impl Task {
    /// In the order of their numbers.
    pub(crate) const ALL: [Task; 6] =
        [Task::Rules, Task::StaleFlows, Task::FlowTable, Task::Notifications, Task::Weights, Task::Family];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Task::Rules => "rules",
            Task::StaleFlows => "stale_flows",
            Task::FlowTable => "flow_table",
            Task::Notifications => "notifications",
            Task::Weights => "weights",
            Task::Family => "family",
        }
    }

    /// What its failure means.
    pub(crate) fn consequence(self) -> &'static str {
        match self {
            Task::Rules => "service rules were not written",
            Task::StaleFlows => "flows of UDP to endpoints that are gone were not forgotten",
            Task::FlowTable => "it is not known how full the kernel's table of flows is",
            Task::Weights => "flows were not looked at; endpoints keep the shares that they have",
            Task::Family => "rules of one of IPv4 and IPv6 are in force, and the other's are not",
            Task::Notifications => "what others do to the rules is not heard of, but looked for",
        }
    }
}

#[derive(Clone, Debug)]
struct Histogram {
    bounds: Vec<f64>,
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    fn new(bounds: Vec<f64>) -> Self {
        Self { buckets: vec![0; bounds.len()], bounds, count: 0, sum: 0.0 }
    }

    fn observe(&mut self, seconds: f64) {
        self.count += 1;
        self.sum += seconds;
        for (bound, bucket) in self.bounds.iter().zip(&mut self.buckets) {
            *bucket += u64::from(seconds <= *bound);
        }
    }

    fn render(&self, name: &str, labels: &str, out: &mut String) {
        for (bound, count) in self.bounds.iter().zip(&self.buckets) {
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let (count, sum) = (self.count, self.sum);
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    }
}

/// One family's.
#[derive(Clone, Debug)]
struct Family {
    all: Histogram,
    full: Histogram,
    partial: Histogram,
    programming: Histogram,
    conntrack: Histogram,
    forgotten: u64,
    failures: u64,
    not_cleaned: u64,
    synced: f64,
    /// By internal and external policy.
    unserved: [u64; 2],
}

impl Default for Family {
    fn default() -> Self {
        let [all, full, partial, conntrack] = std::array::from_fn(|_| Histogram::new(rounds()));
        let programming = Histogram::new(programming());
        Self {
            all,
            full,
            partial,
            programming,
            conntrack,
            forgotten: 0,
            failures: 0,
            not_cleaned: 0,
            synced: 0.0,
            unserved: [0; 2],
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Figures {
    families: [Family; 2],
    /// Rounds in full, in part, and failed, whatever their families.
    rounds: (u64, u64, u64),
    /// Changes of Services and of slices: all, and those that wait.
    services: (u64, u64),
    slices: (u64, u64),
    /// Times that somebody else had changed the rules: noticed at once, and found later.
    repairs: (u64, u64),
    flow_table: Option<FlowTable>,
    /// Of a sink that counts rules: iptables'.
    rules: Option<RuleCounts>,
    /// Flows that were over and forgotten early.
    made_room: u64,
    /// Failures by task.
    troubles: [u64; Task::ALL.len()],
    /// Beyond kube-proxy.
    weighed: sealane_proxy::weigh::Figures,
    frontends: usize,
    revision: u64,
    queued: f64,
    progress: Progress,
    /// Answers to health checks, by path (`/healthz`, `/livez`) and status (200, 503).
    checks: [[u64; 2]; 2],
}

impl Figures {
    /// How often writing all rules of iptables, and changes of them, failed.
    fn restores(&self, family: usize) -> (u64, u64) {
        self.rules.map_or((0, 0), |rules| rules.failures[family])
    }
}

/// What the sync thread and the health checks count.
#[derive(Debug)]
pub struct Metrics {
    figures: Mutex<Figures>,
    /// What happened before is not measured: nobody was there to carry it out. Milliseconds since 1970.
    begun: i64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { figures: Mutex::default(), begun: (unix_seconds() * 1000.0) as i64 }
    }
}

/// A round that wrote rules.
pub(crate) struct Synced {
    pub(crate) took: Duration,
    pub(crate) full: bool,
    pub(crate) families: [bool; 2],
    pub(crate) frontends: usize,
    /// By policy and family.
    pub(crate) unserved: [[u64; 2]; 2],
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl Metrics {
    fn with<T>(&self, change: impl FnOnce(&mut Figures) -> T) -> T {
        // Figures are whole after every statement: a poisoned lock holds good ones.
        change(&mut self.figures.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub(crate) fn queued(&self, tally: &Tally) {
        self.with(|f| {
            for (count, by) in [(&mut f.services, tally.services), (&mut f.slices, tally.slices)] {
                count.0 += by;
                count.1 += by;
            }
            f.queued = unix_seconds();
            f.progress.waiting.get_or_insert_with(jiff::Timestamp::now);
        });
    }

    pub(crate) fn synced(&self, round: &Synced) {
        let seconds = round.took.as_secs_f64();
        self.with(|f| {
            match round.full {
                true => f.rounds.0 += 1,
                false => f.rounds.1 += 1,
            }
            f.frontends = round.frontends;
            for (at, family) in f.families.iter_mut().enumerate() {
                family.unserved = round.unserved.map(|policy| policy[at]);
                if round.families[at] {
                    family.all.observe(seconds);
                    if round.full { &mut family.full } else { &mut family.partial }.observe(seconds);
                    family.synced = unix_seconds();
                }
            }
        });
    }

    /// Everything that was queued is in force.
    pub(crate) fn up_to_date(&self, revision: u64, triggered: &[(bool, i64)]) {
        let now = jiff::Timestamp::now();
        self.with(|f| {
            f.revision = revision;
            (f.services.1, f.slices.1) = (0, 0);
            f.progress = Progress { updated: Some(now), waiting: None };
            for (ipv6, at) in triggered.iter().filter(|(_, at)| *at > self.begun) {
                let late = (now.as_millisecond() - at).max(0) as f64 / 1000.0;
                f.families[usize::from(*ipv6)].programming.observe(late);
            }
        });
    }

    pub(crate) fn failed(&self, families: [bool; 2]) {
        self.with(|f| {
            f.rounds.2 += 1;
            f.families.iter_mut().zip(families).for_each(|(f, part)| f.failures += u64::from(part));
        });
    }

    pub(crate) fn not_cleaned(&self, families: [bool; 2]) {
        self.with(|f| {
            f.families.iter_mut().zip(families).for_each(|(f, part)| f.not_cleaned += u64::from(part))
        });
    }

    pub(crate) fn flows(&self, forgotten: [Option<(Duration, u64)>; 2]) {
        self.with(|f| {
            for (family, (took, count)) in
                f.families.iter_mut().zip(forgotten).filter_map(|(f, looked)| Some((f, looked?)))
            {
                family.conntrack.observe(took.as_secs_f64());
                family.forgotten += count;
            }
        });
    }

    /// Counts an answer to `/livez`, or else `/healthz`.
    pub fn checked(&self, live: bool, status: u16) {
        self.with(|f| f.checks[usize::from(live)][usize::from(status != 200)] += 1);
    }

    /// How far the rules are behind.
    pub fn progress(&self) -> Progress {
        self.with(|f| f.progress)
    }

    /// Somebody else had changed the rules: noticed at once, or found later.
    pub(crate) fn repaired(&self, at_once: bool) {
        self.with(|f| if at_once { f.repairs.0 += 1 } else { f.repairs.1 += 1 });
    }

    /// What Services that ask for uneven shares have.
    pub(crate) fn weighed(&self, figures: sealane_proxy::weigh::Figures) {
        self.with(|f| f.weighed = figures);
    }

    /// A task failed.
    pub(crate) fn troubled(&self, task: Task) {
        self.with(|f| f.troubles[task as usize] += 1);
    }

    /// So many flows were forgotten early, for want of room.
    pub(crate) fn made_room(&self, flows: u64) {
        self.with(|f| f.made_room += flows);
    }

    /// How many rules stand, of a sink that counts them.
    pub(crate) fn rules(&self, rules: Option<RuleCounts>) {
        self.with(|f| f.rules = rules);
    }

    /// How full the kernel's table of flows is; gives back what it was.
    pub(crate) fn flow_table(&self, now: Option<FlowTable>) -> Option<FlowTable> {
        self.with(|f| std::mem::replace(&mut f.flow_table, now))
    }

    /// How often rules that somebody else had changed were written anew: noticed at once, and found by looking.
    pub fn repairs(&self) -> (u64, u64) {
        self.with(|f| f.repairs)
    }

    /// How often rules were written, in full and in part, and how often that failed.
    pub fn syncs(&self) -> (u64, u64, u64) {
        self.with(|f| f.rounds)
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let figures = self.with(|f| f.clone());
        let mut out = String::new();
        histograms(&figures, &mut out);
        for (name, kind, help, value) in plain(&figures) {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        // Each mode has its own, as kube-proxy registers them.
        let others = if figures.rules.is_some() { "_nftables_" } else { "_iptables_" };
        for (name, kind, help, value) in BY_FAMILY.into_iter().filter(|row| !row.0.contains(others)) {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (at, label) in FAMILIES.iter().enumerate() {
                let _ = writeln!(out, "{name}{{ip_family=\"{label}\"}} {}", value(&figures, at));
            }
        }
        if let Some(rules) = &figures.rules {
            iptables(rules, &mut out);
        }
        beside(&figures, &mut out);
        let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
        let help = "Service ports with a Local traffic policy and no endpoints on this node";
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (label, family) in FAMILIES.iter().zip(&figures.families) {
            for (policy, count) in ["internal", "external"].iter().zip(family.unserved) {
                let _ = writeln!(out, "{name}{{ip_family=\"{label}\",traffic_policy=\"{policy}\"}} {count}");
            }
        }
        for (path, counts) in ["healthz", "livez"].iter().zip(figures.checks) {
            let name = format!("kubeproxy_proxy_{path}_total");
            let _ = writeln!(out, "# HELP {name} Answers to /{path} by HTTP status\n# TYPE {name} counter");
            for (code, count) in ["200", "503"].iter().zip(counts) {
                let _ = writeln!(out, "{name}{{code=\"{code}\"}} {count}");
            }
        }
        out
    }
}

/// How many rules of iptables there are.
fn iptables(rules: &RuleCounts, out: &mut String) {
    for (name, help, counts) in [
        ("kubeproxy_sync_proxy_rules_iptables_total", "Rules of iptables in force", rules.total),
        ("kubeproxy_sync_proxy_rules_iptables_last", "Rules of iptables written last", rules.last),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (label, tables) in FAMILIES.iter().zip(counts) {
            for (table, count) in ["filter", "nat"].iter().zip(tables) {
                let _ = writeln!(out, "{name}{{ip_family=\"{label}\",table=\"{table}\"}} {count}");
            }
        }
    }
}

/// What others do to the rules, and how much room the kernel has for flows.
fn beside(figures: &Figures, out: &mut String) {
    let name = "sealane_proxy_repairs_total";
    let help = "Rules written anew because somebody else had changed them";
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
    let (at_once, later) = figures.repairs;
    let _ = writeln!(out, "{name}{{noticed=\"at once\"}} {at_once}\n{name}{{noticed=\"later\"}} {later}");
    let name = "sealane_proxy_failures_total";
    let help = "What failed, and was or will be tried again";
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
    for (task, count) in Task::ALL.iter().zip(figures.troubles) {
        let _ = writeln!(out, "{name}{{task=\"{}\"}} {count}", task.label());
    }
    let flows = figures.flow_table.unwrap_or_default();
    for (name, kind, help, value) in [
        ("sealane_conntrack_entries", "gauge", "Flows that the kernel keeps", flows.entries),
        ("sealane_conntrack_limit", "gauge", "Flows that the kernel keeps at most", flows.limit),
        (
            "sealane_conntrack_dropped_packets_total",
            "counter",
            "Packets lost because the table of flows was full",
            flows.dropped,
        ),
        (
            "sealane_conntrack_made_room_total",
            "counter",
            "Flows that were over and were forgotten early, for want of room",
            figures.made_room,
        ),
        (
            "sealane_proxy_weighed_services",
            "gauge",
            "Services whose annotations ask for uneven shares",
            figures.weighed.services,
        ),
        (
            "sealane_proxy_annotation_problems",
            "gauge",
            "Annotations that are not followed",
            figures.weighed.problems,
        ),
        ("sealane_proxy_ejected_endpoints", "gauge", "Endpoints that are ejected", figures.weighed.out),
        (
            "sealane_proxy_ejections_total",
            "counter",
            "Times that an endpoint was ejected",
            figures.weighed.ejections,
        ),
        (
            "sealane_proxy_moved_connections_total",
            "counter",
            "Connections that were moved after a scale-out",
            figures.weighed.moved,
        ),
        (
            "sealane_proxy_flow_looks_total",
            "counter",
            "Looks at all flows, for Services that ask for it",
            figures.weighed.looks,
        ),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
}

type Of<T> = fn(&Family) -> &T;

fn histograms(figures: &Figures, out: &mut String) {
    let table: [(&str, &str, Of<Histogram>); 5] = [
        ("kubeproxy_sync_proxy_rules_duration_seconds", "Time that a round of writing rules took", |f| {
            &f.all
        }),
        ("kubeproxy_sync_full_proxy_rules_duration_seconds", "Time that writing all rules took", |f| &f.full),
        ("kubeproxy_sync_partial_proxy_rules_duration_seconds", "Time that writing changes took", |f| {
            &f.partial
        }),
        (
            "kubeproxy_network_programming_duration_seconds",
            "Time from what changed a slice to rules that follow it",
            |f| &f.programming,
        ),
        (
            "kubeproxy_conntrack_reconciler_sync_duration_seconds",
            "Time that looking for stale flows took",
            |f| &f.conntrack,
        ),
    ];
    for (name, help, histogram) in table {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (label, family) in FAMILIES.iter().zip(&figures.families) {
            histogram(family).render(name, &format!("ip_family=\"{label}\""), out);
        }
    }
}

/// Name, type, help and value.
type Row<V> = (&'static str, &'static str, &'static str, V);

/// A figure of a family.
type Figure = fn(&Figures, usize) -> f64;

const BY_FAMILY: [Row<Figure>; 7] = [
    (
        "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
        "counter",
        "Times that writing all rules failed",
        |all, at| all.restores(at).0 as f64,
    ),
    (
        "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
        "counter",
        "Times that writing changes failed",
        |all, at| all.restores(at).1 as f64,
    ),
    (
        "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
        "counter",
        "Rounds that failed",
        |all, at| all.families[at].failures as f64,
    ),
    (
        "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
        "counter",
        "Rounds whose leftovers could not be cleared away",
        |all, at| all.families[at].not_cleaned as f64,
    ),
    (
        "kubeproxy_conntrack_reconciler_deleted_entries_total",
        "counter",
        "Stale flows that were deleted",
        |all, at| all.families[at].forgotten as f64,
    ),
    (
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "gauge",
        "When a change last came in",
        |all, _| all.queued,
    ),
    (
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "gauge",
        "When rules were last written",
        |all, at| all.families[at].synced,
    ),
];

fn plain(figures: &Figures) -> [Row<f64>; 6] {
    [
        (
            "kubeproxy_sync_proxy_rules_service_changes_total",
            "counter",
            "Changes of Services",
            figures.services.0 as f64,
        ),
        (
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            "gauge",
            "Changes of Services that are not in force yet",
            figures.services.1 as f64,
        ),
        (
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "counter",
            "Changes of EndpointSlices",
            figures.slices.0 as f64,
        ),
        (
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            "gauge",
            "Changes of EndpointSlices that are not in force yet",
            figures.slices.1 as f64,
        ),
        ("sealane_proxy_frontends", "gauge", "Addresses and ports in force", figures.frontends as f64),
        ("sealane_proxy_applied_revision", "gauge", "Revision in force", figures.revision as f64),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_in_prometheus_text() {
        let metrics = Metrics::default();
        let now = jiff::Timestamp::now().as_millisecond();
        metrics.queued(&Tally { services: 3, slices: 4, triggered: vec![] });
        assert!(metrics.progress().waiting.is_some());
        let round = |took, full, families| Synced {
            took: Duration::from_micros(took),
            full,
            families,
            frontends: 7,
            unserved: [[1, 0], [2, 3]],
        };
        metrics.synced(&round(150, true, [true, true]));
        metrics.synced(&round(50, false, [true, false]));
        // Ten minutes ago nobody was there; in the future nobody was either.
        metrics.up_to_date(43, &[(false, now - 600_000), (true, now + 60_000)]);
        metrics.failed([true, false]);
        metrics.flows([Some((Duration::from_millis(2), 9)), None]);
        metrics.checked(false, 503);
        metrics.troubled(Task::StaleFlows);
        metrics.made_room(12);
        metrics.queued(&Tally { services: 1, slices: 0, triggered: vec![] });
        assert_eq!(metrics.syncs(), (1, 1, 1));
        // Of each mode its own.
        let rules =
            RuleCounts { total: [[3, 4], [5, 6]], last: [[1, 2], [0, 0]], failures: [(0, 0), (7, 8)] };
        metrics.rules(Some(rules));
        let text = metrics.render();
        for line in [
            "kubeproxy_sync_proxy_rules_iptables_total{ip_family=\"IPv4\",table=\"nat\"} 4",
            "kubeproxy_sync_proxy_rules_iptables_total{ip_family=\"IPv6\",table=\"filter\"} 5",
            "kubeproxy_sync_proxy_rules_iptables_last{ip_family=\"IPv4\",table=\"filter\"} 1",
            "kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family=\"IPv6\"} 7",
            "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total{ip_family=\"IPv6\"} 8",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert!(!text.contains("_nftables_"));
        metrics.rules(None);
        let text = metrics.render();
        assert!(!text.contains("_iptables_"));
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.0001\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.0002\"} 2",
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 2",
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 0",
            "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv6\"} 1",
            "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"} 9",
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"external\"} 3",
            "kubeproxy_sync_proxy_rules_service_changes_total 4",
            "kubeproxy_sync_proxy_rules_service_changes_pending 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
            "sealane_proxy_applied_revision 43",
            "sealane_proxy_failures_total{task=\"stale_flows\"} 1",
            "sealane_proxy_failures_total{task=\"rules\"} 0",
            "sealane_conntrack_made_room_total 12",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
