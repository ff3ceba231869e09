//! When a secondary asks its primaries (RFC 1034 section 4.3.5, RFC 1996), as CoreDNS's secondary plugin: the first
//! transfer is tried from a quarter of a second up to every ten; then the SOA's refresh, retry and expire count.

use std::sync::Arc;
use std::time::Duration;

use super::serial::is_newer;
use super::tree::Zone;

/// First pause after a failed first transfer.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between first transfers.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Refreshes are spread over so much time, retries over less.
const REFRESH_JITTER: Duration = Duration::from_secs(5);
const RETRY_JITTER: Duration = Duration::from_secs(2);

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed.
    Tick,
    /// A primary sent a NOTIFY.
    Notified,
    /// A primary's serial, `None` where no primary gave one.
    Serial(Option<u32>),
    /// A transfer's zone, `None` where no primary gave one.
    Transferred(Option<Arc<Zone>>),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the primaries in turn for their serial; hand in [`Event::Serial`].
    AskSerial,
    /// Ask the primaries in turn for the zone; hand in [`Event::Transferred`].
    Transfer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing under way until then.
    Waiting(Duration),
    Asking,
    Transferring,
}

/// One zone of a secondary. Times are since whatever start the caller counts from.
#[derive(Debug)]
pub struct Secondary {
    zone: Option<Arc<Zone>>,
    phase: Phase,
    pause: Duration,
    expires: Duration,
    /// A NOTIFY came while something was under way.
    again: bool,
}

impl Default for Secondary {
    fn default() -> Self {
        Secondary::new()
    }
}

impl Secondary {
    /// Without a zone; the first [`Event::Tick`] asks for one.
    pub fn new() -> Self {
        Secondary {
            zone: None,
            phase: Phase::Waiting(Duration::ZERO),
            pause: FIRST_PAUSE,
            expires: Duration::ZERO,
            again: false,
        }
    }

    /// The zone, where there is one that has not expired: without, the answer is SERVFAIL.
    pub fn zone(&self, now: Duration) -> Option<&Arc<Zone>> {
        self.zone.as_ref().filter(|_| now < self.expires)
    }

    /// Whether there is a zone that has expired.
    pub fn expired(&self, now: Duration) -> bool {
        self.zone.is_some() && now >= self.expires
    }

    /// The same zone, asked for anew.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Secondary { zone: self.zone.clone(), expires: self.expires, ..Secondary::new() }
    }

    /// When the next [`Event::Tick`] is due; `None` while something is under way.
    pub fn due(&self) -> Option<Duration> {
        match self.phase {
            Phase::Waiting(until) => Some(until),
            Phase::Asking | Phase::Transferring => None,
        }
    }

    /// Takes an event; `random` spreads what many zones would do at once.
    pub fn step(&mut self, event: Event, now: Duration, random: u64) -> Option<Action> {
        match (event, self.phase) {
            (Event::Tick, Phase::Waiting(until)) if until <= now => Some(self.start()),
            (Event::Notified, Phase::Waiting(_)) => Some(self.start()),
            (Event::Notified, _) => {
                self.again = true;
                None
            }
            (Event::Serial(serial), Phase::Asking) => match (serial, &self.zone) {
                (Some(serial), Some(zone)) if !is_newer(zone.serial(), serial) => {
                    self.fresh(now, random);
                    self.once_more()
                }
                (None, Some(_)) => {
                    self.retry(now, random);
                    self.once_more()
                }
                _ => {
                    self.phase = Phase::Transferring;
                    Some(Action::Transfer)
                }
            },
            (Event::Transferred(Some(zone)), Phase::Transferring) => {
                self.zone = Some(zone);
                self.fresh(now, random);
                self.once_more()
            }
            (Event::Transferred(None), Phase::Transferring) => {
                self.retry(now, random);
                self.once_more()
            }
            _ => None,
        }
    }

    fn start(&mut self) -> Action {
        let (phase, action) = match self.zone {
            Some(_) => (Phase::Asking, Action::AskSerial),
            None => (Phase::Transferring, Action::Transfer),
        };
        self.phase = phase;
        action
    }

    fn once_more(&mut self) -> Option<Action> {
        std::mem::take(&mut self.again).then(|| self.start())
    }

    /// The zone is known to be the primary's.
    fn fresh(&mut self, now: Duration, random: u64) {
        let Some(zone) = &self.zone else { return };
        let soa = zone.soa();
        self.expires = now + period(soa.expire);
        self.phase = Phase::Waiting(now + period(soa.refresh) + jitter(REFRESH_JITTER, random));
        self.pause = FIRST_PAUSE;
    }

    fn retry(&mut self, now: Duration, random: u64) {
        let pause = match &self.zone {
            Some(zone) => period(zone.soa().retry) + jitter(RETRY_JITTER, random),
            None => {
                let pause = self.pause;
                self.pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
        };
        self.phase = Phase::Waiting(now + pause);
    }
}

/// A period of an SOA, at least a second.
fn period(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds.max(1)))
}

fn jitter(most: Duration, random: u64) -> Duration {
    let most = u64::try_from(most.as_millis()).unwrap_or(1).max(1);
    Duration::from_millis(random % most)
}
