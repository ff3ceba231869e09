//! Which Pod has which address of the node's range. Kept in memory alone: the Pods' status remembers it over a
//! restart of the program.

use std::collections::HashMap;
use std::net::Ipv4Addr;

/// The node's range of Pod addresses.
#[derive(Debug)]
pub(crate) struct Addresses {
    first: u32,
    last: u32,
    next: u32,
    used: HashMap<u32, String>,
}

impl Addresses {
    /// `base/prefix` without its network and broadcast address and what is `reserved` (the bridge).
    pub(crate) fn new(base: Ipv4Addr, prefix: u8, reserved: &[Ipv4Addr]) -> Self {
        let size = 1u64 << (32 - u32::from(prefix.min(30)));
        let mask = u32::MAX << (32 - u32::from(prefix.clamp(1, 30)));
        let network = u32::from(base) & mask;
        let (first, last) = (network + 1, network.saturating_add((size - 2) as u32));
        let used = reserved.iter().map(|a| (u32::from(*a), String::new())).collect();
        Addresses { first, last, next: first, used }
    }

    /// The address of the Pod `uid`: `wanted` where it is free, else the next free one, so that a freed address is
    /// used again as late as possible. `None`: the range is full.
    pub(crate) fn take(&mut self, uid: &str, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        if let Some((have, _)) = self.used.iter().find(|(_, owner)| *owner == uid) {
            return Some(Ipv4Addr::from(*have));
        }
        let free = |a: u32| (self.first..=self.last).contains(&a) && !self.used.contains_key(&a);
        let wanted = wanted.map(u32::from).filter(|a| free(*a));
        let span = self.last - self.first + 1;
        let address = match wanted {
            Some(a) => a,
            None => (0..span).map(|i| self.first + (self.next - self.first + i) % span).find(|a| free(*a))?,
        };
        if wanted.is_none() {
            self.next = if address == self.last { self.first } else { address + 1 };
        }
        self.used.insert(address, uid.to_owned());
        Some(Ipv4Addr::from(address))
    }

    /// Frees the address of the Pod `uid`.
    pub(crate) fn release(&mut self, uid: &str) {
        self.used.retain(|_, owner| owner != uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_and_releases() {
        let mut a = Addresses::new(Ipv4Addr::new(10, 244, 0, 0), 29, &[Ipv4Addr::new(10, 244, 0, 1)]);
        let ip = |n| Some(Ipv4Addr::new(10, 244, 0, n));
        assert_eq!(a.take("a", None), ip(2));
        assert_eq!(a.take("a", None), ip(2), "the same for the same Pod");
        assert_eq!(a.take("b", ip(5)), ip(5));
        assert_eq!(a.take("c", ip(5)), ip(3), "taken");
        assert_eq!(a.take("d", ip(99)), ip(4), "not in the range");
        assert_eq!(a.take("e", None), ip(6));
        assert_eq!(a.take("f", None), None);
        a.release("a");
        assert_eq!(a.take("f", None), ip(2));
    }
}
