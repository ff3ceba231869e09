//! [`Interner`]: what many objects say is kept once: namespaces, nodes, zones, port names, labels.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::model::{NamespacedName, Place};

/// As many are kept before those that nobody uses are looked for.
const FEW: usize = 1024;

/// Hands out shared copies.
#[derive(Debug)]
pub(crate) struct Interner {
    texts: HashSet<Arc<str>>,
    places: HashSet<Arc<Place>>,
    /// When so many are kept, those that nobody uses go.
    sweep_at: usize,
}

impl Default for Interner {
    fn default() -> Self {
        Interner { texts: HashSet::new(), places: HashSet::new(), sweep_at: FEW }
    }
}

impl Interner {
    pub(crate) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        self.sweep();
        let new: Arc<str> = text.into();
        self.texts.insert(new.clone());
        new
    }

    pub(crate) fn name(&mut self, namespace: &str, name: &str) -> NamespacedName {
        NamespacedName { namespace: self.text(namespace), name: self.text(name) }
    }

    /// `None` where neither is known.
    pub(crate) fn place(&mut self, node: &str, zone: &str) -> Option<Arc<Place>> {
        if node.is_empty() && zone.is_empty() {
            return None;
        }
        let place = Place { node: self.text(node), zone: self.text(zone) };
        if let Some(known) = self.places.get(&place) {
            return Some(known.clone());
        }
        let new = Arc::new(place);
        self.places.insert(new.clone());
        Some(new)
    }

    fn sweep(&mut self) {
        fn used<T: ?Sized + Eq + Hash>(kept: &mut HashSet<Arc<T>>) {
            kept.retain(|one| Arc::strong_count(one) > 1);
        }
        if self.texts.len() + self.places.len() < self.sweep_at {
            return;
        }
        used(&mut self.places);
        used(&mut self.texts);
        self.sweep_at = (2 * (self.texts.len() + self.places.len())).max(FEW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_kept_once_and_the_rest_goes() {
        let mut interner = Interner::default();
        let (web, place) = (interner.text("web"), interner.place("n", "z"));
        for n in 0..100_000 {
            interner.text(&format!("passing-{n}"));
        }
        assert!(Arc::ptr_eq(&web, &interner.text("web")));
        assert_eq!(place.as_ref().map(Arc::as_ptr), interner.place("n", "z").as_ref().map(Arc::as_ptr));
        assert!(interner.texts.len() <= FEW, "{}", interner.texts.len());
        assert_eq!(interner.place("", ""), None);
    }
}
