//! `secondary`: zones that another server has, transferred from it and kept up to date (`plugin/secondary`,
//! `plugin/file/secondary.go`).

mod members;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::file::answer;
use crate::chain::args::{self, err, unknown};
use crate::chain::values::{self, go_duration};
use crate::chain::{Answer, Ask, Context, Flow, Note, Now, Plugin, Query, Setup, Via};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Flags, Message, rcode};
use crate::name::Name;
use crate::zone::Zone;
use crate::zone::secondary::{Action, Event, Secondary as State};
use crate::zone::transfer::{Incoming, OPCODE_NOTIFY, Step, TransferError, serial_in, serial_query};
use members::Catalog;

/// A primary has so long for its serial, …
const SERIAL: Duration = Duration::from_secs(2);
/// … and for each message of a zone.
const MESSAGE: Duration = Duration::from_secs(5);

/// All `secondary` lines of a server block: a question is for the longest of their zones.
#[derive(Debug, Default)]
pub struct Secondary {
    entries: Vec<Entry>,
    /// Of all lines; the last one that says something counts.
    fallthrough: Vec<Name>,
    /// The next entry's tag.
    next: u64,
}

/// A zone, and where it comes from.
#[derive(Debug)]
struct Entry {
    /// Of what it asks.
    tag: u64,
    origin: Name,
    /// Primaries, in the order of asking.
    from: Vec<SocketAddr>,
    state: State,
    job: Option<Job>,
    /// It lists other zones.
    catalog: Option<Catalog>,
    /// The catalog that it is from, and its id there.
    member: Option<(Name, String)>,
}

/// What is under way.
#[derive(Debug)]
struct Job {
    action: Action,
    /// The primary that is asked, by its place.
    at: usize,
    /// Whose NOTIFY it follows.
    notified: Option<IpAddr>,
}

/// `secondary [ZONES...] { transfer from ADDRESS...; catalog [ZONES...]; fallthrough [ZONES...] }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let zones = setup.zones_or_own(&d.args)?;
    let (mut from, mut catalog, mut fallthrough) = (Vec::new(), None, None);
    for option in d.block.iter().flatten() {
        match (option.name.text.as_str(), option.args.as_slice()) {
            ("transfer", [word, addresses @ ..]) if word.text == "from" => {
                if addresses.is_empty() {
                    return err(word, "'transfer from' needs the address of a primary");
                }
                for token in addresses {
                    match values::upstream(&token.text) {
                        Some(address) => from.push(address),
                        None => return err(token, format!("'{}' is no address of a primary", token.text)),
                    }
                }
            }
            ("transfer", [other, ..]) => {
                return err(other, format!("'transfer' takes no '{}' here (from)", other.text));
            }
            ("transfer", []) => return err(&option.name, "'transfer' needs 'from' and addresses"),
            ("catalog", words) => {
                let more = args::zones(words)?;
                // One line without zones takes all, whatever the others say.
                catalog = Some(match catalog {
                    None => more,
                    Some(known) if Vec::is_empty(&known) || more.is_empty() => Vec::new(),
                    Some(mut known) => {
                        known.extend(more);
                        known
                    }
                });
            }
            ("fallthrough", _) => fallthrough = args::fallthrough(option)?,
            _ => return unknown("secondary", option),
        }
    }
    if from.is_empty() {
        return err(&d.name, "'secondary' needs a line 'transfer from ADDRESS...'");
    }
    if setup.earlier::<Secondary>().is_none() {
        setup.add(Secondary::default());
    }
    let Some(secondary) = setup.earlier::<Secondary>() else { return Ok(()) };
    for zone in zones {
        // The last line of a zone counts.
        secondary.entries.retain(|entry| entry.origin != zone);
        let catalog = catalog.clone().map(Catalog::new);
        secondary.enter(Entry { catalog, ..Entry::new(zone, from.clone()) });
    }
    if let Some(zones) = fallthrough {
        secondary.fallthrough = zones;
    }
    Ok(())
}

impl Secondary {
    fn enter(&mut self, entry: Entry) {
        self.entries.push(Entry { tag: self.next, ..entry });
        self.next += 1;
    }

    fn entry(&self, origin: &Name) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.origin == *origin)
    }

    /// The entry with the longest zone around a name.
    fn longest(&self, name: &Name) -> Option<usize> {
        let around = self.entries.iter().enumerate().filter(|(_, entry)| name.is_within(&entry.origin));
        around.max_by_key(|(_, entry)| entry.origin.wire().len()).map(|(at, _)| at)
    }

    /// A zone came in; `false`: it will not do.
    fn take(&mut self, at: usize, zone: &Zone, cx: &mut Context<'_>) -> bool {
        let Some(entry) = self.entries.get(at) else { return false };
        entry.catalog.is_none() || self.list(&entry.origin.clone(), zone, cx)
    }
}

impl Entry {
    fn new(origin: Name, from: Vec<SocketAddr>) -> Self {
        Entry { tag: 0, origin, from, state: State::new(), job: None, catalog: None, member: None }
    }

    /// Something happened; what is to be done next is begun.
    fn step(&mut self, event: Event, notified: Option<IpAddr>, cx: &mut Context<'_>) {
        let random = cx.random();
        if let Some(action) = self.state.step(event, cx.now.monotonic, random) {
            self.job = Some(Job { action, at: 0, notified });
            self.ask(cx);
        }
    }

