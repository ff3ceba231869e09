//! kube-proxy's metrics under kube-proxy's names.

use sealane_proxy::FlowTable;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Upper bounds of a histogram's buckets in seconds: from 0.1 ms, below kube-proxy's 1 ms, by doubling to 26 s.
const BUCKETS: usize = 19;

fn bound(bucket: usize) -> f64 {
    0.0001 * f64::from(1u32 << bucket)
}

#[derive(Clone, Copy, Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.count += 1;
        self.sum += seconds;
        for (i, bucket) in self.buckets.iter_mut().enumerate() {
            *bucket += u64::from(seconds <= bound(i));
        }
    }

    fn render(&self, name: &str, help: &str, out: &mut String) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (i, count) in self.buckets.iter().enumerate() {
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {count}", bound(i));
        }
        let (count, sum) = (self.count, self.sum);
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    all: Histogram,
    full: Histogram,
    partial: Histogram,
    failures: u64,
    noticed: u64,
    found: u64,
    flows: Option<FlowTable>,
    services: u64,
    frontends: usize,
    revision: u64,
    queued: f64,
    synced: f64,
}

/// What the sync thread counts.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Figures>);

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl Metrics {
    fn with<T>(&self, change: impl FnOnce(&mut Figures) -> T) -> T {
        // Figures are whole after every statement: a poisoned lock holds good ones.
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub(crate) fn queued(&self, services: usize) {
        self.with(|f| {
            f.services += services as u64;
            f.queued = unix_seconds();
        });
    }

    pub(crate) fn synced(&self, took: Duration, full: bool, frontends: usize, revision: u64) {
        self.with(|f| {
            f.all.observe(took);
            if full {
                f.full.observe(took)
            } else {
                f.partial.observe(took)
            }
            f.frontends = frontends;
            f.revision = revision;
            f.synced = unix_seconds();
        });
    }

    pub(crate) fn failed(&self) {
        self.with(|f| f.failures += 1);
    }

    /// Somebody else had changed the rules: noticed at once, or found later.
    pub(crate) fn repaired(&self, at_once: bool) {
        self.with(|f| if at_once { f.noticed += 1 } else { f.found += 1 });
    }

    /// How full the kernel's table of flows is; gives back what it was.
    pub(crate) fn flow_table(&self, now: Option<FlowTable>) -> Option<FlowTable> {
        self.with(|f| std::mem::replace(&mut f.flows, now))
    }

    /// How often rules that somebody else had changed were written anew: noticed at once, and found by looking.
    pub fn repairs(&self) -> (u64, u64) {
        self.with(|f| (f.noticed, f.found))
    }

    /// How often rules were written, in full and in part, and how often that failed.
    pub fn syncs(&self) -> (u64, u64, u64) {
        self.with(|f| (f.full.count, f.partial.count, f.failures))
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let figures = self.with(|f| *f);
        let mut out = String::new();
        let histograms = [
            (
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "Time that a round of writing rules took",
                figures.all,
            ),
            (
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "Time that writing all rules took",
                figures.full,
            ),
            (
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "Time that writing changes took",
                figures.partial,
            ),
        ];
        for (name, help, histogram) in histograms {
            histogram.render(name, help, &mut out);
        }
        let gauges = [
            (
                "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                "counter",
                "Rounds that failed",
                figures.failures as f64,
            ),
            (
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "counter",
                "Changes of Services and their endpoints",
                figures.services as f64,
            ),
            (
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "gauge",
                "When a change last came in",
                figures.queued,
            ),
            (
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "gauge",
                "When rules were last written",
                figures.synced,
            ),
            ("sealane_proxy_frontends", "gauge", "Addresses and ports in force", figures.frontends as f64),
            ("sealane_proxy_applied_revision", "gauge", "Revision in force", figures.revision as f64),
        ];
        let flows = figures.flows.unwrap_or_default();
        let flows = [
            ("sealane_conntrack_entries", "gauge", "Flows that the kernel keeps", flows.entries),
            ("sealane_conntrack_limit", "gauge", "Flows that the kernel keeps at most", flows.limit),
            (
                "sealane_conntrack_dropped_packets_total",
                "counter",
                "Packets lost because the table of flows was full",
                flows.dropped,
            ),
        ];
        let flows = flows.map(|(name, kind, help, value)| (name, kind, help, value as f64));
        let repairs = "sealane_proxy_repairs_total";
        let _ = writeln!(
            out,
            "# HELP {repairs} Rules written anew because somebody else changed them\n# TYPE {repairs} counter\n\
             {repairs}{{noticed=\"at once\"}} {}\n{repairs}{{noticed=\"later\"}} {}",
            figures.noticed, figures.found
        );
        for (name, kind, help, value) in gauges.into_iter().chain(flows) {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_in_prometheus_text() {
        let metrics = Metrics::default();
        metrics.queued(3);
        metrics.synced(Duration::from_micros(150), true, 7, 42);
        metrics.synced(Duration::from_micros(50), false, 7, 43);
        metrics.failed();
        assert_eq!(metrics.syncs(), (1, 1, 1));
        let text = metrics.render();
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.0001\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.0002\"} 2",
            "kubeproxy_sync_proxy_rules_duration_seconds_count 2",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count 1",
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total 1",
            "kubeproxy_sync_proxy_rules_service_changes_total 3",
            "sealane_proxy_applied_revision 43",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
