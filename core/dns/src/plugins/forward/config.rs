//! What `forward`'s lines mean.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::chain::args::{self, duration, err, no_more, number, one, unknown};
use crate::chain::{Keeping, Settings};
use crate::corefile::{CorefileError, Directive, Token};
use crate::name::Name;

/// Upstreams at most (`max` in setup.go).
const MOST: usize = 15;

/// Response codes by name, as miekg/dns has them.
const RCODES: &[(&str, u16)] = &[
    ("NOERROR", 0),
    ("FORMERR", 1),
    ("SERVFAIL", 2),
    ("NXDOMAIN", 3),
    ("NOTIMP", 4),
    ("REFUSED", 5),
    ("YXDOMAIN", 6),
    ("YXRRSET", 7),
    ("NXRRSET", 8),
    ("NOTAUTH", 9),
    ("NOTZONE", 10),
    ("DSOTYPENI", 11),
    ("BADSIG", 16),
    ("BADKEY", 17),
    ("BADTIME", 18),
    ("BADMODE", 19),
    ("BADNAME", 20),
    ("BADALG", 21),
    ("BADTRUNC", 22),
    ("BADCOOKIE", 23),
];

/// A response code as metrics of upstreams name it.
pub(in crate::plugins) fn rcode_name(rcode: u16) -> String {
    let name = RCODES.iter().find(|(_, known)| *known == rcode).map(|(name, _)| (*name).to_owned());
    name.unwrap_or_else(|| rcode.to_string())
}

/// Where to forward to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// A server.
    Address(SocketAddr),
    /// A server that is asked over TLS, and the name that its certificate must have where the line says
    /// (`tls://9.9.9.9%dns.quad9.net`).
    Tls(SocketAddr, Option<String>),
    /// The name servers of a resolv.conf.
    ResolvConf(String),
    /// A server by its name.
    Host(Host),
}

/// An upstream that is known by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: Name,
    /// Its port.
    pub port: u16,
    /// It is asked over TLS; with the name that its certificate must have where the line says.
    pub tls: Option<Option<String>>,
    /// The word is the path of a resolv.conf where there is such a file.
    pub file: Option<String>,
}

/// `policy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any, the default.
    Random,
    /// One after the other.
    RoundRobin,
    /// The first that works.
    Sequential,
}

/// The files of `tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// This server's certificate chain and its key.
    pub identity: Option<(String, String)>,
    /// Who may have signed upstreams' certificates.
    pub authorities: Option<String>,
}

impl TlsFiles {
    /// All of them.
    pub fn paths(&self) -> impl Iterator<Item = &String> {
        self.identity.iter().flat_map(|(chain, key)| [chain, key]).chain(&self.authorities)
    }
}

/// `forward`'s lines.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names under which it is asked.
    pub from: Name,
    /// Upstreams.
    pub to: Vec<Upstream>,
    /// Names which it leaves alone.
    pub except: Vec<Name>,
    /// Always TCP.
    pub force_tcp: bool,
    /// UDP first, even for a client on TCP.
    pub prefer_udp: bool,
    /// How connections are kept: `expire`, `max_age`, `max_idle_conns`, `source_address`.
    pub keeping: Keeping,
    /// How long one upstream may take.
    pub read_timeout: Duration,
    /// Failures after which an upstream counts as down; 0: never.
    pub max_fails: u32,
    /// Attempts that may fail, per query; 0: any number; `None`: two per upstream.
    pub max_connect_attempts: Option<u32>,
    /// Files of upstreams over TLS.
    pub tls: TlsFiles,
    /// The name that their certificates must have.
    pub tls_servername: Option<String>,
    /// Order.
    pub policy: Policy,
    /// Between health checks of a failing upstream.
    pub health_interval: Duration,
    /// Health checks ask for recursion.
    pub health_recursion: bool,
    /// What they ask for.
    pub health_domain: Name,
    /// Queries under way at most; 0: any.
    pub max_concurrent: u32,
    /// Answers with these codes are left to a `forward` that comes next.
    pub next: Vec<u16>,
    /// So are those without records.
    pub next_on_nodata: bool,
    /// Where all upstreams are down nobody is asked.
    pub failfast: bool,
    /// Servers that upstreams' names are asked of; empty: the system's.
    pub resolver: Vec<SocketAddr>,
    /// Answers with these codes are as good as none: the next upstream is asked.
    pub failover: Vec<u16>,
}

