//! Plugins, a file each or a file for a family: documented examples, refused lines, behaviours.

mod acl;
mod balance;
mod cache;
mod hosts;
mod report;
mod small;
