//! The server: `Hello` and the standard health check.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::{Answer, HELLO, Hello};

#[derive(Clone)]
struct Greeter {
    pod: Arc<str>,
    served: Arc<AtomicU64>,
}

impl NamedService for Greeter {
    const NAME: &str = "sealane.demo.Greeter";
}

impl UnaryService<Hello> for Greeter {
    type Response = Answer;
    type Future = Ready<Result<Response<Answer>, Status>>;
    fn call(&mut self, _: Request<Hello>) -> Self::Future {
        self.served.fetch_add(1, Ordering::Relaxed);
        ready(Ok(Response::new(Answer { pod: self.pod.to_string() })))
    }
}

impl Service<http::Request<Body>> for Greeter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let greeter = self.clone();
        Box::pin(async move {
            if request.uri().path() == HELLO {
                let mut grpc = Grpc::new(ProstCodec::<Answer, Hello>::default());
                Ok(grpc.unary(greeter, request).await)
            } else {
                Ok(Status::unimplemented("no such method").into_http())
            }
        })
    }
}

/// `grpc.health.v1`'s request.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// And its answer; 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthAnswer {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone)]
struct Health;

impl NamedService for Health {
    const NAME: &str = "grpc.health.v1.Health";
}

impl UnaryService<HealthRequest> for Health {
    type Response = HealthAnswer;
    type Future = Ready<Result<Response<HealthAnswer>, Status>>;
    fn call(&mut self, request: Request<HealthRequest>) -> Self::Future {
        match request.get_ref().service.as_str() {
            "" | Greeter::NAME => ready(Ok(Response::new(HealthAnswer { status: 1 }))),
            other => ready(Err(Status::not_found(format!("unknown service {other}")))),
        }
    }
}

impl Service<http::Request<Body>> for Health {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() == "/grpc.health.v1.Health/Check" {
                let mut grpc = Grpc::new(ProstCodec::<HealthAnswer, HealthRequest>::default());
                Ok(grpc.unary(Health, request).await)
            } else {
                Ok(Status::unimplemented("no such method").into_http())
            }
        })
    }
}

/// Serves until TERM; says each second how many calls there were, where there were any.
pub(super) async fn serve(port: u16) -> Result<(), String> {
    let greeter = Greeter { pod: crate::host_name().into(), served: Arc::default() };
    let (pod, served) = (Arc::clone(&greeter.pod), Arc::clone(&greeter.served));
    println!("{pod}: listening on :{port}");
    tokio::spawn(async move {
        let mut said = 0;
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            let now = served.load(Ordering::Relaxed);
            if now != said {
                println!("{pod}: {} calls, {now} in all", now - said);
                said = now;
            }
        }
    });
    tonic::transport::Server::builder()
        .add_service(greeter)
        .add_service(Health)
        .serve_with_shutdown((std::net::Ipv6Addr::UNSPECIFIED, port).into(), crate::terminated())
        .await
        .map_err(|e| format!("port {port}: {e}"))
}