    /// Asks the primary whose turn it is; `false`: there is none left.
    fn ask(&self, cx: &mut Context<'_>) -> bool {
        let Some(job) = &self.job else { return false };
        let Some(to) = self.from.get(job.at) else { return false };
        // The server gives it its id.
        let (message, timeout) = match job.action {
            Action::AskSerial => (serial_query(&self.origin, 0), SERIAL),
            Action::Transfer => (Incoming::axfr(&self.origin, 0).1, MESSAGE),
        };
        // Over TCP, that nobody can put a word in.
        cx.ask(Ask { to: *to, via: Via::Tcp, message, timeout, tag: self.tag });
        true
    }

    /// In how long it is tried again, as Go says it.
    fn again(&self, cx: &Context<'_>) -> String {
        go_duration(self.state.due().unwrap_or_default().saturating_sub(cx.now.monotonic))
    }
}

/// The zone in a transfer's messages.
fn received(origin: &Name, messages: Vec<Message>) -> Result<Zone, String> {
    let id = messages.first().map_or(0, |message| message.id);
    let (mut incoming, _) = Incoming::axfr(origin, id);
    for message in messages {
        match incoming.take(message) {
            Ok(Step::Done(zone)) => return Ok(*zone),
            Ok(Step::More | Step::UpToDate) => {}
            Err(why) => return Err(why.to_string()),
        }
    }
    Err(TransferError::Truncated.to_string())
}

impl Plugin for Secondary {
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let name = &query.question().name;
        let Some(entry) = self.longest(name).and_then(|at| self.entries.get_mut(at)) else {
            return if cx.peers.is_last() { Flow::refuse(rcode::REFUSED) } else { Flow::Next };
        };
        let (now, origin) = (cx.now.monotonic, &entry.origin);
        if query.request.flags.opcode == OPCODE_NOTIFY {
            let client = query.client.ip().to_canonical();
            if !entry.from.iter().any(|from| from.ip().to_canonical() == client) {
                cx.log(format!("[INFO] plugin/secondary: Dropping notify from {client} for {origin}"));
                return Flow::Drop;
            }
            cx.log(format!("[INFO] plugin/secondary: Notify from {client} for {origin}: checking transfer"));
            entry.step(Event::Notified, Some(client), cx);
            let mut accepted = query.request.reply(rcode::NOERROR);
            accepted.flags = Flags { authoritative: true, ..accepted.flags };
            return Flow::Reply(accepted);
        }
        match entry.state.zone(now) {
            Some(zone) => answer::answer(&zone.clone(), &self.fallthrough, query, note),
            None => {
                if entry.state.expired(now) {
                    cx.log(format!("[ERROR] plugin/secondary: Zone {origin} is expired"));
                }
                Flow::refuse(rcode::SERVFAIL)
            }
        }
    }

    fn looked_up(&mut self, query: &mut Query, note: &mut Note, found: Message, _: &mut Context<'_>) -> Flow {
        answer::chased(query, note, found)
    }

    fn zones(&self, now: Now) -> Vec<Arc<Zone>> {
        self.entries.iter().filter_map(|entry| entry.state.zone(now.monotonic).cloned()).collect()
    }

    fn tick(&mut self, cx: &mut Context<'_>) -> Vec<Ask> {
        for entry in &mut self.entries {
            entry.step(Event::Tick, None, cx);
        }
        Vec::new()
    }

    fn told(&mut self, answer: Answer, cx: &mut Context<'_>) {
        // One of a catalog's may be gone by now.
        let Some(at) = self.entries.iter().position(|entry| entry.tag == answer.tag) else { return };
        let Some(entry) = self.entries.get_mut(at) else { return };
        let Some(job) = &mut entry.job else { return };
        let (action, notified, origin) = (job.action, job.notified, entry.origin.clone());
        job.at += 1;
        let from = answer.from;
        let failed = match (action, answer.result) {
            (_, Err(why)) => why,
            (Action::AskSerial, Ok(message)) => match serial_in(&message) {
                Some(serial) => {
                    let known = entry.state.zone(cx.now.monotonic).map(|zone| zone.serial());
                    entry.job = None;
                    entry.step(Event::Serial(Some(serial)), notified, cx);
                    if let (Some(client), Some(_), None) = (notified, known, &entry.job) {
                        cx.log(format!(
                            "[INFO] plugin/secondary: Notify from {client} for {origin}: no SOA serial increase seen"
                        ));
                    }
                    return;
                }
                None => format!("the primary answered {} and no SOA", rcode::name(message.rcode)),
            },
            (Action::Transfer, Ok(first)) => {
                let messages = std::iter::once(first).chain(answer.more).collect();
                match received(&origin, messages) {
                    Ok(zone) => {
                        entry.job = None;
                        let zone = self.take(at, &zone, cx).then(|| Arc::new(zone));
                        if zone.is_some() {
                            cx.log(format!("[INFO] plugin/secondary: Transferred: {origin} from {from}"));
                        }
                        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.tag == answer.tag) {
                            entry.step(Event::Transferred(zone), notified, cx);
                        }
                        return;
                    }
                    Err(why) => why,
                }
            }
        };
        if action == Action::Transfer {
            cx.log(format!(
                "[ERROR] plugin/secondary: Failed to transfer `{origin}' from \"{from}\": {failed}"
            ));
        }
        if entry.ask(cx) {
            return;
        }
        entry.job = None;
        let (event, what) = match action {
            Action::AskSerial => (Event::Serial(None), "give their serial"),
            Action::Transfer => (Event::Transferred(None), "transfer"),
        };
        entry.step(event, notified, cx);
        let again = entry.again(cx);
        cx.log(format!(
            "[WARNING] plugin/secondary: All '{origin}' masters failed to {what}, retrying in {again}: {failed}"
        ));
    }
}
