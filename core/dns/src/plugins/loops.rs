//! `loop`: finds out whether the server asks itself (`plugin/loop`). It sends itself a query for a name that nobody
//! can know; should that query come in a third time, upstreams send back what they are sent.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::chain::args::{no_more, no_options};
use crate::chain::{Answer, Ask, Context, Flow, Note, Plugin, Query, Setup, Via};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Message, rtype};
use crate::name::Name;

/// How long after the start probes may come back.
const WINDOW: Duration = Duration::from_secs(30);
/// How long the probe may take.
const TIMEOUT: Duration = Duration::from_secs(6);

/// `loop`
#[derive(Debug)]
pub struct Loop {
    /// The server block's zone.
    zone: Name,
    /// Where this server is reached.
    own: SocketAddr,
    /// What the probe asks for; `None`: the look-out is over.
    name: Option<Name>,
    sent: bool,
    until: Duration,
    seen: u32,
}

/// `loop`
///
/// # Errors
/// What is wrong with the line.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    no_more("loop", &d.args)?;
    let ip = setup.settings.bind.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
    let Some(key) = setup.keys.first() else { return Ok(()) };
    let own = SocketAddr::new(ip, key.port);
    let zone = key.zone.clone();
    setup.add(Loop { zone, own, name: None, sent: false, until: Duration::ZERO, seen: 0 });
    Ok(())
}

impl Plugin for Loop {
    fn start(&mut self, cx: &mut Context<'_>) {
        let (a, b) = (cx.random() >> 1, cx.random() >> 1);
        self.name = Some(self.zone.under(&[&a.to_string(), &b.to_string()]));
        self.until = cx.now.monotonic + WINDOW;
    }

    fn tick(&mut self, cx: &mut Context<'_>) -> Vec<Ask> {
        if cx.now.monotonic >= self.until {
            self.name = None;
        }
        let Some(name) = self.name.clone().filter(|_| !self.sent) else { return Vec::new() };
        self.sent = true;
        let message = Message::query(0, name, rtype::HINFO);
        vec![Ask { to: self.own, via: Via::Udp, message, timeout: TIMEOUT, tag: 0 }]
    }

    fn told(&mut self, answer: Answer, cx: &mut Context<'_>) {
        // What comes back does not matter, a probe that comes round does.
        if let Err(why) = answer.result {
            cx.log(format!("[WARNING] plugin/loop: the probe had no answer: {why}"));
        }
    }

    fn down(&mut self, query: &mut Query, _: &mut Note, cx: &mut Context<'_>) -> Flow {
        let question = query.question();
        if question.rtype != rtype::HINFO || self.name.as_ref() != Some(&question.name) {
            return Flow::Next;
        }
        self.seen += 1;
        if self.seen <= 2 {
            return Flow::Next;
        }
        cx.fatal(format!(
            "plugin/loop: Loop detected for zone {:?}: a query for {} came back from the upstream; let 'forward' \
             name a server that does not forward to this one",
            self.zone.to_string(),
            question.name
        ));
        Flow::Drop
    }
}
