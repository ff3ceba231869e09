//! Both parsers read the same octets: what one takes and the other does not is explained by a rule of [`EXPLAINED`],
//! and what both take says the same.

use sealane_dns::message::DecodeError;
use sealane_dns::name::MAX_NAME;
use sealane_dns::{decode, encode};

use crate::reference::{Content, WITH_NAMES, WRITTEN_OUT, own, read};
use crate::{messages, run};

/// What the two differ in, and why.
#[derive(Clone, Copy, Debug)]
enum Case {
    /// Sealane refuses it.
    Refused(DecodeError),
    /// `domain` refuses it, and says this.
    Taken(&'static str),
}

/// The rules: name, what it is about, and when it holds.
type Rule = (&'static str, Case, fn(&[u8], Option<&Content>) -> bool);
const EXPLAINED: &[Rule] = &[
    // Sealane hands on what is in these types under other names than the message's own, so it has to read them (RFC 3597
    // section 4). To `domain` they are octets, good or bad.
    ("bad names in older types", Case::Refused(DecodeError::BadName), written_out),
    ("bad names in older types", Case::Refused(DecodeError::BadRecord), written_out),
    ("bad names in older types", Case::Refused(DecodeError::Short), written_out),
    // RFC 1035 section 4.1.4: a pointer leads to a prior occurrence of a name, not into the labels that it continues,
    // which can be read as others from their middle on.
    ("pointers into their own name", Case::Refused(DecodeError::BadName), points_close),
    // No name is in the header.
    ("pointers into the header", Case::Refused(DecodeError::BadName), points_to_header),
    // RFC 6891 section 6.1.1: more than one is FORMERR. `domain` leaves that to who reads them.
    ("several OPT records", Case::Refused(DecodeError::ManyOpts), |_, seen| {
        seen.is_some_and(|seen| seen.edns.len() > 1)
    }),
];

fn written_out(_: &[u8], seen: Option<&Content>) -> bool {
    let mut records = seen.iter().flat_map(|seen| &seen.sections).flatten();
    records.any(|record| WRITTEN_OUT.contains(&record.1))
}

/// There is something like a pointer to what may be of the same name.
fn points_close(octets: &[u8], _: Option<&Content>) -> bool {
    (1..octets.len()).any(|at| {
        let pointer = usize::from(u16::from_be_bytes([octets[at - 1], octets[at]]));
        pointer >= 0xc000 && (at.saturating_sub(MAX_NAME)..at).contains(&(pointer & 0x3fff))
    })
}

/// There is something like a pointer into the header.
fn points_to_header(octets: &[u8], _: Option<&Content>) -> bool {
    octets.windows(2).any(|two| two[0] == 0xc0 && two[1] < 12)
}

/// The rule that explains a difference.
fn explained(octets: &[u8], case: Case, seen: Option<&Content>) -> Option<&'static str> {
    let meant = |rule: &&Rule| match (rule.1, case) {
        (Case::Refused(a), Case::Refused(b)) => a == b && rule.2(octets, seen),
        (Case::Taken(a), Case::Taken(b)) => b.contains(a) && rule.2(octets, seen),
        _ => false,
    };
    EXPLAINED.iter().find(meant).map(|rule| rule.0)
}

/// Data in which one of the two leaves names compressed is not compared.
fn without_written_out(content: &mut Content) {
    for record in content.sections.iter_mut().flatten().filter(|record| WRITTEN_OUT.contains(&record.1)) {
        record.4.clear();
    }
}

/// What Sealane writes of what it read says the same to `domain`.
#[track_caller]
fn written_again(octets: &[u8], seen: &Content) {
    let Ok(message) = decode(octets) else { return };
    let bytes = encode(&message, usize::from(u16::MAX));
    let cut = bytes[2] & 2 != 0 && !message.flags.truncated;
    // Names that were compressed in the question or in data may not have room any more.
    if cut || bytes.len() > usize::from(u16::MAX) {
        return;
    }
    let mut again = read(&bytes).unwrap_or_else(|why| panic!("{why}: {octets:02x?} became {bytes:02x?}"));
    without_written_out(&mut again);
    assert_eq!(in_lower_case(&again), in_lower_case(seen), "{octets:02x?} became {bytes:02x?}");
}

/// A pointer may lead to the same name in another case. The first question's name is never compressed.
fn in_lower_case(content: &Content) -> String {
    let mut content = content.clone();
    content.questions.iter_mut().skip(1).for_each(|(name, ..)| name.make_ascii_lowercase());
    for (name, rtype, _, _, data) in content.sections.iter_mut().flatten() {
        name.make_ascii_lowercase();
        if WITH_NAMES.contains(rtype) {
            data.make_ascii_lowercase();
        }
    }
    format!("{content:?}")
}

#[track_caller]
pub fn compare(octets: &[u8]) -> &'static str {
    match (own(octets), read(octets)) {
        (Err(_), Err(_)) => "both refuse",
        (Ok(mut ours), Ok(mut theirs)) => {
            without_written_out(&mut ours);
            without_written_out(&mut theirs);
            assert_eq!(ours, theirs, "{octets:02x?}");
            written_again(octets, &theirs);
            "both read the same"
        }
        (Err(why), Ok(theirs)) => {
            let rule = explained(octets, Case::Refused(why), Some(&theirs));
            rule.unwrap_or_else(|| panic!("Sealane alone refuses ({why}) {octets:02x?}: {theirs:?}"))
        }
        (Ok(ours), Err(why)) => {
            let case = Case::Taken(Box::leak(why.clone().into_boxed_str()));
            let rule = explained(octets, case, Some(&ours));
            rule.unwrap_or_else(|| panic!("`domain` alone refuses ({why}) {octets:02x?}: {ours:?}"))
        }
    }
}

#[test]
fn two_parsers_read_the_same() {
    let counts = run("parsers", |random| compare(&messages::any(random)));
    for what in ["both refuse", "both read the same"] {
        assert!(counts.get(what).is_some_and(|count| *count > 1000), "{counts:?}");
    }
}
