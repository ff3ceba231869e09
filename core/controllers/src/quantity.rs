//! [`Quantity`]: `500m`, `2Gi`, `1e3` as a number (upstream `apimachinery/pkg/api/resource`).

/// A quantity in thousandths of its unit, rounded up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(pub i128);

impl Quantity {
    /// Reads a quantity; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let (numerator, denominator): (i128, i128) = match suffix {
            "" => (1000, 1),
            "n" => (1, 1_000_000),
            "u" => (1, 1000),
            "m" => (1, 1),
            "k" => (1_000_000, 1),
            "M" => (10_i128.pow(9), 1),
            "G" => (10_i128.pow(12), 1),
            "T" => (10_i128.pow(15), 1),
            "P" => (10_i128.pow(18), 1),
            "E" => (10_i128.pow(21), 1),
            "Ki" => (1000 << 10, 1),
            "Mi" => (1000 << 20, 1),
            "Gi" => (1000 << 30, 1),
            "Ti" => (1000 << 40, 1),
            "Pi" => (1000 << 50, 1),
            "Ei" => (1000 << 60, 1),
            exponent => {
                let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
                let by = 10_i128.checked_pow(power.unsigned_abs())?;
                if power < 0 { (1000, by) } else { (by.checked_mul(1000)?, 1) }
            }
        };
        let (negative, number) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 18 {
            return None;
        }
        let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        let parse = |s: &str| if s.is_empty() { Some(0) } else { s.parse::<i128>().ok() };
        let units = parse(whole)?.checked_mul(scale)?.checked_add(parse(fraction)?)?;
        let over = scale.checked_mul(denominator)?;
        let product = units.checked_mul(numerator)?;
        let up = product / over + i128::from(product % over != 0);
        Some(Quantity(if negative { -(product / over) } else { up }))
    }
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    #[test]
    fn quantities() {
        for (text, milli) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("500m", Some(500)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.5Gi", Some(1536 * 1024 * 1024 * 1000)),
            ("64Mi", Some(64 * 1024 * 1024 * 1000)),
            ("1e3", Some(1_000_000)),
            ("1E", Some(10_i128.pow(21))),
            ("100n", Some(1)),
            ("-1", Some(-1000)),
            ("", None),
            ("m", None),
            ("1x", None),
            ("1e999", None),
            ("1.2.3", None),
        ] {
            assert_eq!(Quantity::parse(text), milli.map(Quantity), "{text:?}");
        }
    }
}
