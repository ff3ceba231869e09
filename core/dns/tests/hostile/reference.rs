//! A message as `domain` reads it, and as Sealane does, in one form that can be compared.

use domain::base::iana::Rtype;
use domain::base::message::RecordSection;
use domain::base::rdata::{ComposeRecordData, UnknownRecordData};
use domain::base::{Message, ParsedName, ToName};
use domain::rdata::AllRecordData;
use sealane_dns::message as own;

/// Name (as it is spelled), type, class.
pub type Question = (Vec<u8>, u16, u16);
/// Name, type, class, TTL, data with names written out.
pub type Record = (Vec<u8>, u16, u16, u32, Vec<u8>);
/// Size, version, DO, options.
pub type Edns = (u16, u8, bool, Vec<(u16, Vec<u8>)>);

/// Types whose data has names in it.
pub const WITH_NAMES: [u16; 14] = [2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15, 17, 33, 39];

/// What a message says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub head: [u8; 4],
    pub rcode: u16,
    pub questions: Vec<Question>,
    pub sections: [Vec<Record>; 3],
    pub edns: Vec<Edns>,
}

/// Types of which `domain` knows the form and Sealane, too. The data of all others is octets to both, …
const BOTH: [u16; 15] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15, 16, 28, 33];
const BOTH_LATE: [u16; 2] = [17, 39];
/// … but that of these, in which Sealane writes compressed names out (RFC 3597 section 4) and `domain` does not.
pub const WRITTEN_OUT: [u16; 4] = [18, 21, 26, 36];

/// What `domain` says.
pub fn read(octets: &[u8]) -> Result<Content, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let message = Message::from_octets(octets).map_err(|e| text(&e))?;
    let mut out = Content { head: octets[..4].try_into().map_err(|_| "short")?, ..Content::default() };
    out.rcode = u16::from(octets[3] & 0xf);
    for question in message.question() {
        let question = question.map_err(|e| text(&e))?;
        out.questions.push((wire(question.qname()), question.qtype().to_int(), question.qclass().to_int()));
    }
    let mut section = message.answer().map_err(|e| text(&e))?;
    for place in 0..3 {
        if place > 0 {
            section = section.next_section().map_err(|e| text(&e))?.ok_or("no section")?;
        }
        records(section, place, &mut out).map_err(|e| format!("section {}: {e}", place + 1))?;
    }
    Ok(out)
}

fn records(section: RecordSection<'_, &[u8]>, place: usize, out: &mut Content) -> Result<(), String> {
    for record in section {
        let record = record.map_err(|e| e.to_string())?;
        let (rtype, class, ttl) = (record.rtype().to_int(), record.class().to_int(), record.ttl().as_secs());
        let raw = || -> Result<Vec<u8>, String> {
            let read = record.to_record::<UnknownRecordData<&[u8]>>().map_err(|e| e.to_string())?;
            Ok(read.ok_or("not raw")?.data().data().to_vec())
        };
        if record.rtype() == Rtype::OPT && place == 2 {
            let options = options(&raw()?)?;
            out.rcode |= ((ttl >> 24) as u16) << 4;
            out.edns.push((class, (ttl >> 16) as u8, ttl & 0x8000 != 0, options));
            continue;
        }
        let mut data = Vec::new();
        if BOTH.contains(&rtype) || BOTH_LATE.contains(&rtype) {
            let read = record.to_any_record::<AllRecordData<&[u8], ParsedName<&[u8]>>>();
            let read = read.map_err(|e| format!("type {rtype}: {e}"))?;
            read.data().compose_rdata(&mut data).map_err(|_| "no room")?;
        } else {
            data = raw()?;
        }
        out.sections[place].push((wire(&record.owner()), rtype, class, ttl, data));
    }
    Ok(())
}

fn options(data: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, String> {
    use domain::base::opt::{Opt, UnknownOptData};
    let opt = Opt::from_slice(data).map_err(|e| e.to_string())?;
    let mut out = Vec::new();
    for option in opt.iter::<UnknownOptData<_>>() {
        let option = option.map_err(|e| e.to_string())?;
        out.push((option.code().to_int(), option.data().to_vec()));
    }
    Ok(out)
}

fn wire(name: &impl ToName) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.iter_labels() {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_slice());
    }
    out
}

/// What Sealane says.
pub fn own(octets: &[u8]) -> Result<Content, own::DecodeError> {
    let message = own::decode(octets)?;
    let record = |record: &own::Record| {
        let own::Record { name, class, ttl, data } = record;
        (name.wire().to_vec(), data.rtype(), *class, *ttl, data.wire())
    };
    let section = |records: &[own::Record]| records.iter().map(record).collect();
    let f = message.flags;
    let bit = |on: bool, at: u8| u8::from(on) << at;
    let third = bit(f.response, 7) | f.opcode << 3 | bit(f.authoritative, 2) | bit(f.truncated, 1);
    let fourth = bit(f.recursion_available, 7) | bit(f.zero, 6) | bit(f.authentic, 5);
    let fourth = fourth | bit(f.checking_disabled, 4) | (message.rcode & 0xf) as u8;
    let id = message.id.to_be_bytes();
    let questions = message.questions.iter().map(|q| (q.name.wire().to_vec(), q.rtype, q.class));
    let edns = message.edns.iter().map(|edns| {
        let options = edns.options.iter().map(|(code, data)| (*code, data.to_vec()));
        (edns.udp_size, edns.version, edns.dnssec_ok, options.collect())
    });
    Ok(Content {
        head: [id[0], id[1], third | bit(f.recursion_desired, 0), fourth],
        rcode: message.rcode,
        questions: questions.collect(),
        sections: [section(&message.answers), section(&message.authority), section(&message.additional)],
        edns: edns.collect(),
    })
}
