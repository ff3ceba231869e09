//! Spans in JSON: Zipkin's (`zipkin2-api.yaml`) and OpenTelemetry's (OTLP/HTTP).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Form, Span, Spans, Tracer};

/// A string with what JSON wants to have escaped.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // Writing to a String cannot fail.
            c if c < ' ' => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A trace's number: 16 hexadecimal digits where they are enough for Zipkin, else 32.
pub(super) fn trace(number: u128, form: Form) -> String {
    match u64::try_from(number) {
        Ok(number) if form == Form::Zipkin => format!("{number:016x}"),
        _ => format!("{number:032x}"),
    }
}

/// `,"KEY":VALUE`, where there is a value.
fn field(out: &mut String, key: &str, value: Option<String>) {
    if let Some(value) = value {
        let _ = write!(out, ",\"{key}\":{value}");
    }
}

pub(super) fn span(spans: &Spans, span: &Span, own: bool) -> String {
    let trace = trace(spans.trace, spans.tracer.form);
    let hex = |id: u64| format!("\"{id:016x}\"");
    let error = span.tags.iter().find(|(name, _)| *name == "error");
    match spans.tracer.form {
        Form::Zipkin => {
            let micros = |time: Duration| time.as_micros().to_string();
            let took = span.ended.saturating_sub(span.begun).max(Duration::from_micros(1));
            let mut out = format!("{{\"traceId\":\"{trace}\",\"id\":{}", hex(span.id));
            field(&mut out, "parentId", span.parent.map(hex));
            field(&mut out, "kind", own.then(|| "\"SERVER\"".to_owned()));
            field(&mut out, "shared", (own && spans.shared).then(|| "true".to_owned()));
            field(&mut out, "name", Some(quoted(span.name)));
            field(&mut out, "timestamp", Some(micros(span.begun)));
            field(&mut out, "duration", Some(micros(took)));
            field(&mut out, "localEndpoint", Some(endpoint(&spans.tracer)));
            let tags: Vec<String> =
                span.tags.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
            field(&mut out, "tags", (!tags.is_empty()).then(|| format!("{{{}}}", tags.join(","))));
            out + "}"
        }
        Form::Otlp => {
            let nanos = |time: Duration| format!("\"{}\"", time.as_nanos());
            let mut out = format!("{{\"traceId\":\"{trace}\",\"spanId\":{}", hex(span.id));
            field(&mut out, "parentSpanId", span.parent.map(hex));
            field(&mut out, "name", Some(quoted(span.name)));
            // SERVER, and INTERNAL.
            field(&mut out, "kind", Some(if own { "2" } else { "1" }.to_owned()));
            field(&mut out, "startTimeUnixNano", Some(nanos(span.begun)));
            field(&mut out, "endTimeUnixNano", Some(nanos(span.ended)));
            let tags: Vec<String> = span.tags.iter().map(|(name, value)| attribute(name, value)).collect();
            field(&mut out, "attributes", (!tags.is_empty()).then(|| format!("[{}]", tags.join(","))));
            let status = |(_, why): &(&str, String)| format!("{{\"code\":2,\"message\":{}}}", quoted(why));
            field(&mut out, "status", error.map(status));
            out + "}"
        }
    }
}

fn attribute(name: &str, value: &str) -> String {
    format!("{{\"key\":{},\"value\":{{\"stringValue\":{}}}}}", quoted(name), quoted(value))
}

fn endpoint(tracer: &Tracer) -> String {
    let mut out = format!("{{\"serviceName\":{}", quoted(&tracer.service));
    let family = |at: SocketAddr| if at.is_ipv4() { "ipv4" } else { "ipv6" };
    if let Some(at) = tracer.endpoint {
        let _ = write!(out, ",\"{}\":\"{}\",\"port\":{}", family(at), at.ip(), at.port());
    }
    out + "}"
}

pub(super) fn body(tracer: &Tracer, spans: &str) -> String {
    match tracer.form {
        Form::Zipkin => format!("[{spans}]"),
        Form::Otlp => {
            let mut of = attribute("service.name", &tracer.service);
            if let Some(at) = tracer.endpoint {
                let _ = write!(of, ",{}", attribute("server.address", &at.to_string()));
            }
            format!(
                "{{\"resourceSpans\":[{{\"resource\":{{\"attributes\":[{of}]}},\"scopeSpans\":[{{\"scope\":\
                 {{\"name\":\"sealane-dns\"}},\"spans\":[{spans}]}}]}}]}}"
            )
        }
    }
}
