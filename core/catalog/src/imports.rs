//! Services that come from other clusters (KEP-1645, the Multi-Cluster Services API): [`Imports`] makes of
//! ServiceImports and the EndpointSlices that stand for them Snapshots like those of the cluster's own Services.
//!
//! ```
//! use sealane_api::Object;
//! use sealane_catalog::{Event, Imports, NamespacedName, Source};
//! let mut imports = Imports::default();
//! for source in [Source::Services, Source::EndpointSlices] {
//!     imports.apply(Event::RelistBegin(source));
//!     imports.apply(Event::RelistEnd(source));
//! }
//! let web = serde_json::json!({"metadata": {"namespace": "shop", "name": "web"},
//!     "spec": {"type": "ClusterSetIP", "ips": ["10.42.0.7"], "ports": [{"port": 80}]}});
//! imports.apply(Event::Applied(Source::Services, Object::new(web)));
//! let (snapshot, _) = imports.publish();
//! let entry = snapshot.service(&NamespacedName::new("shop", "web")).unwrap();
//! assert_eq!(entry.service.as_ref().unwrap().cluster_ips, ["10.42.0.7".parse::<std::net::IpAddr>().unwrap()]);
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use sealane_api::{Document, Object};

use crate::builder::{Builder, Event};
use crate::delta::Delta;
use crate::model::{NamespacedName, Slice};
use crate::snapshot::{Snapshot, Source};

/// The label of an EndpointSlice that stands for a ServiceImport: the import's name (`mcs-api`, `LabelServiceName`).
pub const SERVICE_LABEL: &str = "multicluster.kubernetes.io/service-name";
/// The label that says which cluster an EndpointSlice is from (`mcs-api`, `LabelSourceCluster`).
pub const CLUSTER_LABEL: &str = "multicluster.kubernetes.io/source-cluster";

/// A [`Builder`] for what other clusters export. Its Services are the ServiceImports, whose names they have; its
/// slices are called `CLUSTERID/NAME`; it has nothing else.
#[derive(Debug)]
pub struct Imports {
    builder: Builder,
    /// What slices are called here.
    called: HashMap<NamespacedName, NamespacedName>,
}

impl Default for Imports {
    fn default() -> Self {
        let required = [Source::Services, Source::EndpointSlices];
        Imports { builder: Builder::new(&required), called: HashMap::new() }
    }
}

impl Imports {
    /// Takes one event: ServiceImports' come as of [`Source::Services`], EndpointSlices' as of
    /// [`Source::EndpointSlices`], with and without the label. Nothing shows before [`Imports::publish`].
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Applied(Source::Services, object) => {
                self.builder.apply(Event::Applied(Source::Services, service(&object)));
            }
            Event::Applied(Source::EndpointSlices, object) => self.slice(&object, false),
            Event::Deleted(Source::EndpointSlices, object) => self.slice(&object, true),
            event => self.builder.apply(event),
        }
    }

    /// As [`Builder::publish`].
    pub fn publish(&mut self) -> (Arc<Snapshot>, Delta) {
        self.builder.publish()
    }

    /// A slice's labels may change, and with them what it is called here.
    fn slice(&mut self, object: &Object, deleted: bool) {
        let source = Source::EndpointSlices;
        let own = NamespacedName::new(object.namespace(), object.name());
        let new = if deleted { None } else { slice(object) };
        let name = new.as_ref().map(|new| NamespacedName::new(new.namespace(), new.name()));
        let before = match &name {
            Some(name) => self.called.insert(own, name.clone()),
            None => self.called.remove(&own),
        };
        if let Some(before) = before.filter(|before| name.as_ref() != Some(before)) {
            self.builder.apply(Event::Deleted(source, renamed(object, &before.name)));
        }
        if let Some(new) = new {
            self.builder.apply(Event::Applied(source, new));
        }
    }
}

/// The cluster that a slice of [`Imports`] is from; "": it does not say.
pub fn source_cluster(slice: &Slice) -> &str {
    slice.key.name.split_once('/').map_or("", |(cluster, _)| cluster)
}

/// `spec` of a ServiceImport as that of a Service.
fn service(import: &Object) -> Object {
    let mut value = import.to_value();
    let spec = |field| import.get(&["spec", field]).cloned().unwrap_or_default();
    let mut out = Document::Object(Default::default());
    out["ports"] = spec("ports");
    if import.str(&["spec", "type"]) == "Headless" {
        out["clusterIP"] = "None".into();
    } else {
        out["clusterIPs"] = spec("ips");
    }
    if let Some(value) = value.as_object_mut() {
        value.insert("spec".to_owned(), out);
        // The status is that of other things.
        value.remove("status");
    }
    Object::new(value)
}

/// A slice of another cluster's endpoints as one of this cluster's; `None`: it is none.
fn slice(object: &Object) -> Option<Object> {
    let service = object.label(SERVICE_LABEL).filter(|name| !name.is_empty())?;
    let name = match object.label(CLUSTER_LABEL).unwrap_or("") {
        "" => object.name().to_owned(),
        cluster => format!("{cluster}/{}", object.name()),
    };
    let mut value = renamed(object, &name).to_value();
    let labels = value.pointer_mut("/metadata/labels")?.as_object_mut()?;
    labels.insert("kubernetes.io/service-name".to_owned(), service.into());
    Some(Object::new(value))
}

fn renamed(object: &Object, name: &str) -> Object {
    let mut value = object.to_value();
    if let Some(metadata) = value.get_mut("metadata").and_then(Document::as_object_mut) {
        metadata.insert("name".to_owned(), name.into());
    }
    Object::new(value)
}
