//! Amounts such as `100m`, `1Gi`, `2` (`k8s.io/apimachinery/pkg/api/resource`).

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The amount in thousandths, rounded up; `None` where the text is no quantity or out of range.
pub fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let split = text
        .char_indices()
        .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '-' || *c == '+'))))
        .map_or(text.len(), |(i, _)| i);
    let (number, suffix) = text.split_at(split);
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 15 {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10i128.pow(u32::try_from(fraction.len()).ok()?);
    let (numerator, denominator): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "" => (1000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        exponent => {
            let e: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            if e.abs() > 18 {
                return None;
            }
            let ten = 10i128.pow(e.unsigned_abs());
            if e >= 0 { (ten * 1000, 1) } else { (1000, ten) }
        }
    };
    let top = mantissa.checked_mul(numerator)?;
    let bottom = scale.checked_mul(denominator)?;
    let up = top / bottom + i128::from(top % bottom != 0);
    Some(if negative { -up } else { up })
}

/// Whole units, rounded up (bytes for memory).
pub fn units(q: &Quantity) -> Option<u64> {
    let m = milli(&q.0)?;
    u64::try_from((m + 999).div_euclid(1000)).ok()
}

/// Thousandths (of a core for cpu).
pub fn thousandths(q: &Quantity) -> Option<u64> {
    u64::try_from(milli(&q.0)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_amounts() {
        for (text, want) in [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1Ki", Some(1_024_000)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("2e3", Some(2_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("1n", Some(1)),
            ("-1", Some(-1000)),
            ("", None),
            ("x", None),
            ("1Zi", None),
            ("1e99", None),
        ] {
            assert_eq!(milli(text), want, "{text:?}");
        }
        assert_eq!(units(&Quantity("64Mi".into())), Some(67_108_864));
        assert_eq!(units(&Quantity("1500m".into())), Some(2));
        assert_eq!(thousandths(&Quantity("250m".into())), Some(250));
    }
}
