//! sealane-dataplane
