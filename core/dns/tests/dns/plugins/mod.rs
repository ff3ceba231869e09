//! Plugins, a file each or a file for a family: documented examples, refused lines, behaviours.

mod acl;
mod balance;
mod cache;
mod dns64;
mod dnstap;
mod expressions;
mod grpc;
mod header;
mod hosts;
mod metadata;
mod metrics;
mod report;
mod rewrite;
mod secondary;
mod shadow;
mod sign;
mod small;
mod template;
mod trace;
mod tsig;
mod upstream;
mod view;
mod zones;
