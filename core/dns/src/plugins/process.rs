//! The lines about the server itself: `bind`, `health`, `prometheus`, `ready`, `reload`. They stand in the block's
//! [`crate::chain::Settings`], for who opens the sockets.

use std::time::Duration;

use crate::chain::args::{address, duration, err, no_more, no_options, number, one, unknown};
use crate::chain::{Health, Reload, Setup};
use crate::corefile::{CorefileError, Directive};

/// `bind ADDRESS...`
///
/// # Errors
/// What is wrong with the line.
pub fn bind(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    for token in &d.args {
        setup.settings.bind.push(number(token, "address (interface names are not Sealane's yet)")?);
    }
    if d.args.is_empty() { err(&d.name, "'bind' needs an address") } else { Ok(()) }
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

/// `ready [ADDRESS]`
///
/// # Errors
/// What is wrong with the line.
pub fn ready(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    setup.settings.ready = Some(address(d, ":8181")?);
    Ok(())
}

/// `prometheus [ADDRESS]`
///
/// # Errors
/// What is wrong with the line.
pub fn prometheus(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
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
        jitter = interval / 2;
    }
    if let Some(token) = d.args.get(1) {
        jitter = duration(token)?;
    }
    no_more("reload", d.args.get(2..).unwrap_or(&[]))?;
    setup.settings.reload = Some(Reload { interval, jitter: jitter.min(interval / 2) });
    Ok(())
}
