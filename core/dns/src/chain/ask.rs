//! Questions to upstreams.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::message::Message;

/// How an upstream is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// A datagram.
    #[default]
    Udp,
    /// A stream, each message behind its length.
    Tcp,
    /// The same within TLS (RFC 7858).
    Tls(Arc<TlsClient>),
    /// A call of gRPC ([`crate::message::grpc`]).
    Grpc(Arc<GrpcClient>),
}

impl Via {
    /// `udp`, `tcp`, `tcp-tls`, as Go's DNS client calls them, and `grpc`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Via::Udp => "udp",
            Via::Tcp => "tcp",
            Via::Tls(_) => "tcp-tls",
            Via::Grpc(_) => "grpc",
        }
    }
}

/// How an upstream is known, and how this server is known to it. All in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsClient {
    /// The name that its certificate must have; `None`: its address.
    pub server_name: Option<String>,
    /// Who may have signed it; `None`: the system's authorities.
    pub authorities: Option<String>,
    /// This server's certificate chain and key.
    pub identity: Option<(String, String)>,
}

/// How a server is reached that is asked over gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcClient {
    /// How it is known; `None`: it is spoken to in the clear.
    pub tls: Option<Arc<TlsClient>>,
    /// Path of the Unix socket that it listens on; [`Ask::to`] says nothing then.
    pub socket: Option<String>,
}

/// How connections to upstreams are kept for the next question. By default they are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// For so long where nothing is asked; zero: they are closed at once.
    pub expire: Duration,
    /// For so long in all; zero: for ever.
    pub age: Duration,
    /// So many at most per upstream; 0: any.
    pub idle: usize,
    /// The address that they come from, datagrams included.
    pub source: Option<IpAddr>,
    /// Who asks wants to know where a question came from: [`Answer::local`].
    pub tells: bool,
}

/// A question to an upstream.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whom.
    pub to: SocketAddr,
    /// How.
    pub via: Via,
    /// What; the server gives it its id.
    pub message: Message,
    /// How long to wait.
    pub timeout: Duration,
    /// For the plugin itself: it comes back with the answer.
    pub tag: u64,
}

/// What came of an [`Ask`].
#[derive(Clone, Debug)]
pub struct Answer {
    /// Who was asked.
    pub from: SocketAddr,
    /// The message, with the id that was sent; whether it is about the same question is for the plugin to see. Or
    /// why there is none.
    pub result: Result<Message, String>,
    /// The messages that follow the first, where a zone was asked for ([`super::Context::ask`], AXFR over TCP).
    pub more: Vec<Message>,
    /// How long it took.
    pub took: Duration,
    /// [`Ask::tag`].
    pub tag: u64,
    /// Whether it went over a connection that was there already; `None`: nobody says.
    pub kept: Option<bool>,
    /// Where the question came from; `None`: nobody wants to know, or there was no connection.
    pub local: Option<SocketAddr>,
}
