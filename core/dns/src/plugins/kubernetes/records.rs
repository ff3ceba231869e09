//! Names of Services, endpoints and Pods (Kubernetes DNS specification 1.1.0), answered
//! as CoreDNS 1.14 does (`plugin/kubernetes/{handler,kubernetes,parse,reverse,ns}.go`, `plugin/backend_lookup.go`).

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use sealane_catalog::imports::source_cluster;
use sealane_catalog::{Endpoint, Entry, GrpcPolicy, NamespacedName, Service, ServiceType, Slice, Snapshot};

use super::{Kubernetes, PodMode};
use crate::chain::Reply;
use crate::message::{Data, Question, Record, Soa, rcode, rtype};
use crate::name::Name;
use crate::prepared::{Basis, marks};

/// `dns-version` and its TTL.
const SCHEMA_VERSION: &[u8] = b"1.1.0";
const SCHEMA_TTL: u32 = 28_800;
/// The choice of one service config, for everybody (gRFC A2); less than the 255 octets of one string.
const ROUND_ROBIN: &[u8] = br#"grpc_config=[{"serviceConfig":{"loadBalancingConfig":[{"round_robin":{}}]}}]"#;
const PICK_FIRST: &[u8] = br#"grpc_config=[{"serviceConfig":{"loadBalancingConfig":[{"pick_first":{}}]}}]"#;
/// Aliases within the zone that are followed from one question.
const MAX_ALIASES: usize = 8;

/// What the plugin has to say to a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is for the next plugin.
    Next,
    /// This.
    Reply(Reply),
    /// Not for anybody (zone transfers).
    Refused,
    /// An alias that leads out of the zone: `aliases`, and what anybody answers for `target`.
    Chase {
        /// CNAME records so far.
        aliases: Vec<Record>,
        /// Where they lead.
        target: Name,
    },
}

/// What answers depend on, beside the configuration.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Services and their endpoints: the cluster's, or what comes from others.
    pub snapshot: &'a Snapshot,
    /// Namespaces, Pods, and who has an address: the cluster.
    pub cluster: &'a Snapshot,
    /// SOA's serial: when the snapshot last changed, seconds since 1970.
    pub serial: u32,
    /// The server's own addresses, for NS.
    pub local: &'a [IpAddr],
}

impl View<'_> {
    /// Whether what is not there does not exist.
    pub(super) fn synced(&self) -> bool {
        self.snapshot.synced() && self.cluster.synced()
    }
}

/// There is no such name.
pub(super) struct NoName;

/// One address or alias that a name stands for.
enum Row {
    Address {
        ip: IpAddr,
        /// `None`: no SRV record can say it.
        port: Option<u16>,
        /// The labels that SRV's target puts before the zone.
        owner: Vec<String>,
    },
    Alias(String),
}

/// A name's parts (`parse.go`).
#[derive(Default)]
pub(super) struct Request {
    /// "" : the zone itself, or `svc` and `pod` under it.
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) endpoint: String,
    /// Where the endpoint is (`multicluster`); "" where none is named.
    pub(super) cluster: String,
    pub(super) port: String,
    pub(super) protocol: String,
    /// Topology zone (`zonal`); "" where none is named.
    pub(super) zone: String,
    /// All endpoints where the zone has none.
    prefers: bool,
}

/// What names are like.
#[derive(Clone, Copy, Default)]
struct Grammar {
    zonal: bool,
    multicluster: bool,
}

