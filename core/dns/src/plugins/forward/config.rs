//! What `forward`'s lines mean.

use std::net::SocketAddr;
use std::time::Duration;

use crate::chain::args::{self, duration, err, no_more, number, one, unknown};
use crate::chain::values;
use crate::corefile::{CorefileError, Directive};
use crate::name::Name;

/// Where to forward to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// A server.
    Address(SocketAddr),
    /// The name servers of a resolv.conf.
    ResolvConf(String),
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
    /// How long connections are kept.
    pub expire: Duration,
    /// Failures after which an upstream counts as down; 0: never.
    pub max_fails: u32,
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
}

/// Reads the lines: as many as the first word has zones.
pub(super) fn read(d: &Directive) -> Result<Vec<Config>, CorefileError> {
    let [from, to @ ..] = d.args.as_slice() else {
        return err(&d.name, "'forward' needs a zone and where to forward to");
    };
    if to.is_empty() {
        return err(from, "'forward' needs where to forward to behind its zone");
    }
    let mut upstreams = Vec::new();
    for token in to {
        upstreams.push(match values::upstream(&token.text) {
            Some(address) => Upstream::Address(address),
            None if token.text.contains("://") => {
                let scheme = token.text.split("://").next().unwrap_or("");
                return err(token, format!("forwarding to {scheme}:// is unknown, or not Sealane's yet"));
            }
            None => Upstream::ResolvConf(token.text.clone()),
        });
    }
    let from = args::zones(std::slice::from_ref(from))?;
    let mut forward = Config {
        from: Name::root(),
        to: upstreams,
        except: Vec::new(),
        force_tcp: false,
        prefer_udp: false,
        expire: Duration::from_secs(10),
        max_fails: 2,
        policy: Policy::Random,
        health_interval: Duration::from_millis(500),
        health_recursion: true,
        health_domain: Name::root(),
        max_concurrent: 0,
    };
    for option in d.block.iter().flatten() {
        option_of(&mut forward, option)?;
    }
    Ok(from.into_iter().map(|from| Config { from, ..forward.clone() }).collect())
}

fn option_of(f: &mut Config, o: &Directive) -> Result<(), CorefileError> {
    match o.name.text.as_str() {
        "except" if !o.args.is_empty() => f.except.extend(args::zones(&o.args)?),
        "except" => return err(&o.name, "'except' needs a name"),
        "force_tcp" => {
            no_more("force_tcp", &o.args)?;
            f.force_tcp = true;
        }
        "prefer_udp" => {
            no_more("prefer_udp", &o.args)?;
            f.prefer_udp = true;
        }
        "expire" => f.expire = duration(one(o, "duration")?)?,
        "max_fails" => f.max_fails = number(one(o, "number")?, "number")?,
        "max_concurrent" => f.max_concurrent = number(one(o, "number")?, "number")?,
        "policy" => {
            let token = one(o, "policy")?;
            f.policy = match token.text.as_str() {
                "random" => Policy::Random,
                "round_robin" => Policy::RoundRobin,
                "sequential" => Policy::Sequential,
                other => {
                    return err(token, format!("'{other}' is no policy (random, round_robin, sequential)"));
                }
            };
        }
        "health_check" => {
            let Some(first) = o.args.first() else {
                return err(&o.name, "'health_check' needs a duration");
            };
            f.health_interval = duration(first)?;
            let mut rest = o.args[1..].iter();
            while let Some(token) = rest.next() {
                match (token.text.as_str(), rest.len()) {
                    ("no_rec", _) => f.health_recursion = false,
                    ("domain", 1..) => {
                        if let Some(domain) = rest.next() {
                            f.health_domain = number(domain, "domain name")?;
                        }
                    }
                    (other, _) => return err(token, format!("'{other}' is no option of health_check")),
                }
            }
        }
        _ => return unknown("forward", o),
    }
    Ok(())
}
