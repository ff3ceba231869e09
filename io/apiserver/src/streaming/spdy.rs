//! SPDY/3.1's frames (draft-mbelshe-httpbis-spdy-00, section 2), as far as port-forward needs them: no priorities,
//! no push, windows granted as data is taken.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// Words that begin every compressed header block, each after its length (section 2.6.10.1).
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
/// And the dictionary's rest.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
    Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
    Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=\
    utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// A header block larger than this, unpacked, is not one of ours.
const HEADERS: usize = 64 << 10;
/// A frame larger than this is refused: clients send 32 KiB at most.
const FRAME: usize = 1 << 20;

fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS {
        out.put_u32(u32::try_from(word.len()).unwrap_or(0));
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(TAIL.as_bytes());
    out
}

/// What a peer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A stream begins.
    Open { stream: u32, headers: Vec<(String, String)>, last: bool },
    /// Bytes of a stream; `last`: no more will come.
    Data { stream: u32, bytes: Bytes, last: bool },
    /// A stream is broken off.
    Reset { stream: u32 },
    /// To be answered with the same number.
    Ping(u32),
    /// A stream's window grows; stream 0 is the connection.
    Window { stream: u32, by: u32 },
    /// No more streams.
    GoAway,
    /// Anything else.
    Other,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpdyError {
    #[error("a frame of {0} bytes")]
    TooLarge(usize),
    #[error("a frame that ends early")]
    Short,
    #[error("SPDY version {0}, not 3")]
    Version(u16),
    #[error("headers cannot be read: {0}")]
    Headers(String),
}

/// One direction's state each: header blocks share one compression context per connection (section 2.6.10.1).
pub(super) struct Codec {
    inflate: Decompress,
    deflate: Compress,
    dictionary: Vec<u8>,
}

impl Codec {
    pub(super) fn new() -> Result<Self, SpdyError> {
        let dictionary = dictionary();
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(&dictionary).map_err(|e| SpdyError::Headers(e.to_string()))?;
        Ok(Codec { inflate: Decompress::new(true), deflate, dictionary })
    }

    /// Takes one whole frame off `input`, or `None` where more bytes must come.
    pub(super) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        if input.len() < 8 {
            return Ok(None);
        }
        let length = (usize::from(input[5]) << 16) | (usize::from(input[6]) << 8) | usize::from(input[7]);
        if length > FRAME {
            return Err(SpdyError::TooLarge(length));
        }
        if input.len() < 8 + length {
            return Ok(None);
        }
        let mut head = input.split_to(8);
        let body = input.split_to(length).freeze();
        let first = head.get_u32();
        let flags = head.get_u8();
        let last = flags & 1 != 0;
        if first >> 31 == 0 {
            return Ok(Some(Frame::Data { stream: first, bytes: body, last }));
        }
        let version = u16::try_from((first >> 16) & 0x7fff).unwrap_or(0);
        if version != 3 {
            return Err(SpdyError::Version(version));
        }
        self.control(first & 0xffff, last, body).map(Some)
    }

    fn control(&mut self, kind: u32, last: bool, mut body: Bytes) -> Result<Frame, SpdyError> {
        let need = match kind {
            1 => 10,
            2 | 6 | 8 => 4,
            3 | 7 | 9 => 8,
            _ => 0,
        };
        if body.len() < need {
            return Err(SpdyError::Short);
        }
        Ok(match kind {
            1 => {
                let stream = body.get_u32() & 0x7fff_ffff;
                // The associated stream, priority and slot.
                body.advance(6);
                Frame::Open { stream, headers: self.headers(&body)?, last }
            }
            3 => Frame::Reset { stream: body.get_u32() & 0x7fff_ffff },
            6 => Frame::Ping(body.get_u32()),
            7 => Frame::GoAway,
            8 | 2 => {
                // Of no interest, but the compression context must see every block.
                body.advance(4);
                self.headers(&body)?;
                Frame::Other
            }
            9 => Frame::Window { stream: body.get_u32() & 0x7fff_ffff, by: body.get_u32() & 0x7fff_ffff },
            _ => Frame::Other,
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        let plain = self.unpack(block)?;
        let mut rest = plain.as_slice();
        let mut out = Vec::new();
        let count = take_u32(&mut rest)?;
        for _ in 0..count {
            let name = take_text(&mut rest)?;
            out.push((name, take_text(&mut rest)?));
        }
        Ok(out)
    }

    fn unpack(&mut self, block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let fail = |e: flate2::DecompressError| SpdyError::Headers(e.to_string());
        let mut out = Vec::with_capacity(4096);
        let mut at = 0;
        loop {
            let before = (self.inflate.total_in(), out.len());
            let result = self.inflate.decompress_vec(&block[at..], &mut out, FlushDecompress::Sync);
            at += usize::try_from(self.inflate.total_in() - before.0).unwrap_or(0);
            match result {
                Ok(_) => {}
                // The first block asks for the dictionary.
                Err(e) if e.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&self.dictionary).map_err(fail)?;
                    continue;
                }
                Err(e) => return Err(fail(e)),
            }
            if out.len() == out.capacity() {
                if out.len() >= HEADERS {
                    return Err(SpdyError::Headers(format!("more than {HEADERS} bytes")));
                }
                out.reserve(4096);
            } else if at >= block.len() || (at, out.len()) == (at, before.1) {
                return Ok(out);
            }
        }
    }

    fn pack(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::new();
        let length = |n: usize| u32::try_from(n).unwrap_or(0);
        plain.put_u32(length(headers.len()));
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(length(text.len()));
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(plain.len() + 128);
        self.deflate
            .compress_vec(&plain, &mut out, FlushCompress::Sync)
            .map_err(|e| SpdyError::Headers(e.to_string()))?;
        Ok(out)
    }

    /// SYN_REPLY: the stream is taken.
    pub(super) fn reply(&mut self, stream: u32) -> Result<Bytes, SpdyError> {
        let block = self.pack(&[])?;
        let mut body = BytesMut::new();
        body.put_u32(stream);
        body.put_slice(&block);
        Ok(control(2, 0, &body))
    }

    /// SYN_STREAM, for tests: only clients open streams here.
    #[cfg(test)]
    pub(super) fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Bytes {
        let block = self.pack(headers).unwrap();
        let mut body = BytesMut::new();
        body.put_u32(stream);
        body.put_bytes(0, 6);
        body.put_slice(&block);
        control(1, 0, &body)
    }
}

