//! Zone transfers: the messages of an AXFR out of a zone (RFC 5936), an IXFR's answer as CoreDNS gives it (that
//! there is nothing new, or the whole zone: RFC 1995 section 2), and a zone out of another server's messages.

use super::serial::is_newer;
use super::tree::{Zone, ZoneError};
use crate::message::{CLASS_IN, Data, Flags, Message, Question, Record, decode, rcode, rtype};
use crate::name::Name;

/// Octets of records that go into one message, uncompressed: a message over TCP has 65,535 at most.
const BATCH: usize = 63_000;

/// NOTIFY (RFC 1996).
pub const OPCODE_NOTIFY: u8 = 4;

/// The messages that answer a transfer's query.
#[derive(Debug)]
pub struct Outgoing<'a> {
    query: &'a Message,
    records: Vec<&'a Record>,
    at: usize,
}

/// Answers an AXFR or IXFR query out of a zone; whether the client may have it is for the caller to say first.
///
/// # Errors
/// The response code to give instead: an IXFR query that does not carry exactly one SOA (SERVFAIL, as CoreDNS).
pub fn outgoing<'a>(zone: &'a Zone, query: &'a Message) -> Result<Outgoing<'a>, u16> {
    answered(zone.records(), query)
}

/// The same out of records, of which the SOA is the first and is there once.
///
/// # Errors
/// As [`outgoing`].
pub fn outgoing_of<'a>(records: &'a [Record], query: &'a Message) -> Result<Outgoing<'a>, u16> {
    answered(records.iter(), query)
}

fn answered<'a>(records: impl Iterator<Item = &'a Record>, query: &'a Message) -> Result<Outgoing<'a>, u16> {
    let mut records = records.peekable();
    let Some(soa) = records.peek().copied() else { return Err(rcode::SERVFAIL) };
    if query.questions.first().is_some_and(|q| q.rtype == rtype::IXFR) {
        let [Record { data: Data::Soa(have), .. }] = query.authority.as_slice() else {
            return Err(rcode::SERVFAIL);
        };
        // RFC 1995 section 2: the same version is answered with the SOA alone. Any other has all of it, and so has
        // serial 0, whatever the zone's is (`plugin/file/xfr.go`).
        if have.serial != 0 && matches!(&soa.data, Data::Soa(own) if own.serial == have.serial) {
            return Ok(Outgoing { query, records: vec![soa], at: 0 });
        }
    }
    Ok(Outgoing { query, records: records.chain([soa]).collect(), at: 0 })
}

impl Outgoing<'_> {
    /// How many records are sent, the closing SOA included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether the client has the zone already.
    pub fn is_noop(&self) -> bool {
        self.records.len() == 1
    }
}

impl Iterator for Outgoing<'_> {
    type Item = Message;
    fn next(&mut self) -> Option<Message> {
        let mut message = self.query.reply(rcode::NOERROR);
        // As `plugin/transfer/transfer.go`: not where there is nothing new.
        message.flags.authoritative = !self.is_noop();
        let mut size = 0;
        while let Some(record) = self.records.get(self.at) {
            let len = record.name.wire().len() + 10 + record.data.wire().len();
            if size + len > BATCH && !message.answers.is_empty() {
                break;
            }
            size += len;
            self.at += 1;
            message.answers.push((*record).clone());
        }
        (!message.answers.is_empty()).then_some(message)
    }
}

/// Octets that a zone may have on the wire: a primary that never ends is not read for ever.
const LONGEST: usize = 1 << 30;

/// Where the answer to an AXFR ends, for who reads its messages (RFC 5936 section 2.2).
#[derive(Debug, Default)]
pub struct Extent {
    soas: usize,
    octets: usize,
    begun: bool,
}

