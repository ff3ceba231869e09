//! What this machine is: its name, its processors, its interfaces and their addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

/// Interfaces and their addresses, in the kernel's order.
pub(crate) fn interfaces() -> BTreeMap<String, Vec<IpAddr>> {
    let mut out: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for (name, ip) in all() {
        out.entry(name).or_default().push(ip);
    }
    out
}

/// The addresses that this machine may be reached at (`plugin/kubernetes/local.go`): all but those of loopback.
pub(crate) fn addresses() -> Vec<IpAddr> {
    all().map(|(_, ip)| ip).filter(|ip| !ip.is_loopback()).collect()
}

/// Without them nothing of what is asked for by them can be found, and that says so.
fn all() -> impl Iterator<Item = (String, IpAddr)> {
    let found = getifaddrs().into_iter().flatten();
    found.filter_map(|interface| Some((interface.interface_name, address(interface.address?)?)))
}

fn address(storage: SockaddrStorage) -> Option<IpAddr> {
    match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
        (Some(v4), _) => Some(v4.ip().into()),
        (_, Some(v6)) => Some(v6.ip().into()),
        _ => None,
    }
}

/// Where to bind: an address that is one on its link alone (RFC 4291 section 2.5.6) needs the link, too.
pub(crate) fn place(ip: IpAddr, port: u16) -> SocketAddr {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            let link = all().find(|(_, own)| *own == ip);
            let index = link.and_then(|(name, _)| nix::net::if_::if_nametoindex(name.as_str()).ok());
            SocketAddrV6::new(v6, port, 0, index.unwrap_or(0)).into()
        }
        ip => SocketAddr::new(ip, port),
    }
}

/// Its name, as `hostname` says it.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Processors that this process may use: by affinity and by the quota of its cgroup.
pub(crate) fn processors() -> u16 {
    let number = std::thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(number).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_an_interface_and_no_address_to_be_reached_at() {
        let interfaces = interfaces();
        assert!(interfaces["lo"].iter().all(IpAddr::is_loopback), "{interfaces:?}");
        assert!(addresses().iter().all(|ip| !ip.is_loopback()));
        assert!(!hostname().is_empty() && processors() > 0);
        let port = |ip: &str| place(ip.parse().unwrap(), 53).to_string();
        assert_eq!(
            (port("10.0.0.1"), port("2001:db8::1")),
            ("10.0.0.1:53".into(), "[2001:db8::1]:53".into())
        );
    }
}
