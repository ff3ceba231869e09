//! Record data as master files write it (RFC 1035 section 5.1, and each type's own RFC): one table says of what
//! fields a type's data is made; reading, writing and canonical form follow it.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;

use super::{Data, location, params, rtype};
use crate::name::{Name, NameError};

/// A word of a master file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// As it is written, escapes kept, without quotes.
    pub text: &'a [u8],
    /// It stood in quotes.
    pub quoted: bool,
    /// It follows the word before without a blank: `alpn="h2"` is two words.
    pub glued: bool,
}

/// Why words are no record's data: a sentence without its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadData(pub String);

fn bad<T>(sentence: impl Into<String>) -> Result<T, BadData> {
    Err(BadData(sentence.into()))
}

/// Numbers that may be written as names.
type Mnemonics = &'static [(u16, &'static str)];

/// One field of a record's data.
#[derive(Clone, Copy)]
enum Field {
    U8,
    U16,
    U32,
    /// 32 bits, with units: `1h30m`.
    Period,
    /// 8 bits, by name too.
    Name8(Mnemonics),
    /// 16 bits, by name too.
    Name16(Mnemonics),
    /// A record type.
    Type,
    /// `YYYYMMDDHHmmSS` or seconds since 1970 (RFC 4034 section 3.2).
    Time,
    Ipv4,
    Ipv6,
    /// So many octets in hex, parted in groups of so many by a character.
    Groups(usize, usize, char),
    Name,
    /// A character-string: a length and up to 255 octets.
    Text,
    /// One or more of them to the end; longer ones are cut in pieces.
    Texts,
    /// A length and letters or digits, unquoted.
    Tag,
    /// One string to the end, without a length.
    Octets,
    /// Hex to the end, blanks in it allowed.
    Hex,
    /// Base64 to the end, blanks in it allowed.
    Base64,
    /// A length and hex, `-` for none.
    Salt,
    /// A length and base32 with the extended hex alphabet.
    Hash,
    /// A type bit map to the end (RFC 4034 section 4.1.2).
    Types,
    Location,
    Params,
}

const ALGORITHM: Field = Field::Name8(&[
    (1, "RSAMD5"),
    (2, "DH"),
    (3, "DSA"),
    (5, "RSASHA1"),
    (6, "DSA-NSEC3-SHA1"),
    (7, "RSASHA1-NSEC3-SHA1"),
    (8, "RSASHA256"),
    (10, "RSASHA512"),
    (12, "ECC-GOST"),
    (13, "ECDSAP256SHA256"),
    (14, "ECDSAP384SHA384"),
    (15, "ED25519"),
    (16, "ED448"),
    (252, "INDIRECT"),
    (253, "PRIVATEDNS"),
    (254, "PRIVATEOID"),
]);
/// RFC 4398 section 2.1.
const CERTIFICATE: Field = Field::Name16(&[
    (1, "PKIX"),
    (2, "SPKI"),
    (3, "PGP"),
    (4, "IPKIX"),
    (5, "ISPKI"),
    (6, "IPGP"),
    (7, "ACPKIX"),
    (8, "IACPKIX"),
    (253, "URI"),
    (254, "OID"),
]);

