//! The state machine behind a lock, and the tasks that carry out what it asks for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sealane_dns::chain::ServerAddress;
use sealane_dns::prepared::{Changed, Preparation};
use sealane_dns::{Config, Effect, Event, Now, Pending, Relay, Server, Transport};
use tokio::sync::{mpsc, oneshot, watch};

use crate::outgoing::Outgoing;
use crate::panics::{self, Caught};
use crate::spans::Collectors;
use crate::tap::Taps;
use crate::upstream::Upstreams;
use crate::{LogSink, Settings, files, machine};

/// What all tasks share. The lock is held for one step, never across an await.
pub(crate) struct Shared {
    server: Mutex<Server>,
    start: Instant,
    log: LogSink,
    fatal: mpsc::UnboundedSender<String>,
    /// Whether the server is about to end.
    ending: AtomicBool,
    /// The number of the last change.
    changes: AtomicU64,
    recent: Mutex<Recent>,
    /// Listeners that count for themselves, and are asked for what they have.
    counting: Mutex<Vec<mpsc::UnboundedSender<oneshot::Sender<()>>>>,
    pub(crate) upstreams: Upstreams,
    pub(crate) taps: Taps,
    pub(crate) collectors: Collectors,
}

/// The last changes of what prepared answers are made from, each with its number, and the SOA's serial number.
#[derive(Default)]
struct Recent {
    changes: VecDeque<(u64, Changed)>,
    serial: u32,
}

/// What comes of a client's datagram.
pub(crate) enum Came {
    /// It goes on as it is.
    Goes(Box<Relay>),
    /// Effects, and how the answer may be kept.
    Stepped(Vec<Effect>, Option<Preparation>),
}

/// Changes that are remembered; who missed more forgets everything.
const RECENT: usize = 1024;
/// A listener that is busy has so long to say what it counted.
const COUNTED: Duration = Duration::from_millis(250);

impl Shared {
    pub(crate) fn new(config: Config, settings: &Settings) -> (Arc<Self>, mpsc::UnboundedReceiver<String>) {
        let (fatal, receiver) = mpsc::unbounded_channel();
        let start = Instant::now();
        let server = Server::new(config, local(settings), now(start.elapsed()));
        let (server, log) = (Mutex::new(server), settings.log.clone());
        let shared = Shared {
            server,
            start,
            log,
            fatal,
            ending: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            recent: Mutex::default(),
            counting: Mutex::default(),
            upstreams: Upstreams::default(),
            taps: Taps::default(),
            collectors: Collectors::default(),
        };
        (Arc::new(shared), receiver)
    }

    pub(crate) fn now(&self) -> Now {
        now(self.elapsed())
    }

    /// Since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// A moment that is now, or was a moment ago.
    pub(crate) fn now_at(&self, moment: Instant) -> Now {
        now(moment.saturating_duration_since(self.start))
    }

    pub(crate) fn log(&self, line: &str) {
        (self.log)(line);
    }

    /// Another configuration runs: what the machine is now, and the configuration's hash, where `reload` is on.
    pub(crate) fn running(&self, settings: &Settings, hash: Option<&str>) {
        self.server(|server| {
            server.set_hostname(&machine::hostname());
            server.set_local(local(settings));
            server.running(hash.unwrap_or_default());
        });
    }

    /// The server is about to end: it is not ready for more.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// What plugins have held back is said.
    pub(crate) fn stop(self: &Arc<Self>) {
        let now = self.now();
        for effect in self.server(|server| server.stop(now)) {
            self.detach(effect);
        }
    }

    pub(crate) fn ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    pub(crate) fn server<T>(&self, f: impl FnOnce(&mut Server) -> T) -> T {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let result = f(&mut server);
        if let Some((changed, serial)) = server.changed() {
            self.publish(changed, serial);
        }
        result
    }

    pub(crate) fn step(&self, event: Event<'_>) -> Vec<Effect> {
        let now = self.now();
        self.caught(event, |server, event| server.step(event, now))
    }

