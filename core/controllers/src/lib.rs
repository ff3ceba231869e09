//! The controllers: from what the API holds to the writes that bring it where it should be.
//!
//! What it is for: an [`Index`] of the objects, kept by watch events, and [`plan`], which says for one key of one
//! controller what to write now. Planning is level-triggered: it looks at what is, never at what happened, so a lost
//! event is repaired by the next and many changes cost one plan. The index is told of every write's answer at once
//! ([`Event::Written`], [`Event::Removed`]), so a plan sees its own earlier writes even where the watch lags: nothing
//! is created twice (upstream keeps `ControllerExpectations` for this).
//!
//! What it may not know: sockets, clocks, threads; how a write is carried out. Time and randomness are arguments.
//!
//! ```
//! use sealane_controllers::{Config, Controller, Doc, Event, Index, Key, Write, plan};
//! let mut index = Index::new(Config::default());
//! let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace",
//!     "metadata": {"name": "shop", "uid": "u1", "resourceVersion": "7"}, "status": {"phase": "Active"}});
//! let work = index.apply(Event::Applied(Doc::parse(namespace).unwrap()));
//! assert!(work.iter().any(|w| w.controller == Controller::ServiceAccount));
//! let plan = plan(Controller::ServiceAccount, &index, &Key::new("", "shop"), Config::default().started, 1);
//! assert!(matches!(&plan.actions[0].write, Write::Create { namespace, .. } if namespace == "shop"));
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod accounts;
mod affinity;
mod balancer;
mod deployment;
mod deployment_status;
mod doc;
mod endpoints;
mod endpointslice;
mod events;
mod garbage;
mod index;
mod labels;
mod meta;
mod mirroring;
mod names;
mod namespace;
mod nodes;
mod plan;
mod pods;
mod pool;
mod ports;
mod replicaset;
mod revisions;
mod rollout;
mod scheduler;
mod service_lb;
mod slice_layout;
mod spread;
mod statefulset;
mod triggers;

pub use doc::{Doc, DocError, Key, Row};
pub use events::Recorder;
pub use index::{Config, Event, Index};
pub use plan::{Action, Note, Patch, Plan, Propagation, Write};
pub use pool::{Pool, PoolError, Pools};

use jiff::Timestamp;

/// A controller; each has keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Controller {
    /// Binds Pods to Nodes; keys are Pods.
    Scheduler,
    /// Keys are Services.
    EndpointSlice,
    /// Keys are Services.
    Endpoints,
    /// Slices of Endpoints that somebody wrote; keys are Endpoints, which is to say Services.
    EndpointSliceMirroring,
    /// Addresses of load balancers; keys are Services.
    ServiceLb,
    /// Keys are ReplicaSets.
    ReplicaSet,
    /// Keys are Deployments.
    Deployment,
    /// Keys are StatefulSets.
    StatefulSet,
    /// Empties terminating Namespaces; keys are Namespaces.
    Namespace,
    /// `default` in each Namespace; keys are Namespaces.
    ServiceAccount,
    /// ConfigMap `kube-root-ca.crt` in each Namespace; keys are Namespaces.
    RootCa,
    /// Deletes what lost its owners; the name of a key is a uid.
    Garbage,
    /// Taints Nodes that fell silent and evicts their Pods; keys are Nodes.
    NodeLifecycle,
    /// Deletes Pods of Nodes that are gone; keys are Pods.
    PodGarbage,
}

impl Controller {
    /// Every controller.
    pub const ALL: [Controller; 14] = [
        Controller::Scheduler,
        Controller::EndpointSlice,
        Controller::Endpoints,
        Controller::EndpointSliceMirroring,
        Controller::ServiceLb,
        Controller::ReplicaSet,
        Controller::Deployment,
        Controller::StatefulSet,
        Controller::Namespace,
        Controller::ServiceAccount,
        Controller::RootCa,
        Controller::Garbage,
        Controller::NodeLifecycle,
        Controller::PodGarbage,
    ];

    /// How Events and metrics name it: upstream's component.
    pub fn component(self) -> &'static str {
        match self {
            Controller::Scheduler => "default-scheduler",
            Controller::EndpointSlice => "endpoint-slice-controller",
            Controller::Endpoints => "endpoint-controller",
            Controller::EndpointSliceMirroring => "endpoint-slice-mirroring-controller",
            Controller::ServiceLb => "service-controller",
            Controller::ReplicaSet => "replicaset-controller",
            Controller::Deployment => "deployment-controller",
            Controller::StatefulSet => "statefulset-controller",
            Controller::Namespace => "namespace-controller",
            Controller::ServiceAccount => "service-account-controller",
            Controller::RootCa => "root-ca-certificate-publisher",
            Controller::Garbage => "garbage-collector-controller",
            Controller::NodeLifecycle => "node-controller",
            Controller::PodGarbage => "pod-garbage-collector",
        }
    }
}

/// The kinds that an index wants to be fed: every kind whose objects can be listed and deleted, but for Events. The
/// garbage collector looks at them all.
pub fn watched_kinds() -> impl Iterator<Item = Row> {
    let watched = |k: &&sealane_api::Kind| {
        k.kind != "Event"
            && k.stored_as.is_none()
            && ["list", "watch", "delete"].iter().all(|verb| k.allows(verb))
    };
    sealane_api::kinds::KINDS.iter().filter(watched).map(Row)
}

/// One thing to plan (again).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Work {
    /// Whose.
    pub controller: Controller,
    /// Which.
    pub key: Key,
}

/// What `controller` should do now for `key`. The same arguments give the same plan. `random` names new objects.
pub fn plan(controller: Controller, index: &Index, key: &Key, now: Timestamp, random: u64) -> Plan {
    let mut names = names::Names::new(random);
    let mut plan = match controller {
        Controller::Scheduler => scheduler::plan(index, key, now, random),
        Controller::EndpointSlice => endpointslice::plan(index, key, &mut names),
        Controller::Endpoints => endpoints::plan(index, key),
        Controller::EndpointSliceMirroring => mirroring::plan(index, key, &mut names),
        Controller::ServiceLb => service_lb::plan(index, key),
        Controller::ReplicaSet => replicaset::plan(index, key, now, &mut names),
        Controller::Deployment => deployment::plan(index, key, now),
        Controller::StatefulSet => statefulset::plan(index, key, now),
        Controller::Namespace => namespace::plan(index, key, now),
        Controller::ServiceAccount => accounts::plan_account(index, key),
        Controller::RootCa => accounts::plan_root_ca(index, key),
        Controller::Garbage => garbage::plan(index, key),
        Controller::NodeLifecycle => nodes::plan_lifecycle(index, key, now),
        Controller::PodGarbage => nodes::plan_pod(index, key),
    };
    // A terminating Namespace takes nothing new; trying would only be refused.
    plan.actions.retain(|action| match &action.write {
        Write::Create { namespace, .. } => {
            let namespace = index.namespace(&Key::new("", namespace));
            namespace.is_none_or(|n| n.metadata.deletion_timestamp.is_none())
        }
        _ => true,
    });
    plan
}
