//! A stub resolver: `/etc/resolv.conf`, its search list and `ndots`, UDP and TCP.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use sealane_dns::message::{self, Message, rcode, rtype};
use sealane_dns::name::Name;

/// `resolv.conf(5)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// In their order.
    pub(crate) servers: Vec<IpAddr>,
    /// Suffixes.
    pub(crate) search: Vec<String>,
    /// Names with fewer dots are tried with the suffixes first.
    pub(crate) ndots: usize,
}

impl Config {
    /// Of this machine.
    pub(crate) fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut config = Config { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    config.servers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok()))
                }
                Some("search" | "domain") => config.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let dots = words.filter_map(|w| w.strip_prefix("ndots:")).filter_map(|n| n.parse().ok());
                    config.ndots = dots.max().unwrap_or(config.ndots);
                }
                _ => {}
            }
        }
        if config.servers.is_empty() {
            config.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        config
    }

    /// The names to ask for, in the order of `resolver(5)`.
    pub(crate) fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let searched = self.search.iter().map(|s| format!("{name}.{}", s.trim_end_matches('.')));
        let mut names: Vec<String> = searched.collect();
        let at = if name.matches('.').count() >= self.ndots { 0 } else { names.len() };
        names.insert(at, name.to_owned());
        names
    }
}

/// Asks one server one question; over TCP where it is asked for or the answer did not fit.
pub(crate) fn ask(server: SocketAddr, name: &str, kind: u16, tcp: bool) -> Result<Message, String> {
    let name: Name = name.parse().map_err(|e| format!("{name}: {e}"))?;
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty()).map_err(|e| e.to_string())?;
    let query = Message::query(u16::from_be_bytes(id), name, kind);
    let bytes = message::encode(&query, 512);
    let fail = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            format!("communications error to {}#{}: timed out", server.ip(), server.port())
        }
        _ => format!("communications error to {}#{}: {e}", server.ip(), server.port()),
    };
    if !tcp {
        let answer = over_udp(server, &bytes, query.id).map_err(fail)?;
        if !answer.flags.truncated {
            return Ok(answer);
        }
    }
    over_tcp(server, &bytes).map_err(fail)
}

fn over_udp(server: SocketAddr, query: &[u8], id: u16) -> std::io::Result<Message> {
    let local: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut buffer = [0; 4096];
    let mut last = std::io::Error::from(std::io::ErrorKind::TimedOut);
    for _ in 0..3 {
        socket.send(query)?;
        match socket.recv(&mut buffer) {
            Ok(n) => match message::decode(&buffer[..n]) {
                Ok(message) if message.id == id => return Ok(message),
                _ => continue,
            },
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn over_tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let length = u16::try_from(query.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes()[..], query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    message::decode(&answer).map_err(std::io::Error::other)
}

/// The first name of the search list that exists, asked of the first server that answers.
pub(crate) fn search(
    config: &Config,
    name: &str,
    kind: u16,
    port: u16,
    tcp: bool,
) -> Result<(SocketAddr, Message), String> {
    let mut answered = None;
    let mut why = String::new();
    for candidate in config.candidates(name) {
        for server in &config.servers {
            let server = SocketAddr::new(*server, port);
            match ask(server, &candidate, kind, tcp) {
                Ok(message) if message.rcode == rcode::NOERROR => return Ok((server, message)),
                Ok(message) => {
                    answered = Some((server, message));
                    break;
                }
                Err(e) => why = e,
            }
        }
    }
    answered.ok_or(why)
}

/// The addresses of a name, by the system's own resolver (files, then DNS).
pub(crate) fn addresses(name: &str) -> Result<Vec<IpAddr>, String> {
    use std::net::ToSocketAddrs;
    let found = (name, 0).to_socket_addrs().map_err(|_| format!("bad address '{name}'"))?;
    let mut addresses: Vec<IpAddr> = found.map(|a| a.ip()).collect();
    addresses.dedup();
    if addresses.is_empty() { Err(format!("bad address '{name}'")) } else { Ok(addresses) }
}

/// `215.3.244.10.in-addr.arpa.` of an address.
pub(crate) fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(a) => {
            let [a, b, c, d] = a.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(a) => {
            let digits = a.octets().into_iter().rev().map(|o| format!("{:x}.{:x}.", o & 15, o >> 4));
            format!("{}ip6.arpa.", digits.collect::<String>())
        }
    }
}

/// A record type by its name.
pub(crate) fn kind(name: &str) -> Option<u16> {
    (1..=rtype::ANY).find(|t| rtype::name(*t).eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tried_in_the_resolvers_order() {
        let text =
            "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
        let config = Config::parse(text);
        assert_eq!(config.servers, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        let first = "web.default.svc.cluster.local";
        assert_eq!(config.candidates("web"), [first, "web.svc.cluster.local", "web"]);
        assert_eq!(config.candidates("web."), ["web."]);
        assert_eq!(config.candidates("a.b.c.d.e.f")[0], "a.b.c.d.e.f");
    }

    #[test]
    fn addresses_have_reverse_names() {
        assert_eq!(reverse("10.244.3.215".parse().unwrap()), "215.3.244.10.in-addr.arpa.");
        assert!(reverse("2001:db8::1".parse().unwrap()).starts_with("1.0.0.0."));
        assert!(reverse("2001:db8::1".parse().unwrap()).ends_with("8.b.d.0.1.0.0.2.ip6.arpa."));
    }
}
