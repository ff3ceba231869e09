//! The wire form of [`Message`].

use std::net::{Ipv4Addr, Ipv6Addr};

use super::suffixes::Suffixes;
use super::{Data, Edns, EdnsOption, Flags, Message, Question, Record, Soa, rtype};
use crate::name::{MAX_NAME, Name};

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end early.
    #[error("message ends early")]
    Short,
    /// A label type that does not exist, a pointer that does not point back to where names may be, a name over 255
    /// octets.
    #[error("bad name in message")]
    BadName,
    /// A record's data does not fit its type.
    #[error("bad record in message")]
    BadRecord,
    /// More than one OPT record (RFC 6891 section 6.1.1).
    #[error("more than one OPT record")]
    ManyOpts,
}

/// The header's octets.
pub(crate) const HEADER: usize = 12;
/// Pointers followed in one name.
const MAX_HOPS: u32 = 127;

pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(n).ok_or(DecodeError::Short)?;
        let out = self.bytes.get(self.at..end).ok_or(DecodeError::Short)?;
        self.at = end;
        Ok(out)
    }
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }
    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        let b = self.take(2)?;
        Ok(u16::from_be_bytes([b[0], b[1]]))
    }
    fn u32(&mut self) -> Result<u32, DecodeError> {
        let b = self.take(4)?;
        Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A name, followed through its pointers. Each leads to a prior occurrence of a name (RFC 1035 section 4.1.4): before
    /// the place where the labels it continues began, so a walk ends, and behind the header, whose octets are others
    /// when the message goes on.
    fn name(&mut self) -> Result<Name, DecodeError> {
        let mut wire = [0; MAX_NAME];
        let length = self.labels(&mut wire)?;
        Name::from_wire(&wire[..length]).ok_or(DecodeError::BadName)
    }

    /// A name's octets, its pointers followed: how many they are.
    pub(super) fn labels(&mut self, wire: &mut [u8; MAX_NAME]) -> Result<usize, DecodeError> {
        let mut used = 0;
        let (mut at, mut limit, mut resume, mut hops) = (self.at, self.at, None, 0);
        loop {
            let len = *self.bytes.get(at).ok_or(DecodeError::Short)?;
            match len & 0xc0 {
                0x00 => {
                    let end = at + 1 + usize::from(len);
                    let label = self.bytes.get(at..end).ok_or(DecodeError::Short)?;
                    let room = wire.get_mut(used..used + label.len()).ok_or(DecodeError::BadName)?;
                    room.copy_from_slice(label);
                    (at, used) = (end, used + label.len());
                    if len == 0 {
                        break;
                    }
                }
                0xc0 => {
                    let low = *self.bytes.get(at + 1).ok_or(DecodeError::Short)?;
                    let to = usize::from(u16::from_be_bytes([len & 0x3f, low]));
                    // A name has 127 labels at most, so an honest one has no more pointers.
                    hops += 1;
                    if !(HEADER..limit).contains(&to) || hops > MAX_HOPS {
                        return Err(DecodeError::BadName);
                    }
                    resume.get_or_insert(at + 2);
                    (at, limit) = (to, to);
                }
                _ => return Err(DecodeError::BadName),
            }
        }
        self.at = resume.unwrap_or(at);
        Ok(used)
    }

    fn question(&mut self) -> Result<Question, DecodeError> {
        Ok(Question { name: self.name()?, rtype: self.u16()?, class: self.u16()? })
    }
}

/// Older types whose data may hold compressed names: octets before, and number of names (RFC 3597 section 4).
pub(super) const OLD_NAMES: &[(u16, usize, usize)] = &[
    (3, 0, 1),
    (4, 0, 1),
    (7, 0, 1),
    (8, 0, 1),
    (9, 0, 1),
    (14, 0, 2),
    (17, 0, 2),
    (18, 2, 1),
    (21, 2, 1),
    (26, 2, 2),
    (36, 2, 1),
    (39, 0, 1),
];

