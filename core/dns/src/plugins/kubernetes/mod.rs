//! `kubernetes`: the names of Services, endpoints and Pods (`plugin/kubernetes`).

mod config;
mod external;
mod metadata;
mod records;
mod search;
mod selector;
mod topology;
mod transfer;

use std::time::Duration;

use sealane_catalog::Snapshot;

use crate::chain::{
    ApiAccess, Context, Flow, Needs, Note, Peers, Plugin, Query, Reply, Setup, Want, WarmFile, World,
};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Message, Question, Record, rcode};
use crate::name::Name;
pub(crate) use external::{Exposed, hosts};
pub use records::{Answer, View};
pub(crate) use search::search_domains;
pub use selector::Selector;

/// Where the search list of this machine stands; Pods have its domains behind the cluster's.
pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// `pods`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodMode {
    /// No records.
    Disabled,
    /// What the name says.
    Insecure,
    /// Only of Pods that exist.
    Verified,
}

/// `kubernetes`
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// Zones, reverse ones included.
    pub zones: Vec<Name>,
    /// `pods`
    pub pods: PodMode,
    /// Endpoints without host name are called after their Pods.
    pub endpoint_pod_names: bool,
    /// Seconds, 0-3600.
    pub ttl: u32,
    /// Namespaces that are served; empty: all.
    pub namespaces: Vec<String>,
    /// Services that are served.
    pub labels: Option<Selector>,
    /// Namespaces that are served, by their labels.
    pub namespace_labels: Option<Selector>,
    /// No endpoints: headless Services and endpoint names do not exist.
    pub no_endpoints: bool,
    /// NXDOMAIN for Services without endpoints.
    pub ignore_empty: bool,
    /// `fallthrough`
    pub fallthrough: Option<Vec<Name>>,
    /// Headless Services' endpoints of one topology zone have a name.
    pub zonal: bool,
    /// How long to wait for the cluster before the first query is answered.
    pub startup_timeout: Duration,
    /// How the API is reached.
    pub access: ApiAccess,
    /// Zones whose names are those of Services from other clusters.
    pub multicluster: Vec<Name>,
    /// `search collapse`: this machine's search domains, which Pods have, too.
    collapse: Option<Vec<Name>>,
    /// Headless Services have a gRPC service config.
    pub grpc_config: bool,
    /// Endpoints near the client come first.
    zone_order: Option<Box<topology::Topology>>,
    /// Where the cluster as it was is kept, for a start while the API is away.
    warm_start: Option<WarmFile>,
}

/// `kubernetes [ZONES...] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    config::setup(setup, d)
}

impl Plugin for Kubernetes {
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let question = query.question();
        let within = self.zones.iter().any(|zone| question.name.is_within(zone));
        let answer = self.answer(self.view(cx.world, &question.name), question);
        let basis = match &answer {
            Answer::Reply(reply) if cx.world.snapshot.synced() => {
                self.basis(cx.world.snapshot.as_ref(), question, reply)
            }
            _ => None,
        };
        // What is not there may come, so that what the next plugin says is from the cluster, too.
        query.from_cluster |= within;
        query.basis = basis;
        match answer {
            Answer::Next => Flow::Next,
            Answer::Refused => Flow::refuse(rcode::REFUSED),
            Answer::Reply(mut reply) => {
                if let Some(search) = self.search(cx.world, query.question(), &reply) {
                    query.basis = None;
                    return search.go_on(query, note);
                }
                self.order(query, &mut reply, cx);
                Flow::Reply(as_old_as_it_is(reply.into(), query, cx.world))
            }
            Answer::Chase { aliases, target } => {
                note.set(aliases);
                Flow::Lookup(Question { name: target, ..query.question().clone() })
            }
        }
    }

    fn looked_up(
        &mut self,
        query: &mut Query,
        note: &mut Note,
        found: Message,
        cx: &mut Context<'_>,
    ) -> Flow {
        if let Some(search) = note.take::<search::Search>() {
            return search.looked_up(query, note, found, cx);
        }
        let mut answers: Vec<Record> = note.take().unwrap_or_default();
        // The alias stands, whatever became of its target.
        answers.extend(found.answers);
        let mut reply = Message::from(Reply { answers, ..Reply::default() });
        reply.flags.truncated = found.flags.truncated;
        Flow::Reply(as_old_as_it_is(reply, query, cx.world))
    }

    fn metadata(&self, label: &str, query: &Query, world: &World) -> Option<String> {
        metadata::value(self, label, query, world)
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        if let Some(topology) = &mut self.zone_order {
            topology.learn(&cx.world.snapshot);
        }
    }

    fn snapshot_changed(&mut self, old: &Snapshot, cx: &mut Context<'_>) {
        if let Some(topology) = &mut self.zone_order
            && !cx.world.snapshot.since(old).nodes.is_empty()
        {
            topology.learn(&cx.world.snapshot);
        }
    }

    fn files(&self) -> Vec<Want> {
        let want = || Want { path: RESOLV_CONF.to_owned(), folder: false, every: Duration::ZERO };
        self.collapse.iter().map(|_| want()).collect()
    }

    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        if let (Some(domains), RESOLV_CONF) = (&mut self.collapse, path) {
            *domains = search_domains(content.unwrap_or(""));
        }
        Ok(())
    }

    fn transfer(&self, zone: &Name, _: Peers<'_>, world: &World) -> Option<Vec<Record>> {
        // Half of a zone is none.
        Some(self.view(world, zone)).filter(|view| view.synced()).and_then(|view| self.records(view, zone))
    }

    fn needs(&self) -> Needs {
        Needs {
            cluster: true,
            pods: self.pods == PodMode::Verified,
            nodes: self.zone_order.is_some(),
            imports: !self.multicluster.is_empty(),
            destination_rules: self.grpc_config,
            access: vec![self.access.clone()],
            warm_start: self.warm_start.iter().cloned().collect(),
            startup_timeout: self.startup_timeout,
        }
    }

    fn ready(&self, world: &World) -> bool {
        world.snapshot.synced() && (self.multicluster.is_empty() || world.imports.synced())
    }
}

/// Extended errors (RFC 8914 sections 4.4 and 4.20): what is answered from a saved snapshot may have changed.
const STALE: u16 = 3;
const STALE_NXDOMAIN: u16 = 19;

/// Tells clients that speak EDNS where an answer is from a saved snapshot.
fn as_old_as_it_is(mut reply: Message, query: &mut Query, world: &World) -> Message {
    if world.snapshot.restored() {
        let code = if reply.rcode == rcode::NXDOMAIN { STALE_NXDOMAIN } else { STALE };
        query.explain(&mut reply, code, "the Kubernetes API does not answer");
        // The next one who asks may be answered from the API.
        query.basis = None;
    }
    reply
}

impl Kubernetes {
    /// Whether names of a zone are those of Services from other clusters.
    fn is_multicluster(&self, zone: &Name) -> bool {
        self.multicluster.iter().any(|multicluster| zone.is_within(multicluster))
    }

    /// What the answers for a name are made from.
    fn view<'a>(&self, world: &'a World, name: &Name) -> View<'a> {
        if self.zone_of(name).is_some_and(|zone| self.is_multicluster(zone)) {
            return View { snapshot: &world.imports, serial: world.imports_serial, ..view(world) };
        }
        view(world)
    }
}

/// The cluster itself.
fn view(world: &World) -> View<'_> {
    let cluster = &*world.snapshot;
    View { snapshot: cluster, cluster, serial: world.serial, local: &world.local }
}
