//! Messages of the channel protocols.

use axum::extract::ws::Message;
use bytes::{BufMut, BytesMut};

/// A channel's number before its bytes.
pub(super) fn framed(channel: u8, bytes: &[u8]) -> Message {
    let mut out = BytesMut::with_capacity(bytes.len() + 1);
    out.put_u8(channel);
    out.put_slice(bytes);
    Message::Binary(out.freeze())
}
