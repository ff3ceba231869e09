//! Values in a Corefile: durations, zones, addresses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::name::Name;

/// A hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A duration as Go writes it: `5s`, `1m30s`, `500ms`, `0`.
///
/// # Errors
/// Where it is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is no duration (5s, 1m30s, 500ms)");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut total, mut rest) = (0f64, text);
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
        rest = &rest[unit..];
    }
    // Longer ones mean nothing, and would overflow when they are added to a time.
    Duration::try_from_secs_f64(total).ok().filter(|d| *d <= LONGEST).ok_or_else(bad)
}

/// A duration as Go shows it: `1m30s`, `5m0s`, `1.5s`, `250ms`.
pub fn go_duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", nanos as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{}ms", nanos as f64 / 1e6),
        _ => {
            let (minutes, rest) = (time.as_secs() / 60, time - Duration::from_secs(time.as_secs() / 60 * 60));
            let seconds = rest.as_secs_f64();
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// Zones of a word: a name, or the reverse zones of a prefix (`10.96.0.0/12` is sixteen of them). A prefix that ends
/// between two labels is as many zones as it covers labels (CoreDNS's `plugin/pkg/cidr`).
///
/// # Errors
/// Where it is neither.
pub fn parse_zones(text: &str) -> Result<Vec<Name>, String> {
    if let Some((address, bits)) = text.split_once('/')
        && !bits.is_empty()
        && bits.bytes().all(|b| b.is_ascii_digit())
        && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b'.' || b == b':')
    {
        // As CoreDNS: where a network begins with a colon, the rest could be a port.
        let begins = !(address.starts_with(':') || address.starts_with('0') && address.contains(':'));
        let network = address.parse::<IpAddr>().ok().zip(bits.parse::<u32>().ok()).filter(|_| begins);
        let zones = network.and_then(|(ip, bits)| reverse_zones(ip, bits));
        return zones.ok_or_else(|| format!("'{text}' is no network"));
    }
    if text.contains([':', '{', '}', '[', ']']) || text.contains(char::is_whitespace) {
        let hint = if text.parse::<IpAddr>().is_ok() {
            "; write a network (2001:db8::/32) for its reverse zones"
        } else {
            ""
        };
        return Err(format!("'{text}' is no zone{hint}"));
    }
    let name: Name = text.parse().map_err(|e| format!("'{text}' is no zone: {e}"))?;
    Ok(vec![name.to_lowercase()])
}

fn reverse_zones(ip: IpAddr, bits: u32) -> Option<Vec<Name>> {
    let (value, width, step) = match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32, 8),
        IpAddr::V6(ip) => (u128::from(ip), 128, 4),
    };
    if bits > width {
        return None;
    }
    let whole = bits.div_ceil(step) * step;
    let count = 1u128 << (whole - bits);
    let base = if whole == 0 { 0 } else { value >> (width - whole) & !(count - 1) };
    let zones = (base..base + count).map(|zone| {
        let labels: Vec<String> = (0..whole / step)
            .map(|i| {
                let part = zone >> (i * step) & ((1 << step) - 1);
                if step == 8 { part.to_string() } else { format!("{part:x}") }
            })
            .collect();
        let suffix = if step == 8 { ["in-addr", "arpa"] } else { ["ip6", "arpa"] };
        Name::from_labels(labels.iter().map(String::as_bytes).chain(suffix.map(str::as_bytes))).ok()
    });
    zones.collect()
}

/// A network: `10.0.0.0/8`, `2001:db8::/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    ip: IpAddr,
    bits: u32,
}

impl Network {
    /// All addresses of IPv4, and all of IPv6.
    pub const ALL: [Network; 2] = [
        Network { ip: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), bits: 0 },
        Network { ip: IpAddr::V6(Ipv6Addr::UNSPECIFIED), bits: 0 },
    ];

    /// Whether the address is in it; one family's addresses are in no network of the other.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                (u32::from(net) ^ u32::from(ip)).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                (u128::from(net) ^ u128::from(ip)).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// `ADDRESS/BITS`; bits behind the prefix do not matter.
impl std::str::FromStr for Network {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').filter(|(_, bits)| bits.bytes().all(|b| b.is_ascii_digit()));
        let parsed =
            parts.and_then(|(ip, bits)| Some((ip.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?)));
        match parsed {
            Some((ip, bits)) if bits <= if ip.is_ipv4() { 32 } else { 128 } => Ok(Network { ip, bits }),
            _ => Err(format!("'{text}' is no network")),
        }
    }
}

