//! Plugins, a file each or a file for a family: documented examples, refused lines, behaviours.

mod dns64;
mod expressions;
mod header;
mod metadata;
mod rewrite;
mod template;
mod upstream;
mod view;
