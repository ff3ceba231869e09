//! What an answer is to its question, as far as it decides where it is kept.

use crate::chain::{Class, classify};
use crate::message::{Data, Message, rcode, rtype};
use crate::name::Name;

/// What is asked, as far as answers differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Name.
    pub name: Name,
    /// Type.
    pub rtype: u16,
    /// Class.
    pub class: u16,
    /// DNSSEC records wanted.
    pub dnssec_ok: bool,
    /// Checking disabled.
    pub checking_disabled: bool,
}

/// The class of everything (RFC 1035 section 3.2.5).
const CLASS_ANY: u16 = 255;
/// Signatures (RFC 4034 section 3).
const RRSIG: u16 = 46;

pub(super) fn has_soa(message: &Message) -> bool {
    message.authority.iter().any(|record| matches!(record.data, Data::Soa(_)))
}

/// What sort of answer it is. Aliases that lead nowhere are no data where an SOA says for how long (RFC 2308 section
/// 2.2), and signatures that have ended are nothing to keep.
pub(super) fn sort(key: &Key, message: &Message, unix: u64) -> Class {
    let class = classify(message, key.rtype);
    let plain = !matches!(class, Class::Meta | Class::Update);
    if plain && key.dnssec_ok && signatures_ended(message, unix) {
        return Class::OtherError;
    }
    if class == Class::NoError && has_soa(message) && leads_nowhere(key, message) {
        return Class::NoData;
    }
    class
}

/// There are answers, but none to the question.
pub(super) fn leads_nowhere(key: &Key, message: &Message) -> bool {
    !message.answers.is_empty() && !answers(key, message)
}

/// Whether there is an answer of the type that was asked for, at the end of the aliases.
pub(super) fn answers(key: &Key, message: &Message) -> bool {
    if message.rcode != rcode::NOERROR {
        return false;
    }
    let of_class = |class: u16| key.class == CLASS_ANY || class == key.class;
    match key.rtype {
        rtype::ANY => message.answers.iter().any(|r| of_class(r.class) && r.name == key.name),
        rtype::CNAME => matches!(alias(key, message, &key.name), Ok(Some(_))),
        asked => {
            let mut seen: Vec<&Name> = Vec::new();
            let mut name = &key.name;
            // An alias has one target (RFC 2181 section 10.1), and no circle of them ends (RFC 1034 section 3.6.2).
            while let Some(target) = match alias(key, message, name) {
                Ok(target) => target,
                Err(()) => return false,
            } {
                seen.push(name);
                if seen.contains(&target) {
                    return false;
                }
                name = target;
            }
            message.answers.iter().any(|r| r.data.rtype() == asked && of_class(r.class) && r.name == *name)
        }
    }
}

/// What a name is an alias of; an error where there are several.
fn alias<'a>(key: &Key, message: &'a Message, owner: &Name) -> Result<Option<&'a Name>, ()> {
    let mut found = None;
    for record in &message.answers {
        let Data::Cname(target) = &record.data else { continue };
        if record.name != *owner || key.class != CLASS_ANY && record.class != key.class {
            continue;
        }
        match found {
            Some(other) if other != target => return Err(()),
            _ => found = Some(target),
        }
    }
    Ok(found)
}

/// Whether a signature is not valid at this time (RFC 4034 section 3.1.5, serial numbers of RFC 1982).
fn signatures_ended(message: &Message, unix: u64) -> bool {
    let now = (unix & u64::from(u32::MAX)) as u32;
    let mut records = message.answers.iter().chain(&message.authority).chain(&message.additional);
    records.any(|record| {
        let Data::Other(RRSIG, data) = &record.data else { return false };
        let time = |at: usize| data.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        let (Some(end), Some(begin)) = (time(8), time(12)) else { return false };
        end.wrapping_sub(now) > i32::MAX as u32 || now.wrapping_sub(begin) > i32::MAX as u32
    })
}
