//! What connections may take.

use std::time::Duration;

use sealane_dns::chain::{HttpServer, Timeouts};

/// How long a connection may take for what, and how much it may ask (`timeouts`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// For the first message to arrive, from its start; for HTTPS: for each request.
    pub(crate) read: Duration,
    /// For an answer to leave.
    pub(crate) write: Duration,
    /// For each message after the first to arrive, from the last answer.
    pub(crate) idle: Duration,
    /// Messages; `u32::MAX`: as many as there are.
    pub(crate) queries: u32,
    /// Over HTTP: connections, and requests at once on one of them.
    pub(crate) http: HttpServer,
}

impl Default for Limits {
    /// `NewServer` in core/dnsserver/server.go.
    fn default() -> Self {
        let [read, write, idle] = [3, 5, 10].map(Duration::from_secs);
        Limits { read, write, idle, queries: u32::MAX, http: HttpServer::default() }
    }
}

impl Limits {
    /// Takes what a server block says: of several blocks on one port the last has its way.
    pub(crate) fn take(&mut self, said: &Timeouts) {
        self.read = said.read.unwrap_or(self.read);
        self.write = said.write.unwrap_or(self.write);
        self.idle = said.idle.unwrap_or(self.idle);
        self.queries = said.tcp_queries.unwrap_or(self.queries);
    }
}
