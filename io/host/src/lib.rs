//! Namespaces, links, routes, mounts, processes: made, adopted, and removed as one tree.
pub mod runtime;
