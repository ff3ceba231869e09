//! One probe's worker as a state machine (`pkg/kubelet/prober/worker.go`).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Probe as Spec};

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Has it come up? The others wait for it.
    Startup,
    /// Should it be restarted?
    Liveness,
    /// Should it get traffic?
    Readiness,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

    /// The probe of this kind that `container` has.
    pub fn of(self, container: &Container) -> Option<&Spec> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
        }
    }

    /// As events print it.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// What one attempt gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered as it should.
    Success,
    /// It did not.
    Failure,
    /// The attempt itself could not be made; it says nothing.
    Unknown,
}

/// The fields of a probe with their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the container's start to the first attempt.
    pub initial_delay: SignedDuration,
    /// Between attempts.
    pub period: SignedDuration,
    /// Of one attempt.
    pub timeout: SignedDuration,
    /// Attempts in a row that turn a failure into success.
    pub success_threshold: u32,
    /// Attempts in a row that turn success into failure.
    pub failure_threshold: u32,
}

impl Timing {
    /// Reads a probe, with the defaults of `SetDefaults_Probe`.
    pub fn of(spec: &Spec) -> Self {
        let secs = |v: Option<i32>, default: i64| {
            SignedDuration::from_secs(v.map(i64::from).filter(|n| *n > 0).unwrap_or(default))
        };
        let count = |v: Option<i32>, default: u32| {
            v.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
        };
        Timing {
            initial_delay: secs(spec.initial_delay_seconds, 0),
            period: secs(spec.period_seconds, 10),
            timeout: secs(spec.timeout_seconds, 1),
            success_threshold: count(spec.success_threshold, 1),
            failure_threshold: count(spec.failure_threshold, 3),
        }
    }
}

/// The worker of one probe of one incarnation of a container.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    kind: Kind,
    timing: Timing,
    verdict: Outcome,
    last: Outcome,
    run: u32,
    on_hold: bool,
    /// Attempts of a readiness probe that has never succeeded.
    early: u32,
}

/// The second attempt of a readiness probe comes so soon; the pauses double until they are the period.
const EARLY: SignedDuration = SignedDuration::from_millis(25);

impl Worker {
    /// A worker that has seen nothing: alive, not ready, not started.
    pub fn new(kind: Kind, timing: Timing) -> Self {
        let verdict = match kind {
            Kind::Liveness => Outcome::Success,
            Kind::Readiness => Outcome::Failure,
            Kind::Startup => Outcome::Unknown,
        };
        Worker { kind, timing, verdict, last: Outcome::Unknown, run: 0, on_hold: false, early: 0 }
    }

    /// When to try first, in a container that started at `started` and whose startup probe passed at `passed`
    /// (its start where it has none).
    pub fn first(&self, started: Timestamp, passed: Timestamp) -> Timestamp {
        let earliest = started.checked_add(self.timing.initial_delay).unwrap_or(started);
        earliest.max(passed)
    }

    /// When to try after an attempt that began at `attempted`; `None`: no more (a startup probe that passed, a
    /// probe whose container is about to be restarted).
    pub fn next(&self, attempted: Timestamp) -> Option<Timestamp> {
        let done = self.kind == Kind::Startup && self.verdict == Outcome::Success;
        if done || self.on_hold {
            return None;
        }
        attempted.checked_add(self.pause()).ok()
    }

    /// The period; less while a container that just started may become ready any moment. Failures of a readiness
    /// probe have no effect before its first success, so trying more often changes nothing but the wait.
    fn pause(&self) -> SignedDuration {
        if self.early == 0 {
            return self.timing.period;
        }
        let doubled = EARLY.checked_mul(1 << (self.early - 1).min(16));
        doubled.unwrap_or(self.timing.period).min(self.timing.period)
    }