/// Reads the lines: as many as the first word has zones.
pub(super) fn read(settings: &Settings, d: &Directive) -> Result<Vec<Config>, CorefileError> {
    let [from, to @ ..] = d.args.as_slice() else {
        return err(&d.name, "'forward' needs a zone and where to forward to");
    };
    if to.is_empty() {
        return err(from, "'forward' needs where to forward to behind its zone");
    }
    if let Some(extra) = to.get(MOST) {
        return err(extra, format!("'forward' takes {MOST} upstreams at most"));
    }
    let upstreams = to.iter().map(upstream).collect::<Result<Vec<_>, _>>()?;
    let from = args::zones(std::slice::from_ref(from))?;
    let mut forward = Config {
        from: Name::root(),
        to: upstreams,
        except: Vec::new(),
        force_tcp: false,
        prefer_udp: false,
        keeping: Keeping { expire: Duration::from_secs(10), ..Keeping::default() },
        read_timeout: Duration::from_secs(2),
        max_fails: 2,
        max_connect_attempts: None,
        tls: TlsFiles::default(),
        tls_servername: None,
        policy: Policy::Random,
        health_interval: Duration::from_millis(500),
        health_recursion: true,
        health_domain: Name::root(),
        max_concurrent: 0,
        next: Vec::new(),
        next_on_nodata: false,
        failfast: false,
        resolver: Vec::new(),
        failover: Vec::new(),
    };
    for option in d.block.iter().flatten() {
        option_of(&mut forward, settings, option)?;
    }
    let Keeping { expire, age, .. } = forward.keeping;
    if !age.is_zero() && age < expire {
        return err(&d.name, "max_age of 'forward' must not be less than expire");
    }
    if forward.tls_servername.is_some() {
        let named = forward.to.iter().position(|to| match to {
            Upstream::Tls(_, name) => name.is_some(),
            Upstream::Host(host) => host.tls.as_ref().is_some_and(Option::is_some),
            _ => false,
        });
        if let Some(token) = named.and_then(|at| to.get(at)) {
            let message = format!("'{}' names its certificate, and tls_servername does, too", token.text);
            return err(token, message);
        }
    }
    Ok(from.into_iter().map(|from| Config { from, ..forward.clone() }).collect())
}

/// `[SCHEME://]IP[%NAME][:PORT]`, or a file.
fn upstream(token: &Token) -> Result<Upstream, CorefileError> {
    let (scheme, rest) = token.text.split_once("://").unwrap_or(("", &token.text));
    match scheme {
        "" => match address(rest, 53) {
            Some(address) => Ok(Upstream::Address(address)),
            None if rest.contains('%') => err(token, format!("'{rest}' has a scope, which is not Sealane's")),
            None => Ok(match host(rest, 53) {
                Some(host) => Upstream::Host(Host { file: Some(rest.to_owned()), ..host }),
                None => Upstream::ResolvConf(rest.to_owned()),
            }),
        },
        "dns" => match (address(rest, 53), host(rest, 53)) {
            (Some(address), _) => Ok(Upstream::Address(address)),
            (None, Some(host)) => Ok(Upstream::Host(host)),
            (None, None) => err(token, format!("'{rest}' is no address, and no host's name")),
        },
        "tls" => {
            let (rest, name) = without_name(rest);
            match (address(&rest, 853), host(&rest, 853)) {
                (Some(address), _) => Ok(Upstream::Tls(address, name)),
                (None, Some(host)) => Ok(Upstream::Host(Host { tls: Some(name), ..host })),
                (None, None) => err(token, format!("'{rest}' is no address, and no host's name")),
            }
        }
        _ => err(token, format!("forwarding to {scheme}:// is unknown, or not Sealane's yet")),
    }
}

/// The name of `IP%NAME:PORT` and `[IP%NAME]:PORT`, and what is left without it (`splitZone` in setup.go).
fn without_name(text: &str) -> (String, Option<String>) {
    let Some((ip, name)) = text.rsplit_once('%') else { return (text.to_owned(), None) };
    let (name, port) = match name.rsplit_once(':') {
        Some((name, port)) => (name, format!(":{port}")),
        None => (name, String::new()),
    };
    let close = if ip.starts_with('[') { "]" } else { "" };
    let name = name.trim_end_matches(']');
    (format!("{ip}{close}{port}"), (!name.is_empty()).then(|| name.to_owned()))
}

/// `IP`, `[IP]`, `IP:PORT`, `[IP]:PORT`.
pub(in crate::plugins) fn address(text: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port))
}

/// `NAME`, `NAME:PORT`. What ends in a number is a mistyped address.
fn host(text: &str, port: u16) -> Option<Host> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok()?),
        None => (text, port),
    };
    let last = name.trim_end_matches('.').rsplit('.').next()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !name.bytes().all(plain) || last.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Host { name: name.parse().ok()?, port, tls: None, file: None })
}

