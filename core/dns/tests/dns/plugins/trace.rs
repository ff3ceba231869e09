//! `trace`: which spans there are of a query, and how they are written.

use sealane_dns::chain::{Parent, ServerAddress, Tracer};
use sealane_dns::plugins::trace::Trace;
use sealane_dns::{Config, Effect, Event, Now, Server, Transport, encode};
use serde_json::Value;

use super::upstream::refused;
use crate::cluster::{ask, ask_at, at, query, server, synced};
use crate::upstreams::{answer, asked, logs};

fn spans(effects: &[Effect]) -> Vec<Value> {
    let texts =
        effects.iter().filter_map(|e| if let Effect::Trace(_, spans) = e { Some(spans) } else { None });
    texts.flatten().map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// `NAME<PARENT begun+took`, times in milliseconds of the test's clock.
fn tree(spans: &[Value]) -> Vec<String> {
    let name =
        |id: &Value| spans.iter().find(|span| span["id"] == *id).map(|span| span["name"].as_str().unwrap());
    let line = |span: &Value| {
        let begun = span["timestamp"].as_u64().unwrap() / 1000 - 1_700_000_000_000;
        let parent =
            span.get("parentId").map(|id| format!("<{}", name(id).unwrap_or("?"))).unwrap_or_default();
        format!(
            "{}{parent} {begun}+{}",
            span["name"].as_str().unwrap(),
            span["duration"].as_u64().unwrap() / 1000
        )
    };
    spans.iter().map(line).collect()
}

fn clock(millis: u64) -> Now {
    Now { nanos: millis as u32 * 1_000_000, ..at(millis) }
}

fn forwarding(trace: &str) -> Server {
    server(&format!(
        ".:53 {{\n metadata\n {trace}\n errors\n log . {{/trace/traceid}}\n cache\n forward . 192.0.2.53 192.0.2.54 {{\n policy sequential\n }}\n}}"
    ))
}

#[test]
fn a_query_and_its_plugins() {
    let mut server = forwarding("trace");
    let first = asked(ask(&mut server, &query("A.example A"), Transport::Udp, clock(1)));
    let second = asked(server.step(Event::Failed { pending: first.pending, why: "gone".into() }, clock(11)));
    let bytes = answer(&second.message, 60);
    let effects = server.step(Event::Answer { pending: second.pending, bytes: &bytes }, clock(31));
    let found = spans(&effects);
    assert_eq!(
        tree(&found),
        [
            "servedns 1+30",
            "errors<servedns 1+30",
            "log<errors 1+30",
            "cache<log 1+30",
            "forward<cache 1+30",
            "connect<forward 1+10",
            "connect<forward 11+20",
        ]
    );
    let own = &found[0];
    assert_eq!(own["kind"], "SERVER");
    assert_eq!(own["localEndpoint"], serde_json::json!({"serviceName": "coredns"}));
    let tags = serde_json::json!({
        "coredns.io/name": "a.example.", "coredns.io/type": "A", "coredns.io/rcode": "NOERROR",
        "coredns.io/proto": "udp", "coredns.io/remote": "10.244.0.9",
    });
    assert_eq!(own["tags"], tags);
    assert_eq!(found[6]["tags"]["peer.address"], "192.0.2.54:53");
    let trace = own["traceId"].as_str().unwrap();
    assert_eq!((trace.len(), logs(&effects)[0]), (16, format!("[INFO] {trace}").as_str()));
    assert!(found.iter().all(|span| span["traceId"] == trace && span.get("shared").is_none()));
    // From the cache, which is no reason to pass it by. Zipkin has no spans of no time.
    let effects = ask(&mut server, &query("A.example A"), Transport::Udp, clock(40));
    assert_eq!(spans(&effects).len(), 4);
    assert_eq!(spans(&effects)[3]["duration"], 1);
    assert!(server.preparation().is_none());
}

#[test]
fn failures() {
    let mut server = forwarding("trace");
    let mut effects = ask(&mut server, &query("a.example A"), Transport::Udp, at(0));
    while effects.iter().any(|effect| matches!(effect, Effect::Ask { .. })) {
        let pending = asked(effects).pending;
        effects = server.step(Event::Failed { pending, why: "\"gone\"\n".into() }, at(0));
    }
    let own = &spans(&effects)[0];
    assert_eq!(own["tags"]["coredns.io/rcode"], "SERVFAIL");
    assert_eq!(own["tags"]["error"], "192.0.2.54:53: \"gone\"\n");
    // Nothing is answered, and yet something happened.
    let mut server = crate::cluster::server(".:53 {\n trace\n acl {\n drop\n }\n whoami\n}");
    let effects = ask(&mut server, &query("a.example A"), Transport::Udp, at(0));
    assert_eq!(tree(&spans(&effects)), ["servedns 0+0", "acl<servedns 0+0"]);
}

#[test]
fn look_ups_are_part_of_what_led_to_them() {
    let mut server = synced(".:53 {\n trace\n kubernetes cluster.local\n forward . 192.0.2.53\n}");
    let asked =
        asked(ask(&mut server, &query("outside.default.svc.cluster.local A"), Transport::Udp, clock(1)));
    let bytes = answer(&asked.message, 60);
    let effects = server.step(Event::Answer { pending: asked.pending, bytes: &bytes }, clock(3));
    assert_eq!(
        tree(&spans(&effects)),
        [
            "servedns 1+2",
            "kubernetes<servedns 1+2",
            "trace<kubernetes 1+2",
            "kubernetes<trace 1+2",
            "forward<kubernetes 1+2",
            "connect<forward 1+2",
        ]
    );
}

#[test]
fn one_of_so_many() {
    for (every, traced) in [("1", "yyyyyy"), ("3", "--y--y"), ("0", "------")] {
        let mut server = server(&format!(".:53 {{\n trace {{\n every {every}\n }}\n whoami\n}}"));
        let mut one = || !spans(&ask(&mut server, &query("a.example A"), Transport::Udp, at(0))).is_empty();
        let found: String = (0..6).map(|_| if one() { 'y' } else { '-' }).collect();
        assert_eq!(found, traced, "{every}");
    }
}

fn traced(line: &str, parent: Parent) -> Vec<Effect> {
    let mut server = server(&format!(".:53 {{\n {line}\n whoami\n}}"));
    let bytes = encode(&query("a.example A"), 512);
    let client = "192.0.2.9:99".parse().unwrap();
    server.step(
        Event::Traced { parent, server: 53.into(), transport: Transport::Tcp, client, bytes: &bytes },
        at(0),
    )
}

#[test]
fn traces_of_others() {
    let parent = |sampled| Parent { trace: 0xa, span: 0xb, parent: Some(0xc), sampled };
    for (line, id, parent_id, shared) in [
        ("trace", None, "000000000000000b", false),
        ("trace {\n client_server\n }", Some("000000000000000b"), "000000000000000c", true),
        ("trace {\n client_server false\n }", None, "000000000000000b", false),
    ] {
        let found = spans(&traced(line, parent(true)));
        assert_eq!(found[0]["traceId"], "000000000000000a");
        assert!(id.is_none_or(|id| found[0]["id"] == id), "{line}");
        assert_eq!(found[0]["parentId"], parent_id, "{line}");
        assert_eq!(found[0].get("shared").is_some(), shared, "{line}");
        assert_eq!(found[1]["parentId"], found[0]["id"]);
        assert!(found[1].get("shared").is_none());
        assert!(spans(&traced(line, parent(false))).is_empty());
    }
    let long = Parent { trace: 1 << 64, ..parent(true) };
    assert_eq!(spans(&traced("trace", long))[0]["traceId"], "00000000000000010000000000000000");
}

#[test]
fn open_telemetry() {
    let mut server = server(
        ".:53 {\n bind 127.0.0.1\n trace otlp collector:4318 {\n service dns\n }\n errors\n acl {\n block type MX\n }\n}",
    );
    let at = ServerAddress { ip: Some([127, 0, 0, 1].into()), ..53.into() };
    let effects = ask_at(&mut server, at, &query("a.example A"), Transport::Udp, clock(5));
    let Some(Effect::Trace(tracer, texts)) = effects.iter().find(|e| matches!(e, Effect::Trace(..))) else {
        panic!("{effects:?}")
    };
    assert_eq!(tracer.url, "http://collector:4318/v1/traces");
    let body: Value = serde_json::from_str(&tracer.body(texts)).unwrap();
    let of = &body["resourceSpans"][0];
    let attribute = |key: &str, value: &str| serde_json::json!({"key": key, "value": {"stringValue": value}});
    let attributes = [attribute("service.name", "dns"), attribute("server.address", "127.0.0.1:53")];
    assert_eq!(of["resource"]["attributes"], Value::Array(attributes.into()));
    let spans = &of["scopeSpans"][0]["spans"];
    assert_eq!(spans.as_array().unwrap().len(), 3);
    let own = &spans[0];
    assert_eq!((own["traceId"].as_str().unwrap().len(), own["spanId"].as_str().unwrap().len()), (32, 16));
    assert_eq!((&own["kind"], &own["name"]), (&Value::from(2), &Value::from("servedns")));
    assert_eq!(own["startTimeUnixNano"], "1700000000005000000");
    assert_eq!(own["status"], serde_json::json!({"code": 2, "message": "no next plugin found"}));
    assert!(own["attributes"].as_array().unwrap().contains(&attribute("coredns.io/name", "a.example.")));
    assert_eq!((&spans[1]["parentSpanId"], &spans[1]["kind"]), (&own["spanId"], &Value::from(1)));
}

#[test]
fn documented_examples() {
    let tracer = |lines: &str| -> Tracer {
        let text = format!(". {{\n {lines}\n}}");
        let config = Config::parse("C", &text, &Default::default(), 53).unwrap();
        let tracer = config.plugins_of::<Trace>().next().unwrap().tracer();
        Tracer::clone(tracer)
    };
    for (line, url) in [
        ("trace", "http://localhost:9411/api/v2/spans"),
        ("trace tracinghost:9253", "http://tracinghost:9253/api/v2/spans"),
        ("trace zipkin tracinghost:9253", "http://tracinghost:9253/api/v2/spans"),
        ("trace Zipkin [2001:db8::1]:9253", "http://[2001:db8::1]:9253/api/v2/spans"),
        ("trace http://tracinghost:9411/zipkin/api/v2/spans", "http://tracinghost:9411/zipkin/api/v2/spans"),
        ("trace otlp https://collector/v1/traces", "https://collector/v1/traces"),
    ] {
        assert_eq!(tracer(line).url, url, "{line}");
    }
    let plain = tracer("trace");
    assert_eq!((plain.batch, plain.backlog, plain.interval.as_secs(), plain.shared), (100, 1000, 1, false));
    let all = tracer(
        "bind 192.0.2.1\n trace tracinghost:9411 {\n every 10000\n service dnsproxy\n client_server\n \
         zipkin_max_backlog_size 7\n zipkin_max_batch_size 3\n zipkin_max_batch_interval 2s\n }",
    );
    assert_eq!((all.batch, all.backlog, all.interval.as_secs(), all.shared), (3, 7, 2, true));
    assert_eq!((all.service.as_str(), all.endpoint), ("dnsproxy", Some("192.0.2.1:53".parse().unwrap())));
}

#[test]
fn refused_lines() {
    let datadog =
        "Datadog's own protocol is not Sealane's; its agent takes OpenTelemetry's: trace otlp HOST:4318";
    for (lines, error) in [
        ("trace datadog localhost:8126", format!("2:7: {datadog}")),
        ("trace {\n datadog_analytics_rate 0.5\n}", format!("3:2: {datadog}")),
        ("trace jaeger h:1", "2:7: 'jaeger' is nothing to trace to (zipkin, otlp)".into()),
        ("trace otlp", "2:7: 'trace otlp' needs an endpoint".into()),
        ("trace zipkin a b", "2:16: 'trace' takes no 'b'".into()),
        ("trace ftp://a", "2:7: 'ftp://a' is neither HOST:PORT nor a URL with http:// or https://".into()),
        ("trace a:b", "2:7: 'a:b' is neither HOST:PORT nor a URL with http:// or https://".into()),
        ("trace http://", "2:7: 'http://' is neither HOST:PORT nor a URL with http:// or https://".into()),
        ("trace ::1", "2:7: '::1' is neither HOST:PORT nor a URL with http:// or https://".into()),
        ("trace {\n every\n}", "3:2: 'every' needs a number of queries".into()),
        ("trace {\n every -1\n}", "3:8: '-1' is no number of queries".into()),
        ("trace {\n service a b\n}", "3:12: 'service' takes one name".into()),
        ("trace {\n client_server maybe\n}", "3:16: 'maybe' is neither true nor false".into()),
        ("trace {\n client_server 1 1\n}", "3:18: 'client_server' takes no '1'".into()),
        (
            "trace otlp h:1 {\n client_server\n}",
            "3:2: 'client_server' is Zipkin's: OpenTelemetry's spans are nobody else's".into(),
        ),
        (
            "trace otlp h:1 {\n zipkin_max_batch_size 7\n}",
            "3:2: 'zipkin_max_batch_size' is not for what this line traces to; otlp_… is".into(),
        ),
        ("trace {\n zipkin_max_batch_size x\n}", "3:24: 'x' is no number".into()),
        ("trace {\n zipkin_max_batch_interval 7\n}", "3:28: '7' is no duration (5s, 1m30s, 500ms)".into()),
        ("trace {\n rate 1\n}", "3:2: option 'rate' of 'trace' is unknown, or not Sealane's yet".into()),
        ("trace\ntrace", "3:1: plugin 'trace' stands twice in this server block".into()),
    ] {
        assert_eq!(refused(lines), format!("Corefile:{error}"), "{lines}");
    }
}
