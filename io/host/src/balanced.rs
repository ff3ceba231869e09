//! Ways to load balancers' addresses: wherever Service addresses are led.

use std::io;

use crate::host::Host;
use crate::netlink::{Batch, Received, Socket, flag};
use crate::ranges::Cidr;
use crate::runtime::HostError;
use crate::tree::step;

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_CACHEINFO: u16 = 12;
const AF_INET: u8 = 2;
const TABLE_MAIN: u8 = 254;
/// RTNH_F_ONLINK.
const ON_LINK: u32 = 4;
/// Bytes of `struct rtmsg`.
const HEADER: usize = 12;

impl Host {
    /// Leads packets for `networks` where those for Services are led: in the node's network, and, as root, on the host.
    /// The routes go with the node's links, and are to be made anew after [`Host::restart`].
    ///
    /// # Errors
    ///
    /// What the kernel refuses, by the network's name.
    pub async fn route_like_services(&self, networks: Vec<Cidr>) -> Result<(), HostError> {
        if networks.is_empty() {
            return Ok(());
        }
        let services = self.config().service_cidr;
        let failed = |error| step("lead load balancers' addresses to the node", error);
        if self.config().rootless.is_none() {
            let networks = networks.clone();
            let led = tokio::task::spawn_blocking(move || route_like(services, &networks)).await;
            led.map_err(io::Error::other).and_then(|led| led).map_err(failed)?;
        }
        self.node_network(move || route_like(services, &networks)).await?.map_err(failed)
    }
}

/// Gives `networks` the route that `like` has, in the calling thread's network namespace.
fn route_like(like: Cidr, networks: &[Cidr]) -> io::Result<()> {
    let socket = Socket::route()?;
    let mut batch = Batch::default();
    batch
        .begin(RTM_GETROUTE, flag::DUMP, "read the routes")
        .raw(&[AF_INET, 0, 0, 0, 0, 0, 0, 0])
        .raw(&[0; 4]);
    let routes = socket.dump(batch)?;
    let model = routes.iter().find(|route| leads_to(route, like));
    let model = model.ok_or_else(|| io::Error::other(format!("there is no route to {like}")))?;
    let mut batch = Batch::default();
    for network in networks {
        let step = format!("enter the route {network}");
        batch.begin(RTM_NEWROUTE, flag::ACK | flag::CREATE | flag::REPLACE, step);
        let mut header = model.payload[..HEADER].to_vec();
        header[1] = network.prefix;
        // Of its flags what it was made with: that the neighbour is on the link.
        let flags = header[8..].try_into().map_or(0, u32::from_ne_bytes) & ON_LINK;
        header[8..].copy_from_slice(&flags.to_ne_bytes());
        batch.raw(&header).address(RTA_DST, network.network);
        for (kind, value) in
            model.attributes(HEADER).filter(|(kind, _)| ![RTA_DST, RTA_CACHEINFO].contains(kind))
        {
            batch.attribute(kind, value);
        }
    }
    socket.execute(batch)
}

fn leads_to(route: &Received, network: Cidr) -> bool {
    let Some([family, prefix, _, _, table, ..]) = route.payload.get(..HEADER) else { return false };
    let to = route.attributes(HEADER).find(|(kind, _)| *kind == RTA_DST);
    *family == AF_INET
        && *table == TABLE_MAIN
        && *prefix == network.prefix
        && to.is_some_and(|(_, octets)| octets == network.network.octets())
}
