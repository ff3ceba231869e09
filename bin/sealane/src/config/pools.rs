//! Where the addresses of Services of type LoadBalancer come from.

use std::net::IpAddr;

use sealane_client::{Pool, Pools};
use sealane_host::Cidr;

/// The pools, and what must be known of them elsewhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadBalancers {
    pub(crate) pools: Pools,
    /// So many addresses at the end of the Service range are the pools', and no ClusterIP.
    pub(crate) reserved: u32,
    /// Those outside the Service range, which must be led to the node.
    pub(crate) networks: Vec<Cidr>,
}

/// Length of the prefix of a pool that is a part of the Service range: a sixteenth, 256 addresses at most; `None` where
/// that would be next to nothing.
fn part(services: Cidr) -> Option<u8> {
    Some((services.prefix + 4).max(24)).filter(|prefix| *prefix <= 30)
}

impl LoadBalancers {
    /// From `--load-balancer-pool` and `--internal-load-balancer-pool`. Without them they are the end of the Service
    /// range, which is led to the node already; but without a node nobody would be reached there.
    pub(crate) fn new(
        [external, internal]: [Option<&str>; 2],
        services: Cidr,
        pods: Cidr,
        no_node: bool,
    ) -> Result<Self, String> {
        let part = part(services).filter(|_| !no_node);
        let size = part.map_or(0, |prefix| 1u32 << (32 - prefix));
        let end = 1u64 << (32 - services.prefix);
        let default = |parts: u32| {
            let network = services.nth((end - u64::from(size) * u64::from(parts)) as u32);
            part.map(|prefix| Cidr { network, prefix }.to_string()).unwrap_or_default()
        };
        let mut made = LoadBalancers::default();
        for (option, asked, parts) in
            [("--load-balancer-pool", external, 2), ("--internal-load-balancer-pool", internal, 1)]
        {
            let text = match asked {
                Some("none") => String::new(),
                Some(text) => text.to_owned(),
                None => {
                    made.reserved = made.reserved.max(size * parts);
                    default(parts)
                }
            };
            let pool: Pool = text.parse().map_err(|e| format!("{option}: {e}"))?;
            if asked.is_some() {
                let networks = pool.networks().into_iter().filter_map(|(first, prefix)| match first {
                    IpAddr::V4(network) => Some(Cidr { network, prefix }),
                    IpAddr::V6(_) => None,
                });
                for network in networks {
                    for (other, range) in [("--service-cidr", services), ("--pod-cidr", pods)] {
                        if network.overlaps(range) {
                            return Err(format!("{option} {text} overlaps {other} {range}; give others"));
                        }
                    }
                    if let Some(twice) = made.networks.iter().find(|n| n.overlaps(network)) {
                        return Err(format!("{option} {text}: {twice} is in a pool already; give it once"));
                    }
                    made.networks.push(network);
                }
            }
            if parts == 2 {
                made.pools.external = pool;
            } else {
                made.pools.internal = pool;
            }
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(external: Option<&str>, internal: Option<&str>, services: &str) -> Result<LoadBalancers, String> {
        let (services, pods) = (services.parse().unwrap(), "10.244.0.0/16".parse().unwrap());
        LoadBalancers::new([external, internal], services, pods, false)
    }

    #[test]
    fn the_end_of_the_service_range_is_the_default() {
        for (services, external, internal, reserved) in [
            ("10.96.0.0/12", "10.111.254.0/24", "10.111.255.0/24", 512),
            ("10.96.0.0/24", "10.96.0.224/28", "10.96.0.240/28", 32),
            ("10.96.0.0/26", "10.96.0.56/30", "10.96.0.60/30", 8),
            ("10.96.0.0/28", "", "", 0),
            ("0.0.0.0/0", "255.255.254.0/24", "255.255.255.0/24", 512),
        ] {
            let pods = "10.244.0.0/16".parse().unwrap();
            let made = LoadBalancers::new([None, None], services.parse().unwrap(), pods, false).unwrap();
            let found = (made.pools.external.to_string(), made.pools.internal.to_string(), made.reserved);
            assert_eq!(found, (external.to_owned(), internal.to_owned(), reserved), "{services}");
            assert!(made.networks.is_empty());
        }
    }

    #[test]
    fn other_pools_are_led_to_the_node() {
        let made = new(Some("192.0.2.4-192.0.2.6,fd00::/120"), Some("none"), "10.96.0.0/12").unwrap();
        let networks: Vec<String> = made.networks.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["192.0.2.4/31", "192.0.2.6/32"]);
        assert!(made.pools.internal.is_empty());
        assert_eq!(made.reserved, 0);
        assert_eq!(new(None, Some("none"), "10.96.0.0/12").unwrap().reserved, 512);
        assert_eq!(new(Some("192.0.2.4"), None, "10.96.0.0/12").unwrap().reserved, 256);
        for (external, internal, why) in [
            (
                "10.96.0.0/24",
                "none",
                "--load-balancer-pool 10.96.0.0/24 overlaps --service-cidr 10.96.0.0/12",
            ),
            ("none", "10.244.1.0/24", "--internal-load-balancer-pool 10.244.1.0/24 overlaps --pod-cidr"),
            ("192.0.2.0/24", "192.0.2.8", "is in a pool already"),
            ("all", "none", "--load-balancer-pool: \"all\" is neither a range"),
        ] {
            let error = new(Some(external), Some(internal), "10.96.0.0/12").unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
