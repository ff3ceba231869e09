//! Where names have been written, so that others point there (RFC 1035 section 4.1.4): what is compared stands in the
//! message itself.

/// Chains that names are spread over.
const CHAINS: usize = 64;

/// Suffixes that most messages have at most.
const FEW: usize = 16;

/// Places of names in a message, by what they are from there on.
pub(super) struct Suffixes {
    /// The last entry of each chain, counted from 1; 0: none.
    last: [u16; CHAINS],
    /// In the order of the message: place, hash, and the entry before in the same chain.
    entries: Vec<(u16, u32, u16)>,
}

impl Suffixes {
    pub(super) fn new() -> Self {
        Suffixes { last: [0; CHAINS], entries: Vec::with_capacity(FEW) }
    }

    /// What a name in wire form is looked up by, from its end on (FNV-1a).
    pub(super) fn hash(suffix: &[u8]) -> u32 {
        let step =
            |hash: u32, octet: &u8| (hash ^ u32::from(octet.to_ascii_lowercase())).wrapping_mul(0x0100_0193);
        let hash = suffix.iter().fold(0x811c_9dc5, step);
        hash ^ hash >> 15
    }

    /// Where it is written, in any case.
    pub(super) fn find(&self, message: &[u8], hash: u32, suffix: &[u8]) -> Option<u16> {
        let mut next = self.last[hash as usize % CHAINS];
        while let Some((place, of, before)) = self.entries.get(usize::from(next).wrapping_sub(1)) {
            if *of == hash && stands_at(message, usize::from(*place), suffix) {
                return Some(*place);
            }
            next = *before;
        }
        None
    }

    /// It will be written here.
    pub(super) fn put(&mut self, place: u16, hash: u32) {
        let chain = &mut self.last[hash as usize % CHAINS];
        self.entries.push((place, hash, *chain));
        // A message has no more places that pointers reach than fit.
        *chain = u16::try_from(self.entries.len()).unwrap_or(0);
    }

    /// The message ends here again.
    pub(super) fn cut(&mut self, end: usize) {
        while let Some((_, hash, before)) = self.entries.pop_if(|(place, ..)| usize::from(*place) >= end) {
            self.last[hash as usize % CHAINS] = before;
        }
    }
}

/// Whether the name that stands at a place of a message, through its pointers, is this one.
fn stands_at(message: &[u8], mut at: usize, mut name: &[u8]) -> bool {
    loop {
        let (Some(len), Some(asked)) = (message.get(at), name.first()) else { return false };
        if *len >= 0xc0 {
            // They are our own, and point back.
            let Some(low) = message.get(at + 1) else { return false };
            at = usize::from(u16::from_be_bytes([*len & 0x3f, *low]));
            continue;
        }
        let end = 1 + usize::from(*len);
        let (Some(written), Some(wanted)) = (message.get(at..at + end), name.get(..end)) else {
            return false;
        };
        if len != asked || !written.eq_ignore_ascii_case(wanted) {
            return false;
        }
        if *len == 0 {
            return true;
        }
        (at, name) = (at + end, &name[end..]);
    }
}
