//! The order of plugins: CoreDNS's `plugin.cfg`, whatever the order of a Corefile's lines.

use crate::chain::Row;
use crate::plugins;

/// A row of the table: name, reader, and whether it may stand several times in a server block.
macro_rules! rows {
    ($($name:literal $setup:expr, $many:expr;)*) => {
        &[$(Row { name: $name, setup: $setup, many: $many }),*]
    };
}

/// All plugins of CoreDNS, and Sealane's own, in the order in which a query passes them. What has no reader is
/// refused by name.
pub static ROWS: &[Row] = rows! {
    // Sealane's own: before the others, so that it sees what the client sees.
    "shadow" Some(plugins::shadow::setup), false;
    "root" Some(plugins::process::root), false;
    "metadata" Some(plugins::metadata::setup), false;
    "geoip" None, false;
    "cancel" Some(plugins::limits::cancel), false;
    "proxyproto" None, false;
    "quic" None, false;
    "grpc_server" Some(plugins::http::grpc_server), false;
    "https" Some(plugins::http::https), false;
    "https3" None, false;
    "timeouts" Some(plugins::process::timeouts), false;
    "multisocket" Some(plugins::process::multisocket), false;
    // Sealane's own.
    "fairness" Some(plugins::process::fairness), false;
    "reload" Some(plugins::process::reload), false;
    "nsid" Some(plugins::identity::nsid), false;
    "bufsize" Some(plugins::limits::bufsize), false;
    "bind" Some(plugins::process::bind), true;
    "debug" Some(plugins::process::debug), false;
    "trace" Some(plugins::trace::setup), false;
    "ready" Some(plugins::process::ready), false;
    "health" Some(plugins::process::health), false;
    "pprof" None, false;
    "shed" None, false;
    "prometheus" Some(plugins::process::prometheus), false;
    "errors" Some(plugins::errors::setup), false;
    "log" Some(plugins::log::setup), true;
    "dnstap" Some(plugins::dnstap::setup), true;
    "local" Some(plugins::local::setup), false;
    "dns64" Some(plugins::dns64::setup), false;
    "any" Some(plugins::limits::any), false;
    "chaos" Some(plugins::identity::chaos), false;
    "loadbalance" Some(plugins::loadbalance::setup), false;
    "tsig" Some(plugins::tsig::setup), false;
    "rewrite" Some(plugins::rewrite::setup), true;
    "autopath" Some(plugins::autopath::setup), false;
    "acl" Some(plugins::acl::setup), true;
    "cache" Some(plugins::cache::setup), false;
    "header" Some(plugins::header::setup), true;
    "dnssec" Some(plugins::dnssec::setup), false;
    "tls" Some(plugins::tls::setup), false;
    "minimal" Some(plugins::minimal::setup), false;
    "template" Some(plugins::template::setup), true;
    "transfer" Some(plugins::transfer::setup), true;
    "hosts" Some(plugins::hosts::setup), false;
    "route53" None, false;
    "azure" None, false;
    "clouddns" None, false;
    "k8s_external" Some(plugins::k8s_external::setup), false;
    "kubernetes" Some(plugins::kubernetes::setup), false;
    "file" Some(plugins::file::setup), true;
    "auto" Some(plugins::auto::setup), true;
    "secondary" Some(plugins::secondary::setup), true;
    "etcd" None, false;
    "loop" Some(plugins::loops::setup), false;
    "forward" Some(plugins::forward::setup), true;
    "grpc" Some(plugins::grpc::setup), false;
    "erratic" Some(plugins::erratic::setup), false;
    "whoami" Some(plugins::identity::whoami), false;
    "on" None, true;
    "sign" Some(plugins::sign::setup), true;
    "view" Some(plugins::view::setup), false;
    "nomad" None, false;
};

/// The plugins that there are, in the order in which a query passes them (`-plugins`).
pub fn plugin_names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().filter(|row| row.setup.is_some()).map(|row| row.name)
}
