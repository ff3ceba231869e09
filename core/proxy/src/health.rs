//! What health checks are told: of the proxy itself (pkg/proxy/healthcheck/proxy_health.go), and of each Service with
//! `externalTrafficPolicy: Local`, whose load balancer asks every node (service_health.go).

use crate::NodeContext;
use crate::config::Span;
use crate::endpoints::proxied;
use jiff::Timestamp;
use sealane_catalog::{Entry, NamespacedName, ServiceType, TrafficPolicy};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Names and values of headers.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: String,
}

impl Answer {
    /// 200 with a text.
    pub fn text(body: impl Into<String>) -> Answer {
        Answer { status: 200, headers: headers("text/plain; charset=utf-8"), body: body.into() }
    }

    /// JSON.
    pub fn json(status: u16, body: impl Into<String>) -> Answer {
        Answer { status, headers: headers("application/json"), body: body.into() }
    }

    /// 404, as Go's servers say it.
    pub fn not_found() -> Answer {
        Answer { status: 404, ..Answer::text("404 page not found\n") }
    }
}

fn headers(kind: &str) -> Vec<(&'static str, String)> {
    vec![("Content-Type", kind.to_owned()), ("X-Content-Type-Options", "nosniff".to_owned())]
}

/// How far the rules are behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When rules were last brought up to date; `None`: not yet.
    pub updated: Option<Timestamp>,
    /// Since when the oldest change waits that is not in force; `None`: none does.
    pub waiting: Option<Timestamp>,
}

impl Progress {
    /// Whether no change waits for longer than twice the sync period. While it starts up, it is healthy.
    pub fn healthy(&self, sync_period: Span, now: Timestamp) -> bool {
        let limit = sync_period.get().saturating_mul(2);
        self.updated.is_none()
            || self
                .waiting
                .is_none_or(|since| now.duration_since(since).unsigned_abs() < limit || since > now)
    }

    fn report(
        &self,
        healthy: bool,
        shown_healthy: bool,
        now: Timestamp,
    ) -> serde_json::Map<String, serde_json::Value> {
        // A healthy proxy says now, be its last write as old as it may.
        let zero = "0001-01-01T00:00:00Z".to_owned();
        let updated = self.updated.map_or(zero, |t| t.to_string());
        let last = if shown_healthy { now.to_string() } else { updated.clone() };
        let mut body = serde_json::Map::new();
        body.insert("lastUpdated".to_owned(), json!(last));
        body.insert("currentTime".to_owned(), json!(now.to_string()));
        body.insert("healthy".to_owned(), json!(healthy));
        if self.updated.is_some() {
            let family = json!({"lastUpdated": updated, "healthy": healthy});
            body.insert("status".to_owned(), json!({"IPv4": family, "IPv6": family}));
        }
        body
    }

    /// `/healthz`: 503 where rules are late, or the Node is unknown or on its way out.
    pub fn healthz(&self, sync_period: Span, eligible: bool, now: Timestamp) -> Answer {
        let healthy = self.healthy(sync_period, now);
        let mut body = self.report(healthy, healthy && eligible, now);
        body.insert("nodeEligible".to_owned(), json!(eligible));
        let status = if healthy && eligible { 200 } else { 503 };
        Answer::json(status, serde_json::Value::Object(body).to_string())
    }

    /// `/livez`: 503 where rules are late.
    pub fn livez(&self, sync_period: Span, now: Timestamp) -> Answer {
        let healthy = self.healthy(sync_period, now);
        let body = self.report(healthy, healthy, now);
        Answer::json(if healthy { 200 } else { 503 }, serde_json::Value::Object(body).to_string())
    }
}

/// One Service's health check.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    port: u16,
    /// For IPv4 and IPv6: whether the Service has that family, and its ready endpoints on this node.
    local: [Option<usize>; 2],
}

/// The health checks of all Services that have one.
#[derive(Clone, Debug, Default)]
pub struct HealthChecks {
    checks: BTreeMap<NamespacedName, Check>,
}

/// The check that is due to an entry.
fn check(entry: &Entry, node: &str) -> Option<Check> {
    let service = proxied(entry)?;
    let local = service.kind == ServiceType::LoadBalancer && service.external_policy == TrafficPolicy::Local;
    if !local || service.health_check_node_port == 0 {
        return None;
    }
    let count = |ipv6: bool| {
        let slices = entry.slices.iter().filter(|s| s.ipv6 == ipv6);
        let here = slices.flat_map(|s| &s.endpoints).filter(|e| e.ready && e.node() == node);
        // An address counts once, however many ports lead to it (endpointschangetracker.go, LocalReadyEndpoints).
        let addresses: BTreeSet<IpAddr> = here.map(|e| e.address).collect();
        service.cluster_ips.iter().any(|a| a.is_ipv6() == ipv6).then_some(addresses.len())
    };
    Some(Check { port: service.health_check_node_port, local: [count(false), count(true)] })
}

impl HealthChecks {
    /// Takes a Service's new state (`None`: gone); whether that changes who listens.
    pub fn update(&mut self, name: &NamespacedName, entry: Option<&Entry>, node: &str) -> bool {
        let listens = |c: &Check| (c.port, c.local.map(|l| l.is_some()));
        let new = entry.and_then(|e| check(e, node));
        let old = self.checks.get(name).map(listens);
        let changed = old != new.as_ref().map(listens);
        match new {
            Some(new) => self.checks.insert(name.clone(), new),
            None => self.checks.remove(name),
        };
        changed
    }

    /// Where to listen: on every address of a family, or on those on which NodePorts answer. `all` says which, for
    /// IPv4 and IPv6. Listeners on `[::]` are IPv6's alone.
    pub fn listeners(&self, node: &NodeContext, all: [bool; 2]) -> BTreeSet<SocketAddr> {
        let mut found = BTreeSet::new();
        for check in self.checks.values() {
            for ipv6 in [false, true].into_iter().filter(|v6| check.local[usize::from(*v6)].is_some()) {
                let any: IpAddr =
                    if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                let addresses = match all[usize::from(ipv6)] {
                    true => vec![any],
                    false => {
                        let family = node.node_port_addresses.iter().filter(|a| a.is_ipv6() == ipv6);
                        family.copied().collect()
                    }
                };
                found.extend(addresses.into_iter().map(|a| SocketAddr::new(a, check.port)));
            }
        }
        found
    }

    /// What is answered on a listener, whatever is asked for.
    pub fn answer(&self, listener: SocketAddr, proxy_healthy: bool) -> Answer {
        let found = self.checks.iter().find(|(_, c)| c.port == listener.port());
        let Some((name, check)) = found else { return Answer::not_found() };
        let count = check.local[usize::from(listener.is_ipv6())].unwrap_or(0);
        let body = json!({
            "service": {"namespace": *name.namespace, "name": *name.name},
            "localEndpoints": count,
            "serviceProxyHealthy": proxy_healthy,
        });
        let mut answer = Answer::json(if count != 0 && proxy_healthy { 200 } else { 503 }, body.to_string());
        answer.headers.push(("X-Load-Balancing-Endpoint-Weight", count.to_string()));
        answer
    }
}