/// A data frame.
pub(super) fn data(stream: u32, bytes: &[u8], last: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + bytes.len());
    out.put_u32(stream);
    put_length(&mut out, u8::from(last), bytes.len());
    out.put_slice(bytes);
    out.freeze()
}

/// A ping's answer.
pub(super) fn pong(number: u32) -> Bytes {
    control(6, 0, &number.to_be_bytes())
}

/// The peer may send so many bytes more on a stream.
pub(super) fn window(stream: u32, by: u32) -> Bytes {
    control(9, 0, &[stream.to_be_bytes(), by.to_be_bytes()].concat())
}

fn control(kind: u32, flags: u8, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + body.len());
    out.put_u32(0x8003_0000 | kind);
    put_length(&mut out, flags, body.len());
    out.put_slice(body);
    out.freeze()
}

fn put_length(out: &mut BytesMut, flags: u8, length: usize) {
    out.put_u32((u32::from(flags) << 24) | (u32::try_from(length).unwrap_or(0) & 0x00ff_ffff));
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, SpdyError> {
    if rest.len() < 4 { Err(SpdyError::Short) } else { Ok(rest.get_u32()) }
}

fn take_text(rest: &mut &[u8]) -> Result<String, SpdyError> {
    let length = usize::try_from(take_u32(rest)?).unwrap_or(usize::MAX);
    let text = rest.get(..length).ok_or(SpdyError::Short)?;
    let text = String::from_utf8_lossy(text).into_owned();
    rest.advance(length);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_drafts() {
        let words = dictionary();
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &words {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        // Length and Adler-32 of the draft's dictionary, which zlib names in its header.
        assert_eq!((words.len(), (b << 16) | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn frames_survive_a_round_trip_however_they_are_cut() {
        let (mut client, mut server) = (Codec::new().unwrap(), Codec::new().unwrap());
        let headers = [("streamtype", "data"), ("port", "8080"), ("requestid", "0")];
        let mut wire = BytesMut::new();
        wire.put(client.open(1, &headers));
        wire.put(client.open(3, &headers));
        wire.put(data(1, b"hello", false));
        wire.put(data(1, b"", true));
        wire.put(pong(7));
        wire.put(window(3, 99));
        let mut seen = Vec::new();
        let mut input = BytesMut::new();
        for byte in wire {
            input.put_u8(byte);
            while let Some(frame) = server.decode(&mut input).unwrap() {
                seen.push(frame);
            }
        }
        let headers: Vec<(String, String)> =
            headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        assert_eq!(
            seen,
            [
                Frame::Open { stream: 1, headers: headers.clone(), last: false },
                Frame::Open { stream: 3, headers, last: false },
                Frame::Data { stream: 1, bytes: Bytes::from_static(b"hello"), last: false },
                Frame::Data { stream: 1, bytes: Bytes::new(), last: true },
                Frame::Ping(7),
                Frame::Window { stream: 3, by: 99 },
            ]
        );
        let mut reply = BytesMut::from(&server.reply(1).unwrap()[..]);
        assert_eq!(client.decode(&mut reply).unwrap(), Some(Frame::Other));
    }

    #[test]
    fn garbage_is_an_error_not_a_panic() {
        for bytes in [
            &[0x80, 3, 0, 1, 0, 0, 0, 2, 1, 2][..],
            &[0x80, 2, 0, 1, 0, 0, 0, 0],
            &[0, 0, 0, 1, 0, 255, 255, 255],
        ] {
            assert!(Codec::new().unwrap().decode(&mut BytesMut::from(bytes)).is_err());
        }
        let mut junk = BytesMut::from(&[0x80, 3, 0, 1, 0, 0, 0, 14][..]);
        junk.extend_from_slice(&[9; 14]);
        assert!(Codec::new().unwrap().decode(&mut junk).is_err());
    }
}
