//! Clients' questions that go on to upstreams as datagrams, without a task and a socket each: those of a batch leave
//! together, the listener's own thread takes the answers in and sends them to the clients, again together.
//!
//! An answer is believed by its question, its id and the port that it comes to, which nobody can foresee (RFC 5452
//! section 9.2). A socket of its own for each question is the best port, and costs more than all the rest of it
//! together. Here each batch leaves from one of a pool of sockets ([`POOL`], shared out among a listener's threads), taken
//! at random. To who knows none of them, a port is as unforeseeable as ever; who finds one out (by side channels, which
//! take seconds) has it right as seldom as the pool is large, and not for long: after [`LIFE`], or [`QUESTIONS`]
//! questions, another one takes its place. All are connected: the kernel drops what others than the upstream send.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{Error, ErrorKind, Result};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use sealane_dns::chain::Keeping;
use sealane_dns::{Effect, Event, Pending, Relay, Via};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::batch::{self, Batch, Peer};
use crate::fair;
use crate::mmsg::Inbox;
use crate::outgoing::{answers, any};
use crate::shared::Shared;

/// Sockets to one upstream, at most: all of a listener's threads together, …
const POOL: usize = 128;
/// … and each of them, where they are many.
const LEAST: usize = 32;
/// How long one is used, …
const LIFE: Duration = Duration::from_secs(10);
/// … and for how many questions.
const QUESTIONS: u32 = 2048;
/// Other sockets that are tried where an id is taken on one.
const TRIES: usize = 4;
/// Datagrams in a batch, at most: as many as the kernel cuts from one (UDP_MAX_SEGMENTS of older kernels).
const BATCH: usize = 64;
/// The longest datagram, octets.
const LONGEST: usize = 65_535;
/// Room for an answer that is kept for another one, octets at most.
const SPARE: usize = 4096;
/// Between two looks at who waits for too long.
const LOOK: Duration = Duration::from_millis(20);
/// In the poll: the clients' socket. Numbers of others begin with 1.
const CLIENTS: u64 = 0;

/// A client's question that waits for an upstream.
pub(crate) struct Question {
    query: Query,
    client: Client,
}

/// What it is to the state machine.
enum Query {
    /// It goes on as it came.
    Relayed(Box<Relay>),
    /// It takes the general path.
    Walks(Box<Walking>),
}

struct Walking {
    to: SocketAddr,
    source: Option<IpAddr>,
    message: Vec<u8>,
    timeout: Duration,
    pending: Box<Pending>,
}

impl Query {
    /// What the general path knows of it.
    fn walk(self, shared: &Shared) -> Box<Pending> {
        match self {
            Query::Relayed(relay) => shared.walk(relay),
            Query::Walks(walking) => walking.pending,
        }
    }
}

/// A listener's socket, for answers that come later. When nobody has it any more, nobody waits.
pub(crate) struct Door {
    pub(crate) socket: Arc<UdpSocket>,
    _left: oneshot::Sender<()>,
}

impl Door {
    /// The other end is told when nobody has it any more.
    pub(crate) fn new(socket: Arc<UdpSocket>) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (_left, all_left) = oneshot::channel();
        (Arc::new(Door { socket, _left }), all_left)
    }
}

/// Where an answer goes.
pub(crate) struct Client {
    pub(crate) door: Arc<Door>,
    pub(crate) peer: Peer,
    /// Its place among its client's, where `fairness` is on: it is free again when this is dropped.
    pub(crate) _place: Option<fair::Place>,
}

impl Question {
    /// What a query's effects come to, where that is one datagram to an upstream.
    pub(crate) fn of(
        mut effects: Vec<Effect>,
        client: Client,
    ) -> std::result::Result<Self, Box<(Vec<Effect>, Client)>> {
        let one = match effects.as_slice() {
            [Effect::Ask { via: Via::Udp, pending, .. }] => pending.has_client(),
            _ => false,
        };
        match effects.pop() {
            Some(Effect::Ask { upstream: to, message, timeout, keeping, pending, .. }) if one => {
                let walking = Walking { to, source: keeping.source, message, timeout, pending };
                Ok(Question { query: Query::Walks(Box::new(walking)), client })
            }
            last => {
                effects.extend(last);
                Err(Box::new((effects, client)))
            }
        }
    }

