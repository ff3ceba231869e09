//! What a Service's annotations ask of the proxy beyond kube-proxy's behaviour.

use sealane_catalog::Service;
use std::collections::BTreeMap;
use std::time::Duration;

/// Chooses how endpoints are balanced: `least-connections`, or `random`, the default.
pub const BALANCE: &str = "sealane.dev/balance";
/// Weights by Pod, address, node or zone, as JSON.
pub const WEIGHTS: &str = "sealane.dev/weights";
/// For how long an endpoint's share rises.
pub const SLOW_START: &str = "sealane.dev/slow-start";
/// When an endpoint that fails gets no new connections.
pub const EJECT: &str = "sealane.dev/eject";
/// How many flows an endpoint of the zone may have before others help.
pub const SPILL_OVER: &str = "sealane.dev/spill-over";
/// How many established connections a second may be moved after a scale-out.
pub const REBALANCE: &str = "sealane.dev/rebalance";

/// Weights are at most this.
const HEAVIEST: u32 = 1000;

/// When endpoints are ejected.
#[derive(Clone, Debug, PartialEq)]
pub struct Ejection {
    /// So many connections in a row fail.
    pub failures: u32,
    /// Within this time.
    pub window: Duration,
    /// For how long the first time; twice as long each time.
    pub time: Duration,
    /// At most this part of the endpoints, 0-1; one in any case, where there are two.
    pub share: f64,
    /// Where fewer than this part would be left, 0-1, all are used.
    pub panic: f64,
    /// Established connections that end by RST count as well, whichever side sent it.
    pub resets: bool,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            failures: 3,
            window: Duration::from_secs(10),
            time: Duration::from_secs(10),
            share: 0.5,
            panic: 0.5,
            resets: false,
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// New connections go where fewest are.
    pub least: bool,
    /// Weights by key.
    pub weights: BTreeMap<String, u32>,
    /// How long an endpoint's share rises since it became ready.
    pub slow_start: Option<Duration>,
    /// When endpoints are ejected.
    pub eject: Option<Ejection>,
    /// Flows that an endpoint near has before others help.
    pub spill_over: Option<u32>,
    /// Connections that may be moved each second.
    pub rebalance: Option<f64>,
}

/// An annotation that is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {why}")]
pub struct Problem {
    /// Its name.
    pub annotation: &'static str,
    /// Why, and what would be right.
    pub why: String,
}