impl Extent {
    /// Takes the next message; whether it is the last one. One that is no part of a transfer is.
    pub fn is_last(&mut self, message: &[u8]) -> bool {
        self.octets += message.len();
        let Ok(message) = decode(message) else { return true };
        let is_soa = |record: &&Record| record.data.rtype() == rtype::SOA;
        let begins = self.begun || message.answers.first().as_ref().is_some_and(is_soa);
        self.begun = true;
        self.soas += message.answers.iter().filter(is_soa).count();
        message.rcode != rcode::NOERROR || !begins || self.soas > 1 || self.octets > LONGEST
    }
}

/// Why a transfer gave no zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Another message than the answer.
    #[error("the primary sent a message that is no answer to the transfer's query")]
    NotAnswer,
    /// It refuses.
    #[error("the primary answered {0}")]
    Rcode(String),
    /// Cut short.
    #[error("the primary's message is truncated")]
    Truncated,
    /// RFC 5936 section 2.2.
    #[error("the transfer does not begin with the zone's SOA")]
    NoSoa,
    /// Records behind the end.
    #[error("records follow the transfer's last SOA")]
    Trailing,
    /// Differences from another version than the one at hand.
    #[error("the differences are from serial {0}, not from the one at hand")]
    WrongVersion(u32),
    /// The records are no zone.
    #[error(transparent)]
    Zone(#[from] ZoneError),
}

/// What a message brought.
#[derive(Debug)]
pub enum Step {
    /// More messages follow.
    More,
    /// The zone is whole.
    Done(Box<Zone>),
    /// The version at hand is the newest.
    UpToDate,
}

/// What is read from an IXFR's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Nothing but the first SOA.
    First,
    /// A whole zone.
    Whole,
    /// What a version had and the next has not.
    Removed,
    /// What the next version has.
    Added,
    Ended,
}

/// A transfer that comes in: AXFR, or IXFR upon the version at hand (RFC 1995 section 4).
#[derive(Debug)]
pub struct Incoming {
    origin: Name,
    id: u16,
    /// IXFR: the records at hand and their serial.
    base: Option<(u32, Vec<Record>)>,
    newest: Option<Record>,
    serial: u32,
    reading: Reading,
    records: Vec<Record>,
}

fn query(origin: &Name, id: u16, rtype: u16) -> Message {
    let question = Question { name: origin.clone(), rtype, class: CLASS_IN };
    Message { id, questions: vec![question], ..Message::default() }
}

impl Incoming {
    /// Asks for a whole zone; the message is to be sent over TCP.
    pub fn axfr(origin: &Name, id: u16) -> (Self, Message) {
        let incoming = Incoming {
            origin: origin.clone(),
            id,
            base: None,
            newest: None,
            serial: 0,
            reading: Reading::First,
            records: Vec::new(),
        };
        (incoming, query(origin, id, rtype::AXFR))
    }

    /// Asks for what changed since the version at hand. CoreDNS's secondary never asks so.
    pub fn ixfr(zone: &Zone, id: u16) -> (Self, Message) {
        let (mut incoming, _) = Incoming::axfr(zone.origin(), id);
        incoming.base = Some((zone.serial(), zone.records().cloned().collect()));
        let mut message = query(zone.origin(), id, rtype::IXFR);
        message.authority.push(zone.soa_record().clone());
        (incoming, message)
    }

