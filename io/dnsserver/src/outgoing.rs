//! What questions to upstreams have in common, whichever way they go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sealane_dns::Via;
use sealane_dns::chain::Keeping;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection, TLS in it or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A question on its way out.
pub(crate) struct Outgoing<'a> {
    pub(crate) to: SocketAddr,
    pub(crate) via: &'a Via,
    pub(crate) message: &'a [u8],
    pub(crate) timeout: Duration,
    pub(crate) keeping: Keeping,
}

/// Any address of ours, of the other's family.
pub(crate) fn any(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Whether a datagram is the answer to a question: its id, and its question where it has one.
pub(crate) fn answers(answer: &[u8], asked: &[u8]) -> bool {
    if answer.len() < 12 || answer.get(..2) != asked.get(..2) || answer[2] & 0x80 == 0 {
        return false;
    }
    if answer[4..6] == [0, 0] {
        return true;
    }
    // Names in questions are not compressed: there is nothing before them.
    let mut end = 12;
    while let Some(len) = asked.get(end).filter(|len| **len != 0) {
        end += 1 + usize::from(*len);
    }
    let question = 12..end + 5;
    match (answer.get(question.clone()), asked.get(question)) {
        (Some(answered), Some(asked)) => answered.eq_ignore_ascii_case(asked),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use sealane_dns::{Message, encode};

    use super::answers;

    #[test]
    fn what_is_an_answer() {
        let query = |id, name: &str, rtype| Message::query(id, name.parse().unwrap(), rtype);
        let asked = encode(&query(7, "www.example", 1), 512);
        let reply = |message: &Message| encode(&message.reply(0), 512);
        assert!(answers(&reply(&query(7, "www.example", 1)), &asked));
        assert!(answers(&reply(&query(7, "WWW.Example", 1)), &asked));
        for other in [query(8, "www.example", 1), query(7, "www.example", 28), query(7, "ww.example", 1)] {
            assert!(!answers(&reply(&other), &asked));
        }
        // A question is no answer. An answer without a question is one: some refuse like that.
        assert!(!answers(&asked, &asked));
        let mut bare = query(7, "www.example", 1);
        bare.questions.clear();
        assert!(answers(&reply(&bare), &asked));
        for len in 0..asked.len() {
            assert!(!answers(&reply(&query(7, "www.example", 1))[..len], &asked), "{len}");
        }
    }
}
