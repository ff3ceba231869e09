//! `forward`: asks other servers (`plugin/forward`).

mod config;
mod upstreams;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::chain::values::resolv_conf;
use crate::chain::{Answer, Ask, Context, Flow, Note, Plugin, Query, Setup, Transport, Via, Want};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Message, Question, rcode, rtype};
use crate::metrics::Family;
pub use config::{Config, Policy, Upstream};
use upstreams::Upstreams;

/// How long a query may take in all (forward.go's `defaultTimeout`).
const DEADLINE: Duration = Duration::from_secs(5);
/// How long one upstream may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a health check may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

static REQUESTS: Family =
    Family::counter("coredns_forward_requests_total", "Counter of requests made per upstream.");
static RESPONSES: Family =
    Family::counter("coredns_forward_responses_total", "Counter of responses received per upstream.");
static REJECTS: Family = Family::counter(
    "coredns_forward_max_concurrent_rejects_total",
    "Counter of the number of queries rejected because the concurrent queries were at maximum.",
);
static FAILURES: Family = Family::counter(
    "coredns_proxy_healthcheck_failures_total",
    "Counter of the number of failed healthchecks.",
);
static DURATION: Family = Family::times(
    "coredns_proxy_request_duration_seconds",
    "Histogram of the time each request to an upstream took.",
);

/// `forward`, with what it remembers of its upstreams.
#[derive(Debug)]
pub struct Forward {
    config: Config,
    /// The name servers of files that it names.
    files: BTreeMap<String, Vec<SocketAddr>>,
    upstreams: Upstreams,
    under_way: u32,
}

/// `forward FROM TO... { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    for config in config::read(d)? {
        let (files, upstreams) = (BTreeMap::new(), Upstreams::default());
        let mut forward = Forward { config, files, upstreams, under_way: 0 };
        forward.list();
        setup.add(forward);
    }
    Ok(())
}

/// With a query that waits for an upstream.
#[derive(Debug)]
struct Waiting {
    /// The one that is asked.
    upstream: usize,
    /// Those still to be asked, the last one first.
    rest: Vec<usize>,
    via: Via,
    deadline: Duration,
}

impl Forward {
    /// What the lines say.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Lists the upstreams, in the order of the line.
    fn list(&mut self) {
        let mut addresses = Vec::new();
        for to in &self.config.to {
            match to {
                Upstream::Address(address) => addresses.push(*address),
                Upstream::ResolvConf(path) => addresses.extend(self.files.get(path).into_iter().flatten()),
            }
        }
        addresses.dedup();
        self.upstreams.set(addresses);
    }

    /// Asks the next upstream; a failure where there is none left, or no time.
    fn ask_next(
        &mut self,
        query: &mut Query,
        mut waiting: Waiting,
        why: &str,
        note: &mut Note,
        cx: &mut Context<'_>,
    ) -> Flow {
        let left = waiting.deadline.saturating_sub(cx.now.monotonic);
        let next = if left.is_zero() { None } else { waiting.rest.pop() };
        let Some(upstream) = next else {
            self.under_way = self.under_way.saturating_sub(1);
            return Flow::fail(rcode::SERVFAIL, why);
        };
        waiting.upstream = upstream;
        let to = self.upstreams.address(upstream);
        cx.metrics.count(&REQUESTS, &format!("to=\"{to}\""));
        query.set_label("forward/upstream", to.to_string());
        let message = Message { questions: vec![query.question().clone()], ..query.request.clone() };
        let ask = Ask { to, via: waiting.via.clone(), message, timeout: TIMEOUT.min(left), tag: 0 };
        note.set(waiting);
        Flow::Ask(ask)
    }

    fn via(&self, query: &Query) -> Via {
        match (self.config.force_tcp, self.config.prefer_udp, query.transport) {
            (true, ..) | (false, false, Transport::Tcp) => Via::Tcp,
            (false, true, _) | (false, false, Transport::Udp) => Via::Udp,
        }
    }
}

/// Whether an upstream's message is about what was asked (`Request.Match`).
fn matches(answer: &Message, asked: &Question) -> bool {
    answer.flags.response && answer.questions.first().is_none_or(|question| question == asked)
}