    fn caught<'a>(
        &self,
        event: Event<'a>,
        step: impl FnOnce(&mut Server, Event<'a>) -> Vec<Effect>,
    ) -> Vec<Effect> {
        let query = match &event {
            Event::Query { server, bytes, .. } | Event::Traced { server, bytes, .. } => {
                Some((*server, *bytes))
            }
            _ => None,
        };
        self.guarded(query, |server| step(server, event)).unwrap_or_else(|effects| effects)
    }

    /// What panics costs one query, not the server; and that has these effects.
    fn guarded<T>(
        &self,
        query: Option<(ServerAddress, &[u8])>,
        f: impl FnOnce(&mut Server) -> T,
    ) -> Result<T, Vec<Effect>> {
        panics::catch(|| self.server(f))
            .map_err(|Caught { what, place }| self.server(|server| server.panicked(query, &what, &place)))
    }

    /// What comes of a client's datagram.
    pub(crate) fn datagram(&self, at: ServerAddress, client: SocketAddr, bytes: &[u8], now: Now) -> Came {
        let came = self.guarded(Some((at, bytes)), |server| {
            if let Some(relay) = server.relay((at, client), bytes, now) {
                return Came::Goes(relay);
            }
            let event = Event::Query { server: at, transport: Transport::Udp, client, bytes };
            let effects = server.step(event, now);
            Came::Stepped(effects, server.preparation())
        });
        came.unwrap_or_else(|effects| Came::Stepped(effects, None))
    }

    /// The answer to a question that went on as it came: it is made the client's, or it has effects.
    pub(crate) fn relayed(
        &self,
        relay: Box<Relay>,
        answer: &mut Vec<u8>,
        now: Now,
    ) -> Result<(), Vec<Effect>> {
        self.guarded(None, |server| {
            let relayed = server.relayed(relay, answer, now);
            let step = |pending| server.step(Event::Answer { pending, bytes: answer }, afresh(now));
            relayed.map_err(step)
        })?
    }

    /// A question that went on as it came, for the general path.
    pub(crate) fn walk(&self, relay: Box<Relay>) -> Box<Pending> {
        self.server(|server| server.walk(relay))
    }

