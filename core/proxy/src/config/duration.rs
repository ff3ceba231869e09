//! Durations as Go writes them (`time.ParseDuration`, `Duration.String`): `1h30m0s`, `250ms`, `0s`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Units, longest first, in nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("h", 3_600_000_000_000),
    ("ms", 1_000_000),
    ("m", 60_000_000_000),
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("s", 1_000_000_000),
];

/// A span of time, which may be negative as far as reading goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(i64);

impl Span {
    /// Of whole seconds.
    pub const fn seconds(seconds: i64) -> Span {
        Span(seconds * 1_000_000_000)
    }

    /// Below zero.
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Exactly zero.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// As a duration; a negative one is zero.
    pub fn get(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a duration such as 30s, 250ms or 1h30m");
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Span(0));
        }
        if rest.is_empty() {
            return Err(bad());
        }
        let mut total: f64 = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let (unit, size) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(bad)?;
            total += number * *size as f64;
            rest = &rest[unit.len()..];
        }
        if total > i64::MAX as f64 {
            return Err(format!("{text:?} is longer than 292 years"));
        }
        let nanoseconds = total.round() as i64;
        Ok(Span(if negative { -nanoseconds } else { nanoseconds }))
    }
}

/// A number without zeros at the end of its fraction.
fn fraction(f: &mut fmt::Formatter<'_>, value: u64, unit: u64, name: &str) -> fmt::Result {
    write!(f, "{}", value / unit)?;
    let digits = unit.ilog10() as usize;
    let rest = format!("{:0digits$}", value % unit);
    let rest = rest.trim_end_matches('0');
    if digits > 0 && !rest.is_empty() {
        write!(f, ".{rest}")?;
    }
    f.write_str(name)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match value {
            0 => f.write_str("0s"),
            1..1_000 => fraction(f, value, 1, "ns"),
            1_000..1_000_000 => fraction(f, value, 1_000, "µs"),
            1_000_000..1_000_000_000 => fraction(f, value, 1_000_000, "ms"),
            _ => {
                let minutes = value / 60_000_000_000;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                fraction(f, value % 60_000_000_000, 1_000_000_000, "s")
            }
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads text, whose place errors then have.
struct Text;

impl serde::de::Visitor<'_> for Text {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as 30s, 250ms or 1h30m")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Span, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let table = [
            ("0", "0s"),
            ("0s", "0s"),
            ("30s", "30s"),
            ("90s", "1m30s"),
            ("24h", "24h0m0s"),
            ("2h22m", "2h22m0s"),
            ("250ms", "250ms"),
            ("1.5s", "1.5s"),
            ("1h0.5s", "1h0m0.5s"),
            ("10us", "10µs"),
            ("-1s", "-1s"),
            ("7ns", "7ns"),
        ];
        for (text, shown) in table {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), shown, "{text}");
            assert_eq!(shown.parse::<Span>().unwrap(), span, "{text}");
        }
        for text in ["", "5", "s", "1d", "1h-2m", "9999999h", "1 s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
