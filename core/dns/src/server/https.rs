//! What DNS over HTTPS has beside the messages: how long an answer may be kept, and what is counted.

use super::Server;
use crate::chain::{Class, ServerAddress, classify};
use crate::message::{Data, Message};
use crate::metrics::Family;

/// Where nothing says how long, seconds (`dnsutil.MinimalDefaultTTL`).
const LEAST: u32 = 5;
/// At most, seconds (`dnsutil.MaximumDefaultTTL`).
const MOST: u32 = 3600;

static RESPONSES: Family = Family::counter(
    "coredns_dns_https_responses_total",
    "Counter of DoH responses per server and http status code.",
);

/// For how many seconds HTTP's caches may keep an answer (RFC 8484 section 5.1; `dnsutil.MinimalTTL`).
pub fn max_age(answer: &Message) -> u32 {
    let class = classify(answer, answer.questions.first().map_or(0, |question| question.rtype));
    if !matches!(class, Class::NoError | Class::NameError | Class::NoData) {
        return LEAST;
    }
    let negative = class != Class::NoError;
    let records = answer.answers.iter().chain(&answer.authority).chain(&answer.additional);
    let ttl = records.map(|record| match &record.data {
        Data::Soa(soa) if negative => record.ttl.min(soa.minimum),
        _ => record.ttl,
    });
    ttl.min().map_or(LEAST, |ttl| ttl.min(MOST))
}

impl Server {
    /// Counts an HTTP response of a server.
    pub fn answered_https(&mut self, server: ServerAddress, status: u16) {
        self.metrics.count(&RESPONSES, &format!("server=\"{server}\",status=\"{status}\""));
    }
}
