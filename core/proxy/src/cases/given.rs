//! What a cluster is made of.

use super::{Cluster, PORTS, address, protocol, target_port};
use crate::{Cidr, PodInterface};
use sealane_catalog::{
    Endpoint, EndpointPort, Entry, Ingress, NamespacedName, ServicePort, ServiceType, Slice, TrafficPolicy,
};
use std::net::IpAddr;
use std::sync::Arc;

const POD_RANGES: &[&str] = &["10.244.0.0/16", "fd00:244::/32"];
const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:96::/112";

fn addresses(words: &str) -> Result<Vec<IpAddr>, String> {
    words.split(',').map(address).collect()
}

fn ranges<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<Cidr>, String> {
    texts.into_iter().map(|t| t.parse().map_err(|e: crate::CidrError| e.to_string())).collect()
}

pub(super) fn node(cluster: &mut Cluster, text: &str) -> Result<(), String> {
    let node = &mut cluster.node;
    node.addresses = addresses("node,node6")?;
    node.node_port_addresses = node.addresses.clone();
    for option in text.split_whitespace() {
        match option.split_once('=').unwrap_or((option, "")) {
            ("zone", zone) => node.zone = zone.into(),
            ("pods", _) => node.pod_cidrs = ranges(POD_RANGES.iter().copied())?,
            ("pods4", _) => node.pod_cidrs = ranges(POD_RANGES.iter().copied().take(1))?,
            ("link", name) => node.pod_interface = Some(PodInterface::Named(name.into())),
            ("links", prefix) => node.pod_interface = Some(PodInterface::Prefix(prefix.into())),
            ("masquerade-all", _) => node.masquerade_all = true,
            ("services", "") => node.service_cidrs = ranges(SERVICE_RANGES.split(','))?,
            ("services", list) => node.service_cidrs = ranges(list.split(','))?,
            ("nodeports", list) => node.node_port_addresses = addresses(list)?,
            ("own", word) => cluster.own = Some(address(word)?),
            ("nameless", _) => node.name = "".into(),
            _ => return Err(format!("a node has no {option:?}")),
        }
    }
    Ok(())
}

pub(super) fn service(cluster: &mut Cluster, text: &str) -> Result<(), String> {
    let mut words = text.split_whitespace();
    let mut service = super::service(words.next().ok_or("a service has a name")?);
    let mut node_ports = false;
    match words.next().ok_or("a service has a type")? {
        "ClusterIP" => {}
        "NodePort" => service.kind = ServiceType::NodePort,
        "LoadBalancer" => service.kind = ServiceType::LoadBalancer,
        "ExternalName" => service.kind = ServiceType::ExternalName,
        "headless" => service.headless = true,
        other => return Err(format!("no type is called {other:?}")),
    }
    let policy = |word: &str| match word {
        "Local" => Ok(TrafficPolicy::Local),
        "Cluster" => Ok(TrafficPolicy::Cluster),
        _ => Err(format!("no policy is called {word:?}")),
    };
    let ingress = |list: &str, proxy_mode| -> Result<Vec<Ingress>, String> {
        let of = |ip| Ingress { ip: Some(ip), hostname: "".into(), proxy_mode };
        Ok(addresses(list)?.into_iter().map(of).collect())
    };
    for option in words {
        match option.split_once('=').unwrap_or((option, "")) {
            ("nodeports", _) => node_ports = true,
            ("at", list) => service.cluster_ips = addresses(list)?,
            ("ports", list) => service.ports = list.split(',').map(service_port).collect::<Result<_, _>>()?,
            ("external", list) => service.external_ips = addresses(list)?,
            ("balancer", list) => service.ingress.extend(ingress(list, false)?),
            ("proxied", list) => service.ingress.extend(ingress(list, true)?),
            ("ranges", list) => service.source_ranges = list.split(',').map(Into::into).collect(),
            ("inside", word) => service.internal_policy = policy(word)?,
            ("outside", word) => service.external_policy = policy(word)?,
            ("sticky", n) => service.affinity_seconds = Some(n.parse().map_err(|_| "seconds")?),
            // The older, the earlier it was made.
            ("age", n) => service.created = -n.parse::<i64>().map_err(|_| "a rank")?,
            ("label", key) => {
                service.labels = [(Arc::from(key), Arc::from(""))].into_iter().collect();
            }
            _ => return Err(format!("a service has no {option:?}")),
        }
    }
    if !node_ports {
        service.ports.iter_mut().for_each(|p| p.node_port = 0);
    }
    let key = service.key.clone();
    cluster.services.push((key, Entry { slices: vec![], service: Some(Arc::new(service)) }));
    Ok(())
}

