//! `ping [-c N] [-W SECONDS] HOST`: ICMP echo, in busybox's words.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt};

/// Octets after the ICMP header.
const PAYLOAD: usize = 56;

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn echo(id: u16, seq: u16) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(seq.to_be_bytes());
    packet.resize(8 + PAYLOAD, b'.');
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The program.
pub(crate) fn main(arguments: Vec<String>) -> Result<ExitCode, String> {
    let mut count = u16::MAX;
    let mut wait = 1.0f64;
    let mut host = None;
    let mut rest = arguments.into_iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("option requires an argument -- '{word}'"));
        match word.as_str() {
            "-c" => count = value()?.parse().map_err(|_| "invalid number of packets".to_owned())?,
            "-W" | "-i" => wait = value()?.parse().map_err(|_| "invalid number of seconds".to_owned())?,
            other if other.starts_with("-c") => {
                count = other[2..].parse().map_err(|_| "invalid number of packets".to_owned())?;
            }
            "-q" | "-4" | "-n" => {}
            _ => host = Some(word),
        }
    }
    let host = host.ok_or("usage: ping [-c N] HOST")?;
    let address = crate::resolver::addresses(&host)?.into_iter().find_map(|a| match a {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => None,
    });
    let address = address.ok_or_else(|| format!("bad address '{host}'"))?;
    run(&host, address, count, Duration::try_from_secs_f64(wait).unwrap_or(Duration::from_secs(1)))
}

fn run(host: &str, address: Ipv4Addr, count: u16, wait: Duration) -> Result<ExitCode, String> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))
        .map_err(|e| format!("permission denied (are you root?): {e}"))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(wait)).map_err(|e| e.to_string())?;
    println!("PING {host} ({address}): {PAYLOAD} data bytes");
    let id = u16::try_from(std::process::id() & 0xffff).unwrap_or(1);
    let mut times = Vec::new();
    let mut sent = 0u32;
    for seq in 0..count {
        let begun = Instant::now();
        rustix::net::sendto(&socket, &echo(id, seq), SendFlags::empty(), &SocketAddrV4::new(address, 0))
            .map_err(|e| format!("sendto: {e}"))?;
        sent += 1;
        if let Some(ttl) = answered(&socket, id, seq, begun, wait) {
            let ms = begun.elapsed().as_secs_f64() * 1000.0;
            println!("{} bytes from {address}: seq={seq} ttl={ttl} time={ms:.3} ms", 8 + PAYLOAD);
            times.push(ms);
        }
        if seq + 1 < count {
            std::thread::sleep(wait.saturating_sub(begun.elapsed()));
        }
    }
    let received = u32::try_from(times.len()).unwrap_or(0);
    let loss = ((sent - received) * 100).checked_div(sent).unwrap_or(0);
    println!("\n--- {host} ping statistics ---");
    println!("{sent} packets transmitted, {received} packets received, {loss}% packet loss");
    if !times.is_empty() {
        let (min, max) = times.iter().fold((f64::MAX, 0.0f64), |(a, b), t| (a.min(*t), b.max(*t)));
        let average = times.iter().sum::<f64>() / f64::from(received);
        println!("round-trip min/avg/max = {min:.3}/{average:.3}/{max:.3} ms");
    }
    Ok(if received > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for the answer to one echo; its TTL.
fn answered(socket: &rustix::fd::OwnedFd, id: u16, seq: u16, begun: Instant, wait: Duration) -> Option<u8> {
    let mut buffer = [0u8; 2048];
    while begun.elapsed() < wait {
        let (n, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()).ok()?;
        let packet = &buffer[..n];
        let header = usize::from(packet.first()? & 15) * 4;
        let icmp = packet.get(header..)?;
        let same = icmp.len() >= 8
            && icmp[0] == 0
            && icmp[4..6] == id.to_be_bytes()
            && icmp[6..8] == seq.to_be_bytes();
        if same {
            return packet.get(8).copied();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_packet_with_its_checksum_sums_to_nothing() {
        assert_eq!(super::checksum(&super::echo(7, 3)), 0);
        assert_eq!(super::checksum(&[0x45, 0x00, 0x01]), !0x4600);
    }
}
