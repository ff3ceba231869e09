//! Answers for load balancers' addresses on a network of two machines, each a network namespace. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use lab::{Namespace, wire};
use sealane_dataplane::Announcer;

/// On a machine that is short of time.
const PATIENCE: Duration = Duration::from_secs(20);

/// A machine that announces addresses on its link `out`, and a neighbour's.
struct Network {
    home: Namespace,
    neighbour: Namespace,
    announcer: Announcer,
}

impl Network {
    fn new() -> Self {
        let (home, neighbour) = (Namespace::new(), Namespace::new());
        wire(&home, "out", &neighbour);
        home.ip("addr add 2001:db8::1/48 dev out nodad");
        home.ip("addr add 192.0.2.1/24 dev out");
        neighbour.ip("addr add 2001:db8::2/48 dev eth0 nodad");
        neighbour.ip("addr add 192.0.2.2/24 dev eth0");
        let announcer = home.run(|| Announcer::start("out")).unwrap();
        Self { home, neighbour, announcer }
    }

    fn announce(&self, addresses: &[&str]) {
        self.announcer.set(addresses.iter().map(|a| a.parse().unwrap()).collect::<BTreeSet<IpAddr>>());
    }

    /// What the neighbour's kernel knows of an address: `lladdr 02:… REACHABLE`.
    fn known(&self, address: &str) -> String {
        self.neighbour.command(&format!("ip neigh show {address} dev eth0"))
    }

    #[track_caller]
    fn becomes(&self, address: &str, state: &str) {
        self.until(&format!("{address} {state}"), || {
            let known = self.known(address);
            if known.contains(state) { Ok(()) } else { Err(known) }
        });
    }

    #[track_caller]
    fn until(&self, what: &str, mut look: impl FnMut() -> Result<(), String>) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(last) = look() {
            assert!(Instant::now() < deadline, "{what}: {last}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The neighbour forgets an address, and has something to send there.
    fn ask(&self, address: &str) {
        self.neighbour.ip("neigh flush all");
        let to: SocketAddr = (address.parse::<IpAddr>().unwrap(), 9).into();
        self.neighbour.run(move || {
            let socket = UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).unwrap();
            socket.send_to(b"x", to).unwrap();
        });
    }

    /// Whether the home's link hears a group.
    fn hears(&self, group: &str) -> bool {
        self.home.command("ip -6 maddr show dev out").contains(group)
    }
}

/// The last three octets alone make the group.
const ONE: &str = "2001:db8::10:0:5";
const OTHER: &str = "2001:db8::20:0:5";
const GROUP: &str = "ff02::1:ff00:5";

#[test]
fn addresses_of_one_group_leave_it_together() {
    let network = Network::new();
    network.announce(&[ONE, OTHER]);
    for address in [ONE, OTHER] {
        network.ask(address);
        network.becomes(address, "REACHABLE");
    }
    network.announce(&[OTHER]);
    // The network has been told of one more: what came before is done.
    network.announce(&[OTHER, "192.0.2.100"]);
    network.ask("192.0.2.100");
    network.becomes("192.0.2.100", "REACHABLE");
    assert!(network.hears(GROUP));
    network.ask(OTHER);
    network.becomes(OTHER, "REACHABLE");
    // The other way round, and none.
    network.announce(&[ONE]);
    network.ask(ONE);
    network.becomes(ONE, "REACHABLE");
    network.announce(&[]);
    network.until("the group is left", || if network.hears(GROUP) { Err(String::new()) } else { Ok(()) });
    network.ask(ONE);
    network.becomes(ONE, "FAILED");
}

/// A neighbour that has used an address for a while asks its hardware address alone (RFC 4861 section 7.3.3).
#[test]
fn a_neighbour_that_looks_whether_an_address_is_there_is_answered() {
    let network = Network::new();
    network.announce(&[ONE, "192.0.2.100"]);
    for address in [ONE, "192.0.2.100"] {
        network.ask(address);
        network.becomes(address, "REACHABLE");
        let known = network.known(address);
        let mac = known.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).unwrap().to_owned();
        let probe = format!("neigh replace {address} lladdr {mac} dev eth0 nud probe");
        network.neighbour.ip(&probe);
        network.becomes(address, "REACHABLE");
        // Nobody else's is answered for, and one that went is not any more.
        network.announce(&["192.0.2.101"]);
        network.ask("192.0.2.101");
        network.becomes("192.0.2.101", "REACHABLE");
        network.neighbour.ip(&probe);
        network.becomes(address, "FAILED");
        network.announce(&[ONE, "192.0.2.100"]);
    }
}
