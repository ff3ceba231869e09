//! What the kernel keeps from a UDP socket: a part of what some clients send (SO_ATTACH_FILTER in socket(7), classic BPF,
//! Documentation/networking/filter.rst). It is let go before it is in the socket's queue, at the cost of a few
//! comparisons, and on the processor that took it in.

use std::io::Result;
use std::net::{IpAddr, UdpSocket};

use socket2::{SockFilter, SockRef};

/// Code, jump if so, jump if not, operand.
type Step = (u16, u8, u8, u32);

const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const SKIP: u16 = 0x05;
const RETURN: u16 = 0x06;
/// Where the IP header is (`SKF_NET_OFF`), and a random number (`SKF_AD_RANDOM`).
const IP: u32 = 0xfff0_0000;
const RANDOM: u32 = 0xffff_f000 + 56;
/// Sources in IPv4's header, and in IPv6's.
const V4_SOURCE: u32 = IP + 12;
const V6_SOURCE: u32 = IP + 8;

const ALL: Step = (RETURN, 0, 0, u32::MAX);
const NOTHING: Step = (RETURN, 0, 0, 0);

/// Lets a share of what these clients send through, of `u32::MAX`, and all of what others send; for nobody: as it was.
///
/// # Errors
/// What the kernel has against it.
pub(crate) fn set(socket: &UdpSocket, shares: &[(IpAddr, u32)]) -> Result<()> {
    let socket = SockRef::from(socket);
    if shares.is_empty() {
        return socket.detach_filter();
    }
    let steps = program(shares);
    let filters =
        steps.into_iter().map(|(code, then, otherwise, k)| SockFilter::new(code, then, otherwise, k));
    socket.attach_filter(&filters.collect::<Vec<_>>())
}

