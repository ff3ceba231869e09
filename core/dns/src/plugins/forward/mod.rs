//! `forward`: asks other servers (`plugin/forward`).

pub(super) mod config;
mod resolve;
pub(super) mod upstreams;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::dnstap::{Dnstap, Forwarded, forwarded};
use crate::chain::values::resolv_conf;
use crate::chain::{
    Answer, Ask, Context, Flow, Keeping, Note, Plugin, Query, Setup, TlsClient, Transport, Via, Want, World,
};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Message, Question, rcode, rtype};
use crate::metrics::Family;
use crate::name::Name;
use crate::relay::{Answered, Relaying};
pub use config::{Config, Host, Policy, TlsFiles, Upstream};
use resolve::Resolving;
use upstreams::Upstreams;

/// No upstream is asked for a query after this time (forward.go's `defaultTimeout`).
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a health check may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// What the machine itself knows of names: hosts, and whom to ask.
const HOSTS: &str = "/etc/hosts";
const SYSTEM: &str = "/etc/resolv.conf";
/// `defaultConnectAttemptsPerUpstream`
const ATTEMPTS: u32 = 2;

static REJECTS: Family = Family::counter(
    "coredns_forward_max_concurrent_rejects_total",
    "Counter of the number of queries rejected because the concurrent queries were at maximum.",
);
static BROKEN: Family = Family::counter(
    "coredns_forward_healthcheck_broken_total",
    "Counter of the number of complete failures of the healthchecks.",
);

/// `forward`, with what it remembers of its upstreams.
#[derive(Debug)]
pub struct Forward {
    config: Config,
    /// The files that it names: name servers, and what TLS needs.
    files: BTreeMap<String, String>,
    upstreams: Upstreams,
    resolving: Resolving,
    /// How its upstreams over TLS are known, one for each name.
    clients: Vec<Arc<TlsClient>>,
    /// Each query that waits has one of these, however it ends.
    under_way: Arc<()>,
    /// Somebody looks on (`dnstap`).
    tapped: bool,
}

/// `forward FROM TO... { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    for config in config::read(&setup.settings, d)? {
        let mut forward = Forward {
            config,
            files: BTreeMap::new(),
            upstreams: Upstreams::default(),
            resolving: Resolving::default(),
            clients: Vec::new(),
            under_way: Arc::default(),
            tapped: false,
        };
        forward.seek();
        forward.list();
        setup.add(forward);
    }
    Ok(())
}

/// With a query that waits for an upstream.
#[derive(Debug)]
struct Waiting {
    /// Upstreams in the order of asking, empty where there is one, and the place of the next one.
    order: Vec<usize>,
    next: usize,
    /// The one that is asked.
    upstream: usize,
    via: Via,
    /// Upstreams that were passed over because they are down.
    down: usize,
    /// Answers that were as good as none.
    failovers: usize,
    /// Attempts that failed.
    failed: u32,
    deadline: Duration,
    _under_way: Arc<()>,
}

impl Forward {
    /// What the lines say.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How its upstreams over TLS are known; files at hand.
    pub fn tls_clients(&self) -> &[Arc<TlsClient>] {
        &self.clients
    }

