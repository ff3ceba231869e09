//! Plugins, a file each or a file for a family: documented examples, refused lines, behaviours.

mod acl;
mod balance;
mod cache;
mod expressions;
mod metadata;
mod report;
mod rewrite;
mod small;
mod template;
mod upstream;
mod view;
mod zones;
