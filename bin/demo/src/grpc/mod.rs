//! `grpc-server` and `grpc-client`: one method, whose answer names the Pod that gave it.

mod channel;
mod client;
mod server;

use std::process::ExitCode;

/// What the client says.
#[derive(Clone, PartialEq, prost::Message)]
struct Hello {
    #[prost(string, tag = "1")]
    name: String,
}

/// Who answers.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(string, tag = "1")]
    pod: String,
}

const HELLO: &str = "/sealane.demo.Greeter/Hello";

/// `grpc-server [--port 8001]`
pub(crate) fn server(arguments: Vec<String>) -> Result<ExitCode, String> {
    let port = crate::number(&arguments, "--port", "PORT", 8001)?;
    let port = u16::try_from(port).map_err(|_| format!("--port: {port} is above 65535"))?;
    crate::runtime()?.block_on(server::serve(port))?;
    Ok(ExitCode::SUCCESS)
}

/// `grpc-client [HOST:PORT] [--calls N] [--threads 10] [--once]`
pub(crate) fn client(arguments: Vec<String>) -> Result<ExitCode, String> {
    let calls = crate::number(&arguments, "--calls", "CALLS", 1_000_000)?;
    let threads = crate::number(&arguments, "--threads", "THREADS", 10)?.max(1);
    let named = arguments.first().filter(|a| !a.starts_with('-')).cloned();
    let target = named
        .or_else(|| std::env::var("SERVER_HOST").ok())
        .ok_or("which server? Give HOST:PORT, or set SERVER_HOST")?;
    let once = arguments.iter().any(|a| a == "--once");
    crate::runtime()?.block_on(client::run(&target, calls, threads, once))?;
    Ok(ExitCode::SUCCESS)
}