    /// Takes an attempt's outcome; `Some` where the verdict is another now.
    pub fn record(&mut self, outcome: Outcome) -> Option<Outcome> {
        if outcome == Outcome::Unknown || self.on_hold {
            return None;
        }
        self.early = match (self.kind, outcome) {
            (Kind::Readiness, Outcome::Failure) if self.early > 0 || self.last == Outcome::Unknown => {
                self.early + 1
            }
            _ => 0,
        };
        if self.last == outcome {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = outcome;
            self.run = 1;
        }
        let needed = match outcome {
            Outcome::Success => self.timing.success_threshold,
            _ => self.timing.failure_threshold,
        };
        if self.run < needed {
            return None;
        }
        let changed = self.verdict != outcome;
        self.verdict = outcome;
        if outcome == Outcome::Failure && self.kind != Kind::Readiness {
            // The container is restarted: probing it until then would count against the next one.
            self.on_hold = true;
            self.run = 0;
        }
        changed.then_some(outcome)
    }

    /// The verdict in force.
    pub fn verdict(&self) -> Outcome {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    fn worker(kind: Kind, spec: serde_json::Value) -> Worker {
        Worker::new(kind, Timing::of(&from_value(spec).unwrap()))
    }

    /// `s`, `f`, `u` are outcomes; what is printed are the verdicts that changed.
    fn play(mut w: Worker, outcomes: &str) -> String {
        outcomes
            .chars()
            .map(|c| {
                let o = match c {
                    's' => Outcome::Success,
                    'f' => Outcome::Failure,
                    _ => Outcome::Unknown,
                };
                match w.record(o) {
                    Some(Outcome::Success) => 'S',
                    Some(Outcome::Failure) => 'F',
                    _ => '.',
                }
            })
            .collect()
    }

    #[test]
    fn thresholds() {
        for (kind, spec, outcomes, want) in [
            (Kind::Readiness, json!({}), "sfffss", "S..FS."),
            (Kind::Readiness, json!({}), "ffff", "...."),
            (Kind::Readiness, json!({"failureThreshold": 1, "successThreshold": 2}), "sssfsfss", ".S.F...S"),
            (Kind::Readiness, json!({"failureThreshold": 2}), "sfufsf", "S..FS."),
            (Kind::Liveness, json!({}), "sffsfff", "......F"),
            (Kind::Liveness, json!({"failureThreshold": 1}), "ffs", "F.."),
            (Kind::Startup, json!({"failureThreshold": 2}), "fs", ".S"),
            (Kind::Startup, json!({"failureThreshold": 2}), "ff", ".F"),
        ] {
            assert_eq!(play(worker(kind, spec.clone()), outcomes), want, "{kind:?} {spec} {outcomes}");
        }
    }

    #[test]
    fn times() {
        let t = |s: i64| Timestamp::from_second(1000 + s).unwrap();
        let w = worker(Kind::Readiness, json!({"initialDelaySeconds": 5, "periodSeconds": 3}));
        assert_eq!(w.first(t(0), t(0)), t(5));
        assert_eq!(w.first(t(0), t(9)), t(9));
        assert_eq!(w.next(t(5)), Some(t(8)));
        let mut early = w;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            early.record(Outcome::Failure);
            pauses.push((early.next(t(0)).unwrap() - t(0)).total(jiff::Unit::Millisecond).unwrap());
        }
        assert_eq!(pauses, [25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0, 3000.0, 3000.0]);
        early.record(Outcome::Success);
        early.record(Outcome::Failure);
        assert_eq!(early.next(t(0)), Some(t(3)), "once it has been ready, the period counts");
        let mut s = worker(Kind::Startup, json!({}));
        assert_eq!(s.next(t(0)), Some(t(10)));
        s.record(Outcome::Success);
        assert_eq!(s.next(t(0)), None);
        let mut l = worker(Kind::Liveness, json!({"failureThreshold": 1}));
        l.record(Outcome::Failure);
        assert_eq!(l.next(t(0)), None);
    }
}
