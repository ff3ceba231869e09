//! A channel as grpc-java's `forTarget(..).defaultLoadBalancingPolicy("round_robin")`: the name is resolved, every
//! address gets one HTTP/2 connection, and calls take them in turn.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::{Answer, HELLO, Hello};

/// Connections to all addresses of one name.
pub(super) struct RoundRobin {
    ends: Vec<Channel>,
    next: AtomicUsize,
}

impl RoundRobin {
    /// Resolves `target` (`HOST:PORT`) and connects to each of its addresses.
    pub(super) async fn connect(target: &str) -> Result<Self, String> {
        let found = tokio::net::lookup_host(target).await.map_err(|e| format!("{target}: {e}"))?;
        let mut addresses: Vec<_> = found.collect();
        addresses.sort();
        addresses.dedup();
        let mut ends = Vec::new();
        for address in &addresses {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
            let endpoint = endpoint.connect_timeout(Duration::from_secs(5)).tcp_nodelay(true);
            ends.push(endpoint.connect().await.map_err(|e| format!("{target} at {address}: {}", why(&e)))?);
        }
        if ends.is_empty() {
            return Err(format!("{target}: the name has no address"));
        }
        println!("channel to {target}: {} connection(s) to {addresses:?}", ends.len());
        Ok(RoundRobin { ends, next: AtomicUsize::new(0) })
    }

    /// One call; the name of the Pod that answered.
    pub(super) async fn hello(&self) -> Result<String, Status> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let mut grpc = Grpc::new(self.ends[turn % self.ends.len()].clone());
        grpc.ready().await.map_err(|e| Status::unavailable(why(&e)))?;
        let codec = ProstCodec::<Hello, Answer>::default();
        let request = Request::new(Hello { name: "sealane".into() });
        let answer = grpc.unary(request, PathAndQuery::from_static(HELLO), codec).await?;
        Ok(answer.into_inner().pod)
    }
}

fn why(e: &dyn std::error::Error) -> String {
    let mut said = e.to_string();
    let mut at = e.source();
    while let Some(cause) = at {
        said = format!("{said}: {cause}");
        at = cause.source();
    }
    said
}
