//! What each plugin's lines mean, after the option tables of CoreDNS 1.14.

use std::time::Duration;

use super::{
    Block, Cache, CacheSide, Forward, Health, Hosts, Kubernetes, LogClass, LogRule, PodMode, Policy,
    Prefetch, Reload, Selector, ServeStale, Upstream, values,
};
use crate::corefile::{CorefileError, Directive, Token};
use crate::name::Name;

type Setup = fn(&mut Block, &Directive) -> Result<(), CorefileError>;

/// Name, reader, and whether it may stand several times in a block.
pub(super) static SETUPS: &[(&str, Setup, bool)] = &[
    ("reload", reload, false),
    ("bind", bind, true),
    ("ready", ready, false),
    ("health", health, false),
    ("prometheus", prometheus, false),
    ("errors", errors, false),
    ("log", log, true),
    ("loadbalance", loadbalance, false),
    ("cache", cache, false),
    ("hosts", hosts, false),
    ("kubernetes", kubernetes, true),
    ("loop", detect_loop, false),
    ("forward", forward, true),
];

/// CoreDNS's other plugins (`plugin.cfg`).
pub(super) static COREDNS: &[&str] = &[
    "acl",
    "any",
    "auto",
    "autopath",
    "azure",
    "bufsize",
    "cancel",
    "chaos",
    "clouddns",
    "debug",
    "dns64",
    "dnssec",
    "dnstap",
    "erratic",
    "etcd",
    "file",
    "geoip",
    "grpc",
    "grpc_server",
    "header",
    "https",
    "https3",
    "k8s_external",
    "local",
    "metadata",
    "minimal",
    "multisocket",
    "nomad",
    "nsid",
    "pprof",
    "quic",
    "rewrite",
    "root",
    "route53",
    "secondary",
    "sign",
    "template",
    "timeouts",
    "tls",
    "trace",
    "transfer",
    "tsig",
    "view",
    "whoami",
    "on",
];

fn err<T>(token: &Token, message: impl Into<String>) -> Result<T, CorefileError> {
    Err(CorefileError::new(&token.at, message))
}

fn no_more(plugin: &str, args: &[Token]) -> Result<(), CorefileError> {
    match args.first() {
        Some(extra) => err(extra, format!("'{plugin}' takes no '{}'", extra.text)),
        None => Ok(()),
    }
}

fn unknown<T>(plugin: &str, option: &Directive) -> Result<T, CorefileError> {
    err(&option.name, format!("option '{}' of '{plugin}' is unknown, or not Sealane's yet", option.name.text))
}

fn no_options(directive: &Directive) -> Result<(), CorefileError> {
    match directive.block.iter().flatten().next() {
        Some(option) => unknown(&directive.name.text, option),
        None => Ok(()),
    }
}

fn one<'a>(line: &'a Directive, what: &str) -> Result<&'a Token, CorefileError> {
    match line.args.as_slice() {
        [one] => Ok(one),
        [_, extra, ..] => err(extra, format!("'{}' takes one {what}", line.name.text)),
        [] => err(&line.name, format!("'{}' needs a {what}", line.name.text)),
    }
}

fn duration(token: &Token) -> Result<Duration, CorefileError> {
    values::duration(&token.text).or_else(|message| err(token, message))
}

fn number<T: std::str::FromStr>(token: &Token, what: &str) -> Result<T, CorefileError> {
    token.text.parse().or_else(|_| err(token, format!("'{}' is no {what}", token.text)))
}

/// Whole seconds, or a duration.
fn seconds(token: &Token) -> Result<Duration, CorefileError> {
    match token.text.parse::<u32>() {
        Ok(0) => err(token, "a TTL of 0 would turn it off; leave the line out instead"),
        Ok(n) => Ok(Duration::from_secs(n.into())),
        Err(_) => err(token, format!("'{}' is no number of seconds", token.text)),
    }
}

fn zones(tokens: &[Token]) -> Result<Vec<Name>, CorefileError> {
    let mut out = Vec::new();
    for token in tokens {
        out.extend(values::parse_zones(&token.text).or_else(|message| err(token, message))?);
    }
    Ok(out)
}

fn fallthrough(line: &Directive) -> Result<Option<Vec<Name>>, CorefileError> {
    if line.args.is_empty() { Ok(Some(vec![Name::root()])) } else { zones(&line.args).map(Some) }
}

