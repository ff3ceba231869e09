//! Network namespaces, and which links lead out of one.

use crate::BpfError;
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

/// The calling thread's.
pub(crate) const PATH: &str = "/proc/thread-self/ns/net";

/// Opens the calling thread's.
pub(crate) fn current() -> Result<File, BpfError> {
    let path = Path::new(PATH);
    File::open(path).map_err(|why| BpfError::File { path: path.into(), why })
}

/// Does something in each of some namespaces, in order, on a thread of its own: who enters a namespace does not come
/// back.
pub(crate) fn within<'a, T: Send>(
    namespaces: impl IntoIterator<Item = &'a File> + Send,
    mut work: impl FnMut() -> Result<T, BpfError> + Send,
) -> Result<Vec<T>, BpfError> {
    let each = || {
        let enter = |namespace: &File| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(BpfError::Namespace)
        };
        namespaces.into_iter().map(|namespace| enter(namespace).and_then(|()| work())).collect()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("proxy-namespace".to_owned());
        let thread = thread.spawn_scoped(scope, each).map_err(|_| BpfError::Namespace(Errno::AGAIN))?;
        thread.join().map_err(|_| BpfError::Namespace(Errno::CANCELED))?
    })
}

/// Links of the calling thread's namespace that a default route leads out by: who is outside comes in by them.
pub(crate) fn outside() -> Vec<String> {
    let read = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    by_default_routes(&read("route"), &read("ipv6_route"))
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
}