    /// Takes the next message.
    ///
    /// # Errors
    /// Where it ends the transfer without a zone; nothing is to be handed in after.
    pub fn take(&mut self, message: Message) -> Result<Step, TransferError> {
        let asked = if self.base.is_some() { rtype::IXFR } else { rtype::AXFR };
        let question_fits = message.questions.iter().all(|q| q.name == self.origin && q.rtype == asked);
        if message.id != self.id || !message.flags.response || message.flags.opcode != 0 || !question_fits {
            return Err(TransferError::NotAnswer);
        }
        if message.rcode != rcode::NOERROR {
            return Err(TransferError::Rcode(rcode::name(message.rcode)));
        }
        if message.flags.truncated {
            return Err(TransferError::Truncated);
        }
        let alone = self.reading == Reading::First && message.answers.len() == 1;
        for record in message.answers {
            self.record(record)?;
        }
        match (self.reading, &self.base, &self.newest) {
            (Reading::Ended, _, _) => {
                let records = std::mem::take(&mut self.records);
                Ok(Step::Done(Box::new(Zone::new(
                    &self.origin,
                    records.into_iter().chain(self.newest.take()),
                )?)))
            }
            // One SOA alone in an IXFR's first message: RFC 1995 section 2, unless it is newer and more is to come.
            (Reading::First, Some((have, _)), Some(_)) if alone && !is_newer(*have, self.serial) => {
                Ok(Step::UpToDate)
            }
            (_, _, Some(_)) => Ok(Step::More),
            (_, _, None) => Err(TransferError::NoSoa),
        }
    }

    fn record(&mut self, record: Record) -> Result<(), TransferError> {
        let serial = match &record.data {
            Data::Soa(soa) if record.name == self.origin => Some(soa.serial),
            _ => None,
        };
        if self.newest.is_none() {
            self.serial = serial.ok_or(TransferError::NoSoa)?;
            self.newest = Some(record);
            return Ok(());
        }
        self.reading = match (self.reading, serial) {
            (Reading::Ended, _) => return Err(TransferError::Trailing),
            // A second SOA at once, of an older version: differences follow.
            (Reading::First, Some(from)) if self.base.is_some() && from != self.serial => {
                let (have, records) = self.base.take().unwrap_or_default();
                self.base = Some((have, Vec::new()));
                if from != have {
                    return Err(TransferError::WrongVersion(from));
                }
                self.records = records;
                Reading::Removed
            }
            (Reading::First | Reading::Whole, Some(last)) if last == self.serial => Reading::Ended,
            (Reading::First | Reading::Whole, _) => {
                self.records.push(record);
                Reading::Whole
            }
            (Reading::Removed, Some(_)) => Reading::Added,
            (Reading::Removed, None) => {
                self.records.retain(|r| r.name != record.name || r.data != record.data);
                Reading::Removed
            }
            (Reading::Added, Some(serial)) if serial == self.serial => Reading::Ended,
            (Reading::Added, Some(_)) => Reading::Removed,
            (Reading::Added, None) => {
                self.records.push(record);
                Reading::Added
            }
        };
        Ok(())
    }
}

/// A NOTIFY for a zone (RFC 1996 section 3.7). CoreDNS sends it up to three times until one is accepted.
pub fn notify(origin: &Name, id: u16) -> Message {
    let mut message = query(origin, id, rtype::SOA);
    message.flags = Flags { opcode: OPCODE_NOTIFY, authoritative: true, ..Flags::default() };
    message
}

/// Whether an answer accepts a NOTIFY.
pub fn accepts(notify: &Message, answer: &Message) -> bool {
    answer.id == notify.id
        && answer.flags.response
        && answer.flags.opcode == OPCODE_NOTIFY
        && answer.rcode == rcode::NOERROR
}

/// The zone that a NOTIFY query is about.
pub fn notified(message: &Message) -> Option<&Name> {
    let is_notify = message.flags.opcode == OPCODE_NOTIFY && !message.flags.response;
    message.questions.first().filter(|_| is_notify).map(|q| &q.name)
}

/// The query by which a secondary learns the primary's serial; over TCP, as CoreDNS asks it.
pub fn serial_query(origin: &Name, id: u16) -> Message {
    query(origin, id, rtype::SOA)
}

/// The serial in the answer to [`serial_query`]; `None` where there is none.
pub fn serial_in(answer: &Message) -> Option<u32> {
    let soas = answer.answers.iter().find_map(|r| match &r.data {
        Data::Soa(soa) => Some(soa.serial),
        _ => None,
    });
    soas.filter(|_| answer.rcode == rcode::NOERROR && answer.flags.response)
}