impl Options {
    /// Reads a Service's annotations. One that cannot be followed counts as absent.
    pub fn of(service: &Service) -> (Self, Vec<Problem>) {
        let mut options = Self::default();
        let mut problems = Vec::new();
        let sticky = service.affinity_seconds.is_some();
        for (annotation, read) in READERS {
            let Some(value) = service.annotations.get(annotation) else { continue };
            let outcome = match annotation {
                SPILL_OVER | REBALANCE if sticky => {
                    Err("does not go together with sessionAffinity, which leads clients back".to_owned())
                }
                _ => read(value.trim(), &mut options),
            };
            problems.extend(outcome.err().map(|why| Problem { annotation, why }));
        }
        (options, problems)
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether flows must be looked at.
    pub fn needs_flows(&self) -> bool {
        self.least || self.eject.is_some() || self.spill_over.is_some() || self.rebalance.is_some()
    }

    /// The weight of an endpoint: by its Pod's name, its address, its node, its zone, or the beginning of its Pod's
    /// name, whichever comes first; of beginnings the longest. 1 otherwise.
    pub fn weight(&self, pod: &str, address: &str, node: &str, zone: &str) -> u32 {
        if self.weights.is_empty() {
            return 1;
        }
        let named = [pod, address, node, zone].into_iter().filter(|key| !key.is_empty());
        let found = named.filter_map(|key| self.weights.get(key)).next();
        let begins = || {
            let beginnings = self.weights.iter().filter_map(|(key, w)| Some((key.strip_suffix('*')?, w)));
            beginnings.filter(|(begin, _)| pod.starts_with(begin)).max_by_key(|(begin, _)| begin.len())
        };
        found.copied().or_else(|| begins().map(|(_, w)| *w)).unwrap_or(1)
    }
}

type Reader = fn(&str, &mut Options) -> Result<(), String>;

const READERS: [(&str, Reader); 6] = [
    (BALANCE, |value, options| {
        options.least = match value {
            "least-connections" => true,
            "random" => false,
            _ => return Err(format!("{value:?} is neither least-connections nor random")),
        };
        Ok(())
    }),
    (WEIGHTS, |value, options| {
        let weights: BTreeMap<String, u32> = serde_json::from_str(value)
            .map_err(|e| format!("no JSON object of whole numbers such as {{\"web-0\": 3}}: {e}"))?;
        if let Some((key, _)) = weights.iter().find(|(_, w)| **w > HEAVIEST) {
            return Err(format!("{key:?} weighs more than {HEAVIEST}"));
        }
        if !weights.is_empty() && weights.values().all(|w| *w == 0) {
            return Err("all weights are 0".to_owned());
        }
        options.weights = weights;
        Ok(())
    }),
    (SLOW_START, |value, options| {
        options.slow_start = Some(duration(value)?);
        Ok(())
    }),
    (EJECT, |value, options| {
        options.eject = Some(ejection(value)?);
        Ok(())
    }),
    (SPILL_OVER, |value, options| {
        let flows = value.parse().ok().filter(|n| *n > 0);
        options.spill_over = Some(flows.ok_or_else(|| format!("{value:?} is no number of flows above 0"))?);
        Ok(())
    }),
    (REBALANCE, |value, options| {
        let rate = value.strip_suffix("/s").and_then(|n| n.parse::<f64>().ok());
        let rate = rate.filter(|n| n.is_finite() && *n > 0.0 && *n <= 100_000.0);
        let wrong = || format!("{value:?} is no rate such as 10/s, at most 100000/s");
        options.rebalance = Some(rate.ok_or_else(wrong)?);
        Ok(())
    }),
];

/// `90s`, `1m30s`: Go's form, whole seconds at least, an hour at most.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as 30s or 2m, from 1s to 1h");
    let mut seconds = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = (rest[..digits].parse::<u64>().map_err(|_| wrong())?, &rest[digits..]);
        let (factor, length) = match unit.as_bytes()[0] {
            b's' => (1, 1),
            b'm' => (60, 1),
            b'h' => (3600, 1),
            _ => return Err(wrong()),
        };
        seconds = number.checked_mul(factor).and_then(|n| seconds.checked_add(n)).ok_or_else(wrong)?;
        rest = &unit[length..];
    }
    (1..=3600).contains(&seconds).then(|| Duration::from_secs(seconds)).ok_or_else(wrong)
}

