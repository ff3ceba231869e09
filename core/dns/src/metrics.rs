//! Counters under CoreDNS's names, and their text form for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// Upper bounds of `coredns_dns_request_duration_seconds` (`plugin/pkg/...TimeBuckets`).
const TIMES: [f64; 16] = [
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048,
    4.096, 8.192,
];
const SIZES: [f64; 14] =
    [0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16e3, 32e3, 48e3, 64e3];

/// Labels of a series, as they are written: `server="dns://:53",zone="."`.
pub type Labels = Arc<str>;

#[derive(Clone, Debug, Default)]
struct Histogram {
    buckets: [u64; 16],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, value: f64, bounds: &[f64]) {
        if let Some(at) = bounds.iter().position(|bound| value <= *bound) {
            self.buckets[at] += 1;
        }
        self.count += 1;
        self.sum += value;
    }
}

/// A counter's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// `coredns_dns_requests_total`
    Requests,
    /// `coredns_dns_responses_total`
    Responses,
    /// `coredns_cache_requests_total`
    CacheRequests,
    /// `coredns_cache_hits_total`
    CacheHits,
    /// `coredns_cache_misses_total`
    CacheMisses,
    /// `coredns_cache_prefetch_total`
    CachePrefetch,
    /// `coredns_cache_served_stale_total`
    CacheStale,
    /// `coredns_forward_requests_total`
    ForwardRequests,
    /// `coredns_forward_responses_total`
    ForwardResponses,
    /// `coredns_forward_max_concurrent_rejects_total`
    ForwardRejects,
    /// `coredns_proxy_healthcheck_failures_total`
    HealthcheckFailures,
}

impl Counter {
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Counter::Requests => {
                ("coredns_dns_requests_total", "Counter of DNS requests made per zone, protocol and family.")
            }
            Counter::Responses => ("coredns_dns_responses_total", "Counter of response status codes."),
            Counter::CacheRequests => ("coredns_cache_requests_total", "The count of cache requests."),
            Counter::CacheHits => ("coredns_cache_hits_total", "The count of cache hits."),
            Counter::CacheMisses => ("coredns_cache_misses_total", "The count of cache misses."),
            Counter::CachePrefetch => {
                ("coredns_cache_prefetch_total", "The number of times the cache has prefetched an item.")
            }
            Counter::CacheStale => {
                ("coredns_cache_served_stale_total", "The number of requests served from stale entries.")
            }
            Counter::ForwardRequests => {
                ("coredns_forward_requests_total", "Counter of requests made per upstream.")
            }
            Counter::ForwardResponses => {
                ("coredns_forward_responses_total", "Counter of responses received per upstream.")
            }
            Counter::ForwardRejects => (
                "coredns_forward_max_concurrent_rejects_total",
                "Counter of queries refused because the concurrent queries were at maximum.",
            ),
            Counter::HealthcheckFailures => {
                ("coredns_proxy_healthcheck_failures_total", "Counter of failed health checks per upstream.")
            }
        }
    }
}

/// A histogram's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// `coredns_dns_request_duration_seconds`
    Duration,
    /// `coredns_dns_request_size_bytes`
    RequestSize,
    /// `coredns_dns_response_size_bytes`
    ResponseSize,
    /// `coredns_proxy_request_duration_seconds`
    ForwardDuration,
}

impl Measure {
    fn text(self) -> (&'static str, &'static str, &'static [f64]) {
        match self {
            Measure::Duration => (
                "coredns_dns_request_duration_seconds",
                "Histogram of the time (in seconds) each request took per zone.",
                &TIMES,
            ),
            Measure::RequestSize => {
                ("coredns_dns_request_size_bytes", "Size of the request in bytes per zone.", &SIZES)
            }
            Measure::ResponseSize => {
                ("coredns_dns_response_size_bytes", "Size of the response in bytes per zone.", &SIZES)
            }
            Measure::ForwardDuration => (
                "coredns_proxy_request_duration_seconds",
                "Histogram of the time each request to an upstream took.",
                &TIMES,
            ),
        }
    }
}

/// Everything counted.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    counters: BTreeMap<Counter, BTreeMap<Labels, u64>>,
    histograms: BTreeMap<Measure, BTreeMap<Labels, Histogram>>,
}

impl Metrics {
    /// Counts one.
    pub fn count(&mut self, counter: Counter, labels: &str) {
        let series = self.counters.entry(counter).or_default();
        match series.get_mut(labels) {
            Some(n) => *n += 1,
            None => {
                series.insert(labels.into(), 1);
            }
        }
    }

    /// Takes a measurement: seconds or octets.
    pub fn measure(&mut self, measure: Measure, labels: &str, value: f64) {
        let series = self.histograms.entry(measure).or_default();
        let bounds = measure.text().2;
        match series.get_mut(labels) {
            Some(histogram) => histogram.add(value, bounds),
            None => {
                let mut histogram = Histogram::default();
                histogram.add(value, bounds);
                series.insert(labels.into(), histogram);
            }
        }
    }

    /// Takes a time.
    pub fn time(&mut self, measure: Measure, labels: &str, time: Duration) {
        self.measure(measure, labels, time.as_secs_f64());
    }

    /// Prometheus's text form.
    pub fn render(&self, out: &mut String) {
        for (counter, series) in &self.counters {
            let (name, help) = counter.text();
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
            for (labels, n) in series {
                let _ = writeln!(out, "{name}{{{labels}}} {n}");
            }
        }
        for (measure, series) in &self.histograms {
            let (name, help, bounds) = measure.text();
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
            for (labels, histogram) in series {
                let mut sum = 0;
                for (bound, n) in bounds.iter().zip(histogram.buckets) {
                    sum += n;
                    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}");
                }
                let count = histogram.count;
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
                let _ = writeln!(
                    out,
                    "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {count}",
                    histogram.sum
                );
            }
        }
    }
}

/// One gauge's lines.
pub fn gauge(out: &mut String, name: &str, help: &str, series: &[(String, f64)]) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
    for (labels, value) in series {
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}{braces} {value}");
    }
}