fn address(directive: &Directive, default: &str) -> Result<String, CorefileError> {
    let Some(token) = directive.args.first() else { return Ok(default.to_owned()) };
    no_more(&directive.name.text, &directive.args[1..])?;
    let port = token.text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) => Ok(token.text.clone()),
        None => err(token, format!("'{}' is no address with a port", token.text)),
    }
}

fn bind(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    for token in &d.args {
        block.bind.push(number(token, "address (interface names are not Sealane's yet)")?);
    }
    if d.args.is_empty() { err(&d.name, "'bind' needs an address") } else { Ok(()) }
}

fn errors(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    // `errors stdout` is an old way to write it.
    no_more(
        "errors",
        if d.args.first().is_some_and(|t| t.text == "stdout") { &d.args[1..] } else { &d.args },
    )?;
    block.errors = true;
    Ok(())
}

/// CoreDNS's formats of `log`.
const COMMON: &str = "{remote}:{port} - {>id} \"{type} {class} {name} {proto} {size} {>do} {>bufsize}\" {rcode} {>rflags} {rsize} {duration}";

fn log(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
    let (mut names, mut format) = (&d.args[..], COMMON.to_owned());
    if let Some((last, rest)) = d.args.split_last()
        && last.text.contains('{')
    {
        names = rest;
        format = last
            .text
            .replace("{common}", COMMON)
            .replace("{combined}", &COMMON.replace("{duration}", "{duration} \"{>opcode}\""));
    }
    let zones = if names.is_empty() { vec![Name::root()] } else { zones(names)? };
    let mut classes = Vec::new();
    for option in d.block.iter().flatten() {
        if option.name.text != "class" {
            return unknown("log", option);
        }
        for token in &option.args {
            classes.push(match token.text.as_str() {
                "all" => LogClass::All,
                "success" => LogClass::Success,
                "denial" => LogClass::Denial,
                "error" => LogClass::Error,
                other => return err(token, format!("'{other}' is no class (all, success, denial, error)")),
            });
        }
    }
    if classes.is_empty() {
        classes.push(LogClass::All);
    }
    block.log.push(LogRule { zones, format, classes });
    Ok(())
}

fn health(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
    let mut health = Health { address: address(d, ":8080")?, lameduck: Duration::ZERO };
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "lameduck" => health.lameduck = duration(one(option, "duration")?)?,
            _ => return unknown("health", option),
        }
    }
    block.health = Some(health);
    Ok(())
}

fn ready(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    block.ready = Some(address(d, ":8181")?);
    Ok(())
}

fn prometheus(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    block.prometheus = Some(address(d, "localhost:9153")?);
    Ok(())
}

fn reload(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    let (mut interval, mut jitter) = (Duration::from_secs(30), Duration::from_secs(15));
    if let Some(token) = d.args.first() {
        interval = duration(token)?;
        if interval < Duration::from_secs(2) {
            return err(token, "'reload' looks every 2s at most");
        }
        jitter = interval / 2;
    }
    if let Some(token) = d.args.get(1) {
        jitter = duration(token)?;
    }
    no_more("reload", d.args.get(2..).unwrap_or(&[]))?;
    block.reload = Some(Reload { interval, jitter: jitter.min(interval / 2) });
    Ok(())
}

fn loadbalance(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    if let Some(token) = d.args.first()
        && token.text != "round_robin"
    {
        return err(token, format!("policy '{}' is unknown, or not Sealane's yet (round_robin)", token.text));
    }
    no_more("loadbalance", d.args.get(1..).unwrap_or(&[]))?;
    block.loadbalance = true;
    Ok(())
}

fn detect_loop(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    no_more("loop", &d.args)?;
    block.detect_loop = true;
    Ok(())
}

fn cache(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
    let side = |max: u64| CacheSide {
        capacity: 9984,
        max_ttl: Duration::from_secs(max),
        min_ttl: Duration::from_secs(5),
        disabled: Vec::new(),
    };
    let mut cache = Cache {
        zones: Vec::new(),
        success: side(3600),
        denial: side(1800),
        servfail: Duration::from_secs(5),
        prefetch: None,
        serve_stale: None,
        keep_ttl: false,
    };
    let mut names = &d.args[..];
    if let Some(first) = names.first()
        && first.text.bytes().all(|b| b.is_ascii_digit())
    {
        let ttl = seconds(first)?;
        (cache.success.max_ttl, cache.denial.max_ttl) = (ttl, ttl);
        names = &names[1..];
    }
    cache.zones = zones(names)?;
    for option in d.block.iter().flatten() {
        cache_option(&mut cache, option)?;
    }
    for side in [&mut cache.success, &mut cache.denial] {
        side.min_ttl = side.min_ttl.min(side.max_ttl);
    }
    block.cache = Some(cache);
    Ok(())
}

