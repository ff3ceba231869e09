//! DNS over gRPC as CoreDNS speaks it: `coredns.dns.DnsService` with the method `Query`, whose question and answer are
//! both a `DnsPacket { bytes msg = 1 }`.

use super::protobuf::{self, Value};

/// The method's path.
pub const PATH: &str = "/coredns.dns.DnsService/Query";
/// The media type of its bodies.
pub const CONTENT_TYPE: &str = "application/grpc";
/// A body's octets at most: gRPC's prefix, protobuf's tag and length, the longest DNS message.
pub const LARGEST: usize = 5 + 4 + 65_535;

/// How a call ended, where not well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", NAMES.get(usize::from(self.code)).unwrap_or(&"Unknown"))]
pub struct Status {
    /// gRPC's code: [`UNKNOWN`] and the like.
    pub code: u8,
    /// For people.
    pub message: String,
}

/// The names of codes, as Go writes them.
const NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
/// Anything.
pub const UNKNOWN: u8 = 2;
/// There is no such thing.
pub const NOT_FOUND: u8 = 5;
/// Too large.
pub const RESOURCE_EXHAUSTED: u8 = 8;
/// No such method, no such compression.
pub const UNIMPLEMENTED: u8 = 12;
/// The other side does not keep to the protocol.
pub const INTERNAL: u8 = 13;
/// Nobody is there.
pub const UNAVAILABLE: u8 = 14;

impl Status {
    /// Of a code and a reason.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Status { code, message: message.into() }
    }

    /// Whether an error's text is that of a status with this code.
    pub fn says(text: &str, code: u8) -> bool {
        let name = text.strip_prefix("rpc error: code = ").and_then(|rest| rest.split(' ').next());
        name.is_some() && name == NAMES.get(usize::from(code)).copied()
    }
}

/// A DNS message as the body of a call or of its answer.
pub fn wrap(message: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 5];
    protobuf::write(1, Value::Bytes(message), &mut out);
    let len = (out.len() - 5) as u32;
    out[1..5].copy_from_slice(&len.to_be_bytes());
    out
}

/// The DNS message in a body; an empty one where the packet has none.
///
/// # Errors
/// What the caller is told.
pub fn unwrap(body: &[u8]) -> Result<&[u8], Status> {
    let internal = |message: &str| Status::new(INTERNAL, message);
    let (prefix, packet) = body.split_at_checked(5).ok_or_else(|| internal("the body ends early"))?;
    if prefix[0] != 0 {
        return Err(Status::new(UNIMPLEMENTED, "compressed messages are not read"));
    }
    let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if packet.len() != len as usize {
        return Err(internal("the body is not one message"));
    }
    let mut message = &[][..];
    for field in protobuf::fields(packet) {
        match field {
            Ok((1, Value::Bytes(bytes))) => message = bytes,
            Ok((1, _)) => return Err(internal("msg is not of type bytes")),
            Ok(_) => {}
            Err(why) => return Err(internal(&why.to_string())),
        }
    }
    if message.len() > usize::from(u16::MAX) {
        return Err(Status::new(RESOURCE_EXHAUSTED, "the DNS message exceeds 65535 octets"));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        assert_eq!(wrap(b"abc"), b"\0\0\0\0\x05\x0a\x03abc");
        for (body, found) in [
            (&b"\0\0\0\0\x05\x0a\x03abc"[..], Ok(&b"abc"[..])),
            (b"\0\0\0\0\0", Ok(b"")),
            // The last one counts; others are for versions to come.
            (b"\0\0\0\0\x09\x0a\x01a\x10\x07\x0a\x02bc", Ok(b"bc")),
            (b"\0\0\0\0", Err(INTERNAL)),
            (b"\0\0\0\0\x05\x0a\x03ab", Err(INTERNAL)),
            (b"\0\0\0\0\x05\x0a\x03abcd", Err(INTERNAL)),
            (b"\0\0\0\0\x05\x0a\x04abc", Err(INTERNAL)),
            (b"\0\0\0\0\x02\x08\x03", Err(INTERNAL)),
            (b"\x01\0\0\0\x05\x0a\x03abc", Err(UNIMPLEMENTED)),
        ] {
            assert_eq!(unwrap(body).map_err(|status| status.code), found, "{body:?}");
        }
        let largest = vec![7; 65_535];
        let body = wrap(&largest);
        assert_eq!((body.len(), unwrap(&body)), (LARGEST, Ok(&largest[..])));
        assert_eq!(unwrap(&wrap(&[7; 65_536])).unwrap_err().code, RESOURCE_EXHAUSTED);
    }

    #[test]
    fn statuses() {
        let status = Status::new(NOT_FOUND, "no such name");
        assert_eq!(status.to_string(), "rpc error: code = NotFound desc = no such name");
        assert!(Status::says(&status.to_string(), NOT_FOUND) && !Status::says(&status.to_string(), UNKNOWN));
        assert!(!Status::says("NotFound", NOT_FOUND));
        assert_eq!(Status::new(99, "x").to_string(), "rpc error: code = Unknown desc = x");
    }
}
