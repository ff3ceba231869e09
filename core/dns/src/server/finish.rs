//! The end of a query: what is counted, and what the client gets.

use super::Server;
use crate::chain::{Now, Query};
use crate::message::{Message, Question, rcode, rtype};
use crate::metrics::Family;

static REQUESTS: Family = Family::counter(
    "coredns_dns_requests_total",
    "Counter of DNS requests made per zone, protocol and family.",
);
static RESPONSES: Family =
    Family::counter("coredns_dns_responses_total", "Counter of response status codes.");
static DURATION: Family = Family::times(
    "coredns_dns_request_duration_seconds",
    "Histogram of the time (in seconds) each request took per zone.",
);
static REQUEST_SIZE: Family = Family::sizes(
    "coredns_dns_request_size_bytes",
    "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.",
);
static RESPONSE_SIZE: Family = Family::sizes(
    "coredns_dns_response_size_bytes",
    "Size of the returned response in bytes per zone and protocol.",
);

impl Server {
    /// Counts a query that is over; `plugin` answered it, nobody where it is empty.
    pub(super) fn account(&mut self, query: &Query, reply: &Message, size: usize, plugin: &str, now: Now) {
        let Some(question) = query.request.questions.first() else { return };
        let labels = &query.labels;
        let family = if query.client.is_ipv4() { 1 } else { 2 };
        let by_proto = format!("{labels},proto=\"{}\"", query.transport.as_str());
        let kind = counted_type(question);
        self.metrics.count(&REQUESTS, &format!("{by_proto},family=\"{family}\",type=\"{kind}\""));
        let name = rcode::name(reply.rcode);
        self.metrics.count(&RESPONSES, &format!("{labels},rcode=\"{name}\",plugin=\"{plugin}\""));
        self.metrics.time(&DURATION, labels, now.monotonic.saturating_sub(query.started));
        self.metrics.add(&REQUEST_SIZE, &by_proto, query.size as f64);
        self.metrics.add(&RESPONSE_SIZE, &by_proto, size as f64);
    }
}

/// Types that have a series of their own (`plugin/metrics/vars/monitor.go`).
fn counted_type(question: &Question) -> String {
    match rtype::name(question.rtype) {
        name if name.starts_with("TYPE") => "other".to_owned(),
        name => name,
    }
}
