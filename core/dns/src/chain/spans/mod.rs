//! What happens to a query, and when: spans of a trace, as OpenTelemetry and Zipkin know them.

mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Now;

/// Spans of one query at most.
const MOST: usize = 256;

/// What spans are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Zipkin's JSON, version 2.
    Zipkin,
    /// OpenTelemetry's protocol, in JSON over HTTP.
    Otlp,
}

/// Somebody who collects spans.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tracer {
    /// Where they are posted to: `http://` or `https://`, a host, perhaps a port, a path.
    pub url: String,
    /// How they are written.
    pub form: Form,
    /// What the server is called there.
    pub service: String,
    /// Where the server is, as far as its configuration says.
    pub endpoint: Option<SocketAddr>,
    /// The server's span is the client's (Zipkin's shared spans).
    pub shared: bool,
    /// So many are posted at once.
    pub batch: usize,
    /// So many wait at most; the oldest are let go.
    pub backlog: usize,
    /// They wait for so long at most.
    pub interval: Duration,
}

impl Tracer {
    /// A body to post, of spans that [`Spans::done`] wrote.
    pub fn body<'a>(&self, spans: impl IntoIterator<Item = &'a String>) -> String {
        text::body(self, &spans.into_iter().map(String::as_str).collect::<Vec<_>>().join(","))
    }
}

/// The span of somebody else that a query is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The whole trace.
    pub trace: u128,
    /// The span.
    pub span: u64,
    /// That one's own parent.
    pub parent: Option<u64>,
    /// Whether anybody wants to know at all.
    pub sampled: bool,
}

impl Parent {
    /// From a request's headers: Zipkin's (`X-B3-…`, or `b3` alone), or the W3C's (`traceparent`).
    pub fn from_headers<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let span = |text: &str| u64::from_str_radix(text, 16).ok();
        if let Some(trace) = header("x-b3-traceid") {
            return Some(Parent {
                trace: u128::from_str_radix(trace, 16).ok()?,
                span: span(header("x-b3-spanid")?)?,
                parent: header("x-b3-parentspanid").and_then(span),
                sampled: !matches!(header("x-b3-sampled"), Some("0" | "false"))
                    || header("x-b3-flags") == Some("1"),
            });
        }
        let (text, trace_at) = match (header("b3"), header("traceparent")) {
            (Some(text), _) => (text, 0),
            (None, text) => (text?, 1),
        };
        let parts: Vec<&str> = text.split('-').collect();
        let trace = u128::from_str_radix(parts.get(trace_at)?, 16).ok()?;
        let id = span(parts.get(trace_at + 1)?)?;
        let rest = parts.get(trace_at + 2).copied();
        let (parent, sampled) = match trace_at {
            0 => (parts.get(3).copied().and_then(span), rest != Some("0")),
            _ => (None, span(rest?)? & 1 == 1),
        };
        (trace != 0 && id != 0).then_some(Parent { trace, span: id, parent, sampled })
    }
}

#[derive(Clone, Debug)]
struct Span {
    id: u64,
    parent: Option<u64>,
    name: &'static str,
    begun: Duration,
    ended: Duration,
    tags: Vec<(&'static str, String)>,
}

/// How deep a look-up is, and the place of a plugin in the chain.
type Place = (u8, usize);

/// What happens to one query. The times are those of the steps in which things happened: what a plugin does without
/// waiting takes none.
#[derive(Clone, Debug)]
pub struct Spans {
    tracer: Arc<Tracer>,
    trace: u128,
    /// The first is the query's own.
    all: Vec<Span>,
    /// Those that have not ended, each with its place.
    open: Vec<(Place, usize)>,
    ids: u64,
    /// 1970 on the clock of steps, backwards.
    epoch: Duration,
    shared: bool,
}

impl Spans {
    /// The query's own span begins.
    pub fn new(
        tracer: Arc<Tracer>,
        name: &'static str,
        parent: Option<&Parent>,
        place: Place,
        random: [u64; 2],
        now: Now,
    ) -> Self {
        // OpenTelemetry's traces have numbers of 128 bits, Zipkin's of 64 by default.
        let high = if tracer.form == Form::Otlp { u128::from(random[1]) << 64 } else { 0 };
        let epoch = Duration::new(now.unix, now.nanos).saturating_sub(now.monotonic);
        let trace = parent.map_or(high | u128::from(random[0]), |parent| parent.trace);
        let shared = tracer.shared && parent.is_some();
        let ids = random[0] ^ random[1].rotate_left(32);
        let mut spans = Spans { tracer, trace, all: Vec::new(), open: Vec::new(), ids, epoch, shared };
        spans.begin(name, place, now);
        if let (Some(parent), Some(span)) = (parent, spans.all.first_mut()) {
            (span.id, span.parent) =
                if shared { (parent.span, parent.parent) } else { (span.id, Some(parent.span)) };
        }
        spans
    }

