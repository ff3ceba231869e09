//! What `cache`'s lines mean.

use std::time::Duration;

use crate::chain::args::{self, duration, err, no_more, number, one, seconds, unknown};
use crate::corefile::{CorefileError, Directive, Token};
use crate::name::Name;

/// One side of `cache`.
#[derive(Clone, Debug)]
pub struct CacheSide {
    /// Entries, at most.
    pub capacity: usize,
    /// Longest time.
    pub max_ttl: Duration,
    /// Shortest time.
    pub min_ttl: Duration,
    /// Zones for which it is off.
    pub disabled: Vec<Name>,
}

/// `cache`'s lines.
#[derive(Clone, Debug)]
pub struct Config {
    /// Zones.
    pub zones: Vec<Name>,
    /// Answers with records.
    pub success: CacheSide,
    /// NXDOMAIN and NODATA.
    pub denial: CacheSide,
    /// How long failures are kept.
    pub servfail: Duration,
    /// Ask again before an entry ends: after so many hits, …
    pub prefetch: Option<Prefetch>,
    /// Ended entries are served so long.
    pub serve_stale: Option<ServeStale>,
    /// TTLs are not counted down.
    pub keep_ttl: bool,
}

/// `prefetch AMOUNT [DURATION] [PERCENTAGE%]`
#[derive(Clone, Copy, Debug)]
pub struct Prefetch {
    /// Hits that make it worth while.
    pub amount: u32,
    /// Within this time without a gap.
    pub duration: Duration,
    /// When so much of the TTL is left, in percent.
    pub percentage: u32,
}

/// `serve_stale [DURATION] [immediate [RESPONSE_TTL [FAILURE_RECHECK]] | verify [VERIFY_TIMEOUT [RESPONSE_TTL
/// [FAILURE_RECHECK]]]]`, and `serve_stale_policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServeStale {
    /// How long.
    pub duration: Duration,
    /// Ask first, and serve the stale answer only where that fails.
    pub verify: bool,
    /// … or takes longer than this; zero: as long as it takes.
    pub timeout: Duration,
    /// What their TTL is, in seconds.
    pub ttl: u32,
    /// How long not to ask again once that has failed.
    pub recheck: Duration,
    /// `prefer_positive`: what answers the question is better than a denial.
    pub prefer_positive: bool,
}

/// Reads the lines of a block with these zones.
pub(super) fn read(own: &[Name], d: &Directive) -> Result<Config, CorefileError> {
    let side = |max: u64| CacheSide {
        capacity: capacity(10_000),
        max_ttl: Duration::from_secs(max),
        min_ttl: Duration::from_secs(5),
        disabled: Vec::new(),
    };
    let mut cache = Config {
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
    cache.zones = if names.is_empty() { own.to_vec() } else { args::zones(names)? };
    let mut policy = None;
    for option in d.block.iter().flatten() {
        if option.name.text == "serve_stale_policy" {
            let token = one(option, "policy")?;
            if !token.text.eq_ignore_ascii_case("prefer_positive") {
                return err(token, format!("'{}' is no policy (prefer_positive)", token.text));
            }
            if policy.replace(&option.name).is_some() {
                return err(&option.name, "'serve_stale_policy' stands twice");
            }
        } else {
            option_of(&mut cache, option)?;
        }
    }
    match (policy, &mut cache.serve_stale) {
        (Some(_), Some(stale)) => stale.prefer_positive = true,
        (Some(name), None) => return err(name, "'serve_stale_policy' needs 'serve_stale'"),
        (None, _) => {}
    }
    for side in [&mut cache.success, &mut cache.denial] {
        side.min_ttl = side.min_ttl.min(side.max_ttl);
    }
    Ok(cache)
}

/// As many as CoreDNS keeps: 256 shelves of one size, with room for four each at least.
fn capacity(wanted: usize) -> usize {
    256 * (wanted / 256).max(4)
}

/// `serve_stale`'s words.
fn serve_stale(args: &[Token]) -> Result<ServeStale, CorefileError> {
    let mut stale = ServeStale {
        duration: Duration::from_secs(3600),
        verify: false,
        timeout: Duration::ZERO,
        ttl: 0,
        recheck: Duration::ZERO,
        prefer_positive: false,
    };
    let mut words = args.iter();
    if let Some(token) = words.next() {
        stale.duration = duration(token)?;
    }
    if let Some(token) = words.next() {
        stale.verify = match token.text.to_ascii_lowercase().as_str() {
            "verify" => true,
            "immediate" => false,
            other => return err(token, format!("'{other}' is no refresh mode (immediate, verify)")),
        };
    }
    if stale.verify
        && let Some(token) = words.next()
    {
        stale.timeout = duration(token)?;
    }
    if let Some(token) = words.next() {
        let ttl = duration(token)?;
        let whole = ttl.subsec_nanos() == 0;
        match u32::try_from(ttl.as_secs()).ok().filter(|_| whole) {
            Some(seconds) => stale.ttl = seconds,
            None => return err(token, "a TTL is a whole number of seconds"),
        }
    }
    if let Some(token) = words.next() {
        stale.recheck = duration(token)?;
        if stale.recheck > Duration::from_secs(300) {
            return err(token, "a failed refresh is tried again after 5m at most (RFC 8767 section 5)");
        }
    }
    no_more("serve_stale", words.as_slice())?;
    Ok(stale)
}

fn option_of(cache: &mut Config, o: &Directive) -> Result<(), CorefileError> {
    match o.name.text.as_str() {
        name @ ("success" | "denial") => {
            let side = if name == "success" { &mut cache.success } else { &mut cache.denial };
            let Some(capacity) = o.args.first() else {
                return err(&o.name, format!("'{name}' needs a capacity"));
            };
            side.capacity = self::capacity(number(capacity, "capacity")?);
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
            cache.serve_stale = Some(serve_stale(&o.args)?);
            Ok(())
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
            let names = args::zones(&o.args[1..])?;
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
