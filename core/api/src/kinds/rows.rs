//! The rows.

use serde_json::Value;

use super::Scope::{self, Cluster, Namespaced};
use super::Subresource::{
    self, Attach, Binding, EphemeralContainers, Eviction, Exec, Finalize, Log, PortForward, Proxy, Scale,
    Status, Token,
};
use super::{FieldRefusal, Generation, Kind, select, storage};
use crate::columns;
use crate::defaults::{cluster, endpoints, objects, pod, prepare, service, workload};
use crate::field::FieldErrors;
use crate::validation as check;

const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

fn nothing(_: &mut Value) {}
fn nothing_from(_: &mut Value, _: &Value) {}
fn no_errors(_: &Value, _: &Value) -> FieldErrors {
    Vec::new()
}
fn no_warnings(_: &Value, _: Option<&Value>) -> Vec<String> {
    Vec::new()
}

type Gvk = (&'static str, &'static str, &'static str);
type Names = (&'static str, &'static str);

/// What every row starts from.
const fn row(gvk: Gvk, names: Names, short_names: &'static [&'static str], schema: &'static str) -> Kind {
    Kind {
        group: gvk.0,
        version: gvk.1,
        kind: gvk.2,
        plural: names.0,
        singular: names.1,
        short_names,
        categories: &[],
        scope: Namespaced,
        verbs: ALL_VERBS,
        subresources: &[],
        schema,
        stored_as: None,
        create_on_update: false,
        unconditional_update: true,
        deprecated: None,
        default: nothing,
        prepare_create: nothing,
        prepare_update: nothing_from,
        validate: check::meta::only,
        validate_status: no_errors,
        warnings: no_warnings,
        fields: &[],
        field_refusal: FieldRefusal::Unknown,
        columns: columns::NAME_AND_AGE,
        row_conditions: None,
        generation: Generation::None,
    }
}

const fn clustered(
    gvk: Gvk,
    names: Names,
    short_names: &'static [&'static str],
    schema: &'static str,
) -> Kind {
    Kind { scope: Scope::Cluster, ..row(gvk, names, short_names, schema) }
}

const POD_SUBRESOURCES: &[Subresource] =
    &[Attach, Binding, EphemeralContainers, Eviction, Exec, Log, PortForward, Proxy, Status];

