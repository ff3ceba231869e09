//! Listeners: what the configuration wants is bound, what it no longer wants is closed, the rest stays as it is. What
//! has come in by a listener that is closed is answered first.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sealane_dns::MOST_WAITING;
use sealane_dns::chain::{Block, Scheme, ServerAddress, Sockets};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::DnsError;
use crate::admin::{self, Page};
use crate::shared::{Shared, told};
use crate::sockets::{self, Bound, Parting};
use crate::tcp::{Ends, Terms};
use crate::{machine, tcp, tls, udp};

/// A new configuration waits so long for answers that the old one still owes at listeners that go.
const HANDOVER: Duration = Duration::from_millis(500);
/// Listeners that went have so long to give the rest of their answers (CoreDNS's `graceTimeout`).
const GRACE: Duration = Duration::from_secs(5);
/// Prepared answers of one place, octets, shared among its sockets: ten thousand Services and more on each of four.
const ROOM: usize = 64 << 20;
/// No socket has more.
const MOST_ROOM: usize = 16 << 20;

/// What is listened for, and where; `None`: on all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Listener {
    Udp(ServerAddress),
    /// DNS over TCP, TLS, HTTPS or gRPC, as the address says.
    Tcp(ServerAddress),
    Http(Page, Option<IpAddr>, u16),
}

/// One of a listener's sockets: the kernel spreads clients over them (SO_REUSEPORT in socket(7)).
type Slot = (Listener, u16);

/// What a configuration wants of a listener.
struct Wanted {
    sockets: u16,
    terms: Terms,
}

/// Sockets that are bound and not served yet: what comes in waits in the kernel.
pub(crate) struct Fresh {
    bound: BTreeMap<Slot, Bound>,
    /// All listeners, those that run already, too.
    wanted: BTreeMap<Listener, Wanted>,
}

/// A socket that is served.
struct Running {
    bound: Bound,
    tasks: JoinSet<()>,
    /// Told to answer what is there and end.
    closing: watch::Sender<bool>,
    /// Comes when nothing more is taken in, and nothing more is done to the socket.
    taken_in: oneshot::Receiver<()>,
    terms: watch::Sender<Terms>,
}

/// The listeners that run; dropping it closes them and what came through them.
pub(crate) struct Listeners {
    running: BTreeMap<Slot, Running>,
    /// Where connections are told that their listener goes.
    places: BTreeMap<Listener, watch::Sender<bool>>,
    /// Those that went, as long as they owe answers.
    going: JoinSet<()>,
    /// When they end; of those whose place stayed: with the last of their connections.
    owing: Vec<(Listener, oneshot::Receiver<()>)>,
    /// Their sockets, which are taken again where a configuration wants them back.
    sockets: BTreeMap<Slot, Parting>,
    processors: u16,
}

impl Listeners {
    pub(crate) fn new() -> Self {
        Listeners {
            running: BTreeMap::new(),
            places: BTreeMap::new(),
            going: JoinSet::new(),
            owing: Vec::new(),
            sockets: BTreeMap::new(),
            processors: machine::processors(),
        }
    }

    /// Binds what is new in a configuration. Where something cannot be bound nothing has changed.
    pub(crate) fn bind(&self, blocks: &[Arc<Block>]) -> Result<Fresh, DnsError> {
        let mut wanted = wanted(blocks, self.processors)?;
        // A connection whose handshake is under way when its socket closes is reset, other sockets of the place or not
        // (net.ipv4.tcp_migrate_req in ip-sysctl.rst is the host's to set). So they stay as long as their place does.
        for (listener, number) in self.running.keys() {
            if let (false, Some(wanted)) = (matches!(listener, Listener::Udp(..)), wanted.get_mut(listener)) {
                wanted.sockets = wanted.sockets.max(number + 1);
            }
        }
        let mut fresh = Fresh { bound: BTreeMap::new(), wanted };
        let slots = fresh.wanted.iter().flat_map(|(listener, wanted)| {
            (0..wanted.sockets).map(|number| (*listener, number)).collect::<Vec<_>>()
        });
        let slots: Vec<Slot> = slots.filter(|slot| !self.running.contains_key(slot)).collect();
        for slot in slots {
            let bound = match self.sockets.get(&slot).and_then(Parting::back) {
                Some(bound) => {
                    if let Bound::Udp(socket) = &bound {
                        // It may have been connected to itself.
                        let _ = rustix::net::connect_unspec(socket);
                    }
                    bound
                }
                None => self.bind_beside(slot, &fresh)?,
            };
            fresh.bound.insert(slot, bound);
        }
        Ok(fresh)
    }

