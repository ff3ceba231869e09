//! exec, attach and port-forward: byte streams between a client and a Pod over one upgraded connection.
//!
//! `v5.channel.k8s.io` and `v4.channel.k8s.io` put a channel number before each WebSocket message
//! (`apimachinery/pkg/util/remotecommand`); port-forward tunnels SPDY/3.1 through a WebSocket
//! (`SPDY/3.1+portforward.k8s.io`, KEP-4006), older clients upgrade to SPDY/3.1 itself.

mod channel;
mod exec;
mod ports;
mod spdy;
mod tunnel;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::Response;
use http::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use sealane_api::Status;
use sealane_pod::request::ExecRequest;

use crate::nodes::NodeBackend;

/// The subprotocols of exec and attach, the best first.
const CHANNELS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Port-forward's, kubectl's first.
const PORTS: [&str; 2] = ["SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io"];
/// What older clients upgrade to.
const SPDY: &str = "SPDY/3.1";

/// Largest message: kubectl sends at most 32 KiB of a stream in one.
const MESSAGE: usize = 1 << 20;

/// Runs a command in a container, or attaches to it where `exec.command` is empty.
///
/// # Errors
/// 400 where the request is no WebSocket upgrade, or offers no protocol of ours.
pub async fn exec(
    request: Request<Body>,
    nodes: Arc<dyn NodeBackend>,
    namespace: String,
    pod: String,
    exec: ExecRequest,
) -> Result<Response, Status> {
    let upgrade = websocket(request, &CHANNELS).await?;
    let half_close = upgrade.selected_protocol().is_some_and(|p| p == CHANNELS[0]);
    // After the upgrade: a client whose upgrade fails tries SPDY next, and prints that one's refusal.
    Ok(upgrade.on_upgrade(move |socket| async move {
        match nodes.exec(namespace, pod, exec).await {
            Ok(session) => exec::run(socket, session, half_close).await,
            Err(why) => exec::refuse(socket, &why.to_string()).await,
        }
    }))
}

/// Connects local ports of the client with ports of a Pod. `ports` are those of the query, which only clients
/// that speak the channel protocol send.
///
/// # Errors
/// 400 where the request is no upgrade that we know.
pub async fn port_forward(
    mut request: Request<Body>,
    nodes: Arc<dyn NodeBackend>,
    namespace: String,
    pod: String,
    ports: Vec<u16>,
) -> Result<Response, Status> {
    let target = ports::Target { nodes, namespace, pod };
    let wants = |value: &http::HeaderValue| value.to_str().is_ok_and(|v| v.eq_ignore_ascii_case(SPDY));
    if request.headers().get(header::UPGRADE).is_some_and(wants) {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            match upgraded.await {
                Ok(io) => tunnel::run(TokioIo::new(io), target).await,
                Err(e) => tracing::debug!("port-forward: {e}"),
            }
        });
        return Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, SPDY)
            .header("X-Stream-Protocol-Version", "portforward.k8s.io")
            .body(Body::empty())
            .map_err(|e| Status::bad_request(e.to_string()));
    }
    let upgrade = websocket(request, &PORTS).await?;
    if upgrade.selected_protocol().is_some_and(|p| p == PORTS[0]) {
        Ok(upgrade.on_upgrade(move |socket| tunnel::run_in_websocket(socket, target)))
    } else {
        Ok(upgrade.on_upgrade(move |socket| ports::run(socket, target, ports)))
    }
}

async fn websocket(
    request: Request<Body>,
    protocols: &'static [&'static str],
) -> Result<WebSocketUpgrade, Status> {
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|_| Status::bad_request("Upgrade request required"))?;
    let upgrade = upgrade.protocols(protocols.iter().copied()).max_message_size(MESSAGE);
    if upgrade.selected_protocol().is_none() {
        let offered = parts.headers.get(header::SEC_WEBSOCKET_PROTOCOL);
        let offered = offered.and_then(|v| v.to_str().ok()).unwrap_or("none");
        return Err(Status::bad_request(format!(
            "unable to upgrade: protocols offered: {offered}, protocols known: {}",
            protocols.join(", ")
        )));
    }
    Ok(upgrade)
}
