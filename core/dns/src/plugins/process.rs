//! The lines about the server itself: `bind`, `debug`, `fairness`, `health`, `multisocket`, `prometheus`, `ready`, `reload`, `root`,
//! `timeouts`. They stand in the block's [`crate::chain::Settings`], for who opens the sockets.

use std::net::IpAddr;
use std::time::Duration;

use crate::chain::args::{address, duration, err, no_more, no_options, number, one, unknown};
use crate::chain::{Health, Reload, Setup, Sockets, Timeouts};
use crate::corefile::{CorefileError, Directive, Token};

/// `bind ADDRESS|IFACE... { except ADDRESS|IFACE... }`; what is excepted is so from this line alone.
///
/// # Errors
/// What is wrong with the lines.
pub fn bind(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let mut addresses = addresses(setup, &d.args)?;
    if d.args.is_empty() {
        return err(&d.name, "'bind' needs an address or an interface");
    }
    let mut except = Vec::new();
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "except" if option.args.is_empty() => {
                return err(&option.name, "'except' needs an address or an interface");
            }
            "except" => except = self::addresses(setup, &option.args)?,
            _ => return unknown("bind", option),
        }
    }
    addresses.retain(|ip| !except.contains(ip));
    if addresses.is_empty() {
        // An empty list would mean all addresses.
        return err(&d.name, "'bind' leaves no address to listen on");
    }
    setup.settings.bind.extend(addresses);
    Ok(())
}

/// Addresses, and those of interfaces.
fn addresses(setup: &Setup<'_>, tokens: &[Token]) -> Result<Vec<IpAddr>, CorefileError> {
    let mut out = Vec::new();
    for token in tokens {
        match (setup.interfaces.get(&token.text), token.text.parse()) {
            (Some(addresses), _) => out.extend(addresses),
            (None, Ok(ip)) => out.push(ip),
            (None, Err(_)) => {
                let message = format!("'{}' is no address, and no interface of this machine", token.text);
                return err(token, message);
            }
        }
    }
    Ok(out)
}

/// `debug`
///
/// # Errors
/// What is wrong with the line.
pub fn debug(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    no_more("debug", &d.args)?;
    setup.settings.debug = true;
    Ok(())
}

/// `root PATH`
///
/// # Errors
/// What is wrong with the line.
pub fn root(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    setup.settings.root = Some(one(d, "path")?.text.clone());
    Ok(())
}

/// `multisocket [NUM_SOCKETS]`
///
/// # Errors
/// What is wrong with the line.
pub fn multisocket(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    setup.settings.sockets = Some(match d.args.first() {
        None => Sockets::PerProcessor,
        Some(token) => match number(token, "number of sockets")? {
            count @ 1..=1024 => Sockets::Number(count),
            _ => return err(token, "'multisocket' opens 1 to 1024 sockets"),
        },
    });
    no_more("multisocket", d.args.get(1..).unwrap_or(&[]))
}

/// Queries a second that no client is denied, where `fairness` says nothing.
const FAIR: u32 = 100;

/// `fairness [RATE]`: see [`crate::fairness`].
///
/// # Errors
/// What is wrong with the line.
pub fn fairness(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    setup.settings.fairness = Some(match d.args.first() {
        None => FAIR,
        Some(token) => match number(token, "number of queries a second")? {
            rate @ 1..=1_000_000 => rate,
            _ => return err(token, "'fairness' leaves each client 1 to 1000000 queries a second"),
        },
    });
    no_more("fairness", d.args.get(1..).unwrap_or(&[]))
}

/// `timeouts { read DURATION | write DURATION | idle DURATION | maxtcpqueries NUMBER }`
///
/// # Errors
/// What is wrong with the lines.
pub fn timeouts(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_more("timeouts", &d.args)?;
    let mut timeouts = Timeouts::default();
    for option in d.block.iter().flatten() {
        let time = || -> Result<Option<Duration>, CorefileError> {
            let token = one(option, "duration")?;
            // A bare number counts seconds (`plugin/pkg/durations`).
            let time = match token.text.parse() {
                Ok(seconds) => Duration::from_secs(seconds),
                Err(_) => duration(token)?,
            };
            if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&time) {
                return err(token, "a timeout lies between 1s and 24h");
            }
            Ok(Some(time))
        };
        match option.name.text.as_str() {
            "read" => timeouts.read = time()?,
            "write" => timeouts.write = time()?,
            "idle" => timeouts.idle = time()?,
            "maxtcpqueries" => {
                let token = one(option, "number of queries")?;
                timeouts.tcp_queries = Some(match number::<i64>(token, "number of queries")? {
                    -1 => u32::MAX,
                    count => match u32::try_from(count) {
                        Ok(count) if count > 0 => count,
                        _ => return err(token, "'maxtcpqueries' is -1 (no bound), or 1 and more"),
                    },
                });
            }
            _ => return unknown("timeouts", option),
        }
    }
    if timeouts == Timeouts::default() {
        return err(&d.name, "'timeouts' names none (read, write, idle, maxtcpqueries)");
    }
    setup.settings.timeouts = Some(timeouts);
    Ok(())
}

/// `health [ADDRESS] { lameduck DURATION }`
///
/// # Errors
/// What is wrong with the line.
pub fn health(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let mut health = Health { address: address(d, ":8080")?, lameduck: Duration::ZERO };
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "lameduck" => health.lameduck = duration(one(option, "duration")?)?,
            _ => return unknown("health", option),
        }
    }
    setup.settings.health = Some(health);
    Ok(())
}

/// `ready [ADDRESS] { monitor until-ready|continuously }`
///
/// # Errors
/// What is wrong with the line.
pub fn ready(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    setup.settings.ready = Some(address(d, ":8181")?);
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "monitor" => {
                let token = one(option, "way to monitor")?;
                setup.settings.ready_continuously = match token.text.as_str() {
                    "until-ready" => false,
                    "continuously" => true,
                    other => {
                        let message = format!("'{other}' is no way to monitor (until-ready, continuously)");
                        return err(token, message);
                    }
                };
            }
            _ => return unknown("ready", option),
        }
    }
    Ok(())
}

/// `prometheus [ADDRESS]`
///
/// # Errors
/// What is wrong with the line.
pub fn prometheus(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    if let Some(option) = d.block.iter().flatten().find(|option| option.name.text == "runtime_metrics") {
        return err(&option.name, "'runtime_metrics' shows what Go does; Sealane is not written in Go");
    }
    no_options(d)?;
    setup.settings.prometheus = Some(address(d, "localhost:9153")?);
    Ok(())
}

/// `reload [INTERVAL] [JITTER]`
///
/// # Errors
/// What is wrong with the line.
pub fn reload(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    let (mut interval, mut jitter) = (Duration::from_secs(30), Duration::from_secs(15));
    if let Some(token) = d.args.first() {
        interval = duration(token)?;
        if interval < Duration::from_secs(2) {
            return err(token, "'reload' looks every 2s at most");
        }
    }
    if let Some(token) = d.args.get(1) {
        jitter = duration(token)?;
        if !jitter.is_zero() && jitter < Duration::from_secs(1) {
            return err(token, "a jitter of 'reload' is 0, or 1s and more");
        }
    }
    no_more("reload", d.args.get(2..).unwrap_or(&[]))?;
    setup.settings.reload = Some(Reload { interval, jitter: jitter.min(interval / 2) });
    Ok(())
}