fn request(labels: &[&[u8]], Grammar { zonal, multicluster }: Grammar) -> Result<Request, NoName> {
    let label = |at: usize| String::from_utf8_lossy(labels[at]).to_ascii_lowercase();
    let mut r = Request::default();
    let mut left = labels.len();
    if left == 0 || (left == 1 && matches!(label(0).as_str(), "svc" | "pod")) {
        return Ok(r);
    }
    r.kind = label(left - 1);
    if r.kind != "svc" && r.kind != "pod" {
        return Err(NoName);
    }
    left -= 1;
    if left > 0 {
        left -= 1;
        r.namespace = label(left);
    }
    if left > 0 {
        left -= 1;
        r.service = label(left);
    }
    let bare = |label: String| label.strip_prefix('_').map(ToOwned::to_owned).unwrap_or(label);
    match left {
        0 => {}
        1 => r.endpoint = label(0),
        2 if multicluster && labels[..2].iter().all(|label| !label.starts_with(b"_")) => {
            (r.endpoint, r.cluster) = (label(0), label(1));
        }
        2 => (r.port, r.protocol) = (bare(label(0)), bare(label(1))),
        // ZONE.pin|prefer._zone: the value of a zone's label may have dots.
        _ if zonal && r.kind == "svc" && label(left - 1) == "_zone" => {
            r.prefers = match label(left - 2).as_str() {
                "pin" => false,
                "prefer" => true,
                _ => return Err(NoName),
            };
            r.zone = (0..left - 2).map(label).collect::<Vec<_>>().join(".");
        }
        _ => return Err(NoName),
    }
    Ok(r)
}

/// The Service that a name below a zone is the plain name of.
pub(super) fn service_key(name: &Name, zone: &Name) -> Option<NamespacedName> {
    let labels = name.within(zone)?;
    let r = (labels.len() == 3).then(|| request(&labels, Grammar::default()).ok()).flatten()?;
    (r.kind == "svc").then(|| NamespacedName::new(&r.namespace, &r.service))
}

/// The label under which an endpoint is found below its Service.
pub(super) fn endpoint_name(endpoint: &Endpoint, pod_names: bool) -> String {
    if !endpoint.hostname().is_empty() {
        return endpoint.hostname().to_owned();
    }
    // A longer Pod name is no label (RFC 1035 section 2.3.4).
    if pod_names && matches!(endpoint.pod().len(), 1..64) {
        return endpoint.pod().to_owned();
    }
    let name = endpoint.address.to_string().replace(['.', ':'], "-");
    let (head, tail) =
        (if name.starts_with('-') { "0" } else { "" }, if name.ends_with('-') { "0" } else { "" });
    format!("{head}{name}{tail}")
}

/// `ns.dns` below a zone: the server itself.
fn is_own_name(labels: &[&[u8]]) -> bool {
    matches!(labels, [ns, dns] if ns.eq_ignore_ascii_case(b"ns") && dns.eq_ignore_ascii_case(b"dns"))
}

impl Kubernetes {
    /// Answers one question.
    pub fn answer(&self, view: View<'_>, question: &Question) -> Answer {
        let Some(zone) = self.zone_of(&question.name) else { return Answer::Next };
        let zone = question.name.zone_as_asked(zone).unwrap_or_else(Name::root);
        let apex = question.name == zone;
        let found = match question.rtype {
            rtype::A | rtype::AAAA => match self.addresses(view, &zone, &question.name, question.rtype) {
                Ok((answers, None)) => Ok((answers, Vec::new())),
                Ok((aliases, Some(target))) => return Answer::Chase { aliases, target },
                Err(NoName) => Err(NoName),
            },
            rtype::TXT => match self.texts(view, &zone, &question.name) {
                none if none.is_empty() => self.rows(view, &zone, &question.name).map(|_| (none, Vec::new())),
                texts => Ok((texts, Vec::new())),
            },
            rtype::CNAME => self.rows(view, &zone, &question.name).map(|rows| {
                let alias = rows.into_iter().next().and_then(|row| match row {
                    Row::Alias(target) => target.parse().ok(),
                    Row::Address { .. } => None,
                });
                (
                    alias.map(|to| self.record(&question.name, Data::Cname(to))).into_iter().collect(),
                    Vec::new(),
                )
            }),
            rtype::PTR => self.pointers(view, &zone, &question.name).map(|answers| (answers, Vec::new())),
            rtype::SRV => self.services(view, &zone, &question.name),
            rtype::SOA if apex => Ok((vec![self.soa(view, &zone)], Vec::new())),
            // CoreDNS says NODATA for SOA below the zone, whether the name exists or not.
            rtype::SOA => Ok((Vec::new(), Vec::new())),
            rtype::AXFR | rtype::IXFR => return Answer::Refused,
            rtype::NS if apex => Ok(self.name_servers(view, &zone, &question.name)),
            _ => self.rows(view, &zone, &question.name).map(|_| (Vec::new(), Vec::new())),
        };
        match found {
            Ok((answers, additional)) if !answers.is_empty() => {
                Answer::Reply(Reply { answers, additional, ..Reply::default() })
            }
            Ok(_) => self.nothing(view, &zone, rcode::NOERROR),
            Err(NoName) if self.falls_through(&question.name) => Answer::Next,
            // Before the cluster is known a name that is not there may yet be.
            Err(NoName) if !view.synced() => self.nothing(view, &zone, rcode::SERVFAIL),
            Err(NoName) => self.nothing(view, &zone, rcode::NXDOMAIN),
        }
    }

