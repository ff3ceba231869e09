//! sealane-dns
#![forbid(unsafe_code)]
#![deny(missing_docs)]
