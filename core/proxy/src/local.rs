//! How many Service ports keep to this node and find nobody there (`sync_proxy_rules_no_local_endpoints_total`).

use crate::{Change, Class, Frontend, Target};
use sealane_catalog::NamespacedName;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Internal or external traffic policy; IPv4 or IPv6; Service and port.
type Port = (bool, bool, NamespacedName, Arc<str>);

/// Service ports with policy Local, with endpoints, and with none of them on this node.
#[derive(Clone, Debug, Default)]
pub struct Unserved {
    /// How many of a port's frontends drop.
    ports: BTreeMap<Port, usize>,
    counts: [[u64; 2]; 2],
}

/// What a frontend adds; nothing where it serves.
fn port(frontend: &Frontend) -> Option<Port> {
    let external = frontend.class == Class::External;
    let drops = match external {
        false => frontend.target == Target::Drop,
        true => frontend.outside == Some(Target::Drop),
    };
    let ipv6 = frontend.key.address.is_ipv6();
    drops.then(|| (external, ipv6, frontend.service.clone(), frontend.port_name.clone()))
}

impl Unserved {
    /// Takes changes as a [`Table`](crate::Table) gives them out, all from its first.
    pub fn note(&mut self, changes: &[Change]) {
        for change in changes {
            if let Some(port) = change.before().and_then(|f| port(f))
                && let Some(users) = self.ports.get_mut(&port)
            {
                *users -= 1;
                if *users == 0 {
                    self.counts[usize::from(port.0)][usize::from(port.1)] -= 1;
                    self.ports.remove(&port);
                }
            }
            if let Some(port) = change.after().and_then(|f| port(f)) {
                let count = &mut self.counts[usize::from(port.0)][usize::from(port.1)];
                let users = self.ports.entry(port).or_default();
                *count += u64::from(*users == 0);
                *users += 1;
            }
        }
    }

    /// By policy, internal first, and family, IPv4 first.
    pub fn counts(&self) -> [[u64; 2]; 2] {
        self.counts
    }
}
