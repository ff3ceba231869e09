//! sealane-demo