    /// A question that goes on as it came.
    pub(crate) fn relayed(relay: Box<Relay>, client: Client) -> Self {
        Question { query: Query::Relayed(relay), client }
    }

    /// What the general path would do, and for whom.
    fn walk(self, shared: &Shared) -> (Effect, Client) {
        let ((upstream, source), timeout) = (self.place(), self.timeout());
        let (message, pending) = match self.query {
            Query::Relayed(relay) => (relay.message.clone(), shared.walk(relay)),
            Query::Walks(walking) => (walking.message, walking.pending),
        };
        let keeping = Keeping { source, ..Keeping::default() };
        (Effect::Ask { upstream, via: Via::Udp, message, timeout, keeping, pending }, self.client)
    }

    fn place(&self) -> Place {
        match &self.query {
            Query::Relayed(relay) => (relay.to, relay.source),
            Query::Walks(walking) => (walking.to, walking.source),
        }
    }

    fn timeout(&self) -> Duration {
        match &self.query {
            Query::Relayed(relay) => relay.timeout,
            Query::Walks(walking) => walking.timeout,
        }
    }

    fn message(&self) -> &[u8] {
        match &self.query {
            Query::Relayed(relay) => &relay.message,
            Query::Walks(walking) => &walking.message,
        }
    }

    fn id(&self) -> u16 {
        u16::from_be_bytes([0, 1].map(|at| self.message().get(at).copied().unwrap_or_default()))
    }

    fn went_over(&mut self, kept: bool) {
        match &mut self.query {
            Query::Relayed(relay) => relay.went_over(kept),
            Query::Walks(walking) => walking.pending.went_over(kept),
        }
    }
}

/// An upstream, and the address of ours that it is asked from.
type Place = (SocketAddr, Option<IpAddr>);

/// A socket, and who waits for what comes to it, by id.
struct Channel {
    socket: UdpSocket,
    place: Place,
    waiting: HashMap<u16, (Question, Instant), BuildHasherDefault<Id>>,
    /// None of them is given up before.
    patient: Instant,
    born: Instant,
    asked: u32,
    /// Nothing more is asked over it.
    retired: bool,
}

/// Ids are random, and nobody else's choice: they are their own hashes. The upper bits count, too.
#[derive(Default)]
struct Id(u64);

