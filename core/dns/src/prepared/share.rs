//! [`Share`]: queries that are answered by the general path although they are prepared.

/// A share of all queries, chosen by their ids: whoever looks at a query finds the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// All of them.
    pub const ALL: Share = Share(1 << 16);

    /// A part of them, 0 to 1; one in 65,536 at least.
    pub fn of(part: f64) -> Self {
        Share(((part * 65_536.0).round() as u32).clamp(1, 1 << 16))
    }

    /// Whether it has the query with this id. Ids that are counted up are spread as well as those drawn by lot.
    pub fn picks(self, id: u16) -> bool {
        u32::from(id.wrapping_mul(0x9e3b)) < self.0
    }
}
