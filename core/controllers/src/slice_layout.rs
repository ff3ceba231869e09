//! How endpoints are laid out over slices: as few writes as can be, endpoints stay in their slices
//! (`reconcileByPortMapping`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

/// Endpoints in a slice at most (`--max-endpoints-per-slice`).
pub(crate) const MAX_ENDPOINTS: usize = 100;

/// What becomes of a Service's slices of one address family.
#[derive(Default)]
pub(crate) struct Layout {
    /// New ones, without metadata.
    pub(crate) create: Vec<EndpointSlice>,
    /// With other content.
    pub(crate) update: Vec<EndpointSlice>,
    /// Not needed any more.
    pub(crate) delete: Vec<EndpointSlice>,
    /// As they are.
    pub(crate) unchanged: Vec<EndpointSlice>,
    /// When a Pod's readiness last changed, by its name.
    pub(crate) times: BTreeMap<String, Timestamp>,
}

type Wanted = (Vec<EndpointPort>, BTreeMap<String, Endpoint>);

/// Lays `desired` out over the slices `held`; `labelled` says whether a slice's labels are as they should be.
pub(crate) fn lay_out(
    held: Vec<EndpointSlice>,
    desired: Vec<Wanted>,
    labelled: impl Fn(&EndpointSlice) -> bool,
) -> Layout {
    let mut layout = Layout::default();
    let mut rest = held;
    for (ports, endpoints) in desired {
        let same = |s: &EndpointSlice| s.ports.as_deref().unwrap_or(&[]) == ports;
        let (mine, others) = rest.into_iter().partition(same);
        rest = others;
        one_port_map(mine, ports, endpoints, &labelled, &mut layout);
    }
    layout.delete.extend(rest);
    layout
}

fn len(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

fn one_port_map(
    held: Vec<EndpointSlice>,
    ports: Vec<EndpointPort>,
    mut wanted: BTreeMap<String, Endpoint>,
    labelled: &impl Fn(&EndpointSlice) -> bool,
    layout: &mut Layout,
) {
    let mut update: Vec<EndpointSlice> = Vec::new();
    let mut unchanged: Vec<EndpointSlice> = Vec::new();
    for mut slice in held {
        let old = slice.endpoints.take().unwrap_or_default();
        let mut changed = !labelled(&slice);
        let mut kept = Vec::with_capacity(old.len());
        for endpoint in &old {
            let name = endpoint.target_ref.as_ref().and_then(|t| t.name.as_deref()).unwrap_or("");
            // The same Pod by uid and address; a namesake is another endpoint.
            let same = wanted.get(name).is_some_and(|w| {
                w.addresses == endpoint.addresses
                    && w.target_ref.as_ref().map(|t| &t.uid) == endpoint.target_ref.as_ref().map(|t| &t.uid)
            });
            if same && let Some(mut new) = wanted.remove(name) {
                new.hints.clone_from(&endpoint.hints);
                changed |= new != *endpoint;
                kept.push(new);
            }
        }
        changed |= kept.len() != old.len();
        if kept.is_empty() {
            slice.endpoints = Some(old);
            layout.delete.push(slice);
            continue;
        }
        slice.endpoints = Some(kept);
        if changed { update.push(slice) } else { unchanged.push(slice) }
    }
    // The fullest slices that are written anyway are filled first.
    update.sort_by_key(|s| std::cmp::Reverse(len(s)));
    let mut left: std::collections::VecDeque<Endpoint> = wanted.into_values().collect();
    for slice in &mut update {
        fill(slice, &mut left);
    }
    while !left.is_empty() {
        // Then the one whose free room what is left fits best; then a new one.
        let best = unchanged
            .iter()
            .enumerate()
            .filter(|(_, s)| len(s) + left.len() <= MAX_ENDPOINTS)
            .max_by_key(|(at, s)| (len(s), std::cmp::Reverse(*at)))
            .map(|(at, _)| at);
        match best {
            Some(at) => {
                let mut slice = unchanged.remove(at);
                fill(&mut slice, &mut left);
                update.push(slice);
            }
            None => {
                let mut slice = EndpointSlice { ports: Some(ports.clone()), ..EndpointSlice::default() };
                fill(&mut slice, &mut left);
                layout.create.push(slice);
            }
        }
    }
    layout.update.extend(update);
    layout.unchanged.extend(unchanged);
}

fn fill(slice: &mut EndpointSlice, left: &mut std::collections::VecDeque<Endpoint>) {
    let endpoints = slice.endpoints.get_or_insert_default();
    while endpoints.len() < MAX_ENDPOINTS
        && let Some(endpoint) = left.pop_front()
    {
        endpoints.push(endpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn endpoint(n: usize) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.0.{}.{}", n / 250, n % 250)],
            target_ref: Some(ObjectReference {
                name: Some(format!("p{n:04}")),
                ..ObjectReference::default()
            }),
            ..Endpoint::default()
        }
    }

    fn wanted(range: impl Iterator<Item = usize>) -> Vec<Wanted> {
        let set: BTreeMap<_, _> = range.map(|n| (format!("p{n:04}"), endpoint(n))).collect();
        if set.is_empty() { Vec::new() } else { vec![(Vec::new(), set)] }
    }

    fn named(slices: Vec<EndpointSlice>) -> Vec<EndpointSlice> {
        let name = |n: usize| ObjectMeta { name: Some(format!("s{n}")), ..ObjectMeta::default() };
        slices.into_iter().enumerate().map(|(n, s)| EndpointSlice { metadata: name(n), ..s }).collect()
    }

    #[test]
    fn a_change_writes_one_slice() {
        let layout = lay_out(Vec::new(), wanted(0..250), |_| true);
        let sizes: Vec<usize> = layout.create.iter().map(len).collect();
        assert_eq!(sizes, [100, 100, 50]);
        let slices = named(layout.create);
        for (change, expected) in [
            // (what is wanted, (created, updated, deleted, unchanged))
            (wanted(0..250), (0, 0, 0, 3)),
            (wanted(0..251), (0, 1, 0, 2)),
            (wanted(1..250), (0, 1, 0, 2)),
            (wanted(1..251), (0, 1, 0, 2)),
            (wanted(0..200), (0, 0, 1, 2)),
            (wanted(0..350), (1, 0, 0, 3)),
            (wanted(0..0), (0, 0, 3, 0)),
        ] {
            let l = lay_out(slices.clone(), change, |_| true);
            assert_eq!((l.create.len(), l.update.len(), l.delete.len(), l.unchanged.len()), expected);
            assert!(l.create.iter().chain(&l.update).all(|s| len(s) <= MAX_ENDPOINTS));
        }
    }
}