fn data(rtype: u16, reader: &mut Reader<'_>, len: usize) -> Result<Data, DecodeError> {
    let begin = reader.at;
    reader.take(len)?;
    // Names may point to what is before, and what is behind is none of a record's business.
    let mut r = Reader { bytes: &reader.bytes[..reader.at], at: begin };
    match fields(rtype, &mut r) {
        Ok(data) if r.at == reader.at => Ok(data),
        Ok(_) | Err(DecodeError::Short) => Err(DecodeError::BadRecord),
        Err(error) => Err(error),
    }
}

/// What is left to read is one record's data.
fn fields(rtype: u16, r: &mut Reader<'_>) -> Result<Data, DecodeError> {
    let end = r.bytes.len();
    Ok(match rtype {
        rtype::A => {
            let b: [u8; 4] = r.take(4)?.try_into().map_err(|_| DecodeError::BadRecord)?;
            Data::A(Ipv4Addr::from(b))
        }
        rtype::AAAA => {
            let b: [u8; 16] = r.take(16)?.try_into().map_err(|_| DecodeError::BadRecord)?;
            Data::Aaaa(Ipv6Addr::from(b))
        }
        rtype::NS => Data::Ns(r.name()?),
        rtype::CNAME => Data::Cname(r.name()?),
        rtype::PTR => Data::Ptr(r.name()?),
        rtype::MX => Data::Mx(r.u16()?, r.name()?),
        rtype::SRV => Data::Srv(r.u16()?, r.u16()?, r.u16()?, r.name()?),
        rtype::SOA => Data::Soa(Box::new(Soa {
            mname: r.name()?,
            rname: r.name()?,
            serial: r.u32()?,
            refresh: r.u32()?,
            retry: r.u32()?,
            expire: r.u32()?,
            minimum: r.u32()?,
        })),
        rtype::TXT => {
            let mut strings = Vec::new();
            while r.at < end {
                let len = usize::from(r.u8()?);
                strings.push(r.take(len)?.into());
            }
            Data::Txt(strings)
        }
        other => match OLD_NAMES.iter().find(|row| row.0 == other) {
            Some(&(_, before, names)) => {
                let mut bytes = r.take(before)?.to_vec();
                for _ in 0..names {
                    bytes.extend_from_slice(r.name()?.wire());
                }
                Data::Other(other, bytes.into())
            }
            None => Data::Other(other, r.take(end - r.at)?.into()),
        },
    })
}

impl Data {
    /// Data of a type from its octets, as they stand in a message or, with names uncompressed, alone.
    ///
    /// # Errors
    /// Where they do not fit the type.
    pub fn from_wire(rtype: u16, octets: &[u8]) -> Result<Self, DecodeError> {
        data(rtype, &mut Reader { bytes: octets, at: 0 }, octets.len())
    }

    /// Its octets, names uncompressed.
    pub fn wire(&self) -> Vec<u8> {
        let mut w = Writer { out: Vec::new(), suffixes: None };
        w.data(self);
        w.out
    }
}

fn options(bytes: &[u8]) -> Result<Vec<EdnsOption>, DecodeError> {
    let mut r = Reader { bytes, at: 0 };
    let mut out = Vec::new();
    while r.at < bytes.len() {
        let (code, len) = (r.u16()?, usize::from(r.u16()?));
        out.push((code, r.take(len)?.into()));
    }
    Ok(out)
}

