//! Services of type LoadBalancer get addresses from pools: what a cloud's service controller does
//! (`staging/src/k8s.io/cloud-provider/controllers/service`), whose Events and finalizer these are.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sealane_api::kinds::Subresource;
use serde_json::{Value, json};

use crate::doc::Key;
use crate::index::Index;
use crate::plan::{Note, Patch, Plan, Write, merge, row};
use crate::pool::Pool;
use crate::{balancer, meta};

/// Holds a Service until its address is given back (`servicehelper.LoadBalancerCleanupFinalizer`).
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// One write at a time: the finalizer stands before the first address does, and goes after the last.
pub(crate) fn plan(index: &Index, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let pools = &index.config.load_balancers;
    let Some(service) = index.service(key) else { return plan };
    if pools.external.is_empty() && pools.internal.is_empty() {
        return plan;
    }
    let ours = has_finalizer(&service.metadata);
    if service.metadata.deletion_timestamp.is_some() || !balancer::wants(service) {
        if ours {
            give_back(index, service, &mut plan);
        }
        return plan;
    }
    let in_pools = |a: IpAddr| pools.external.contains(a) || pools.internal.contains(a);
    let somebodys = !ours && !balancer::addresses(service).all(in_pools);
    // Whoever writes names, or addresses of other ranges, goes on to look after them.
    if somebodys
        || balancer::ingress(service).iter().any(|i| i.hostname.as_ref().is_some_and(|h| !h.is_empty()))
    {
        return plan;
    }
    if !ours {
        let mut finalizers = service.metadata.finalizers.clone().unwrap_or_default();
        finalizers.push(FINALIZER.to_owned());
        plan.push_noted(
            merge(row("v1", "Service"), &service.metadata, json!({"metadata": {"finalizers": finalizers}})),
            note(service, "EnsuringLoadBalancer", "Ensuring load balancer"),
        );
        return plan;
    }
    let held: Vec<IpAddr> = balancer::addresses(service).collect();
    let internal = balancer::is_internal(service);
    let pool = if internal { &pools.internal } else { &pools.external };
    let call = Call { index, key, service, pool, internal };
    match call.choose(&held) {
        Ok(chosen) if chosen == held => {}
        Ok(chosen) => plan.push_noted(
            status(service, &chosen),
            note(service, "EnsuredLoadBalancer", "Ensured load balancer"),
        ),
        Err(why) => {
            let why = format!("Error syncing load balancer: {why}");
            plan.notes.push(Note::warning(reference(service), "SyncLoadBalancerFailed", why));
            // An address that it may have serves on, whatever else was asked for; of another pool it may not.
            let kept: Vec<IpAddr> = held.iter().copied().filter(|a| call.may_keep(*a)).collect();
            if kept != held {
                plan.push(status(service, &kept));
            }
        }
    }
    plan
}

fn has_finalizer(meta: &ObjectMeta) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

fn reference(service: &Service) -> k8s_openapi::api::core::v1::ObjectReference {
    meta::reference::<Service>(&service.metadata)
}

fn note(service: &Service, reason: &'static str, message: &str) -> Note {
    Note::normal(reference(service), reason, message.to_owned())
}

/// Of a Service that goes the finalizer; of one that is of another type now the addresses first.
fn give_back(index: &Index, service: &Service, plan: &mut Plan) {
    let pools = &index.config.load_balancers;
    let goes = service.metadata.deletion_timestamp.is_some();
    let (mine, others): (Vec<IpAddr>, Vec<IpAddr>) = balancer::addresses(service)
        .partition(|a| pools.external.contains(*a) || pools.internal.contains(*a));
    if !goes && !mine.is_empty() {
        let note = note(service, "DeletingLoadBalancer", "Deleting load balancer");
        plan.push_noted(status(service, &others), note);
        return;
    }
    let finalizers = service.metadata.finalizers.iter().flatten().filter(|f| *f != FINALIZER);
    let left: Vec<&String> = finalizers.collect();
    let body = json!({"metadata": {"finalizers": left}});
    let note = note(service, "DeletedLoadBalancer", "Deleted load balancer");
    plan.push_noted(merge(row("v1", "Service"), &service.metadata, body), note);
}

