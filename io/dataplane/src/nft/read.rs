//! Reads back what stands in the kernel.

use super::action::{Action, Verdict};
use super::elements::{read_address, read_backend, read_frontend, word_at};
use super::layout::{Family, Set, TABLE, kind};
use crate::message::{AttributeIter, Messages, flags};
use crate::netlink::{Netlink, NetlinkError};
use sealane_catalog::{NamespacedName, Protocol};
use sealane_proxy::{Backend, Cidr, Class, Frontend, FrontendKey, Installed, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A set's elements: keys, and values as their attributes.
fn dump(
    netlink: &mut Netlink,
    family: Family,
    set: Set,
    mut visit: impl FnMut(&[u8], Option<AttributeIter<'_>>),
) -> Result<(), NetlinkError> {
    dump_ranges(netlink, family, set, |key, _, value| visit(key, value))
}

/// As [`dump`], with the end of each element that is a range.
pub(super) fn dump_ranges(
    netlink: &mut Netlink,
    family: Family,
    set: Set,
    mut visit: impl FnMut(&[u8], Option<&[u8]>, Option<AttributeIter<'_>>),
) -> Result<(), NetlinkError> {
    let mut request = Messages::default();
    request.push(kind::GET_ELEMENTS, flags::DUMP, family.number(), |a| {
        a.text(1, TABLE);
        a.text(2, set.name());
    });
    netlink.dump(&request, |message| {
        let attributes = message.attributes();
        for (_, element) in attributes.nest(3).into_iter().flatten() {
            let element = AttributeIter::new(element);
            if let Some(key) = element.nest(1).and_then(|k| k.get(1)) {
                visit(key, element.nest(10).and_then(|k| k.get(1)), element.nest(2));
            }
        }
    })
}

/// The chain of each action: what it does.
fn actions(netlink: &mut Netlink, family: Family) -> Result<BTreeMap<u32, Action>, NetlinkError> {
    let mut actions = BTreeMap::new();
    dump(netlink, family, Set::Actions, |key, value| {
        let verdict = value.and_then(|v| v.nest(2));
        let chain = verdict.as_ref().and_then(|v| v.get(2)).and_then(|c| std::str::from_utf8(c).ok());
        let action = chain.and_then(|c| c.trim_end_matches('\0').parse().ok());
        if let (Some(number), Some(action)) = (word_at(key, 0), action) {
            actions.insert(number, action);
        }
    })?;
    Ok(actions)
}

/// Map `services` or `outside`.
fn served(
    netlink: &mut Netlink,
    family: Family,
    set: Set,
    actions: &BTreeMap<u32, Action>,
) -> Result<BTreeMap<FrontendKey, Action>, NetlinkError> {
    let mut served = BTreeMap::new();
    dump(netlink, family, set, |key, value| {
        let number = value.and_then(|v| v.get(1)).and_then(|v| word_at(v, 0));
        let action = number.and_then(|n| actions.get(&n));
        if let (Some((key, _)), Some(action)) = (read_frontend(key, family), action) {
            served.insert(key, *action);
        }
    })?;
    Ok(served)
}

/// Addresses and ports of UDP that rules lead from, whoever wrote them.
pub(super) fn udp(netlink: &mut Netlink, family: Family) -> Result<BTreeSet<FrontendKey>, NetlinkError> {
    let mut found = BTreeSet::new();
    dump(netlink, family, Set::Services, |key, _| {
        found.extend(read_frontend(key, family).map(|(key, _)| key).filter(|k| k.protocol == Protocol::Udp));
    })?;
    Ok(found)
}

/// The prefix that begins and ends so.
fn range(first: IpAddr, last: IpAddr) -> Option<Cidr> {
    let longest = if first.is_ipv4() { 32 } else { 128 };
    (0..=longest)
        .filter_map(|bits| Cidr::new(first, bits))
        .find(|range| range.network() == first && range.last() == last)
}

/// Frontends as packets meet them. Whose they are the kernel does not know: names are empty. An endpoint that a
/// chain would look for in vain is missing among the backends.
pub(super) fn frontends(netlink: &mut Netlink, family: Family) -> Result<Installed, NetlinkError> {
    let actions = actions(netlink, family)?;
    let inside = served(netlink, family, Set::Services, &actions)?;
    let outside = served(netlink, family, Set::Outside, &actions)?;
    let mut endpoints: BTreeMap<(FrontendKey, u32), Backend> = BTreeMap::new();
    dump(netlink, family, Set::Endpoints, |key, value| {
        let backend = value.and_then(|v| v.get(1)).and_then(|v| read_backend(v, family));
        if let (Some((frontend, at)), Some(backend)) = (read_frontend(key, family), backend)
            && let Some(index) = word_at(key, at)
        {
            endpoints.insert((frontend, index), backend);
        }
    })?;
    let mut cluster: BTreeSet<IpAddr> = BTreeSet::new();
    dump(netlink, family, Set::Cluster, |key, _| cluster.extend(read_address(key, family)))?;
    let mut sources: BTreeMap<FrontendKey, Vec<Cidr>> = BTreeMap::new();
    dump_ranges(netlink, family, Set::Sources, |key, end, _| {
        if let Some((frontend, at)) = read_frontend(key, family)
            && let Some(first) = key.get(at..).and_then(|k| read_address(k, family))
            && let Some(last) = end.and_then(|e| e.get(at..)).and_then(|e| read_address(e, family))
            && let Some(range) = range(first, last)
        {
            sources.entry(frontend).or_default().push(range);
        }
    })?;
    let target = |key: &FrontendKey, action: &Action| match action.verdict {
        Verdict::Reject => Target::Reject,
        Verdict::Drop => Target::Drop,
        Verdict::Balance { count, offset } => Target::Balance(
            (offset..offset + count).filter_map(|index| endpoints.get(&(*key, index)).copied()).collect(),
        ),
    };
    let installed = inside.iter().map(|(key, action)| {
        let outside = outside.get(key).filter(|_| action.split);
        let is_cluster = cluster.contains(&key.address);
        let frontend = Frontend {
            key: *key,
            service: NamespacedName { namespace: "".into(), name: "".into() },
            port_name: "".into(),
            class: if is_cluster { Class::ClusterIp } else { Class::External },
            affinity: action.affinity.or(outside.and_then(|a| a.affinity)),
            masquerade: action.masquerade,
            target: target(key, action),
            sources: action
                .guarded
                .then(|| Cidr::outermost(sources.get(key).into_iter().flatten().copied()).into()),
            lingering: Arc::default(),
            outside: outside.map(|a| target(key, a)),
        };
        (*key, frontend)
    });
    Ok(installed.collect())
}
