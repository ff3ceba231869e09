//! A UDP listener: what is prepared goes back at once, the rest goes the general way.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sealane_dns::prepared::Prepared;
use sealane_dns::{Event, Transport};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::batch::{Batch, for_socket};
use crate::shared::Shared;

/// Queries that wait for upstreams at once; more are dropped, their clients ask again.
const WAITING: usize = 16_384;
/// Prepared answers, octets: ten thousand Services and more.
const ROOM: usize = 16 << 20;

/// A UDP listener at work.
struct Udp {
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    own: SocketAddr,
    port: u16,
    waiting: Arc<Semaphore>,
    tasks: JoinSet<()>,
    prepared: Prepared,
    /// The changes that `prepared` knows.
    seen: u64,
    turn: usize,
    /// Time spent on queries, and how many there were, since they were counted.
    spent: (Duration, u32),
}

impl Udp {
    /// Takes a batch, answers it, and says whether there may be more.
    fn batch(&mut self, batch: &mut Batch) -> std::io::Result<bool> {
        let socket = self.socket.clone();
        let came = batch.receive(socket.as_fd())?;
        let begun = Instant::now();
        self.learn();
        batch.answer(|query, client, out| self.query(query, client, out));
        batch.send(socket.as_fd());
        self.spent.0 += begun.elapsed();
        self.spent.1 += u32::try_from(came).unwrap_or(u32::MAX);
        Ok(batch.is_full())
    }

    /// Forgets what has changed.
    fn learn(&mut self) {
        if let Some((changed, serial, seen)) = self.shared.changes(self.seen) {
            self.prepared.changed(&changed, serial);
            self.seen = seen;
        }
    }

    /// Answers a query, now (`true`) or later.
    fn query(&mut self, bytes: &[u8], client: SocketAddr, out: &mut Vec<u8>) -> bool {
        self.turn = self.turn.wrapping_add(1);
        if self.prepared.answer(bytes, client.is_ipv4(), self.turn, out) {
            return true;
        }
        let event = Event::Query { port: self.port, transport: Transport::Udp, client, bytes };
        let (effects, preparation) = self.shared.query(event);
        match self.shared.at_once(effects) {
            Ok(mut reply) => {
                let Some(message) = reply.pop() else { return false };
                if let Some(preparation) = preparation {
                    // What it was made from may have changed before that: then it is news here, too.
                    self.learn();
                    self.prepared.keep(bytes, &message, preparation);
                }
                *out = message;
                true
            }
            Err(effects) => {
                let permit = self.waiting.clone().try_acquire_owned();
                let (shared, socket) = (self.shared.clone(), self.socket.clone());
                let to = for_socket(client, self.own);
                self.tasks.spawn(async move {
                    let overloaded = permit.is_err();
                    let _permit = permit.ok();
                    if overloaded {
                        return shared.abandon(effects);
                    }
                    for message in shared.carry_out(effects).await {
                        // A reply that cannot be sent is one that got lost: the client asks again.
                        let _ = socket.send_to(&message, to).await;
                    }
                });
                false
            }
        }
    }

    /// Counts what was handed out.
    fn count(&mut self) {
        let served = self.prepared.served();
        let (spent, queries) = std::mem::take(&mut self.spent);
        if !served.is_empty() {
            let each = spent / queries.max(1);
            self.shared.server(|server| server.served(&served, each));
        }
    }
}

/// Serves a socket on a thread of its own until the listener is told to close, and what has come in by then.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    socket: Arc<std::net::UdpSocket>,
    port: u16,
    closed: watch::Receiver<bool>,
) {
    let (ended, end) = oneshot::channel::<()>();
    let of_thread = shared.clone();
    let run = move || {
        let _ended = ended;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(listen(of_thread, &socket, port, closed))
    };
    let log = shared.clone();
    let logged = move || {
        if let Err(error) = run() {
            log.log(&format!("[ERROR] DNS over UDP on port {port}: {error}"));
        }
    };
    if let Err(error) = std::thread::Builder::new().name(format!("dns-udp-{port}")).spawn(logged) {
        shared.log(&format!("[ERROR] DNS over UDP on port {port} has no thread: {error}"));
    }
    // The other end says nothing: it goes with the thread.
    let _ = end.await;
}

async fn listen(
    shared: Arc<Shared>,
    bound: &std::net::UdpSocket,
    port: u16,
    mut closed: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let own = bound.local_addr()?;
    let socket = Arc::new(UdpSocket::from_std(bound.try_clone()?)?);
    let (asks, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
    shared.counts(asks);
    let mut udp = Udp {
        shared,
        socket: socket.clone(),
        own,
        port,
        waiting: Arc::new(Semaphore::new(WAITING)),
        tasks: JoinSet::new(),
        prepared: Prepared::new(ROOM),
        seen: 0,
        turn: 0,
        spent: (Duration::ZERO, 0),
    };
    let mut batch = Batch::new();
    loop {
        // Finished tasks are let go as we pass.
        while udp.tasks.try_join_next().is_some() {}
        tokio::select! {
            biased;
            () = crate::listen::told(&mut closed) => break,
            // Whoever asks goes on when the other end is dropped.
            Some(_done) = asked.recv() => udp.count(),
            ready = socket.readable() => ready?,
        }
        // An error here is an ICMP message about an earlier reply: nothing to do with the next query.
        let _ = socket.try_io(Interest::READABLE, || udp.batch(&mut batch));
    }
    // Connected to itself a socket takes nothing more in: who asks now is told by ICMP that nobody is here, or comes
    // to the socket that takes this one's place. One for all addresses would lose the one that it answers from.
    if !own.ip().is_unspecified() {
        let _ = socket.connect(own).await;
    }
    // Past the runtime, which may not know yet what has come in.
    loop {
        match udp.batch(&mut batch) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Ok(_) | Err(_) => {}
        }
    }
    udp.count();
    while udp.tasks.join_next().await.is_some() {}
    Ok(())
}
