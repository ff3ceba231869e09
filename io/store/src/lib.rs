//! sealane-store