/// `on`, or `failures=3,window=10s,time=10s,share=50%,panic=50%,resets=all` in any order and number.
fn ejection(text: &str) -> Result<Ejection, String> {
    let mut ejection = Ejection::default();
    if text == "on" {
        return Ok(ejection);
    }
    for part in text.split(',').map(str::trim) {
        let wrong = || {
            format!(
                "{part:?} is not understood; on, or failures=3,window=10s,time=10s,share=50%,panic=50%,resets=refused|all"
            )
        };
        let (key, value) = part.split_once('=').ok_or_else(wrong)?;
        let percent = || {
            let number = value.strip_suffix('%').and_then(|n| n.parse::<u32>().ok()).filter(|n| *n <= 100);
            number.map(|n| f64::from(n) / 100.0).ok_or_else(wrong)
        };
        match key {
            "failures" => {
                let number = value.parse().ok().filter(|n| (1..=1000).contains(n));
                ejection.failures = number.ok_or_else(wrong)?;
            }
            "window" => ejection.window = duration(value)?,
            "time" => ejection.time = duration(value)?,
            "share" => ejection.share = percent()?,
            "panic" => ejection.panic = percent()?,
            "resets" => {
                ejection.resets = match value {
                    "refused" => false,
                    "all" => true,
                    _ => return Err(wrong()),
                }
            }
            _ => return Err(wrong()),
        }
    }
    Ok(ejection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotation: &str, value: &str) -> Result<Options, String> {
        let (_, read) = READERS.iter().find(|(name, _)| *name == annotation).unwrap();
        let mut options = Options::default();
        read(value, &mut options).map(|()| options)
    }

    #[test]
    fn values_that_are_understood() {
        let none = Options::default;
        let weights = |list: &[(&str, u32)]| list.iter().map(|(k, w)| ((*k).to_owned(), *w)).collect();
        let seconds = |n| Some(Duration::from_secs(n));
        let table = [
            (BALANCE, "least-connections", Options { least: true, ..none() }),
            (BALANCE, "random", none()),
            (WEIGHTS, "{}", none()),
            (WEIGHTS, r#"{"a": 3, "b*": 0}"#, Options { weights: weights(&[("a", 3), ("b*", 0)]), ..none() }),
            (SLOW_START, "30s", Options { slow_start: seconds(30), ..none() }),
            (SLOW_START, "1m30s", Options { slow_start: seconds(90), ..none() }),
            (SLOW_START, "1h", Options { slow_start: seconds(3600), ..none() }),
            (EJECT, "on", Options { eject: Some(Ejection::default()), ..none() }),
            (
                EJECT,
                "failures=5, share=100%,panic=30%,resets=all,window=1m,time=5s",
                Options {
                    eject: Some(Ejection {
                        failures: 5,
                        window: Duration::from_secs(60),
                        time: Duration::from_secs(5),
                        share: 1.0,
                        panic: 0.3,
                        resets: true,
                    }),
                    ..none()
                },
            ),
            (SPILL_OVER, "100", Options { spill_over: Some(100), ..none() }),
            (REBALANCE, "10/s", Options { rebalance: Some(10.0), ..none() }),
            (REBALANCE, "0.5/s", Options { rebalance: Some(0.5), ..none() }),
        ];
        for (annotation, value, expected) in table {
            assert_eq!(read(annotation, value), Ok(expected), "{annotation}: {value}");
        }
    }

    #[test]
    fn values_that_are_not() {
        let table = [
            (BALANCE, "round-robin"),
            (BALANCE, ""),
            (WEIGHTS, "web-0=3"),
            (WEIGHTS, r#"{"a": -1}"#),
            (WEIGHTS, r#"{"a": 1.5}"#),
            (WEIGHTS, r#"{"a": 1001}"#),
            (WEIGHTS, r#"{"a": 0, "b": 0}"#),
            (SLOW_START, ""),
            (SLOW_START, "30"),
            (SLOW_START, "0s"),
            (SLOW_START, "2h"),
            (SLOW_START, "s"),
            (SLOW_START, "3€"),
            (SLOW_START, "99999999999999999999h"),
            (SLOW_START, "9999999999999999999m9999999999999999999m"),
            (EJECT, "off"),
            (EJECT, ""),
            (EJECT, "failures=0"),
            (EJECT, "share=50"),
            (EJECT, "panic=101%"),
            (EJECT, "resets=some"),
            (EJECT, "colour=red"),
            (SPILL_OVER, "0"),
            (SPILL_OVER, "-1"),
            (SPILL_OVER, "many"),
            (REBALANCE, "10"),
            (REBALANCE, "0/s"),
            (REBALANCE, "nan/s"),
            (REBALANCE, "-1/s"),
            (REBALANCE, "inf/s"),
        ];
        for (annotation, value) in table {
            assert!(read(annotation, value).is_err(), "{annotation}: {value}");
        }
    }

    #[test]
    fn weights_go_by_the_first_that_fits() {
        let options = read(
            WEIGHTS,
            r#"{"web-0": 2, "10.0.0.9": 3, "n1": 4, "a": 5, "web-*": 6, "web-canary-*": 7, "*": 8}"#,
        )
        .unwrap();
        let table = [
            (("web-0", "10.0.0.9", "n1", "a"), 2),
            (("web-1", "10.0.0.9", "n1", "a"), 3),
            (("web-1", "10.0.0.8", "n1", "a"), 4),
            (("web-1", "10.0.0.8", "n2", "a"), 5),
            (("web-1", "10.0.0.8", "n2", "b"), 6),
            (("web-canary-1", "10.0.0.8", "n2", "b"), 7),
            (("other", "10.0.0.8", "", ""), 8),
        ];
        for ((pod, address, node, zone), expected) in table {
            assert_eq!(options.weight(pod, address, node, zone), expected, "{pod} {address}");
        }
        assert_eq!(Options::default().weight("web-0", "", "", ""), 1);
    }
}
