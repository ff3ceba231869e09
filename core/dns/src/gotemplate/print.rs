//! `print` and `printf`, as Go's `fmt` does it.

use crate::expression::Value;

/// As `{{ . }}` prints it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Nil => "<no value>".to_owned(),
        Value::Float(n) => float(*n, 'g', None),
        other => other.to_string(),
    }
}

/// `print`: blanks between operands neither of which is a text; `println`: between all, and a line's end.
pub(super) fn all(values: &[Value], lines: bool) -> String {
    let mut out = String::new();
    for (at, value) in values.iter().enumerate() {
        let text = |value: &Value| matches!(value, Value::Text(_));
        if at > 0 && (lines || !text(value) && !text(&values[at - 1])) {
            out.push(' ');
        }
        out.push_str(&plain(value));
    }
    if lines {
        out.push('\n');
    }
    out
}

#[derive(Default)]
struct Verb {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// Widest field, in characters.
const MAX_WIDTH: usize = 1000;

/// `printf`
///
/// # Errors
/// Where a verb does not go with its operand, or they are not as many.
pub(super) fn formatted(format: &str, values: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|c| "-+# 0".contains(*c)) {
            match flag {
                '-' => verb.minus = true,
                '+' => verb.plus = true,
                '#' => verb.sharp = true,
                ' ' => verb.space = true,
                _ => verb.zero = true,
            }
        }
        verb.width = width(&mut chars);
        if chars.next_if_eq(&'.').is_some() {
            verb.precision = Some(width(&mut chars));
        }
        let Some(letter) = chars.next() else { return Err("printf: the format ends with '%'".to_owned()) };
        if letter == '%' {
            out.push('%');
            continue;
        }
        let value = values.next().ok_or_else(|| format!("printf: %{letter} has no operand"))?;
        out.push_str(&verb.write(letter, value)?);
    }
    match values.next() {
        Some(_) => Err("printf: there are more operands than verbs".to_owned()),
        None => Ok(out),
    }
}

/// A number of characters, 0 where there is none.
fn width(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> usize {
    let mut n = 0;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        n = (n * 10 + digit as usize).min(MAX_WIDTH);
        chars.next();
    }
    n
}

impl Verb {
    fn write(&self, letter: char, value: &Value) -> Result<String, String> {
        let wrong = || format!("printf: %{letter} does not go with {}", value.kind());
        let (sign, body) = match (letter, value) {
            ('v', Value::Int(_)) => return self.write('d', value),
            ('v', Value::Float(_)) => return self.write('g', value),
            ('v', Value::Text(_)) => return self.write('s', value),
            ('v', other) => (String::new(), plain(other)),
            ('t', Value::Bool(b)) => (String::new(), b.to_string()),
            ('s', Value::Text(text)) => (String::new(), self.cut(text)),
            ('q', Value::Text(text)) => (String::new(), format!("{:?}", self.cut(text))),
            ('x', Value::Text(text)) => (String::new(), text.bytes().map(|b| format!("{b:02x}")).collect()),
            ('X', Value::Text(text)) => (String::new(), text.bytes().map(|b| format!("{b:02X}")).collect()),
            ('c', Value::Int(n)) => {
                let letter = u32::try_from(*n).ok().and_then(char::from_u32).ok_or_else(wrong)?;
                (String::new(), letter.to_string())
            }
            ('d' | 'b' | 'o' | 'O' | 'x' | 'X', Value::Int(n)) => {
                let size = n.unsigned_abs();
                let (prefix, digits) = match letter {
                    'd' => ("", format!("{size}")),
                    'b' => ("0b", format!("{size:b}")),
                    'o' => ("0", format!("{size:o}")),
                    'O' => return Ok(format!("{}0o{size:o}", self.sign(*n < 0))),
                    'x' => ("0x", format!("{size:x}")),
                    _ => ("0X", format!("{size:X}")),
                };
                let digits = format!("{digits:0>width$}", width = self.precision.unwrap_or(0));
                let prefix = if self.sharp { prefix } else { "" };
                (format!("{}{prefix}", self.sign(*n < 0)), digits)
            }
            ('f' | 'F' | 'e' | 'g', Value::Float(n)) => {
                (self.sign(n.is_sign_negative()).to_owned(), float(n.abs(), letter, self.precision))
            }
            _ => return Err(wrong()),
        };
        let len = sign.chars().count() + body.chars().count();
        let gap = self.width.saturating_sub(len);
        let number = matches!(value, Value::Int(_) | Value::Float(_)) && letter != 'c';
        Ok(if self.minus {
            format!("{sign}{body}{}", " ".repeat(gap))
        } else if self.zero && (!number || self.precision.is_none() || matches!(value, Value::Float(_))) {
            format!("{sign}{}{body}", "0".repeat(gap))
        } else {
            format!("{}{sign}{body}", " ".repeat(gap))
        })
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
    }

    fn cut(&self, text: &str) -> String {
        text.chars().take(self.precision.unwrap_or(usize::MAX)).collect()
    }
}

/// `%f`, `%e`, `%g`.
fn float(n: f64, letter: char, precision: Option<usize>) -> String {
    let exponent = |text: String| {
        // Go writes two digits at least, and the sign: 1e+06.
        let Some((mantissa, power)) = text.split_once('e') else { return text };
        let (sign, digits) = power.strip_prefix('-').map_or(('+', power), |digits| ('-', digits));
        format!("{mantissa}e{sign}{digits:0>2}")
    };
    match (letter, precision) {
        ('e', precision) => exponent(format!("{n:.*e}", precision.unwrap_or(6))),
        ('f' | 'F', precision) => format!("{n:.*}", precision.unwrap_or(6)),
        _ if n != 0.0 && !(1e-4..1e21).contains(&n.abs()) => exponent(format!("{n:e}")),
        _ => format!("{n}"),
    }
}