fn cache_option(cache: &mut Cache, o: &Directive) -> Result<(), CorefileError> {
    match o.name.text.as_str() {
        name @ ("success" | "denial") => {
            let side = if name == "success" { &mut cache.success } else { &mut cache.denial };
            let Some(capacity) = o.args.first() else {
                return err(&o.name, format!("'{name}' needs a capacity"));
            };
            side.capacity = number(capacity, "capacity")?;
            if let Some(token) = o.args.get(1) {
                side.max_ttl = seconds(token)?;
            }
            if let Some(token) = o.args.get(2) {
                side.min_ttl = Duration::from_secs(number(token, "number of seconds")?);
            }
            no_more(name, o.args.get(3..).unwrap_or(&[]))
        }
        "prefetch" => {
            let Some(amount) = o.args.first() else { return err(&o.name, "'prefetch' needs an amount") };
            let mut prefetch = Prefetch {
                amount: number(amount, "amount")?,
                duration: Duration::from_secs(60),
                percentage: 10,
            };
            if let Some(token) = o.args.get(1) {
                prefetch.duration = duration(token)?;
            }
            if let Some(token) = o.args.get(2) {
                let percent = token.text.strip_suffix('%').and_then(|p| p.parse().ok());
                let Some(percent) = percent.filter(|p| (10..=90).contains(p)) else {
                    return err(token, "a percentage lies between 10% and 90%");
                };
                prefetch.percentage = percent;
            }
            cache.prefetch = Some(prefetch);
            no_more("prefetch", o.args.get(3..).unwrap_or(&[]))
        }
        "serve_stale" => {
            let mut stale = ServeStale { duration: Duration::from_secs(3600), verify: false };
            if let Some(token) = o.args.first() {
                stale.duration = duration(token)?;
            }
            if let Some(token) = o.args.get(1) {
                stale.verify = match token.text.to_ascii_lowercase().as_str() {
                    "verify" => true,
                    "immediate" => false,
                    other => return err(token, format!("'{other}' is no refresh mode (immediate, verify)")),
                };
            }
            cache.serve_stale = Some(stale);
            no_more("serve_stale", o.args.get(2..).unwrap_or(&[]))
        }
        "servfail" => {
            cache.servfail = duration(one(o, "duration")?)?;
            if cache.servfail > Duration::from_secs(300) {
                return err(&o.name, "'servfail' lasts 5m at most (RFC 2308 section 7)");
            }
            Ok(())
        }
        "disable" => {
            let side = match o.args.first().map(|t| t.text.as_str()) {
                Some("success") => &mut cache.success,
                Some("denial") => &mut cache.denial,
                _ => return err(&o.name, "'disable' needs success or denial"),
            };
            let names = zones(&o.args[1..])?;
            side.disabled = if names.is_empty() { vec![Name::root()] } else { names };
            Ok(())
        }
        "keepttl" => {
            cache.keep_ttl = true;
            no_more("keepttl", &o.args)
        }
        _ => unknown("cache", o),
    }
}

fn hosts(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
    let mut hosts = Hosts {
        path: d.args.first().map_or_else(|| "/etc/hosts".to_owned(), |t| t.text.clone()),
        zones: zones(d.args.get(1..).unwrap_or(&[]))?,
        inline: String::new(),
        ttl: 3600,
        reverse: true,
        reload: Duration::from_secs(5),
        fallthrough: None,
    };
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "fallthrough" => hosts.fallthrough = fallthrough(option)?,
            "no_reverse" => {
                no_more("no_reverse", &option.args)?;
                hosts.reverse = false;
            }
            "ttl" => {
                let token = one(option, "number of seconds")?;
                hosts.ttl = number(token, "number of seconds")?;
                if hosts.ttl == 0 || hosts.ttl > 65_535 {
                    return err(token, "a TTL of hosts lies between 1 and 65535");
                }
            }
            "reload" => hosts.reload = duration(one(option, "duration")?)?,
            address if address.parse::<std::net::IpAddr>().is_ok() => {
                hosts.inline.push_str(address);
                for name in &option.args {
                    hosts.inline.push(' ');
                    hosts.inline.push_str(&name.text);
                }
                hosts.inline.push('\n');
            }
            _ => return unknown("hosts", option),
        }
    }
    block.hosts = Some(hosts);
    Ok(())
}