/// `http/tcp`. One number in two protocols needs two names: the second is `dns-tcp`.
fn service_port(text: &str) -> Result<ServicePort, String> {
    let (word, protocol_word) = text.split_once('/').ok_or("PORT/PROTOCOL")?;
    let found = PORTS.iter().find(|(n, ..)| *n == word).ok_or_else(|| format!("no port {word:?}"))?;
    Ok(ServicePort {
        name: text.replace('/', "-").into(),
        protocol: protocol(protocol_word)?,
        port: found.1,
        node_port: found.2,
        app_protocol: "".into(),
    })
}

pub(super) fn endpoints(cluster: &mut Cluster, text: &str) -> Result<(), String> {
    let mut words = text.split_whitespace().peekable();
    let name = words.next().ok_or("whose endpoints")?;
    let (key, entry) =
        cluster.services.iter_mut().find(|(k, _)| *k.name == *name).ok_or("no such service")?;
    let only = words.next_if(|w| w.starts_with("only=")).map(|w| w == "only=6");
    let ports: Vec<EndpointPort> = match words.next_if(|w| w.starts_with("ports=")) {
        Some(list) => {
            list.trim_start_matches("ports=").split(',').map(endpoint_port).collect::<Result<_, _>>()?
        }
        None => {
            let all = entry.service.iter().flat_map(|s| &s.ports);
            all.map(|p| endpoint_port(&p.name.replace("-", "/"))).collect::<Result<_, _>>()?
        }
    };
    let texts: Vec<&str> = words.collect();
    for ipv6 in [false, true].into_iter().filter(|f| only.is_none_or(|o| o == *f)) {
        let number = entry.slices.len();
        entry.slices.push(Arc::new(Slice {
            key: NamespacedName { name: format!("{name}-{number}").into(), ..key.clone() },
            service: key.clone(),
            revision: 1,
            ipv6,
            ports: ports.clone().into(),
            triggered: 0,
            endpoints: texts.iter().map(|t| endpoint(t, ipv6)).collect::<Result<_, _>>()?,
        }));
    }
    Ok(())
}

/// `http/tcp`; `dns/any` is UDP's without a number.
fn endpoint_port(text: &str) -> Result<EndpointPort, String> {
    let (word, protocol_word) = text.split_once('/').ok_or("PORT/PROTOCOL")?;
    let any = protocol_word == "any";
    let protocol_word = if any { "udp" } else { protocol_word };
    Ok(EndpointPort {
        name: format!("{word}-{protocol_word}").into(),
        protocol: protocol(protocol_word)?,
        port: if any { None } else { Some(target_port(word)?) },
        app_protocol: "".into(),
    })
}

fn node_name(word: &str) -> Result<Arc<str>, String> {
    match word {
        "here" => Ok("n1".into()),
        "there" => Ok("n2".into()),
        "nowhere" => Ok("".into()),
        _ => Err(format!("no node is called {word:?}")),
    }
}

/// `a@here/east/there~`
fn endpoint(text: &str, ipv6: bool) -> Result<Endpoint, String> {
    let state = text.chars().last().filter(|c| "-~!".contains(*c));
    let (name, place) = text.trim_end_matches(['-', '~', '!']).split_once('@').ok_or("NAME@NODE")?;
    let mut parts = place.split('/');
    let node = node_name(parts.next().unwrap_or_default())?;
    let hint_zones = parts.next().filter(|z| !z.is_empty()).map(Into::into).into_iter().collect();
    let hint_nodes = parts.next().map(node_name).transpose()?.into_iter().collect();
    let address = address(&if ipv6 { format!("{name}6") } else { name.to_owned() })?;
    let mut endpoint = Endpoint::new(address).on(&node, "").with("", hint_zones, hint_nodes);
    endpoint.ready = state.is_none();
    endpoint.serving = matches!(state, None | Some('~'));
    endpoint.terminating = matches!(state, Some('~' | '!'));
    Ok(endpoint)
}
