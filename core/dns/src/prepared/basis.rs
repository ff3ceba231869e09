//! What answers are made from, and what of it changes.

use std::net::IpAddr;

use sealane_catalog::{Delta, Entry};

/// Stands for a Service, a Namespace or an address. Two that share a mark by chance change together, which costs a
/// look and harms nobody.
pub type Mark = u64;

/// Marks of the three sorts.
pub mod marks {
    use std::hash::{DefaultHasher, Hash, Hasher as _};
    use std::net::IpAddr;

    use super::Mark;

    fn mark(sort: u8, thing: impl Hash) -> Mark {
        let mut hasher = DefaultHasher::new();
        (sort, thing).hash(&mut hasher);
        hasher.finish()
    }

    /// A Service with its slices, there or not.
    pub fn service(namespace: &str, name: &str) -> Mark {
        mark(0, (namespace, name))
    }

    /// A Namespace, there or not.
    pub fn namespace(name: &str) -> Mark {
        mark(1, name)
    }

    /// Whatever has this address.
    pub fn address(ip: IpAddr) -> Mark {
        mark(2, ip)
    }
}

/// What an answer was made from, all of it: while none of these changes, the same question has the same answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Basis(pub Vec<Mark>);

/// What is no longer as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Anything.
    All,
    /// Things with these marks.
    Of(Vec<Mark>),
}

impl Changed {
    /// What a new snapshot changes.
    pub(crate) fn by(delta: &Delta) -> Self {
        let mut out = Vec::new();
        for change in &delta.services {
            out.push(marks::service(&change.key.namespace, &change.key.name));
            for entry in [&change.before, &change.after].into_iter().flatten() {
                out.extend(addresses(entry).map(marks::address));
            }
        }
        out.extend(delta.namespaces.iter().map(|change| marks::namespace(&change.key)));
        for change in &delta.pods {
            let pods = [&change.before, &change.after].into_iter().flatten();
            out.extend(pods.flat_map(|pod| &pod.addresses).copied().map(marks::address));
        }
        out.sort_unstable();
        out.dedup();
        Changed::Of(out)
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Changed) -> Self {
        match (self, other) {
            (Changed::Of(mut a), Changed::Of(b)) => {
                a.extend(b);
                Changed::Of(a)
            }
            _ => Changed::All,
        }
    }
}

fn addresses(entry: &Entry) -> impl Iterator<Item = IpAddr> + '_ {
    let own = entry.service.iter().flat_map(|service| &service.cluster_ips).copied();
    let endpoints = entry.slices.iter().flat_map(|slice| &slice.endpoints);
    own.chain(endpoints.map(|endpoint| endpoint.address))
}
