//! A UDP listener: what is prepared goes back at once, the rest goes the general way.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use sealane_dns::Now;
use sealane_dns::chain::ServerAddress;
use sealane_dns::prepared::{Changed, Preparation, Prepared};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::backlog::{self, Backlog};
use crate::batch::{self, Batch, MANY, Peer};
use crate::datagrams::{Client, Datagrams, Door, Question};
use crate::fair::Fair;
use crate::shared::{Came, Shared, afresh};

/// A listener that has nothing to do looks about so often.
const LOOK: Duration = Duration::from_millis(50);

/// Full batches of clients' questions in a row, at most, before upstreams' answers have their turn: clients share one
/// queue, whose overflow is lost, answers come to many.
const CLIENTS_FIRST: u32 = 8;

/// From the moment on that a socket takes nothing in to the one when it has all.
const AFTER: Duration = Duration::from_millis(2);

/// What a socket has of what there is for all of its listener.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// For prepared answers, octets.
    pub(crate) room: usize,
    /// Queries that wait for upstreams, where they are shared out fairly.
    pub(crate) waiting: usize,
    /// Sockets that share the listener's place, each with a thread.
    pub(crate) threads: usize,
}

/// A UDP listener at work.
struct Udp {
    shared: Arc<Shared>,
    datagrams: Datagrams,
    server: ServerAddress,
    part: Part,
    door: Arc<Door>,
    tasks: JoinSet<()>,
    /// Of the batch at hand.
    forwarded: Vec<Question>,
    prepared: Prepared,
    /// Where `fairness` is on.
    fair: Option<Fair>,
    /// The changes that `prepared` knows.
    seen: u64,
    turn: u64,
    /// When the batch at hand came.
    now: Now,
    /// Time spent on queries, and how many there were, since they were counted.
    spent: (Duration, u32),
}

impl Udp {
    /// At the beginning, and who is told when nobody waits for its answers any more.
    fn new(
        shared: Arc<Shared>,
        socket: &Arc<UdpSocket>,
        (server, part): (ServerAddress, Part),
    ) -> (Self, oneshot::Receiver<()>) {
        let prepared = Prepared::new(part.room, shared.now().random);
        let (door, left) = Door::new(socket.clone());
        let udp = Udp {
            datagrams: Datagrams::new(shared.clone(), part.threads),
            shared,
            server,
            part,
            door,
            tasks: JoinSet::new(),
            forwarded: Vec::new(),
            prepared,
            fair: None,
            seen: 0,
            turn: 0,
            now: Now::default(),
            spent: (Duration::ZERO, 0),
        };
        (udp, left)
    }

    /// Takes a batch and answers it: how many there were.
    fn batch(&mut self, batch: &mut Batch, wait: bool) -> std::io::Result<usize> {
        let door = self.door.clone();
        let came = batch.receive(&door.socket, wait).inspect_err(|_| {
            if let Some(fair) = &mut self.fair {
                fair.look(&self.shared);
            }
        })?;
        let begun = Instant::now();
        self.now = self.shared.now_at(begun);
        self.prepared.clock(self.now.monotonic);
        if let Some(fair) = &mut self.fair {
            fair.batch(&self.shared, batch, came);
        }
        batch.answer(|query, client, peer, out| self.query(query, client, peer, out));
        batch.send(&door.socket);
        if !self.forwarded.is_empty() {
            self.datagrams.send(&mut self.forwarded);
        }
        self.spent.0 += begun.elapsed();
        self.spent.1 += u32::try_from(came).unwrap_or(u32::MAX);
        Ok(came)
    }

    /// Takes what waits, and answers none of it: who asked does not wait any more.
    fn let_go(&self, batch: &mut Batch) {
        for _ in 0..backlog::BATCHES {
            if batch.receive(&self.door.socket, false).is_err() {
                return;
            }
        }
    }

