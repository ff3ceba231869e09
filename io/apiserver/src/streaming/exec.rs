//! exec and attach over channels: 0 stdin, 1 stdout, 2 stderr, 3 how it ended, 4 terminal sizes; with v5, 255 and
//! a channel's number close that channel.

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use sealane_host::session::ExecSession;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::channel::framed;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Messages that wait for a slow client.
const QUEUE: usize = 16;

/// Carries a session until its process ends or the client goes.
pub(super) async fn run(socket: WebSocket, session: ExecSession, half_close: bool) {
    let (mut to_client, from_client) = socket.split();
    let (out, mut messages) = mpsc::channel::<Message>(QUEUE);
    let ExecSession { stdin, stdout, stderr, resize, exit } = session;
    let reader = tokio::spawn(read(from_client, stdin, resize, half_close));
    let outputs = [(STDOUT, stdout), (STDERR, stderr)];
    let copies: Vec<_> = outputs
        .into_iter()
        .filter_map(|(channel, stream)| stream.map(|s| tokio::spawn(copy(channel, s, out.clone()))))
        .collect();
    let ending = tokio::spawn(async move {
        let exit = exit.await;
        // All output goes first.
        for copy in copies {
            let _ = copy.await;
        }
        let status = match exit {
            Ok(Ok(code)) => ended(code),
            Ok(Err(why)) => failed(&why),
            Err(_) => failed("the container went away"),
        };
        let _ = out.send(framed(ERROR, status.to_string().as_bytes())).await;
        let _ = out.send(Message::Close(Some(CloseFrame { code: 1000, reason: "".into() }))).await;
    });
    while let Some(message) = messages.recv().await {
        let last = matches!(message, Message::Close(_));
        if to_client.send(message).await.is_err() || last {
            break;
        }
    }
    let _ = to_client.close().await;
    // A client that went away takes its process's streams with it; the reader's ends are dropped with it.
    reader.abort();
    drop(messages);
    ending.abort();
}

/// Says why there is no session.
pub(super) async fn refuse(mut socket: WebSocket, why: &str) {
    let _ = socket.send(framed(ERROR, failed(why).to_string().as_bytes())).await;
    let _ = socket.send(Message::Close(Some(CloseFrame { code: 1000, reason: "".into() }))).await;
}

async fn copy(channel: u8, mut from: mpsc::Receiver<Bytes>, to: mpsc::Sender<Message>) {
    while let Some(bytes) = from.recv().await {
        if to.send(framed(channel, &bytes)).await.is_err() {
            return;
        }
    }
}

async fn read(
    mut from: SplitStream<WebSocket>,
    mut stdin: Option<mpsc::Sender<Bytes>>,
    resize: Option<mpsc::Sender<(u16, u16)>>,
    half_close: bool,
) {
    while let Some(Ok(message)) = from.next().await {
        let Message::Binary(bytes) = message else { continue };
        let Some((&channel, rest)) = bytes.split_first() else { continue };
        match channel {
            STDIN => {
                if let Some(sender) = &stdin
                    && !rest.is_empty()
                    && sender.send(bytes.slice(1..)).await.is_err()
                {
                    stdin = None;
                }
            }
            RESIZE => {
                if let (Some(sender), Some(size)) = (&resize, size(rest)) {
                    // The newest size counts; a full queue will be followed by another.
                    let _ = sender.try_send(size);
                }
            }
            CLOSE if half_close && rest == [STDIN] => stdin = None,
            _ => {}
        }
    }
}

/// `{"Width": columns, "Height": rows}` (`remotecommand.TerminalSize`).
fn size(message: &[u8]) -> Option<(u16, u16)> {
    let size: Value = serde_json::from_slice(message).ok()?;
    let side = |name: &str| size[name].as_u64().and_then(|n| u16::try_from(n).ok());
    Some((side("Width")?, side("Height")?))
}

/// The last word on channel 3 (`remotecommand`'s `ExitCode` cause is where kubectl takes its exit status from).
fn ended(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn failed(why: &str) -> Value {
    json!({
        "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": format!("Internal error occurred: error executing command in container: {why}"),
        "details": {"causes": [{"message": why}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_columns_and_rows() {
        assert_eq!(size(br#"{"Width":120,"Height":40}"#), Some((120, 40)));
        for bad in [&b""[..], b"{}", br#"{"Width":-1,"Height":2}"#, br#"{"Width":70000,"Height":2}"#] {
            assert_eq!(size(bad), None);
        }
    }

    #[test]
    fn an_exit_status_is_a_cause() {
        assert_eq!(ended(0)["status"], "Success");
        assert_eq!(ended(42)["details"]["causes"][0], json!({"reason": "ExitCode", "message": "42"}));
    }
}
