//! `kuard`: pages and switches to see a Pod from inside, with the paths of the kuard of article 002.

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::web::{Ends, serve, text};

/// Checks that a page shows.
const HISTORY: usize = 20;

/// A probe's switch and what it was asked.
#[derive(Default)]
struct Probe {
    /// Checks to fail from now on; negative: all.
    fail_next: i64,
    /// Status codes given, the newest first.
    history: VecDeque<u16>,
}

impl Probe {
    fn check(&mut self) -> u16 {
        let status = if self.fail_next == 0 { 200 } else { 500 };
        if self.fail_next > 0 {
            self.fail_next -= 1;
        }
        self.history.push_front(status);
        self.history.truncate(HISTORY);
        status
    }
}

#[derive(Default)]
struct State {
    healthy: Mutex<Probe>,
    ready: Mutex<Probe>,
}

/// `kuard [--port 8080]`
pub(crate) fn main(arguments: Vec<String>) -> Result<ExitCode, String> {
    let port = crate::number(&arguments, "--port", "PORT", 8080)?;
    let port = u16::try_from(port).map_err(|_| format!("--port: {port} is above 65535"))?;
    let state = Arc::new(State::default());
    crate::runtime()?.block_on(serve(port, move |request, ends| {
        let state = Arc::clone(&state);
        async move { answer(request, ends, &state).await }
    }))?;
    Ok(ExitCode::SUCCESS)
}

async fn answer(request: Request<Incoming>, ends: Ends, state: &State) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    match path.as_str() {
        "/healthy" => probe(&state.healthy),
        "/ready" => probe(&state.ready),
        "/healthy/api" => switch(&state.healthy, &method, &body),
        "/ready/api" => switch(&state.ready, &method, &body),
        "/healthy/" | "/-/liveness" => page("Liveness Probe", &probe_page("/healthy", &state.healthy)),
        "/ready/" | "/-/readiness" => page("Readiness Probe", &probe_page("/ready", &state.ready)),
        "/env/api" => {
            json_page(&json!({"commandLine": std::env::args().collect::<Vec<_>>(), "env": environment()}))
        }
        "/env" | "/-/env" => page("Server Env", &environment_page()),
        "/dns/api" => query(&body).await,
        "/dns" | "/-/dns" => page("DNS Query", DNS_PAGE),
        "/" => page("Request Details", &request_page(ends)),
        _ => text(404, "404 page not found\n", "text/plain; charset=utf-8"),
    }
}

fn locked(probe: &Mutex<Probe>) -> std::sync::MutexGuard<'_, Probe> {
    // Nothing panics while it holds the lock.
    probe.lock().unwrap_or_else(PoisonError::into_inner)
}

fn probe(probe: &Mutex<Probe>) -> Response<Full<Bytes>> {
    match locked(probe).check() {
        200 => text(200, "ok", "text/plain; charset=utf-8"),
        status => text(status, "fail", "text/plain; charset=utf-8"),
    }
}

/// `GET` shows, `PUT {"failNext": N}` switches: N checks fail, all of them where N is negative.
fn switch(probe: &Mutex<Probe>, method: &Method, body: &[u8]) -> Response<Full<Bytes>> {
    let mut probe = locked(probe);
    if method == Method::PUT || method == Method::POST {
        let wish: Result<Value, _> = serde_json::from_slice(body);
        let Some(n) = wish.ok().and_then(|w| w["failNext"].as_i64()) else {
            return text(400, "expected {\"failNext\": N}\n", "text/plain; charset=utf-8");
        };
        probe.fail_next = n;
    }
    json_page(&json!({"failNext": probe.fail_next, "history": probe.history}))
}

fn json_page(value: &Value) -> Response<Full<Bytes>> {
    text(200, value.to_string(), "application/json")
}

fn environment() -> BTreeMap<String, String> {
    std::env::vars().collect()
}

/// `{"type": "A", "name": "alpaca-prod"}` as kuard's page sends it.
async fn query(body: &[u8]) -> Response<Full<Bytes>> {
    let wish: Value = serde_json::from_slice(body).unwrap_or_default();
    let name = wish["name"].as_str().unwrap_or_default().to_owned();
    let kind = wish["type"].as_str().unwrap_or("A").to_owned();
    let asked = tokio::task::spawn_blocking(move || crate::dig::lookup(&name, &kind)).await;
    let result = match asked {
        Ok(Ok(text)) => text,
        Ok(Err(why)) => why,
        Err(e) => e.to_string(),
    };
    json_page(&json!({"result": result}))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn page(title: &str, body: &str) -> Response<Full<Bytes>> {
    let html = format!(
        "<!doctype html><meta charset=utf-8><title>{title} - {pod}</title>\
         <style>body{{font:16px sans-serif;margin:2em}}td{{padding:.2em 1em .2em 0;font-family:monospace}}</style>\
         <h1>{pod}</h1><p><a href=/>Request Details</a> | <a href=/env>Server Env</a> | <a href=/healthy/>Liveness \
         Probe</a> | <a href=/ready/>Readiness Probe</a> | <a href=/dns>DNS Query</a></p><h2>{title}</h2>{body}",
        pod = escape(&crate::host_name())
    );
    text(200, html, "text/html; charset=utf-8")
}

fn request_page(ends: Ends) -> String {
    format!("<table><tr><td>Client<td>{}<tr><td>Server<td>{}</table>", ends.client, ends.server)
}

fn environment_page() -> String {
    let rows: String =
        environment().iter().map(|(k, v)| format!("<tr><td>{}<td>{}", escape(k), escape(v))).collect();
    format!("<table>{rows}</table>")
}

fn probe_page(path: &str, probe: &Mutex<Probe>) -> String {
    let probe = locked(probe);
    let rows: String = probe.history.iter().map(|s| format!("<tr><td>{s}")).collect();
    let call = |n: i64| {
        format!(
            "fetch('{path}/api',{{method:'PUT',body:'{{\"failNext\":{n}}}'}}).then(()=>location.reload())"
        )
    };
    format!(
        "<p>Checks to fail: {} (negative: all). <button onclick=\"{}\">Fail</button> \
         <button onclick=\"{}\">Succeed</button></p><table>{rows}</table>",
        probe.fail_next,
        call(-1).replace('"', "&quot;"),
        call(0).replace('"', "&quot;"),
    )
}

const DNS_PAGE: &str = "<input id=n placeholder=name><select id=t><option>A<option>AAAA<option>SRV<option>PTR\
    <option>CNAME<option>TXT</select><button onclick=\"fetch('/dns/api',{method:'POST',body:JSON.stringify(\
    {name:n.value,type:t.value})}).then(r=>r.json()).then(r=>o.textContent=r.result)\">Query</button><pre id=o></pre>";
