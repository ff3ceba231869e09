//! What questions and answers have to be to go on as they came, and what is written over in them.

use crate::message::rtype;
use crate::message::shape::{HEADER, OPT, Shape};

/// The header's third octet: QR, opcode, AA, TC, RD.
const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
/// The fourth: RA, Z, AD, CD, response code.
const RECURSION_AVAILABLE: u8 = 0x80;
const AUTHENTIC: u8 = 0x20;
const CHECKING_DISABLED: u8 = 0x10;
const RCODE: u8 = 0x0f;

/// In an OPT record: what the sender can take, and version and flags (RFC 6891 section 6.1.2).
const SIZE: std::ops::Range<usize> = 3..5;
const SIZE_AND_FLAGS: std::ops::Range<usize> = 3..9;
const VERSION: usize = 6;
const FLAGS: usize = 7;
const DNSSEC_OK: u8 = 0x80;

/// What each client can take in a datagram, octets (RFC 1035 section 4.2.1).
const LEAST: u16 = 512;

/// What is known of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) shape: Shape,
    pub(crate) dnssec_ok: bool,
    /// Octets that the client can take.
    room: u16,
}

impl Asked {
    /// Looks at a client's question: `None` where it is one for the general path, which would write other octets than
    /// these, or do something beside.
    pub(crate) fn read(question: &[u8]) -> Option<Self> {
        // All are questions (opcode 0); most messages that are not end here.
        if *question.get(2)? & (RESPONSE | OPCODE | TRUNCATED) != 0 || question.get(3)? & RCODE != 0 {
            return None;
        }
        let shape = Shape::of(question)?;
        // DS has a rule of its own for its server block; zones are not asked for in datagrams.
        let own = matches!(shape.rtype, rtype::DS | rtype::AXFR | rtype::IXFR | rtype::OPT | rtype::TSIG);
        if own || shape.records != [0, 0, u16::from(shape.opt.is_some())] {
            return None;
        }
        let (mut room, mut dnssec_ok) = (LEAST, false);
        if let Some(opt) = shape.opt.and_then(|at| question.get(at..)) {
            let [flags, more] = [opt[FLAGS], opt[FLAGS + 1]];
            if opt[VERSION] != 0 || flags & !DNSSEC_OK != 0 || more != 0 {
                return None;
            }
            dnssec_ok = flags != 0;
            room = u16::from_be_bytes([opt[SIZE.start], opt[SIZE.start + 1]]).max(LEAST);
        }
        Some(Asked { shape, dnssec_ok, room })
    }
}

/// An answer that may go to the client as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    pub(crate) rcode: u16,
    pub(crate) nothing: bool,
    shape: Shape,
}

impl Fit {
    /// Looks at an answer; `None` where it is one for the general path. The question is as it was sent, its id aside.
    pub(crate) fn of(asked: &Asked, question: &[u8], answer: &[u8]) -> Option<Self> {
        let [flags, more] = [*answer.get(2)?, *answer.get(3)?];
        if flags & (RESPONSE | OPCODE | TRUNCATED) != RESPONSE {
            return None;
        }
        let same = HEADER..asked.shape.question;
        if answer.get(same.clone())? != question.get(same)? {
            return None;
        }
        let shape = Shape::of(answer)?;
        let mut length = answer.len();
        match (asked.shape.opt, shape.opt) {
            // The client's OPT goes back, and its options were those that some plugin sends back.
            (Some(at), None) if question.len() == at + OPT && shape.records[2] < u16::MAX => length += OPT,
            (Some(_), None) => return None,
            (None, Some(at)) => length = at,
            (None, None) | (Some(_), Some(_)) => {}
        }
        let rcode = u16::from(more & RCODE);
        (length <= usize::from(asked.room)).then_some(Fit { rcode, nothing: shape.records[0] == 0, shape })
    }

    /// Makes the answer the client's: its id, its flags, its EDNS (`ScrubWriter`, and [`crate::chain::Query::fit`]).
    pub(crate) fn write(&self, (id, asked): (u16, &Asked), question: &[u8], answer: &mut Vec<u8>) {
        answer[..2].copy_from_slice(&id.to_be_bytes());
        answer[2] = RESPONSE | answer[2] & AUTHORITATIVE | question[2] & RECURSION_DESIRED;
        answer[3] = answer[3] & (RECURSION_AVAILABLE | AUTHENTIC | RCODE) | question[3] & CHECKING_DISABLED;
        let additional = match (asked.shape.opt, self.shape.opt) {
            (None, None) => return,
            (Some(theirs), Some(ours)) => {
                let (theirs, ours) = (&question[theirs..], &mut answer[ours..]);
                return ours[SIZE_AND_FLAGS].copy_from_slice(&theirs[SIZE_AND_FLAGS]);
            }
            (Some(theirs), None) => {
                answer.extend_from_slice(&question[theirs..]);
                self.shape.records[2] + 1
            }
            (None, Some(ours)) => {
                answer.truncate(ours);
                self.shape.records[2] - 1
            }
        };
        answer[10..HEADER].copy_from_slice(&additional.to_be_bytes());
    }
}
