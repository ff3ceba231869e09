//! Connections that last, and flows that have ended.

use crate::lab::Namespace;
use rustix::fd::OwnedFd;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use sealane_dataplane::netlink_socket;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Both sides speak whenever they like, this often.
const PAUSE: Duration = Duration::from_micros(300);
/// Within which something must be heard.
const SILENCE: Duration = Duration::from_secs(10);

/// Speaks to whoever connects, and answers what they say.
pub fn serve(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut speaker = stream.try_clone().unwrap();
            std::thread::spawn(move || {
                while speaker.write_all(b".").is_ok() {
                    std::thread::sleep(PAUSE);
                }
            });
            std::thread::spawn(move || {
                let (mut stream, mut heard) = (stream, [0; 1024]);
                while let Ok(length @ 1..) = stream.read(&mut heard) {
                    if stream.write_all(&heard[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// An established connection, over which data goes to and fro all the time.
pub struct Talk {
    stream: TcpStream,
    /// Of what was heard: said by the other side, and answered.
    heard: Arc<[AtomicU64; 2]>,
    listener: std::thread::JoinHandle<std::io::Result<()>>,
}

impl Talk {
    pub fn begin(from: &Namespace, to: &str) -> Self {
        let to: SocketAddr = to.parse().unwrap();
        let stream = from.run(move || TcpStream::connect(to).unwrap());
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        let heard: Arc<[AtomicU64; 2]> = Arc::default();
        let (mut ear, mut mouth) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        let counts = heard.clone();
        let listener = std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            loop {
                let length = ear.read(&mut buffer)?;
                if length == 0 {
                    return Ok(());
                }
                let answered = buffer[..length].iter().filter(|b| **b == b'x').count();
                counts[0].fetch_add((length - answered) as u64, Ordering::Relaxed);
                counts[1].fetch_add(answered as u64, Ordering::Relaxed);
            }
        });
        std::thread::spawn(move || {
            while mouth.write_all(b"x").is_ok() {
                std::thread::sleep(PAUSE);
            }
        });
        Self { stream, heard, listener }
    }

    /// It is as lively as ever: more is heard from now on, in both ways.
    #[track_caller]
    pub fn goes_on(&self, when: &str) {
        let before = self.heard.each_ref().map(|c| c.load(Ordering::Relaxed));
        let begun = Instant::now();
        while self.heard.iter().zip(before).any(|(c, b)| c.load(Ordering::Relaxed) < b + 20) {
            assert!(!self.listener.is_finished(), "{when}: the connection broke");
            assert!(begun.elapsed() < SILENCE, "{when}: nothing is heard");
            std::thread::sleep(PAUSE);
        }
    }

    /// It was whole until now.
    #[track_caller]
    pub fn end(self) {
        assert!(!self.listener.is_finished(), "the connection broke");
        self.stream.shutdown(Shutdown::Both).unwrap();
        match self.listener.join().unwrap() {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }
}

/// Makes connections that have ended (TIME_WAIT), as the kernel would after their last segments, as many as there is
/// room for (linux/netfilter/nfnetlink_conntrack.h).
pub struct Flows {
    socket: OwnedFd,
    next: u32,
}

impl Flows {
    pub fn new(namespace: &Namespace) -> Self {
        Self { socket: namespace.run(netlink_socket).unwrap(), next: 0 }
    }

    /// One from a port of an address outside to an address, in a state.
    pub fn make(&mut self, port: u16, to: std::net::SocketAddrV4, state: u8) {
        let ends = [(0xc612_0001, port), (u32::from(*to.ip()), to.port())];
        send(&self.socket, &flow(ends, state), SendFlags::empty()).unwrap();
        let mut answer = [0; 1 << 10];
        let said = recv(&self.socket, &mut answer[..], RecvFlags::DONTWAIT);
        assert!(matches!(said, Err(rustix::io::Errno::AGAIN)), "the kernel refuses the flow");
    }

    /// Until the kernel refuses to take more.
    pub fn fill(&mut self) {
        loop {
            let mut messages = Vec::new();
            for _ in 0..200 {
                self.next += 1;
                messages.extend(ended(self.next));
            }
            send(&self.socket, &messages, SendFlags::empty()).unwrap();
            let mut answer = [0; 1 << 16];
            // Only complaints are answered.
            match recv(&self.socket, &mut answer[..], RecvFlags::DONTWAIT) {
                Err(rustix::io::Errno::AGAIN) => {}
                _ => break,
            }
        }
        // The rest of the complaints.
        let mut answer = [0; 1 << 16];
        while !matches!(
            recv(&self.socket, &mut answer[..], RecvFlags::DONTWAIT),
            Err(rustix::io::Errno::AGAIN)
        ) {}
    }
}

/// States of a connection of TCP, as conntrack counts them.
pub const SYN_SENT: u8 = 1;
pub const ESTABLISHED: u8 = 3;
const TIME_WAIT: u8 = 7;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn nest(kind: u16, values: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 0x8000, &values.concat())
}

/// A request to make the flow of a number.
fn ended(number: u32) -> Vec<u8> {
    let from = (0xc612_0000 + number / 40_000, (number % 40_000) as u16 + 1024);
    flow([from, (0xc613_0001, 80)], TIME_WAIT)
}

/// A request to make a flow that nobody translates, from one address and port to another.
fn flow(ends: [(u32, u16); 2], state: u8) -> Vec<u8> {
    let tuple = |kind, (from, to): ((u32, u16), (u32, u16))| {
        let addresses = [attribute(1, &from.0.to_be_bytes()), attribute(2, &to.0.to_be_bytes())];
        let ports =
            [attribute(1, &[6]), attribute(2, &from.1.to_be_bytes()), attribute(3, &to.1.to_be_bytes())];
        nest(kind, &[nest(1, &addresses), nest(2, &ports)])
    };
    // Seen in both directions, assured, confirmed; or confirmed alone.
    let status: u32 = if state == SYN_SENT { 8 } else { 14 };
    let body = [
        tuple(1, (ends[0], ends[1])),
        tuple(2, (ends[1], ends[0])),
        attribute(3, &status.to_be_bytes()),
        attribute(7, &120u32.to_be_bytes()),
        nest(4, &[nest(1, &[attribute(1, &[state])])]),
    ]
    .concat();
    let mut out = ((16 + 4 + body.len()) as u32).to_ne_bytes().to_vec();
    // IPCTNL_MSG_CT_NEW; REQUEST, EXCL and CREATE.
    out.extend((1u16 << 8).to_ne_bytes());
    out.extend(0x601u16.to_ne_bytes());
    out.extend([0; 8]);
    // AF_INET, NFNETLINK_V0.
    out.extend([2, 0, 0, 0]);
    out.extend(body);
    out
}
