//! Failures that go on: each is said once until it is over, and tried again ever more seldom.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long the next try but one waits, and at most; twice as long each time.
pub(crate) const FIRST_RETRY: Duration = Duration::from_millis(50);
pub(crate) const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// What fails at present.
#[derive(Debug)]
pub(crate) struct Trouble {
    said: BTreeSet<String>,
    retry: Duration,
    due: Option<Instant>,
}

impl Default for Trouble {
    fn default() -> Self {
        Self { said: BTreeSet::new(), retry: FIRST_RETRY, due: None }
    }
}

impl Trouble {
    /// Takes a failure; whether it is to be said, because it was not since the last success.
    pub(crate) fn is_new(&mut self, text: &str) -> bool {
        self.said.insert(text.to_owned())
    }

    /// The next try waits twice as long as the one before.
    pub(crate) fn wait(&mut self, now: Instant) {
        self.retry = (self.retry * 2).min(LONGEST_RETRY);
        self.due = now.checked_add(self.retry);
    }

    /// It works; whether it did not before.
    pub(crate) fn over(&mut self) -> bool {
        !std::mem::take(self).said.is_empty()
    }

    /// How long the next try is to wait.
    pub(crate) fn patience(&self, now: Instant) -> Duration {
        self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_said_once_until_it_is_over() {
        let mut trouble = Trouble::default();
        let said = ["ENOENT", "ENOBUFS", "ENOENT", "ENOBUFS"].map(|text| trouble.is_new(text));
        assert_eq!(said, [true, true, false, false]);
        assert_eq!((trouble.over(), trouble.over()), (true, false));
        assert!(trouble.is_new("ENOENT"));
    }

    #[test]
    fn tries_are_ever_more_seldom() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        assert_eq!(trouble.patience(now), Duration::ZERO);
        let waits: Vec<Duration> = (0..12)
            .map(|_| {
                trouble.wait(now);
                trouble.patience(now)
            })
            .collect();
        assert!(waits.is_sorted() && waits[0] == 2 * FIRST_RETRY && waits[11] == LONGEST_RETRY, "{waits:?}");
        assert_eq!(trouble.patience(now + waits[11]), Duration::ZERO);
        trouble.over();
        assert_eq!(trouble.patience(now), Duration::ZERO);
    }
}
