//! What a Service says of its load balancer.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};

use crate::meta;

/// `loadBalancerClass`es that the pools serve: as without one, and internal.
const CLASS: &str = "sealane.dev/pool";
const INTERNAL_CLASS: &str = "sealane.dev/internal-pool";

/// Annotations by which clouds' users ask for a load balancer that the outside does not reach, and their values ("*": any
/// but "false", as cloud-provider-aws takes it), whatever their case.
const INTERNAL: [(&str, &str); 8] = [
    ("service.beta.kubernetes.io/azure-load-balancer-internal", "true"),
    ("service.beta.kubernetes.io/aws-load-balancer-internal", "*"),
    ("service.beta.kubernetes.io/aws-load-balancer-scheme", "internal"),
    ("service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type", "intranet"),
    ("cloud.google.com/load-balancer-type", "Internal"),
    ("networking.gke.io/load-balancer-type", "Internal"),
    ("service.beta.kubernetes.io/openstack-internal-load-balancer", "true"),
    ("sealane.dev/internal-load-balancer", "true"),
];

/// Annotations that ask for addresses, separated by commas.
const ADDRESSES: [&str; 6] = [
    "sealane.dev/load-balancer-ips",
    "metallb.io/loadBalancerIPs",
    "service.beta.kubernetes.io/azure-load-balancer-ipv4",
    "service.beta.kubernetes.io/azure-load-balancer-ipv6",
    "service.beta.kubernetes.io/aws-load-balancer-private-ipv4-addresses",
    "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-ip",
];

/// Whether it is of type LoadBalancer and of no other controller's class.
pub(crate) fn wants(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer")
            && spec
                .load_balancer_class
                .as_deref()
                .is_none_or(|class| [CLASS, INTERNAL_CLASS].contains(&class))
    })
}

/// Whether the outside is not to reach it.
pub(crate) fn is_internal(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|s| s.load_balancer_class.as_deref());
    let says = |(key, value): &(&str, &str)| {
        meta::annotation(&service.metadata, key).is_some_and(|said| match *value {
            "*" => !said.is_empty() && !said.eq_ignore_ascii_case("false"),
            value => said.eq_ignore_ascii_case(value),
        })
    };
    class == Some(INTERNAL_CLASS) || INTERNAL.iter().any(says)
}

/// The addresses that it asks for, as written: `spec.loadBalancerIP`, or annotations.
pub(crate) fn requested(service: &Service) -> Vec<&str> {
    let field = service.spec.as_ref().and_then(|s| s.load_balancer_ip.as_deref());
    let annotations = ADDRESSES.iter().filter_map(|key| meta::annotation(&service.metadata, key));
    let all = field.into_iter().chain(annotations).flat_map(|list| list.split(',').map(str::trim));
    let mut asked: Vec<&str> = Vec::new();
    for address in all.filter(|a| !a.is_empty()) {
        if !asked.contains(&address) {
            asked.push(address);
        }
    }
    asked
}

/// `status.loadBalancer.ingress`.
pub(crate) fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    balancer.and_then(|b| b.ingress.as_deref()).unwrap_or(&[])
}

/// The addresses that its status says it has.
pub(crate) fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    ingress(service).iter().filter_map(|i| i.ip.as_deref()?.parse().ok())
}

/// Whether an address that comes free could be for it.
pub(crate) fn is_waiting(service: &Service) -> bool {
    let has = |asked: &str| asked.parse().is_ok_and(|asked: IpAddr| addresses(service).any(|a| a == asked));
    wants(service)
        && service.metadata.deletion_timestamp.is_none()
        && (ingress(service).is_empty() || !requested(service).into_iter().all(has))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(annotations: &Value, spec: &Value) -> Service {
        serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": spec})).unwrap()
    }

    #[test]
    fn internal_is_what_clouds_users_write() {
        for (key, value, internal) in [
            ("service.beta.kubernetes.io/azure-load-balancer-internal", "true", true),
            ("service.beta.kubernetes.io/azure-load-balancer-internal", "false", false),
            ("service.beta.kubernetes.io/aws-load-balancer-internal", "true", true),
            ("service.beta.kubernetes.io/aws-load-balancer-internal", "0.0.0.0/0", true),
            ("service.beta.kubernetes.io/aws-load-balancer-internal", "false", false),
            ("service.beta.kubernetes.io/aws-load-balancer-scheme", "internet-facing", false),
            ("service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type", "intranet", true),
            ("service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type", "internet", false),
            ("cloud.google.com/load-balancer-type", "Internal", true),
            ("cloud.google.com/load-balancer-type", "internal", true),
            ("cloud.google.com/load-balancer-type", "External", false),
        ] {
            let service = service(&json!({key: value}), &json!({"type": "LoadBalancer"}));
            assert_eq!(is_internal(&service), internal, "{key}: {value}");
        }
    }

    #[test]
    fn whose_it_is() {
        for (spec, ours, internal) in [
            (json!({"type": "LoadBalancer"}), true, false),
            (json!({"type": "NodePort"}), false, false),
            (json!({"type": "LoadBalancer", "loadBalancerClass": "sealane.dev/pool"}), true, false),
            (json!({"type": "LoadBalancer", "loadBalancerClass": "sealane.dev/internal-pool"}), true, true),
            (json!({"type": "LoadBalancer", "loadBalancerClass": "metallb.io/metallb"}), false, false),
        ] {
            let service = service(&json!({}), &spec);
            assert_eq!((wants(&service), is_internal(&service)), (ours, internal), "{spec}");
        }
    }

    #[test]
    fn addresses_that_are_asked_for() {
        let both = service(
            &json!({"sealane.dev/load-balancer-ips": "10.0.0.1, fd00::1", "metallb.io/loadBalancerIPs": "10.0.0.1"}),
            &json!({"loadBalancerIP": "10.0.0.2"}),
        );
        assert_eq!(requested(&both), ["10.0.0.2", "10.0.0.1", "fd00::1"]);
        assert!(requested(&service(&json!({}), &json!({"loadBalancerIP": ""}))).is_empty());
    }
}
