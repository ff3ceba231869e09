//! LOC's data (RFC 1876): degrees as people write them, and the sixteen octets.

/// The equator and the prime meridian in thousandths of a second of arc.
const CENTRE: i64 = 1 << 31;
/// The lowest altitude, in centimetres below the WGS 84 spheroid.
const BASE: i64 = 10_000_000;

/// A decimal number as an integer of its `decimals`-th places; further places are cut.
fn fixed(text: &str, decimals: usize) -> Option<i64> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.len() + part.len() == 0 || whole.len() > 9 || !digits(whole) || !digits(part) {
        return None;
    }
    let places: String = part.chars().chain(std::iter::repeat('0')).take(decimals).collect();
    let value: i64 = format!("0{whole}{places}").parse().ok()?;
    Some(if negative { -value } else { value })
}

fn metres(text: &str) -> Option<i64> {
    fixed(text.strip_suffix(['m', 'M']).unwrap_or(text), 2)
}

/// `degrees [minutes [seconds]] N|S|E|W`, the words that it takes removed from the front.
fn angle(words: &mut &[&str], limit: i64, signs: [&str; 2]) -> Option<u32> {
    let mut thousandths = 0;
    for (scale, most, decimals) in [(3_600_000, limit, 0), (60_000, 59, 0), (1, 59_999, 3)] {
        let (word, rest) = words.split_first()?;
        if signs.iter().any(|s| s.eq_ignore_ascii_case(word)) {
            break;
        }
        let value = fixed(word, decimals).filter(|v| (0..=most).contains(v))?;
        if decimals == 0 && word.contains('.') {
            return None;
        }
        thousandths += value * scale;
        *words = rest;
    }
    let (sign, rest) = words.split_first()?;
    *words = rest;
    let at = signs.iter().position(|s| s.eq_ignore_ascii_case(sign))?;
    u32::try_from(if at == 0 { CENTRE + thousandths } else { CENTRE - thousandths }).ok()
}

/// Centimetres as a digit and a power of ten.
fn precision(text: &str) -> Option<u8> {
    let mut value = metres(text).filter(|v| (0..=9_000_000_000).contains(v))?;
    let mut exponent = 0;
    while value >= 10 {
        value /= 10;
        exponent += 1;
    }
    Some(u8::try_from(value).ok()? << 4 | exponent)
}

/// The sixteen octets; `None` where the words are no location.
pub(super) fn parse(words: &[&str]) -> Option<[u8; 16]> {
    let mut rest = words;
    let latitude = angle(&mut rest, 90, ["N", "S"])?;
    let longitude = angle(&mut rest, 180, ["E", "W"])?;
    let (altitude, rest) = rest.split_first()?;
    let altitude = u32::try_from(metres(altitude)? + BASE).ok()?;
    if rest.len() > 3 {
        return None;
    }
    // RFC 1876 section 3: 1 m, 10 km, 10 m.
    let mut sizes = [0x12, 0x16, 0x13];
    for (size, word) in sizes.iter_mut().zip(rest) {
        *size = precision(word)?;
    }
    let mut out = [0; 16];
    out[1..4].copy_from_slice(&sizes);
    for (at, n) in [latitude, longitude, altitude].into_iter().enumerate() {
        out[4 + 4 * at..8 + 4 * at].copy_from_slice(&n.to_be_bytes());
    }
    Some(out)
}

/// As people write it; `None` where the octets are of another version or out of range.
pub(super) fn print(wire: &[u8]) -> Option<String> {
    let wire: &[u8; 16] = wire.try_into().ok()?;
    let word =
        |at: usize| i64::from(u32::from_be_bytes([wire[at], wire[at + 1], wire[at + 2], wire[at + 3]]));
    let sizes = &wire[1..4];
    if wire[0] != 0 || sizes.iter().any(|s| s >> 4 > 9 || s & 0xf > 9) {
        return None;
    }
    let mut out = String::new();
    for (value, limit, signs) in [(word(4), 90, ["N", "S"]), (word(8), 180, ["E", "W"])] {
        let sign = signs[usize::from(value < CENTRE)];
        let arc = (value - CENTRE).abs();
        let (degrees, minutes, rest) = (arc / 3_600_000, arc / 60_000 % 60, arc % 60_000);
        if degrees > limit {
            return None;
        }
        out += &format!("{degrees} {minutes} {}.{:03} {sign} ", rest / 1000, rest % 1000);
    }
    let altitude = word(12) - BASE;
    let sign = if altitude < 0 { "-" } else { "" };
    out += &format!("{sign}{}.{:02}m", altitude.abs() / 100, altitude.abs() % 100);
    for size in sizes {
        let value = i64::from(size >> 4) * 10_i64.pow(u32::from(size & 0xf));
        out += &format!(" {}.{:02}m", value / 100, value % 100);
    }
    Some(out)
}
