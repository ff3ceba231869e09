//! sealane-controllers
#![forbid(unsafe_code)]
#![deny(missing_docs)]