    /// The named upstreams that no file has another meaning for.
    fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.config.to.iter().filter_map(|to| match to {
            Upstream::Host(host) => Some(host),
            _ => None,
        })
    }

    /// Looks for the addresses of named upstreams; those that the machine knows are found at once.
    fn seek(&mut self) {
        let own = |host: &Host| host.file.as_ref().is_some_and(|file| self.files.contains_key(file));
        let hosts: Vec<Host> = self.hosts().filter(|host| !own(host)).cloned().collect();
        let machine = self.files.get(HOSTS).map_or("", String::as_str);
        let system = self.config.resolver.is_empty();
        let known = |host: &Host| if system { addresses(machine, &host.name) } else { Vec::new() };
        self.resolving.set(hosts, known);
    }

    /// Servers that know the addresses of named upstreams.
    fn resolvers(&self) -> Vec<SocketAddr> {
        match self.config.resolver.as_slice() {
            [] => self.files.get(SYSTEM).map(|text| resolv_conf(text)).unwrap_or_default(),
            servers => servers.to_vec(),
        }
    }

    /// Lists the upstreams, in the order of the line.
    fn list(&mut self) {
        let (config, files) = (&self.config, &self.files);
        let file = |path: &String| files.get(path).cloned().unwrap_or_default();
        let (mut list, mut clients) = (Vec::new(), Vec::<Arc<TlsClient>>::new());
        let mut tls = |name: &Option<String>| {
            let tls = &config.tls;
            let client = TlsClient {
                server_name: name.clone().or_else(|| config.tls_servername.clone()),
                authorities: tls.authorities.as_ref().map(file),
                identity: tls.identity.as_ref().map(|(chain, key)| (file(chain), file(key))),
            };
            let known = clients.iter().find(|known| ***known == client).cloned();
            Some(Via::Tls(known.unwrap_or_else(|| {
                clients.push(Arc::new(client));
                clients[clients.len() - 1].clone()
            })))
        };
        for to in &config.to {
            match to {
                Upstream::Address(address) => list.push((*address, None)),
                Upstream::ResolvConf(path) => {
                    list.extend(resolv_conf(&file(path)).into_iter().map(|address| (address, None)));
                }
                Upstream::Tls(address, name) => list.push((*address, tls(name))),
                Upstream::Host(host) => match host.file.as_ref().and_then(|path| files.get(path)) {
                    Some(text) => list.extend(resolv_conf(text).into_iter().map(|address| (address, None))),
                    None => {
                        let via = host.tls.as_ref().and_then(&mut tls);
                        let found = self.resolving.of(host).iter();
                        list.extend(found.map(|ip| (SocketAddr::new(*ip, host.port), via.clone())));
                    }
                },
            }
        }
        self.upstreams.set(list);
        self.clients = clients;
    }

    /// Whether it is for this name, in wire form.
    fn is_for(&self, name: &[u8]) -> bool {
        let Config { from, except, .. } = &self.config;
        let own = || name.eq_ignore_ascii_case(from.wire());
        from.is_around(name) && (own() || !except.iter().any(|zone| zone.is_around(name)))
    }

    /// Whether as many are under way as may be.
    fn is_full(&self) -> bool {
        let most = usize::try_from(self.config.max_concurrent).unwrap_or(usize::MAX);
        // This one is the plugin's own.
        most > 0 && Arc::strong_count(&self.under_way) > most
    }

    /// A query begins to wait.
    fn begin(&mut self, cx: &Context<'_>) -> Waiting {
        let alone = self.upstreams.len() == 1;
        let mut order = || self.upstreams.order(self.config.policy, cx.now.random);
        Waiting {
            order: if alone { Vec::new() } else { order() },
            next: 0,
            upstream: 0,
            via: Via::Udp,
            down: 0,
            failovers: 0,
            failed: 0,
            deadline: cx.now.monotonic + DEADLINE,
            _under_way: self.under_way.clone(),
        }
    }

    /// Who is asked next; `None` where nobody is left to ask, or no time (`ServeDNS`).
    fn next(&self, waiting: &mut Waiting, cx: &mut Context<'_>) -> Option<usize> {
        let (count, max_fails) = (self.upstreams.len(), self.config.max_fails);
        let per_upstream = ATTEMPTS.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        let attempts = self.config.max_connect_attempts.unwrap_or(per_upstream);
        while cx.now.monotonic < waiting.deadline && (attempts == 0 || waiting.failed < attempts) {
            if count == 0 {
                break;
            }
            if waiting.next >= waiting.order.len().max(1) {
                waiting.next = 0;
                waiting.down = 0;
            }
            let at = waiting.order.get(waiting.next).copied().unwrap_or_default();
            waiting.next += 1;
            if !self.upstreams.down(at, max_fails) {
                return Some(at);
            }
            waiting.down += 1;
            if waiting.down < count {
                continue;
            }
            cx.metrics.count(&BROKEN, "");
            if self.config.failfast {
                break;
            }
            // All are down: the checks may be what is wrong, so any one is asked all the same.
            return Some(usize::try_from(cx.random() % count as u64).unwrap_or(0));
        }
        None
    }

    /// Asks the next upstream; a failure where there is none.
    fn ask_next(
        &mut self,
        query: &mut Query,
        mut waiting: Waiting,
        why: &str,
        note: &mut Note,
        cx: &mut Context<'_>,
    ) -> Flow {
        let Some(at) = self.next(&mut waiting, cx) else {
            let why = if why.is_empty() { "no healthy proxies" } else { why };
            return Flow::fail(rcode::SERVFAIL, why);
        };
        waiting.upstream = at;
        waiting.via = self.via(query, at);
        self.ask(query, waiting, note, cx)
    }

    fn ask(&mut self, query: &mut Query, waiting: Waiting, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let Some(upstream) = self.upstreams.get(waiting.upstream) else {
            // The list became shorter meanwhile.
            return self.ask_next(query, waiting, "", note, cx);
        };
        let to = upstream.address;
        if query.block.plugins.contains(&"metadata") {
            query.set_label("forward/upstream", to.to_string());
        }
        let mut message = query.request.clone();
        message.questions.clear();
        message.questions.push(query.question().clone());
        let ask = Ask { to, via: waiting.via.clone(), message, timeout: self.config.read_timeout, tag: 0 };
        note.set(waiting);
        Flow::Ask(ask)
    }

    fn via(&mut self, query: &Query, at: usize) -> Via {
        if let Some(tls) = self.upstreams.get(at).and_then(|upstream| upstream.tls.clone()) {
            return tls;
        }
        match (self.config.force_tcp, self.config.prefer_udp, query.transport) {
            (true, ..) | (false, false, Transport::Tcp) => Via::Tcp,
            (false, true, _) | (false, false, Transport::Udp) => Via::Udp,
        }
    }

    /// Whether an answer is left to a `forward` that comes next.
    fn is_for_next(&self, rcode: u16, nothing: bool, cx: &Context<'_>) -> bool {
        let nodata = rcode == rcode::NOERROR && nothing;
        let meant = self.config.next.contains(&rcode) || self.config.next_on_nodata && nodata;
        meant && cx.peers.next::<Forward>().is_some()
    }

    /// Asks for the addresses of upstreams that are named.
    fn resolve(&mut self, cx: &mut Context<'_>) {
        for ask in self.resolving.due(&self.resolvers(), cx.now.monotonic) {
            cx.ask(ask);
        }
    }
}

