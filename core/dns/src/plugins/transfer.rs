//! `transfer`: hands out the zones of the block's other plugins as a whole, and tells secondaries when they change
//! (`plugin/transfer`).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::chain::args::{err, number, one, unknown};
use crate::chain::{Answer, Ask, Context, Flow, Note, Passage, Plugin, Query, Setup, Transport, Via, values};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Data, Message, Question, Record, rcode, rtype};
use crate::name::Name;
use crate::zone::{Zone, transfer};

/// A NOTIFY is sent so often until it is accepted, …
const TRIES: u8 = 3;
/// … and waits so long each time (miekg/dns `dnsTimeout`).
const TIMEOUT: Duration = Duration::from_secs(2);

/// One `transfer` line.
#[derive(Debug)]
struct Line {
    zones: Vec<Name>,
    /// `*`
    everybody: bool,
    to: Vec<SocketAddr>,
    /// Where NOTIFYs come from.
    source: Option<IpAddr>,
}

impl Line {
    fn allows(&self, client: IpAddr) -> bool {
        self.everybody || self.to.iter().any(|to| to.ip() == client.to_canonical())
    }
}

/// A NOTIFY that nobody has accepted yet.
#[derive(Debug)]
struct Notice {
    zone: Name,
    to: SocketAddr,
    source: Option<IpAddr>,
    tries: u8,
    waits: bool,
}

/// A zone that a plugin hands out.
enum Whole {
    Held(Arc<Zone>),
    Made(Vec<Record>),
}

impl Whole {
    fn of(plugin: &dyn Plugin, name: &Name, cx: &Context<'_>) -> Option<Self> {
        let held = plugin.zones(cx.now).into_iter().find(|zone| zone.origin() == name);
        held.map(Whole::Held).or_else(|| plugin.transfer(name, cx.peers, cx.world).map(Whole::Made))
    }

    fn serial(&self) -> u32 {
        match self {
            Whole::Held(zone) => zone.serial(),
            Whole::Made(records) => match records.first().map(|record| &record.data) {
                Some(Data::Soa(soa)) => soa.serial,
                _ => 0,
            },
        }
    }
}

/// All `transfer` lines of a server block.
#[derive(Debug, Default)]
pub struct Transfer {
    lines: Vec<Line>,
    /// The zones that secondaries know of.
    known: HashMap<Name, Arc<Zone>>,
    notices: BTreeMap<u64, Notice>,
    next: u64,
}

/// `transfer [ZONE...] { to ADDRESS...; source ADDRESS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let mut line =
        Line { zones: setup.zones_or_own(&d.args)?, everybody: false, to: Vec::new(), source: None };
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "to" if option.args.is_empty() => return err(&option.name, "'to' needs an address, or '*'"),
            "to" => {
                for token in &option.args {
                    match (token.text.as_str(), values::upstream(&token.text)) {
                        ("*", _) => line.everybody = true,
                        (_, Some(address)) => line.to.push(address),
                        (text, None) => return err(token, format!("'{text}' is no address")),
                    }
                }
            }
            "source" if line.source.is_some() => {
                return err(&option.name, "'source' stands twice in this 'transfer'");
            }
            "source" => line.source = Some(number(one(option, "address")?, "address")?),
            _ => return unknown("transfer", option),
        }
    }
    if !line.everybody && line.to.is_empty() {
        return err(&d.name, "'transfer' needs a line 'to ADDRESS...'");
    }
    match setup.earlier::<Transfer>() {
        Some(transfer) => transfer.lines.push(line),
        None => setup.add(Transfer { lines: vec![line], ..Transfer::default() }),
    }
    Ok(())
}

impl Transfer {
    /// The line with the longest zone around a name; the first of several.
    fn line(&self, name: &Name) -> Option<&Line> {
        let mut best: Option<(usize, &Line)> = None;
        for line in &self.lines {
            let zones = line.zones.iter().filter(|zone| name.is_within(zone));
            let len = zones.map(|zone| zone.wire().len()).max();
            if let Some(len) = len.filter(|len| best.is_none_or(|(longest, _)| *len > longest)) {
                best = Some((len, line));
            }
        }
        best.map(|(_, line)| line)
    }

