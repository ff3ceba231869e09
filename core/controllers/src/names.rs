//! Names and hashes in the API's safe alphabet.

use sha2::{Digest, Sha256};

/// No vowels, no look-alikes (`apimachinery/pkg/util/rand`): names spell nothing.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Suffixes from a seed.
pub(crate) struct Names(u64);

impl Names {
    pub(crate) fn new(seed: u64) -> Self {
        Names(seed)
    }

    /// The next number (SplitMix64).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `BASE` and five characters, the base cut so that the whole is a name (`names.SimpleNameGenerator`).
    pub(crate) fn suffixed(&mut self, base: &str) -> String {
        let mut name: String = base.chars().take(58).collect();
        let mut bits = self.next();
        for _ in 0..5 {
            name.push(ALPHABET[(bits % ALPHABET.len() as u64) as usize] as char);
            bits /= ALPHABET.len() as u64;
        }
        name
    }
}

/// Ten characters that stand for a document: pod-template-hash, controller-revision-hash.
pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(10).map(|b| ALPHABET[*b as usize % ALPHABET.len()] as char).collect()
}
