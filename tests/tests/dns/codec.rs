//! DNS messages (RFC 1035 section 4, RFC 6891 section 6) as a client writes and reads them: the tests' own, so that
//! a mistake that a server makes on both ways is seen.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Types by name.
const TYPES: &[(&str, u16)] = &[
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("NULL", 10),
    ("PTR", 12),
    ("HINFO", 13),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("NAPTR", 35),
    ("DNAME", 39),
    ("OPT", 41),
    ("DS", 43),
    ("DNSKEY", 48),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("SPF", 99),
    ("IXFR", 251),
    ("AXFR", 252),
    ("ANY", 255),
    ("CAA", 257),
];

const RCODES: &[&str] =
    &["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET"];
const BADVERS: u16 = 16;

/// Bits of the header's second word.
pub const FLAGS: &[(&str, u16)] =
    &[("aa", 0x0400), ("tc", 0x0200), ("rd", 0x0100), ("ra", 0x0080), ("ad", 0x0020), ("cd", 0x0010)];

pub fn type_number(name: &str) -> Option<u16> {
    let known = TYPES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    known.or_else(|| name.strip_prefix("TYPE")?.parse().ok())
}

fn type_name(number: u16) -> String {
    let known = TYPES.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| format!("TYPE{number}"), |(name, _)| (*name).to_owned())
}

fn rcode_name(number: u16) -> String {
    match RCODES.get(usize::from(number)) {
        Some(name) => (*name).to_owned(),
        None if number == BADVERS => "BADVERS".to_owned(),
        None => format!("RCODE{number}"),
    }
}

/// What EDNS says in a question.
#[derive(Clone, Copy, Debug)]
pub struct Edns {
    /// Bytes that the client takes.
    pub size: u16,
    /// DNSSEC OK.
    pub dnssec: bool,
    pub version: u8,
}

/// One question.
#[derive(Clone, Debug)]
pub struct Query {
    /// As text, with its last dot.
    pub name: String,
    pub rtype: u16,
    pub class: u16,
    /// The header's second word.
    pub flags: u16,
    pub edns: Option<Edns>,
}

impl Query {
    /// The message. Names of the tables have no escapes but `\.` and `\\`.
    pub fn encode(&self, id: u16) -> Vec<u8> {
        let mut out = Vec::new();
        for field in [id, self.flags, 1, 0, 0, u16::from(self.edns.is_some())] {
            out.extend(field.to_be_bytes());
        }
        out.extend(self.question());
        if let Some(Edns { size, dnssec, version }) = self.edns {
            out.extend([0, 0, 41]);
            out.extend(size.to_be_bytes());
            out.extend([0, version, if dnssec { 0x80 } else { 0 }, 0, 0, 0]);
        }
        out
    }

    /// Its bytes in the question section.
    pub fn question(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for label in labels(&self.name) {
            out.push(u8::try_from(label.len()).unwrap());
            out.extend(label);
        }
        out.push(0);
        out.extend(self.rtype.to_be_bytes());
        out.extend(self.class.to_be_bytes());
        out
    }
}

fn labels(name: &str) -> Vec<Vec<u8>> {
    let (mut done, mut label) = (Vec::new(), Vec::new());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => label.extend(bytes.next()),
            b'.' => done.push(std::mem::take(&mut label)),
            other => label.push(other),
        }
    }
    assert!(label.is_empty(), "{name} has no last dot");
    done.retain(|label: &Vec<u8>| !label.is_empty());
    done
}

/// What came back, as text for comparison.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub id: u16,
    pub rcode: String,
    /// The header's second word.
    pub flags: u16,
    /// The question section's bytes.
    pub question: Vec<u8>,
    /// `SIZE` or `SIZE,do`.
    pub opt: Option<String>,
    /// Answers, authority, additional: `NAME TTL TYPE DATA`.
    pub sections: [Vec<String>; 3],
}