    /// Notes whom to tell of zones that are others than they were.
    fn look(&mut self, cx: &Context<'_>) {
        let mut now = HashMap::new();
        for zone in cx.peers.iter().flat_map(|(_, plugin)| plugin.zones(cx.now)) {
            now.entry(zone.origin().clone()).or_insert(zone);
        }
        for (name, zone) in &now {
            if self.known.get(name).is_some_and(|known| Arc::ptr_eq(known, zone)) {
                continue;
            }
            let line = self.line(name).map(|line| (line.to.clone(), line.source));
            let (to, source) = line.unwrap_or_default();
            for to in to {
                self.notices.retain(|_, notice| notice.zone != *name || notice.to != to);
                self.notices
                    .insert(self.next, Notice { zone: name.clone(), to, source, tries: 0, waits: false });
                self.next += 1;
            }
        }
        self.known = now;
    }
}

impl Plugin for Transfer {
    fn passage(&self) -> Passage {
        Passage::Same
    }

    fn down(&mut self, query: &mut Query, _: &mut Note, cx: &mut Context<'_>) -> Flow {
        let Question { name, rtype, .. } = query.question().clone();
        if !matches!(rtype, rtype::AXFR | rtype::IXFR) {
            return Flow::Next;
        }
        if query.transport != Transport::Tcp {
            return Flow::refuse(rcode::REFUSED);
        }
        let Some(line) = self.line(&name) else { return Flow::Next };
        let client = query.client.ip().to_canonical();
        if !line.allows(client) {
            return Flow::Reply(query.request.reply(rcode::REFUSED));
        }
        let Some(zone) = cx.peers.iter().find_map(|(_, plugin)| Whole::of(plugin, &name, cx)) else {
            return Flow::Next;
        };
        let request = Message { questions: vec![query.question().clone()], ..query.request.clone() };
        let outgoing = match &zone {
            Whole::Held(zone) => transfer::outgoing(zone, &request),
            Whole::Made(records) => transfer::outgoing_of(records, &request),
        };
        let outgoing = match outgoing {
            Ok(outgoing) => outgoing,
            Err(rcode) => return Flow::refuse(rcode),
        };
        let (what, serial) = (format!("zone \"{name}\" to {client}"), zone.serial());
        cx.log(if outgoing.is_noop() {
            format!(
                "[INFO] plugin/transfer: Outgoing noop, incremental transfer for up to date {what} for {serial} SOA serial"
            )
        } else {
            let records = outgoing.len();
            format!("[INFO] plugin/transfer: Outgoing transfer of {records} records of {what} for {serial} SOA serial")
        });
        Flow::Stream(outgoing.collect())
    }

    fn source(&self, tag: u64) -> Option<IpAddr> {
        self.notices.get(&tag)?.source
    }

    fn tick(&mut self, cx: &mut Context<'_>) -> Vec<Ask> {
        self.look(cx);
        let due = self.notices.iter_mut().filter(|(_, notice)| !notice.waits);
        let asks = due.map(|(tag, notice)| {
            notice.waits = true;
            notice.tries += 1;
            let message = transfer::notify(&notice.zone, 0);
            Ask { to: notice.to, via: Via::Udp, message, timeout: TIMEOUT, tag: *tag }
        });
        asks.collect()
    }

    fn told(&mut self, answer: Answer, cx: &mut Context<'_>) {
        let Some(notice) = self.notices.get_mut(&answer.tag) else { return };
        let why = match answer.result {
            Ok(message) if message.rcode == rcode::NOERROR => {
                self.notices.remove(&answer.tag);
                return;
            }
            Ok(message) => format!("rcode was \"{}\"", rcode::name(message.rcode)),
            Err(why) => format!("\"{why}\""),
        };
        notice.waits = false;
        if notice.tries >= TRIES {
            let (zone, to) = (&notice.zone, notice.to);
            cx.log(format!(
                "[WARNING] plugin/transfer: notify for zone \"{zone}\" was not accepted by \"{to}\": {why}"
            ));
            self.notices.remove(&answer.tag);
        }
    }
}
