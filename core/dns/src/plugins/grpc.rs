//! `grpc`: asks other servers over gRPC (`plugin/grpc`), CoreDNS and Sealane with `grpc://` keys.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::forward::config::{TlsFiles, address, policy, rcode_name, tls};
use super::forward::upstreams::order;
use super::forward::{Policy, matches};
use crate::chain::args::{self, err, one, unknown};
use crate::chain::values::resolv_conf;
use crate::chain::{
    Answer, Ask, Context, Flow, GrpcClient, Note, Plugin, Query, Setup, TlsClient, Via, Want,
};
use crate::corefile::{CorefileError, Directive, Token};
use crate::message::grpc::{NOT_FOUND, Status};
use crate::message::{Message, rcode};
use crate::metrics::Family;
use crate::name::Name;

/// Upstreams at most (`max` in setup.go).
const MOST: usize = 15;
/// No upstream is asked for a query after this time (grpc.go's `defaultTimeout`).
const DEADLINE: Duration = Duration::from_secs(5);

static REQUESTS: Family =
    Family::counter("coredns_grpc_requests_total", "Counter of requests made per upstream.");
static RESPONSES: Family =
    Family::counter("coredns_grpc_responses_total", "Counter of requests made per upstream.");
static DURATION: Family =
    Family::times("coredns_grpc_request_duration_seconds", "Histogram of the time each request took.");

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    Address(SocketAddr),
    /// A Unix socket.
    Socket(String),
    /// The name servers of a resolv.conf.
    ResolvConf(String),
}

/// One that is asked.
#[derive(Debug)]
struct Upstream {
    address: SocketAddr,
    client: Arc<GrpcClient>,
    /// As metrics call it.
    name: String,
}

/// `grpc`, with whom it asks.
#[derive(Debug)]
pub struct Grpc {
    from: Name,
    to: Vec<To>,
    except: Vec<Name>,
    /// `None`: in the clear.
    tls: Option<TlsFiles>,
    server_name: Option<String>,
    policy: Policy,
    /// Zones for whose names NXDOMAIN, and no answer at all, is left to the plugins that come next.
    fallthrough: Vec<Name>,
    files: BTreeMap<String, String>,
    upstreams: Vec<Upstream>,
    client: Option<Arc<TlsClient>>,
    turn: usize,
}

/// `grpc FROM TO... { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let [from, to @ ..] = d.args.as_slice() else {
        return err(&d.name, "'grpc' needs a zone and whom to ask");
    };
    if to.is_empty() {
        return err(from, "'grpc' needs whom to ask behind its zone");
    }
    if let Some(extra) = to.get(MOST) {
        return err(extra, format!("'grpc' takes {MOST} upstreams at most"));
    }
    let zones = args::zones(std::slice::from_ref(from))?;
    let [zone] = zones.as_slice() else {
        return err(from, format!("'{}' is {} zones; 'grpc' takes one", from.text, zones.len()));
    };
    let mut grpc = Grpc {
        from: zone.clone(),
        to: to.iter().map(upstream).collect::<Result<_, _>>()?,
        except: Vec::new(),
        tls: None,
        server_name: None,
        policy: Policy::Random,
        fallthrough: Vec::new(),
        files: BTreeMap::new(),
        upstreams: Vec::new(),
        client: None,
        turn: 0,
    };
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "except" if option.args.is_empty() => return err(&option.name, "'except' needs a name"),
            "except" => grpc.except.extend(args::zones(&option.args)?),
            "tls" => grpc.tls = Some(tls(&setup.settings, option)?),
            "tls_servername" => grpc.server_name = Some(one(option, "name")?.text.clone()),
            "policy" => grpc.policy = policy(one(option, "policy")?)?,
            "fallthrough" => grpc.fallthrough = args::fallthrough(option)?.unwrap_or_default(),
            _ => return unknown("grpc", option),
        }
    }
    if grpc.server_name.is_some() {
        grpc.tls.get_or_insert_default();
    }
    grpc.list();
    setup.add(grpc);
    Ok(())
}

/// `[grpc://]IP[:PORT]`, `unix://PATH`, or a file.
fn upstream(token: &Token) -> Result<To, CorefileError> {
    let (scheme, rest) = token.text.split_once("://").unwrap_or(("", &token.text));
    let known = |port: u16| match address(rest, port) {
        Some(address) => Ok(To::Address(address)),
        None => err(token, format!("'{rest}' is no address")),
    };
    match scheme {
        "unix" if rest.is_empty() => err(token, "'unix://' needs a path"),
        "unix" => Ok(To::Socket(rest.to_owned())),
        "grpc" => known(443),
        "dns" => known(53),
        "" if rest.contains('%') => err(token, format!("'{rest}' has a scope, which is not Sealane's")),
        "" => Ok(address(rest, 53).map_or_else(|| To::ResolvConf(rest.to_owned()), To::Address)),
        _ => err(token, format!("'grpc' asks nobody by {scheme}://")),
    }
}

/// With a query that waits for an upstream.
#[derive(Debug)]
struct Waiting {
    /// Upstreams in the order of asking, and the place of the next one.
    order: Vec<usize>,
    next: usize,
    deadline: Duration,
}

impl Grpc {
    /// How its upstreams are known, where they are asked over TLS; files at hand.
    pub fn tls_client(&self) -> Option<&Arc<TlsClient>> {
        self.client.as_ref()
    }

