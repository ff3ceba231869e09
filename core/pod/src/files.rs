//! The files that every container gets: `/etc/resolv.conf` and `/etc/hosts` (`pkg/kubelet/network/dns/dns.go`,
//! `managedHostsFileContent` of `pkg/kubelet/kubelet_pods.go`), and the Pod's host name.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

/// What `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// Reads a `resolv.conf` (resolv.conf(5)); what it does not know it ignores.
pub fn parse_resolver(text: &str) -> Resolver {
    let mut out = Resolver::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => {
                out.searches =
                    words.filter(|w| *w != ".").map(|w| w.trim_end_matches('.').to_owned()).collect();
            }
            Some("options") => out.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    out
}

/// `/etc/resolv.conf` of a Pod by its `dnsPolicy` and `dnsConfig`. `cluster` are the addresses of the cluster's
/// DNS, `domain` its domain, `host` what the node's own file says.
pub fn resolver(pod: &Pod, cluster: &[String], domain: &str, host: &Resolver) -> Resolver {
    let spec = pod.spec.as_ref();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let mut out = match policy {
        "None" => Resolver::default(),
        "Default" => host.clone(),
        "ClusterFirst" if host_network => host.clone(),
        _ if cluster.is_empty() => host.clone(),
        _ => {
            let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
            Resolver {
                servers: cluster.to_vec(),
                searches: own.into_iter().chain(host.searches.iter().cloned()).collect(),
                options: vec!["ndots:5".to_owned()],
            }
        }
    };
    if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
        out.servers.extend(config.nameservers.iter().flatten().cloned());
        out.searches.extend(config.searches.iter().flatten().cloned());
        // A later option takes the place of an earlier one of its name.
        let mut options: BTreeMap<String, Option<String>> = BTreeMap::new();
        let mut order: Vec<String> = Vec::new();
        let given = out.options.iter().map(|o| match o.split_once(':') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (o.clone(), None),
        });
        let more =
            config.options.iter().flatten().map(|o| (o.name.clone().unwrap_or_default(), o.value.clone()));
        for (name, value) in given.chain(more) {
            if !order.contains(&name) {
                order.push(name.clone());
            }
            options.insert(name, value);
        }
        out.options = order
            .into_iter()
            .map(|name| match options.get(&name) {
                Some(Some(value)) if !value.is_empty() => format!("{name}:{value}"),
                _ => name,
            })
            .collect();
    }
    // glibc reads three servers (`MAXNS`), the validation of Pods allows 32 search domains.
    dedup(&mut out.servers);
    out.servers.truncate(3);
    dedup(&mut out.searches);
    out.searches.truncate(32);
    out
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|x| seen.insert(x.clone()));
}

impl Resolver {
    /// The file's text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            out.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.servers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            out.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        out
    }
}

/// The Pod's host name, at most 63 characters, and its domain, "" without `subdomain`.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.spec.as_ref();
    let own = spec.and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty());
    let name = own.or(pod.metadata.name.as_deref()).unwrap_or_default();
    // `truncatePodHostnameIfNeeded`: a name may be longer than a label may be.
    let name = if name.len() > 63 { name[..63].trim_end_matches(['-', '.']) } else { name };
    let subdomain = spec.and_then(|s| s.subdomain.as_deref()).unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain = match subdomain {
        "" => String::new(),
        sub => format!("{sub}.{namespace}.svc.{cluster_domain}"),
    };
    (name.to_owned(), domain)
}

/// `/etc/hosts` of a Pod with an address of its own.
pub fn hosts(address: &str, hostname: &str, domain: &str, aliases: &[HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    if domain.is_empty() {
        out.push_str(&format!("{address}\t{hostname}\n"));
    } else {
        out.push_str(&format!("{address}\t{hostname}.{domain}\t{hostname}\n"));
    }
    out.push_str(&alias_lines(aliases));
    out
}

/// `/etc/hosts` of a Pod on the node's network: the node's, with the Pod's aliases.
pub fn hosts_of_node(node: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    let mut out = String::new();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            out.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    fn pod(spec: serde_json::Value) -> Pod {
        from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    #[test]
    fn resolver_by_policy() {
        let host = parse_resolver("# c\nnameserver 192.0.2.1\nsearch corp.example. .\noptions timeout:1\n");
        assert_eq!(host.searches, ["corp.example"]);
        let dns = ["10.96.0.10".to_owned()];
        let first = "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
                     nameserver 10.96.0.10\noptions ndots:5\n";
        let own = "search corp.example\nnameserver 192.0.2.1\noptions timeout:1\n";
        for (spec, want) in [
            (json!({"containers": []}), first),
            (json!({"containers": [], "dnsPolicy": "ClusterFirst"}), first),
            (json!({"containers": [], "dnsPolicy": "ClusterFirst", "hostNetwork": true}), own),
            (json!({"containers": [], "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), first),
            (json!({"containers": [], "dnsPolicy": "Default"}), own),
            (
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"],
                    "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "search a.b\nnameserver 1.1.1.1\noptions ndots:2 edns0\n",
            ),
        ] {
            assert_eq!(resolver(&pod(spec.clone()), &dns, "cluster.local", &host).text(), want, "{spec}");
        }
        let merged =
            pod(json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}));
        assert_eq!(resolver(&merged, &dns, "cluster.local", &host).options, ["ndots:1"]);
    }

    #[test]
    fn hosts_files() {
        let aliases: Vec<HostAlias> =
            from_value(json!([{"ip": "1.2.3.4", "hostnames": ["a", "b"]}])).unwrap();
        let text = hosts("10.244.0.2", "web-0", "nginx.ns.svc.cluster.local", &aliases);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.contains("\n10.244.0.2\tweb-0.nginx.ns.svc.cluster.local\tweb-0\n"));
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
        assert!(hosts("10.244.0.2", "p", "", &[]).ends_with("\n10.244.0.2\tp\n"));
        assert_eq!(
            hosts_of_node("127.0.0.1 x\n", &[]),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 x\n"
        );
    }

    #[test]
    fn hostnames() {
        let sub = pod(json!({"containers": [], "hostname": "h", "subdomain": "s"}));
        assert_eq!(hostname(&sub, "cluster.local"), ("h".into(), "s.ns.svc.cluster.local".into()));
        let long = Pod {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                name: Some(format!("{}-tail", "a".repeat(62))),
                ..Default::default()
            },
            ..Default::default()
        };
        assert_eq!(hostname(&long, "cluster.local"), ("a".repeat(62), String::new()));
    }
}