    /// While the server is still held: an answer of its new state comes after the news.
    fn publish(&self, changed: Changed, serial: u32) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.changes.load(Ordering::Relaxed) + 1;
        recent.changes.push_back((number, changed));
        if recent.changes.len() > RECENT {
            recent.changes.pop_front();
        }
        recent.serial = serial;
        self.changes.store(number, Ordering::Release);
    }

    /// What changed since the change of this number, the SOA's serial number, and the number of the last one. `None`:
    /// nothing, which costs one read.
    pub(crate) fn changes(&self, seen: u64) -> Option<(Changed, u32, u64)> {
        let last = self.changes.load(Ordering::Acquire);
        if last == seen {
            return None;
        }
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let last = recent.changes.back().map_or(last, |(number, _)| *number);
        let missed = recent.changes.front().is_none_or(|(number, _)| *number > seen + 1);
        let new =
            recent.changes.iter().filter(|(number, _)| *number > seen).map(|(_, changed)| changed.clone());
        let all = if missed { Changed::All } else { new.reduce(Changed::and).unwrap_or(Changed::All) };
        Some((all, recent.serial, last))
    }

    /// A listener counts for itself: it is sent a sender when somebody wants to know, and drops it when it has told.
    pub(crate) fn counts(&self, asks: mpsc::UnboundedSender<oneshot::Sender<()>>) {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner).push(asks);
    }

    /// The metrics page, with what listeners have counted.
    pub(crate) async fn metrics(&self) -> String {
        let asked: Vec<oneshot::Receiver<()>> = {
            let mut counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
            counting.retain(|asks| !asks.is_closed());
            let ask = |asks: &mpsc::UnboundedSender<oneshot::Sender<()>>| {
                let (done, told) = oneshot::channel();
                asks.send(done).ok().map(|()| told)
            };
            counting.iter().filter_map(ask).collect()
        };
        for told in asked {
            // It is told by being dropped. A listener that hangs holds the page up for a moment only.
            let _ = tokio::time::timeout(COUNTED, told).await;
        }
        let mut text = String::new();
        self.server(|server| server.render_metrics(&mut text));
        self.taps.render(&mut text);
        self.collectors.render(&mut text);
        text
    }

    /// A step whose effects nobody waits for.
    pub(crate) fn background(self: &Arc<Self>, event: Event<'_>) {
        for effect in self.step(event) {
            self.detach(effect);
        }
    }

    /// Carries out what nobody waits for.
    pub(crate) fn detach(self: &Arc<Self>, effect: Effect) {
        match effect {
            Effect::Log(line) => self.log(&line),
            Effect::Fatal(why) => {
                // The receiver is gone only when the server is ending anyway.
                let _ = self.fatal.send(why);
            }
            waits @ (Effect::Ask { .. } | Effect::Wait { .. }) => {
                let shared = self.clone();
                tokio::spawn(async move {
                    shared.carry_out(vec![waits]).await;
                });
            }
            Effect::Show(tap, message) => self.taps.show(&tap, message, &self.log),
            Effect::Trace(tracer, spans) => self.collectors.send(&tracer, spans, &self.log),
            Effect::Write(file) => {
                let shared = self.clone();
                tokio::task::spawn_blocking(move || {
                    let line = match files::write(&file) {
                        Ok(()) => file.written,
                        Err(error) => format!("{}: {error}", file.failed),
                    };
                    shared.log(&line);
                });
            }
            Effect::Reply(_) => {}
        }
    }

    /// Carries out a query's effects; the reply's messages, where there is one.
    pub(crate) async fn carry_out(self: &Arc<Self>, effects: Vec<Effect>) -> Vec<Vec<u8>> {
        let (mut effects, mut reply) = (effects, Vec::new());
        loop {
            let mut next = None;
            let alone = effects.len() == 1;
            for effect in effects {
                match effect {
                    Effect::Reply(bytes) => reply.push(bytes),
                    waits if next.is_none() && (has_client(&waits) || alone && waits_for(&waits)) => {
                        next = Some(waits)
                    }
                    other => self.detach(other),
                }
            }
            effects = match next {
                Some(Effect::Ask { upstream: to, via, message, timeout, keeping, mut pending }) => {
                    let outgoing = Outgoing { to, via: &via, message: &message, timeout, keeping };
                    if pending.is_transfer() {
                        effects = match self.upstreams.transfer(&outgoing).await {
                            Ok(messages) => self.step(Event::Transferred { pending, messages: &messages }),
                            Err(error) => self.step(Event::Failed { pending, why: error.to_string() }),
                        };
                        continue;
                    }
                    let (answer, way) = self.upstreams.exchange(&outgoing).await;
                    pending.went_over(way.kept);
                    pending.came_from(way.local);
                    match answer {
                        Ok(bytes) => self.step(Event::Answer { pending, bytes: &bytes }),
                        Err(error) => self.step(Event::Failed { pending, why: error.to_string() }),
                    }
                }
                Some(Effect::Wait { time, pending }) => {
                    tokio::time::sleep(time).await;
                    self.step(Event::Waited(pending))
                }
                Some(_) | None => return reply,
            };
        }
    }

    /// Gives queries up that there is no room to wait for.
    pub(crate) fn abandon(self: &Arc<Self>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Ask { pending, .. } => self.crowded(pending),
                // Nobody waits for what follows.
                Effect::Wait { pending, .. } => {
                    let next = self.step(Event::Waited(pending));
                    self.abandon(next);
                }
                other => self.detach(other),
            }
        }
    }

    /// The same with one that was about to go on as it came.
    pub(crate) fn abandon_relay(self: &Arc<Self>, relay: Box<Relay>) {
        self.crowded(self.walk(relay));
    }

    fn crowded(self: &Arc<Self>, pending: Box<Pending>) {
        // Asked again at the next upstream, and so on: there is a bounded number of them.
        let why = "too many queries wait for upstreams".to_owned();
        let next = self.step(Event::Failed { pending, why });
        self.abandon(next);
    }

    /// The reply's messages, where they are at hand without waiting for anybody.
    pub(crate) fn at_once(self: &Arc<Self>, effects: Vec<Effect>) -> Result<Vec<Vec<u8>>, Vec<Effect>> {
        if effects.iter().any(has_client) {
            return Err(effects);
        }
        let mut reply = Vec::new();
        for effect in effects {
            match effect {
                Effect::Reply(bytes) => reply.push(bytes),
                other => self.detach(other),
            }
        }
        Ok(reply)
    }
}