/// How a server block is spoken to (CoreDNS's `plugin/pkg/transport`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Over UDP and TCP.
    #[default]
    Dns,
    /// Over TLS (RFC 7858).
    Tls,
    /// Over HTTPS (RFC 8484).
    Https,
    /// Over gRPC, CoreDNS's service `coredns.dns.DnsService`.
    Grpc,
    /// Over QUIC (RFC 9250).
    Quic,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Scheme; 5] = [Scheme::Dns, Scheme::Tls, Scheme::Https, Scheme::Grpc, Scheme::Quic];

    /// `dns`, `tls`, …
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Dns => "dns",
            Scheme::Tls => "tls",
            Scheme::Https => "https",
            Scheme::Grpc => "grpc",
            Scheme::Quic => "quic",
        }
    }

    /// The port where a key names none: `dns_port` for DNS itself (`-dns.port`).
    pub fn port(self, dns_port: u16) -> u16 {
        match self {
            Scheme::Dns => dns_port,
            Scheme::Tls | Scheme::Quic => 853,
            Scheme::Https | Scheme::Grpc => 443,
        }
    }
}

/// One zone of a server block's key, with how and on which port it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerKey {
    /// How.
    pub scheme: Scheme,
    /// In lower case.
    pub zone: Name,
    /// 0: one that the kernel picks.
    pub port: u16,
}

impl std::fmt::Display for ServerKey {
    /// `dns://example.org.:53`, as CoreDNS writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}:{}", self.scheme.as_str(), self.zone, self.port)
    }
}

/// A server block's key: `[SCHEME://]ZONE[:PORT]` (CoreDNS's `core/dnsserver/register.go` and
/// `plugin/normalize.go`). A network is as many keys as it has reverse zones.
///
/// # Errors
/// For schemes that there are not, ports that are none, and what is no zone.
pub fn server_keys(text: &str, dns_port: u16) -> Result<Vec<ServerKey>, String> {
    let (scheme, rest) = match text.split_once("://") {
        Some(("https3", _)) => {
            let message = "https3:// (DNS over HTTP/3) is not Sealane's; use https://";
            return Err(message.to_owned());
        }
        Some((name, rest)) => match Scheme::ALL.into_iter().find(|scheme| scheme.as_str() == name) {
            Some(scheme) => (scheme, rest),
            None => {
                return Err(format!(
                    "'{name}://' is no scheme; there are dns://, tls://, https:// and grpc://"
                ));
            }
        },
        None => (Scheme::Dns, text),
    };
    // What is behind the last colon is a port, but for a network's `::/64`.
    let (zone, port) = match rest.rsplit_once(':') {
        Some((_, "")) => return Err(format!("a port is missing behind the colon of '{text}'")),
        Some((zone, port)) if !port.contains('/') && rest.parse::<IpAddr>().is_err() => {
            (zone, port.parse().map_err(|_| format!("'{port}' is no port"))?)
        }
        _ => (rest, scheme.port(dns_port)),
    };
    let zone = if zone.is_empty() { "." } else { zone };
    Ok(parse_zones(zone)?.into_iter().map(|zone| ServerKey { scheme, zone, port }).collect())
}

/// `IP`, `IP:PORT`, `[IP]:PORT`, with port 53 where none is given.
pub fn upstream(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("dns://").unwrap_or(text);
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53))
}

