//! Emptying terminating Namespaces (upstream `pkg/controller/namespace/deletion`).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sealane_api::kinds::{KINDS, Subresource};

use crate::doc::{Key, Row};
use crate::index::Index;
use crate::meta;
use crate::plan::{Plan, Write, delete, row, update};

/// The finalizer in `spec` that is this controller's.
const FINALIZER: &str = "kubernetes";

pub(crate) fn plan(index: &Index, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(namespace) = index.namespace(key) else { return plan };
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
    if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
        return plan;
    }
    let kinds = || KINDS.iter().filter(|k| k.namespaced() && k.allows("list") && k.allows("delete"));
    let mut left: Vec<(String, usize)> = Vec::new();
    let mut finalizing: Vec<String> = Vec::new();
    for kind in kinds() {
        let mut count = 0;
        for (_, doc) in index.range(kind.plural, Some(&key.name)) {
            if doc.kind() != Some(Row(kind)) {
                continue;
            }
            count += 1;
            if doc.is_terminating() {
                finalizing.extend(doc.meta().finalizers.iter().flatten().cloned());
            } else {
                plan.push(delete(Row(kind), doc.meta()));
            }
        }
        if count > 0 {
            // As upstream writes a resource: `pods.`, `deployments.apps`.
            left.push((format!("{}.{}", kind.plural, kind.group), count));
        }
    }
    let empty = left.is_empty();
    if empty || !plan.actions.is_empty() {
        // Nothing new comes into a terminating Namespace: once at its beginning is enough, and once at its end.
        for kind in kinds().filter(|k| k.allows("deletecollection") && k.stored_as.is_none()) {
            if !index.is_listed(Row(kind)) {
                plan.push(Write::DeleteCollection { kind: Row(kind), namespace: key.name.to_string() });
            }
        }
    }
    if empty {
        let mut object = Namespace::clone(namespace);
        let kept = finalizers.into_iter().filter(|f| f != FINALIZER).collect();
        object.spec.get_or_insert_default().finalizers = Some(kept);
        plan.push(update(row("v1", "Namespace"), &namespace.metadata, Some(Subresource::Finalize), &object));
    } else {
        status(namespace, &left, &finalizing, now, &mut plan);
    }
    plan
}

/// What the status says of a deletion that takes its time (`status_condition_utils.go`).
fn status(
    namespace: &Namespace,
    left: &[(String, usize)],
    finalizing: &[String],
    now: Timestamp,
    plan: &mut Plan,
) {
    let mut counted: std::collections::BTreeMap<&String, usize> = std::collections::BTreeMap::new();
    for finalizer in finalizing {
        *counted.entry(finalizer).or_default() += 1;
    }
    let remaining: Vec<String> =
        left.iter().map(|(what, n)| format!("{what} has {n} resource instances")).collect();
    let waiting: Vec<String> =
        counted.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let table = [
        (
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
        (
            "NamespaceContentRemaining",
            "True",
            "SomeResourcesRemain",
            format!("Some resources are remaining: {}", remaining.join(", ")),
        ),
        if waiting.is_empty() {
            (
                "NamespaceFinalizersRemaining",
                "False",
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".to_owned(),
            )
        } else {
            (
                "NamespaceFinalizersRemaining",
                "True",
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {}", waiting.join(", ")),
            )
        },
    ];
    let mut object = Namespace::clone(namespace);
    let conditions = object.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for (kind, status, reason, message) in table {
        let held = conditions.iter_mut().find(|c| c.type_ == kind);
        let since = held.as_ref().filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        let new = NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since.or(Some(Time(meta::seconds(now)))),
        };
        match held {
            Some(held) if *held == new => {}
            Some(held) => {
                *held = new;
                changed = true;
            }
            None => {
                conditions.push(new);
                changed = true;
            }
        }
    }
    if changed {
        plan.push(update(row("v1", "Namespace"), &namespace.metadata, Some(Subresource::Status), &object));
    }
}
