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

/// Zones of a word: a name, or the reverse zones of a prefix (`10.96.0.0/12` is sixteen of them).
///
/// # Errors
/// Where it is neither.
pub fn parse_zones(text: &str) -> Result<Vec<Name>, String> {
    if let Some((address, bits)) = text.split_once('/')
        && let (Ok(ip), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse::<u32>())
    {
        return reverse_zones(ip, bits).ok_or_else(|| format!("'{text}' is no network"));
    }
    let name: Name = text.parse().map_err(|e| format!("'{text}' is no zone: {e}"))?;
    if text.contains(['/', ':', '{', '}']) {
        return Err(format!("'{text}' is no zone"));
    }
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

/// A server block's key: `[dns://]ZONE[:PORT]`.
pub(super) fn server_key(text: &str, default_port: u16) -> Result<Vec<(Name, u16)>, String> {
    let rest = match text.split_once("://") {
        Some(("dns", rest)) => rest,
        Some((scheme, _)) => return Err(format!("{scheme}:// is not Sealane's yet; remove it")),
        None => text,
    };
    let (zone, port) = match rest.rsplit_once(':') {
        // `::1/64` and the like are networks, not ports.
        Some((zone, port)) if !zone.contains(':') || zone.ends_with(']') => {
            (zone, port.parse().map_err(|_| format!("'{port}' is no port"))?)
        }
        _ => (rest, default_port),
    };
    let zone = if zone.is_empty() { "." } else { zone };
    Ok(parse_zones(zone)?.into_iter().map(|zone| (zone, port)).collect())
}

/// `IP`, `IP:PORT`, `[IP]:PORT`, with port 53 where none is given.
pub(super) fn upstream(text: &str) -> Option<SocketAddr> {
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

    #[test]
    fn zones() {
        for (text, first, count) in [
            ("Cluster.Local", "cluster.local.", 1),
            ("10.244.3.0/24", "3.244.10.in-addr.arpa.", 1),
            ("10.96.0.0/12", "96.10.in-addr.arpa.", 16),
            ("2001:db8::/31", "8.b.d.0.1.0.0.2.ip6.arpa.", 2),
            ("0.0.0.0/0", "in-addr.arpa.", 1),
            (".", ".", 1),
        ] {
            let zones = parse_zones(text).unwrap();
            assert_eq!((zones[0].to_string().as_str(), zones.len()), (first, count), "{text}");
        }
        for text in ["a..b", "10.0.0.0/33", "a/b", "x:y"] {
            assert!(parse_zones(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys() {
        for (text, zone, port) in [
            (".:53", ".", 53),
            (".", ".", 1053),
            ("dns://example.org:54", "example.org.", 54),
            (":5353", ".", 5353),
            ("10.0.0.0/8:53", "10.in-addr.arpa.", 53),
        ] {
            let keys = server_key(text, 1053).unwrap();
            assert_eq!((keys[0].0.to_string().as_str(), keys[0].1), (zone, port), "{text}");
        }
        assert_eq!(server_key("tls://.", 53).unwrap_err(), "tls:// is not Sealane's yet; remove it");
        assert_eq!(server_key(".:x", 53).unwrap_err(), "'x' is no port");
    }

    #[test]
    fn resolv_conf_lines() {
        let text =
            "# c\nnameserver 10.0.0.2\nsearch a b\n nameserver ::1\nnameserver fe80::1%eth0\nnameserver\n";
        let servers: Vec<String> = resolv_conf(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[::1]:53"]);
    }
}