fn option_of(f: &mut Config, settings: &Settings, o: &Directive) -> Result<(), CorefileError> {
    let flag = |flag: &mut bool| {
        *flag = true;
        no_more(&o.name.text, &o.args)
    };
    match o.name.text.as_str() {
        "except" if !o.args.is_empty() => f.except.extend(args::zones(&o.args)?),
        "except" => return err(&o.name, "'except' needs a name"),
        "force_tcp" => flag(&mut f.force_tcp)?,
        "prefer_udp" => flag(&mut f.prefer_udp)?,
        "next_on_nodata" => flag(&mut f.next_on_nodata)?,
        "failfast_all_unhealthy_upstreams" => flag(&mut f.failfast)?,
        "expire" => f.keeping.expire = duration(one(o, "duration")?)?,
        "max_age" => f.keeping.age = duration(one(o, "duration")?)?,
        "max_idle_conns" => f.keeping.idle = number(one(o, "number")?, "number")?,
        "source_address" => f.keeping.source = Some(number(one(o, "address")?, "address")?),
        "resolver" if !o.args.is_empty() => {
            f.resolver = o.args.iter().map(resolver).collect::<Result<_, _>>()?;
        }
        "resolver" => return err(&o.name, "'resolver' needs the address of a server"),
        "read_timeout" => {
            let token = one(o, "duration")?;
            f.read_timeout = duration(token)?;
            if f.read_timeout.is_zero() {
                return err(token, "read_timeout must be more than nothing");
            }
        }
        "max_fails" => f.max_fails = number(one(o, "number")?, "number")?,
        "max_connect_attempts" => f.max_connect_attempts = Some(number(one(o, "number")?, "number")?),
        "max_concurrent" => f.max_concurrent = number(one(o, "number")?, "number")?,
        "tls" => f.tls = tls(settings, o)?,
        "tls_servername" => f.tls_servername = Some(one(o, "name")?.text.clone()),
        "policy" => f.policy = policy(one(o, "policy")?)?,
        "health_check" => health_check(f, o)?,
        "next" => f.next.extend(rcodes(o)?),
        "failover" => {
            let codes = rcodes(o)?;
            if let Some(at) = codes.iter().position(|code| *code == 0) {
                return err(&o.args[at], "an answer without error is no reason for failover");
            }
            f.failover.extend(codes);
        }
        _ => return unknown("forward", o),
    }
    Ok(())
}

pub(in crate::plugins) fn policy(token: &Token) -> Result<Policy, CorefileError> {
    match token.text.as_str() {
        "random" => Ok(Policy::Random),
        "round_robin" => Ok(Policy::RoundRobin),
        "sequential" => Ok(Policy::Sequential),
        other => err(token, format!("'{other}' is no policy (random, round_robin, sequential)")),
    }
}

/// `IP`, `IP:PORT`
fn resolver(token: &Token) -> Result<SocketAddr, CorefileError> {
    let bad = || err(token, format!("'{}' is no address of a server (IP, or IP:PORT)", token.text));
    address(&token.text, 53).map_or_else(bad, Ok)
}

/// `tls [CERT KEY] [CA]`
pub(in crate::plugins) fn tls(settings: &Settings, o: &Directive) -> Result<TlsFiles, CorefileError> {
    let path = |token: &Token| settings.path(&token.text);
    let (identity, authorities) = match o.args.as_slice() {
        [] => (None, None),
        [ca] => (None, Some(path(ca))),
        [chain, key] => (Some((path(chain), path(key))), None),
        [chain, key, ca] => (Some((path(chain), path(key))), Some(path(ca))),
        [_, _, _, extra, ..] => return err(extra, format!("'tls' takes no '{}'", extra.text)),
    };
    Ok(TlsFiles { identity, authorities })
}

fn rcodes(o: &Directive) -> Result<Vec<u16>, CorefileError> {
    if o.args.is_empty() {
        return err(&o.name, format!("'{}' needs a response code", o.name.text));
    }
    let rcode = |token: &Token| {
        let name = token.text.to_ascii_uppercase();
        match RCODES.iter().find(|(known, _)| *known == name) {
            Some((_, rcode)) => Ok(*rcode),
            None => err(token, format!("'{}' is no response code", token.text)),
        }
    };
    o.args.iter().map(rcode).collect()
}

fn health_check(f: &mut Config, o: &Directive) -> Result<(), CorefileError> {
    let Some(first) = o.args.first() else {
        return err(&o.name, "'health_check' needs a duration");
    };
    f.health_interval = duration(first)?;
    f.health_domain = Name::root();
    let mut rest = o.args[1..].iter();
    while let Some(token) = rest.next() {
        match (token.text.as_str(), rest.len()) {
            ("no_rec", _) => f.health_recursion = false,
            ("domain", 1..) => {
                if let Some(domain) = rest.next() {
                    f.health_domain = number(domain, "domain name")?;
                }
            }
            ("domain", _) => return err(token, "'domain' of health_check needs a name"),
            (other, _) => return err(token, format!("'{other}' is no option of health_check")),
        }
    }
    Ok(())
}