/// Reads a message.
///
/// # Errors
/// Where the bytes are not one.
pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    let mut r = Reader { bytes, at: 0 };
    let (id, flags) = (r.u16()?, r.u16()?);
    let counts = [r.u16()?, r.u16()?, r.u16()?, r.u16()?];
    let mut message = Message { id, flags: flags_of(flags), rcode: flags & 0xf, ..Message::default() };
    for _ in 0..counts[0] {
        message.questions.push(r.question()?);
    }
    for (section, count) in counts.into_iter().enumerate().skip(1) {
        for _ in 0..count {
            let (name, rtype, class, ttl) = (r.name()?, r.u16()?, r.u16()?, r.u32()?);
            let len = usize::from(r.u16()?);
            if rtype == rtype::OPT && section == 3 {
                let upper = u16::try_from(ttl >> 24).unwrap_or(0);
                let edns = Edns {
                    udp_size: class,
                    version: u8::try_from(ttl >> 16 & 0xff).unwrap_or(0),
                    dnssec_ok: ttl & 0x8000 != 0,
                    options: options(r.take(len)?)?,
                };
                message.rcode |= upper << 4;
                if message.edns.replace(edns).is_some() {
                    return Err(DecodeError::ManyOpts);
                }
                continue;
            }
            let record = Record { name, class, ttl, data: data(rtype, &mut r, len)? };
            match section {
                1 => message.answers.push(record),
                2 => message.authority.push(record),
                _ => message.additional.push(record),
            }
        }
    }
    Ok(message)
}

fn flags_of(bits: u16) -> Flags {
    let bit = |n: u16| bits & (1 << n) != 0;
    Flags {
        response: bit(15),
        opcode: u8::try_from(bits >> 11 & 0xf).unwrap_or(0),
        authoritative: bit(10),
        truncated: bit(9),
        recursion_desired: bit(8),
        recursion_available: bit(7),
        zero: bit(6),
        authentic: bit(5),
        checking_disabled: bit(4),
    }
}

fn flag_bits(flags: Flags, rcode: u16) -> u16 {
    let bit = |set: bool, n: u16| u16::from(set) << n;
    bit(flags.response, 15)
        | u16::from(flags.opcode & 0xf) << 11
        | bit(flags.authoritative, 10)
        | bit(flags.truncated, 9)
        | bit(flags.recursion_desired, 8)
        | bit(flags.recursion_available, 7)
        | bit(flags.zero, 6)
        | bit(flags.authentic, 5)
        | bit(flags.checking_disabled, 4)
        | rcode & 0xf
}

struct Writer {
    out: Vec<u8>,
    /// Where suffixes were written, as far as a pointer reaches; `None`: names stay whole.
    suffixes: Option<Suffixes>,
}

impl Writer {
    fn u16(&mut self, n: u16) {
        self.out.extend_from_slice(&n.to_be_bytes());
    }
    fn u32(&mut self, n: u32) {
        self.out.extend_from_slice(&n.to_be_bytes());
    }

    fn name(&mut self, name: &Name) {
        let wire = name.wire();
        let Some(suffixes) = &mut self.suffixes else {
            self.out.extend_from_slice(wire);
            return;
        };
        let mut at = 0;
        while wire[at] != 0 {
            let hash = Suffixes::hash(&wire[at..]);
            if let Some(to) = suffixes.find(&self.out, hash, &wire[at..]) {
                self.out.extend_from_slice(&(0xc000 | to).to_be_bytes());
                return;
            }
            if let Ok(here) = u16::try_from(self.out.len())
                && here < 0x4000
            {
                suffixes.put(here, hash);
            }
            let end = at + 1 + usize::from(wire[at]);
            self.out.extend_from_slice(&wire[at..end]);
            at = end;
        }
        self.out.push(0);
    }