/// The fields of each type's data.
const FORMATS: &[(u16, &[Field])] = {
    use Field::{
        Base64, Groups, Hash, Hex, Ipv4, Ipv6, Location, Name, Octets, Params, Period, Salt, Tag, Text,
        Texts, Time, Type, Types, U8, U16, U32,
    };
    &[
        (rtype::A, &[Ipv4]),
        (rtype::NS, &[Name]),
        (3, &[Name]),
        (4, &[Name]),
        (rtype::CNAME, &[Name]),
        (rtype::SOA, &[Name, Name, U32, Period, Period, Period, Period]),
        (7, &[Name]),
        (8, &[Name]),
        (9, &[Name]),
        (rtype::PTR, &[Name]),
        (rtype::HINFO, &[Text, Text]),
        (14, &[Name, Name]),
        (rtype::MX, &[U16, Name]),
        (rtype::TXT, &[Texts]),
        (17, &[Name, Name]),
        (18, &[U16, Name]),
        (19, &[Text]),
        (20, &[Texts]),
        (21, &[U16, Name]),
        (23, &[Name]),
        (25, &[U16, U8, ALGORITHM, Base64]),
        (26, &[U16, Name, Name]),
        (27, &[Text, Text, Text]),
        (rtype::AAAA, &[Ipv6]),
        (rtype::LOC, &[Location]),
        (rtype::SRV, &[U16, U16, U16, Name]),
        (rtype::NAPTR, &[U16, U16, Text, Text, Text, Name]),
        (36, &[U16, Name]),
        (37, &[CERTIFICATE, U16, ALGORITHM, Base64]),
        (rtype::DNAME, &[Name]),
        (rtype::DS, &[U16, ALGORITHM, U8, Hex]),
        (44, &[U8, U8, Hex]),
        (rtype::RRSIG, &[Type, ALGORITHM, U8, U32, Time, Time, U16, Name, Base64]),
        (rtype::NSEC, &[Name, Types]),
        (rtype::DNSKEY, &[U16, U8, ALGORITHM, Base64]),
        (49, &[Base64]),
        (rtype::NSEC3, &[U8, U8, U16, Salt, Hash, Types]),
        (rtype::NSEC3PARAM, &[U8, U8, U16, Salt]),
        (52, &[U8, U8, U8, Hex]),
        (53, &[U8, U8, U8, Hex]),
        (56, &[Texts]),
        (57, &[U16, U8, ALGORITHM, Base64]),
        (58, &[Name, Name]),
        (59, &[U16, ALGORITHM, U8, Hex]),
        (60, &[U16, U8, ALGORITHM, Base64]),
        (61, &[Base64]),
        (62, &[U32, U16, Types]),
        (63, &[U32, U8, U8, Hex]),
        (rtype::SVCB, &[U16, Name, Params]),
        (rtype::HTTPS, &[U16, Name, Params]),
        (99, &[Texts]),
        (104, &[U16, Groups(8, 2, ':')]),
        (105, &[U16, Ipv4]),
        (106, &[U16, Groups(8, 2, ':')]),
        (107, &[U16, Name]),
        (108, &[Groups(6, 1, '-')]),
        (109, &[Groups(8, 1, '-')]),
        (256, &[U16, U16, Octets]),
        (rtype::CAA, &[U8, Tag, Octets]),
        (258, &[Texts]),
        (261, &[Texts]),
        (32768, &[U16, ALGORITHM, U8, Hex]),
        (32769, &[U16, ALGORITHM, U8, Hex]),
    ]
};

/// Types whose names are written in lower case for signatures (RFC 4034 section 6.2, RFC 6840 section 5.1).
const LOWERED: &[u16] = &[2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15, 17, 18, 21, 24, 26, 30, 33, 35, 36, 38, 39, 46];

fn fields(rtype: u16) -> Option<&'static [Field]> {
    FORMATS.iter().find(|row| row.0 == rtype).map(|row| row.1)
}

/// Undoes `\.` and `\DDD` (RFC 1035 section 5.1).
///
/// # Errors
/// Where a backslash is the last character, or has digits behind it that are no octet.
pub fn unescape(text: &[u8]) -> Result<Vec<u8>, BadData> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        out.push(if byte == b'\\' { escaped(text, &mut at)? } else { byte });
    }
    Ok(out)
}

/// The octet behind a backslash.
fn escaped(text: &[u8], at: &mut usize) -> Result<u8, BadData> {
    let digits = text.get(*at..).unwrap_or_default();
    match digits {
        [first, ..] if !first.is_ascii_digit() => {
            *at += 1;
            Ok(*first)
        }
        [a, b, c, ..] if b.is_ascii_digit() && c.is_ascii_digit() => {
            *at += 3;
            let value = u32::from(a - b'0') * 100 + u32::from(b - b'0') * 10 + u32::from(c - b'0');
            u8::try_from(value).or_else(|_| bad(format!("\\{value} is no octet")))
        }
        _ => bad("a backslash has neither a character nor three digits behind it"),
    }
}

