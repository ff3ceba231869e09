//! How many datagrams may wait for a worker. Where more come than it can answer, a long queue means that all answers
//! come late, to clients that have given up: the queue gets as short as what is answered in good time.

use std::time::{Duration, Instant};

/// What may wait, octets as SO_RCVBUF counts them: a worker that has to wait for its processor loses nothing, …
pub(crate) const MOST: usize = 1 << 20;
/// … and one that is slow has something to do.
const LEAST: usize = 8 << 10;
/// Batches that may wait in that, at most.
pub(crate) const BATCHES: usize = 128;
/// Octets of SO_RCVBUF that one query takes: the kernel counts its own, and doubles what it is told (socket(7)).
const EACH: usize = 400;
/// A queue that was not empty for so long is one that does not get empty.
const STANDING: Duration = Duration::from_secs(1);
/// Then queries may wait so long, about. The shortest time after which resolvers ask again is 1 s.
const WAIT: Duration = Duration::from_millis(250);

/// What is known of one socket's queue.
pub(crate) struct Backlog {
    room: usize,
    /// Since when it has not been empty, and how many have been answered since.
    standing: Option<(Instant, usize)>,
    /// When it was not empty last.
    busy: Instant,
}

impl Backlog {
    pub(crate) fn new(now: Instant) -> Self {
        Backlog { room: MOST, standing: None, busy: now }
    }

    /// A batch was answered: whether there were `more` than it, or might have been. The room that the queue should have
    /// from now on, octets, where that is another one; where it is less, what waits has waited for too long.
    pub(crate) fn answered(&mut self, number: usize, more: bool, now: Instant) -> Option<usize> {
        if !more {
            self.standing = None;
            let calm = now.saturating_duration_since(self.busy) >= STANDING;
            return if calm { self.set(MOST) } else { None };
        }
        self.busy = now;
        let (since, answered) = self.standing.get_or_insert((now, 0));
        *answered += number;
        let time = now.saturating_duration_since(*since);
        if time < STANDING {
            return None;
        }
        let in_time = *answered as f64 * WAIT.as_secs_f64() / time.as_secs_f64();
        self.standing = None;
        self.set((in_time as usize).saturating_mul(EACH).clamp(LEAST, MOST))
    }

    /// Twice or half as much is another room.
    fn set(&mut self, room: usize) -> Option<usize> {
        let other = room / 2 >= self.room || room <= self.room / 2;
        if other {
            self.room = room;
        }
        other.then_some(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches of 64, one in `every`.
    fn flooded(backlog: &mut Backlog, begun: Instant, every: Duration, batches: u32) -> Vec<usize> {
        (0..batches).filter_map(|n| backlog.answered(64, true, begun + every * n)).collect()
    }

    #[test]
    fn a_queue_is_as_long_as_what_is_answered_in_time() {
        let begun = Instant::now();
        for (every, room) in [
            // 640,000, 64,000 and 8,000 a second: all that there is.
            (Duration::from_micros(100), None),
            (Duration::from_millis(1), None),
            (Duration::from_millis(8), None),
            (Duration::from_millis(16), Some(406_000)),
            (Duration::from_millis(64), Some(106_000)),
            // A hundred a second, and one.
            (Duration::from_millis(640), Some(14_800)),
            (Duration::from_secs(64), Some(LEAST)),
        ] {
            let mut backlog = Backlog::new(begun);
            let rooms = flooded(&mut backlog, begun, every, 20_000);
            assert_eq!(rooms.first().copied(), room, "{every:?}");
            assert!(rooms.len() < 2, "{rooms:?}");
        }
    }

    #[test]
    fn when_all_is_answered_it_is_long_again() {
        let begun = Instant::now();
        let mut backlog = Backlog::new(begun);
        assert!(!flooded(&mut backlog, begun, Duration::from_millis(64), 20).is_empty());
        let end = begun + Duration::from_millis(64) * 20;
        assert_eq!(backlog.answered(3, false, end), None);
        assert_eq!(backlog.answered(0, false, end + STANDING), Some(MOST));
        assert_eq!(backlog.answered(0, false, end + STANDING * 2), None);
        // Now and then a moment's work for a second is no overload.
        for n in 0..100u32 {
            let at = end + Duration::from_millis(700) * n;
            assert_eq!(backlog.answered(64, true, at), None);
            assert_eq!(backlog.answered(1, false, at + Duration::from_millis(300)), None);
        }
    }
}
