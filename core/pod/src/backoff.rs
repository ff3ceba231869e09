//! Waiting longer after each failure, as `k8s.io/client-go/util/flowcontrol` does.

use jiff::{SignedDuration, Timestamp};

/// The first wait, after the second failure.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// The longest wait.
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

/// How long one container's restarts, or one image's pulls, wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    delay: SignedDuration,
    updated: Option<Timestamp>,
}

impl BackOff {
    /// The end of the wait that a failure at `failed` starts; `None`: try again at once. A failure more than
    /// ten minutes (twice [`MAX`]) after the last one counts as a first.
    pub fn until(&self, failed: Timestamp) -> Option<Timestamp> {
        let updated = self.updated?;
        if failed.duration_since(updated) > MAX * 2 {
            return None;
        }
        failed.checked_add(self.delay).ok()
    }

    /// Notes that another attempt starts at `now`: the next wait is twice as long.
    pub fn attempt(&mut self, now: Timestamp) {
        let stale = self.updated.is_none_or(|u| now.duration_since(u) > MAX * 2);
        self.delay = if stale { INITIAL } else { (self.delay * 2).min(MAX) };
        self.updated = Some(now);
    }

    /// The wait in force.
    pub fn delay(&self) -> SignedDuration {
        self.delay
    }
}

/// A duration as Go prints it, for whole seconds: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(d: SignedDuration) -> String {
    let s = d.as_secs();
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + s).unwrap()
    }

    #[test]
    fn doubles_to_five_minutes() {
        let mut b = BackOff::default();
        assert_eq!(b.until(at(0)), None, "the first restart is immediate");
        let mut now = 0;
        for want in [10, 20, 40, 80, 160, 300, 300] {
            b.attempt(at(now));
            assert_eq!(b.delay(), SignedDuration::from_secs(want));
            assert_eq!(b.until(at(now + 1)), Some(at(now + 1 + want)));
            now += 1 + want;
        }
    }

    #[test]
    fn forgets_after_ten_minutes() {
        let mut b = BackOff::default();
        b.attempt(at(0));
        b.attempt(at(30));
        assert_eq!(b.until(at(30 + 600)), Some(at(30 + 600 + 20)));
        assert_eq!(b.until(at(30 + 601)), None);
        b.attempt(at(30 + 601));
        assert_eq!(b.delay(), INITIAL);
    }

    #[test]
    fn prints_as_go() {
        for (s, want) in [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (3600, "1h0m0s")] {
            assert_eq!(go_duration(SignedDuration::from_secs(s)), want);
        }
    }
}