    fn data(&mut self, data: &Data) {
        match data {
            Data::A(ip) => self.out.extend_from_slice(&ip.octets()),
            Data::Aaaa(ip) => self.out.extend_from_slice(&ip.octets()),
            Data::Ns(name) | Data::Cname(name) | Data::Ptr(name) => self.name(name),
            Data::Mx(preference, name) => {
                self.u16(*preference);
                self.name(name);
            }
            // RFC 2782: the target is not compressed.
            Data::Srv(priority, weight, port, target) => {
                for n in [priority, weight, port] {
                    self.u16(*n);
                }
                self.out.extend_from_slice(target.wire());
            }
            Data::Soa(soa) => {
                self.name(&soa.mname);
                self.name(&soa.rname);
                for n in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
                    self.u32(n);
                }
            }
            Data::Txt(strings) => {
                for s in strings {
                    let s = &s[..s.len().min(255)];
                    self.out.push(u8::try_from(s.len()).unwrap_or(u8::MAX));
                    self.out.extend_from_slice(s);
                }
            }
            Data::Other(_, bytes) => self.out.extend_from_slice(bytes),
        }
    }

    fn record(&mut self, record: &Record) {
        self.name(&record.name);
        self.u16(record.data.rtype());
        self.u16(record.class);
        self.u32(record.ttl);
        let length = self.out.len();
        self.u16(0);
        self.data(&record.data);
        let len = u16::try_from(self.out.len() - length - 2).unwrap_or(u16::MAX);
        self.out[length..length + 2].copy_from_slice(&len.to_be_bytes());
    }

    /// Writes whole records while they fit; how many did.
    fn section(&mut self, records: &[Record], limit: usize) -> (u16, bool) {
        let mut count = 0;
        for record in records {
            let at = self.out.len();
            self.record(record);
            if self.out.len() > limit || count == u16::MAX {
                self.out.truncate(at);
                if let Some(suffixes) = &mut self.suffixes {
                    suffixes.cut(at);
                }
                return (count, true);
            }
            count += 1;
        }
        (count, false)
    }
}

/// Writes a message in at most `limit` octets (at least 512): records that don't fit are left out from the
/// first one on, and TC is set (RFC 2181 section 9, and CoreDNS's `Truncate` for glue, too). OPT always stays, without
/// its options where those alone would not fit.
pub fn encode(message: &Message, limit: usize) -> Vec<u8> {
    encode_within(message, limit.max(512))
}

/// The same in fewer octets, for what is put behind it then.
pub fn encode_within(message: &Message, limit: usize) -> Vec<u8> {
    let limit = limit.min(usize::from(u16::MAX));
    let mut w = Writer { out: Vec::with_capacity(512), suffixes: Some(Suffixes::new()) };
    w.u16(message.id);
    w.u16(flag_bits(message.flags, message.rcode));
    w.out.resize(12, 0);
    for question in &message.questions {
        w.name(&question.name);
        w.u16(question.rtype);
        w.u16(question.class);
    }
    let mut opt = message.edns.as_ref().map(|edns| opt_record(edns, message.rcode));
    if let (Some(edns), Some(octets)) = (&message.edns, &mut opt)
        && w.out.len() + octets.len() > limit
    {
        // Options that fill a datagram by themselves are more than a client can ask back.
        *octets = opt_record(&Edns { options: Vec::new(), ..edns.clone() }, message.rcode);
    }
    let room = limit.saturating_sub(opt.as_ref().map_or(0, Vec::len));
    let mut counts = [u16::try_from(message.questions.len()).unwrap_or(0), 0, 0, 0];
    let sections = [&message.answers, &message.authority, &message.additional];
    for (at, records) in sections.into_iter().enumerate() {
        let (count, cut) = w.section(records, room);
        counts[at + 1] = count;
        if cut {
            w.out[2] |= 0x02;
            break;
        }
    }
    if let Some(opt) = opt {
        w.out.extend_from_slice(&opt);
        counts[3] += 1;
    }
    for (at, count) in counts.into_iter().enumerate() {
        w.out[4 + 2 * at..6 + 2 * at].copy_from_slice(&count.to_be_bytes());
    }
    w.out
}

fn opt_record(edns: &Edns, rcode: u16) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&rtype::OPT.to_be_bytes());
    out.extend_from_slice(&edns.udp_size.to_be_bytes());
    let upper = u32::from(rcode >> 4) << 24;
    let ttl = upper | u32::from(edns.version) << 16 | u32::from(edns.dnssec_ok) << 15;
    out.extend_from_slice(&ttl.to_be_bytes());
    let mut data = Vec::new();
    for (code, bytes) in &edns.options {
        data.extend_from_slice(&code.to_be_bytes());
        data.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
        data.extend_from_slice(bytes);
    }
    out.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&data);
    out
}