/// The addresses that a hosts file has for a name.
fn addresses(text: &str, name: &Name) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or(""));
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        let ip = words.next()?.parse().ok()?;
        words.any(|word| word.parse::<Name>().is_ok_and(|word| word == *name)).then_some(ip)
    };
    lines.filter_map(of).collect()
}

/// Whether an upstream's message is about what was asked (`Request.Match`).
pub(super) fn matches(answer: &Message, asked: &Question) -> bool {
    answer.flags.response && answer.questions.first().is_none_or(|question| question == asked)
}

impl Plugin for Forward {
    fn start(&mut self, cx: &mut Context<'_>) {
        self.tapped = cx.peers.of::<Dnstap>().next().is_some();
        self.resolve(cx);
    }

    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        if !self.is_for(query.question().name.wire()) {
            return Flow::Next;
        }
        if self.is_full() {
            cx.metrics.count(&REJECTS, "");
            let why = format!("concurrent queries exceeded maximum {}", self.config.max_concurrent);
            return Flow::fail(rcode::REFUSED, why);
        }
        let waiting = self.begin(cx);
        self.ask_next(query, waiting, "", note, cx)
    }

    fn answered(&mut self, query: &mut Query, note: &mut Note, answer: Answer, cx: &mut Context<'_>) -> Flow {
        let Some(mut waiting) = note.take::<Waiting>() else { return Flow::refuse(rcode::SERVFAIL) };
        if let Some(upstream) = self.upstreams.get(waiting.upstream) {
            let rcode = answer.result.as_ref().ok().map(|message| message.rcode);
            upstream.count(&waiting.via, (answer.kept, rcode, answer.took), cx.metrics);
        }
        if self.tapped {
            let transport = if waiting.via == Via::Udp { Transport::Udp } else { Transport::Tcp };
            let (to, took, answer_local) = (answer.from, answer.took, answer.local);
            let answer = answer.result.as_ref().ok();
            forwarded(query, &Forwarded { local: answer_local, to, transport, answer, took }, cx);
        }
        let message = match answer.result {
            Ok(message) => message,
            Err(why) => {
                if self.config.max_fails != 0 {
                    self.upstreams.suspect(waiting.upstream, cx.now.monotonic);
                }
                waiting.failed += 1;
                let why = format!("{}: {why}", answer.from);
                if waiting.down >= self.upstreams.len() {
                    return Flow::fail(rcode::SERVFAIL, why);
                }
                return self.ask_next(query, waiting, &why, note, cx);
            }
        };
        if message.flags.truncated && waiting.via == Via::Udp && self.config.prefer_udp {
            waiting.via = Via::Tcp;
            return self.ask(query, waiting, note, cx);
        }
        if !matches(&message, query.question()) {
            // Not what was asked (forward.go).
            return Flow::Reply(query.request.reply(rcode::FORMERR));
        }
        if self.config.failover.contains(&message.rcode) {
            waiting.failovers += 1;
            if waiting.failovers < self.upstreams.len() {
                return self.ask_next(query, waiting, "", note, cx);
            }
        }
        let for_next = self.is_for_next(message.rcode, message.answers.is_empty(), cx);
        if for_next { Flow::Next } else { Flow::Reply(message) }
    }

    fn relays(&self) -> bool {
        !self.config.force_tcp
    }

    /// Where all upstreams are up, the first one is the one that is asked.
    fn relay(&mut self, name: &[u8], note: &mut Note, cx: &mut Context<'_>) -> Relaying {
        if !self.is_for(name) {
            return Relaying::Passes;
        }
        let plain = self.upstreams.all_plain(self.config.max_fails);
        if self.tapped || self.config.force_tcp || self.is_full() || !plain {
            return Relaying::Walks;
        }
        let mut waiting = self.begin(cx);
        let next = self.next(&mut waiting, cx);
        let Some((at, upstream)) = next.and_then(|at| Some((at, self.upstreams.get(at)?))) else {
            return Relaying::Walks;
        };
        waiting.upstream = at;
        let to = upstream.address;
        note.set(waiting);
        Relaying::Goes { to, source: self.config.keeping.source, timeout: self.config.read_timeout }
    }

    fn relayed(&mut self, note: &Note, answer: &Answered, cx: &mut Context<'_>) -> bool {
        let &Answered { rcode, nothing, took, kept } = answer;
        let Some(waiting) = note.get::<Waiting>() else { return false };
        if self.tapped || self.config.failover.contains(&rcode) || self.is_for_next(rcode, nothing, cx) {
            return false;
        }
        if let Some(upstream) = self.upstreams.get(waiting.upstream) {
            upstream.count(&waiting.via, (kept, Some(rcode), took), cx.metrics);
        }
        true
    }

    /// Every upstream that is named has an address.
    fn ready(&self, _: &World) -> bool {
        self.resolving.done()
    }

    /// Checks upstreams that failed until they answer again.
    fn tick(&mut self, cx: &mut Context<'_>) -> Vec<Ask> {
        self.resolve(cx);
        let config = &self.config;
        if config.max_fails == 0 {
            return Vec::new();
        }
        let due = self.upstreams.due(cx.now.monotonic, config.health_interval);
        let asks = due.into_iter().map(|(at, to, tls)| {
            let via = tls.unwrap_or(if config.force_tcp { Via::Tcp } else { Via::Udp });
            let mut message = Message::query(0, config.health_domain.clone(), rtype::NS);
            message.flags.recursion_desired = config.health_recursion;
            Ask { to, via, message, timeout: PROBE_TIMEOUT, tag: at as u64 }
        });
        asks.collect()
    }

    fn told(&mut self, answer: Answer, cx: &mut Context<'_>) {
        if self.resolving.is_for(&answer) {
            match self.resolving.told(answer) {
                Some(why) => cx.log(format!("[ERROR] plugin/forward: {why}")),
                None => self.list(),
            }
            return;
        }
        let at = usize::try_from(answer.tag).unwrap_or(usize::MAX);
        // Any answer at all means that it is there (health.go).
        self.upstreams.checked(at, answer.result.is_ok(), cx.metrics);
    }

    fn keeping(&self) -> Keeping {
        Keeping { tells: self.tapped, ..self.config.keeping }
    }

    fn files(&self) -> Vec<Want> {
        let servers = self.config.to.iter().filter_map(|to| match to {
            Upstream::ResolvConf(path) => Some(path),
            Upstream::Host(host) => host.file.as_ref(),
            Upstream::Address(_) | Upstream::Tls(..) => None,
        });
        let machine = self.hosts().next().is_some() && self.config.resolver.is_empty();
        let machine = [HOSTS, SYSTEM].into_iter().filter(|_| machine).map(str::to_owned);
        let paths = servers.chain(self.config.tls.paths()).cloned().chain(machine);
        paths.map(|path| Want { path, folder: false, every: Duration::ZERO }).collect()
    }

    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        let servers = self.config.to.contains(&Upstream::ResolvConf(path.to_owned()));
        let tls = self.config.tls.paths().any(|known| known == path);
        let named = self.hosts().next().is_some() && matches!(path, HOSTS | SYSTEM);
        let perhaps = self.hosts().any(|host| host.file.as_deref() == Some(path));
        match content {
            None if (named || perhaps) && !servers && !tls => return Ok(()),
            Some(text) if perhaps && resolv_conf(text).is_empty() => {
                return Err(format!("forward: {path} is a file without a name server"));
            }
            _ if !servers && !tls && !named && !perhaps => return Ok(()),
            _ if servers && resolv_conf(content.unwrap_or("")).is_empty() => {
                return Err(format!("forward: {path} is no address, and no resolv.conf with a name server"));
            }
            Some(content) => self.files.insert(path.to_owned(), content.to_owned()),
            None => return Err(format!("forward: cannot read {path}")),
        };
        if named || perhaps {
            self.seek();
        }
        self.list();
        Ok(())
    }
}
