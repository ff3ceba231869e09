//! The DNS state machine from outside: messages in, messages out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod autopath;
mod bind;
mod chain;
mod cluster;
mod codec;
mod corefile;
mod fairness;
mod faults;
mod forward;
mod grammar;
mod k8s_external;
mod kubernetes;
mod kubernetes_options;
mod multicluster;
mod options;
mod plugins;
mod prepared;
mod search;
mod tls;
mod transfers;
mod upstreams;
mod warm_start;
mod zone_order;
