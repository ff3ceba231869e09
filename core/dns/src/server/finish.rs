//! The way back through the chain: aliases put in front, records rotated, EDNS, size, log and counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Counter, Effect, Measure, Now, Server, Transport, measure_labels};
use crate::config::{Block, LogClass};
use crate::message::{Data, Edns, Flags, Message, Question, Record, encode, rcode, rtype};

/// Options that are sent back as they came: NSID, EXPIRE, COOKIE, KEEPALIVE, PADDING (`plugin/pkg/edns`).
const ECHOED: [u16; 5] = [3, 9, 10, 11, 12];

/// A query under way.
#[derive(Clone, Debug)]
pub struct Job {
    pub(super) request: Message,
    pub(super) client: SocketAddr,
    pub(super) transport: Transport,
    pub(super) port: u16,
    pub(super) size: usize,
    pub(super) started: Duration,
    pub(super) block: Option<Arc<Block>>,
    /// CNAME records that led to the question that is asked now.
    pub(super) aliases: Vec<Record>,
    pub(super) labels: String,
}

impl Default for Job {
    fn default() -> Self {
        Job {
            request: Message::default(),
            client: SocketAddr::from(([0, 0, 0, 0], 0)),
            transport: Transport::Udp,
            port: 0,
            size: 0,
            started: Duration::ZERO,
            block: None,
            aliases: Vec::new(),
            labels: String::new(),
        }
    }
}

impl Job {
    /// What the client can take, in octets (`request.Size`).
    fn room(&self) -> usize {
        match self.transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => {
                self.request.edns.as_ref().map_or(512, |edns| usize::from(edns.udp_size).max(512))
            }
        }
    }
}

impl Server {
    /// Sends an answer to who asked.
    pub(super) fn finish(
        &mut self,
        mut job: Job,
        error: Option<&str>,
        found: Message,
        plugin: &str,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let aliases = std::mem::take(&mut job.aliases);
        let mut reply = if aliases.is_empty() {
            found
        } else {
            // The alias stands, whatever became of its target.
            let flags = Flags { authoritative: true, truncated: found.flags.truncated, ..Flags::default() };
            let answers = aliases.into_iter().chain(found.answers).collect();
            Message { flags, answers, ..Message::default() }
        };
        let skeleton = job.request.reply(reply.rcode);
        reply.id = skeleton.id;
        reply.flags = Flags {
            authoritative: reply.flags.authoritative,
            truncated: reply.flags.truncated,
            recursion_available: reply.flags.recursion_available,
            authentic: reply.flags.authentic,
            ..skeleton.flags
        };
        reply.questions = skeleton.questions;
        if job.block.as_ref().is_some_and(|block| block.loadbalance) {
            rotate(&mut reply.answers, now.random);
        }
        reply.edns = job.request.edns.as_ref().map(|asked| {
            let echoed = asked.options.iter().filter(|(code, _)| ECHOED.contains(code));
            Edns {
                udp_size: asked.udp_size,
                version: 0,
                dnssec_ok: asked.dnssec_ok,
                options: reply.edns.take().map_or_else(|| echoed.cloned().collect(), |edns| edns.options),
            }
        });
        let bytes = encode(&reply, job.room());
        self.account(&job, &reply, &bytes, plugin, now);
        if let Some(block) = &job.block {
            log(block, &job, &reply, &bytes, now, out);
            if let (true, Some(error), Some(question)) = (block.errors, error, job.request.questions.first())
            {
                let line = format!(
                    "[ERROR] plugin/errors: {} {} {}: {error}",
                    reply.rcode,
                    question.name,
                    rtype::name(question.rtype)
                );
                out.push(Effect::Log(line));
            }
        }
        out.push(Effect::Reply(bytes));
    }

    fn account(&mut self, job: &Job, reply: &Message, bytes: &[u8], plugin: &str, now: Now) {
        let Some(question) = job.request.questions.first() else { return };
        let dropped = format!("server=\"dns://:{}\",zone=\"dropped\",view=\"\"", job.port);
        let labels = if job.labels.is_empty() { &dropped } else { &job.labels };
        let family = if job.client.is_ipv4() { 1 } else { 2 };
        let by_proto = measure_labels(labels, job.transport);
        let kind = counted_type(question);
        self.metrics.count(Counter::Requests, &format!("{by_proto},family=\"{family}\",type=\"{kind}\""));
        let name = rcode::name(reply.rcode);
        self.metrics.count(Counter::Responses, &format!("{labels},rcode=\"{name}\",plugin=\"{plugin}\""));
        self.metrics.time(Measure::Duration, labels, now.monotonic.saturating_sub(job.started));
        self.metrics.measure(Measure::RequestSize, &by_proto, job.size as f64);
        self.metrics.measure(Measure::ResponseSize, &by_proto, bytes.len() as f64);
    }
}

