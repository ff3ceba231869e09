//! `$GENERATE` (BIND's, as CoreDNS's library has it): `$GENERATE 1-100/2 host-$ A 192.0.2.${0,3,d}`.

/// Most lines that one directive makes.
const MAX_LINES: i64 = 65_536;

/// A piece of the text.
#[derive(Debug)]
enum Piece {
    Text(Vec<u8>),
    /// The number plus `offset`, in `width` digits at least.
    Number {
        offset: i64,
        width: usize,
        base: u8,
    },
}

/// A range and a text with places for numbers.
#[derive(Debug)]
pub(super) struct Pattern {
    start: i64,
    stop: i64,
    step: i64,
    pieces: Vec<Piece>,
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok().filter(|n| (0..=i64::from(u32::MAX)).contains(n))
}

fn range(text: &[u8]) -> Option<(i64, i64, i64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (text, step) = match text.split_once('/') {
        Some((text, step)) => (text, number(step).filter(|s| *s > 0)?),
        None => (text, 1),
    };
    let (start, stop) = text.split_once('-')?;
    let (start, stop) = (number(start)?, number(stop)?);
    (start <= stop && (stop - start) / step < MAX_LINES).then_some((start, stop, step))
}

/// `offset[,width[,base]]`
fn modifier(text: &[u8]) -> Option<Piece> {
    let mut parts = std::str::from_utf8(text).ok()?.split(',');
    let offset: i64 = parts.next()?.parse().ok()?;
    let width = parts.next().map_or(Some(0), |w| w.parse::<u8>().ok())?;
    let base = parts.next().unwrap_or("d");
    match (base, parts.next()) {
        ("d" | "o" | "x" | "X", None) => {
            Some(Piece::Number { offset, width: usize::from(width), base: base.as_bytes()[0] })
        }
        _ => None,
    }
}

impl Pattern {
    pub fn parse(range_text: &[u8], text: &[u8]) -> Result<Self, &'static str> {
        let (start, stop, step) =
            range(range_text).ok_or("the range is START-STOP[/STEP] and makes at most 65536 records")?;
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            let next = text.get(at + 1).copied();
            at += 1;
            match (byte, next) {
                // `\$` and `$$` are the character itself.
                (b'\\' | b'$', Some(b'$')) => {
                    plain.push(b'$');
                    at += 1;
                }
                (b'\\', Some(next)) => {
                    plain.extend([byte, next]);
                    at += 1;
                }
                (b'$', _) => {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    if next == Some(b'{') {
                        let rest = &text[at + 1..];
                        let end = rest.iter().position(|b| *b == b'}').ok_or("${ has no }")?;
                        let piece =
                            modifier(&rest[..end]).ok_or("${OFFSET[,WIDTH[,d|o|x|X]]} is expected")?;
                        if let Piece::Number { offset, .. } = piece
                            && (start.checked_add(offset).is_none_or(|n| n < 0)
                                || stop.checked_add(offset).is_none_or(|n| n > i64::from(i32::MAX)))
                        {
                            return Err("an offset makes numbers below 0 or above 2147483647");
                        }
                        pieces.push(piece);
                        at += end + 2;
                    } else {
                        pieces.push(Piece::Number { offset: 0, width: 0, base: b'd' });
                    }
                }
                (byte, _) => plain.push(byte),
            }
        }
        pieces.push(Piece::Text(plain));
        Ok(Pattern { start, stop, step, pieces })
    }

    fn line(&self, number: i64) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Number { offset, width, base } => {
                    let (n, width) = (number + offset, *width);
                    let text = match base {
                        b'o' => format!("{n:0width$o}"),
                        b'x' => format!("{n:0width$x}"),
                        b'X' => format!("{n:0width$X}"),
                        _ => format!("{n:0width$}"),
                    };
                    out.extend_from_slice(text.as_bytes());
                }
            }
        }
        out
    }

    /// One line for each number.
    pub fn lines(&self) -> impl Iterator<Item = Vec<u8>> {
        let count = (self.stop - self.start) / self.step + 1;
        (0..count).map(|n| self.line(self.start + n * self.step))
    }
}