    /// Forgets what has changed.
    fn learn(&mut self) {
        if let Some((changed, serial, seen)) = self.shared.changes(self.seen) {
            self.prepared.changed(&changed, serial);
            self.seen = seen;
            if changed == Changed::All {
                // It may be the configuration.
                let fair = self.fair.take();
                self.fair =
                    Fair::renew(fair, &self.shared, self.server, self.part.waiting, &self.door.socket);
            }
        }
    }

    /// Answers a query, now (`true`) or later.
    fn query(&mut self, bytes: &[u8], client: SocketAddr, peer: &Peer, out: &mut Vec<u8>) -> bool {
        if self.fair.as_mut().is_some_and(|fair| !fair.admits(client.ip())) {
            return false;
        }
        // News that come within a batch are for the rest of it: the next one may be half a millisecond away.
        self.learn();
        // Not one by one: a client that asks for A and AAAA in turns would meet the same order of either each time
        // (Knuth's MMIX generator, of which the upper bits are good).
        self.turn = self.turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if self.prepared.answer(bytes, client.is_ipv4(), (self.turn >> 33) as usize, out) {
            return true;
        }
        let came = self.shared.datagram(self.server, client, bytes, afresh(self.now));
        if let Some(fair) = &mut self.fair {
            fair.was_dear();
        }
        let effects = match came {
            Came::Goes(relay) => {
                match self.waits(client, peer) {
                    Some(client) => self.forwarded.push(Question::relayed(relay, client)),
                    None => self.shared.abandon_relay(relay),
                }
                return false;
            }
            Came::Stepped(effects, preparation) => match self.shared.at_once(effects) {
                Ok(mut reply) => {
                    let Some(message) = reply.pop() else { return false };
                    if let Some(preparation) = preparation {
                        self.keep(bytes, &message, preparation);
                    }
                    *out = message;
                    return true;
                }
                Err(effects) => effects,
            },
        };
        let Some(client) = self.waits(client, peer) else {
            self.shared.abandon(effects);
            return false;
        };
        match Question::of(effects, client) {
            Ok(waiting) => self.forwarded.push(waiting),
            Err(other) => {
                let (shared, (effects, client)) = (self.shared.clone(), *other);
                self.tasks.spawn(async move {
                    for message in shared.carry_out(effects).await {
                        batch::send(&client.door.socket, message, client.peer);
                    }
                });
            }
        }
        false
    }

    /// Keeps an answer. What it was made from may have changed since, and that may be known here already by the time it
    /// is kept: so what is known stays what it was before it was made, and the next question learns the rest.
    fn keep(&mut self, question: &[u8], answer: &[u8], preparation: Preparation) {
        self.prepared.keep(question, answer, preparation);
    }

    /// This client is to wait for upstreams; where they are shared out fairly, if there is a place for it.
    fn waits(&mut self, client: SocketAddr, peer: &Peer) -> Option<Client> {
        let place = match &mut self.fair {
            Some(fair) => Some(fair.place(client.ip())?),
            None => None,
        };
        Some(Client { door: self.door.clone(), peer: *peer, _place: place })
    }

    /// Counts what was handed out.
    fn count(&mut self) {
        if let Some(fair) = &mut self.fair {
            fair.report(&self.shared, true);
        }
        let served = self.prepared.served();
        let (spent, queries) = std::mem::take(&mut self.spent);
        if !served.is_empty() {
            let each = spent / queries.max(1);
            self.shared.server(|server| server.served(&served, each));
        }
    }
}

