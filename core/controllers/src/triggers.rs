//! Which keys a change concerns.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::doc::{Doc, Key};
use crate::index::{Index, slice_service};
use crate::{Controller, Work, affinity, balancer, labels, meta, pods};

/// A change from `old` to `new`, already in the index.
pub(crate) fn changed(index: &Index, old: Option<&Doc>, new: Option<&Doc>, work: &mut Vec<Work>) {
    let Some(doc) = new.or(old) else { return };
    let key = Key::of(doc.meta());
    garbage(index, old, new, work);
    if new.is_none() || doc.is_terminating() {
        // What goes may be the last of its namespace.
        if index
            .namespace(&Key::new("", &key.namespace))
            .is_some_and(|n| n.metadata.deletion_timestamp.is_some())
        {
            add(work, Controller::Namespace, Key::new("", &key.namespace));
        }
    }
    match doc {
        Doc::Pod(_) => pod(index, old, new, &key, work),
        Doc::Service(_) => {
            for controller in [
                Controller::EndpointSlice,
                Controller::Endpoints,
                Controller::EndpointSliceMirroring,
                Controller::ServiceLb,
            ] {
                add(work, controller, key.clone());
            }
            released(index, old, work);
        }
        Doc::EndpointSlice(_) => {
            for slice in [old, new].into_iter().flatten() {
                if let Doc::EndpointSlice(slice) = slice
                    && let Some(service) = slice_service(slice)
                {
                    add(work, Controller::EndpointSlice, service.clone());
                    add(work, Controller::EndpointSliceMirroring, service);
                }
            }
        }
        Doc::Endpoints(_) => {
            add(work, Controller::Endpoints, key.clone());
            add(work, Controller::EndpointSliceMirroring, key);
        }
        Doc::ReplicaSet(set) => {
            add(work, Controller::ReplicaSet, key.clone());
            owner(doc, Controller::Deployment, "Deployment", work);
            owner_of(old, Controller::Deployment, "Deployment", work);
            if meta::controller_of(&set.metadata).is_none() {
                // An orphan may be adopted.
                for (id, other) in index.range("deployments", Some(&key.namespace)) {
                    if let Doc::Deployment(d) = other
                        && d.spec
                            .as_ref()
                            .is_some_and(|s| labels::selects(&s.selector, set.metadata.labels.as_ref()))
                    {
                        add(work, Controller::Deployment, id.key.clone());
                    }
                }
            }
        }
        Doc::Deployment(_) => add(work, Controller::Deployment, key),
        Doc::StatefulSet(_) => add(work, Controller::StatefulSet, key),
        Doc::ControllerRevision(_) => owner(doc, Controller::StatefulSet, "StatefulSet", work),
        Doc::Namespace(_) => {
            add(work, Controller::Namespace, key.clone());
            add(work, Controller::ServiceAccount, key.clone());
            add(work, Controller::RootCa, key);
        }
        Doc::ConfigMap(_) if &*key.name == crate::accounts::ROOT_CA => {
            add(work, Controller::RootCa, Key::new("", &key.namespace));
        }
        Doc::Other(kind, _) if kind.kind == "ServiceAccount" && &*key.name == "default" => {
            add(work, Controller::ServiceAccount, Key::new("", &key.namespace));
        }
        Doc::Node(_) => node(index, old, new, &key, work),
        // A Lease's renewal says only that nothing happened; the Node's own clock brings the next look.
        Doc::Lease(_) if old.is_none() && &*key.namespace == crate::nodes::LEASES => {
            add(work, Controller::NodeLifecycle, Key::new("", &key.name));
        }
        _ => {}
    }
}

/// The dependents of a uid that is gone.
pub(crate) fn lost_owner(index: &Index, uid: &str, work: &mut Vec<Work>) {
    for dependent in index.owned_by(uid) {
        add(work, Controller::Garbage, Key::new("", dependent.uid()));
    }
}

/// The Pods of a Node that is gone.
pub(crate) fn lost_node(index: &Index, name: &str, work: &mut Vec<Work>) {
    for pod in index.pods_on(name) {
        add(work, Controller::PodGarbage, Key::of(&pod.metadata));
    }
}

/// Those that wait for a load balancer's address, where one came free.
fn released(index: &Index, old: Option<&Doc>, work: &mut Vec<Work>) {
    let Some(Doc::Service(old)) = old else { return };
    if balancer::addresses(old).any(|address| index.balanced_by(address).next().is_none()) {
        for key in index.waiting() {
            add(work, Controller::ServiceLb, key.clone());
        }
    }
}

fn add(work: &mut Vec<Work>, controller: Controller, key: Key) {
    work.push(Work { controller, key });
}

fn owner(doc: &Doc, controller: Controller, kind: &str, work: &mut Vec<Work>) {
    if let Some(owner) = meta::controller_of(doc.meta())
        && owner.kind == kind
    {
        add(work, controller, Key::new(doc.meta().namespace.as_deref().unwrap_or(""), &owner.name));
    }
}

fn owner_of(doc: Option<&Doc>, controller: Controller, kind: &str, work: &mut Vec<Work>) {
    if let Some(doc) = doc {
        owner(doc, controller, kind, work);
    }
}

