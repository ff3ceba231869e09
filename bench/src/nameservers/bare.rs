//! What the machine itself wants for a datagram: a loop that receives and sends, and does nothing else. A server that
//! answers each question when it comes, and sleeps in between, has this to pay before it does anything.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::server::Asked;
use crate::Result;
use crate::cores::{CORES, on_core, spent};

/// In a network namespace of its own nobody else has it.
const PORT: u16 = 5304;
/// An upstream that has not answered by then has failed.
const PATIENCE: Duration = Duration::from_secs(1);

/// The loop, on the core of servers.
pub(super) struct Bare {
    /// Its thread's, of /proc.
    stat: String,
    thread: Option<JoinHandle<()>>,
}

impl Bare {
    /// Says what the upstream at this port says; without one, the question itself.
    pub(super) fn start(upstream: Option<u16>) -> Result<Bare> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, PORT))?;
        let upstream = upstream.map(|port| -> io::Result<UdpSocket> {
            let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            upstream.connect((Ipv4Addr::LOCALHOST, port))?;
            upstream.set_read_timeout(Some(PATIENCE))?;
            Ok(upstream)
        });
        let upstream = upstream.transpose()?;
        let (runs, running) = mpsc::channel();
        let thread = thread::spawn(move || {
            let pinned = on_core(CORES[0]);
            let _ = runs.send(pinned.map(|()| rustix::thread::gettid().as_raw_nonzero()));
            // Where it failed, whoever asks has no answers, and says so.
            let _ = pass(&socket, upstream.as_ref());
        });
        let id = running.recv()??;
        Ok(Bare { stat: format!("/proc/self/task/{id}/stat"), thread: Some(thread) })
    }
}

/// Until an empty datagram comes.
fn pass(socket: &UdpSocket, upstream: Option<&UdpSocket>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let (mut length, from) = socket.recv_from(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        match upstream {
            Some(upstream) => {
                upstream.send(&buffer[..length])?;
                length = upstream.recv(&mut buffer)?;
            }
            // QR: a response (RFC 1035 section 4.1.1).
            None => buffer[2] |= 0x80,
        }
        socket.send_to(&buffer[..length], from)?;
    }
}

impl Asked for Bare {
    fn name(&self) -> &'static str {
        "a bare loop"
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn cpu(&self) -> Result<f64> {
        Ok(spent(&self.stat)?[..2].iter().sum())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let end = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let sent = end.and_then(|end| end.send_to(&[], (Ipv4Addr::LOCALHOST, PORT)));
        if let (Ok(_), Some(thread)) = (sent, self.thread.take()) {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}
