//! Datagrams by the batch: what has come in is taken at once, and so go the answers.

use std::io::{ErrorKind, Result};
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{self, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

pub(crate) use crate::mmsg::Peer;
use crate::mmsg::{Inbox, Outbox};

/// Datagrams in a batch, at most.
pub(crate) const BATCH: usize = 128;
/// Answers that one datagram carries to its client's side, at most (UDP_MAX_SEGMENTS of older kernels).
const SEGMENTS: usize = 64;
/// Answers that go by segments are so long at most, octets: they fit any way's packets (RFC 8200, 5).
const SEGMENT: usize = 1200;
/// What segments may be together, octets.
const DATAGRAM: usize = 65_000;
/// What the kernel may keep for us while we are busy, octets; it gives less where `net.core.rmem_max` says so.
const QUEUE: usize = 1 << 20;

/// Where so many come at once, more are on their way: they are given the time to be many, too. What many share is
/// most of what an answer costs.
pub(crate) const MANY: usize = 8;
pub(crate) const GATHER: Duration = Duration::from_micros(50);
/// How exact such sleeps are, ns. The kernel would make them 50 us longer.
const SLACK: NonZeroU64 = NonZeroU64::MIN;

/// Has this thread sleep no longer than it says. One that can't sleeps longer, and answers all the same.
pub(crate) fn sleep_exactly() {
    let _ = rustix::thread::set_current_timer_slack(Some(SLACK));
}

/// Makes a bound socket fit for batches: reading waits so long at most.
pub(crate) fn prepare(socket: &UdpSocket, wait: Duration) -> Result<()> {
    socket.set_nonblocking(false)?;
    let wait = TimeVal::microseconds(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
    setsockopt(socket, sockopt::ReceiveTimeout, &wait)?;
    setsockopt(socket, sockopt::RcvBuf, &QUEUE)?;
    let own = socket.local_addr()?;
    if own.ip().is_unspecified() {
        match own {
            SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    Ok(())
}

/// Wakes who reads a socket, for good: there is nothing more to read.
pub(crate) fn wake(socket: &UdpSocket) {
    // Linux says that the socket is not connected, and wakes the reader all the same.
    let _ = socket::shutdown(socket.as_raw_fd(), socket::Shutdown::Read);
}

/// Sends one answer, without waiting: one that cannot be sent is one that got lost, its client asks again.
pub(crate) fn send(socket: &UdpSocket, answer: Vec<u8>, to: Peer) {
    let whole = Range { start: 0, end: 1 };
    Outbox::default().send(socket, (&[answer], &[to]), (&[0], &[whole]), |_, _| ());
}

/// Room for a batch in, and for one out.
pub(crate) struct Batch {
    came: Inbox,
    goes: Outbox,
    answers: Vec<Vec<u8>>,
    to: Vec<Peer>,
    order: Vec<u16>,
    runs: Vec<Range<usize>>,
    /// No datagram in segments was refused so far: some network devices do not cut (EIO), or have narrower ways.
    cuts: bool,
    /// The kernel tells how many datagrams it has lost.
    tells: bool,
    lost: u32,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Batch {
            came: Inbox::new(BATCH),
            goes: Outbox::default(),
            answers: vec![Vec::new(); BATCH],
            to: Vec::with_capacity(BATCH),
            order: Vec::with_capacity(BATCH),
            runs: Vec::with_capacity(BATCH),
            cuts: true,
            tells: false,
            lost: 0,
        }
    }

    /// Takes what has come in: how many. With `wait`, until there is one, or the socket's time is over; otherwise, and
    /// then, `WouldBlock` says that there is none.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, wait: bool) -> Result<usize> {
        self.to.clear();
        self.came.receive(socket, wait)
    }

    /// How many datagrams the kernel has lost so far, there being no room for them: from now on it tells
    /// (SO_RXQ_OVFL). Where it can't, none.
    pub(crate) fn lost(&mut self, socket: &UdpSocket) -> u32 {
        if !self.tells {
            self.tells = true;
            let _ = setsockopt(socket, sockopt::RxqOvfl, &1);
        }
        self.lost = self.came.lost().unwrap_or(self.lost);
        self.lost
    }

    /// Lets `answer` look at each query and write what goes back at once; `false`: nothing does.
    pub(crate) fn answer(&mut self, mut answer: impl FnMut(&[u8], SocketAddr, &Peer, &mut Vec<u8>) -> bool) {
        for (query, peer) in self.came.queries() {
            let Some(client) = peer.client() else { continue };
            let Some(room) = self.answers.get_mut(self.to.len()) else { return };
            if answer(query, client, &peer, room) {
                self.to.push(peer);
            }
        }
    }

    /// Puts an answer that came later to those that are sent next, and leaves one of old in its place. `false`: there is
    /// no room.
    pub(crate) fn put(&mut self, answer: &mut Vec<u8>, to: Peer) -> bool {
        let Some(room) = self.answers.get_mut(self.to.len()) else { return false };
        std::mem::swap(room, answer);
        self.to.push(to);
        true
    }

    /// Sends the answers. One that cannot be sent is one that got lost: its client asks again.
    pub(crate) fn send(&mut self, socket: &UdpSocket) {
        let Batch { goes, answers, to, order, runs, cuts, .. } = self;
        order.clear();
        order.extend(0..u16::try_from(to.len()).unwrap_or(u16::MAX));
        if to.len() > 1 {
            // By client, the longest first.
            order.sort_unstable_by_key(|at| {
                let at = usize::from(*at);
                (u64::from(to[at].mark()) << 32) | (0xffff_ffff - answers[at].len() as u64)
            });
        }
        group(order, (answers, to), *cuts, runs);
        let mut refused = Vec::new();
        goes.send(socket, (answers, to), (order, runs), |run, _| {
            if run.len() > 1 {
                refused.extend(run.clone().map(|at| at..at + 1));
            }
        });
        if !refused.is_empty() {
            *cuts = false;
            goes.send(socket, (answers, to), (order, &refused), |_, _| ());
        }
        self.to.clear();
    }
}

/// Room for a batch of questions that goes out on a connected socket.
pub(crate) struct Questions {
    goes: Outbox,
    order: Vec<u16>,
    runs: Vec<Range<usize>>,
    /// As a [`Batch`]'s.
    cuts: bool,
}

impl Default for Questions {
    fn default() -> Self {
        Questions { goes: Outbox::default(), order: Vec::new(), runs: Vec::new(), cuts: true }
    }
}

impl Questions {
    /// Sends all, those of one length together. One that the kernel has no room for is one that got lost; any other
    /// error is the socket's.
    pub(crate) fn send(&mut self, socket: &UdpSocket, questions: &[impl AsRef<[u8]>]) -> Result<()> {
        let Questions { goes, order, runs, cuts } = self;
        let to = [Peer::CONNECTED; BATCH];
        let to = &to[..questions.len().min(BATCH)];
        order.clear();
        order.extend(0..u16::try_from(to.len()).unwrap_or(u16::MAX));
        order.sort_unstable_by_key(|at| std::cmp::Reverse(questions[usize::from(*at)].as_ref().len()));
        group(order, (questions, to), *cuts, runs);
        let (mut refused, mut failed) = (Vec::new(), None);
        goes.send(socket, (questions, to), (order, runs), |run, error| match error.kind() {
            ErrorKind::WouldBlock => {}
            _ if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
            // What was sent before has met nobody: that says nothing of segments.
            ErrorKind::ConnectionRefused => failed = Some(error),
            _ if run.len() > 1 => refused.extend(run.clone().map(|at| at..at + 1)),
            _ => failed = Some(error),
        });
        if !refused.is_empty() {
            *cuts = false;
            goes.send(socket, (questions, to), (order, &refused), |_, error| failed = Some(error));
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Which answers in a row go as one datagram that the kernel cuts: for most of the way the network's layers see one.
/// All to one client, all as long as the first but the last one, which may be shorter.
fn group(
    order: &[u16],
    (answers, to): (&[impl AsRef<[u8]>], &[Peer]),
    cuts: bool,
    runs: &mut Vec<Range<usize>>,
) {
    runs.clear();
    let length = |at: usize| answers[usize::from(order[at])].as_ref().len();
    let peer = |at: usize| &to[usize::from(order[at])];
    let mut begin = 0;
    while begin < order.len() {
        let each = length(begin);
        let most = if cuts && each <= SEGMENT { (DATAGRAM / each.max(1)).min(SEGMENTS) } else { 1 };
        let last = order.len().min(begin + most);
        let mut end = begin + 1;
        while end < last && peer(end) == peer(begin) && length(end) <= each {
            end += 1;
            if length(end - 1) < each {
                break;
            }
        }
        runs.push(begin..end);
        begin = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some are cut by the kernel, some are too long for that, some too unlike.
    fn length(number: u8) -> usize {
        match number {
            0..20 => 1000,
            20..30 => 2000,
            _ => 100 + usize::from(number),
        }
    }

    #[test]
    fn what_goes_together_is_one_clients_and_of_one_length_but_the_last() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Both at once, or the second may get the first one's port.
        let clients: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let peers: Vec<Peer> = clients
            .iter()
            .map(|client| {
                client.send_to(&[0], server.local_addr().unwrap()).unwrap();
                let mut inbox = Inbox::new(1);
                inbox.receive(&server, true).unwrap();
                inbox.queries().next().unwrap().1
            })
            .collect();
        for (answers, expected) in [
            (vec![(0, 50)], vec![1]),
            (vec![(0, 50), (0, 50), (0, 50)], vec![3]),
            (vec![(0, 50), (0, 50), (0, 49), (0, 49)], vec![3, 1]),
            (vec![(0, 50), (0, 49), (0, 48), (0, 47), (0, 46)], vec![2, 2, 1]),
            (vec![(0, 50), (1, 50), (1, 49), (1, 49)], vec![1, 2, 1]),
            (vec![(0, 49), (0, 50)], vec![1, 1]),
            (vec![(0, 1201), (0, 1201), (0, 1200), (0, 1200)], vec![1, 1, 2]),
            (vec![(0, 1000); 130], vec![64, 64, 2]),
        ] {
            let order: Vec<u16> = (0..answers.len() as u16).collect();
            let texts: Vec<Vec<u8>> = answers.iter().map(|(_, len)| vec![0; *len]).collect();
            let to: Vec<Peer> = answers.iter().map(|(peer, _)| peers[*peer]).collect();
            let mut runs = Vec::new();
            group(&order, (&texts, &to), true, &mut runs);
            assert_eq!(runs.iter().map(Range::len).collect::<Vec<_>>(), expected, "{answers:?}");
            group(&order, (&texts, &to), false, &mut runs);
            assert_eq!(runs.len(), answers.len(), "{answers:?}");
        }
    }

    #[test]
    fn answers_of_one_length_to_one_client_come_one_by_one() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let clients: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for number in 0..40u8 {
            let client = &clients[usize::from(number & 1)];
            client.send_to(&[number], server.local_addr().unwrap()).unwrap();
        }
        let mut batch = Batch::new();
        let mut came = 0;
        while came < 40 {
            came += batch.receive(&server, true).unwrap();
            batch.answer(|query, _, _, out| {
                out.clear();
                out.resize(length(query[0]), query[0]);
                true
            });
            batch.send(&server);
        }
        for (at, client) in clients.iter().enumerate() {
            let mut numbers = Vec::new();
            for _ in 0..20 {
                let mut answer = [0; 4096];
                let len = client.recv(&mut answer).unwrap();
                assert_eq!(len, length(answer[0]));
                assert!(answer[..len].iter().all(|octet| *octet == answer[0]));
                numbers.push(usize::from(answer[0]));
            }
            numbers.sort_unstable();
            assert_eq!(numbers, (0..40).filter(|n| n & 1 == at).collect::<Vec<_>>());
        }
    }

    #[test]
    fn questions_of_all_lengths_reach_who_the_socket_is_connected_to() {
        let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
        upstream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(upstream.local_addr().unwrap()).unwrap();
        let questions: Vec<Vec<u8>> = (0..60u8).map(|number| vec![number; length(number)]).collect();
        Questions::default().send(&socket, &questions).unwrap();
        let mut numbers = Vec::new();
        for _ in 0..60 {
            let mut question = [0; 4096];
            let len = upstream.recv(&mut question).unwrap();
            assert_eq!(len, length(question[0]));
            assert!(question[..len].iter().all(|octet| *octet == question[0]));
            numbers.push(question[0]);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..60).collect::<Vec<u8>>());
    }

    #[test]
    fn nobody_at_the_other_end_is_an_error() {
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(gone).unwrap();
        let mut batch = Questions::default();
        let two = vec![vec![1; 50], vec![2; 50]];
        let mut sent = batch.send(&socket, &two);
        for _ in 0..1000 {
            if sent.is_err() {
                break;
            }
            sent = batch.send(&socket, &two);
        }
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(batch.cuts);
    }

    #[test]
    fn a_batch_comes_and_goes() {
        for (own, of_clients) in
            [("127.0.0.1:0", "127.0.0.1:0"), ("[::]:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")]
        {
            let server = UdpSocket::bind(own).unwrap();
            prepare(&server, Duration::from_secs(5)).unwrap();
            let mut to = server.local_addr().unwrap();
            if to.ip().is_unspecified() {
                // Not the one that an answer would come from by itself.
                to.set_ip([127, 0, 0, 7].into());
            }
            let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind(of_clients).unwrap()).collect();
            let mut batch = Batch::new();
            assert!(batch.receive(&server, false).is_err());
            for (number, client) in clients.iter().enumerate() {
                client.send_to(&vec![number as u8; 10 + 1500 * number], to).unwrap();
            }
            let mut came = 0;
            while came < 3 {
                came += batch.receive(&server, true).unwrap();
                // The second is left without an answer.
                batch.answer(|query, client, _, out| {
                    assert_eq!(client.port(), clients[usize::from(query[0])].local_addr().unwrap().port());
                    assert_eq!(client.is_ipv4(), of_clients.starts_with('1'));
                    out.clear();
                    out.extend(query.iter().rev().chain([&7]));
                    query[0] != 1
                });
                batch.send(&server);
            }
            for number in [0, 2] {
                let mut answer = [0; 4096];
                let (len, from) = clients[number].recv_from(&mut answer).unwrap();
                assert_eq!((len, from, answer[len - 1]), (11 + 1500 * number, to, 7));
                assert!(answer[..len - 1].iter().all(|octet| usize::from(*octet) == number));
            }
            clients[1].set_nonblocking(true).unwrap();
            assert!(clients[1].recv(&mut [0; 64]).is_err());
        }
    }

    #[test]
    fn what_the_kernel_lost_is_told_beside_the_address_that_was_asked() {
        for own in ["0.0.0.0:0", "[::]:0"] {
            let server = UdpSocket::bind(own).unwrap();
            prepare(&server, Duration::from_secs(5)).unwrap();
            setsockopt(&server, sockopt::RcvBuf, &4096).unwrap();
            let mut batch = Batch::new();
            assert_eq!(batch.lost(&server), 0);
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            let to: SocketAddr = ([127, 0, 0, 7], server.local_addr().unwrap().port()).into();
            for _ in 0..300 {
                client.send_to(&[0; 500], to).unwrap();
            }
            let mut came = batch.receive(&server, true).unwrap();
            while let Ok(more) = batch.receive(&server, false) {
                came += more;
            }
            assert_eq!(batch.lost(&server), 0, "there was room for these");
            // What comes next knows of those that did not come.
            client.send_to(&[1], to).unwrap();
            assert_eq!(batch.receive(&server, true).unwrap(), 1);
            assert_eq!(batch.lost(&server) as usize, 300 - came);
            assert!(came < 300);
            batch.answer(|query, _, _, out| {
                out.clear();
                out.extend_from_slice(query);
                true
            });
            batch.send(&server);
            assert_eq!(client.recv_from(&mut [0; 64]).unwrap(), (1, to));
        }
    }
}
