//! Upstreams that are named: their addresses are asked for when the server starts, until they are known
//! (`plugin/forward/resolve.go`). CoreDNS does not start before that; this server does, and is not ready.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::config::Host;
use crate::chain::{Answer, Ask, Via};
use crate::message::{Data, Message, rtype};

/// How long one server may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts, once all servers were asked.
const AGAIN: Duration = Duration::from_secs(1);
/// Tells the tags of these questions from those of health checks.
const MARK: u64 = 1 << 63;

/// One that is looked for.
#[derive(Debug)]
struct Sought {
    host: Host,
    found: Vec<IpAddr>,
    /// Answers that are still to come.
    under_way: u8,
    /// Attempts so far, each with another server.
    tried: usize,
    next: Duration,
}

/// A line's named upstreams.
#[derive(Debug, Default)]
pub(super) struct Resolving {
    sought: Vec<Sought>,
}

impl Resolving {
    /// Looks for these, those aside that are known.
    pub(super) fn set(&mut self, hosts: Vec<Host>, known: impl Fn(&Host) -> Vec<IpAddr>) {
        let sought = hosts.into_iter().map(|host| {
            let found = known(&host);
            Sought { host, found, under_way: 0, tried: 0, next: Duration::ZERO }
        });
        self.sought = sought.collect();
    }

    /// The addresses of one.
    pub(super) fn of(&self, host: &Host) -> &[IpAddr] {
        let sought = self.sought.iter().find(|sought| sought.host == *host);
        sought.map_or(&[], |sought| &sought.found)
    }

    /// All are known.
    pub(super) fn done(&self) -> bool {
        self.sought.iter().all(|sought| !sought.found.is_empty())
    }

    /// Questions that are to be sent to one of these servers now.
    pub(super) fn due(&mut self, servers: &[SocketAddr], now: Duration) -> Vec<Ask> {
        let mut asks = Vec::new();
        for (at, sought) in self.sought.iter_mut().enumerate() {
            if !sought.found.is_empty() || sought.under_way > 0 || sought.next > now || servers.is_empty() {
                continue;
            }
            let to = servers[sought.tried % servers.len()];
            sought.tried += 1;
            sought.next = if sought.tried.is_multiple_of(servers.len()) { now + AGAIN } else { now };
            sought.under_way = 2;
            for kind in [rtype::A, rtype::AAAA] {
                let message = Message::query(0, sought.host.name.clone(), kind);
                asks.push(Ask { to, via: Via::Udp, message, timeout: TIMEOUT, tag: MARK | at as u64 });
            }
        }
        asks
    }

    /// Whether this is an answer to one of the questions.
    pub(super) fn is_for(&self, answer: &Answer) -> bool {
        answer.tag & MARK != 0
    }

    /// Takes an answer: what there is to be said where a name has no address, when it was asked for the first time.
    pub(super) fn told(&mut self, answer: Answer) -> Option<String> {
        let at = usize::try_from(answer.tag & !MARK).unwrap_or(usize::MAX);
        let sought = self.sought.get_mut(at)?;
        sought.under_way = sought.under_way.saturating_sub(1);
        let why = match answer.result {
            Ok(message) => {
                for record in message.answers {
                    let ip = match record.data {
                        Data::A(ip) => IpAddr::V4(ip),
                        Data::Aaaa(ip) => IpAddr::V6(ip),
                        _ => continue,
                    };
                    if !sought.found.contains(&ip) {
                        sought.found.push(ip);
                    }
                }
                "it has no address".to_owned()
            }
            Err(why) => why,
        };
        // IPv4 first, whoever answered first.
        sought.found.sort_by_key(IpAddr::is_ipv6);
        let failed = sought.under_way == 0 && sought.found.is_empty() && sought.tried == 1;
        failed.then(|| format!("cannot resolve {}: {}: {why}", sought.host.name, answer.from))
    }
}
