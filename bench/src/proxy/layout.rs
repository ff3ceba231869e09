//! kube-proxy's nftables layout (pkg/proxy/nftables), by hand: a verdict map from address and port to a chain for each
//! Service port, in that a map from a random number to a chain for each endpoint. Names are shorter, comments left out.

use std::fmt::Write as _;

use super::cluster::{CLIENTS, ENDPOINTS, PORTS, cluster_ip, endpoint};

/// For so many Services, as `nft -f` takes it.
pub(crate) fn text(services: usize) -> String {
    let mut text = String::from(
        "table ip kube-proxy {\n\
         map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         map service-nodeports { type inet_proto . inet_service : verdict; }\n\
         map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         set cluster-ips { type ipv4_addr; }\n\
         chain mark-for-masquerade { mark set mark or 0x4000; }\n\
         chain masquerading { mark and 0x4000 == 0 return; mark set mark xor 0x4000; masquerade fully-random; }\n\
         chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }\n\
         chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }\n\
         chain cluster-ips-check { ip daddr @cluster-ips reject; }\n\
         chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }\n\
         chain nat-output { type nat hook output priority -100; jump services; }\n\
         chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }\n\
         chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump service-endpoints-check; }\n\
         chain filter-forward { type filter hook forward priority -110; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }\n\
         chain filter-output { type filter hook output priority -110; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }\n",
    );
    let mut elements = String::new();
    // Writing to a String does not fail.
    for at in 0..services {
        for (name, port, target) in PORTS {
            let chain = format!("service-{at}-{name}");
            let mut choices = String::new();
            for number in 0..ENDPOINTS {
                let address = endpoint(at, number);
                let own = format!("endpoint-{at}-{name}-{number}");
                let _ = writeln!(
                    text,
                    "chain {own} {{ ip saddr {address} jump mark-for-masquerade; \
                     meta l4proto tcp dnat to {address}:{target}; }}"
                );
                let _ = write!(choices, "{number} : goto {own}, ");
            }
            let ip = cluster_ip(at);
            let _ = writeln!(
                text,
                "chain {chain} {{ ip daddr {ip} tcp dport {port} ip saddr != {CLIENTS} jump mark-for-masquerade; \
                 numgen random mod {ENDPOINTS} vmap {{ {choices} }}; }}"
            );
            let _ = writeln!(
                elements,
                "add element ip kube-proxy service-ips {{ {ip} . tcp . {port} : goto {chain} }}"
            );
        }
        let _ = writeln!(elements, "add element ip kube-proxy cluster-ips {{ {} }}", cluster_ip(at));
    }
    text + "}\n" + &elements
}
