//! sealane-client
