//! Where things stand in an answer's octets.

use crate::message::rtype;

/// A message's name that begins at `at`: where it ends.
fn past_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            len if len >= 0xc0 => return Some(at + 2),
            len => at += 1 + usize::from(len),
        }
    }
}

/// Where the TTLs of a message's records stand, OPT's aside. `None` where one is not `ttl`.
pub(super) fn ttls(message: &[u8], ttl: u32) -> Option<Box<[u16]>> {
    let count = |at: usize| Some(usize::from(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?])));
    let mut at = 12;
    for _ in 0..count(4)? {
        at = past_name(message, at)? + 4;
    }
    let mut out = Vec::new();
    for _ in 0..count(6)? + count(8)? + count(10)? {
        let fixed = past_name(message, at)?;
        if message.get(fixed..fixed + 2)? != rtype::OPT.to_be_bytes() {
            if message.get(fixed + 4..fixed + 8)? != ttl.to_be_bytes() {
                return None;
            }
            out.push(u16::try_from(fixed + 4).ok()?);
        }
        at = fixed + 10 + count(fixed + 8)?;
    }
    Some(out.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::ttls;
    use crate::message::{Data, Edns, Message, Record, encode};

    #[test]
    fn each_ttl_but_opts() {
        let mut message = Message::query(1, "a.example".parse().unwrap(), 1);
        let name = message.questions[0].name.clone();
        let record = |ttl, data| Record::new(name.clone(), ttl, data);
        message.answers.push(record(7, Data::A([192, 0, 2, 1].into())));
        message.authority.push(record(7, Data::Ns("ns.b.example".parse().unwrap())));
        message.edns = Some(Edns { udp_size: 1232, ..Edns::default() });
        let bytes = encode(&message, 512);
        let places = ttls(&bytes, 7).unwrap();
        assert_eq!(places.len(), 2);
        assert!(places.iter().all(|at| bytes[usize::from(*at)..][..4] == [0, 0, 0, 7]));
        message.authority[0].ttl = 8;
        assert_eq!(ttls(&encode(&message, 512), 7), None);
        for end in 0..bytes.len() - 11 {
            assert_eq!(ttls(&bytes[..end], 7), None);
        }
    }
}