/// Types that have a series of their own (`plugin/metrics/vars/monitor.go`).
fn counted_type(question: &Question) -> String {
    match rtype::name(question.rtype) {
        name if name.starts_with("TYPE") => "other".to_owned(),
        name => name,
    }
}

/// `loadbalance`: aliases first, then addresses and MX in random order each, then the rest.
fn rotate(records: &mut Vec<Record>, random: u64) {
    let (mut aliases, mut addresses, mut exchanges, mut rest) = (vec![], vec![], vec![], vec![]);
    for record in records.drain(..) {
        match record.data {
            Data::Cname(_) => aliases.push(record),
            Data::A(_) | Data::Aaaa(_) => addresses.push(record),
            Data::Mx(..) => exchanges.push(record),
            _ => rest.push(record),
        }
    }
    shuffle(&mut addresses, random);
    shuffle(&mut exchanges, random);
    records.extend(aliases.into_iter().chain(addresses).chain(exchanges).chain(rest));
}

/// Fisher-Yates with a multiplicative generator from one number.
pub(super) fn shuffle<T>(items: &mut [T], random: u64) {
    let mut state = random | 1;
    for i in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bound = i as u64 + 1;
        let j = usize::try_from((state >> 33) % bound).unwrap_or(0);
        items.swap(i, j);
    }
}

fn log(block: &Block, job: &Job, reply: &Message, bytes: &[u8], now: Now, out: &mut Vec<Effect>) {
    let Some(question) = job.request.questions.first() else { return };
    let class = match reply.rcode {
        rcode::NXDOMAIN => LogClass::Denial,
        rcode::NOERROR if reply.answers.is_empty() => LogClass::Denial,
        rcode::NOERROR => LogClass::Success,
        _ => LogClass::Error,
    };
    let rules = block.log.iter().filter(|rule| rule.zones.iter().any(|zone| question.name.is_within(zone)));
    for rule in rules.filter(|rule| rule.classes.contains(&LogClass::All) || rule.classes.contains(&class)) {
        out.push(Effect::Log(format!("[INFO] {}", line(&rule.format, question, job, reply, bytes, now))));
    }
}

fn line(format: &str, question: &Question, job: &Job, reply: &Message, bytes: &[u8], now: Now) -> String {
    let mut text = String::with_capacity(format.len() + 64);
    let mut rest = format;
    while let Some(open) = rest.find('{') {
        text.push_str(&rest[..open]);
        let Some(close) = rest[open..].find('}') else { break };
        let value = placeholder(&rest[open + 1..open + close], question, job, reply, bytes, now);
        text.push_str(&value);
        rest = &rest[open + close + 1..];
    }
    text.push_str(rest);
    text
}

/// What a `{…}` stands for (`plugin/pkg/replacer`).
fn placeholder(
    name: &str,
    question: &Question,
    job: &Job,
    reply: &Message,
    bytes: &[u8],
    now: Now,
) -> String {
    let edns = job.request.edns.as_ref();
    match name {
        "type" => rtype::name(question.rtype),
        "name" => question.name.to_lowercase().to_string(),
        "class" => {
            if question.class == 1 {
                "IN".into()
            } else {
                format!("CLASS{}", question.class)
            }
        }
        "proto" => job.transport.as_str().into(),
        "size" => job.size.to_string(),
        "remote" if job.client.is_ipv6() => format!("[{}]", job.client.ip()),
        "remote" => job.client.ip().to_string(),
        "port" => job.client.port().to_string(),
        "rcode" => rcode::name(reply.rcode),
        "rsize" => bytes.len().to_string(),
        "duration" => format!("{}s", now.monotonic.saturating_sub(job.started).as_secs_f64()),
        ">id" => job.request.id.to_string(),
        ">opcode" => job.request.flags.opcode.to_string(),
        ">do" => edns.is_some_and(|edns| edns.dnssec_ok).to_string(),
        ">bufsize" => job.room().min(65_535).to_string(),
        ">rflags" => {
            let f = reply.flags;
            let truncated = bytes.get(2).is_some_and(|b| b & 2 != 0);
            let set = [
                (f.response, "qr"),
                (f.authoritative, "aa"),
                (truncated, "tc"),
                (f.recursion_desired, "rd"),
                (f.recursion_available, "ra"),
                (f.authentic, "ad"),
                (f.checking_disabled, "cd"),
            ];
            let set: Vec<&str> = set.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
            set.join(",")
        }
        _ => "-".into(),
    }
}
