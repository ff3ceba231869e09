//! What strangers send. Messages made to be wrong in every way that a message can be are read by Sealane's parser and
//! by NLnet Labs' `domain`, and given to a server that has most of the plugins.
//!
//! A run takes a bounded number of cases, or lasts `SEALANE_FUZZ_MINUTES` (`cargo xtask fuzz dns --minutes N`). Each
//! case has a number of its own, which is printed where it fails: `SEALANE_FUZZ_SEED=NUMBER` begins with it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod differential;
mod messages;
mod random;
mod reference;
mod relay;
mod server;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use random::Random;

/// Cases where no time is given.
const CASES: u64 = 20_000;

/// Runs cases, and counts what `case` says of each. Prints all of it.
pub fn run(target: &str, mut case: impl FnMut(&mut Random) -> &'static str) -> BTreeMap<&'static str, u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let minutes = number("SEALANE_FUZZ_MINUTES");
    // A third of the time each: there are three targets, one after the other.
    let time = minutes.map(|minutes| Duration::from_secs(minutes * 20));
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let first = number("SEALANE_FUZZ_SEED").unwrap_or_else(clock);
    println!("{target}: from SEALANE_FUZZ_SEED={first}");
    let (begun, mut counts) = (Instant::now(), BTreeMap::new());
    let mut cases = 0;
    loop {
        let over = time.map_or(cases >= CASES, |time| cases % 64 == 0 && begun.elapsed() >= time);
        if over {
            break;
        }
        let seed = first.wrapping_add(cases);
        match catch_unwind(AssertUnwindSafe(|| case(&mut Random::new(seed)))) {
            Ok(what) => *counts.entry(what).or_insert(0) += 1,
            Err(panic) => {
                eprintln!("{target}: failed with SEALANE_FUZZ_SEED={seed}, after {cases} cases");
                resume_unwind(panic)
            }
        }
        cases += 1;
    }
    println!("{target}: {cases} cases in {:.1?}: {counts:?}", begun.elapsed());
    counts
}