    /// What an answer was made from, where that is one Service, one Namespace or one address: not where aliases were
    /// followed, nor for the zone itself, whose name servers depend on much, nor from other clusters.
    pub(super) fn basis(&self, snapshot: &Snapshot, question: &Question, reply: &Reply) -> Option<Basis> {
        let zone = self.zone_of(&question.name).filter(|zone| !self.is_multicluster(zone))?;
        if reply.answers.iter().any(|record| matches!(record.data, Data::Cname(_))) {
            return None;
        }
        if let Some(ip) = question.name.reverse_address() {
            // Which Namespaces may be seen is left out of account.
            return (!self.filtered()).then(|| Basis(vec![marks::address(ip)]));
        }
        let labels = question.name.within(zone)?;
        if is_own_name(&labels) {
            return None;
        }
        // No cluster has such a name.
        let Ok(r) = self.request(zone, &labels) else { return Some(Basis::default()) };
        let namespace = marks::namespace(&r.namespace);
        match r.kind.as_str() {
            "pod" if self.pods != PodMode::Verified => Some(Basis(vec![namespace])),
            "svc" => {
                let entry = snapshot.service(&NamespacedName::new(&r.namespace, &r.service));
                let service = entry.and_then(|entry| entry.service.as_ref());
                let plain = service.is_none_or(|service| service.kind != ServiceType::ExternalName);
                plain.then(|| Basis(vec![namespace, marks::service(&r.namespace, &r.service)]))
            }
            _ => None,
        }
    }

    /// The parts of a name below a zone.
    pub(super) fn request(&self, zone: &Name, labels: &[&[u8]]) -> Result<Request, NoName> {
        let multicluster = self.is_multicluster(zone);
        request(labels, Grammar { zonal: self.zonal && !multicluster, multicluster })
    }

    pub(crate) fn zone_of(&self, name: &Name) -> Option<&Name> {
        self.zones.iter().filter(|zone| name.is_within(zone)).max_by_key(|zone| zone.wire().len())
    }

    fn falls_through(&self, name: &Name) -> bool {
        self.fallthrough.iter().flatten().any(|zone| name.is_within(zone))
    }

    pub(super) fn record(&self, name: &Name, data: Data) -> Record {
        Record::new(name.clone(), self.ttl, data)
    }

    fn nothing(&self, view: View<'_>, zone: &Name, rcode: u16) -> Answer {
        Answer::Reply(Reply { rcode, authority: vec![self.soa(view, zone)], ..Reply::default() })
    }

    pub(super) fn soa(&self, view: View<'_>, zone: &Name) -> Record {
        let soa = Soa {
            mname: zone.under(&["ns", "dns"]),
            rname: zone.under(&["hostmaster"]),
            serial: view.serial,
            refresh: 7200,
            retry: 1800,
            expire: 86_400,
            minimum: self.ttl,
        };
        Record::new(zone.clone(), self.ttl.min(300), Data::Soa(Box::new(soa)))
    }