/// Serves a socket on a thread of its own until the listener is told to close, and what has come in by then; `taking`
/// goes when that is in.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    server: ServerAddress,
    part: Part,
    (closed, taking): (watch::Receiver<bool>, oneshot::Sender<()>),
) {
    let (ended, end) = oneshot::channel();
    let (of_thread, runtime, bound) = (shared.clone(), Handle::current(), socket.clone());
    let dropped = Arc::new(AtomicBool::new(false));
    let seen = dropped.clone();
    let run = move || {
        // What waits for upstreams runs there.
        let _runtime = runtime.enter();
        let log = of_thread.clone();
        let tasks = listen(of_thread, &bound, (server, part), (&closed, &seen)).unwrap_or_else(|error| {
            log.log(&format!("[ERROR] DNS over UDP, {server}: {error}"));
            JoinSet::new()
        });
        drop(bound);
        // Nobody waits where the listener was dropped.
        let _ = ended.send(tasks);
    };
    let thread = match std::thread::Builder::new().name(format!("dns-udp-{}", server.port)).spawn(run) {
        Ok(thread) => Some(thread),
        Err(error) => {
            shared.log(&format!("[ERROR] DNS over UDP, {server} has no thread: {error}"));
            None
        }
    };
    let mut guard = Thread { socket, thread, dropped };
    if let Ok(mut tasks) = end.await {
        // It is through, and its socket may be wanted again: nothing more is done to that.
        if let Some(thread) = guard.thread.take() {
            let _ = thread.join();
        }
        drop(taking);
        while tasks.join_next().await.is_some() {}
    }
}

/// A listener's thread. Where the listener is dropped, its port is free.
struct Thread {
    socket: Arc<UdpSocket>,
    dropped: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.dropped.store(true, Ordering::Relaxed);
        if !thread.is_finished() {
            batch::wake(&self.socket);
        }
        // It has logged why it ended, or has a batch to finish.
        let _ = thread.join();
    }
}

/// What still waits for upstreams, when the listener was told to close.
fn listen(
    shared: Arc<Shared>,
    socket: &Arc<UdpSocket>,
    at: (ServerAddress, Part),
    (closed, dropped): (&watch::Receiver<bool>, &AtomicBool),
) -> std::io::Result<JoinSet<()>> {
    batch::prepare(socket, LOOK)?;
    batch::sleep_exactly();
    let (asks, mut asked) = mpsc::unbounded_channel();
    shared.counts(asks);
    let (mut udp, left) = Udp::new(shared, socket, at);
    let (mut batch, mut backlog) = (Batch::new(), Backlog::new(Instant::now()));
    let mut in_a_row = 0;
    while !*closed.borrow() && !dropped.load(Ordering::Relaxed) {
        // Where upstreams are waited for, clients are beside them; or before them, while theirs is a long queue.
        let alone = udp.datagrams.under_way() == 0;
        let clients_only = alone || in_a_row > 0;
        let (ask, answered) =
            if clients_only { (true, 0) } else { udp.datagrams.wait(Some(socket), &mut batch) };
        // An error is an ICMP message about an earlier answer, or says that nothing came: it is no query's.
        let came = if ask { udp.batch(&mut batch, alone).unwrap_or(0) } else { 0 };
        in_a_row = if came == batch::BATCH && in_a_row + 1 < CLIENTS_FIRST { in_a_row + 1 } else { 0 };
        let now = Instant::now();
        if alone {
            udp.datagrams.rest(now);
        }
        if let Some(room) = backlog.answered(came, came >= MANY, now) {
            // Where the kernel does not take it, it is as it was.
            let _ = sockopt::set_socket_recv_buffer_size(socket, room);
            if room < backlog::MOST {
                udp.let_go(&mut batch);
            }
        }
        if came.max(answered) >= MANY {
            std::thread::sleep(batch::GATHER);
        }
        // Whoever asks goes on when the other end is dropped.
        if let Ok(_done) = asked.try_recv() {
            udp.count();
        }
        // Finished tasks are let go as we pass.
        while udp.tasks.try_join_next().is_some() {}
    }
    if dropped.load(Ordering::Relaxed) {
        return Ok(udp.tasks);
    }
    close(socket);
    // One that the kernel had given to this socket before may come a moment after.
    for wait in [Duration::ZERO, AFTER] {
        std::thread::sleep(wait);
        loop {
            match udp.batch(&mut batch, false) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => {}
            }
        }
    }
    udp.count();
    let Udp { mut tasks, door, datagrams, .. } = udp;
    drop(door);
    datagrams.end(socket);
    // It ends with an error, when nothing waits any more.
    tasks.spawn(async move { drop(left.await) });
    Ok(tasks)
}

