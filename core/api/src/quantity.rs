//! Quantities (`500m`, `64Mi`, `1e3`): parsing, the canonical form, comparing and adding
//! (`apimachinery/pkg/api/resource`).

use std::fmt;

/// Upstream's refusal of anything else.
pub const REFUSAL: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Which suffixes a quantity was written with, and is written with again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `m`, ``, `k`, `M`, …
    Decimal,
    /// `Ki`, `Mi`, …
    Binary,
    /// `e3`, `e6`, …
    Exponent,
}

/// A quantity, exact to 10⁻⁹ (finer input is rounded away from zero, as upstream does).
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Upstream's text for what is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{REFUSAL}")]
pub struct NotAQuantity;

const NANO: i128 = 1_000_000_000;
/// The largest value upstream keeps: 2⁶³-1 of the unit.
const MAX: i128 = (i64::MAX as i128) * NANO;
const DECIMAL: &[(&str, i32)] = &[
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: &[(&str, u32)] = &[("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// The factor as (numerator, denominator), and the format that the suffix belongs to.
fn suffix(text: &str) -> Option<(i32, u32, Format)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == text) {
        return Some((*exponent, 0, Format::Decimal));
    }
    if let Some((_, bits)) = BINARY.iter().find(|(s, _)| *s == text) {
        return Some((0, *bits, Format::Binary));
    }
    let exponent = text.strip_prefix(['e', 'E'])?;
    let exponent: i32 = exponent.parse().ok()?;
    (-20..=20).contains(&exponent).then_some((exponent, 0, Format::Exponent))
}

impl Quantity {
    /// Reads a quantity.
    ///
    /// # Errors
    /// [`NotAQuantity`] for anything that upstream refuses.
    pub fn parse(text: &str) -> Result<Self, NotAQuantity> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (number, unit) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(NotAQuantity);
        }
        let (exponent, bits, format) = suffix(unit).ok_or(NotAQuantity)?;
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        // value = digits * 10^(exponent - |fraction|) * 2^bits, wanted in units of 10^-9.
        let scale = 9 + exponent - i32::try_from(fraction.len()).map_err(|_| NotAQuantity)?;
        let mut nanos = if digits.is_empty() {
            0
        } else if i64::try_from(digits.len()).unwrap_or(i64::MAX) + i64::from(scale) > 30 {
            // Over 10^21 whatever the digits: far over the cap.
            MAX
        } else {
            Self::scaled(digits, scale, bits)
        };
        nanos = nanos.min(MAX);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// `digits * 10^scale * 2^bits`, rounded up, capped at [`MAX`].
    fn scaled(digits: &str, scale: i32, bits: u32) -> i128 {
        // Digits beyond the 30th stand for less than a nano of anything under the cap.
        let kept = &digits[..digits.len().min(30)];
        let cut = digits.len() - kept.len();
        let mut rest = digits[kept.len()..].bytes().any(|b| b != b'0');
        let mut value: i128 = kept.parse().unwrap_or(i128::MAX);
        let scale = scale + i32::try_from(cut).unwrap_or(0);
        // 2^bits is multiplied in first where it fits, so that nothing is lost to rounding.
        let mut bits = bits;
        while bits > 0 && value < i128::MAX / 4 {
            value *= 2;
            bits -= 1;
        }
        for _ in 0..scale.unsigned_abs() {
            if scale > 0 {
                value = value.saturating_mul(10);
            } else {
                rest |= value % 10 != 0;
                value /= 10;
            }
        }
        for _ in 0..bits {
            value = value.saturating_mul(2);
        }
        value.saturating_add(i128::from(rest)).min(MAX)
    }

    /// `n` thousandths.
    pub fn from_millis(n: i64) -> Self {
        Quantity { nanos: i128::from(n) * 1_000_000, format: Format::Decimal }
    }

    /// `n` units.
    pub fn from_units(n: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(n) * NANO, format }
    }

    /// In whole units, rounded up.
    pub fn units(self) -> i64 {
        Self::round_up(self.nanos, NANO)
    }

    /// In thousandths, rounded up.
    pub fn millis(self) -> i64 {
        Self::round_up(self.nanos, NANO / 1000)
    }

    /// Rounded up to thousandths (upstream's defaulting of resource lists).
    #[must_use]
    pub fn to_milli_precision(self) -> Self {
        let step = NANO / 1000;
        Quantity {
            nanos: self.nanos.div_euclid(step) * step
                + if self.nanos.rem_euclid(step) > 0 { step } else { 0 },
            ..self
        }
    }

    fn round_up(nanos: i128, unit: i128) -> i64 {
        let up = nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) > 0);
        i64::try_from(up).unwrap_or(if up > 0 { i64::MAX } else { i64::MIN })
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it has no fraction.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// The sum, in `self`'s format (in `other`'s where `self` is zero), capped as upstream does.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-MAX, MAX), format }
    }

    /// The difference, in `self`'s format.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.plus(Quantity { nanos: -other.nanos, ..other })
    }

    fn write_decimal(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exponential = self.format == Format::Exponent;
        let (mut mantissa, mut exponent) = (self.nanos, -9);
        while mantissa != 0 && mantissa % 1000 == 0 && exponent < 18 {
            mantissa /= 1000;
            exponent += 3;
        }
        if mantissa == 0 {
            return f.write_str("0");
        }
        if exponential {
            return if exponent == 0 { write!(f, "{mantissa}") } else { write!(f, "{mantissa}e{exponent}") };
        }
        let unit = DECIMAL.iter().find(|(_, e)| *e == exponent).map_or("", |(s, _)| *s);
        write!(f, "{mantissa}{unit}")
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that leaves none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Below 1024 and with fractions, binary quantities are written as decimal ones.
        if self.format != Format::Binary || !self.is_whole() || self.nanos.abs() < 1024 * NANO {
            return self.write_decimal(f);
        }
        let (mut mantissa, mut step) = (self.nanos / NANO, 0);
        while mantissa % 1024 == 0 && step < BINARY.len() {
            mantissa /= 1024;
            step += 1;
        }
        write!(f, "{mantissa}{}", if step == 0 { "" } else { BINARY[step - 1].0 })
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The canonical form of a quantity in a document (a string or a number), or `None` where it is none.
pub fn canonical(value: &serde_json::Value) -> Option<String> {
    read(value).map(|q| q.to_string())
}

/// A quantity in a document: a string or a number.
pub fn read(value: &serde_json::Value) -> Option<Quantity> {
    match value {
        serde_json::Value::String(s) => Quantity::parse(s).ok(),
        serde_json::Value::Number(n) => Quantity::parse(&n.to_string()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_canonical_form_is_upstreams() {
        let table = [
            ("0.5", "500m"),
            ("64Mi", "64Mi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1000m", "1"),
            ("0", "0"),
            ("-1500m", "-1500m"),
            ("1e3", "1e3"),
            ("1E", "1E"),
            ("12e6", "12e6"),
            ("1000000", "1M"),
            ("1024", "1024"),
            ("512Ki", "512Ki"),
            ("0.5Ki", "512"),
            ("100.035k", "100035"),
            ("0.0000000001", "1n"),
            ("9999999999999999999999", "9223372036854775807"),
            ("1Ei", "1Ei"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("1u", "1u"),
            ("0.1Gi", "107374182400m"),
        ];
        for (text, form) in table {
            assert_eq!(Quantity::parse(text).map(|q| q.to_string()), Ok(form.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["", "lots", "1.2.3", "1 Mi", "1ki", "Mi", "--1", "1e", "1ee3", "."] {
            assert_eq!(Quantity::parse(text).err(), Some(NotAQuantity), "{text}");
        }
    }

    #[test]
    fn sums_and_order_ignore_the_format() {
        let q = |t| Quantity::parse(t).unwrap();
        assert_eq!(q("1Ki"), q("1024"));
        assert!(q("1G") < q("1Gi"));
        assert_eq!(q("0").plus(q("1Mi")).to_string(), "1Mi");
        assert_eq!(q("500m").plus(q("1500m")).to_string(), "2");
        assert_eq!(q("1").minus(q("1500m")).millis(), -500);
        assert_eq!(q("1n").to_milli_precision().to_string(), "1m");
        assert_eq!(q("1001m").units(), 2);
    }

    proptest! {
        #[test]
        fn canonical_forms_are_fixed_points(n in -1_000_000_000_000_i64..1_000_000_000_000, unit in "(n|u|m|k|M|Ki|Mi|Gi|e3|)") {
            let once = Quantity::parse(&format!("{n}{unit}")).unwrap();
            let twice = Quantity::parse(&once.to_string()).unwrap();
            prop_assert_eq!(once, twice);
            prop_assert_eq!(once.to_string(), twice.to_string());
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+0-9.eEinumkKMGTP]{0,60}") {
            let _ = Quantity::parse(&text).map(|q| q.to_string());
        }
    }
}
