//! The `hosts` plugin: lines of a hosts file, of a file or inline (`plugin/hosts`).

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config;
use crate::kubernetes::Reply;
use crate::message::{Data, Question, Record, rcode, rtype};
use crate::name::Name;

/// Names and addresses of hosts lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    by_name: HashMap<Name, Vec<IpAddr>>,
    by_address: HashMap<IpAddr, Vec<Name>>,
}

impl Table {
    /// Reads lines `ADDRESS NAME...`; what is not one is left out, as everybody who reads hosts files does.
    pub fn parse(text: &str) -> Self {
        let mut table = Table::default();
        table.add(text);
        table
    }

    /// Adds lines.
    pub fn add(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or("").split_whitespace();
            let Some(ip) = words.next().and_then(|word| word.split('%').next()).and_then(|w| w.parse().ok())
            else {
                continue;
            };
            for name in words.filter_map(|word| word.parse::<Name>().ok()) {
                let name = name.to_lowercase();
                let addresses = self.by_name.entry(name.clone()).or_default();
                if !addresses.contains(&ip) {
                    addresses.push(ip);
                }
                let names = self.by_address.entry(ip).or_default();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
    }

    /// How many names and addresses it has.
    pub fn len(&self) -> usize {
        self.by_name.len() + self.by_address.len()
    }

    /// It has none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// The plugin's answer; `None`: it is for the next plugin. `own` are the server block's zones.
pub fn answer(hosts: &config::Hosts, table: &Table, own: &[Name], question: &Question) -> Option<Reply> {
    let name = &question.name;
    let zones = if hosts.zones.is_empty() { own } else { &hosts.zones };
    let within = zones.iter().any(|zone| name.is_within(zone));
    let mut answers = Vec::new();
    let record = |data| Record::new(name.clone(), hosts.ttl, data);
    match question.rtype {
        rtype::PTR => {
            let names =
                name.reverse_address().filter(|_| hosts.reverse).and_then(|ip| table.by_address.get(&ip));
            answers.extend(names?.iter().map(|name| record(Data::Ptr(name.clone()))));
        }
        _ if !within => return None,
        rtype::A | rtype::AAAA => {
            let addresses = table.by_name.get(name).into_iter().flatten();
            let wanted = addresses.filter(|ip| ip.is_ipv4() == (question.rtype == rtype::A));
            answers.extend(wanted.map(|ip| record(Data::address(*ip))));
        }
        _ => {}
    }
    if answers.is_empty() && !table.by_name.contains_key(name) {
        if hosts.fallthrough.iter().flatten().any(|zone| name.is_within(zone)) {
            return None;
        }
        // Without an SOA there can be no NXDOMAIN (hosts.go).
        return Some(Reply { rcode: rcode::SERVFAIL, ..Reply::default() });
    }
    Some(Reply { answers, ..Reply::default() })
}
