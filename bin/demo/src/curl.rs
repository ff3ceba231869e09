//! `curl URL…`: HTTP/1.1 without TLS, with the flags that people type most.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

#[derive(Default)]
struct Wish {
    urls: Vec<String>,
    method: Option<String>,
    headers: Vec<(String, String)>,
    body: Option<String>,
    output: Option<String>,
    head: bool,
    include: bool,
    fail: bool,
    verbose: bool,
    write_out: Option<String>,
    timeout: Option<f64>,
}

fn parse(arguments: Vec<String>) -> Result<Wish, String> {
    let mut wish = Wish::default();
    let mut rest = arguments.into_iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("option {word}: requires parameter"));
        match word.as_str() {
            "-X" | "--request" => wish.method = Some(value()?),
            "-H" | "--header" => {
                let header = value()?;
                let (name, text) = header.split_once(':').ok_or_else(|| format!("bad header {header:?}"))?;
                wish.headers.push((name.trim().into(), text.trim().into()));
            }
            "-d" | "--data" => wish.body = Some(value()?),
            "-o" | "--output" => wish.output = Some(value()?),
            "-w" | "--write-out" => wish.write_out = Some(value()?),
            "-m" | "--max-time" | "--connect-timeout" => {
                let text = value()?;
                wish.timeout = Some(text.parse().map_err(|_| format!("{word}: {text:?} is not a number"))?);
            }
            other if other.starts_with("--") => match other {
                "--silent" | "--show-error" | "--location" => {}
                "--fail" => wish.fail = true,
                "--head" => wish.head = true,
                "--include" => wish.include = true,
                "--verbose" => wish.verbose = true,
                _ => return Err(format!("option {other}: is unknown")),
            },
            other if other.starts_with('-') => {
                for letter in other[1..].chars() {
                    match letter {
                        's' | 'S' | 'L' | 'k' => {}
                        'f' => wish.fail = true,
                        'I' => wish.head = true,
                        'i' => wish.include = true,
                        'v' => wish.verbose = true,
                        _ => return Err(format!("option -{letter}: is unknown")),
                    }
                }
            }
            _ => wish.urls.push(word),
        }
    }
    if wish.urls.is_empty() {
        return Err("no URL specified".into());
    }
    Ok(wish)
}

/// The program; its exit status is curl's (6 no such host, 7 no connection, 22 an error page with -f, 28 too late).
pub(crate) fn main(arguments: Vec<String>) -> Result<ExitCode, String> {
    let wish = parse(arguments)?;
    crate::runtime()?.block_on(async {
        for url in &wish.urls {
            let work = fetch(&wish, url);
            let result = match wish.timeout {
                Some(seconds) => tokio::time::timeout(Duration::from_secs_f64(seconds.max(0.0)), work)
                    .await
                    .unwrap_or_else(|_| Err((28, format!("Operation timed out after {seconds} seconds")))),
                None => work.await,
            };
            if let Err((code, why)) = result {
                eprintln!("curl: ({code}) {why}");
                return Ok(ExitCode::from(code));
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn fetch(wish: &Wish, url: &str) -> Result<(), (u8, String)> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let uri: Uri = url.parse().map_err(|_| (3, format!("URL rejected: {url}")))?;
    if uri.scheme_str() != Some("http") {
        return Err((1, format!("Protocol {:?} not supported", uri.scheme_str().unwrap_or(""))));
    }
    let host = uri.host().ok_or((3, "URL rejected: No host part in the URL".to_owned()))?.to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let addresses = tokio::net::lookup_host((host.trim_matches(['[', ']']), port))
        .await
        .map_err(|_| (6, format!("Could not resolve host: {host}")))?;
    let mut stream = None;
    let mut why = String::from("no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(connected) => {
                stream = Some(connected);
                break;
            }
            Err(e) => why = e.to_string(),
        }
    }
    let stream = stream.ok_or_else(|| (7, format!("Failed to connect to {host} port {port}: {why}")))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| (56, e.to_string()))?;
    tokio::spawn(connection);
    let default = if wish.head {
        "HEAD"
    } else if wish.body.is_some() {
        "POST"
    } else {
        "GET"
    };
    let method = wish.method.as_deref().unwrap_or(default);
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| (3, format!("bad method {method:?}")))?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let authority = uri.authority().map_or(host.as_str(), |a| a.as_str());
    let mut request = Request::builder().method(method).uri(path).header("host", authority);
    request = request.header("user-agent", "curl/8 (sealane)").header("accept", "*/*");
    for (name, value) in &wish.headers {
        request = request.header(name, value);
    }
    let body = Full::new(Bytes::from(wish.body.clone().unwrap_or_default()));
    let request = request.body(body).map_err(|e| (3, e.to_string()))?;
    let response =
        sender.send_request(request).await.map_err(|e| (52, format!("Empty reply from server: {e}")))?;
    show(wish, response).await
}

async fn show(wish: &Wish, response: http::Response<hyper::body::Incoming>) -> Result<(), (u8, String)> {
    let status = response.status();
    let write = |e: std::io::Error| (23, format!("Failure writing output: {e}"));
    let mut out: Box<dyn Write> = match &wish.output {
        Some(file) => Box::new(std::fs::File::create(file).map_err(write)?),
        None => Box::new(std::io::stdout()),
    };
    if wish.head || wish.include {
        write!(out, "HTTP/1.1 {status}\r\n").map_err(write)?;
        for (name, value) in response.headers() {
            write!(out, "{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())).map_err(write)?;
        }
        out.write_all(b"\r\n").map_err(write)?;
    }
    if wish.verbose {
        eprintln!("< HTTP/1.1 {status}");
    }
    if wish.fail && status.as_u16() >= 400 {
        return Err((22, format!("The requested URL returned error: {}", status.as_u16())));
    }
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| (18, format!("transfer closed: {e}")))?;
        if let Ok(bytes) = frame.into_data() {
            out.write_all(&bytes).map_err(write)?;
        }
    }
    out.flush().map_err(write)?;
    if let Some(format) = &wish.write_out {
        let text = format.replace("%{http_code}", status.as_str()).replace("\\n", "\n");
        print!("{text}");
    }
    Ok(())
}
