//! The document as it is written: `kubeproxy.config.k8s.io/v1alpha1`, KubeProxyConfiguration. Every field may be left out
//! or null; no other field may stand there. Fields are in the order of the alphabet, in which they are written out too.

use super::duration::Span;
use serde::{Deserialize, Serialize};
use serde_yaml_ng::Value;
use std::collections::BTreeMap;

/// The document's `apiVersion`.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The document's `kind`.
pub const KIND: &str = "KubeProxyConfiguration";

macro_rules! section {
    ($(#[$about:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        #[allow(missing_docs, reason = "the fields are KubeProxyConfiguration's own")]
        pub struct $name {
            $($(#[$attribute])* pub $field: Option<$kind>,)*
        }
    };
}

section! {
    /// All of it.
    Document {
        api_version: String,
        bind_address: String,
        bind_address_hard_fail: bool,
        client_connection: ClientConnection,
        #[serde(rename = "clusterCIDR")]
        cluster_cidr: String,
        config_sync_period: Span,
        conntrack: Conntrack,
        detect_local: DetectLocal,
        detect_local_mode: String,
        enable_profiling: bool,
        feature_gates: BTreeMap<String, bool>,
        healthz_bind_address: String,
        hostname_override: String,
        iptables: Iptables,
        ipvs: Ipvs,
        kind: String,
        logging: Logging,
        metrics_bind_address: String,
        mode: String,
        nftables: Nftables,
        node_port_addresses: Vec<String>,
        oom_score_adj: i32,
        port_range: String,
        show_hidden_metrics_for_version: String,
        windows_run_as_service: bool,
        winkernel: Winkernel,
    }
}

section! {
    /// `clientConnection`.
    ClientConnection {
        accept_content_types: String,
        burst: i32,
        content_type: String,
        kubeconfig: String,
        qps: f32,
    }
}

section! {
    /// `conntrack`.
    Conntrack {
        max_per_core: i32,
        min: i32,
        tcp_be_liberal: bool,
        tcp_close_wait_timeout: Span,
        tcp_established_timeout: Span,
        udp_stream_timeout: Span,
        udp_timeout: Span,
    }
}

section! {
    /// `detectLocal`.
    DetectLocal {
        bridge_interface: String,
        interface_name_prefix: String,
    }
}

section! {
    /// `iptables`.
    Iptables {
        localhost_node_ports: bool,
        masquerade_all: bool,
        masquerade_bit: i32,
        min_sync_period: Span,
        sync_period: Span,
    }
}

section! {
    /// `ipvs`.
    Ipvs {
        #[serde(rename = "excludeCIDRs")]
        exclude_cidrs: Vec<String>,
        min_sync_period: Span,
        scheduler: String,
        #[serde(rename = "strictARP")]
        strict_arp: bool,
        sync_period: Span,
        tcp_fin_timeout: Span,
        tcp_timeout: Span,
        udp_timeout: Span,
    }
}

section! {
    /// `logging`.
    Logging {
        flush_frequency: Value,
        format: String,
        options: Value,
        verbosity: u32,
        vmodule: Value,
    }
}

section! {
    /// `nftables`.
    Nftables {
        masquerade_all: bool,
        masquerade_bit: i32,
        min_sync_period: Span,
        sync_period: Span,
    }
}

section! {
    /// `winkernel`.
    Winkernel {
        #[serde(rename = "enableDSR")]
        enable_dsr: bool,
        forward_health_check_vip: bool,
        network_name: String,
        root_hns_endpoint_name: String,
        source_vip: String,
    }
}

/// A section, made where it is not there.
pub(super) fn part<T: Default>(section: &mut Option<T>) -> &mut T {
    section.get_or_insert_with(T::default)
}

impl Document {
    /// Fills in kube-proxy's defaults (pkg/proxy/apis/config/v1alpha1/defaults.go) and, where the conversion to its
    /// internal form has them, zeros.
    pub(super) fn fill(&mut self) {
        fn or<T>(field: &mut Option<T>, value: T) {
            field.get_or_insert(value);
        }
        /// Go's zero counts as absent.
        fn or_zero<T: Default + PartialEq>(field: &mut Option<T>, value: T) {
            if field.as_ref().is_none_or(|v| *v == T::default()) {
                *field = Some(value);
            }
        }
        or(&mut self.api_version, API_VERSION.to_owned());
        or(&mut self.kind, KIND.to_owned());
        or_zero(&mut self.bind_address, "0.0.0.0".to_owned());
        let ipv6 = self.bind_address.as_ref().is_some_and(|a| a.contains(':'));
        let (healthz, metrics) = if ipv6 { ("[::]", "[::1]") } else { ("0.0.0.0", "127.0.0.1") };
        or_zero(&mut self.healthz_bind_address, format!("{healthz}:{}", super::HEALTHZ_PORT));
        or_zero(&mut self.metrics_bind_address, format!("{metrics}:{}", super::METRICS_PORT));
        for (address, port) in [
            (&mut self.healthz_bind_address, super::HEALTHZ_PORT),
            (&mut self.metrics_bind_address, super::METRICS_PORT),
        ] {
            if let Some(address) = address {
                *address = super::with_port(address, port);
            }
        }
        or(&mut self.oom_score_adj, -999);
        let (half_minute, second) = (Span::seconds(30), Span::seconds(1));
        let iptables = part(&mut self.iptables);
        or_zero(&mut iptables.sync_period, half_minute);
        or_zero(&mut iptables.min_sync_period, second);
        or(&mut iptables.localhost_node_ports, true);
        or(&mut iptables.masquerade_bit, 14);
        or(&mut iptables.masquerade_all, false);
        let ipvs = part(&mut self.ipvs);
        or_zero(&mut ipvs.sync_period, half_minute);
        or(&mut ipvs.min_sync_period, Span::default());
        let nftables = part(&mut self.nftables);
        or_zero(&mut nftables.sync_period, half_minute);
        or_zero(&mut nftables.min_sync_period, second);
        or(&mut nftables.masquerade_bit, 14);
        or(&mut nftables.masquerade_all, false);
        let conntrack = part(&mut self.conntrack);
        or(&mut conntrack.max_per_core, 32 << 10);
        or(&mut conntrack.min, 128 << 10);
        or(&mut conntrack.tcp_established_timeout, Span::seconds(24 * 3600));
        or(&mut conntrack.tcp_close_wait_timeout, Span::seconds(3600));
        or(&mut conntrack.tcp_be_liberal, false);
        or(&mut conntrack.udp_timeout, Span::default());
        or(&mut conntrack.udp_stream_timeout, Span::default());
        or_zero(&mut self.config_sync_period, Span::seconds(15 * 60));
        let client = part(&mut self.client_connection);
        or_zero(&mut client.content_type, "application/vnd.kubernetes.protobuf".to_owned());
        or_zero(&mut client.qps, 5.0);
        or_zero(&mut client.burst, 10);
        or(&mut client.kubeconfig, String::new());
        or(&mut client.accept_content_types, String::new());
        or(&mut self.feature_gates, BTreeMap::new());
        let logging = part(&mut self.logging);
        or_zero(&mut logging.format, "text".to_owned());
        or(&mut logging.verbosity, 0);
        part(&mut self.detect_local);
        part(&mut self.winkernel);
        or(&mut self.bind_address_hard_fail, false);
        or(&mut self.cluster_cidr, String::new());
        or(&mut self.detect_local_mode, String::new());
        or(&mut self.enable_profiling, false);
        or(&mut self.hostname_override, String::new());
        or(&mut self.mode, String::new());
        or(&mut self.port_range, String::new());
        or(&mut self.show_hidden_metrics_for_version, String::new());
        or(&mut self.windows_run_as_service, false);
    }
}