/// Connected to itself a socket takes nothing more in: who asks now is told by ICMP that nobody is here, or comes to
/// another that has the place. Answers name the address that they come from where the socket has all of them.
fn close(socket: &UdpSocket) {
    let Ok(mut own) = socket.local_addr() else { return };
    if own.ip().is_unspecified() {
        own.set_ip(if own.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    // Without it some may get lost, which have no other to go to.
    let _ = socket.connect(own);
}

#[cfg(test)]
mod tests {
    use sealane_api::Object;
    use sealane_catalog::{Builder, Event as Seen, Source};
    use sealane_dns::message::Data;
    use sealane_dns::{Config, Event, Message, decode, encode};

    use super::*;
    use crate::Settings;

    const SOURCES: [Source; 3] = [Source::Services, Source::EndpointSlices, Source::Namespaces];

    /// A headless Service's endpoint is at this address now.
    fn moves(builder: &mut Builder, shared: &Shared, address: [u8; 4]) {
        let slice = serde_json::json!({"metadata": {"namespace": "default", "name": "web-x",
            "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"port": 80}], "endpoints": [{"addresses": [Ipv4Addr::from(address).to_string()]}]});
        builder.apply(Seen::Applied(Source::EndpointSlices, Object::new(slice)));
        assert!(shared.step(Event::Snapshot(builder.publish().0)).is_empty());
    }

    #[test]
    fn a_change_that_comes_between_an_answer_and_its_keeping_is_learnt() {
        let config =
            Config::parse("Corefile", ".:53 {\n kubernetes cluster.local\n}", &Default::default(), 53);
        let (shared, _fatal) = Shared::new(config.unwrap(), &Settings::new("Corefile"));
        let mut builder = Builder::new(&SOURCES);
        for source in SOURCES {
            builder.apply(Seen::RelistBegin(source));
        }
        let service = serde_json::json!({"metadata": {"namespace": "default", "name": "web"},
            "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
        builder.apply(Seen::Applied(Source::Services, Object::new(service)));
        let namespace = serde_json::json!({"metadata": {"name": "default"}});
        builder.apply(Seen::Applied(Source::Namespaces, Object::new(namespace)));
        for source in SOURCES {
            builder.apply(Seen::RelistEnd(source));
        }
        moves(&mut builder, &shared, [10, 0, 0, 1]);

        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let part = Part { room: 1 << 20, waiting: 9, threads: 1 };
        let (mut udp, _left) = Udp::new(shared.clone(), &socket, (53.into(), part));
        let name = "web.default.svc.cluster.local".parse().unwrap();
        let (question, client) = (encode(&Message::query(7, name, 1), 512), "10.0.0.9:4242".parse().unwrap());
        let answer = |udp: &mut Udp| {
            let mut out = Vec::new();
            assert!(udp.query(&question, client, &Peer::CONNECTED, &mut out));
            decode(&out).unwrap().answers.remove(0).data
        };

        udp.learn();
        let Came::Stepped(effects, preparation) = shared.datagram(53.into(), client, &question, shared.now())
        else {
            panic!("nothing goes on")
        };
        let made = shared.at_once(effects).unwrap().remove(0);
        moves(&mut builder, &shared, [10, 0, 0, 2]);
        udp.keep(&question, &made, preparation.unwrap());
        assert_eq!(answer(&mut udp), Data::A([10, 0, 0, 2].into()));
        assert_eq!(udp.prepared.len(), 1);
        moves(&mut builder, &shared, [10, 0, 0, 3]);
        assert_eq!(answer(&mut udp), Data::A([10, 0, 0, 3].into()));
    }
}
