//! Which links lead out of a network namespace: who is outside comes in by them.

use crate::BpfError;
use crate::netlink::{ACK, DUMP, Netlink, attributes};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use sealane_proxy::Cidr;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Lengths of `struct ifinfomsg` and `struct ifaddrmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;
/// `ARPHRD_ETHER`: the programs read packets behind an Ethernet header.
const ETHERNET: u16 = 1;

/// The number of a link of the calling thread's network namespace; `None`: it is not there.
pub(crate) fn number(link: &str) -> Option<u32> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    rustix::net::netdevice::name_to_index(&socket, link).ok()
}

/// Links of the calling thread's namespace that a default route leads out by, and those that have one of these
/// addresses, of Ethernet's kind all of them. An address in a Pods' range is that of the link to Pods.
pub(crate) fn outward(own: &[IpAddr], pods: &[Cidr]) -> Result<Vec<String>, BpfError> {
    let read = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    let mut numbers: BTreeSet<u32> =
        by_default_routes(&read("route"), &read("ipv6_route")).iter().filter_map(|l| number(l)).collect();
    let mut netlink = Netlink::open(None).map_err(BpfError::Links)?;
    let addresses = addresses(&mut netlink).map_err(BpfError::Links)?;
    let outer = own.iter().filter(|own| !pods.iter().any(|range| range.contains(**own)));
    numbers.extend(outer.filter_map(|own| addresses.get(own)));
    let socket =
        rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).map_err(BpfError::Links)?;
    let mut links = Vec::new();
    for number in numbers {
        match kind(&mut netlink, number) {
            Ok(ETHERNET) => {}
            // Deleted a moment ago.
            Ok(_) | Err(Errno::NODEV) => continue,
            Err(why) => return Err(BpfError::Links(why)),
        }
        links.extend(rustix::net::netdevice::index_to_name(&socket, number));
    }
    Ok(links)
}

/// All addresses, with their links' numbers.
fn addresses(netlink: &mut Netlink) -> Result<BTreeMap<IpAddr, u32>, Errno> {
    let mut found = BTreeMap::new();
    netlink.ask(RTM_GETADDR, DUMP, &[0; ADDRESS], |body| found.extend(address(body)))?;
    Ok(found)
}

/// `struct ifaddrmsg`: family, prefix, flags, scope, and the link's number. Where a peer's address is given, the own one
/// is apart.
fn address(body: &[u8]) -> Option<(IpAddr, u32)> {
    let index = u32::from_ne_bytes(body.get(4..ADDRESS)?.try_into().ok()?);
    let all: BTreeMap<u16, &[u8]> = attributes(body.get(ADDRESS..)?).collect();
    let octets = *all.get(&IFA_LOCAL).or_else(|| all.get(&IFA_ADDRESS))?;
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from));
    address.ok().map(|address| (address, index))
}

/// What kind of device a link is (`ARPHRD_…`).
fn kind(netlink: &mut Netlink, number: u32) -> Result<u16, Errno> {
    let mut body = [0; LINK];
    body[4..8].copy_from_slice(&number.to_ne_bytes());
    let mut kind = 0;
    netlink.ask(RTM_GETLINK, ACK, &body, |body| {
        kind = body.get(2..4).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes);
    })?;
    Ok(kind)
}

/// Of IPv4: link, destination, gateway, flags, ..., and the mask in the eighth place. Of IPv6: destination, its length,
/// and the link at the end; the kernel's own refusal has `lo`.
fn by_default_routes(ipv4: &str, ipv6: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let zero = |word: &str| word.bytes().all(|b| b == b'0');
    let default4 = ipv4.lines().skip(1).map(words).filter(|w| w.len() > 7 && zero(&w[1]) && zero(&w[7]));
    let default6 = ipv6.lines().map(words).filter(|w| w.len() > 9 && zero(&w[0]) && zero(&w[1]));
    let links = default4.map(|w| w[0].clone()).chain(default6.map(|w| w[9].clone()));
    links.filter(|link| link != "lo").collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_default_routes() {
        let ipv4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                    eth0\t00000000\t020200C0\t0003\t0\t0\t9\t00000000\t0\t0\t0\n";
        let nothing = "00000000000000000000000000000000";
        let ipv6 = format!(
            "fd000000000000000000000000000000 40 {nothing} 00 {nothing} 00000100 00000001 00000000 00000001     eth1\n\
             {nothing} 00 {nothing} 00 fd000000000000000000000000000001 00000400 00000003 00000000 00000003     eth2\n\
             {nothing} 00 {nothing} 00 {nothing} ffffffff 00000001 00000000 00200200       lo\n"
        );
        assert_eq!(by_default_routes(ipv4, &ipv6), ["eth0", "eth2"]);
        assert_eq!(by_default_routes("", "garbage"), Vec::<String>::new());
    }

    #[test]
    fn addresses_have_links() {
        let mut netlink = Netlink::open(None).unwrap();
        let all = addresses(&mut netlink).unwrap();
        let lo = number("lo").unwrap();
        assert_eq!(all.get(&IpAddr::from([127, 0, 0, 1])), Some(&lo), "{all:?}");
        assert_ne!(kind(&mut netlink, lo).unwrap(), ETHERNET);
        assert_eq!(kind(&mut netlink, u32::MAX >> 1), Err(Errno::NODEV));
        assert!(!outward(&[IpAddr::from([127, 0, 0, 1])], &[]).unwrap().contains(&"lo".to_owned()));
    }
}
