//! `shadow`: what clients ask is asked of another server, too, and where its answer is another one, that is said. For
//! who puts this server in the place of another, or the other way round, and wants to know before clients do. No client
//! waits for it, none is answered from it. CoreDNS has nothing like it.

mod compare;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::chain::args::{duration, err, no_more, number, one, unknown, zones};
use crate::chain::{
    Answer, Ask, Context, Failure, Flow, Note, Passage, Plugin, Query, Setup, Transport, Up, Via, values,
};
use crate::corefile::{CorefileError, Directive, Token};
use crate::message::{Message, class, rcode, rtype};
use crate::metrics::Family;
use crate::name::Name;
use crate::prepared::Share;
pub use compare::{Difference, Kind, differences};

static QUERIES: Family =
    Family::counter("sealane_dns_shadow_queries_total", "Queries that the shadow server was asked, too.");
static DIFFERENCES: Family = Family::counter(
    "sealane_dns_shadow_differences_total",
    "Answers that differ from those of the shadow server, by what differs.",
);
static UNANSWERED: Family = Family::counter(
    "sealane_dns_shadow_unanswered_total",
    "Queries to which the shadow server gave no answer, or none that can be read.",
);
static SKIPPED: Family = Family::counter(
    "sealane_dns_shadow_skipped_total",
    "Queries that the shadow server was not asked, since too many waited for it already.",
);

/// Options that mean something between a client and its server alone: COOKIE, KEEPALIVE, PADDING.
const OF_THE_HOP: [u16; 3] = [10, 11, 12];

/// `shadow`
#[derive(Debug)]
pub struct Shadow {
    to: SocketAddr,
    /// Names within these alone.
    zones: Vec<Name>,
    share: Share,
    /// TTLs may differ by so many seconds.
    ttl: u32,
    timeout: Duration,
    /// Questions that wait for an answer at once.
    most: usize,
    waiting: HashMap<u64, Mirrored>,
    last: u64,
    lines: Lines,
    labels: String,
}

/// A question that was sent, and what this server said to it.
#[derive(Debug)]
struct Mirrored {
    asked: Message,
    ours: Message,
    via: Via,
}

/// Lines for the log, so many a second.
#[derive(Debug)]
struct Lines {
    each_second: u32,
    second: u64,
    written: u32,
    /// Not written since the last that was.
    hidden: u64,
}

/// `shadow ADDRESS [ZONES...] { sample PERCENT | ttl DURATION | timeout DURATION | max_concurrent NUMBER | log NUMBER }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let Some((address, rest)) = d.args.split_first() else {
        return err(&d.name, "'shadow' needs the address of a server");
    };
    let Some(to) = values::upstream(&address.text) else {
        return err(address, format!("'{}' is no address of a server (IP, or IP:PORT)", address.text));
    };
    let lines = Lines { each_second: 10, second: 0, written: 0, hidden: 0 };
    let mut shadow = Shadow {
        to,
        zones: zones(rest)?,
        share: Share::ALL,
        ttl: 30,
        timeout: Duration::from_secs(2),
        most: 1000,
        waiting: HashMap::new(),
        last: 0,
        lines,
        labels: format!("to=\"{to}\""),
    };
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "sample" => shadow.share = share(one(option, "percentage")?)?,
            "ttl" => {
                let time = duration(one(option, "duration")?)?;
                shadow.ttl = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
            }
            "timeout" => {
                let token = one(option, "duration")?;
                shadow.timeout = duration(token)?;
                if shadow.timeout.is_zero() {
                    return err(token, "no server answers within no time");
                }
            }
            "max_concurrent" => shadow.most = several(option, "number of queries")?,
            "log" => {
                shadow.lines.each_second = number(one(option, "number of lines")?, "number of lines")?;
            }
            _ => return unknown("shadow", option),
        }
    }
    setup.add(shadow);
    Ok(())
}

/// `10%`, `10`, `0.5%`
fn share(token: &Token) -> Result<Share, CorefileError> {
    let percent = token.text.strip_suffix('%').unwrap_or(&token.text).parse::<f64>().ok();
    match percent.filter(|percent| *percent > 0.0 && *percent <= 100.0) {
        Some(percent) => Ok(Share::of(percent / 100.0)),
        None => err(token, format!("'{}' is no percentage above 0, and of 100 at most", token.text)),
    }
}

fn several(option: &Directive, what: &str) -> Result<usize, CorefileError> {
    let token = one(option, what)?;
    no_more(&option.name.text, &option.args[1..])?;
    match number(token, what)? {
        0 => err(token, "0 would turn it off; leave 'shadow' out instead"),
        count => Ok(count),
    }
}

