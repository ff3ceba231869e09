//! What two answers to one question differ in.

use std::collections::BTreeMap;

use crate::message::{Data, Message, Record, Soa, rcode};

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The response code.
    Rcode,
    /// AA, RA or AD.
    Flags,
    /// The records of the answer section.
    Answer,
    /// Those of the authority section.
    Authority,
    /// Those of the additional section, OPT left aside.
    Additional,
    /// How long records may be kept.
    Ttl,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] =
        [Kind::Rcode, Kind::Flags, Kind::Answer, Kind::Authority, Kind::Additional, Kind::Ttl];

    /// As metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Rcode => "rcode",
            Kind::Flags => "flags",
            Kind::Answer => "answer",
            Kind::Authority => "authority",
            Kind::Additional => "additional",
            Kind::Ttl => "ttl",
        }
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// In what.
    pub kind: Kind,
    /// In words.
    pub text: String,
}

/// Records that a line shows of each section.
const SHOWN: usize = 3;

/// All differences, sorts in the order of [`Kind::ALL`]. The order of records does not count, nor letters' case in
/// names, nor a SOA's serial number; TTLs may differ by `ttl` seconds.
pub fn differences(ours: &Message, theirs: &Message, ttl: u32) -> Vec<Difference> {
    let mut out = Vec::new();
    if ours.rcode != theirs.rcode {
        let text = format!("rcode {} here, {} there", rcode::name(ours.rcode), rcode::name(theirs.rcode));
        out.push(Difference { kind: Kind::Rcode, text });
    }
    let (here, there) = (flags(ours), flags(theirs));
    if here != there {
        out.push(Difference { kind: Kind::Flags, text: format!("flags '{here}' here, '{there}' there") });
    }
    let mut late = Vec::new();
    for (kind, ours, theirs) in [
        (Kind::Answer, &ours.answers, &theirs.answers),
        (Kind::Authority, &ours.authority, &theirs.authority),
        (Kind::Additional, &ours.additional, &theirs.additional),
    ] {
        sections(kind, ours, theirs, ttl, &mut out, &mut late);
    }
    out.append(&mut late);
    out
}

