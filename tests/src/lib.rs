//! Black-box tests: the built binary, real clients, real sockets. The tests themselves are in `tests/`; this
//! crate holds what they share.
//!
//! What it may not know: Sealane's own crates. It sees what a user sees.
