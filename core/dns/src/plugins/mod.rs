//! The plugins, a file each: what a line of theirs means, and what they do. Their order is [`crate::order::ROWS`]'s.

pub mod cache;
pub mod errors;
pub mod forward;
pub mod hosts;
pub mod kubernetes;
pub mod loadbalance;
pub mod log;
pub mod loops;
pub mod process;
pub mod tls;
