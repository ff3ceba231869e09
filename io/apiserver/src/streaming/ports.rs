//! Port-forward over channels (`v4.channel.k8s.io`): the n-th port of the query has the channels 2n (data) and
//! 2n + 1 (errors), each of which begins with the port's number, little-endian (`kubelet/pkg/cri/streaming`).

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use sealane_host::session::Duplex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::channel::framed;
use crate::nodes::NodeBackend;

/// A Pod, and who knows the way to it.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) nodes: Arc<dyn NodeBackend>,
    pub(super) namespace: String,
    pub(super) pod: String,
}

impl Target {
    /// A connection to a port on the Pod's loopback.
    pub(super) async fn connect(&self, port: u16) -> Result<Box<dyn Duplex>, String> {
        self.nodes
            .connect(self.namespace.clone(), self.pod.clone(), port)
            .await
            .map_err(|e| format!("error forwarding port {port} to pod {}, uid : {e}", self.pod))
    }
}

/// Bytes read at once.
pub(super) const CHUNK: usize = 32 << 10;
/// Messages that wait for a slow end.
pub(super) const QUEUE: usize = 16;

pub(super) async fn run(socket: WebSocket, target: Target, ports: Vec<u16>) {
    let (mut to_client, mut from_client) = socket.split();
    let (out, mut messages) = mpsc::channel::<Message>(QUEUE);
    let mut inputs: HashMap<u8, mpsc::Sender<Bytes>> = HashMap::new();
    for (n, port) in ports.into_iter().enumerate() {
        let Ok(data) = u8::try_from(n * 2) else { break };
        let (input, queue) = mpsc::channel(QUEUE);
        inputs.insert(data, input);
        tokio::spawn(forward(target.clone(), port, data, queue, out.clone()));
    }
    drop(out);
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => if to_client.send(message).await.is_err() { break },
                None => break,
            },
            message = from_client.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    let Some(channel) = bytes.first() else { continue };
                    if let Some(input) = inputs.get(channel)
                        && input.send(bytes.slice(1..)).await.is_err()
                    {
                        inputs.remove(channel);
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    let _ = to_client.close().await;
}

async fn forward(
    target: Target,
    port: u16,
    data: u8,
    input: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<Message>,
) {
    for channel in [data, data + 1] {
        let _ = out.send(framed(channel, &port.to_le_bytes())).await;
    }
    let stream = match target.connect(port).await {
        Ok(stream) => stream,
        Err(why) => {
            let _ = out.send(framed(data + 1, why.as_bytes())).await;
            return;
        }
    };
    let (from_pod, to_pod) = tokio::io::split(stream);
    tokio::select! {
        _ = outward(from_pod, &out, |bytes| framed(data, bytes)) => {}
        () = async { inward(input, to_pod).await; std::future::pending().await } => {}
    }
}

/// What the client sends goes to the Pod, until no more comes.
pub(super) async fn inward(mut input: mpsc::Receiver<Bytes>, mut to_pod: impl AsyncWrite + Unpin) {
    while let Some(bytes) = input.recv().await {
        if to_pod.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let _ = to_pod.shutdown().await;
}

/// What the Pod sends goes to the client, each piece in its frame; whether the client is still there at the end.
pub(super) async fn outward<M>(
    mut from_pod: impl AsyncRead + Unpin,
    out: &mpsc::Sender<M>,
    frame: impl Fn(&[u8]) -> M,
) -> bool {
    let mut buffer = vec![0; CHUNK];
    while let Ok(n @ 1..) = from_pod.read(&mut buffer).await {
        if out.send(frame(&buffer[..n])).await.is_err() {
            return false;
        }
    }
    true
}
