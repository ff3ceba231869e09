//! Plugins, a file each or a file for a family: documented examples, refused lines, behaviours.

mod expressions;
mod metadata;
mod rewrite;
mod upstream;
mod view;
