//! [`Needs`]: what plugins answer from that somebody else has to bring.

use std::time::Duration;

/// What the catalog has to be fed with, and how its source is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Services, EndpointSlices and Namespaces.
    pub cluster: bool,
    /// Pods.
    pub pods: bool,
    /// Nodes.
    pub nodes: bool,
    /// ServiceImports, and the EndpointSlices that stand for them.
    pub imports: bool,
    /// DestinationRules.
    pub destination_rules: bool,
    /// How the plugins want the API to be reached, each way once; one in all where they agree.
    pub access: Vec<ApiAccess>,
    /// Where the cluster is kept for a start without the API, each way once; one in all where they agree.
    pub warm_start: Vec<WarmFile>,
    /// How long to wait for the cluster before the first query is answered.
    pub startup_timeout: Duration,
}

/// A saved snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmFile {
    /// Its path.
    pub path: String,
    /// An older one is not taken.
    pub max_age: Duration,
}

/// How the Kubernetes API is reached. Nothing said: as a Pod does, or by the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiAccess {
    /// Path of a kubeconfig; goes before the endpoint.
    pub kubeconfig: Option<String>,
    /// Context within it; `None`: its current one.
    pub context: Option<String>,
    /// The API's URL.
    pub endpoint: Option<String>,
    /// Files for the endpoint, in PEM.
    pub tls: Option<ClientFiles>,
}

/// Paths of what a client shows and trusts, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Its certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The authorities that it trusts.
    pub authorities: String,
}

impl Needs {
    /// What both need.
    #[must_use]
    pub fn and(mut self, other: Needs) -> Self {
        self.cluster |= other.cluster;
        self.pods |= other.pods;
        self.nodes |= other.nodes;
        self.imports |= other.imports;
        self.destination_rules |= other.destination_rules;
        self.startup_timeout = self.startup_timeout.max(other.startup_timeout);
        for access in other.access {
            if !self.access.contains(&access) {
                self.access.push(access);
            }
        }
        for warm in other.warm_start {
            if !self.warm_start.contains(&warm) {
                self.warm_start.push(warm);
            }
        }
        self
    }

    /// The one saved snapshot, as there is one catalog.
    ///
    /// # Errors
    /// Where plugins disagree.
    pub fn one_warm_start(&self) -> Result<Option<&WarmFile>, String> {
        match self.warm_start.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(
                "the Corefile's kubernetes plugins have different lines 'warm_start'; one server keeps one \
                      snapshot: give all of them the same line"
                    .to_owned(),
            ),
        }
    }

    /// The one way to the API. There is one catalog, so that there can be one way only.
    ///
    /// # Errors
    /// Where plugins disagree.
    pub fn one_access(&self) -> Result<ApiAccess, String> {
        match self.access.as_slice() {
            [] => Ok(ApiAccess::default()),
            [one] => Ok(one.clone()),
            _ => {
                Err("the Corefile's kubernetes plugins name different APIs (kubeconfig, endpoint, tls); one \
                 server answers for one cluster: give all of them the same lines"
                    .to_owned())
            }
        }
    }
}
