//! sealane-tests
