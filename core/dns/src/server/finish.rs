//! The end of a query: what is counted, and what the client gets.

use std::sync::Arc;
use std::time::Duration;

use super::Server;
use crate::chain::{Now, Query, Transport};
use crate::message::{Data, Message, Record, rcode, rtype};
use crate::metrics::{Family, Handle, Metrics};
use crate::prepared::{Basis, Preparation, Served, Tally};

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
static DO: Family =
    Family::counter("coredns_dns_do_requests_total", "Counter of DNS requests with DO bit set per zone.");
static REQUEST_SIZE: Family = Family::sizes(
    "coredns_dns_request_size_bytes",
    "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.",
);
static RESPONSE_SIZE: Family =
    Family::sizes("coredns_dns_response_size_bytes", "Size of the returned response in bytes.");

impl Server {
    /// How an answer may be kept for others who ask the same: it says what it was made from, and who answered and
    /// all plugins before that treat the question alike.
    pub(super) fn prepare(
        &self,
        (block, plugin): (usize, &'static str),
        query: &Query,
        reply: &Message,
        bytes: &[u8],
    ) -> Option<Preparation> {
        let aging = query.aging.clone();
        let basis = if aging.is_some() { Basis::default() } else { query.basis.clone()? };
        let blocks = self.blocks();
        let state = blocks.get(block)?;
        let answered = state.links.iter().position(|link| link.name == plugin)?;
        let asked = &query.request;
        let plain = asked.answers.is_empty() && asked.authority.is_empty() && asked.additional.is_empty();
        let optionless = asked.edns.as_ref().is_none_or(|edns| edns.options.is_empty());
        let truncated = bytes.get(2).is_some_and(|flags| flags & 2 != 0);
        let viewed = blocks.iter().any(|state| state.block.settings.view.is_some());
        // What else is cut from an answer is not known here.
        let cut = truncated && !reply.authority.is_empty();
        if answered > state.same || !plain || !optionless || cut || viewed || query.for_client {
            return None;
        }
        // The cluster's SOA is the only record then, before an OPT record without options (11 octets).
        let serial_at = match (reply.authority.as_slice(), reply.answers.len() + reply.additional.len()) {
            _ if aging.is_some() => None,
            ([], _) => None,
            ([Record { data: Data::Soa(soa), .. }], 0) if soa.serial == self.world.serial => {
                Some(bytes.len() - if asked.edns.is_some() { 11 } else { 0 } - 20)
            }
            _ => return None,
        };
        let rtype = asked.questions.first()?.rtype;
        let (labels, dnssec_ok) = (query.labels.clone(), query.dnssec_ok());
        let series = aging.iter().flat_map(|aging| aging.series).collect();
        let tally = Tally { labels, rtype, dnssec_ok, rcode: reply.rcode, plugin, series };
        let (rotates, sampled) = (state.shuffles, state.sampled);
        Some(Preparation { basis, serial_at, rotates, sampled, aging, tally: Arc::new(tally) })
    }

    /// Counts answers that were handed out again; each took so long.
    pub fn served(&mut self, served: &[Served], each: Duration) {
        for Served { tally, times, asked, answered } in served {
            let Tally { labels, rtype, dnssec_ok, rcode, plugin, series } = &**tally;
            let by_proto = format!("{labels},proto=\"udp\"");
            let kind = counted_type(*rtype);
            for (times, family) in times.iter().zip([1, 2]).filter(|(times, _)| **times > 0) {
                let labels = format!("{by_proto},family=\"{family}\",type=\"{kind}\"");
                self.metrics.add(&REQUESTS, &labels, f64::from(*times));
            }
            let all = u64::from(times[0]) + u64::from(times[1]);
            for series in series {
                self.metrics.add_at(*series, all as f64);
            }
            if *dnssec_ok {
                self.metrics.add(&DO, labels, all as f64);
            }
            let name = rcode::name(*rcode);
            let by_code = format!("{labels},rcode=\"{name}\",plugin=\"{plugin}\"");
            self.metrics.add(&RESPONSES, &by_code, all as f64);
            self.metrics.repeat(&DURATION, labels, each.as_secs_f64(), all);
            self.metrics.repeat(&REQUEST_SIZE, &by_proto, *asked as f64, all);
            self.metrics.repeat(&RESPONSE_SIZE, &by_proto, *answered as f64, all);
        }
    }

    /// Counts a query that is over; `plugin` answered it, nobody where it is empty.
    pub(super) fn account(
        &mut self,
        query: &Query,
        reply: &Message,
        size: usize,
        plugin: &'static str,
        now: Now,
    ) {
        let Some(question) = query.request.questions.first() else { return };
        let sort = Sort {
            labels: query.labels.clone(),
            transport: query.transport,
            v4: query.client.is_ipv4(),
            rtype: question.rtype,
            rcode: reply.rcode,
            plugin,
        };
        let took = now.monotonic.saturating_sub(query.started);
        self.count(sort, query.dnssec_ok(), [query.size, size], took);
    }

    /// Counts a query of a sort: whether it wanted DNSSEC's records, octets of question and answer, and its time.
    pub(super) fn count(
        &mut self,
        sort: Sort,
        dnssec_ok: bool,
        [asked, answered]: [usize; 2],
        took: Duration,
    ) {
        let metrics = &mut self.metrics;
        if dnssec_ok {
            metrics.count(&DO, &sort.labels);
        }
        if self.sorts.len() >= SORTS {
            self.sorts.clear();
        }
        let handles = *self.sorts.entry(sort).or_insert_with_key(|sort| sort.handles(metrics));
        let measures = [1.0, 1.0, took.as_secs_f64(), asked as f64, answered as f64];
        for (handle, measure) in handles.into_iter().zip(measures) {
            metrics.add_at(handle, measure);
        }
    }
}

/// Sorts of queries that are remembered: rather more than there are where nobody plays.
const SORTS: usize = 4096;

/// Queries that are counted in the same series. Their labels are written once.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Sort {
    pub(super) labels: Arc<str>,
    pub(super) transport: Transport,
    pub(super) v4: bool,
    pub(super) rtype: u16,
    pub(super) rcode: u16,
    pub(super) plugin: &'static str,
}

