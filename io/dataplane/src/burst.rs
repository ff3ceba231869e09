//! When memory that many changes needed can go back.

/// Changes that leave too little behind to look for it.
const MANY: usize = 1000;

/// Changes since memory was last given back.
#[derive(Debug, Default)]
pub(crate) struct Burst {
    changes: usize,
    /// Since the last look.
    lately: usize,
}

impl Burst {
    /// So many have come.
    pub(crate) fn note(&mut self, changes: usize) {
        self.changes += changes;
        self.lately += changes;
    }

    /// A look: whether there were many, and none since the last look. What they needed is then free, and lies scattered.
    pub(crate) fn is_over(&mut self) -> bool {
        let over = std::mem::take(&mut self.lately) == 0 && self.changes >= MANY;
        if over {
            self.changes = 0;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_changes_are_over_once() {
        let mut burst = Burst::default();
        // Changes before each look; whether it is over.
        for (changes, over) in [
            (MANY - 1, false),
            (0, false),
            (1, false),
            (0, true),
            (0, false),
            (5, false),
            (9 * MANY, false),
            (0, true),
        ] {
            burst.note(changes);
            assert_eq!(burst.is_over(), over, "{changes}");
        }
    }
}