fn garbage(index: &Index, old: Option<&Doc>, new: Option<&Doc>, work: &mut Vec<Work>) {
    let owners = |doc: Option<&Doc>| {
        doc.map(|d| d.meta().owner_references.clone().unwrap_or_default()).unwrap_or_default()
    };
    match new {
        None => {
            if let Some(old) = old {
                lost_owner(index, old.uid(), work);
            }
        }
        Some(doc) => {
            let finalizers = doc.meta().finalizers.iter().flatten().count();
            let changed = owners(old) != owners(new);
            if (changed && !owners(new).is_empty()) || (doc.is_terminating() && finalizers > 0) {
                add(work, Controller::Garbage, Key::new("", doc.uid()));
            }
            if doc.is_terminating() && !old.is_some_and(Doc::is_terminating) {
                lost_owner(index, doc.uid(), work);
            }
        }
    }
    // An owner that waits for its dependents looks again when one goes or lets go of it.
    for reference in owners(old) {
        if !owners(new).contains(&reference) && index.by_uid(&reference.uid).is_some_and(Doc::is_terminating)
        {
            add(work, Controller::Garbage, Key::new("", &reference.uid));
        }
    }
}

fn pod(index: &Index, old: Option<&Doc>, new: Option<&Doc>, key: &Key, work: &mut Vec<Work>) {
    let view = |doc: Option<&Doc>| match doc {
        Some(Doc::Pod(pod)) => Some(Arc::clone(pod)),
        _ => None,
    };
    let (old_pod, new_pod) = (view(old), view(new));
    for pod in [&old_pod, &new_pod].into_iter().flatten() {
        for service in index.services_selecting(key, pod.metadata.labels.as_ref()) {
            add(work, Controller::EndpointSlice, service.clone());
            add(work, Controller::Endpoints, service.clone());
        }
        let doc = Doc::Pod(Arc::clone(pod));
        owner(&doc, Controller::ReplicaSet, "ReplicaSet", work);
        owner(&doc, Controller::StatefulSet, "StatefulSet", work);
        if meta::controller_of(&pod.metadata).is_none() && !pods::is_terminating(pod) {
            orphan(index, pod, key, work);
        }
    }
    if let Some(pod) = &new_pod {
        if pods::node(pod).is_empty() {
            add(work, Controller::Scheduler, key.clone());
        } else if index.node(pods::node(pod)).is_none() {
            add(work, Controller::PodGarbage, key.clone());
        }
        let on = |pod: &Option<Arc<Pod>>| pod.as_ref().map(|p| pods::node(p).to_owned()).unwrap_or_default();
        if on(&old_pod) != on(&new_pod) {
            add(work, Controller::NodeLifecycle, Key::new("", pods::node(pod)));
        }
    }
    // Where one more is, another may now be placed beside it.
    if new_pod.as_ref().is_some_and(|p| !pods::node(p).is_empty())
        && old_pod.as_ref().is_none_or(|p| pods::node(p).is_empty())
    {
        for key in index.unscheduled() {
            let minds = |pod: &Arc<Pod>| {
                let own = pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_ref());
                own.is_some_and(|c| !c.is_empty()) || affinity::has_terms(pod)
            };
            if index.pod(key).is_some_and(minds) {
                add(work, Controller::Scheduler, key.clone());
            }
        }
    }
    // Room came free.
    let used = |pod: &Option<Arc<Pod>>| {
        pod.as_ref().is_some_and(|p| !pods::node(p).is_empty() && !pods::is_terminal(p))
    };
    if used(&old_pod) && !used(&new_pod) {
        reschedule(index, work);
    }
}

fn orphan(index: &Index, pod: &Pod, key: &Key, work: &mut Vec<Work>) {
    let takes = |selector: Option<&LabelSelector>| {
        selector.is_some_and(|s| !labels::is_empty(s) && labels::selects(s, pod.metadata.labels.as_ref()))
    };
    for (id, doc) in index.range("replicasets", Some(&key.namespace)) {
        if let Doc::ReplicaSet(set) = doc
            && takes(set.spec.as_ref().map(|s| &s.selector))
        {
            add(work, Controller::ReplicaSet, id.key.clone());
        }
    }
    for (id, doc) in index.range("statefulsets", Some(&key.namespace)) {
        if let Doc::StatefulSet(set) = doc
            && takes(set.spec.as_ref().map(|s| &s.selector))
        {
            add(work, Controller::StatefulSet, id.key.clone());
        }
    }
}

fn reschedule(index: &Index, work: &mut Vec<Work>) {
    for key in index.unscheduled() {
        add(work, Controller::Scheduler, key.clone());
    }
}

fn node(index: &Index, old: Option<&Doc>, new: Option<&Doc>, key: &Key, work: &mut Vec<Work>) {
    add(work, Controller::NodeLifecycle, key.clone());
    let view = |doc: Option<&Doc>| match doc {
        Some(Doc::Node(node)) => Some(Arc::clone(node)),
        _ => None,
    };
    let (before, after) = (view(old), view(new));
    let placement = |node: &Option<Arc<k8s_openapi::api::core::v1::Node>>| {
        node.as_ref().map(|n| {
            let allocatable = n.status.as_ref().and_then(|s| s.allocatable.clone());
            (n.metadata.labels.clone(), n.spec.clone(), allocatable)
        })
    };
    // Status heartbeats come every few seconds and move nothing.
    if placement(&before) == placement(&after) {
        return;
    }
    reschedule(index, work);
    if after.is_none() {
        lost_node(index, &key.name, work);
    }
    let labels = |node: &Option<Arc<k8s_openapi::api::core::v1::Node>>| {
        node.as_ref().map(|n| n.metadata.labels.clone())
    };
    if labels(&before) != labels(&after) {
        for pod in index.pods_on(&key.name) {
            let pod_key = Key::of(&pod.metadata);
            for service in index.services_selecting(&pod_key, pod.metadata.labels.as_ref()) {
                add(work, Controller::EndpointSlice, service.clone());
            }
        }
    }
}