impl Sort {
    /// Requests, responses, time, octets of the request and of the response.
    fn handles(&self, metrics: &mut Metrics) -> [Handle; 5] {
        let Sort { labels, transport, v4, rtype, rcode, plugin } = self;
        let (family, kind) = (if *v4 { 1 } else { 2 }, counted_type(*rtype));
        let by_proto = format!("{labels},proto=\"{}\"", transport.as_str());
        let by_type = format!("{by_proto},family=\"{family}\",type=\"{kind}\"");
        let by_code = format!("{labels},rcode=\"{}\",plugin=\"{plugin}\"", rcode::name(*rcode));
        [
            metrics.handle(&REQUESTS, &by_type),
            metrics.handle(&RESPONSES, &by_code),
            metrics.handle(&DURATION, labels),
            metrics.handle(&REQUEST_SIZE, &by_proto),
            metrics.handle(&RESPONSE_SIZE, &by_proto),
        ]
    }
}

const COUNTED: [&str; 19] = [
    "AAAA", "A", "CNAME", "DNSKEY", "DS", "MX", "NSEC3", "NSEC", "NS", "PTR", "RRSIG", "SOA", "SRV", "TXT",
    "HTTPS", "SVCB", "IXFR", "AXFR", "ANY",
];

/// Types that have a series of their own (`plugin/metrics/vars/monitor.go`).
fn counted_type(asked: u16) -> String {
    match rtype::name(asked) {
        name if COUNTED.contains(&name.as_str()) => name,
        _ => "other".to_owned(),
    }
}
