//! Plugins, a file each or a file for a family: documented examples, refused lines, behaviours.

mod expressions;
mod metadata;
mod rewrite;
mod template;
mod upstream;
mod view;
