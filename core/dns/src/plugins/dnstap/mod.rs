//! `dnstap`: shows queries and answers to who looks on (`plugin/dnstap`, dnstap.info).

mod payload;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::log::{Format, OF_ANSWERS};
use crate::chain::args::{err, no_more, number, one, unknown};
use crate::chain::tap::{Socket, Tap, Way};
use crate::chain::{Context, Flow, Note, Now, Plugin, Query, Setup, Transport, Up};
use crate::corefile::{CorefileError, Directive, Token};
use crate::message::{Message, encode};
use payload::{Kind, Payload};

/// What `[writebuffer]` counts, octets, and how many at most (setup.go, io.go).
const BUFFER: usize = 1 << 20;
const MOST_BUFFERS: usize = 1024;
/// What `[queue]` counts, messages, and how many at most.
const QUEUE: usize = 10_000;
const MOST_QUEUES: usize = 4096;

/// One line: somebody who looks on.
#[derive(Debug)]
pub struct Dnstap {
    tap: Arc<Tap>,
    /// Messages are shown whole.
    full: bool,
    /// `None`: the machine's name.
    identity: Option<String>,
    /// `None`: Sealane's.
    version: Option<String>,
    extra: Option<Format>,
}

/// `dnstap [listen] SOCKET [full [WRITEBUFFER [QUEUE]]] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let (listen, args) = match d.args.as_slice() {
        [word, rest @ ..] if word.text == "listen" => (Some(word), rest),
        args => (None, args),
    };
    let [at, rest @ ..] = args else {
        return err(
            listen.unwrap_or(&d.name),
            "'dnstap' needs a socket (unix://PATH, tcp://HOST:PORT, tls://HOST:PORT)",
        );
    };
    let socket = socket(at)?;
    let full = match rest.first() {
        Some(word) if word.text != "full" => {
            return err(
                word,
                format!("'{}' stands where 'full' may; messages are written whole then", word.text),
            );
        }
        word => word.is_some(),
    };
    let numbers = rest.get(1..).unwrap_or(&[]);
    let way = match (listen, numbers) {
        (None, numbers) => {
            no_more("dnstap", numbers.get(2..).unwrap_or(&[]))?;
            let times = |at: usize, most: usize| numbers.get(at).map_or(Ok(1), |token| multiple(token, most));
            Way::Connect { buffer: times(0, MOST_BUFFERS)? * BUFFER, queue: times(1, MOST_QUEUES)? * QUEUE }
        }
        (Some(_), []) => Way::Listen { identity: None, authorities: None },
        (Some(_), [extra, ..]) => return err(extra, format!("'dnstap listen' takes no '{}'", extra.text)),
    };
    let mut dnstap = Dnstap {
        tap: Arc::new(Tap { socket: socket.clone(), way: way.clone(), skip_verify: false }),
        full,
        identity: None,
        version: None,
        extra: None,
    };
    let (mut way, mut skip_verify) = (way, false);
    let encrypted = matches!(socket, Socket::Tls(_));
    for option in d.block.iter().flatten() {
        let text = |what: &str| one(option, what).map(|token| token.text.clone());
        match option.name.text.as_str() {
            "identity" => dnstap.identity = Some(text("name")?),
            "version" => dnstap.version = Some(text("text")?),
            "extra" => dnstap.extra = Some(Format::new(&text("text")?)),
            "skipverify" | "tls" if !encrypted => {
                return err(&option.name, format!("'{}' is for tls://", option.name.text));
            }
            "skipverify" => {
                no_more("skipverify", &option.args)?;
                skip_verify = true;
            }
            "tls" => {
                let path = |token: &Token| setup.settings.path(&token.text);
                let (Way::Listen { identity, authorities }, [chain, key, ca @ ..]) =
                    (&mut way, option.args.as_slice())
                else {
                    return err(&option.name, "'tls CERT KEY [CA]' is for 'dnstap listen'");
                };
                no_more("tls", ca.get(1..).unwrap_or(&[]))?;
                *identity = Some((path(chain), path(key)));
                *authorities = ca.first().map(path);
            }
            _ => return unknown("dnstap", option),
        }
    }
    if encrypted && matches!(way, Way::Listen { identity: None, .. }) {
        return err(at, "listening by tls:// needs 'tls CERT KEY'");
    }
    dnstap.tap = Arc::new(Tap { socket, way, skip_verify });
    setup.add(dnstap);
    Ok(())
}

