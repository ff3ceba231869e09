//! Words of an expression.

use super::ExpressionError;

/// A word.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    Int(i64),
    Float(f64),
    Text(String),
    Name(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// Longer ones first.
const SIGNS: &[&str] = &[
    "**", "==", "!=", "<=", ">=", "&&", "||", "??", "?.", "..", "+", "-", "*", "/", "%", "^", "<", ">", "!",
    "?", ":", ",", ".", "(", ")", "[", "]", "{", "}", "#", "|", "=", ";",
];

/// The words, each with the octet that it begins at.
pub(super) fn words(text: &str) -> Result<Vec<(usize, Word)>, ExpressionError> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let begin = at;
        let word = if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        } else if c.is_ascii_digit() || c == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            let (word, len) = number(rest).ok_or_else(|| error(begin, "this is no number"))?;
            at += len;
            word
        } else if c.is_alphabetic() || c == '_' || c == '$' {
            let end =
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
            at += end;
            Word::Name(rest[..end].to_owned())
        } else if matches!(c, '"' | '\'' | '`') {
            let (text, len) = quoted(rest, c).map_err(|(offset, message)| error(begin + offset, message))?;
            at += len;
            Word::Text(text)
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            at += sign.len();
            Word::Sign(sign)
        } else {
            return Err(error(begin, &format!("'{c}' means nothing here")));
        };
        out.push((begin, word));
    }
    out.push((text.len(), Word::End));
    Ok(out)
}

fn error(at: usize, message: &str) -> ExpressionError {
    ExpressionError { at, message: message.to_owned() }
}

/// `1`, `1_000`, `0x1f`, `0b1`, `0o7`, `1.5`, `1e3`.
fn number(text: &str) -> Option<(Word, usize)> {
    for (prefix, radix) in [("0x", 16), ("0b", 2), ("0o", 8)] {
        if let Some(rest) = text.strip_prefix(prefix) {
            let len = rest.find(|c: char| !(c.is_digit(radix) || c == '_')).unwrap_or(rest.len());
            let value = i64::from_str_radix(&rest[..len].replace('_', ""), radix).ok()?;
            return Some((Word::Int(value), len + 2));
        }
    }
    let digits = |from: usize| {
        let rest = &text[from..];
        from + rest.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(rest.len())
    };
    let mut end = digits(0);
    let whole = end;
    // `1..3` is a range, and `1.` no number.
    if text[end..].starts_with('.') && text[end + 1..].starts_with(|c: char| c.is_ascii_digit()) {
        end = digits(end + 1);
    }
    if let Some(exponent) = text[end..].strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['+', '-']));
        if exponent[sign..].starts_with(|c: char| c.is_ascii_digit()) {
            end = digits(end + 1 + sign);
        }
    }
    let plain = text[..end].replace('_', "");
    let word = if end == whole { Word::Int(plain.parse().ok()?) } else { Word::Float(plain.parse().ok()?) };
    Some((word, end))
}

/// A text in quotes, its escapes resolved, and how many octets it took.
fn quoted(text: &str, quote: char) -> Result<(String, usize), (usize, &'static str)> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok((out, at + 1));
        }
        if c != '\\' || quote == '`' {
            out.push(c);
            continue;
        }
        let wrong = (at, "this escape is none");
        let Some((_, escaped)) = chars.next() else { return Err(wrong) };
        let mut code = |digits: usize| {
            let mut value = 0;
            for _ in 0..digits {
                value = value * 16 + chars.next()?.1.to_digit(16)?;
            }
            char::from_u32(value)
        };
        out.push(match escaped {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '\\' | '\'' | '"' | '`' => escaped,
            'x' => code(2).ok_or(wrong)?,
            'u' => code(4).ok_or(wrong)?,
            'U' => code(8).ok_or(wrong)?,
            _ => return Err(wrong),
        });
    }
    Err((0, "this quote never ends"))
}
