//! sealane-pki