fn socket(token: &Token) -> Result<Socket, CorefileError> {
    let with_port = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => Ok(host.to_owned()),
        _ => err(token, format!("'{}' needs a host and a port", token.text)),
    };
    match token.text.split_once("://") {
        Some(("tcp", host)) => with_port(host).map(Socket::Tcp),
        Some(("tls", host)) => with_port(host).map(Socket::Tls),
        Some(("unix", path)) if !path.is_empty() => Ok(Socket::Unix(path.to_owned())),
        Some(_) => err(
            token,
            format!("'{}' is no socket (unix://PATH, tcp://HOST:PORT, tls://HOST:PORT)", token.text),
        ),
        None => Ok(Socket::Unix(token.text.clone())),
    }
}

fn multiple(token: &Token, most: usize) -> Result<usize, CorefileError> {
    match number(token, "number")? {
        n @ 1.. if n <= most => Ok(n),
        _ => err(token, format!("'{}' is not between 1 and {most}", token.text)),
    }
}

/// A time of day: seconds since 1970, and nanoseconds.
type Time = (u64, u32);

fn time(now: Now) -> Time {
    (now.unix, now.nanos)
}

/// A time so long ago.
fn before(now: Now, ago: Duration) -> Time {
    let then = Duration::new(now.unix, now.nanos).saturating_sub(ago);
    (then.as_secs(), then.subsec_nanos())
}

/// A question to an upstream, and what came of it.
#[derive(Debug)]
pub(in crate::plugins) struct Forwarded<'a> {
    /// From where; `None`: there was no connection.
    pub(in crate::plugins) local: Option<SocketAddr>,
    /// Who was asked.
    pub(in crate::plugins) to: SocketAddr,
    /// By UDP, or by a stream.
    pub(in crate::plugins) transport: Transport,
    /// `None`: nobody answered.
    pub(in crate::plugins) answer: Option<&'a Message>,
    /// How long that took.
    pub(in crate::plugins) took: Duration,
}

/// Shows it to all who look on in the plugin's server block (`toDnstap` in plugin/forward/dnstap.go).
pub(in crate::plugins) fn forwarded(query: &Query, what: &Forwarded<'_>, cx: &mut Context<'_>) {
    let peers = cx.peers;
    let begun = before(cx.now, what.took);
    // Its id is the client's, whatever went over the wire.
    let question = Message { questions: vec![query.question().clone()], ..query.request.clone() };
    for dnstap in peers.of::<Dnstap>() {
        let bytes = dnstap.full.then(|| encode(&question, usize::from(u16::MAX)));
        let asked = Payload {
            transport: what.transport,
            client: what.local,
            server: Some(what.to),
            query_time: begun,
            query: bytes,
            ..Payload::new(Kind::ForwarderQuery)
        };
        dnstap.show(&asked, query, cx);
        if let Some(answer) = what.answer {
            let answer = Message { id: query.request.id, ..answer.clone() };
            let bytes = dnstap.full.then(|| encode(&answer, usize::from(u16::MAX)));
            let answered = Payload {
                transport: what.transport,
                client: what.local,
                server: Some(what.to),
                query_time: begun,
                response_time: Some(time(cx.now)),
                response: bytes,
                ..Payload::new(Kind::ForwarderResponse)
            };
            dnstap.show(&answered, query, cx);
        }
    }
}

impl Dnstap {
    /// Where it shows things.
    pub fn tap(&self) -> &Arc<Tap> {
        &self.tap
    }

    fn show(&self, payload: &Payload, query: &Query, cx: &mut Context<'_>) {
        let extra =
            self.extra.as_ref().map(|format| format.fill(query, (&Message::default(), 0), &OF_ANSWERS, cx));
        let own = || format!("Sealane-{}", cx.world.version);
        let identity = self.identity.as_deref().unwrap_or(cx.world.hostname());
        let version = self.version.clone().unwrap_or_else(own);
        let bytes = payload.encode(identity, &version, extra.as_deref().filter(|extra| !extra.is_empty()));
        cx.show(self.tap.clone(), bytes);
    }
}

impl Plugin for Dnstap {
    fn start(&mut self, cx: &mut Context<'_>) {
        cx.show(self.tap.clone(), Vec::new());
    }

    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let begun = time(cx.now);
        note.set(begun);
        let payload = Payload {
            transport: query.transport,
            client: Some(query.client),
            query_time: begun,
            query: self.full.then(|| encode(&query.request, usize::from(u16::MAX))),
            ..Payload::new(Kind::ClientQuery)
        };
        self.show(&payload, query, cx);
        Flow::Next
    }

    fn up(&mut self, query: &mut Query, note: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        let payload = Payload {
            transport: query.transport,
            client: Some(query.client),
            query_time: note.take().unwrap_or(time(cx.now)),
            response_time: Some(time(cx.now)),
            response: self.full.then(|| query.encoded(reply)),
            ..Payload::new(Kind::ClientResponse)
        };
        self.show(&payload, query, cx);
        Up::Pass
    }
}
