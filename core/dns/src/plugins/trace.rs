//! `trace`: what happens to queries, as spans for Zipkin or OpenTelemetry (`plugin/trace`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::chain::args::{duration, err, no_more, number, one, unknown};
use crate::chain::spans::Form;
use crate::chain::{Context, Failure, Flow, Note, Passage, Plugin, Query, Setup, Spans, Tracer, Up};
use crate::corefile::{CorefileError, Directive, Token};
use crate::message::{Message, rcode, rtype};

/// The query's own span (trace.go's `defaultTopLevelSpanName`).
const NAME: &str = "servedns";
/// zipkin-go's reporter.
const BATCH: usize = 100;
const BACKLOG: usize = 1000;
const INTERVAL: Duration = Duration::from_secs(1);

/// `trace`, with how many queries it has seen.
#[derive(Debug)]
pub struct Trace {
    tracer: Arc<Tracer>,
    /// Of so many queries one is traced; 0: none.
    every: u64,
    seen: u64,
}

/// `trace [zipkin|otlp] [ENDPOINT] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let (form, url) = match d.args.as_slice() {
        [] => (Form::Zipkin, url(&d.name, "localhost:9411", Form::Zipkin)?),
        // As a host's name it would be Zipkin's; nobody means that.
        [word] if word.text == "otlp" => return err(word, "'trace otlp' needs an endpoint"),
        [at] => (Form::Zipkin, url(at, &at.text, Form::Zipkin)?),
        [kind, at, rest @ ..] => {
            no_more("trace", rest)?;
            let form = form(kind)?;
            (form, url(at, &at.text, form)?)
        }
    };
    // Where it is bound to one address the server has that one (setup.go).
    let port = setup.keys.first().map_or(0, |key| key.port);
    let endpoint = setup.settings.bind.first().map(|ip| SocketAddr::new(*ip, port));
    let mut tracer = Tracer {
        url,
        form,
        service: "coredns".to_owned(),
        endpoint,
        shared: false,
        batch: BATCH,
        backlog: BACKLOG,
        interval: INTERVAL,
    };
    let mut every = 1;
    for option in d.block.iter().flatten() {
        option_of(&mut tracer, &mut every, option)?;
    }
    setup.add(Trace { tracer: Arc::new(tracer), every, seen: 0 });
    Ok(())
}

fn option_of(tracer: &mut Tracer, every: &mut u64, option: &Directive) -> Result<(), CorefileError> {
    let name = option.name.text.as_str();
    let (own, other) = match tracer.form {
        Form::Zipkin => ("zipkin_", "otlp_"),
        Form::Otlp => ("otlp_", "zipkin_"),
    };
    // 0 stands for the default (`setupZipkin`).
    let size = |default: usize| match number(one(option, "number")?, "number")? {
        0 => Ok(default),
        size => Ok(size),
    };
    match name {
        "every" => *every = number(one(option, "number of queries")?, "number of queries")?,
        "service" => tracer.service = one(option, "name")?.text.clone(),
        "client_server" if tracer.form == Form::Otlp => {
            return err(&option.name, "'client_server' is Zipkin's: OpenTelemetry's spans are nobody else's");
        }
        "client_server" => {
            tracer.shared = match option.args.as_slice() {
                [] => true,
                [token] => boolean(token)?,
                [_, extra, ..] => return err(extra, format!("'client_server' takes no '{}'", extra.text)),
            }
        }
        "datadog_analytics_rate" => return err(&option.name, DATADOG),
        _ if name.starts_with(other) => {
            return err(&option.name, format!("'{name}' is not for what this line traces to; {own}… is"));
        }
        _ => match name.strip_prefix(own) {
            Some("max_backlog_size") => tracer.backlog = size(BACKLOG)?,
            Some("max_batch_size") => tracer.batch = size(BATCH)?,
            Some("max_batch_interval") => {
                let interval = duration(one(option, "duration")?)?;
                tracer.interval = if interval.is_zero() { INTERVAL } else { interval };
            }
            _ => return unknown("trace", option),
        },
    }
    Ok(())
}