/// The name servers of a resolv.conf; scoped link-local ones are left out.
pub fn resolv_conf(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten()
        })
        .filter_map(|word| word.parse::<IpAddr>().ok())
        .filter(|ip| !matches!(ip, IpAddr::V6(v6) if *v6 == Ipv6Addr::UNSPECIFIED))
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [("5s", 5000), ("1m30s", 90_000), ("500ms", 500), ("1.5h", 5_400_000), ("0", 0)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in ["", "5", "s", "5x", "-5s", "1..2s", "99999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    /// CoreDNS's `plugin/normalize_test.go` and `plugin/pkg/cidr/cidr_test.go`, and what is at the edges.
    #[test]
    fn zones() {
        let nibbles = |n: usize| "0.".repeat(n) + "8.b.d.0.1.0.0.2.ip6.arpa.";
        for (text, first, last, count) in [
            ("Cluster.Local", "cluster.local.", "cluster.local.", 1),
            (".", ".", ".", 1),
            ("_x.example.org.", "_x.example.org.", "_x.example.org.", 1),
            // RFC 2317: a slash in a name.
            ("0/26.2.0.192.in-addr.arpa", "0/26.2.0.192.in-addr.arpa.", "0/26.2.0.192.in-addr.arpa.", 1),
            ("10.0.0.0/8", "10.in-addr.arpa.", "10.in-addr.arpa.", 1),
            ("10.0.0.0/15", "0.10.in-addr.arpa.", "1.10.in-addr.arpa.", 2),
            ("10.0.0.0/16", "0.10.in-addr.arpa.", "0.10.in-addr.arpa.", 1),
            ("10.9.3.0/18", "0.9.10.in-addr.arpa.", "63.9.10.in-addr.arpa.", 64),
            ("10.96.0.0/12", "96.10.in-addr.arpa.", "111.10.in-addr.arpa.", 16),
            ("10.129.60.0/22", "60.129.10.in-addr.arpa.", "63.129.10.in-addr.arpa.", 4),
            ("10.244.3.0/24", "3.244.10.in-addr.arpa.", "3.244.10.in-addr.arpa.", 1),
            ("192.168.1.1/23", "0.168.192.in-addr.arpa.", "1.168.192.in-addr.arpa.", 2),
            ("192.0.2.9/25", "0.2.0.192.in-addr.arpa.", "127.2.0.192.in-addr.arpa.", 128),
            ("192.0.2.9/32", "9.2.0.192.in-addr.arpa.", "9.2.0.192.in-addr.arpa.", 1),
            ("128.0.0.0/1", "128.in-addr.arpa.", "255.in-addr.arpa.", 128),
            ("0.0.0.0/0", "in-addr.arpa.", "in-addr.arpa.", 1),
            ("2001:db8::/29", "8.b.d.0.1.0.0.2.ip6.arpa.", "f.b.d.0.1.0.0.2.ip6.arpa.", 8),
            ("2001:db8::/30", "8.b.d.0.1.0.0.2.ip6.arpa.", "b.b.d.0.1.0.0.2.ip6.arpa.", 4),
            ("2001:db8::/31", "8.b.d.0.1.0.0.2.ip6.arpa.", "9.b.d.0.1.0.0.2.ip6.arpa.", 2),
            ("2001:DB8::/32", "8.b.d.0.1.0.0.2.ip6.arpa.", "8.b.d.0.1.0.0.2.ip6.arpa.", 1),
            ("2001:db8::/115", &nibbles(21), &("1.".to_owned() + &nibbles(20)), 2),
            ("2001:db8::/114", &nibbles(21), &("3.".to_owned() + &nibbles(20)), 4),
            ("2001:db8::/113", &nibbles(21), &("7.".to_owned() + &nibbles(20)), 8),
            ("2001:db8::/112", &nibbles(20), &nibbles(20), 1),
            ("2001:db8::/108", &nibbles(19), &nibbles(19), 1),
            ("2001:db8::/128", &nibbles(24), &nibbles(24), 1),
        ] {
            let zones = parse_zones(text).unwrap();
            let ends = (zones[0].to_string(), zones[zones.len() - 1].to_string(), zones.len());
            assert_eq!(ends, (first.to_owned(), last.to_owned(), count), "{text}");
        }
        for text in [
            "a..b",
            "10.0.0.0/33",
            "10.0.0/8",
            "010.0.0.0/8",
            "2001:db8::/129",
            "::fFFF:B:F/115",
            "::/0",
            "0:1::/32",
            "x:y",
            "[::1]",
            "a b",
            "example.org{",
            "2001:db8::1",
        ] {
            assert!(parse_zones(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys() {
        for (text, key, count) in [
            (".:53", "dns://.:53", 1),
            (".", "dns://.:1053", 1),
            ("example.org.:53", "dns://example.org.:53", 1),
            ("dns://example.org:54", "dns://example.org.:54", 1),
            (":5353", "dns://.:5353", 1),
            ("dns://:5353", "dns://.:5353", 1),
            ("tls://.", "tls://.:853", 1),
            ("tls://Example.org:5553", "tls://example.org.:5553", 1),
            ("quic://.", "quic://.:853", 1),
            ("https://example.org", "https://example.org.:443", 1),
            ("grpc://.:443", "grpc://.:443", 1),
            ("grpc://", "grpc://.:443", 1),
            ("10.0.0.0/8:53", "dns://10.in-addr.arpa.:53", 1),
            ("tls://10.0.0.0/15", "tls://0.10.in-addr.arpa.:853", 2),
            ("2001:db8::/32", "dns://8.b.d.0.1.0.0.2.ip6.arpa.:1053", 1),
            ("2001:db8::/31:5353", "dns://8.b.d.0.1.0.0.2.ip6.arpa.:5353", 2),
        ] {
            let keys = server_keys(text, 1053).unwrap();
            assert_eq!((keys[0].to_string().as_str(), keys.len()), (key, count), "{text}");
        }
        for (text, why) in [
            ("https3://.", "https3:// (DNS over HTTP/3) is not Sealane's; use https://"),
            ("http://.", "'http://' is no scheme; there are dns://, tls://, https:// and grpc://"),
            (".:x", "'x' is no port"),
            (".:65536", "'65536' is no port"),
            (".:-1", "'-1' is no port"),
            ("example.org:", "a port is missing behind the colon of 'example.org:'"),
            (
                "2001:db8::1",
                "'2001:db8::1' is no zone; write a network (2001:db8::/32) for its reverse zones",
            ),
            ("[::1]:53", "'[::1]' is no zone"),
            ("10.0.0.0/33:53", "'10.0.0.0/33' is no network"),
            ("a b", "'a b' is no zone"),
        ] {
            assert_eq!(server_keys(text, 53).unwrap_err(), why, "{text}");
        }
    }

    #[test]
    fn resolv_conf_lines() {
        let text =
            "# c\nnameserver 10.0.0.2\nsearch a b\n nameserver ::1\nnameserver fe80::1%eth0\nnameserver\n";
        let servers: Vec<String> = resolv_conf(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[::1]:53"]);
    }
}
