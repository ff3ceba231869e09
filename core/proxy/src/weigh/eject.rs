//! Passive ejection: an endpoint that fails several times in a row gets no new connections for a while.

use crate::weigh::options::Ejection;
use std::time::Duration;

/// An ejection is at most this many times as long as the first.
const LONGEST: u32 = 32;

/// What one endpoint did between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Connections that it answered.
    pub answered: u32,
    /// SYNs without an answer for a second, or answered by RST.
    pub failed: u32,
    /// Established connections that ended by RST.
    pub reset: u32,
}

/// One endpoint's record.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    /// Failures in a row, and when they began.
    streak: u32,
    since: Duration,
    /// Until when it is out.
    out: Option<Duration>,
    /// How often it was out, one time soon after the other.
    times: u32,
    /// For how long it was out last.
    length: Duration,
    /// When it came back.
    back: Duration,
}

impl Record {
    /// Takes what it did; whether it fails the test now.
    pub(crate) fn note(&mut self, outcome: Outcome, rule: &Ejection, now: Duration) -> bool {
        if self.out.is_some() {
            // What still fails was sent before.
            return false;
        }
        let failed = outcome.failed + if rule.resets { outcome.reset } else { 0 };
        let answered = outcome.answered.saturating_sub(if rule.resets { outcome.reset } else { 0 });
        if answered > 0 {
            self.streak = 0;
            return false;
        }
        if failed > 0 {
            if self.streak == 0 || now.saturating_sub(self.since) > rule.window {
                (self.streak, self.since) = (0, now);
            }
            self.streak += failed;
        }
        self.streak >= rule.failures
    }

    /// Puts it out.
    pub(crate) fn eject(&mut self, rule: &Ejection, now: Duration) {
        // Who served on for as long as it was out is forgiven.
        if now.saturating_sub(self.back) > self.length {
            self.times = 0;
        }
        self.length = rule.time * (1 << self.times.min(LONGEST.ilog2()));
        self.times += 1;
        self.streak = 0;
        self.out = Some(now + self.length);
    }

    /// Until when it is out.
    pub(crate) fn until(&self) -> Option<Duration> {
        self.out
    }

    /// Whether it is out; who has been for long enough comes back.
    pub(crate) fn is_out(&mut self, now: Duration) -> bool {
        if self.out.is_some_and(|until| until <= now) {
            self.back = now;
            self.out = None;
        }
        self.out.is_some()
    }
}

/// How many of so many endpoints may be out.
pub(crate) fn most(endpoints: usize, rule: &Ejection) -> usize {
    let part = (endpoints as f64 * rule.share) as usize;
    if endpoints < 2 { 0 } else { part.max(1) }
}

/// Whether so few are in that all are used.
pub(crate) fn panics(inside: usize, endpoints: usize, rule: &Ejection) -> bool {
    inside == 0 || (inside as f64) < endpoints as f64 * rule.panic
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rule() -> Ejection {
        Ejection { failures: 3, window: s(10), time: s(10), share: 0.5, panic: 0.5, resets: false }
    }

    #[test]
    fn failures_in_a_row_within_the_window() {
        let failed = |n| Outcome { failed: n, ..Outcome::default() };
        let answered = Outcome { answered: 1, ..Outcome::default() };
        let reset = Outcome { answered: 1, reset: 1, ..Outcome::default() };
        let all = Ejection { resets: true, ..rule() };
        let table: &[(&Ejection, &[(u64, Outcome)], bool)] = &[
            (&rule(), &[(1, failed(3))], true),
            (&rule(), &[(1, failed(2))], false),
            (&rule(), &[(1, failed(1)), (5, failed(1)), (11, failed(1))], true),
            (&rule(), &[(1, failed(1)), (5, failed(1)), (12, failed(1))], false),
            (&rule(), &[(1, failed(2)), (2, answered), (3, failed(2))], false),
            (&rule(), &[(1, failed(2)), (2, Outcome::default()), (3, failed(1))], true),
            (&rule(), &[(1, reset), (2, reset), (3, reset)], false),
            (&all, &[(1, reset), (2, reset), (3, reset)], true),
        ];
        for (rule, outcomes, expected) in table {
            let mut record = Record::default();
            let last = outcomes.iter().map(|(at, outcome)| record.note(*outcome, rule, s(*at))).last();
            assert_eq!(last, Some(*expected), "{outcomes:?}");
        }
    }

    #[test]
    fn each_time_it_is_out_for_twice_as_long_until_it_is_forgiven() {
        let mut record = Record::default();
        let mut now = s(100);
        for expected in [10, 20, 40, 80, 160, 320, 320] {
            record.eject(&rule(), now);
            assert!(record.is_out(now + s(expected) - Duration::from_millis(1)));
            assert!(!record.note(Outcome { failed: 9, ..Outcome::default() }, &rule(), now), "it is out");
            now += s(expected);
            assert!(!record.is_out(now), "{expected}");
        }
        now += s(321);
        record.eject(&rule(), now);
        assert!(!record.is_out(now + s(10)));
    }

    #[test]
    fn how_many_may_be_out() {
        let rule = |share, panic| Ejection { share, panic, ..rule() };
        for (endpoints, share, expected) in
            [(1, 1.0, 0), (2, 0.1, 1), (10, 0.5, 5), (10, 0.19, 1), (3, 1.0, 3)]
        {
            assert_eq!(most(endpoints, &rule(share, 0.0)), expected, "{endpoints} {share}");
        }
        for (inside, endpoints, panic, expected) in
            [(0, 3, 0.0, true), (1, 3, 0.5, true), (2, 3, 0.5, false), (1, 2, 0.5, false), (1, 9, 0.0, false)]
        {
            assert_eq!(panics(inside, endpoints, &rule(1.0, panic)), expected, "{inside} of {endpoints}");
        }
    }
}
