//! Netlink messages: a header, nfnetlink's own header, attributes (linux/netlink.h, linux/netfilter/nfnetlink.h).

use std::ops::Range;

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Bytes of `struct nfgenmsg`.
pub(crate) const FAMILY_HEADER: usize = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// `NLM_F_REQUEST` and its company.
pub(crate) mod flags {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const DUMP_INTERRUPTED: u16 = 0x10;
    pub(crate) const EXCLUSIVE: u16 = 0x200;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

/// Messages one behind the other, each at a multiple of four.
#[derive(Clone, Debug, Default)]
pub(crate) struct Messages {
    buffer: Vec<u8>,
    starts: Vec<usize>,
}

impl Messages {
    pub(crate) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Opens a message; `fill` writes its attributes.
    pub(crate) fn push(&mut self, kind: u16, flags: u16, family: u8, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.push_for(kind, flags, family, 0, fill);
    }

    /// As [`push`](Self::push), with nfgenmsg's `res_id`.
    pub(crate) fn push_for(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.buffer.len();
        self.starts.push(start);
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&(flags | flags::REQUEST).to_ne_bytes());
        // Sequence, numbered when sent; the kernel's own port.
        self.buffer.extend_from_slice(&[0; 8]);
        self.buffer.extend_from_slice(&[family, 0]);
        self.buffer.extend_from_slice(&resource.to_be_bytes());
        fill(&mut Attributes { buffer: &mut self.buffer });
        let length = (self.buffer.len() - start) as u32;
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// The message at a place, from 0.
    pub(crate) fn get(&self, place: usize) -> Option<Received<'_>> {
        received(self.buffer.get(*self.starts.get(place)?..)?).next()
    }

    /// Appends another run of messages.
    pub(crate) fn append(&mut self, other: Messages) {
        let base = self.buffer.len();
        self.starts.extend(other.starts.iter().map(|s| s + base));
        self.buffer.extend_from_slice(&other.buffer);
    }

    /// Gives every message its number, counting from `first`.
    pub(crate) fn number(&mut self, first: u32) {
        for (i, start) in self.starts.iter().enumerate() {
            let sequence = first.wrapping_add(i as u32);
            self.buffer[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
    }

    /// Cuts at message boundaries into runs of at most `limit` bytes; a longer message stands alone.
    pub(crate) fn split(&self, limit: usize) -> Vec<Messages> {
        let mut runs: Vec<Messages> = Vec::new();
        for (i, start) in self.starts.iter().enumerate() {
            let end = self.starts.get(i + 1).copied().unwrap_or(self.buffer.len());
            let message = &self.buffer[*start..end];
            match runs.last_mut() {
                Some(run) if run.buffer.len() + message.len() <= limit => {
                    run.starts.push(run.buffer.len());
                    run.buffer.extend_from_slice(message);
                }
                _ => runs.push(Messages { buffer: message.to_vec(), starts: vec![0] }),
            }
        }
        runs
    }
}

/// Writes attributes behind one another. An attribute's length has 16 bits: callers keep lists below 64 KiB.
pub(crate) struct Attributes<'a> {
    buffer: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value);
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }

    /// nftables' numbers are big-endian.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 2]);
        self.buffer.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(&mut Attributes { buffer: self.buffer });
        let length = (self.buffer.len() - start) as u16;
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// One message as it came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Who asked for it; of a notification, whose doing it tells.
    pub(crate) port: u32,
    /// What follows `nlmsghdr`.
    pub(crate) body: &'a [u8],
}

impl<'a> Received<'a> {
    /// The attributes behind nfnetlink's header.
    pub(crate) fn attributes(&self) -> AttributeIter<'a> {
        AttributeIter { rest: self.body.get(FAMILY_HEADER..).unwrap_or_default() }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The messages of one datagram; stops at the first that is cut short.
pub(crate) fn received(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let body = bytes.get(HEADER..length)?;
        let message = Received {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            port: u32_at(bytes, 12)?,
            body,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Attributes of a message or nest: kind and value.
#[derive(Clone, Debug)]
pub(crate) struct AttributeIter<'a> {
    rest: &'a [u8],
}

impl<'a> AttributeIter<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// The first attribute of a kind.
    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(k, _)| *k == kind).map(|(_, v)| v)
    }

    /// The nest of a kind.
    pub(crate) fn nest(&self, kind: u16) -> Option<AttributeIter<'a>> {
        self.get(kind).map(AttributeIter::new)
    }
}

impl<'a> Iterator for AttributeIter<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.rest, 0)?);
        let kind = u16_at(self.rest, 2)? & 0x3fff;
        let value = self.rest.get(Range { start: 4, end: length })?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut messages = Messages::default();
        messages.push(0x0a0c, flags::CREATE, 2, |a| {
            a.text(1, "sealane");
            a.nest(3, |list| list.nest(1, |e| e.u32(1, 0x0102_0304)));
        });
        messages.push(0x0a0e, 0, 10, |a| a.u64(6, 10_000));
        messages.number(41);
        let read: Vec<Received<'_>> = received(messages.bytes()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].flags, read[0].sequence), (0x0a0c, 0x401, 41));
        assert_eq!(read[0].attributes().get(1), Some(&b"sealane\0"[..]));
        let list = read[0].attributes().nest(3).and_then(|l| l.nest(1)).unwrap();
        assert_eq!(list.get(1), Some(&[1, 2, 3, 4][..]));
        assert_eq!(read[1].sequence, 42);
        assert_eq!(read[1].body[..4], [10, 0, 0, 0]);
    }

    #[test]
    fn runs_are_cut_between_messages() {
        let mut messages = Messages::default();
        for _ in 0..10 {
            messages.push(1, 0, 2, |a| a.bytes(1, &[0; 76]));
        }
        let runs = messages.split(250);
        assert_eq!(runs.len(), 5);
        assert!(runs.iter().all(|r| received(r.bytes()).count() == 2));
        let whole: Vec<u8> = runs.iter().flat_map(|r| r.bytes().to_vec()).collect();
        assert_eq!(whole, messages.bytes());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for message in received(&bytes) {
                for (_, value) in message.attributes() {
                    prop_assert!(AttributeIter::new(value).count() <= bytes.len());
                }
            }
        }
    }
}
