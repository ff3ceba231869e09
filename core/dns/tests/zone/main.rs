//! Zones: master files, answers, transfers, signatures.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod dnssec;
mod lookup;
mod master;
mod transfer;

use sealane_dns::zone::{Zone, no_include, parse};
use sealane_dns::{Name, message::Record};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn records(origin: &str, text: &str) -> Vec<Record> {
    parse("db", text.as_bytes(), &name(origin), &mut no_include).unwrap()
}

fn zone(origin: &str, text: &str) -> Zone {
    Zone::new(&name(origin), records(origin, text)).unwrap()
}

fn lines(records: &[Record]) -> Vec<String> {
    records.iter().map(ToString::to_string).collect()
}