    pub(super) fn exposed(&self, view: View<'_>, namespace: &str) -> bool {
        let named = self.namespaces.is_empty() || self.namespaces.iter().any(|n| n == namespace);
        let Some(found) = view.cluster.namespace(namespace) else { return false };
        named && self.namespace_labels.as_ref().is_none_or(|selector| selector.matches(&found.labels))
    }

    pub(super) fn filtered(&self) -> bool {
        !self.namespaces.is_empty() || self.namespace_labels.is_some()
    }

    pub(super) fn served<'a>(&self, entry: &'a Entry) -> Option<&'a Arc<Service>> {
        entry.service.as_ref().filter(|s| self.labels.as_ref().is_none_or(|l| l.matches(&s.labels)))
    }

    pub(super) fn slices<'a>(&self, entry: &'a Entry) -> &'a [Arc<Slice>] {
        if self.no_endpoints { &[] } else { &entry.slices }
    }

    /// What a name stands for (`Records`); no rows: the name exists, and has nothing of that sort.
    fn rows(&self, view: View<'_>, zone: &Name, name: &Name) -> Result<Vec<Row>, NoName> {
        let labels = name.within(zone).unwrap_or_default();
        if is_own_name(&labels) {
            let own = self.own_names(view).into_iter();
            return Ok(own.map(|(owner, ip)| Row::Address { ip, port: None, owner }).collect());
        }
        let r = self.request(zone, &labels)?;
        if r.kind.is_empty() {
            return Ok(Vec::new());
        }
        if !self.exposed(view, &r.namespace) {
            return Err(NoName);
        }
        match r.kind.as_str() {
            "pod" => self.pod_rows(view, &r),
            _ => self.service_rows(view, &r, self.is_multicluster(zone)),
        }
    }

    /// Whether the cluster has anything of that name.
    pub(super) fn has_records(&self, view: View<'_>, zone: &Name, name: &Name) -> bool {
        self.rows(view, zone, name).is_ok_and(|rows| !rows.is_empty())
    }

    fn pod_rows(&self, view: View<'_>, r: &Request) -> Result<Vec<Row>, NoName> {
        if self.pods == PodMode::Disabled {
            return Err(NoName);
        }
        if r.service.is_empty() {
            return Ok(Vec::new());
        }
        let dashes = r.service.matches('-').count();
        let v4 = dashes == 3 && !r.service.contains("--");
        let ip: IpAddr = r.service.replace('-', if v4 { "." } else { ":" }).parse().map_err(|_| NoName)?;
        let row = Row::Address {
            ip,
            port: Some(0),
            owner: vec![r.service.clone(), r.namespace.clone(), "pod".to_owned()],
        };
        let there = || view.cluster.by_pod_ip(ip).iter().any(|pod| *pod.namespace == *r.namespace);
        if self.pods == PodMode::Insecure || there() { Ok(vec![row]) } else { Err(NoName) }
    }

    fn service_rows(&self, view: View<'_>, r: &Request, imported: bool) -> Result<Vec<Row>, NoName> {
        if r.service.is_empty() {
            return Ok(Vec::new());
        }
        let key = NamespacedName::new(&r.namespace, &r.service);
        let entry = view.snapshot.service(&key).ok_or(NoName)?;
        let service = self.served(entry).ok_or(NoName)?;
        // A virtual address is in no zone.
        if !r.zone.is_empty() && !service.headless {
            return Err(NoName);
        }
        if service.kind == ServiceType::ExternalName {
            let plain = r.endpoint.is_empty() && r.port.is_empty() && r.protocol.is_empty();
            // An address as external name is no alias (`HostType`).
            if !plain || service.external_name.parse::<IpAddr>().is_ok() || service.external_name.is_empty() {
                return Err(NoName);
            }
            return Ok(vec![Row::Alias(service.external_name.to_string())]);
        }
        let any_ready = || self.slices(entry).iter().flat_map(|s| &s.endpoints).any(|e| e.ready);
        if self.ignore_empty && !service.headless && !any_ready() {
            return Err(NoName);
        }
        let asked = |name: &str, protocol: &str| {
            (r.port.is_empty() || r.port.eq_ignore_ascii_case(name))
                && (r.protocol.is_empty() || r.protocol.eq_ignore_ascii_case(protocol))
        };
        let owner = vec![r.service.clone(), r.namespace.clone(), "svc".to_owned()];
        let mut rows = Vec::new();
        if service.headless || !r.endpoint.is_empty() {
            self.endpoint_rows(entry, (r, imported), &owner, asked, &mut rows);
            // A zone without endpoints, and a name that has text alone, are there all the same.
            let there = !r.zone.is_empty() || self.has_grpc_config(service, r);
            return if rows.is_empty() && !there { Err(NoName) } else { Ok(rows) };
        }
        // CoreDNS gives a Service without ports one that SRV does not show (`object/service.go`), but no import.
        let mut matched = service.ports.is_empty() && !imported && asked("", "");
        if matched {
            let row = |ip: &IpAddr| Row::Address { ip: *ip, port: None, owner: owner.clone() };
            rows.extend(service.cluster_ips.iter().map(row));
        }
        for port in service.ports.iter().filter(|p| asked(&p.name, p.protocol.as_str())) {
            matched = true;
            rows.extend(service.cluster_ips.iter().map(|ip| Row::Address {
                ip: *ip,
                port: Some(port.port),
                owner: owner.clone(),
            }));
        }
        if matched { Ok(rows) } else { Err(NoName) }
    }

    fn endpoint_rows(
        &self,
        entry: &Entry,
        (r, imported): (&Request, bool),
        owner: &[String],
        asked: impl Fn(&str, &str) -> bool,
        rows: &mut Vec<Row>,
    ) {
        let ready = |e: &&Endpoint| e.ready;
        let near = |e: &Endpoint| e.zone().eq_ignore_ascii_case(&r.zone);
        let mut endpoints = self.slices(entry).iter().flat_map(|slice| &slice.endpoints).filter(ready);
        let anywhere = r.zone.is_empty() || r.prefers && !endpoints.any(near);
        for slice in self.slices(entry) {
            let mut ports: Vec<Option<u16>> =
                slice.ports.iter().filter(|p| asked(&p.name, p.protocol.as_str())).map(|p| p.port).collect();
            // A slice without ports has addresses all the same.
            if slice.ports.is_empty() && asked("", "") {
                ports.push(None);
            }
            let cluster = if imported { source_cluster(slice) } else { "" };
            if !r.endpoint.is_empty() && !r.cluster.eq_ignore_ascii_case(cluster) {
                continue;
            }
            let cluster = Some(cluster).filter(|cluster| !cluster.is_empty()).map(str::to_owned);
            for endpoint in slice.endpoints.iter().filter(|e| e.ready) {
                let name = endpoint_name(endpoint, self.endpoint_pod_names);
                let elsewhere = !anywhere && !near(endpoint);
                if elsewhere || !r.endpoint.is_empty() && !r.endpoint.eq_ignore_ascii_case(&name) {
                    continue;
                }
                rows.extend(ports.iter().map(|port| Row::Address {
                    ip: endpoint.address,
                    port: *port,
                    owner: [name.clone()].into_iter().chain(cluster.clone()).chain(owner.to_vec()).collect(),
                }));
            }
        }
    }

    /// A or AAAA records of a name; the name at the end of aliases that lead out of the zone.
    fn addresses(
        &self,
        view: View<'_>,
        zone: &Name,
        name: &Name,
        wanted: u16,
    ) -> Result<(Vec<Record>, Option<Name>), NoName> {
        let (mut at, mut aliases): (Name, Vec<Record>) = (name.clone(), Vec::new());
        loop {
            let rows = match self.rows(view, zone, &at) {
                Ok(rows) => rows,
                Err(NoName) if aliases.is_empty() => return Err(NoName),
                // An alias to nothing within the zone is left out (`backend_lookup.go`).
                Err(NoName) => return Ok((Vec::new(), None)),
            };
            if let Some(Row::Alias(target)) = rows.first() {
                let Ok(target) = target.parse::<Name>() else { return Ok((Vec::new(), None)) };
                let known = aliases.iter().any(|a| a.name == target) || at == target;
                if known || aliases.len() == MAX_ALIASES {
                    return Ok((Vec::new(), None));
                }
                aliases.push(self.record(&at, Data::Cname(target.clone())));
                if !target.is_within(zone) {
                    return Ok((aliases, Some(target)));
                }
                at = target;
                continue;
            }
            let mut seen = HashSet::new();
            let found: Vec<Record> = rows
                .into_iter()
                .filter_map(|row| match row {
                    Row::Address { ip, .. } => Some(ip),
                    Row::Alias(_) => None,
                })
                .filter(|ip| ip.is_ipv4() == (wanted == rtype::A) && seen.insert(*ip))
                .map(|ip| self.record(&at, Data::address(ip)))
                .collect();
            if found.is_empty() {
                return Ok((Vec::new(), None));
            }
            aliases.extend(found);
            return Ok((aliases, None));
        }
    }

    /// SRV records with their targets' addresses. All rows weigh the same, to 100 in sum.
    fn services(
        &self,
        view: View<'_>,
        zone: &Name,
        name: &Name,
    ) -> Result<(Vec<Record>, Vec<Record>), NoName> {
        let rows = self.rows(view, zone, name)?;
        let count = rows.iter().filter(|row| matches!(row, Row::Address { .. })).count();
        let weight = u16::try_from(100 / count.max(1)).unwrap_or(1).max(1);
        let (mut targets, mut glue) = (HashSet::new(), HashSet::new());
        let (mut answers, mut additional) = (Vec::new(), Vec::new());
        for row in rows {
            let Row::Address { ip, port: Some(port), owner } = row else { continue };
            let labels: Vec<&str> = owner.iter().map(String::as_str).collect();
            let target = zone.under(&labels);
            if targets.insert((target.clone(), port)) {
                answers.push(self.record(name, Data::Srv(0, weight, port, target.clone())));
            }
            if glue.insert((target.clone(), ip)) {
                additional.push(self.record(&target, Data::address(ip)));
            }
        }
        Ok((answers, additional))
    }

    /// TXT records: the schema's version, and what gRPC clients want to know.
    fn texts(&self, view: View<'_>, zone: &Name, name: &Name) -> Vec<Record> {
        let labels = name.within(zone).unwrap_or_default();
        if let [label] = labels.as_slice()
            && label.eq_ignore_ascii_case(b"dns-version")
        {
            return vec![Record::new(name.clone(), SCHEMA_TTL, Data::Txt(vec![SCHEMA_VERSION.into()]))];
        }
        let Ok(r) = self.request(zone, &labels) else { return Vec::new() };
        let entry = view.snapshot.service(&NamespacedName::new(&r.namespace, &r.service));
        let service = entry.and_then(|entry| self.served(entry));
        let exposed = r.kind == "svc" && self.exposed(view, &r.namespace);
        let Some(service) = service.filter(|service| exposed && self.has_grpc_config(service, &r)) else {
            return Vec::new();
        };
        let config = match service.grpc_policy {
            Some(GrpcPolicy::PickFirst) => PICK_FIRST,
            Some(GrpcPolicy::RoundRobin) | None => ROUND_ROBIN,
        };
        vec![self.record(name, Data::Txt(vec![config.into()]))]
    }

    /// `_grpc_config` before a headless Service's name (gRFC A2).
    fn has_grpc_config(&self, service: &Service, r: &Request) -> bool {
        self.grpc_config && service.headless && r.endpoint == "_grpc_config"
    }

    fn primary_zone(&self) -> Name {
        let forward = self.zones.iter().find(|zone| zone.labels().last() != Some(b"arpa"));
        forward.cloned().unwrap_or_else(Name::root)
    }

    pub(super) fn pointers(&self, view: View<'_>, zone: &Name, name: &Name) -> Result<Vec<Record>, NoName> {
        let Some(ip) = name.reverse_address() else {
            return self.rows(view, zone, name).map(|_| Vec::new());
        };
        let primary = self.primary_zone();
        let point = |labels: &[&str]| self.record(name, Data::Ptr(primary.under(labels)));
        let visible = |key: &&NamespacedName| !self.filtered() || self.exposed(view, &key.namespace);
        for key in view.cluster.by_cluster_ip(ip).iter().filter(visible) {
            if view.cluster.service(key).is_some_and(|entry| self.served(entry).is_some()) {
                return Ok(vec![point(&[&key.name, &key.namespace, "svc"])]);
            }
        }
        let mut answers: Vec<Record> = Vec::new();
        for key in view.cluster.by_endpoint(ip).iter().filter(visible) {
            let Some(entry) = view.cluster.service(key) else { continue };
            // Slices carry their Service's labels, so that `labels` keeps CoreDNS from seeing them.
            if entry.service.is_some() && self.served(entry).is_none() {
                continue;
            }
            let slices = self.slices(entry).iter().flat_map(|slice| &slice.endpoints);
            for endpoint in slices.filter(|e| e.ready && e.address == ip) {
                let host = endpoint_name(endpoint, self.endpoint_pod_names);
                let record = point(&[&host, &key.name, &key.namespace, "svc"]);
                if !answers.contains(&record) {
                    answers.push(record);
                }
            }
        }
        if answers.is_empty() { Err(NoName) } else { Ok(answers) }
    }

    /// The names and addresses of the Services that lead to this server, or `ns.dns` (`ns.go`).
    fn own_names(&self, view: View<'_>) -> Vec<(Vec<String>, IpAddr)> {
        let mut out = Vec::new();
        for local in view.local {
            for key in view.cluster.by_endpoint(*local) {
                let Some(entry) = view.cluster.service(key) else { continue };
                let Some(service) = &entry.service else { continue };
                let owner = [key.name.to_string(), key.namespace.to_string(), "svc".to_owned()];
                if service.headless {
                    for endpoint in entry.slices.iter().flat_map(|s| &s.endpoints).filter(|e| e.ready) {
                        let mut name = vec![endpoint_name(endpoint, self.endpoint_pod_names)];
                        name.extend(owner.clone());
                        out.push((name, endpoint.address));
                    }
                }
                out.extend(service.cluster_ips.iter().map(|ip| (owner.to_vec(), *ip)));
            }
        }
        out.dedup();
        if out.is_empty() {
            let fallback = || vec!["ns".to_owned(), "dns".to_owned()];
            out.extend(view.local.iter().map(|ip| (fallback(), *ip)));
        }
        out
    }

    pub(super) fn name_servers(
        &self,
        view: View<'_>,
        zone: &Name,
        name: &Name,
    ) -> (Vec<Record>, Vec<Record>) {
        let (mut answers, mut additional) = (Vec::new(), Vec::new());
        for (owner, ip) in self.own_names(view) {
            let labels: Vec<&str> = owner.iter().map(String::as_str).collect();
            let server = zone.under(&labels);
            let record = self.record(name, Data::Ns(server.clone()));
            if !answers.contains(&record) {
                answers.push(record);
            }
            additional.push(self.record(&server, Data::address(ip)));
        }
        (answers, additional)
    }
}
