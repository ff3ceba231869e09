//! `fairness` at a UDP listener: what the kernel says of its queue goes in, who is not answered comes out; and at others:
//! who may connect.

use std::net::{IpAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use sealane_dns::chain::ServerAddress;
use sealane_dns::fairness::{Fairness, Places};

use crate::batch::{BATCH, Batch};
use crate::filter;
use crate::shared::Shared;

/// A listener's clients.
pub(crate) struct Fair {
    rate: u32,
    fairness: Fairness,
    places: Arc<Mutex<Places>>,
    lost: Lost,
    /// It has the kernel's filter.
    socket: Arc<UdpSocket>,
}

impl Drop for Fair {
    fn drop(&mut self) {
        // Whoever has the socket next hears everybody.
        if self.lost.filters {
            let _ = filter::set(&self.socket, &[]);
        }
    }
}

/// The kernel counts what its filter keeps from a socket among what it has lost.
#[derive(Default)]
struct Lost {
    filters: bool,
    counted: u32,
    filtered: u32,
}

impl Lost {
    /// What was lost for want of room, as far as is known.
    fn of_room(&mut self, counted: u32) -> u32 {
        let more = counted.wrapping_sub(std::mem::replace(&mut self.counted, counted));
        if self.filters {
            self.filtered = self.filtered.wrapping_add(more);
        }
        counted.wrapping_sub(self.filtered)
    }
}

/// A place where a query waits for upstreams, or of a connection; free again when it is dropped.
pub(crate) struct Place(Option<Arc<Mutex<Places>>>, IpAddr);

impl Drop for Place {
    fn drop(&mut self) {
        let Some(places) = &self.0 else { return };
        places.lock().unwrap_or_else(PoisonError::into_inner).leave(self.1);
    }
}

/// A listener's connections, of which there may only be so many.
pub(crate) struct Connections(Arc<Mutex<Places>>);

impl Connections {
    pub(crate) fn new(most: usize) -> Self {
        Connections(Arc::new(Mutex::new(Places::new(most))))
    }

    /// A place for one of this client's, whoever it is where `fairness` is off; `None`: it has more than its part.
    pub(crate) fn place(&self, shared: &Shared, at: ServerAddress, client: IpAddr) -> Option<Place> {
        if shared.server(|server| server.fairness(at)).is_none() {
            return Some(Place(None, client));
        }
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).enter(client) {
            return Some(Place(Some(self.0.clone()), client));
        }
        let now = shared.now();
        if let Some(line) = shared.server(|server| server.throttled(&[(client, 1)], now)) {
            shared.log(&line);
        }
        None
    }
}

impl Fair {
    /// What the configuration says now for a listener; what is known of clients stays where it says the same.
    pub(crate) fn renew(
        old: Option<Fair>,
        shared: &Shared,
        at: ServerAddress,
        waiting: usize,
        socket: &Arc<UdpSocket>,
    ) -> Option<Fair> {
        let rate = shared.server(|server| server.fairness(at))?;
        if let Some(old) = old.filter(|old| old.rate == rate) {
            return Some(old);
        }
        let fairness = Fairness::new(rate, shared.now().random);
        let places = Arc::new(Mutex::new(Places::new(waiting)));
        Some(Fair { rate, fairness, places, lost: Lost::default(), socket: socket.clone() })
    }

    /// A batch came.
    pub(crate) fn batch(&mut self, shared: &Shared, batch: &mut Batch, came: usize) {
        let lost = self.lost.of_room(batch.lost(&self.socket));
        self.fairness.batch(came, came == BATCH, lost, shared.elapsed());
        self.look(shared);
        self.report(shared, false);
    }

    /// Tells the kernel what is worth reading from now on. It may be that nothing comes since it was told the last time.
    pub(crate) fn look(&mut self, shared: &Shared) {
        if let Some(shares) = self.fairness.shares(shared.elapsed()) {
            // Where the kernel does not take it, all is read as before.
            self.lost.filters = filter::set(&self.socket, &shares).is_ok() && !shares.is_empty();
        }
    }

    /// Whether a query of this client is answered.
    pub(crate) fn admits(&mut self, client: IpAddr) -> bool {
        self.fairness.admits(client)
    }

    /// It took the general path.
    pub(crate) fn was_dear(&mut self) {
        self.fairness.was_dear();
    }

    /// A place to wait for upstreams, if there is one for this client.
    pub(crate) fn place(&mut self, client: IpAddr) -> Option<Place> {
        let entered = self.places.lock().unwrap_or_else(PoisonError::into_inner).enter(client);
        if !entered {
            self.fairness.turn_away(client);
        }
        entered.then(|| Place(Some(self.places.clone()), client))
    }

    /// Counts who was turned away: now and then, or all of it.
    pub(crate) fn report(&mut self, shared: &Shared, all: bool) {
        let clients = self.fairness.turned_away(all, shared.elapsed());
        if !clients.is_empty() {
            let now = shared.now();
            if let Some(line) = shared.server(|server| server.throttled(&clients, now)) {
                shared.log(&line);
            }
        }
    }
}