/// Whether something comes back.
fn waits_for(effect: &Effect) -> bool {
    matches!(effect, Effect::Ask { .. } | Effect::Wait { .. })
}

/// Whether a client waits for what this waits for.
fn has_client(effect: &Effect) -> bool {
    match effect {
        Effect::Ask { pending, .. } | Effect::Wait { pending, .. } => pending.has_client(),
        Effect::Reply(_)
        | Effect::Log(_)
        | Effect::Fatal(_)
        | Effect::Write(_)
        | Effect::Show(..)
        | Effect::Trace(..) => false,
    }
}

/// The addresses that clients reach the server at.
fn local(settings: &Settings) -> Vec<IpAddr> {
    if settings.local.is_empty() { machine::addresses() } else { settings.local.clone() }
}

fn now(monotonic: Duration) -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { monotonic, unix: unix.as_secs(), nanos: unix.subsec_nanos(), random: random() }
}

/// The same moment for another step.
pub(crate) fn afresh(now: Now) -> Now {
    Now { random: random(), ..now }
}

/// Octets of the kernel's, fetched by the page: a system call for each step costs as much as the step.
const PAGE: usize = 256;

thread_local! {
    /// What this thread has fetched, and how much of it is used.
    static FETCHED: RefCell<([u8; PAGE], usize)> = const { RefCell::new(([0; PAGE], PAGE)) };
}

fn random() -> u64 {
    FETCHED.with_borrow_mut(|(page, used)| {
        if *used + 8 > PAGE {
            // getrandom of 256 octets is never short, and fails only on kernels before 3.17.
            let _ = rustix::rand::getrandom(&mut *page, rustix::rand::GetRandomFlags::empty());
            *used = 0;
        }
        let mut bytes = [0; 8];
        // None is handed out twice, nor left to be read.
        bytes.copy_from_slice(&page[*used..*used + 8]);
        page[*used..*used + 8].fill(0);
        *used += 8;
        u64::from_ne_bytes(bytes)
    })
}

/// Returns when the listener is told to close.
pub(crate) async fn told(closed: &mut watch::Receiver<bool>) {
    // An error says that the other end is gone: so is the listener.
    let _ = closed.wait_for(|closed| *closed).await;
}

#[cfg(test)]
mod tests {
    use sealane_dns::message::rcode;
    use sealane_dns::{Message, Transport, decode, encode};

    use super::*;

    #[test]
    fn a_panic_costs_one_query() {
        let corefile = ".:53 {\n errors {\n  stacktrace\n }\n whoami\n}";
        let config = Config::parse("Corefile", corefile, &Default::default(), 53).unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (mut settings, sink) = (Settings::new("Corefile"), lines.clone());
        settings.log = Arc::new(move |line| sink.lock().unwrap().push(line.to_owned()));
        let (shared, _fatal) = Shared::new(config, &settings);
        let bytes = encode(&Message::query(7, "a.example".parse().unwrap(), 1), 512);
        let client = "192.0.2.1:53".parse().unwrap();
        let event = || Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: &bytes };
        let effects = shared.caught(event(), |_, _| panic!("so it goes"));
        let reply = shared.at_once(effects).unwrap();
        let reply = decode(&reply[0]).unwrap();
        assert_eq!((reply.id, reply.rcode, reply.questions.len()), (7, rcode::SERVFAIL, 1));
        let lines = lines.lock().unwrap();
        let line =
            "[ERROR] Recovered from panic in server: \"dns://:53\" so it goes\nio/dnsserver/src/shared.rs:";
        assert!(lines[0].starts_with(line), "{lines:?}");
        let reply = shared.at_once(shared.step(event())).unwrap();
        assert_eq!(decode(&reply[0]).unwrap().rcode, rcode::NOERROR);
    }
}