/// A name as a master file writes it: `@` is the origin, and one without a last dot is below it.
///
/// # Errors
/// Where it is no name.
pub fn name(text: &[u8], origin: &Name) -> Result<Name, BadData> {
    if text == b"@" {
        return Ok(origin.clone());
    }
    let mut labels: Vec<Vec<u8>> = vec![Vec::new()];
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        let byte = match byte {
            b'.' => {
                labels.push(Vec::new());
                continue;
            }
            b'\\' => escaped(text, &mut at)?,
            byte => byte,
        };
        if let Some(label) = labels.last_mut() {
            label.push(byte);
        }
    }
    let absolute = labels.len() > 1 && labels.last().is_some_and(Vec::is_empty);
    if absolute {
        labels.pop();
    }
    let own = labels.iter().map(Vec::as_slice);
    let made = match (absolute, text) {
        (_, b".") => Ok(Name::root()),
        (_, b"") => Err(NameError::EmptyLabel),
        (true, _) => Name::from_labels(own),
        (false, _) => Name::from_labels(own.chain(origin.labels())),
    };
    made.or_else(|error| bad(format!("\"{}\" is no name: {error}", String::from_utf8_lossy(text))))
}

/// Seconds, with units or without: `3600`, `1h30m`, `1W` (as the library under CoreDNS reads them).
pub fn seconds(text: &[u8]) -> Option<u32> {
    let (mut sum, mut number) = (0u64, 0u64);
    for byte in text {
        let unit = match byte.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(unit)?)?;
        number = 0;
    }
    u32::try_from(sum.checked_add(number)?).ok().filter(|_| !text.is_empty())
}

fn shown(token: &Token<'_>) -> String {
    String::from_utf8_lossy(token.text).into_owned()
}

fn text_of<'a>(token: &Token<'a>) -> Result<&'a str, BadData> {
    std::str::from_utf8(token.text).or_else(|_| bad(format!("\"{}\" is not plain text", shown(token))))
}

fn number<T: std::str::FromStr>(token: &Token<'_>) -> Result<T, BadData> {
    let plain = token.text.iter().all(u8::is_ascii_digit);
    text_of(token)?
        .parse()
        .ok()
        .filter(|_| plain)
        .map_or_else(|| bad(format!("\"{}\" is no number, or too large", shown(token))), Ok)
}

fn mnemonic(token: &Token<'_>, names: Mnemonics) -> Result<u16, BadData> {
    let text = text_of(token)?;
    names.iter().find(|row| row.1.eq_ignore_ascii_case(text)).map_or_else(|| number(token), |row| Ok(row.0))
}

fn hex(digits: &[u8]) -> Result<Vec<u8>, BadData> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    let octets: Option<Vec<u8>> = pairs.collect();
    octets.map_or_else(|| bad(format!("\"{}\" is not hex", String::from_utf8_lossy(digits))), Ok)
}

const BASE32: &[u8; 32] = b"0123456789ABCDEFGHIJKLMNOPQRSTUV";

/// RFC 4648 section 7, without padding.
fn base32(text: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut held) = (Vec::new(), 0u32, 0u32);
    for byte in text {
        let value = BASE32.iter().position(|c| *c == byte.to_ascii_uppercase())?;
        (bits, held) = (bits << 5 | u32::try_from(value).ok()?, held + 5);
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
        bits &= (1 << held) - 1;
    }
    (bits == 0 && held < 5).then_some(out)
}