    /// Binds a socket beside those that have its port: others of its listener; `:53` beside `10.0.0.1:53`, where the
    /// kernel gives each what is more precisely its own; and those that go.
    fn bind_beside(&self, slot: Slot, fresh: &Fresh) -> Result<Bound, DnsError> {
        let listener = slot.0;
        let lets = |other: Listener| {
            other == listener
                || other.port() == listener.port()
                    && (!fresh.wanted.contains_key(&other) || listener.overlaps(other))
        };
        let running = self.running.iter().map(|(slot, running)| (slot.0, &running.bound));
        let beside = running.chain(fresh.bound.iter().map(|(slot, bound)| (slot.0, bound)));
        let beside: Vec<&Bound> = beside.filter(|(other, _)| lets(*other)).map(|(_, bound)| bound).collect();
        beside.iter().for_each(sockets::share);
        // One that is closed at this moment may have the port for a moment more: it was told to share it.
        let going = self.sockets.keys().any(|(other, _)| other.port() == listener.port());
        start(listener, !beside.is_empty() || going).map_err(|source| DnsError::Listen {
            address: listener.address(),
            what: listener.what(),
            source,
        })
    }

    /// Serves what was bound.
    pub(crate) fn serve(&mut self, shared: &Arc<Shared>, fresh: Fresh) {
        for ((listener, _), running) in &self.running {
            let terms = fresh.wanted.get(listener).map(|wanted| wanted.terms.clone());
            running.terms.send_replace(terms.unwrap_or_default());
        }
        let is_udp = |listener: &Listener| matches!(listener, Listener::Udp(_));
        let udp = fresh.wanted.iter().filter(|(listener, _)| is_udp(listener));
        let all_udp: usize = udp.map(|(_, wanted)| usize::from(wanted.sockets.max(1))).sum();
        for (slot, bound) in fresh.bound {
            let listener = slot.0;
            let Some(wanted) = fresh.wanted.get(&listener) else { continue };
            let (mut tasks, shared) = (JoinSet::new(), shared.clone());
            let (closing, closed) = watch::channel(false);
            // It says nothing, it goes.
            let (taking, taken_in) = oneshot::channel();
            let (terms, of_tasks) = watch::channel(wanted.terms.clone());
            let place = self.places.entry(listener).or_insert_with(|| watch::channel(false).0);
            let ends = Ends { socket: closed.clone(), place: place.subscribe() };
            match (listener, bound.clone()) {
                (Listener::Udp(server), Bound::Udp(socket)) => {
                    let threads = usize::from(wanted.sockets.max(1));
                    let room = (ROOM / all_udp).min(MOST_ROOM);
                    let part = udp::Part { room, waiting: MOST_WAITING / threads, threads };
                    tasks.spawn(udp::serve(shared, socket, server, part, (closed, taking)));
                }
                (Listener::Http(page, ip, port), Bound::Tcp(listener)) => {
                    if page == Page::Health {
                        tasks.spawn(admin::ask_health(shared.clone(), ip, port));
                    }
                    tasks.spawn(async move {
                        admin::serve(shared, listener, page).await;
                        drop(taking);
                    });
                }
                (Listener::Tcp(server), Bound::Tcp(socket)) => {
                    tasks.spawn(tcp::serve(shared, socket, server, of_tasks, ends, taking));
                }
                // `start` binds no others.
                _ => {}
            }
            self.running.insert(slot, Running { bound, tasks, closing, taken_in, terms });
        }
    }

    /// Closes what a configuration that was bound does not want any more; done when that has answered what had come in,
    /// or after a while.
    pub(crate) fn retire(&mut self, fresh: &Fresh) -> impl Future<Output = ()> + Send + use<> {
        self.close(&fresh.wanted)
    }

    /// Closes all of them.
    pub(crate) fn retire_all(&mut self) -> impl Future<Output = ()> + Send + use<> {
        self.close(&BTreeMap::new())
    }

