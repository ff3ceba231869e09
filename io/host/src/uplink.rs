//! What leads from the machine to a network namespace of Sealane's and from there to the outside: to the one node, or to
//! the network of several.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use crate::HostError;
use crate::netlink::Socket;
use crate::nft::{self, Outward};
use crate::outside::{self, Forwarding, Helper};
use crate::ranges::{self, Cidr, Wanted};
use crate::tree::step;
use crate::{cgroup, links};

/// The MTU of Pod links: what the host's links carry at most nearly everywhere, bytes.
const MTU: u32 = 1500;

/// Whom it links, and what is behind.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    /// All of it is in an ordinary user's namespace: the host has no link.
    pub(crate) rootless: bool,
    /// The host's address on the link.
    pub(crate) host: Ipv4Addr,
    /// The namespace's.
    pub(crate) inner: Ipv4Addr,
    /// The Pods' range, which is reached by way of it.
    pub(crate) pods: Cidr,
    /// Whatever else is.
    pub(crate) others: Vec<Cidr>,
    /// Services are rewritten there: what the host sends may have to go back the way it came.
    pub(crate) services: bool,
}

/// An open way; the masquerade and the program that carries an ordinary user's traffic go with it. The host's link
/// is removed by [`close`].
pub(crate) struct Uplink {
    /// While they are open, masquerade is there.
    _masquerade: Vec<Socket>,
    _helper: Option<Helper>,
}

impl Uplink {
    /// Links the namespace.
    pub(crate) fn open(
        ends: Ends,
        namespace: &OwnedFd,
        forwarding: Option<&Forwarding>,
    ) -> Result<Uplink, HostError> {
        if ends.rootless { by_program(ends.pods, namespace) } else { by_host(ends, namespace, forwarding) }
    }
}

/// Readies this machine: room for files and cgroups, ranges that nobody else has.
pub(crate) fn prepare(rootless: bool, pods: Cidr, services: Cidr) -> Result<(), HostError> {
    raise_file_limit();
    if !rootless && let Err(error) = cgroup::make_room() {
        tracing::warn!("containers run without memory and CPU limits: cgroups: {error}");
    }
    let host = Socket::route().map_err(|error| step("open a netlink socket", error))?;
    let taken =
        links::routes(&host, links::HOST_LINK).map_err(|error| step("read the host's routes", error))?;
    ranges::check(
        &[Wanted { option: "--pod-cidr", range: pods }, Wanted { option: "--service-cidr", range: services }],
        &taken,
    )
}

/// The MTU of Pod links on this machine, bytes.
pub(crate) fn mtu(rootless: bool) -> u32 {
    if rootless { MTU } else { outside::mtu().unwrap_or(MTU).min(MTU) }
}

/// Removes the host's link, which the kernel would remove with the old namespace, were it not for sockets there.
pub(crate) fn close(rootless: bool) -> Result<(), HostError> {
    if rootless {
        return Ok(());
    }
    Socket::route()
        .and_then(|host| links::remove_host_link(&host))
        .map_err(|error| step("remove the host's link to the node", error))
}

/// Makes the calling thread's network namespace a router.
pub(crate) fn route_packets() -> Result<(), HostError> {
    for (name, value) in [
        ("ip_forward", "1"),
        // Replies to rewritten Service traffic may come by another link than the route says.
        ("conf/all/rp_filter", "0"),
        ("conf/default/rp_filter", "0"),
        // Between two Pods the way by the gateway is no detour to be told of.
        ("conf/all/send_redirects", "0"),
        ("conf/default/send_redirects", "0"),
    ] {
        set(name, value)?;
    }
    Ok(())
}

/// Sets one of `net/ipv4` in the calling thread's network namespace.
pub(crate) fn set(name: &str, value: &str) -> Result<(), HostError> {
    fs::write(Path::new("/proc/sys/net/ipv4").join(name), value).map_err(|error| {
        step(
            format!(
                "set net/ipv4/{name} in the node's network (inside a container: is /proc/sys read-only?)"
            ),
            error,
        )
    })
}

/// Every Pod takes some files of this process and of the launcher, which inherits the limit.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // With the limit as it is, fewer Pods run.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Tries for up to two seconds: the kernel takes what a killed run had down in the background.
fn patiently<T>(mut run: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..100 {
        match run() {
            // A link of this name; a table of this name with another owner.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::PermissionDenied) =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
    run()
}

/// The link, routes and masquerade on the host.
fn by_host(ends: Ends, namespace: &OwnedFd, forwarding: Option<&Forwarding>) -> Result<Uplink, HostError> {
    let Ends { host: host_address, inner, pods, others, services, .. } = ends;
    let ranges = [&[pods][..], &others].concat();
    let failed = |error| step("link the host to the node", error);
    let host = Socket::route().map_err(failed)?;
    patiently(|| links::make_host_link(&host, namespace.as_fd(), host_address, inner, &ranges))
        .map_err(failed)?;
    outside::within(namespace, move || links::make_uplink(host_address, inner)).map_err(failed)?;
    let outward = Outward::NotBy(links::HOST_LINK);
    let masquerade = patiently(|| nft::masquerade("sealane-host", pods, outward))
        .map_err(|error| step("let Pods reach the outside", error))?;
    let mut masquerade = vec![masquerade];
    if services {
        // The host connects to a Service whose endpoint is outside, or is the host: it takes no packet that has its own
        // address for a source.
        let own = Cidr { network: host_address, prefix: 32 };
        let back = outside::within(namespace, move || {
            patiently(|| nft::masquerade("sealane-back", own, Outward::By(links::UPLINK)))
        });
        masquerade.push(back.map_err(|error| step("let the host reach endpoints outside", error))?);
    }
    if let Some(forwarding) = forwarding {
        forwarding.turn_on().map_err(|error| step("turn net.ipv4.ip_forward on", error))?;
    }
    Ok(Uplink { _masquerade: masquerade, _helper: None })
}

/// The way outside of an ordinary user's Pods, where a program for it is installed.
fn by_program(pods: Cidr, namespace: &OwnedFd) -> Result<Uplink, HostError> {
    // Everything within the cluster works without it.
    let why = match outside::start_helper(namespace) {
        Ok(Some(helper)) => {
            let masquerade = outside::within(namespace, move || {
                nft::masquerade("sealane-host", pods, Outward::By(outside::TAP))
            });
            let masquerade = masquerade.map_err(|error| step("let Pods reach the outside", error))?;
            return Ok(Uplink { _masquerade: vec![masquerade], _helper: Some(helper) });
        }
        Ok(None) => "install pasta (package passt) or slirp4netns, or run as root".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::warn!("Pods do not reach the outside: {why}");
    Ok(Uplink { _masquerade: Vec::new(), _helper: None })
}