impl Hasher for Id {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for octet in bytes {
            self.0 = self.0 << 8 | u64::from(*octet);
        }
    }

    fn write_u16(&mut self, id: u16) {
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[derive(Default)]
struct Channels {
    /// To one upstream, at most.
    pool: usize,
    /// By number, which is never given twice.
    all: HashMap<u64, Channel>,
    pools: HashMap<Place, Vec<u64>>,
    last: u64,
    batch: batch::Questions,
    /// Questions that wait.
    under_way: usize,
}

/// A listener's questions under way, and the sockets that they left from: its thread's alone.
pub(crate) struct Datagrams {
    shared: Arc<Shared>,
    channels: Channels,
    /// Of those sockets, and of the clients' as soon as something is under way.
    poll: Option<OwnedFd>,
    clients: bool,
    intake: Intake,
    looked: Instant,
    /// Others have waited for too long, too.
    more_late: bool,
}

/// What came of a question.
type Outcome = (Question, Result<Vec<u8>>);

impl Datagrams {
    /// For one of so many threads of a listener.
    pub(crate) fn new(shared: Arc<Shared>, threads: usize) -> Self {
        Datagrams {
            shared,
            channels: Channels { pool: (POOL / threads.max(1)).max(LEAST), ..Channels::default() },
            poll: epoll::create(epoll::CreateFlags::CLOEXEC).ok(),
            clients: false,
            intake: Intake { inbox: Inbox::connected(BATCH, LONGEST), spare: Vec::new() },
            looked: Instant::now(),
            more_late: false,
        }
    }

    /// Sends questions. For those that cannot go this way, there being no socket for them, a task cares.
    pub(crate) fn send(&mut self, questions: &mut Vec<Question>) {
        let (mut back, mut failed) = (Vec::new(), Vec::new());
        let mut by_place: Vec<(Place, Vec<Question>)> = Vec::new();
        for waiting in questions.drain(..) {
            let place = waiting.place();
            match by_place.iter_mut().find(|(other, _)| *other == place) {
                Some((_, list)) => list.push(waiting),
                None => by_place.push((place, vec![waiting])),
            }
        }
        for (place, mut waiting) in by_place {
            while !waiting.is_empty() {
                let rest = waiting.split_off(waiting.len().min(BATCH));
                let (random, not_sent) = (self.shared.now().random, (&mut back, &mut failed));
                self.channels.send(self.poll.as_ref(), place, waiting, random, not_sent);
                waiting = rest;
            }
        }
        for (message, door, peer) in self.settle(failed) {
            batch::send(&door.socket, message, peer);
        }
        for waiting in back {
            carry_out_alone(&self.shared, waiting);
        }
    }

    /// How many questions wait for their answers.
    pub(crate) fn under_way(&self) -> usize {
        self.channels.under_way
    }

    /// Waits until an upstream answers, a client asks, or [`LOOK`] is over; hands answers on, about a batch of them.
    /// Whether a client asks, and how many answers there were.
    pub(crate) fn wait(&mut self, clients: Option<&UdpSocket>, batch: &mut Batch) -> (bool, usize) {
        let Some(poll) = self.poll.as_ref() else { return (true, 0) };
        if let Some(clients) = clients.filter(|_| !self.clients) {
            let data = epoll::EventData::new_u64(CLIENTS);
            self.clients = epoll::add(poll, clients, data, epoll::EventFlags::IN).is_ok();
        }
        let mut room = [const { MaybeUninit::uninit() }; BATCH];
        let wait = if self.more_late { Duration::ZERO } else { LOOK };
        let wait = rustix::time::Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        // A signal ends it early, and that is all.
        let events = epoll::wait(poll, &mut room, Some(&wait)).map_or(&mut [][..], |(events, _)| events);
        // Where there is no room for all that is ready, clients may be among the rest.
        let unseen = !self.clients || events.len() == BATCH;
        let (mut ask, mut outcomes) = (clients.is_some() && unseen, Vec::new());
        for event in events {
            match event.data.u64() {
                CLIENTS => ask = true,
                // What is beyond is for the next time: clients have their turn as often.
                _ if outcomes.len() >= batch::BATCH => {}
                number => self.channels.receive(number, &mut self.intake, &mut outcomes),
            }
        }
        self.look(Instant::now(), &mut outcomes);
        let came = outcomes.len();
        let replies = self.settle(outcomes);
        reply(replies, batch, &mut self.intake.spare);
        (ask, came)
    }

    /// Nothing is under way: what was used for long enough is let go.
    pub(crate) fn rest(&mut self, now: Instant) {
        self.look(now, &mut Vec::new());
    }

    fn look(&mut self, now: Instant, out: &mut Vec<Outcome>) {
        if self.more_late || now.duration_since(self.looked) >= LOOK {
            self.looked = now;
            self.more_late = self.channels.look(now, out);
        }
    }

    /// The listener is told to close: what is under way comes to its end on a thread of its own.
    pub(crate) fn end(mut self, clients: &UdpSocket) {
        if let Some(poll) = self.poll.as_ref().filter(|_| self.clients) {
            // Where it is not there, nothing comes of it.
            let _ = epoll::delete(poll, clients);
        }
        if self.under_way() == 0 {
            return;
        }
        let (shared, runtime) = (self.shared.clone(), Handle::current());
        let run = move || {
            let (_runtime, mut batch) = (runtime.enter(), Batch::new());
            while self.under_way() > 0 {
                self.wait(None, &mut batch);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("dns-upstreams".to_owned()).spawn(run) {
            shared.log(&format!("[ERROR] DNS has no thread for upstreams: {error}"));
        }
    }

    /// Hands outcomes to the state machine: what it says to the clients.
    fn settle(&mut self, outcomes: Vec<Outcome>) -> Vec<Reply> {
        if outcomes.is_empty() {
            return Vec::new();
        }
        let shared = self.shared.clone();
        let now = shared.now();
        let (mut again, mut replies) = (Vec::new(), Vec::with_capacity(outcomes.len()));
        for (waiting, outcome) in outcomes {
            let Question { query, client } = waiting;
            let effects = match (query, outcome) {
                (Query::Relayed(relay), Ok(mut bytes)) => match shared.relayed(relay, &mut bytes, now) {
                    Ok(()) => {
                        replies.push((bytes, client.door, client.peer));
                        continue;
                    }
                    Err(effects) => effects,
                },
                (Query::Walks(walking), Ok(bytes)) => {
                    shared.step(Event::Answer { pending: walking.pending, bytes: &bytes })
                }
                (query, Err(error)) => {
                    let pending = query.walk(&shared);
                    shared.step(Event::Failed { pending, why: error.to_string() })
                }
            };
            match shared.at_once(effects) {
                Ok(messages) => replies
                    .extend(messages.into_iter().map(|message| (message, client.door.clone(), client.peer))),
                Err(effects) => match Question::of(effects, client) {
                    Ok(waiting) => again.push(waiting),
                    Err(other) => carry_out(&shared, other.0, other.1),
                },
            }
        }
        if !again.is_empty() {
            self.send(&mut again);
        }
        replies
    }
}

impl Channels {
    /// Up to a batch of questions to one upstream leave from one socket, but for those whose id is taken there: they
    /// leave from another one.
    fn send(
        &mut self,
        poll: Option<&OwnedFd>,
        place: Place,
        mut questions: Vec<Question>,
        random: u64,
        (back, failed): (&mut Vec<Question>, &mut Vec<Outcome>),
    ) {
        let now = Instant::now();
        for attempt in 0..TRIES {
            let random = random.rotate_left(16 * attempt as u32);
            let Some((number, kept)) = poll.and_then(|poll| self.channel(poll, place, random, now)) else {
                break;
            };
            let Some(channel) = self.all.get_mut(&number) else { break };
            let mut ids = Vec::with_capacity(questions.len());
            let taken = questions.extract_if(.., |one| {
                let id = one.id();
                let taken = ids.contains(&id) || channel.waiting.contains_key(&id);
                ids.push(id);
                taken
            });
            let rest = taken.collect();
            let (more, less) = channel.send(&mut self.batch, (questions, kept), now, failed);
            self.under_way = self.under_way + more - less;
            questions = rest;
            if questions.is_empty() {
                return;
            }
        }
        back.extend(questions);
    }

    /// One of the sockets to an upstream, and whether it was there already.
    fn channel(&mut self, poll: &OwnedFd, place: Place, random: u64, now: Instant) -> Option<(u64, bool)> {
        let pool = self.pools.entry(place).or_default();
        let slot = (random % self.pool.max(1) as u64) as usize;
        if let Some(number) = pool.get(slot).copied()
            && let Some(channel) = self.all.get_mut(&number)
        {
            if channel.asked < QUESTIONS && now.duration_since(channel.born) < LIFE {
                return Some((number, true));
            }
            channel.retired = true;
        }
        self.last += 1;
        let number = self.last;
        match connect(place, poll, number) {
            Ok(socket) => {
                let channel = Channel {
                    socket,
                    place,
                    waiting: HashMap::default(),
                    patient: now,
                    born: now,
                    asked: 0,
                    retired: false,
                };
                self.all.insert(number, channel);
                match pool.get_mut(slot) {
                    Some(old) => *old = number,
                    None => pool.push(number),
                }
                Some((number, false))
            }
            // No more sockets for this process: those that there are must do.
            Err(_) => {
                let at = (random % pool.len().max(1) as u64) as usize;
                pool.get(at).filter(|number| self.all.contains_key(number)).map(|number| (*number, true))
            }
        }
    }

    /// Takes what has come to a socket.
    fn receive(&mut self, number: u64, intake: &mut Intake, out: &mut Vec<Outcome>) {
        let Some(channel) = self.all.get_mut(&number) else { return };
        if let Err(error) = intake.inbox.receive(&channel.socket, false) {
            if error.kind() == ErrorKind::ConnectionRefused {
                self.under_way -= refuse(channel, out);
            }
            return;
        }
        for answer in intake.inbox.datagrams().filter(|answer| answer.len() >= 2) {
            let id = u16::from_be_bytes([answer[0], answer[1]]);
            // What is not the answer is a stranger's, who guesses (RFC 5452 section 9.1).
            if !channel.waiting.get(&id).is_some_and(|(one, _)| answers(answer, one.message())) {
                continue;
            }
            if let Some((one, _)) = channel.waiting.remove(&id) {
                self.under_way -= 1;
                let mut octets = intake.spare.pop().unwrap_or_default();
                octets.clear();
                octets.extend_from_slice(answer);
                out.push((one, Ok(octets)));
            }
        }
    }

    /// Gives up who has waited for long enough, about a batch of them, since each may be asked for again at once; and
    /// closes sockets that are done. Whether more have waited for too long.
    fn look(&mut self, now: Instant, out: &mut Vec<Outcome>) -> bool {
        let mut more = false;
        for channel in self.all.values_mut().filter(|channel| channel.patient <= now) {
            let before = out.len();
            let room = batch::BATCH.saturating_sub(before);
            let late = channel.waiting.extract_if(|_, (_, deadline)| *deadline <= now).take(room);
            out.extend(
                late.map(|(_, (one, _))| (one, Err(Error::new(ErrorKind::TimedOut, "udp i/o timeout")))),
            );
            self.under_way -= out.len() - before;
            // Of those that are left.
            let earliest = channel.waiting.values().map(|(_, deadline)| *deadline).min();
            channel.patient = earliest.unwrap_or(now);
            more |= earliest.is_some_and(|earliest| earliest <= now);
        }
        let pools = &mut self.pools;
        self.all.retain(|number, channel| {
            let old = now.duration_since(channel.born) >= LIFE;
            let done = channel.waiting.is_empty() && (channel.retired || old);
            if done && let Some(pool) = pools.get_mut(&channel.place) {
                pool.retain(|other| other != number);
            }
            !done
        });
        pools.retain(|_, pool| !pool.is_empty());
        more
    }
}

impl Channel {
    /// Sends questions whose ids are free, over a socket that was there already or not: how many more wait now, and
    /// how many have learnt that nobody is there.
    fn send(
        &mut self,
        batch: &mut batch::Questions,
        (questions, kept): (Vec<Question>, bool),
        now: Instant,
        failed: &mut Vec<Outcome>,
    ) -> (usize, usize) {
        let messages: Vec<&[u8]> = questions.iter().map(Question::message).collect();
        let (mut sent, mut refused) = (batch.send(&self.socket, &messages), 0);
        if sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            // About what was sent before: that is over. This is asked all the same.
            refused = refuse(self, failed);
            sent = batch.send(&self.socket, &messages);
        }
        if let Err(error) = sent {
            let error = || Err(Error::new(error.kind(), error.to_string()));
            failed.extend(questions.into_iter().map(|one| (one, error())));
            return (0, refused);
        }
        self.asked += questions.len() as u32;
        let more = questions.len();
        for mut one in questions {
            let deadline = now + one.timeout();
            one.went_over(kept);
            self.patient = if self.waiting.is_empty() { deadline } else { self.patient.min(deadline) };
            self.waiting.insert(one.id(), (one, deadline));
        }
        (more, refused)
    }
}

/// Room for answers that come in.
struct Intake {
    inbox: Inbox,
    /// What earlier ones were in.
    spare: Vec<Vec<u8>>,
}

/// Nobody is there: all who wait learn of it; how many they were.
fn refuse(channel: &mut Channel, out: &mut Vec<Outcome>) -> usize {
    let before = out.len();
    let waiting = channel.waiting.drain();
    out.extend(waiting.map(|(_, (one, _))| (one, Err(Error::from(nix::errno::Errno::ECONNREFUSED)))));
    out.len() - before
}

fn connect((to, source): Place, poll: &OwnedFd, number: u64) -> Result<UdpSocket> {
    // The kernel picks a port that nobody can foresee.
    let socket = UdpSocket::bind((source.unwrap_or(any(to)), 0))?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    epoll::add(poll, &socket, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
    Ok(socket)
}

/// An answer on its way to its client.
type Reply = (Vec<u8>, Arc<Door>, Peer);

/// The answers, all through the one door that a listener has, as many as possible in one system call. What earlier
/// ones were in is spare then.
fn reply(mut replies: Vec<Reply>, batch: &mut Batch, spare: &mut Vec<Vec<u8>>) {
    let Some((_, door, _)) = replies.first() else { return };
    let door = door.clone();
    for (message, _, peer) in &mut replies {
        if !batch.put(message, *peer) {
            batch.send(&door.socket);
            batch.put(message, *peer);
        }
    }
    batch.send(&door.socket);
    let room = BATCH.saturating_sub(spare.len());
    spare.extend(replies.into_iter().map(|(old, ..)| old).filter(|old| old.capacity() <= SPARE).take(room));
}

/// The way of everything else: a task.
fn carry_out(shared: &Arc<Shared>, effects: Vec<Effect>, client: Client) {
    let shared = shared.clone();
    tokio::spawn(async move {
        for message in shared.carry_out(effects).await {
            batch::send(&client.door.socket, message, client.peer);
        }
    });
}

/// The same with a question that goes to its upstream from a socket of its own.
fn carry_out_alone(shared: &Arc<Shared>, waiting: Question) {
    let (ask, client) = waiting.walk(shared);
    carry_out(shared, vec![ask], client);
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_dns::{Config, Message, Now, Server, encode};

    /// A question that goes on, with this id at the upstream.
    fn question(server: &mut Server, id: u16, door: &Arc<Door>) -> Question {
        let bytes = encode(&Message::query(7, "a.example".parse().unwrap(), 1), 512);
        let now = Now { random: u64::from(id) << 7, ..Now::default() };
        let relay = server.relay((53.into(), "192.0.2.1:4242".parse().unwrap()), &bytes, now).unwrap();
        Question::relayed(relay, Client { door: door.clone(), peer: Peer::CONNECTED, _place: None })
    }

    #[test]
    fn questions_with_one_id_leave_from_several_sockets_and_are_given_up_in_time() {
        let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
        upstream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let to = upstream.local_addr().unwrap();
        let corefile = format!(".:53 {{\n forward . {to} {{\n read_timeout 700ms\n }}\n}}");
        let config = Config::parse("Corefile", &corefile, &Default::default(), 53).unwrap();
        let mut server = Server::new(config, Vec::new(), Now::default());
        let mut channels = Channels { pool: POOL, ..Channels::default() };
        let (door, mut left) = Door::new(Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap()));
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let (mut back, mut late) = (Vec::new(), Vec::new());
        let questions = [5, 9, 5].map(|id| question(&mut server, id, &door)).into();
        let begun = Instant::now();
        channels.send(Some(&poll), (to, None), questions, 0x0001_0002_0003_0004, (&mut back, &mut late));
        assert!(back.is_empty() && late.is_empty());
        assert_eq!((channels.under_way, channels.all.len()), (3, 2));
        let came: Vec<(u16, SocketAddr)> = (0..3)
            .map(|_| {
                let mut octets = [0; 512];
                let (_, from) = upstream.recv_from(&mut octets).unwrap();
                (u16::from_be_bytes([octets[0], octets[1]]), from)
            })
            .collect();
        let of = |id: u16| came.iter().filter(move |(other, _)| *other == id).map(|(_, from)| *from);
        assert_eq!((of(5).count(), of(9).count()), (2, 1), "{came:?}");
        assert_ne!(of(5).next(), of(5).nth(1), "{came:?}");
        channels.look(begun, &mut late);
        assert!(late.is_empty());
        channels.look(begun + Duration::from_secs(5), &mut late);
        assert!(late.iter().all(|(_, outcome)| outcome.as_ref().unwrap_err().kind() == ErrorKind::TimedOut));
        assert_eq!((channels.under_way, late.len()), (0, 3));
        drop(door);
        assert_eq!(left.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(late);
        assert_eq!(left.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