fn status(service: &Service, addresses: &[IpAddr]) -> Write {
    let ingress: Vec<Value> =
        addresses.iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})).collect();
    let ingress = if ingress.is_empty() { Value::Null } else { json!(ingress) };
    Write::Patch {
        kind: row("v1", "Service"),
        key: Key::of(&service.metadata),
        subresource: Some(Subresource::Status),
        patch: Patch::Merge,
        body: json!({"metadata": {"resourceVersion": service.metadata.resource_version, "uid": service.metadata.uid},
            "status": {"loadBalancer": {"ingress": ingress}}}),
    }
}

/// Whose addresses are sought, and where.
struct Call<'a> {
    index: &'a Index,
    key: &'a Key,
    service: &'a Service,
    pool: &'a Pool,
    internal: bool,
}

impl Call<'_> {
    /// Its families: whether each is IPv6, in order.
    fn families(&self) -> Vec<bool> {
        let families = self.service.spec.as_ref().and_then(|s| s.ip_families.as_deref()).unwrap_or(&[]);
        if families.is_empty() { vec![false] } else { families.iter().map(|f| f == "IPv6").collect() }
    }

    /// How messages call the pool.
    fn pool_name(&self) -> String {
        let option = if self.internal { "--internal-load-balancer-pool" } else { "--load-balancer-pool" };
        format!("{option} {}", self.pool)
    }

    /// Who else has an address.
    fn other(&self, address: IpAddr) -> Option<&Key> {
        self.index.balanced_by(address).find(|other| *other != self.key)
    }

    /// Whether an address that it has is of its pool and families, and nobody had it before.
    fn may_keep(&self, address: IpAddr) -> bool {
        let age = |key: &Key| {
            let created = self.index.service(key).and_then(|s| meta::created(&s.metadata));
            (created, key.clone())
        };
        let own = age(self.key);
        self.pool.contains(address)
            && self.families().contains(&address.is_ipv6())
            && self.index.balanced_by(address).all(|other| other == self.key || own < age(other))
    }

    /// An address for each family that the pool has: the one that is asked for, else the one that it has, else the first
    /// that is free.
    fn choose(&self, held: &[IpAddr]) -> Result<Vec<IpAddr>, String> {
        let mut asked = Vec::new();
        for text in balancer::requested(self.service) {
            let address: IpAddr =
                text.parse().map_err(|_| format!("{text:?} is asked for, which is no address"))?;
            if !self.families().contains(&address.is_ipv6()) {
                return Err(format!("{address} is asked for, of a family that is not in ipFamilies"));
            }
            if !self.pool.contains(address) {
                return Err(format!("{address} is asked for and not in {}", self.pool_name()));
            }
            if let Some(other) =
                self.other(address).filter(|_| !held.contains(&address) || !self.may_keep(address))
            {
                let Key { namespace, name } = other;
                return Err(format!("{address} is asked for and taken by Service {namespace}/{name}"));
            }
            asked.push(address);
        }
        let mut chosen = Vec::new();
        for ipv6 in self.families().into_iter().filter(|ipv6| self.pool.has_family(*ipv6)) {
            let of = |a: &&IpAddr| a.is_ipv6() == ipv6;
            let kept = || held.iter().filter(of).find(|a| self.may_keep(**a)).copied();
            let free = || self.pool.first_free(ipv6, |first, last| self.index.balanced(first, last));
            let address = asked.iter().find(of).copied().or_else(kept).or_else(free);
            chosen.push(address.ok_or_else(|| format!("no address is free in {}", self.pool_name()))?);
        }
        if chosen.is_empty() {
            return Err(format!("no address of its families is in {}", self.pool_name()));
        }
        Ok(chosen)
    }
}