fn kubernetes(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
    let mut names = zones(&d.args)?;
    if names.is_empty() {
        names = block.keys.iter().map(|(zone, _)| zone.clone()).collect();
    }
    let reverse = |zone: &Name| zone.is_within(&Name::root().under(&["arpa"]));
    if names.iter().all(reverse) {
        return err(&d.name, "'kubernetes' needs a zone that is not a reverse one");
    }
    let mut k = Kubernetes {
        zones: names,
        pods: PodMode::Disabled,
        endpoint_pod_names: false,
        ttl: 5,
        namespaces: Vec::new(),
        labels: None,
        namespace_labels: None,
        no_endpoints: false,
        ignore_empty: false,
        ptr_hostname_only: false,
        fallthrough: None,
    };
    for option in d.block.iter().flatten() {
        kubernetes_option(&mut k, option)?;
    }
    block.kubernetes.push(k);
    Ok(())
}

fn kubernetes_option(k: &mut Kubernetes, o: &Directive) -> Result<(), CorefileError> {
    let selector = |o: &Directive| {
        let text: Vec<&str> = o.args.iter().map(|t| t.text.as_str()).collect();
        match o.args.first() {
            Some(first) => Selector::parse(&text.join(" ")).or_else(|message| err(first, message)).map(Some),
            None => err(&o.name, format!("'{}' needs a label selector", o.name.text)),
        }
    };
    match o.name.text.as_str() {
        "pods" => {
            let token = one(o, "mode")?;
            k.pods = match token.text.as_str() {
                "disabled" => PodMode::Disabled,
                "insecure" => PodMode::Insecure,
                "verified" => PodMode::Verified,
                other => {
                    return err(
                        token,
                        format!("'{other}' is no mode of pods (disabled, insecure, verified)"),
                    );
                }
            };
        }
        "endpoint_pod_names" => k.endpoint_pod_names = true,
        "ttl" => {
            let token = one(o, "number of seconds")?;
            k.ttl = number(token, "number of seconds")?;
            if k.ttl > 3600 {
                return err(token, "a TTL of kubernetes lies between 0 and 3600");
            }
        }
        "namespaces" if !o.args.is_empty() => k.namespaces.extend(o.args.iter().map(|t| t.text.clone())),
        "namespaces" => return err(&o.name, "'namespaces' needs one at least"),
        "labels" => k.labels = selector(o)?,
        "namespace_labels" => k.namespace_labels = selector(o)?,
        "noendpoints" => k.no_endpoints = true,
        "ptr_hostname_only" => k.ptr_hostname_only = true,
        "ignore" => {
            let token = one(o, "thing")?;
            if token.text != "empty_service" {
                return err(token, format!("'{}' cannot be ignored (empty_service)", token.text));
            }
            k.ignore_empty = true;
        }
        "fallthrough" => k.fallthrough = fallthrough(o)?,
        // How long CoreDNS waits for the API before it starts to answer SERVFAIL; we do so from the start.
        "startup_timeout" => {
            duration(one(o, "duration")?)?;
        }
        _ => return unknown("kubernetes", o),
    }
    match o.name.text.as_str() {
        "endpoint_pod_names" | "noendpoints" | "ptr_hostname_only" => no_more(&o.name.text, &o.args),
        _ => Ok(()),
    }
}

fn forward(block: &mut Block, d: &Directive) -> Result<(), CorefileError> {
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
    let from = zones(std::slice::from_ref(from))?;
    let mut forward = Forward {
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
        forward_option(&mut forward, option)?;
    }
    block.forward.extend(from.into_iter().map(|from| Forward { from, ..forward.clone() }));
    Ok(())
}

fn forward_option(f: &mut Forward, o: &Directive) -> Result<(), CorefileError> {
    match o.name.text.as_str() {
        "except" if !o.args.is_empty() => f.except.extend(zones(&o.args)?),
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
