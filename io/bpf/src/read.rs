//! What stands in the maps, as frontends.

use crate::BpfError;
use crate::generation::{Generation, PODS};
use crate::raw::{self, Range, Value, flag, target};
use sealane_catalog::NamespacedName;
use sealane_proxy::{Cidr, Class, Frontend, FrontendKey, Installed, Masquerade, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// All frontends, made of what the maps hold and nothing else.
pub(crate) fn frontends(generation: &Generation) -> Result<Installed, BpfError> {
    let sources = sources(generation)?;
    let mut installed = Installed::new();
    for entry in generation.frontends.iter() {
        let (key, value) = entry.map_err(BpfError::map("frontends"))?;
        let key = key.frontend().ok_or(BpfError::Foreign("frontends"))?;
        installed.insert(key, frontend(generation, key, &value, &sources)?);
    }
    Ok(installed)
}

/// Cluster addresses whose other ports are refused.
pub(crate) fn cluster(generation: &Generation) -> Result<BTreeSet<IpAddr>, BpfError> {
    let keys = generation.cluster.keys();
    keys.map(|k| k.map(raw::ip).map_err(BpfError::map("cluster"))).collect()
}

/// The Pods' ranges.
pub(crate) fn pods(generation: &Generation) -> Result<Vec<Cidr>, BpfError> {
    Ok(sources(generation)?.remove(&PODS).unwrap_or_default())
}

/// Source ranges by the id of who has them.
fn sources(generation: &Generation) -> Result<BTreeMap<u32, Vec<Cidr>>, BpfError> {
    let mut sources: BTreeMap<u32, Vec<Cidr>> = BTreeMap::new();
    for key in generation.sources.keys() {
        let key = key.map_err(BpfError::map("sources"))?;
        let source = key.data();
        let address = raw::ip(source.address);
        let before = if address.is_ipv4() { 32 + 96 } else { 32 };
        let bits = key.prefix_len().checked_sub(before).and_then(|b| u8::try_from(b).ok());
        let range = bits.and_then(|b| Cidr::new(address, b)).ok_or(BpfError::Foreign("sources"))?;
        sources.entry(source.id).or_default().push(range);
    }
    Ok(sources)
}

fn frontend(
    generation: &Generation,
    key: FrontendKey,
    value: &Value,
    sources: &BTreeMap<u32, Vec<Cidr>>,
) -> Result<Frontend, BpfError> {
    let target = |kind: u8, range: Range| match kind {
        target::BALANCE => Ok(Some(Target::Balance(generation.places(range)?.into()))),
        target::REJECT => Ok(Some(Target::Reject)),
        target::DROP => Ok(Some(Target::Drop)),
        target::ABSENT => Ok(None),
        _ => Err(BpfError::Foreign("frontends")),
    };
    let has = |flag: u8| value.flags & flag != 0;
    // An admission of nobody is one all the same.
    let ranges = || Cidr::outermost(sources.get(&value.id).into_iter().flatten().copied());
    Ok(Frontend {
        key,
        service: NamespacedName::new("", ""),
        port_name: "".into(),
        class: if has(flag::CLUSTER) { Class::ClusterIp } else { Class::External },
        affinity: has(flag::AFFINITY).then_some(value.affinity),
        masquerade: match value.masquerade {
            0 => Masquerade::Never,
            1 => Masquerade::OffCluster,
            2 => Masquerade::Always,
            _ => return Err(BpfError::Foreign("frontends")),
        },
        target: target(value.target, value.inside)?.ok_or(BpfError::Foreign("frontends"))?,
        sources: has(flag::SOURCES).then(|| Arc::from(ranges())),
        lingering: Arc::default(),
        outside: target(value.outside_target, value.outside)?,
    })
}
