//! The plugins, a file each: what a line of theirs means, and what they do. Their order is [`crate::order::ROWS`]'s.

pub mod acl;
pub mod autopath;
pub mod cache;
pub mod dns64;
pub mod erratic;
pub mod errors;
pub mod forward;
pub mod header;
pub mod hosts;
pub mod identity;
pub mod k8s_external;
pub mod kubernetes;
pub mod limits;
pub mod loadbalance;
pub mod local;
pub mod log;
pub mod loops;
pub mod metadata;
pub mod minimal;
pub mod process;
pub mod rewrite;
pub mod template;
pub mod tls;
pub mod view;
