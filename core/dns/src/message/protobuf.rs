//! The little of protobuf's wire format that DNS over gRPC and dnstap need.

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number of variable length: integers, enumerations, booleans.
    Varint(u64),
    /// Four octets, little-endian.
    Fixed32(u32),
    /// Eight octets, little-endian.
    Fixed64(u64),
    /// Octets: strings, messages.
    Bytes(&'a [u8]),
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes one field.
pub fn write(field: u32, value: Value<'_>, out: &mut Vec<u8>) {
    let tag = |kind: u64, out: &mut Vec<u8>| varint(u64::from(field) << 3 | kind, out);
    match value {
        Value::Varint(value) => {
            tag(0, out);
            varint(value, out);
        }
        Value::Fixed64(value) => {
            tag(1, out);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Bytes(bytes) => {
            tag(2, out);
            varint(bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        }
        Value::Fixed32(value) => {
            tag(5, out);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// A message's fields, in its own order. What is none ends it with `Err`.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

/// Reads a message.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields(message)
}

/// It is no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a protobuf message")]
pub struct Malformed;

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [octet] = self.take(1)? else { return Err(Malformed) };
            value |= u64::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let tag = self.varint()?;
        let field = u32::try_from(tag >> 3).ok().filter(|field| *field > 0).ok_or(Malformed)?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Malformed)?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| Malformed)?)),
            // Groups are of protobuf 2's youth, and in none of our messages.
            _ => return Err(Malformed),
        };
        Ok((field, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The examples of protobuf's own description of its encoding.
    #[test]
    fn known_octets() {
        for (field, value, octets) in [
            (1, Value::Varint(150), &[0x08, 0x96, 0x01][..]),
            (2, Value::Bytes(b"testing"), b"\x12\x07testing"),
            (14, Value::Bytes(b""), b"\x72\x00"),
            (9, Value::Fixed32(1), &[0x4d, 1, 0, 0, 0]),
            (1, Value::Fixed64(2), &[0x09, 2, 0, 0, 0, 0, 0, 0, 0]),
            (1, Value::Varint(u64::MAX), b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ] {
            let mut out = Vec::new();
            write(field, value, &mut out);
            assert_eq!(out, octets);
            assert_eq!(fields(octets).collect::<Vec<_>>(), [Ok((field, value))]);
        }
    }

    #[test]
    fn what_is_no_message() {
        for octets in
            [&b"\x08"[..], b"\x08\xff", b"\x12\x07test", b"\x00\x00", b"\x0b", b"\x4d\x01", &[0xff; 12]]
        {
            assert_eq!(fields(octets).last(), Some(Err(Malformed)), "{octets:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_ends(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            let all: Vec<_> = fields(&octets).collect();
            prop_assert!(all.len() <= octets.len());
        }
    }
}
