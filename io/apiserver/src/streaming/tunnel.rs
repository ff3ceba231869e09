//! Port-forward over SPDY/3.1: each connection is two streams of the client's, `error` and `data`, with the same
//! `requestID` (`kubelet/pkg/cri/streaming/portforward/httpstream.go`).

use std::collections::HashMap;

use axum::extract::ws::{Message, WebSocket};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::ports::{CHUNK, QUEUE, Target, inward, outward};
use super::spdy::{Codec, Frame, SpdyError, data, pong, window};

/// The tunnel inside a WebSocket's binary messages, whose borders mean nothing.
pub(super) async fn run_in_websocket(socket: WebSocket, target: Target) {
    let (ours, theirs) = tokio::io::duplex(256 << 10);
    let carrying = tokio::spawn(async move {
        let (mut sink, mut stream) = socket.split();
        let (mut read, mut write) = tokio::io::split(theirs);
        let inward = async {
            while let Some(Ok(message)) = stream.next().await {
                let bytes = match message {
                    Message::Binary(bytes) => bytes,
                    Message::Close(_) => break,
                    _ => continue,
                };
                if write.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            let _ = write.shutdown().await;
        };
        let outward = async {
            let mut buffer = vec![0; CHUNK];
            while let Ok(n @ 1..) = read.read(&mut buffer).await {
                let message = Message::Binary(Bytes::copy_from_slice(&buffer[..n]));
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        };
        tokio::join!(inward, outward);
    });
    run(ours, target).await;
    carrying.abort();
}

/// A connection's streams, while both are open.
struct Stream {
    /// To the Pod; `None` for an error stream, and once the client has said that no more comes.
    input: Option<mpsc::Sender<Bytes>>,
}

/// The tunnel over bytes, until the client ends it.
pub(super) async fn run<T: AsyncRead + AsyncWrite>(io: T, target: Target) {
    let (mut read, mut write) = tokio::io::split(io);
    let (out, mut frames) = mpsc::channel::<Bytes>(QUEUE);
    let writing = async {
        while let Some(frame) = frames.recv().await {
            if write.write_all(&frame).await.is_err() || write.flush().await.is_err() {
                break;
            }
        }
    };
    let reading = async {
        if let Err(e) = serve(&mut read, out, target).await {
            tracing::debug!("port-forward: {e}");
        }
    };
    tokio::select! { () = writing => {}, () = reading => {} }
}

async fn serve<R: AsyncRead + Unpin>(
    read: &mut R,
    out: mpsc::Sender<Bytes>,
    target: Target,
) -> Result<(), SpdyError> {
    let mut codec = Codec::new()?;
    let mut input = BytesMut::with_capacity(CHUNK);
    let mut streams: HashMap<u32, Stream> = HashMap::new();
    // Error streams whose data stream has yet to come, by request.
    let mut waiting: HashMap<String, u32> = HashMap::new();
    // Dropped with this function: connections of a client that went away end.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while let Some(frame) = codec.decode(&mut input)? {
            match frame {
                Frame::Open { stream, headers, last } => {
                    let header = |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
                    let value = |name: &str| header(name).map(|(_, v)| v.clone()).unwrap_or_default();
                    let _ = out.send(codec.reply(stream)?).await;
                    let request = value("requestid");
                    if value("streamtype") == "error" {
                        waiting.insert(request, stream);
                        streams.insert(stream, Stream { input: None });
                        continue;
                    }
                    let errors = waiting.remove(&request);
                    let (sender, queue) = mpsc::channel(QUEUE);
                    streams.insert(stream, Stream { input: (!last).then_some(sender) });
                    let port = value("port").parse::<u16>().unwrap_or(0);
                    let ends = Ends { data: stream, errors, port };
                    connections.spawn(connection(target.clone(), ends, queue, out.clone()));
                }
                Frame::Data { stream, bytes, last } => {
                    let size = u32::try_from(bytes.len()).unwrap_or(0);
                    if let Some(open) = streams.get_mut(&stream) {
                        if let Some(sender) = &open.input
                            && !bytes.is_empty()
                            && sender.send(bytes).await.is_err()
                        {
                            open.input = None;
                        }
                        if last {
                            open.input = None;
                        }
                    }
                    if size > 0 {
                        let _ = out.send(window(stream, size)).await;
                        let _ = out.send(window(0, size)).await;
                    }
                }
                Frame::Reset { stream } => drop(streams.remove(&stream)),
                // Odd numbers are the client's pings.
                Frame::Ping(number) if number % 2 == 1 => drop(out.send(pong(number)).await),
                Frame::GoAway => return Ok(()),
                Frame::Ping(_) | Frame::Window { .. } | Frame::Other => {}
            }
        }
        while connections.try_join_next().is_some() {}
        match read.read_buf(&mut input).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => {}
        }
    }
}

#[derive(Clone, Copy)]
struct Ends {
    data: u32,
    errors: Option<u32>,
    port: u16,
}

async fn connection(target: Target, ends: Ends, input: mpsc::Receiver<Bytes>, out: mpsc::Sender<Bytes>) {
    let stream = match target.connect(ends.port).await {
        Ok(stream) => stream,
        Err(why) => {
            if let Some(errors) = ends.errors {
                let _ = out.send(data(errors, why.as_bytes(), true)).await;
            }
            let _ = out.send(data(ends.data, b"", true)).await;
            return;
        }
    };
    let (from_pod, to_pod) = tokio::io::split(stream);
    let reading = async {
        if outward(from_pod, &out, |bytes| data(ends.data, bytes, false)).await {
            let _ = out.send(data(ends.data, b"", true)).await;
        }
    };
    // What the client still sends goes on after the Pod's side has closed, and the other way round; the streams
    // end with the client's connection at the latest.
    tokio::join!(inward(input, to_pod), reading);
    if let Some(errors) = ends.errors {
        let _ = out.send(data(errors, b"", true)).await;
    }
}
