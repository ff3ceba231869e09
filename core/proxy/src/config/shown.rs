//! The configuration as kube-proxy shows it at `/configz`: its internal form, whose fields have Go's names
//! (pkg/proxy/apis/config/types.go).

use super::{Config, LocalMode, NodePorts};
use serde_json::{Value, json};

pub(super) fn configz(config: &Config) -> String {
    let document = &config.document;
    let conntrack = document.conntrack.clone().unwrap_or_default();
    let client = document.client_connection.clone().unwrap_or_default();
    let iptables = document.iptables.clone().unwrap_or_default();
    let nftables = document.nftables.clone().unwrap_or_default();
    let ipvs = document.ipvs.clone().unwrap_or_default();
    let winkernel = document.winkernel.clone().unwrap_or_default();
    let detect = document.detect_local.clone().unwrap_or_default();
    let logging = document.logging.clone().unwrap_or_default();
    let local = match &config.local {
        LocalMode::ClusterCidr(_) => "ClusterCIDR",
        _ => document.detect_local_mode.as_deref().unwrap_or(""),
    };
    let ranges = document.cluster_cidr.as_deref().filter(|c| !c.is_empty());
    let node_ports = match &config.node_ports {
        NodePorts::Primary => json!(["primary"]),
        NodePorts::Ranges(_) => json!(document.node_port_addresses),
    };
    let min_sync = config.min_sync_period;
    let shown = json!({
        "kubeproxy.config.k8s.io": {
            "Linux": {
                "Conntrack": {
                    "MaxPerCore": conntrack.max_per_core, "Min": conntrack.min,
                    "TCPEstablishedTimeout": conntrack.tcp_established_timeout,
                    "TCPCloseWaitTimeout": conntrack.tcp_close_wait_timeout,
                    "TCPBeLiberal": conntrack.tcp_be_liberal,
                    "UDPTimeout": conntrack.udp_timeout, "UDPStreamTimeout": conntrack.udp_stream_timeout,
                },
                "MasqueradeAll": config.masquerade_all, "OOMScoreAdj": config.oom_score_adj,
            },
            "Windows": {"RunAsService": document.windows_run_as_service},
            "FeatureGates": document.feature_gates,
            "ClientConnection": {
                "Kubeconfig": client.kubeconfig, "AcceptContentTypes": client.accept_content_types,
                "ContentType": client.content_type, "QPS": client.qps, "Burst": client.burst,
            },
            "Logging": {"format": logging.format, "verbosity": logging.verbosity},
            "HostnameOverride": document.hostname_override,
            "BindAddress": document.bind_address,
            "HealthzBindAddress": config.healthz.map_or(String::new(), |a| a.to_string()),
            "MetricsBindAddress": config.metrics.map_or(String::new(), |a| a.to_string()),
            "BindAddressHardFail": config.bind_hard_fail,
            "EnableProfiling": document.enable_profiling,
            "ShowHiddenMetricsForVersion": document.show_hidden_metrics_for_version,
            "Mode": config.mode.to_string(),
            "IPTables": {
                "MasqueradeBit": iptables.masquerade_bit, "LocalhostNodePorts": iptables.localhost_node_ports,
            },
            "IPVS": {
                "Scheduler": ipvs.scheduler.unwrap_or_default(), "ExcludeCIDRs": ipvs.exclude_cidrs,
                "StrictARP": ipvs.strict_arp.unwrap_or_default(),
                "TCPTimeout": ipvs.tcp_timeout.unwrap_or_default(),
                "TCPFinTimeout": ipvs.tcp_fin_timeout.unwrap_or_default(),
                "UDPTimeout": ipvs.udp_timeout.unwrap_or_default(),
            },
            "Winkernel": {
                "NetworkName": winkernel.network_name.unwrap_or_default(),
                "SourceVip": winkernel.source_vip.unwrap_or_default(),
                "EnableDSR": winkernel.enable_dsr.unwrap_or_default(),
                "RootHnsEndpointName": winkernel.root_hns_endpoint_name.unwrap_or_default(),
                "ForwardHealthCheckVip": winkernel.forward_health_check_vip.unwrap_or_default(),
            },
            "NFTables": {"MasqueradeBit": nftables.masquerade_bit},
            "DetectLocalMode": local,
            "DetectLocal": {
                "BridgeInterface": detect.bridge_interface.unwrap_or_default(),
                "ClusterCIDRs": ranges.map_or(Value::Null, |c| json!(c.split(',').collect::<Vec<_>>())),
                "InterfaceNamePrefix": detect.interface_name_prefix.unwrap_or_default(),
            },
            "NodePortAddresses": node_ports,
            "SyncPeriod": config.sync_period, "MinSyncPeriod": min_sync,
            "ConfigSyncPeriod": document.config_sync_period,
        }
    });
    shown.to_string()
}