impl Shadow {
    fn wants(&self, query: &Query, cx: &mut Context<'_>) -> bool {
        let question = query.question();
        let transfer = matches!(question.rtype, rtype::AXFR | rtype::IXFR);
        let own = query.depth > 0 || query.background;
        let zone = self.zones.is_empty() || self.zones.iter().any(|zone| question.name.is_within(zone));
        if own || transfer || !zone {
            return false;
        }
        match query.transport {
            // Those are looked at once more where answers are prepared: the id says the same there.
            Transport::Udp => self.share.picks(query.request.id),
            Transport::Tcp => self.share.picks((cx.random() >> 48) as u16),
        }
    }

    /// Asks what the client asked. What this server says to it is known by then.
    fn mirror(&mut self, mut asked: Message, ours: Message, cx: &mut Context<'_>) {
        // The client will come again over TCP.
        if ours.flags.truncated {
            return;
        }
        if self.waiting.len() >= self.most {
            return cx.metrics.count(&SKIPPED, &self.labels);
        }
        if let Some(edns) = &mut asked.edns {
            edns.options.retain(|(code, _)| !OF_THE_HOP.contains(code));
        }
        cx.metrics.count(&QUERIES, &self.labels);
        self.last += 1;
        let tag = self.last;
        self.waiting.insert(tag, Mirrored { asked, ours, via: Via::Udp });
        self.ask(tag, cx);
    }

    fn ask(&self, tag: u64, cx: &mut Context<'_>) {
        if let Some(Mirrored { asked, via, .. }) = self.waiting.get(&tag) {
            let (message, via) = (asked.clone(), via.clone());
            cx.ask(Ask { to: self.to, via, message, timeout: self.timeout, tag });
        }
    }

    fn say(&mut self, about: &Message, what: &str, cx: &mut Context<'_>) {
        let Some(hidden) = self.lines.next(cx.now.monotonic) else { return };
        let question = about.questions.first().map_or_else(String::new, |question| {
            let (class, kind) = (class::name(question.class), rtype::name(question.rtype));
            format!("{} {class} {kind}", question.name)
        });
        let more = match hidden {
            0 => String::new(),
            hidden => format!(" ({hidden} lines like this were left out before)"),
        };
        cx.log(format!("[WARNING] plugin/shadow: {}: {question}: {what}{more}", self.to));
    }
}

impl Lines {
    /// Whether there may be one now; how many were not written before it.
    fn next(&mut self, now: Duration) -> Option<u64> {
        if now.as_secs() != self.second {
            (self.second, self.written) = (now.as_secs(), 0);
        }
        if self.written >= self.each_second {
            self.hidden += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.hidden))
    }
}

impl Plugin for Shadow {
    fn passage(&self) -> Passage {
        if self.share == Share::ALL { Passage::Varies } else { Passage::Sampled(self.share) }
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        // Series that are there before something happens can be watched.
        for family in [&QUERIES, &UNANSWERED, &SKIPPED] {
            cx.metrics.add(family, &self.labels, 0.0);
        }
        for kind in Kind::ALL {
            cx.metrics.add(&DIFFERENCES, &format!("{},kind=\"{}\"", self.labels, kind.as_str()), 0.0);
        }
    }

    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        if self.wants(query, cx) {
            // As it came: plugins behind may change it.
            note.set(query.request.clone());
        }
        Flow::Next
    }

    fn up(&mut self, _: &mut Query, note: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        if let Some(asked) = note.take::<Message>() {
            self.mirror(asked, reply.clone(), cx);
        }
        Up::Pass
    }

    fn failed(&mut self, _: &mut Query, note: &mut Note, failure: &Failure, cx: &mut Context<'_>) -> Up {
        if let Some(asked) = note.take::<Message>() {
            let ours = asked.reply(failure.rcode);
            self.mirror(asked, ours, cx);
        }
        Up::Pass
    }

    fn told(&mut self, answer: Answer, cx: &mut Context<'_>) {
        let Some(mut mirrored) = self.waiting.remove(&answer.tag) else { return };
        let theirs = match answer.result {
            Ok(theirs) => theirs,
            Err(why) => {
                cx.metrics.count(&UNANSWERED, &self.labels);
                return self.say(&mirrored.asked, &format!("no answer: {why}"), cx);
            }
        };
        if theirs.flags.truncated && mirrored.via == Via::Udp {
            mirrored.via = Via::Tcp;
            self.waiting.insert(answer.tag, mirrored);
            return self.ask(answer.tag, cx);
        }
        let found = differences(&mirrored.ours, &theirs, self.ttl);
        if found.is_empty() {
            return;
        }
        let mut kinds: Vec<Kind> = found.iter().map(|difference| difference.kind).collect();
        kinds.dedup();
        for kind in kinds {
            cx.metrics.count(&DIFFERENCES, &format!("{},kind=\"{}\"", self.labels, kind.as_str()));
        }
        let mut what: Vec<String> = found.into_iter().map(|difference| difference.text).collect();
        // One says all of it where the other refuses.
        if mirrored.ours.rcode != theirs.rcode && theirs.rcode != rcode::NOERROR {
            what.truncate(1);
        }
        self.say(&mirrored.asked, &what.join("; "), cx);
    }
}
