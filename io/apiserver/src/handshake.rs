//! Connections: TLS with client certificates, HTTP/1.1 and HTTP/2, until told to stop.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use sealane_registry::rbac::User;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::server::ApiServer;
use crate::shared::{Connection, stopped};

/// A client that has not finished its handshake by then is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);

impl ApiServer {
    /// Accepts connections until [`ApiServer::shut_down`], then lets the open ones finish. Client certificates count
    /// as far as `tls` verifies them: their CN is the user, their O a group.
    pub async fn serve(&self, listener: TcpListener, tls: Arc<ServerConfig>) {
        let acceptor = TlsAcceptor::from(tls);
        let mut stop = std::pin::pin!(stopped(self.0.stop.subscribe()));
        let mut open = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (server, acceptor) = (self.clone(), acceptor.clone());
                        open.spawn(async move { server.connection(stream, acceptor).await });
                    }
                    Err(e) => {
                        // Out of descriptors, mostly: accepting again at once would spin.
                        tracing::warn!("accept: {e}");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_) = open.join_next(), if !open.is_empty() => {}
                () = &mut stop => break,
            }
        }
        drop(listener);
        while open.join_next().await.is_some() {}
    }

    async fn connection(&self, stream: TcpStream, acceptor: TlsAcceptor) {
        // Small frames of watches and streams shall not wait for more.
        let _ = stream.set_nodelay(true);
        let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return tracing::debug!("TLS handshake: {e}"),
            Err(_) => return tracing::debug!("TLS handshake: timed out"),
        };
        let identity = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .and_then(|certificate| sealane_pki::peer_identity(certificate));
        let certificate = identity.map(|i| User { name: i.user, groups: i.groups, ..User::default() });
        let service = self.router().layer(Extension(Connection { certificate }));
        let builder = Builder::new(TokioExecutor::new());
        let connection =
            builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(self.0.stop.subscribe()) => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        };
        if let Err(e) = ended {
            tracing::debug!("connection: {e}");
        }
    }
}