/// Reads a message to its last byte.
pub fn decode(bytes: &[u8]) -> Result<Reply, String> {
    let mut reader = Reader { bytes, at: 0 };
    let mut head = [0; 6];
    for field in &mut head {
        *field = reader.u16()?;
    }
    let [id, flags, questions, counts @ ..] = head;
    let mut reply = Reply { id, flags, ..Reply::default() };
    let mut rcode = flags & 0xf;
    for _ in 0..questions {
        let from = reader.at;
        reader.name()?;
        reader.take(4)?;
        reply.question.extend(&bytes[from..reader.at]);
    }
    for (section, count) in reply.sections.iter_mut().zip(counts) {
        for _ in 0..count {
            let (name, rtype, class) = (reader.name()?, reader.u16()?, reader.u16()?);
            let (ttl, length) = (reader.u32()?, reader.u16()?);
            if rtype == 41 {
                rcode |= u16::from(ttl.to_be_bytes()[0]) << 4;
                let dnssec = if ttl & 0x8000 == 0 { "" } else { ",do" };
                if reply.opt.replace(format!("{class}{dnssec}")).is_some() {
                    return Err("two OPT records (RFC 6891 section 6.1.1)".to_owned());
                }
                reader.take(usize::from(length))?;
                continue;
            }
            let class = match class {
                1 => "",
                3 => "CH ",
                other => return Err(format!("a record of class {other}")),
            };
            let data = reader.data(rtype, usize::from(length))?;
            section.push(format!("{name} {ttl} {class}{} {data}", type_name(rtype)));
        }
    }
    if reader.at != bytes.len() {
        return Err(format!("{} bytes after the last record", bytes.len() - reader.at));
    }
    reply.rcode = rcode_name(rcode);
    Ok(reply)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        let taken = self.bytes.get(self.at..self.at + count);
        self.at += count;
        taken.ok_or_else(|| format!("the message ends before byte {}", self.at))
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().unwrap()))
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().unwrap()))
    }

    fn name(&mut self) -> Result<String, String> {
        let (mut text, mut back) = (String::new(), None);
        loop {
            let length = self.u8()?;
            match length {
                0 => break,
                pointer if pointer >= 0xc0 => {
                    let to = usize::from(pointer & 0x3f) << 8 | usize::from(self.u8()?);
                    // Pointers lead back (RFC 1035 section 4.1.4), so this ends.
                    if to + 2 > self.at - 1 {
                        return Err(format!("a pointer at {} leads to {to}", self.at - 2));
                    }
                    back.get_or_insert(self.at);
                    self.at = to;
                }
                length if length < 0x40 => {
                    for byte in self.take(usize::from(length))? {
                        match byte {
                            b'.' | b'\\' => text.extend(['\\', char::from(*byte)]),
                            0x21..=0x7e => text.push(char::from(*byte)),
                            other => write!(text, "\\{other:03}").unwrap(),
                        }
                    }
                    text.push('.');
                }
                other => return Err(format!("a label's length {other:#x}")),
            }
        }
        if let Some(back) = back {
            self.at = back;
        }
        Ok(if text.is_empty() { ".".to_owned() } else { text })
    }

    fn data(&mut self, rtype: u16, length: usize) -> Result<String, String> {
        let end = self.at + length;
        let text = match type_name(rtype).as_str() {
            "A" => Ipv4Addr::from(<[u8; 4]>::try_from(self.take(length)?).map_err(|e| e.to_string())?)
                .to_string(),
            "AAAA" => Ipv6Addr::from(<[u8; 16]>::try_from(self.take(length)?).map_err(|e| e.to_string())?)
                .to_string(),
            "NS" | "CNAME" | "PTR" | "DNAME" => self.name()?,
            "MX" => format!("{} {}", self.u16()?, self.name()?),
            "SRV" => format!("{} {} {} {}", self.u16()?, self.u16()?, self.u16()?, self.name()?),
            "SOA" => {
                let mut text = format!("{} {}", self.name()?, self.name()?);
                for _ in 0..5 {
                    write!(text, " {}", self.u32()?).unwrap();
                }
                text
            }
            "TXT" | "SPF" | "HINFO" => {
                let mut strings = Vec::new();
                while self.at < end {
                    let length = usize::from(self.u8()?);
                    strings.push(format!("{:?}", String::from_utf8_lossy(self.take(length)?)));
                }
                strings.join(" ")
            }
            _ => self
                .take(length)?
                .iter()
                .fold(format!("\\# {length} "), |text, byte| text + &format!("{byte:02x}")),
        };
        if self.at == end {
            Ok(text)
        } else {
            Err(format!("data of length {length} that ends at {}", self.at))
        }
    }
}

#[test]
fn messages_are_read_as_they_are_written() {
    let query = Query {
        name: "a\\.b.Example.".to_owned(),
        rtype: 33,
        class: 1,
        flags: 0x0100,
        edns: Some(Edns { size: 1232, dnssec: true, version: 0 }),
    };
    let bytes = query.encode(7);
    assert_eq!(bytes[12..25], *b"\x03a.b\x07Example\x00");
    let read = decode(&bytes).unwrap();
    assert_eq!((read.id, read.flags, read.opt.as_deref()), (7, 0x0100, Some("1232,do")));
    assert_eq!(read.question, query.question());
    let mut answer = Query { edns: None, ..query }.encode(7);
    answer[7] = 1;
    answer.extend(b"\xc0\x10\x00\x21\x00\x01\x00\x00\x00\x05\x00\x0b\x00\x00\x00\x64\x00\x35\x02ns\xc0\x10");
    assert_eq!(decode(&answer).unwrap().sections[0], ["Example. 5 SRV 0 100 53 ns.Example."]);
    for length in 12..answer.len() {
        assert!(decode(&answer[..length]).is_err(), "{length} bytes of it");
    }
    answer[25 + 4 + 1] = 0xff;
    assert!(decode(&answer).is_err(), "a pointer forward");
}