    /// The trace's number in hexadecimal digits.
    pub fn trace(&self) -> String {
        text::trace(self.trace, self.tracer.form)
    }

    fn id(&mut self) -> u64 {
        // One step of splitmix64; 0 is none.
        self.ids = self.ids.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.ids;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).max(1)
    }

    /// Something begins, as part of what has begun last and not ended.
    pub fn begin(&mut self, name: &'static str, place: Place, now: Now) {
        if self.all.len() >= MOST {
            return;
        }
        let id = self.id();
        let parent = self.open.last().map(|(_, at)| self.all[*at].id);
        let begun = now.monotonic + self.epoch;
        self.open.push((place, self.all.len()));
        self.all.push(Span { id, parent, name, begun, ended: begun, tags: Vec::new() });
    }

    /// Says something of what has begun last and not ended.
    pub fn tag(&mut self, name: &'static str, value: impl Into<String>) {
        if let Some((_, at)) = self.open.last() {
            self.all[*at].tags.push((name, value.into()));
        }
    }

    /// All that has begun behind this place ends.
    pub fn end(&mut self, place: Place, now: Now) {
        while let Some((_, at)) = self.open.pop_if(|(open, _)| *open > place) {
            self.all[at].ended = now.monotonic + self.epoch;
        }
    }

    /// All of it ends; each span as it is written in a body.
    pub fn done(mut self, now: Now) -> (Arc<Tracer>, Vec<String>) {
        while let Some((_, at)) = self.open.pop() {
            self.all[at].ended = now.monotonic + self.epoch;
        }
        let texts = self.all.iter().enumerate().map(|(at, span)| text::span(&self, span, at == 0));
        (self.tracer.clone(), texts.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents() {
        let parent = |trace, span, parent, sampled| Some(Parent { trace, span, parent, sampled });
        let w3c = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
        for (headers, found) in [
            (&[("x-b3-traceid", "a"), ("x-b3-spanid", "b")][..], parent(10, 11, None, true)),
            (
                &[
                    ("x-b3-traceid", "a"),
                    ("x-b3-spanid", "b"),
                    ("x-b3-parentspanid", "c"),
                    ("x-b3-sampled", "0"),
                ],
                parent(10, 11, Some(12), false),
            ),
            (
                &[("x-b3-traceid", "a"), ("x-b3-spanid", "b"), ("x-b3-sampled", "0"), ("x-b3-flags", "1")],
                parent(10, 11, None, true),
            ),
            (&[("b3", "a-b")], parent(10, 11, None, true)),
            (&[("b3", "a-b-0-c")], parent(10, 11, Some(12), false)),
            (&[("traceparent", w3c)], parent(trace, 0xb7ad_6b71_6920_3331, None, true)),
            (
                &[("traceparent", &w3c.replace("-01", "-00"))],
                parent(trace, 0xb7ad_6b71_6920_3331, None, false),
            ),
            (&[("x-b3-traceid", "a")], None),
            (&[("x-b3-traceid", "x"), ("x-b3-spanid", "b")], None),
            (&[("b3", "0")], None),
            (&[("traceparent", "00-0-0-01")], None),
            (&[("traceparent", "")], None),
            (&[], None),
        ] {
            let header =
                |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            assert_eq!(Parent::from_headers(header), found, "{headers:?}");
        }
    }
}
