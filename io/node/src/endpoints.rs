//! What the agent asks of whoever leads connections to its Pods.

use std::net::IpAddr;

use futures::future::BoxFuture;
use sealane_pod::ending::Exposure;

/// A Pod as an endpoint of Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEndpoint {
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub pod: String,
    /// Its address; the node's where it is on the node's network.
    pub address: IpAddr,
}

/// Where Pods stand in the service rules that are in force.
pub trait Endpoints: Send + Sync + 'static {
    /// Comes when all rules in force have the Pod as `most` or less, with what they have it as. It may take for ever:
    /// the agent's waits are bounded.
    fn fallen(&self, of: &PodEndpoint, most: Exposure) -> BoxFuture<'static, Exposure>;
}
