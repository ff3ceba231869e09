//! One HTTP/1.1 request, as curl makes it from the machine's side.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::str::FromStr;
use std::time::Duration;

use crate::machine::Machine;

/// For connecting and for each read.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came back.
#[derive(Debug)]
pub struct Page {
    /// The status code.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// The whole body.
    pub body: String,
}

impl Page {
    /// A figure among metrics: `name{label="value"}`, as the line begins.
    pub fn figure<T: FromStr>(&self, name: &str) -> Option<T> {
        self.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }
}

/// Makes a request over a connection of its own; an error says why there was no answer.
pub fn request(
    machine: &Machine,
    method: &str,
    to: SocketAddr,
    path: &str,
    body: &str,
) -> Result<Page, String> {
    let wire = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let bytes = machine.within(move || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(wire.as_bytes())?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let bytes = bytes.map_err(|e: std::io::Error| format!("{method} {to}{path}: {e}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").ok_or(format!("{to}: no HTTP: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.ok_or(format!("{to}: no status: {head:?}"))?;
    Ok(Page { status, head: head.to_owned(), body: body.to_owned() })
}