fn base32_text(octets: &[u8]) -> String {
    let (mut out, mut bits, mut held) = (String::new(), 0u32, 0u32);
    let mut push = |five: u32| out.push(char::from(BASE32[(five & 31) as usize]));
    for byte in octets {
        (bits, held) = (bits << 8 | u32::from(*byte), held + 8);
        while held >= 5 {
            held -= 5;
            push(bits >> held);
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        push(bits << (5 - held));
    }
    out
}

/// Base64 as people paste it: padding may be missing.
const BASE64: base64::engine::GeneralPurpose = base64::engine::GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    base64::engine::GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

fn counted(out: &mut Vec<u8>, octets: &[u8], what: &str) -> Result<(), BadData> {
    let Ok(len) = u8::try_from(octets.len()) else { return bad(format!("{what} is longer than 255 octets")) };
    out.push(len);
    out.extend_from_slice(octets);
    Ok(())
}

/// Days since 1970 of a date of the proleptic Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // The year begins in March here, so that the leap day is its last.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// RFC 4034 section 3.2; the seconds wrap as RFC 1982 has it.
fn time(token: &Token<'_>) -> Result<u32, BadData> {
    let text = text_of(token)?;
    if text.len() != 14 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return number(token);
    }
    let part = |from: usize, to: usize| text[from..to].parse::<i64>().unwrap_or(0);
    let (month, day, hour) = (part(4, 6), part(6, 8), part(8, 10));
    let (minute, second) = (part(10, 12), part(12, 14));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return bad(format!("\"{text}\" is no time (YYYYMMDDHHmmSS)"));
    }
    let seconds = days(part(0, 4), month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Ok(u32::try_from(seconds.rem_euclid(1 << 32)).unwrap_or(0))
}

