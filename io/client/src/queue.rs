//! The work queue: each key once, one plan of a key at a time, failures put off.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use sealane_controllers::Work;
use tokio::time::Instant;

/// The first pause after a failure; it doubles up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(30));

#[derive(Default)]
struct State {
    queued: bool,
    running: bool,
    /// Asked for while it ran.
    again: bool,
    failures: u32,
    /// The one delayed look that counts; others were overtaken.
    wake: Option<Instant>,
}

/// Keys to plan.
#[derive(Default)]
pub(crate) struct Queue {
    ready: VecDeque<Work>,
    states: HashMap<Work, State>,
    delayed: BinaryHeap<Reverse<(Instant, Work)>>,
}

impl Queue {
    /// Asks for a plan; one that is queued already counts for this too.
    pub(crate) fn add(&mut self, work: Work) {
        let state = self.states.entry(work.clone()).or_default();
        if state.running {
            state.again = true;
        } else if !state.queued {
            state.queued = true;
            self.ready.push_back(work);
        }
    }

    /// The next key to plan; [`Queue::done`] must follow.
    pub(crate) fn next(&mut self) -> Option<Work> {
        let work = self.ready.pop_front()?;
        let state = self.states.entry(work.clone()).or_default();
        (state.queued, state.running, state.wake) = (false, true, None);
        Some(work)
    }

    /// A plan was carried out, or parts of it failed; `after` asks for another look then.
    pub(crate) fn done(&mut self, work: Work, failed: bool, after: Option<Duration>, now: Instant) {
        let Some(state) = self.states.get_mut(&work) else { return };
        state.running = false;
        state.failures = if failed { state.failures + 1 } else { 0 };
        let again = std::mem::take(&mut state.again);
        let pause = failed.then(|| (PAUSES.0 * 2_u32.saturating_pow(state.failures - 1)).min(PAUSES.1));
        let wait = match (pause, after) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        // News that came while the write was on its way are why it conflicted, most likely.
        if again && state.failures < 2 {
            self.add(work);
        } else if let Some(wait) = wait {
            let at = now + wait;
            state.wake = Some(at);
            self.delayed.push(Reverse((at, work)));
        } else {
            self.states.remove(&work);
        }
    }

    /// When the next delayed look is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.delayed.peek().map(|Reverse((at, _))| *at)
    }

    /// Queues what is due.
    pub(crate) fn wake(&mut self, now: Instant) {
        while let Some(Reverse((at, _))) = self.delayed.peek()
            && *at <= now
        {
            let Some(Reverse((at, work))) = self.delayed.pop() else { return };
            if self.states.get(&work).is_some_and(|s| s.wake == Some(at)) {
                self.add(work);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_controllers::{Controller, Key};

    fn work(name: &str) -> Work {
        Work { controller: Controller::ReplicaSet, key: Key::new("a", name) }
    }

    #[test]
    fn each_key_once_and_one_plan_at_a_time() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.add(work("x"));
        queue.add(work("x"));
        assert_eq!(queue.next(), Some(work("x")));
        assert_eq!(queue.next(), None);
        queue.add(work("x"));
        assert_eq!(queue.next(), None, "it runs");
        queue.done(work("x"), false, None, now);
        assert_eq!(queue.next(), Some(work("x")));
        queue.done(work("x"), false, None, now);
        assert_eq!(queue.next(), None);
        assert!(queue.states.is_empty());
    }

    #[test]
    fn failures_are_put_off_and_a_look_overtaken_is_dropped() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for failures in 1..4 {
            queue.add(work("x"));
            queue.next();
            queue.done(work("x"), true, None, now);
            let at = queue.delayed.iter().map(|Reverse((at, _))| *at).max().unwrap();
            assert_eq!(at, now + PAUSES.0 * 2_u32.pow(failures - 1));
        }
        queue.wake(now + PAUSES.0);
        assert_eq!(queue.next(), None, "overtaken");
        queue.wake(now + PAUSES.0 * 4);
        assert_eq!(queue.next(), Some(work("x")));
        queue.done(work("x"), false, Some(Duration::from_secs(1)), now);
        assert_eq!(queue.due(), Some(now + Duration::from_secs(1)));
        // A change comes before the time.
        queue.add(work("x"));
        assert_eq!(queue.next(), Some(work("x")));
        queue.done(work("x"), false, None, now);
        queue.wake(now + Duration::from_secs(2));
        assert_eq!(queue.next(), None);
    }
}