impl Plugin for Forward {
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let name = &query.question().name;
        let config = &self.config;
        if !name.is_within(&config.from) || config.except.iter().any(|zone| name.is_within(zone)) {
            return Flow::Next;
        }
        if config.max_concurrent > 0 && self.under_way >= config.max_concurrent {
            cx.metrics.count(&REJECTS, "");
            let why = format!("concurrent queries exceeded maximum {}", config.max_concurrent);
            return Flow::fail(rcode::REFUSED, why);
        }
        let rest = self.upstreams.order(config.policy, config.max_fails, cx.now.random);
        if rest.is_empty() {
            return Flow::fail(rcode::SERVFAIL, "forward has no upstream");
        }
        self.under_way += 1;
        let deadline = cx.now.monotonic + DEADLINE;
        let waiting = Waiting { upstream: 0, rest, via: self.via(query), deadline };
        self.ask_next(query, waiting, "", note, cx)
    }

    fn answered(&mut self, query: &mut Query, note: &mut Note, answer: Answer, cx: &mut Context<'_>) -> Flow {
        let Some(mut waiting) = note.take::<Waiting>() else { return Flow::refuse(rcode::SERVFAIL) };
        let message = match answer.result {
            Ok(message) => message,
            Err(why) => {
                self.upstreams.suspect(waiting.upstream, cx.now.monotonic);
                return self.ask_next(query, waiting, &format!("{}: {why}", answer.from), note, cx);
            }
        };
        let labels = format!("to=\"{}\",rcode=\"{}\"", answer.from, rcode::name(message.rcode));
        cx.metrics.count(&RESPONSES, &labels);
        cx.metrics.time(&DURATION, &format!("proxy_name=\"forward\",{labels}"), answer.took);
        if !matches(&message, query.question()) {
            // Not what was asked (forward.go).
            self.under_way = self.under_way.saturating_sub(1);
            return Flow::Reply(query.request.reply(rcode::FORMERR));
        }
        if message.flags.truncated && waiting.via == Via::Udp && self.config.prefer_udp {
            waiting.rest.push(waiting.upstream);
            waiting.via = Via::Tcp;
            return self.ask_next(query, waiting, "the answer over UDP was cut off", note, cx);
        }
        self.under_way = self.under_way.saturating_sub(1);
        Flow::Reply(message)
    }

    /// Checks upstreams that failed until they answer again.
    fn tick(&mut self, cx: &mut Context<'_>) -> Vec<Ask> {
        let config = &self.config;
        if config.max_fails == 0 {
            return Vec::new();
        }
        let via = if config.force_tcp { Via::Tcp } else { Via::Udp };
        let due = self.upstreams.due(cx.now.monotonic, config.health_interval);
        let asks = due.into_iter().map(|(at, to)| {
            let mut message = Message::query(0, config.health_domain.clone(), rtype::NS);
            message.flags.recursion_desired = config.health_recursion;
            Ask { to, via: via.clone(), message, timeout: PROBE_TIMEOUT, tag: at as u64 }
        });
        asks.collect()
    }

    fn told(&mut self, answer: Answer, cx: &mut Context<'_>) {
        let at = usize::try_from(answer.tag).unwrap_or(usize::MAX);
        // Any answer at all means that it is there (health.go).
        let there = answer.result.is_ok();
        if !there {
            cx.metrics.count(&FAILURES, &format!("proxy_name=\"forward\",to=\"{}\"", answer.from));
        }
        self.upstreams.checked(at, there);
    }

    fn files(&self) -> Vec<Want> {
        let files = self.config.to.iter().filter_map(|to| match to {
            Upstream::ResolvConf(path) => {
                Some(Want { path: path.clone(), folder: false, every: Duration::ZERO })
            }
            Upstream::Address(_) => None,
        });
        files.collect()
    }

    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        if !self.config.to.contains(&Upstream::ResolvConf(path.to_owned())) {
            return Ok(());
        }
        let servers = resolv_conf(content.unwrap_or(""));
        if servers.is_empty() {
            return Err(format!("forward: {path} is no address, and no resolv.conf with a name server"));
        }
        self.files.insert(path.to_owned(), servers);
        self.list();
        Ok(())
    }
}