const DATADOG: &str =
    "Datadog's own protocol is not Sealane's; its agent takes OpenTelemetry's: trace otlp HOST:4318";

fn form(token: &Token) -> Result<Form, CorefileError> {
    match token.text.to_ascii_lowercase().as_str() {
        "zipkin" => Ok(Form::Zipkin),
        "otlp" => Ok(Form::Otlp),
        "datadog" => err(token, DATADOG),
        _ => err(token, format!("'{}' is nothing to trace to (zipkin, otlp)", token.text)),
    }
}

/// Go's `strconv.ParseBool`.
fn boolean(token: &Token) -> Result<bool, CorefileError> {
    match token.text.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => err(token, format!("'{other}' is neither true nor false")),
    }
}

/// `http(s)://…` as it is, else a host and a port, with the path that there is for it.
fn url(token: &Token, text: &str, form: Form) -> Result<String, CorefileError> {
    let path = match form {
        Form::Zipkin => "/api/v2/spans",
        Form::Otlp => "/v1/traces",
    };
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}{path}") };
    let rest = whole.strip_prefix("http://").or_else(|| whole.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split('/').next().unwrap_or(rest)).unwrap_or("");
    // What is behind the last colon is a port, unless it is in an address in brackets.
    let port = host.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    let (name, port) = port.map_or((host, None), |(name, port)| (name, Some(port)));
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let good = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    let fine = !bare.is_empty() && bare.chars().all(good) && (!bare.contains(':') || bare != name);
    if !fine
        || port.is_some_and(|port| port.parse::<u16>().is_err())
        || !whole.bytes().all(|b| b.is_ascii_graphic())
    {
        return err(token, format!("'{text}' is neither HOST:PORT nor a URL with http:// or https://"));
    }
    Ok(whole)
}

/// In the note of queries whose trace began here.
struct Begun;

impl Trace {
    /// Who collects the spans.
    pub fn tracer(&self) -> &Arc<Tracer> {
        &self.tracer
    }

    fn over(query: &mut Query, note: &mut Note, code: u16, why: Option<&str>, cx: &mut Context<'_>) {
        let Some(mut spans) = note.take::<Begun>().and_then(|_| query.spans.take()) else { return };
        let question = query.question();
        spans.tag("coredns.io/name", question.name.to_lowercase().to_string());
        spans.tag("coredns.io/type", rtype::name(question.rtype));
        spans.tag("coredns.io/proto", query.transport.as_str());
        spans.tag("coredns.io/remote", query.client.ip().to_string());
        spans.tag("coredns.io/rcode", rcode::name(code));
        if let Some(why) = why {
            spans.tag("error", why);
        }
        let (tracer, spans) = spans.done(cx.now);
        cx.trace(tracer, spans);
    }
}

impl Plugin for Trace {
    fn passage(&self) -> Passage {
        if self.every == 0 { Passage::Open } else { Passage::Varies }
    }

    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        self.seen = self.seen.wrapping_add(1);
        let turn = self.every > 0 && self.seen.is_multiple_of(self.every);
        let wanted = query.parent.as_ref().is_none_or(|parent| parent.sampled);
        // A look-up is part of the trace that led to it.
        if !turn || !wanted || query.spans.is_some() {
            return Flow::Next;
        }
        let (random, place) = ([cx.random(), cx.random()], (query.depth, query.place));
        let spans = Spans::new(self.tracer.clone(), NAME, query.parent.as_deref(), place, random, cx.now);
        if query.block.plugins.contains(&"metadata") {
            query.set_label("trace/traceid", spans.trace());
        }
        query.spans = Some(Box::new(spans));
        note.set(Begun);
        Flow::Next
    }

    fn up(&mut self, query: &mut Query, note: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        Trace::over(query, note, reply.rcode, None, cx);
        Up::Pass
    }

    fn dropped(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) {
        Trace::over(query, note, rcode::NOERROR, None, cx);
    }

    fn failed(&mut self, query: &mut Query, note: &mut Note, failure: &Failure, cx: &mut Context<'_>) -> Up {
        Trace::over(query, note, failure.rcode, failure.why.as_deref(), cx);
        Up::Pass
    }
}