    fn list(&mut self) {
        let file = |path: &String| self.files.get(path).cloned().unwrap_or_default();
        let client = self.tls.as_ref().map(|tls| {
            Arc::new(TlsClient {
                server_name: self.server_name.clone(),
                authorities: tls.authorities.as_ref().map(file),
                identity: tls.identity.as_ref().map(|(chain, key)| (file(chain), file(key))),
            })
        });
        let shared = Arc::new(GrpcClient { tls: client.clone(), socket: None });
        let mut upstreams = Vec::new();
        for to in &self.to {
            let by_address =
                |address: SocketAddr| Upstream { address, client: shared.clone(), name: address.to_string() };
            match to {
                To::Address(address) => upstreams.push(by_address(*address)),
                To::ResolvConf(path) => {
                    upstreams.extend(resolv_conf(&file(path)).into_iter().map(by_address));
                }
                To::Socket(path) => upstreams.push(Upstream {
                    address: (Ipv4Addr::UNSPECIFIED, 0).into(),
                    client: Arc::new(GrpcClient { socket: Some(path.clone()), ..(*shared).clone() }),
                    name: format!("unix://{path}"),
                }),
            }
        }
        (self.upstreams, self.client) = (upstreams, client);
    }

    fn falls_through(&self, query: &Query, cx: &Context<'_>) -> bool {
        let name = &query.question().name;
        !cx.peers.is_last() && self.fallthrough.iter().any(|zone| name.is_within(zone))
    }

    fn ask_next(
        &mut self,
        query: &Query,
        mut waiting: Waiting,
        why: &str,
        note: &mut Note,
        cx: &Context<'_>,
    ) -> Flow {
        let next = waiting.order.get(waiting.next).and_then(|at| self.upstreams.get(*at));
        let left = waiting.deadline.saturating_sub(cx.now.monotonic);
        match next {
            Some(upstream) if !left.is_zero() => {
                waiting.next += 1;
                note.set(waiting);
                let message = Message { questions: vec![query.question().clone()], ..query.request.clone() };
                let via = Via::Grpc(upstream.client.clone());
                Flow::Ask(Ask { to: upstream.address, via, message, timeout: left, tag: 0 })
            }
            _ if self.falls_through(query, cx) => Flow::Next,
            _ if why.is_empty() => Flow::fail(rcode::SERVFAIL, "no healthy gRPC proxies"),
            _ => Flow::fail(rcode::SERVFAIL, why),
        }
    }
}

impl Plugin for Grpc {
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let name = &query.question().name;
        let except = *name != self.from && self.except.iter().any(|zone| name.is_within(zone));
        if !name.is_within(&self.from) || except {
            return if cx.peers.is_last() { Flow::refuse(rcode::SERVFAIL) } else { Flow::Next };
        }
        let order = order(self.policy, self.upstreams.len(), &mut self.turn, cx.now.random);
        let waiting = Waiting { order, next: 0, deadline: cx.now.monotonic + DEADLINE };
        self.ask_next(query, waiting, "", note, cx)
    }

    fn answered(&mut self, query: &mut Query, note: &mut Note, answer: Answer, cx: &mut Context<'_>) -> Flow {
        let Some(waiting) = note.take::<Waiting>() else { return Flow::refuse(rcode::SERVFAIL) };
        let message = match answer.result {
            Ok(message) => {
                let asked = waiting.order.get(waiting.next.wrapping_sub(1));
                if let Some(upstream) = asked.and_then(|at| self.upstreams.get(*at)) {
                    let to = &upstream.name;
                    let by_rcode = format!("rcode=\"{}\",to=\"{to}\"", rcode_name(message.rcode));
                    let labels = format!("to=\"{to}\"");
                    cx.metrics.count(&REQUESTS, &labels);
                    cx.metrics.count(&RESPONSES, &by_rcode);
                    cx.metrics.time(&DURATION, &labels, answer.took);
                }
                message
            }
            // A backend that knows no such name (proxy.go).
            Err(why) if Status::says(&why, NOT_FOUND) => {
                let questions = vec![query.question().clone()];
                Message { questions, ..query.request.reply(rcode::NXDOMAIN) }
            }
            Err(why) => return self.ask_next(query, waiting, &why, note, cx),
        };
        if !matches(&message, query.question()) {
            return Flow::Reply(query.request.reply(rcode::FORMERR));
        }
        if message.rcode == rcode::NXDOMAIN && self.falls_through(query, cx) {
            return Flow::Next;
        }
        Flow::Reply(message)
    }

    fn files(&self) -> Vec<Want> {
        let servers = self.to.iter().filter_map(|to| match to {
            To::ResolvConf(path) => Some(path),
            To::Address(_) | To::Socket(_) => None,
        });
        let paths = servers.chain(self.tls.iter().flat_map(TlsFiles::paths));
        paths.map(|path| Want { path: path.clone(), folder: false, every: Duration::ZERO }).collect()
    }

    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        let servers = self.to.contains(&To::ResolvConf(path.to_owned()));
        let tls = self.tls.iter().flat_map(TlsFiles::paths).any(|known| known == path);
        match content {
            _ if !servers && !tls => return Ok(()),
            _ if servers && resolv_conf(content.unwrap_or("")).is_empty() => {
                return Err(format!("grpc: {path} is no address, and no resolv.conf with a name server"));
            }
            Some(content) => self.files.insert(path.to_owned(), content.to_owned()),
            None => return Err(format!("grpc: cannot read {path}")),
        };
        self.list();
        Ok(())
    }
}
