//! The plugins, a file each: what a line of theirs means, and what they do. Their order is [`crate::order::ROWS`]'s.

pub mod acl;
pub mod auto;
pub mod cache;
pub mod dnssec;
pub mod erratic;
pub mod errors;
pub mod file;
pub mod forward;
pub mod hosts;
pub mod identity;
pub mod kubernetes;
pub mod limits;
pub mod loadbalance;
pub mod local;
pub mod log;
pub mod loops;
pub mod metadata;
pub mod process;
pub mod rewrite;
pub mod template;
pub mod transfer;
pub mod view;
