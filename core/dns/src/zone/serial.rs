//! Serials (RFC 1982): 32 bits that wrap.

/// Whether `b` is newer than `a`. Where they are exactly half the circle apart RFC 1982 leaves it open: no.
pub fn is_newer(a: u32, b: u32) -> bool {
    let ahead = b.wrapping_sub(a);
    ahead != 0 && ahead < 1 << 31
}