    fn close(&mut self, wanted: &BTreeMap<Listener, Wanted>) -> impl Future<Output = ()> + Send + use<> {
        let mut taking = Vec::new();
        while self.going.try_join_next().is_some() {}
        self.sockets.retain(|_, socket| socket.back().is_some());
        for (slot, running) in std::mem::take(&mut self.running) {
            let (listener, number) = slot;
            if wanted.get(&listener).is_some_and(|wanted| number < wanted.sockets) {
                self.running.insert(slot, running);
                continue;
            }
            let Running { bound, mut tasks, closing, taken_in, .. } = running;
            taking.push(taken_in);
            sockets::share(&bound);
            self.sockets.insert(slot, bound.parting());
            if let Listener::Http(..) = listener {
                continue;
            }
            // Connections of a socket that goes from a place that stays are served as before.
            let lasts = listener.connects() && wanted.contains_key(&listener);
            let mut gone = self.places.get(&listener).filter(|_| lasts).map(watch::Sender::subscribe);
            drop(bound);
            let (done, ended) = oneshot::channel::<()>();
            self.going.spawn(async move {
                closing.send_replace(true);
                let patience = async {
                    if let Some(gone) = &mut gone {
                        told(gone).await;
                    }
                    tokio::time::sleep(GRACE).await;
                };
                tokio::select! {
                    _ = tasks.join_next() => {}
                    () = patience => {}
                }
                drop(done);
            });
            self.owing.push((listener, ended));
        }
        self.owing.retain_mut(|(_, ended)| ended.try_recv() == Err(TryRecvError::Empty));
        let goes = |(listener, _): &mut (Listener, _)| !wanted.contains_key(listener) || !listener.connects();
        let waiting: Vec<_> = self.owing.extract_if(.., goes).map(|(_, ended)| ended).collect();
        self.places.retain(|listener, place| {
            let stays = wanted.contains_key(listener);
            if !stays {
                place.send_replace(true);
            }
            stays
        });
        async move {
            // That is no more than work of this machine's, and before it is done the sockets cannot be taken again.
            for taken_in in taking {
                let _ = taken_in.await;
            }
            let all = async {
                for ended in waiting {
                    // Its sender says nothing, it goes.
                    let _ = ended.await;
                }
            };
            let _ = tokio::time::timeout(HANDOVER, all).await;
        }
    }
}

impl Listener {
    /// What two of them can't have both: TCP or UDP, and the port.
    fn port(self) -> (bool, u16) {
        match self {
            Listener::Udp(server) => (false, server.port),
            Listener::Tcp(server) => (true, server.port),
            Listener::Http(_, _, port) => (true, port),
        }
    }

    fn connects(self) -> bool {
        self.port().0
    }

    fn ip(self) -> Option<IpAddr> {
        match self {
            Listener::Udp(server) | Listener::Tcp(server) => server.ip,
            Listener::Http(_, ip, _) => ip,
        }
    }

    /// Whether one has all addresses, of a family at least, and the other one of them.
    fn overlaps(self, other: Listener) -> bool {
        let all = |listener: Listener| listener.ip().is_none_or(|ip| ip.is_unspecified());
        let pages = [self, other].iter().any(|listener| matches!(listener, Listener::Http(..)));
        !pages && self.ip() != other.ip() && (all(self) || all(other))
    }

    /// Of what is DNS.
    fn scheme(self) -> Option<Scheme> {
        match self {
            Listener::Udp(server) | Listener::Tcp(server) => Some(server.scheme),
            Listener::Http(..) => None,
        }
    }

    fn address(self) -> String {
        let port = self.port().1;
        self.ip().map_or_else(|| format!(":{port}"), |ip| SocketAddr::new(ip, port).to_string())
    }

    fn what(self) -> &'static str {
        match self {
            Listener::Udp(..) => "DNS over UDP",
            Listener::Tcp(server) => match server.scheme {
                Scheme::Tls => "DNS over TLS",
                Scheme::Https => "DNS over HTTPS",
                Scheme::Grpc => "DNS over gRPC",
                // There are no others: `Config` refuses them.
                Scheme::Dns | Scheme::Quic => "DNS over TCP",
            },
            Listener::Http(page, ..) => page.name(),
        }
    }

    /// How many sockets there are where nobody says: queries over UDP are answered on as many processors as there are.
    /// Connections gain nothing by that.
    fn sockets(self, said: Option<Sockets>, processors: u16) -> u16 {
        match (self, said) {
            (Listener::Http(..), _) => 1,
            (_, Some(Sockets::Number(number))) => number,
            (_, Some(Sockets::PerProcessor)) | (Listener::Udp(..), None) => processors,
            _ => 1,
        }
    }
}

/// What a block is listened for on.
fn of_block(block: &Block) -> impl Iterator<Item = Listener> {
    block.servers().flat_map(|(_, server)| {
        let datagrams = (server.scheme == Scheme::Dns).then_some(Listener::Udp(server));
        datagrams.into_iter().chain([Listener::Tcp(server)])
    })
}