/// Flags that an answer sets by itself; TC is a matter of the datagram's size.
fn flags(message: &Message) -> String {
    let flags = message.flags;
    let all = [(flags.authoritative, "aa"), (flags.recursion_available, "ra"), (flags.authentic, "ad")];
    all.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

/// Records by what they say, each with its TTL, those that say the same side by side.
fn sorted(records: &[Record]) -> BTreeMap<Vec<u8>, Vec<&Record>> {
    let mut out: BTreeMap<Vec<u8>, Vec<&Record>> = BTreeMap::new();
    for record in records {
        out.entry(key(record)).or_default().push(record);
    }
    for same in out.values_mut() {
        same.sort_by_key(|record| record.ttl);
    }
    out
}

/// What a record says, names in lower case.
fn key(record: &Record) -> Vec<u8> {
    let mut key = record.name.to_lowercase().wire().to_vec();
    key.extend(record.class.to_be_bytes());
    key.extend(record.data.rtype().to_be_bytes());
    let folded = match &record.data {
        Data::Ns(name) => Data::Ns(name.to_lowercase()),
        Data::Cname(name) => Data::Cname(name.to_lowercase()),
        Data::Ptr(name) => Data::Ptr(name.to_lowercase()),
        Data::Mx(preference, name) => Data::Mx(*preference, name.to_lowercase()),
        Data::Srv(priority, weight, port, name) => Data::Srv(*priority, *weight, *port, name.to_lowercase()),
        Data::Soa(soa) => Data::Soa(Box::new(Soa {
            mname: soa.mname.to_lowercase(),
            rname: soa.rname.to_lowercase(),
            serial: 0,
            ..**soa
        })),
        other => other.clone(),
    };
    key.extend_from_slice(&folded.wire());
    key
}

fn sections(
    kind: Kind,
    ours: &[Record],
    theirs: &[Record],
    ttl: u32,
    out: &mut Vec<Difference>,
    late: &mut Vec<Difference>,
) {
    let (ours, mut theirs) = (sorted(ours), sorted(theirs));
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for (key, ours) in ours {
        let theirs = theirs.remove(&key).unwrap_or_default();
        let both = ours.len().min(theirs.len());
        here.extend(&ours[both..]);
        there.extend(&theirs[both..]);
        let worst = ours.iter().zip(&theirs).max_by_key(|(a, b)| a.ttl.abs_diff(b.ttl));
        if let Some((a, b)) = worst.filter(|(a, b)| a.ttl.abs_diff(b.ttl) > ttl) {
            late.push(Difference { kind: Kind::Ttl, text: format!("TTL of '{a}' is {} there", b.ttl) });
        }
    }
    there.extend(theirs.into_values().flatten());
    let only = [("here", here), ("there", there)].map(|(place, records)| shown(place, &records));
    let said: Vec<String> = only.into_iter().flatten().collect();
    if !said.is_empty() {
        out.push(Difference { kind, text: format!("{}: {}", kind.as_str(), said.join(", ")) });
    }
}

/// `only here 'a. 30 IN A 192.0.2.1', 'a. 30 IN A 192.0.2.2'`; `None`: there is nothing.
fn shown(place: &str, records: &[&Record]) -> Option<String> {
    let first: Vec<String> = records.iter().take(SHOWN).map(|record| format!("'{record}'")).collect();
    let more = match records.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!first.is_empty()).then(|| format!("only {place} {}{more}", first.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Flags;

    fn message(lines: &[&str]) -> Message {
        let mut out = Message::default();
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            let ([section, name, ttl, "A", ip] | [section, name, ttl, "CNAME", ip]) = words[..] else {
                panic!("{line}")
            };
            let data = match ip.parse() {
                Ok(ip) => Data::A(ip),
                Err(_) => Data::Cname(ip.parse().unwrap()),
            };
            let section = match section {
                "an" => &mut out.answers,
                "ns" => &mut out.authority,
                _ => &mut out.additional,
            };
            section.push(Record::new(name.parse().unwrap(), ttl.parse().unwrap(), data));
        }
        out
    }

    fn said(ours: &Message, theirs: &Message) -> Vec<String> {
        differences(ours, theirs, 5).into_iter().map(|d| format!("{}| {}", d.kind.as_str(), d.text)).collect()
    }

    #[test]
    fn what_counts() {
        let one =
            ["an a. 30 A 192.0.2.1", "an a. 30 A 192.0.2.2", "an b. 30 CNAME c.", "ad c. 30 A 192.0.2.3"];
        let same =
            ["an A. 25 A 192.0.2.2", "an b. 35 CNAME C.", "an a. 30 A 192.0.2.1", "ad c. 30 A 192.0.2.3"];
        assert_eq!(said(&message(&one), &message(&same)), Vec::<String>::new());
        let rows: [(&[&str], &[&str]); 5] = [
            (&one[..3], &["additional| additional: only there 'c. 30 IN A 192.0.2.3'"]),
            (
                &["an a. 30 A 192.0.2.1", "an b. 30 CNAME c.", "ad c. 30 A 192.0.2.9"],
                &[
                    "answer| answer: only here 'a. 30 IN A 192.0.2.2'",
                    "additional| additional: only here 'c. 30 IN A 192.0.2.3', only there 'c. 30 IN A 192.0.2.9'",
                ],
            ),
            (
                &[
                    "an a. 24 A 192.0.2.1",
                    "an a. 36 A 192.0.2.2",
                    "an b. 30 CNAME c.",
                    "ad c. 35 A 192.0.2.3",
                ],
                &[
                    "ttl| TTL of 'a. 30 IN A 192.0.2.1' is 24 there",
                    "ttl| TTL of 'a. 30 IN A 192.0.2.2' is 36 there",
                ],
            ),
            (
                &[one[0], one[0], one[1], one[2], one[3]],
                &["answer| answer: only there 'a. 30 IN A 192.0.2.1'"],
            ),
            (
                &["ns a. 30 A 192.0.2.1"],
                &[
                    "answer| answer: only here 'a. 30 IN A 192.0.2.1', 'a. 30 IN A 192.0.2.2', 'b. 30 IN CNAME c.'",
                    "authority| authority: only there 'a. 30 IN A 192.0.2.1'",
                    "additional| additional: only here 'c. 30 IN A 192.0.2.3'",
                ],
            ),
        ];
        for (at, (theirs, expected)) in rows.into_iter().enumerate() {
            let (ours, theirs) =
                if at == 0 { (message(theirs), message(&one)) } else { (message(&one), message(theirs)) };
            assert_eq!(said(&ours, &theirs), expected, "{at}");
        }
    }

    #[test]
    fn codes_and_flags() {
        let ours = Message { rcode: rcode::NXDOMAIN, ..Message::default() };
        let flags =
            Flags { authoritative: true, truncated: true, recursion_desired: true, ..Flags::default() };
        let theirs = Message { flags, ..Message::default() };
        let expected = ["rcode| rcode NXDOMAIN here, NOERROR there", "flags| flags '' here, 'aa' there"];
        assert_eq!(said(&ours, &theirs), expected);
    }

    #[test]
    fn serial_numbers_do_not_count() {
        let soa = |serial| {
            let name: crate::name::Name = "example.".parse().unwrap();
            let soa = Soa {
                mname: name.clone(),
                rname: name.clone(),
                serial,
                refresh: 1,
                retry: 1,
                expire: 1,
                minimum: 1,
            };
            Message { authority: vec![Record::new(name, 30, Data::Soa(Box::new(soa)))], ..Message::default() }
        };
        assert_eq!(said(&soa(1), &soa(2)), Vec::<String>::new());
    }
}