/// Looks for the source among the clients of its family. An IPv6 socket takes in IPv4, too.
fn program(shares: &[(IpAddr, u32)]) -> Vec<Step> {
    let (mut v4, mut v6) = (vec![(LOAD_WORD, 0, 0, V4_SOURCE)], Vec::new());
    for (client, share) in shares {
        let draw = [(LOAD_WORD, 0, 0, RANDOM), (IF_GREATER, 0, 1, *share), NOTHING, ALL];
        match client.to_canonical() {
            IpAddr::V4(client) => {
                v4.push((IF_EQUAL, 0, draw.len() as u8, client.to_bits()));
                v4.extend(draw);
            }
            IpAddr::V6(client) => {
                let words = client.octets();
                let words = words.as_chunks().0.iter().map(|word: &[u8; 4]| u32::from_be_bytes(*word));
                for (place, word) in (0..).zip(words) {
                    let rest = 2 * (3 - place as u8) + draw.len() as u8;
                    v6.push((LOAD_WORD, 0, 0, V6_SOURCE + 4 * place));
                    v6.push((IF_EQUAL, 0, rest, word));
                }
                v6.extend(draw);
            }
        }
    }
    v4.push(ALL);
    v6.push(ALL);
    let mut out =
        vec![(LOAD_BYTE, 0, 0, IP), (AND, 0, 0, 0xf0), (IF_EQUAL, 1, 0, 0x40), (SKIP, 0, 0, v4.len() as u32)];
    out.extend(v4);
    out.extend(v6);
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What comes of a packet from a client, with this random number, as the kernel has it.
    fn passes(steps: &[Step], client: IpAddr, random: u32) -> bool {
        let word = |bytes: &[u8], at: u32| {
            let at = at as usize;
            u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
        };
        let mut header = vec![if client.is_ipv4() { 0x45 } else { 0x60 }; 40];
        match client {
            IpAddr::V4(client) => header[12..16].copy_from_slice(&client.octets()),
            IpAddr::V6(client) => header[8..24].copy_from_slice(&client.octets()),
        }
        let (mut at, mut held) = (0, 0);
        loop {
            let (code, then, otherwise, k) = steps[at];
            at += 1;
            let jump = |so: bool| usize::from(if so { then } else { otherwise });
            match code {
                LOAD_WORD if k == RANDOM => held = random,
                LOAD_WORD => held = word(&header, k - IP),
                LOAD_BYTE => held = header[(k - IP) as usize].into(),
                AND => held &= k,
                IF_EQUAL => at += jump(held == k),
                IF_GREATER => at += jump(held > k),
                SKIP => at += k as usize,
                RETURN => return k > 0,
                _ => panic!("{code:#x}"),
            }
        }
    }

    #[test]
    fn a_share_of_some_and_all_of_others() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (half, one) = (u32::MAX / 2, 1);
        let shares = [
            ("192.0.2.1", half),
            ("2001:db8::1", half),
            ("192.0.2.2", one),
            ("::ffff:192.0.2.3", half),
            ("2001:db8::1:1", one),
        ]
        .map(|(client, share)| (ip(client), share));
        let steps = program(&shares);
        for (client, least) in [
            ("192.0.2.1", half),
            ("192.0.2.2", one),
            ("192.0.2.3", half),
            ("192.0.2.4", u32::MAX),
            ("2001:db8::1", half),
            ("2001:db8::1:1", one),
            ("2001:db8::2", u32::MAX),
            ("2001:db8:0:1::1", u32::MAX),
            ("::1", u32::MAX),
        ] {
            let client = ip(client);
            assert!(passes(&steps, client, 0) && passes(&steps, client, least), "{client}");
            assert!(least == u32::MAX || !passes(&steps, client, least + 1), "{client}");
        }
        // What the kernel takes (BPF_MAXINSNS), however many there are.
        let many: Vec<(IpAddr, u32)> =
            (0..32u16).map(|n| ([0x2001, 0xdb8, 0, 0, 0, 0, 0, n].into(), 1)).collect();
        assert!(program(&many).len() < 4096);
    }

    /// Sent from loopback's addresses to a socket of either family.
    #[test]
    fn the_kernel_obeys() {
        for (bound, to, clients) in [
            ("127.0.0.1:0", "127.0.0.1", ["127.0.0.2", "127.0.0.3"]),
            ("[::]:0", "127.0.0.1", ["127.0.0.2", "127.0.0.3"]),
            ("[::1]:0", "::1", ["::1", "::1"]),
        ] {
            let socket = UdpSocket::bind(bound).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let to = (to.parse::<IpAddr>().unwrap(), socket.local_addr().unwrap().port());
            let clients = clients.map(|client| UdpSocket::bind((client, 0)).unwrap());
            let came = |what: u8| {
                for (client, number) in clients.iter().zip(0..) {
                    client.send_to(&[what, number], to).unwrap();
                }
                // It comes last.
                let last = UdpSocket::bind((if to.0.is_ipv4() { "127.0.0.9" } else { "::1" }, 0)).unwrap();
                last.send_to(&[what, 9], to).unwrap();
                let mut all = Vec::new();
                let mut buffer = [0; 2];
                loop {
                    socket.recv(&mut buffer).unwrap();
                    assert_eq!(buffer[0], what);
                    if buffer[1] == 9 {
                        return all;
                    }
                    all.push(buffer[1]);
                }
            };
            assert_eq!(came(0), [0, 1], "{bound}");
            if to.0.is_ipv4() {
                set(&socket, &[([127, 0, 0, 2].into(), 0), ([192, 0, 2, 1].into(), 0)]).unwrap();
                assert_eq!(came(1), [1], "{bound}");
                set(&socket, &[([127, 0, 0, 2].into(), u32::MAX), ([127, 0, 0, 3].into(), 0)]).unwrap();
                assert_eq!(came(2), [0], "{bound}");
            } else {
                set(&socket, &["2001:db8::1", "::2"].map(|ip| (ip.parse().unwrap(), 0))).unwrap();
                assert_eq!(came(1), [0, 1], "{bound}");
                set(&socket, &[(to.0, 0)]).unwrap();
                clients[0].send_to(&[9, 9], to).unwrap();
            }
            set(&socket, &[]).unwrap();
            assert_eq!(came(3), [0, 1], "{bound}");
        }
    }
}
