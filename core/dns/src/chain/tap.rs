//! Where messages of dnstap go.

/// An end of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Socket {
    /// Path of a Unix socket.
    Unix(String),
    /// `HOST:PORT`, a name or an address.
    Tcp(String),
    /// The same, within TLS.
    Tls(String),
}

/// `unix:///run/tap`, `tcp://192.0.2.1:6000`, …
impl std::fmt::Display for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Socket::Unix(path) => write!(f, "unix://{path}"),
            Socket::Tcp(host) => write!(f, "tcp://{host}"),
            Socket::Tls(host) => write!(f, "tls://{host}"),
        }
    }
}

/// Who connects to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// The server to the reader.
    Connect {
        /// Of the socket that writes, octets.
        buffer: usize,
        /// Messages that wait at most; what is more is dropped and counted.
        queue: usize,
    },
    /// Readers to the server: any number of them, each gets all.
    Listen {
        /// Paths of the certificate chain and its key, for TLS.
        identity: Option<(String, String)>,
        /// Path of those who may have signed readers' certificates; `None`: readers need none.
        authorities: Option<String>,
    },
}

/// Somebody who wants to see messages, by Frame Streams with content type [`CONTENT_TYPE`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tap {
    /// Where.
    pub socket: Socket,
    /// How.
    pub way: Way,
    /// The other side's certificate may be anybody's; for listeners: readers may have none.
    pub skip_verify: bool,
}

/// What the frames are.
pub const CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";

/// Frame Streams (fstrm): frames behind their length, and control frames, which begin with an empty one.
pub mod frames {
    use super::CONTENT_TYPE;

    /// A control frame's octets at most (`FSTRM_CONTROL_FRAME_LENGTH_MAX`).
    pub const LARGEST: u32 = 512;

    /// Control frames.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Control {
        /// The reader takes a content type.
        Accept = 1,
        /// Frames follow.
        Start,
        /// No more frames follow.
        Stop,
        /// The writer has a content type.
        Ready,
        /// The reader has seen the last frame.
        Finish,
    }

    /// A control frame as it is written.
    pub fn control(kind: Control) -> Vec<u8> {
        let mut body = (kind as u32).to_be_bytes().to_vec();
        if matches!(kind, Control::Accept | Control::Start | Control::Ready) {
            body.extend_from_slice(&1u32.to_be_bytes());
            body.extend_from_slice(&(CONTENT_TYPE.len() as u32).to_be_bytes());
            body.extend_from_slice(CONTENT_TYPE);
        }
        let mut out = vec![0; 4];
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// What a control frame is, from behind its lengths on, and whether it is about dnstap: it names our content type,
    /// or none at all.
    pub fn read(body: &[u8]) -> Option<(Control, bool)> {
        let word = |at: usize| Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?));
        let kinds = [Control::Accept, Control::Start, Control::Stop, Control::Ready, Control::Finish];
        let kind = *kinds.get((word(0)? as usize).checked_sub(1)?)?;
        let (mut at, mut named, mut ours) = (4, false, false);
        while at < body.len() {
            let (field, len) = (word(at)?, word(at + 4)? as usize);
            let value = body.get(at + 8..(at + 8).checked_add(len)?)?;
            if field == 1 {
                named = true;
                ours |= value == CONTENT_TYPE;
            }
            at += 8 + len;
        }
        Some((kind, ours || !named))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn control_frames() {
            let ready = control(Control::Ready);
            assert_eq!(ready[..16], [0, 0, 0, 0, 0, 0, 0, 34, 0, 0, 0, 4, 0, 0, 0, 1]);
            assert_eq!(ready[16..20], [0, 0, 0, 22]);
            assert_eq!(read(&ready[8..]), Some((Control::Ready, true)));
            assert_eq!(control(Control::Stop), [0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 3]);
            assert_eq!(read(&[0, 0, 0, 5]), Some((Control::Finish, true)));
            let other = b"\0\0\0\x01\0\0\0\x01\0\0\0\x01x";
            assert_eq!(read(other), Some((Control::Accept, false)));
            for bad in [
                &b""[..],
                b"\0\0\0\0",
                b"\0\0\0\x06",
                b"\0\0\0\x01\0\0",
                &other[..12],
                b"\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff",
            ] {
                assert_eq!(read(bad), None, "{bad:?}");
            }
        }
    }
}
