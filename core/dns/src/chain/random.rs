//! [`Randomness`]: where numbers that nobody may foresee come from, where a [`super::Now`]'s are not enough.

use std::sync::Arc;

use ring::rand::SecureRandom;

/// A source of randomness for signatures, handed in from outside; by default there is none.
#[derive(Clone, Default)]
pub struct Randomness(Option<Arc<dyn SecureRandom + Send + Sync>>);

impl Randomness {
    /// This one.
    pub fn new(source: Arc<dyn SecureRandom + Send + Sync>) -> Self {
        Randomness(Some(source))
    }

    /// It, where there is one.
    pub fn source(&self) -> Option<&dyn SecureRandom> {
        match &self.0 {
            Some(source) => Some(&**source),
            None => None,
        }
    }
}

impl std::fmt::Debug for Randomness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Randomness(..)" } else { "Randomness" })
    }
}