/// What all blocks want together. Of those on one address the first says how many sockets there are (`plugin/multisocket`)
/// and how much goes over HTTP, the last that says something how long connections may take (`NewServer`).
fn wanted(blocks: &[Arc<Block>], processors: u16) -> Result<BTreeMap<Listener, Wanted>, DnsError> {
    let mut out = BTreeMap::new();
    for block in blocks {
        let settings = &block.settings;
        for listener in of_block(block) {
            let wanted = out.entry(listener).or_insert_with(|| {
                let mut terms = Terms::default();
                let http =
                    if listener.scheme() == Some(Scheme::Grpc) { settings.grpc } else { settings.https };
                terms.limits.http = http.unwrap_or_default();
                Wanted { sockets: listener.sockets(settings.sockets, processors), terms }
            });
            if let Some(timeouts) = &settings.timeouts {
                wanted.terms.limits.take(timeouts);
            }
            if let (Some(scheme), Some(tls)) =
                (listener.scheme().filter(|s| *s != Scheme::Dns), &settings.tls)
            {
                wanted.terms.tls = Some(tls::server(tls, scheme).map_err(DnsError::Tls)?);
            }
        }
        let pages = [
            (Page::Health, settings.health.as_ref().map(|health| &health.address)),
            (Page::Ready, settings.ready.as_ref()),
            (Page::Metrics, settings.prometheus.as_ref()),
        ];
        for (page, address) in pages {
            let Some(address) = address else { continue };
            let (ip, port) = sockets::split(address).map_err(|source| DnsError::Listen {
                address: address.clone(),
                what: page.name(),
                source,
            })?;
            out.insert(Listener::Http(page, ip, port), Wanted { sockets: 1, terms: Terms::default() });
        }
    }
    Ok(out)
}

fn start(listener: Listener, share: bool) -> std::io::Result<Bound> {
    match listener {
        Listener::Udp(server) => sockets::udp(server.ip, server.port, share),
        _ => sockets::tcp(listener.ip(), listener.port().1, share),
    }
}

#[cfg(test)]
mod tests {
    use sealane_dns::Config;

    use super::*;

    fn of(corefile: &str) -> BTreeMap<Listener, Wanted> {
        let config = Config::parse("Corefile", corefile, &Default::default(), 53).unwrap();
        wanted(&config.blocks, 4).unwrap()
    }

    #[test]
    fn the_first_block_of_an_address_says_how_many_sockets() {
        let (udp, tcp) = (Listener::Udp(53.into()), Listener::Tcp(53.into()));
        for (corefile, expected) in [
            (".", [4, 1]),
            (". {\n multisocket\n}", [4, 4]),
            (". {\n multisocket 7\n}", [7, 7]),
            ("a {\n multisocket 2\n}\nb {\n multisocket 3\n}", [2, 2]),
            ("a {\n}\nb {\n multisocket 3\n}", [4, 1]),
            ("a {\n multisocket 1\n}", [1, 1]),
        ] {
            let wanted = of(corefile);
            assert_eq!([wanted[&udp].sockets, wanted[&tcp].sockets], expected, "{corefile}");
        }
    }

    #[test]
    fn the_last_block_of_an_address_says_how_long() {
        let seconds = |wanted: &BTreeMap<Listener, Wanted>, listener| {
            let limits = wanted[&listener].terms.limits;
            ([limits.read, limits.write, limits.idle].map(|time| time.as_secs()), limits.queries)
        };
        let wanted = of("a {\n timeouts {\n  read 7s\n  idle 8s\n }\n}\n\
             b {\n timeouts {\n  idle 9s\n  maxtcpqueries 2\n }\n}\nc {\n}\nd:54\n");
        assert_eq!(seconds(&wanted, Listener::Tcp(53.into())), ([7, 5, 9], 2));
        assert_eq!(seconds(&wanted, Listener::Tcp(54.into())), ([3, 5, 10], u32::MAX));
    }

    /// Where a machine is short of time, a listener that goes may not have had its turn when its place is wanted again.
    #[tokio::test]
    async fn places_come_back_before_they_are_left() {
        let free = |_| std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let free = [0; 3].map(free);
        let [port, page, other] = free.each_ref().map(|listener| listener.local_addr().unwrap().port());
        drop(free);
        let config = |text: &str| Config::parse("Corefile", text, &Default::default(), 53).unwrap();
        let all = config(&format!(".:{port} {{\n ready 127.0.0.1:{page}\n}}")).blocks;
        let one = config(&format!(".:{port} {{\n bind 127.0.0.1\n}}")).blocks;
        let none = config(&format!(".:{other} {{\n bind 127.0.0.1\n}}")).blocks;
        let (shared, _fatal) = Shared::new(config("."), &crate::Settings::new("Corefile"));
        let mut listeners = Listeners::new();
        for blocks in [&all, &none, &all, &one, &all, &none, &one, &all] {
            let fresh = listeners.bind(blocks).unwrap();
            // Nobody waits: none of their tasks has run.
            drop(listeners.retire(&fresh));
            listeners.serve(&shared, fresh);
        }
        assert!(listeners.running.keys().all(|(listener, _)| [port, page].contains(&listener.port().1)));
    }
}