fn time_text(seconds: u32) -> String {
    let (days_since, rest) = (i64::from(seconds) / 86_400, seconds % 86_400);
    // RFC 4034 gives 32 bits: the first date that they reach is in 2106.
    let mut year = 1970 + days_since / 366;
    while days(year + 1, 1, 1) <= days_since {
        year += 1;
    }
    let month = (1..=12).rev().find(|m| days(year, *m, 1) <= days_since).unwrap_or(1);
    let day = days_since - days(year, month, 1) + 1;
    format!("{year:04}{month:02}{day:02}{:02}{:02}{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// A type bit map (RFC 4034 section 4.1.2).
pub fn type_bits(types: &[u16]) -> Vec<u8> {
    let mut sorted = types.to_vec();
    sorted.sort_unstable();
    let mut out = Vec::new();
    for window in sorted.chunk_by(|a, b| a >> 8 == b >> 8) {
        let mut map = [0u8; 32];
        let mut len = 0;
        for rtype in window {
            let low = usize::from(rtype & 0xff);
            map[low / 8] |= 0x80 >> (low % 8);
            len = low / 8 + 1;
        }
        let high = window.first().map_or(0, |rtype| rtype >> 8);
        out.push(u8::try_from(high).unwrap_or(0));
        out.push(u8::try_from(len).unwrap_or(0));
        out.extend_from_slice(&map[..len]);
    }
    out
}

/// The types in a bit map, `None` where it is none.
pub fn types_of(mut bits: &[u8]) -> Option<Vec<u16>> {
    let mut out = Vec::new();
    while !bits.is_empty() {
        let (head, rest) = bits.split_at_checked(2)?;
        let (map, rest) = rest.split_at_checked(usize::from(head[1])).filter(|_| head[1] > 0)?;
        for low in 0..u16::try_from(map.len() * 8).ok()?.min(256) {
            if map[usize::from(low / 8)] & (0x80 >> (low % 8)) != 0 {
                out.push(u16::from(head[0]) << 8 | low);
            }
        }
        bits = rest;
    }
    Some(out)
}

/// Reads data of a type.
///
/// # Errors
/// Where the words are not such data, in a sentence.
pub fn parse(rtype: u16, tokens: &[Token<'_>], origin: &Name) -> Result<Data, BadData> {
    let type_name = rtype::name(rtype);
    let wire = match tokens {
        [Token { text: b"\\#", quoted: false, .. }, rest @ ..] => generic(rest)?,
        _ => {
            let Some(fields) = fields(rtype) else {
                return bad(format!("data of type {type_name} is written as \\# LENGTH HEX (RFC 3597)"));
            };
            let (mut wire, mut rest) = (Vec::new(), tokens);
            for field in fields {
                read(*field, &mut rest, &mut wire, origin)
                    .map_err(|error| BadData(format!("{type_name}: {error}")))?;
            }
            if let Some(extra) = rest.first() {
                return bad(format!("{type_name}: \"{}\" is too much", shown(extra)));
            }
            wire
        }
    };
    let fits = fields(rtype).is_none_or(|fields| written(fields, &wire).is_some());
    match Data::from_wire(rtype, &wire) {
        Ok(data) if fits && u16::try_from(wire.len()).is_ok() => Ok(data),
        _ => bad(format!("these octets are no data of type {type_name}")),
    }
}

/// RFC 3597 section 5.
fn generic(tokens: &[Token<'_>]) -> Result<Vec<u8>, BadData> {
    let [len, rest @ ..] = tokens else { return bad("\\# has no length behind it") };
    let octets = hex(&rest.iter().flat_map(|t| t.text).copied().collect::<Vec<u8>>())?;
    if number::<usize>(len)? == octets.len() {
        Ok(octets)
    } else {
        bad(format!("\\# says {} octets, and {} follow", shown(len), octets.len()))
    }
}

/// Reads one field from the front of the words.
fn read(field: Field, rest: &mut &[Token<'_>], out: &mut Vec<u8>, origin: &Name) -> Result<(), BadData> {
    match field {
        Field::Texts | Field::Hex | Field::Base64 | Field::Types | Field::Location | Field::Params => {
            return read_rest(field, std::mem::take(rest), out);
        }
        _ => {}
    }
    let Some((token, after)) = rest.split_first() else { return bad("there is too little data") };
    *rest = after;
    match field {
        Field::U8 => out.push(number(token)?),
        Field::U16 => out.extend_from_slice(&number::<u16>(token)?.to_be_bytes()),
        Field::U32 => out.extend_from_slice(&number::<u32>(token)?.to_be_bytes()),
        Field::Period => match seconds(token.text) {
            Some(value) => out.extend_from_slice(&value.to_be_bytes()),
            None => return bad(format!("\"{}\" is no period", shown(token))),
        },
        Field::Name8(names) => match u8::try_from(mnemonic(token, names)?) {
            Ok(value) => out.push(value),
            Err(_) => return bad(format!("\"{}\" is too large", shown(token))),
        },
        Field::Name16(names) => out.extend_from_slice(&mnemonic(token, names)?.to_be_bytes()),
        Field::Type => match rtype::from_name(text_of(token)?) {
            Some(value) => out.extend_from_slice(&value.to_be_bytes()),
            None => return bad(format!("\"{}\" is no record type", shown(token))),
        },
        Field::Time => out.extend_from_slice(&time(token)?.to_be_bytes()),
        Field::Ipv4 => match text_of(token)?.parse::<Ipv4Addr>() {
            Ok(ip) => out.extend_from_slice(&ip.octets()),
            Err(_) => return bad(format!("\"{}\" is no IPv4 address", shown(token))),
        },
        Field::Ipv6 => match text_of(token)?.parse::<Ipv6Addr>() {
            Ok(ip) => out.extend_from_slice(&ip.octets()),
            Err(_) => return bad(format!("\"{}\" is no IPv6 address", shown(token))),
        },
        Field::Groups(octets, each, mark) => {
            let text = text_of(token)?;
            let made = hex(text.replace(mark, "").as_bytes())?;
            if made.len() != octets || groups(&made, each, mark) != text.to_ascii_lowercase() {
                return bad(format!("\"{text}\" is no identifier of {octets} octets"));
            }
            out.extend_from_slice(&made);
        }
        Field::Name => out.extend_from_slice(name(token.text, origin)?.wire()),
        Field::Text => counted(out, &unescape(token.text)?, "a string")?,
        Field::Tag if !token.text.is_empty() && token.text.iter().all(u8::is_ascii_alphanumeric) => {
            counted(out, token.text, "a tag")?;
        }
        Field::Octets => out.extend_from_slice(&unescape(token.text)?),
        Field::Salt if token.text == b"-" => out.push(0),
        Field::Salt => counted(out, &hex(token.text)?, "a salt")?,
        Field::Hash => match base32(token.text) {
            Some(hash) => counted(out, &hash, "a hash")?,
            None => return bad(format!("\"{}\" is not base32", shown(token))),
        },
        _ => return bad(format!("\"{}\" does not belong there", shown(token))),
    }
    Ok(())
}

/// Reads a field that takes all words to the end.
fn read_rest(field: Field, rest: &[Token<'_>], out: &mut Vec<u8>) -> Result<(), BadData> {
    let joined = || rest.iter().flat_map(|t| t.text).copied().collect::<Vec<u8>>();
    if rest.is_empty() && !matches!(field, Field::Types | Field::Params) {
        return bad("there is too little data");
    }
    match field {
        Field::Texts => {
            for token in rest {
                let octets = unescape(token.text)?;
                if octets.is_empty() {
                    out.push(0);
                }
                for piece in octets.chunks(255) {
                    counted(out, piece, "a string")?;
                }
            }
        }
        Field::Hex => out.extend_from_slice(&hex(&joined())?),
        Field::Base64 => match BASE64.decode(joined()) {
            Ok(octets) => out.extend_from_slice(&octets),
            Err(_) => return bad(format!("\"{}\" is not base64", String::from_utf8_lossy(&joined()))),
        },
        Field::Types => {
            let mut types = Vec::with_capacity(rest.len());
            for token in rest {
                match rtype::from_name(text_of(token)?) {
                    Some(rtype) => types.push(rtype),
                    None => return bad(format!("\"{}\" is no record type", shown(token))),
                }
            }
            out.extend_from_slice(&type_bits(&types));
        }
        Field::Location => {
            let words = rest.iter().map(text_of).collect::<Result<Vec<&str>, BadData>>()?;
            match location::parse(&words) {
                Some(octets) => out.extend_from_slice(&octets),
                None => return bad(format!("\"{}\" is no location", words.join(" "))),
            }
        }
        _ => {
            let mut given = Vec::new();
            let mut tokens = rest.iter().peekable();
            while let Some(token) = tokens.next() {
                let text = token.text;
                let (key, value) = match text.iter().position(|b| *b == b'=') {
                    // `alpn="h2,h3"`: the value is the quoted word that follows at once.
                    Some(at) if at + 1 == text.len() => {
                        let quoted = tokens.next_if(|next| next.quoted && next.glued);
                        (&text[..at], Some(quoted.map_or(&b""[..], |q| q.text)))
                    }
                    Some(at) => (&text[..at], Some(&text[at + 1..])),
                    None => (text, None),
                };
                given.push((String::from_utf8_lossy(key).into_owned(), value.map(unescape).transpose()?));
            }
            out.extend_from_slice(&params::parse(&given).map_err(BadData)?);
        }
    }
    Ok(())
}

fn groups(octets: &[u8], each: usize, mark: char) -> String {
    let mut out = String::new();
    for (at, octet) in octets.iter().enumerate() {
        if at > 0 && at % each == 0 {
            out.push(mark);
        }
        let _ = write!(out, "{octet:02x}");
    }
    out
}

/// A string in quotes, odd octets escaped.
fn quoted(octets: &[u8]) -> String {
    let mut out = String::from("\"");
    for &byte in octets {
        let _ = match byte {
            b'"' | b'\\' => write!(out, "\\{}", char::from(byte)),
            b' '..=b'~' => write!(out, "{}", char::from(byte)),
            _ => write!(out, "\\{byte:03}"),
        };
    }
    out.push('"');
    out
}

/// Data as a master file writes it; RFC 3597's form where its type or its octets are not known.
pub fn print(data: &Data) -> String {
    let wire = data.wire();
    if let Some(fields) = fields(data.rtype())
        && let Some(words) = written(fields, &wire)
    {
        return words.join(" ");
    }
    let mut out = format!("\\# {}", wire.len());
    if !wire.is_empty() {
        out.push(' ');
        wire.iter().for_each(|b| {
            let _ = write!(out, "{b:02x}");
        });
    }
    out
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(n)?;
    *rest = tail;
    Some(head)
}

fn take_counted<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take(rest, 1)?[0];
    take(rest, usize::from(len))
}

fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    take(rest, 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest, 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

fn take_name(rest: &mut &[u8]) -> Option<Name> {
    let mut len = 0;
    while let Some(&label) = rest.get(len).filter(|l| **l != 0) {
        len += 1 + usize::from(label);
    }
    Name::from_wire(take(rest, len + 1)?)
}

/// The words of data; `None` where the octets are not such data.
fn written(fields: &[Field], wire: &[u8]) -> Option<Vec<String>> {
    let (mut rest, mut out) = (wire, Vec::with_capacity(fields.len()));
    for field in fields {
        match field {
            Field::Texts => {
                loop {
                    out.push(quoted(take_counted(&mut rest)?));
                    if rest.is_empty() {
                        break;
                    }
                }
                continue;
            }
            Field::Types => {
                out.extend(types_of(std::mem::take(&mut rest))?.into_iter().map(rtype::name));
                continue;
            }
            Field::Params => {
                for (key, value) in params::print(std::mem::take(&mut rest))? {
                    out.push(if value.is_empty() { key } else { format!("{key}={}", quoted(&value)) });
                }
                continue;
            }
            _ => out.push(written_one(*field, &mut rest)?),
        }
    }
    rest.is_empty().then_some(out)
}

fn written_one(field: Field, rest: &mut &[u8]) -> Option<String> {
    Some(match field {
        Field::U8 | Field::Name8(_) => take(rest, 1)?[0].to_string(),
        Field::U16 | Field::Name16(_) => take_u16(rest)?.to_string(),
        Field::U32 | Field::Period => take_u32(rest)?.to_string(),
        Field::Type => rtype::name(take_u16(rest)?),
        Field::Time => time_text(take_u32(rest)?),
        Field::Ipv4 => Ipv4Addr::from(<[u8; 4]>::try_from(take(rest, 4)?).ok()?).to_string(),
        Field::Ipv6 => Ipv6Addr::from(<[u8; 16]>::try_from(take(rest, 16)?).ok()?).to_string(),
        Field::Groups(octets, each, mark) => groups(take(rest, octets)?, each, mark),
        Field::Name => take_name(rest)?.to_string(),
        Field::Text => quoted(take_counted(rest)?),
        Field::Tag => {
            let tag = take_counted(rest)?;
            let plain = !tag.is_empty() && tag.iter().all(u8::is_ascii_alphanumeric);
            String::from_utf8(tag.to_vec()).ok().filter(|_| plain)?
        }
        Field::Octets => quoted(std::mem::take(rest)),
        Field::Hex if rest.is_empty() => return None,
        Field::Hex => groups(std::mem::take(rest), usize::MAX, ' '),
        Field::Base64 if rest.is_empty() => return None,
        Field::Base64 => base64::engine::general_purpose::STANDARD.encode(std::mem::take(rest)),
        Field::Salt => match take_counted(rest)? {
            [] => "-".to_owned(),
            salt => groups(salt, usize::MAX, ' '),
        },
        Field::Hash => match take_counted(rest)? {
            [] => return None,
            hash => base32_text(hash),
        },
        Field::Location => location::print(std::mem::take(rest))?,
        Field::Texts | Field::Types | Field::Params => return None,
    })
}

/// Data in the form in which it is signed: names uncompressed, and in lower case where RFC 4034 section 6.2 and
/// RFC 6840 section 5.1 say so.
pub fn canonical(data: &Data) -> Vec<u8> {
    let mut wire = data.wire();
    let Some(fields) = fields(data.rtype()).filter(|_| LOWERED.contains(&data.rtype())) else { return wire };
    let mut at = 0;
    for field in fields {
        let mut rest = &wire[at..];
        let before = rest.len();
        let is_name = matches!(field, Field::Name);
        if written_one(*field, &mut rest).is_none() {
            break;
        }
        let end = at + before - rest.len();
        if is_name {
            // Length octets are below 'A'.
            wire[at..end].make_ascii_lowercase();
        }
        at = end;
    }
    wire
}