/// Every kind that Sealane serves.
pub static KINDS: &[Kind] = &[
    Kind {
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[Finalize, Status],
        default: cluster::namespace,
        prepare_create: prepare::namespace_create,
        prepare_update: prepare::namespace_update,
        validate: check::cluster::namespace,
        fields: select::NAMESPACE,
        field_refusal: FieldRefusal::NotSupported,
        columns: columns::cluster::NAMESPACE,
        ..clustered(
            ("", "v1", "Namespace"),
            ("namespaces", "namespace"),
            &["ns"],
            "io.k8s.api.core.v1.Namespace",
        )
    },
    Kind {
        subresources: &[Proxy, Status],
        default: cluster::node,
        prepare_update: prepare::keep_status,
        validate: check::cluster::node,
        fields: select::NODE,
        field_refusal: FieldRefusal::NotSupported,
        columns: columns::cluster::NODE,
        ..clustered(("", "v1", "Node"), ("nodes", "node"), &["no"], "io.k8s.api.core.v1.Node")
    },
    Kind {
        categories: &["all"],
        subresources: POD_SUBRESOURCES,
        default: pod::pod,
        prepare_create: prepare::pod_create,
        prepare_update: prepare::keep_status,
        validate: check::pod::pod,
        validate_status: check::pod_update::status,
        fields: select::POD,
        field_refusal: FieldRefusal::NotSupported,
        columns: columns::pod::POD,
        row_conditions: Some(columns::pod::row_conditions),
        generation: Generation::Spec,
        ..row(("", "v1", "Pod"), ("pods", "pod"), &["po"], "io.k8s.api.core.v1.Pod")
    },
    Kind {
        categories: &["all"],
        subresources: &[Proxy, Status],
        create_on_update: true,
        default: service::service,
        prepare_create: prepare::service_create,
        prepare_update: prepare::service_update,
        validate: check::service::service,
        warnings: check::warnings::service,
        fields: select::SERVICE,
        field_refusal: FieldRefusal::NotSupported,
        columns: columns::network::SERVICE,
        ..row(("", "v1", "Service"), ("services", "service"), &["svc"], "io.k8s.api.core.v1.Service")
    },
    Kind {
        deprecated: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        create_on_update: true,
        default: endpoints::endpoints,
        validate: check::endpoints::endpoints,
        columns: columns::network::ENDPOINTS,
        ..row(("", "v1", "Endpoints"), ("endpoints", "endpoints"), &["ep"], "io.k8s.api.core.v1.Endpoints")
    },
    Kind {
        default: endpoints::endpoint_slice,
        validate: check::endpoints::endpoint_slice,
        warnings: check::warnings::endpoint_slice,
        columns: columns::network::ENDPOINT_SLICE,
        generation: Generation::Content,
        ..row(
            ("discovery.k8s.io", "v1", "EndpointSlice"),
            ("endpointslices", "endpointslice"),
            &[],
            "io.k8s.api.discovery.v1.EndpointSlice",
        )
    },
    Kind {
        default: objects::config_map,
        validate: check::objects::config_map,
        columns: columns::objects::CONFIG_MAP,
        ..row(("", "v1", "ConfigMap"), ("configmaps", "configmap"), &["cm"], "io.k8s.api.core.v1.ConfigMap")
    },
    Kind {
        default: objects::secret,
        validate: check::objects::secret,
        fields: select::SECRET,
        field_refusal: FieldRefusal::NotSupported,
        columns: columns::objects::SECRET,
        ..row(("", "v1", "Secret"), ("secrets", "secret"), &[], "io.k8s.api.core.v1.Secret")
    },
    Kind {
        subresources: &[Token],
        default: objects::service_account,
        validate: check::objects::service_account,
        columns: columns::objects::SERVICE_ACCOUNT,
        ..row(
            ("", "v1", "ServiceAccount"),
            ("serviceaccounts", "serviceaccount"),
            &["sa"],
            "io.k8s.api.core.v1.ServiceAccount",
        )
    },
    Kind {
        create_on_update: true,
        default: objects::event,
        validate: check::objects::event,
        fields: select::EVENT,
        field_refusal: FieldRefusal::NotSupported,
        columns: columns::objects::EVENT,
        ..row(("", "v1", "Event"), ("events", "event"), &["ev"], "io.k8s.api.core.v1.Event")
    },
    Kind {
        stored_as: Some(&storage::EVENT),
        create_on_update: true,
        default: objects::events_event,
        validate: check::objects::events_event,
        fields: select::EVENTS_EVENT,
        field_refusal: FieldRefusal::NotSupported,
        columns: columns::objects::EVENT,
        ..row(("events.k8s.io", "v1", "Event"), ("events", "event"), &["ev"], "io.k8s.api.events.v1.Event")
    },
    Kind {
        create_on_update: true,
        unconditional_update: false,
        default: objects::lease,
        validate: check::objects::lease,
        columns: columns::objects::LEASE,
        ..row(
            ("coordination.k8s.io", "v1", "Lease"),
            ("leases", "lease"),
            &[],
            "io.k8s.api.coordination.v1.Lease",
        )
    },
    Kind {
        categories: &["all"],
        subresources: &[Scale, Status],
        default: workload::deployment,
        prepare_create: prepare::empty_status,
        prepare_update: prepare::keep_status,
        validate: check::workload::deployment,
        validate_status: check::workload::deployment_status,
        columns: columns::workload::DEPLOYMENT,
        generation: Generation::SpecAndAnnotations,
        ..row(
            ("apps", "v1", "Deployment"),
            ("deployments", "deployment"),
            &["deploy"],
            "io.k8s.api.apps.v1.Deployment",
        )
    },
    Kind {
        categories: &["all"],
        subresources: &[Scale, Status],
        default: workload::replica_set,
        prepare_create: prepare::replica_set_create,
        prepare_update: prepare::keep_status,
        validate: check::workload::replica_set,
        validate_status: check::workload::replica_set_status,
        columns: columns::workload::REPLICA_SET,
        generation: Generation::Spec,
        ..row(
            ("apps", "v1", "ReplicaSet"),
            ("replicasets", "replicaset"),
            &["rs"],
            "io.k8s.api.apps.v1.ReplicaSet",
        )
    },
    Kind {
        categories: &["all"],
        subresources: &[Scale, Status],
        default: workload::stateful_set,
        prepare_create: prepare::stateful_set_create,
        prepare_update: prepare::keep_status,
        validate: check::stateful_set::stateful_set,
        validate_status: check::stateful_set::status,
        columns: columns::workload::STATEFUL_SET,
        generation: Generation::Spec,
        ..row(
            ("apps", "v1", "StatefulSet"),
            ("statefulsets", "statefulset"),
            &["sts"],
            "io.k8s.api.apps.v1.StatefulSet",
        )
    },
    Kind {
        default: workload::controller_revision,
        validate: check::workload::controller_revision,
        columns: columns::workload::CONTROLLER_REVISION,
        ..row(
            ("apps", "v1", "ControllerRevision"),
            ("controllerrevisions", "controllerrevision"),
            &[],
            "io.k8s.api.apps.v1.ControllerRevision",
        )
    },
    Kind {
        subresources: &[Status],
        prepare_update: prepare::keep_status,
        validate: check::cluster::service_cidr,
        columns: columns::network::SERVICE_CIDR,
        ..clustered(
            ("networking.k8s.io", "v1", "ServiceCIDR"),
            ("servicecidrs", "servicecidr"),
            &[],
            "io.k8s.api.networking.v1.ServiceCIDR",
        )
    },
    Kind {
        create_on_update: true,
        default: cluster::role,
        validate: check::rbac::role,
        columns: columns::rbac::ROLE,
        ..row(("rbac.authorization.k8s.io", "v1", "Role"), ("roles", "role"), &[], "io.k8s.api.rbac.v1.Role")
    },
    Kind {
        create_on_update: true,
        default: cluster::role_binding,
        validate: check::rbac::role_binding,
        columns: columns::rbac::ROLE_BINDING,
        ..row(
            ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
            ("rolebindings", "rolebinding"),
            &[],
            "io.k8s.api.rbac.v1.RoleBinding",
        )
    },
    Kind {
        scope: Cluster,
        create_on_update: true,
        default: cluster::role,
        validate: check::rbac::cluster_role,
        columns: columns::rbac::ROLE,
        ..row(
            ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
            ("clusterroles", "clusterrole"),
            &[],
            "io.k8s.api.rbac.v1.ClusterRole",
        )
    },
    Kind {
        scope: Cluster,
        create_on_update: true,
        default: cluster::role_binding,
        validate: check::rbac::cluster_role_binding,
        columns: columns::rbac::CLUSTER_ROLE_BINDING,
        ..row(
            ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding"),
            ("clusterrolebindings", "clusterrolebinding"),
            &[],
            "io.k8s.api.rbac.v1.ClusterRoleBinding",
        )
    },
];
