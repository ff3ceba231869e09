//! [`Shape`]: a message is looked through where it stands, nothing of it is copied. What has a shape can be decoded; a
//! message that has none may still be one, of a less common form.

pub(crate) use super::wire::HEADER;
use super::wire::{OLD_NAMES, Reader};
use super::{CLASS_IN, rtype};
use crate::name::MAX_NAME;

/// An OPT record's octets, its options aside.
pub(crate) const OPT: usize = 11;

/// A message with one question, of class IN, its name written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Where the question's name ends.
    pub(crate) name: usize,
    /// Where the question ends.
    pub(crate) question: usize,
    /// The question's type.
    pub(crate) rtype: u16,
    /// Records: answers, authority, additional with OPT.
    pub(crate) records: [u16; 3],
    /// Where OPT begins. It is the last record, and says nothing of a response code.
    pub(crate) opt: Option<usize>,
}

impl Shape {
    /// Looks a message through to its last octet.
    pub(crate) fn of(message: &[u8]) -> Option<Self> {
        let count = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
        let records = [count(6)?, count(8)?, count(10)?];
        let mut reader = Reader { bytes: message, at: HEADER };
        let mut name = [0; MAX_NAME];
        let length = reader.labels(&mut name).ok()?;
        let end = reader.at;
        let (rtype, class) = (reader.u16().ok()?, reader.u16().ok()?);
        if count(4)? != 1 || end != HEADER + length || class != CLASS_IN {
            return None;
        }
        let (question, mut opt) = (reader.at, None);
        let (others, additional) = (u32::from(records[0]) + u32::from(records[1]), u32::from(records[2]));
        for number in 0..others + additional {
            let begin = reader.at;
            if opt.is_some() {
                return None;
            }
            if record(&mut reader, number >= others, &mut name)? {
                opt = Some(begin);
            }
        }
        (reader.at == message.len()).then_some(Shape { name: end, question, rtype, records, opt })
    }

    /// The question's name, written out.
    pub(crate) fn name<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        &message[HEADER..self.name]
    }
}

/// Reads past a record: whether it is OPT. `None` where it is none that [`super::decode`] would take.
fn record(reader: &mut Reader<'_>, additional: bool, name: &mut [u8; MAX_NAME]) -> Option<bool> {
    let length = reader.labels(name).ok()?;
    let (rtype, _class) = (reader.u16().ok()?, reader.u16().ok()?);
    let ttl = reader.take(4).ok()?;
    let octets = usize::from(reader.u16().ok()?);
    let begin = reader.at;
    reader.take(octets).ok()?;
    let mut data = Reader { bytes: &reader.bytes[..reader.at], at: begin };
    if rtype == rtype::OPT && additional {
        // Its name is the root's, and it has none of a response code's upper bits.
        let plain = length == 1 && ttl[0] == 0;
        while data.at < reader.at {
            let _code = data.u16().ok()?;
            let length = usize::from(data.u16().ok()?);
            data.take(length).ok()?;
        }
        return plain.then_some(true);
    }
    // Octets before the names, names, octets behind them.
    let (before, names, behind) = match rtype {
        rtype::A => (4, 0, 0),
        rtype::AAAA => (16, 0, 0),
        rtype::NS | rtype::CNAME | rtype::PTR => (0, 1, 0),
        rtype::MX => (2, 1, 0),
        rtype::SRV => (6, 1, 0),
        rtype::SOA => (0, 2, 20),
        rtype::TXT => {
            while data.at < reader.at {
                let length = usize::from(data.u8().ok()?);
                data.take(length).ok()?;
            }
            (0, 0, 0)
        }
        other => match OLD_NAMES.iter().find(|row| row.0 == other) {
            Some(&(_, before, names)) => (before, names, 0),
            None => (octets, 0, 0),
        },
    };
    data.take(before).ok()?;
    for _ in 0..names {
        data.labels(name).ok()?;
    }
    data.take(behind).ok()?;
    (data.at == reader.at).then_some(false)
}
