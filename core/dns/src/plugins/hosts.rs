//! `hosts`: lines of a hosts file, of a file or inline (`plugin/hosts`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::chain::args::{self, duration, err, no_more, number, one, unknown};
use crate::chain::{Context, Flow, Note, Passage, Plugin, Query, Reply, Setup, Want};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Data, Question, Record, rcode, rtype};
use crate::metrics::{Family, Metrics};
use crate::name::Name;

static ENTRIES: Family =
    Family::gauge("coredns_hosts_entries", "The combined number of entries in hosts and Corefile.");

/// `hosts`
#[derive(Clone, Debug)]
pub struct Hosts {
    /// File.
    pub path: String,
    /// Zones.
    pub zones: Vec<Name>,
    /// Inline lines, as of a hosts file.
    pub inline: String,
    /// Seconds.
    pub ttl: u32,
    /// Answers PTR, too.
    pub reverse: bool,
    /// Between looks at the file; zero: never again.
    pub reload: Duration,
    /// `fallthrough`
    pub fallthrough: Option<Vec<Name>>,
    table: Table,
}

/// `hosts [FILE [ZONES...]] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let mut hosts = Hosts {
        path: d.args.first().map_or_else(|| "/etc/hosts".to_owned(), |t| setup.settings.path(&t.text)),
        zones: args::zones(d.args.get(1..).unwrap_or(&[]))?,
        inline: String::new(),
        ttl: 3600,
        reverse: true,
        reload: Duration::from_secs(5),
        fallthrough: None,
        table: Table::default(),
    };
    if hosts.zones.is_empty() {
        hosts.zones = setup.zones();
    }
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "fallthrough" => hosts.fallthrough = args::fallthrough(option)?,
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
    hosts.table = Table::parse(&hosts.inline);
    setup.add(hosts);
    Ok(())
}

impl Plugin for Hosts {
    fn passage(&self) -> Passage {
        Passage::Same
    }

    fn down(&mut self, query: &mut Query, _: &mut Note, _: &mut Context<'_>) -> Flow {
        answer(self, query.question())
    }

    fn files(&self) -> Vec<Want> {
        vec![Want { path: self.path.clone(), folder: false, every: self.reload }]
    }

    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        if path == self.path {
            self.table = Table::parse(&self.inline);
            // A file that is not there has no lines.
            self.table.add(content.unwrap_or(""));
        }
        Ok(())
    }

    fn render_metrics(&self, _: &[Arc<str>], out: &mut Metrics) {
        out.add(&ENTRIES, "", self.table.len() as f64);
    }
}

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
                // A wildcard is nobody's name.
                if name.labels().next() == Some(b"*") {
                    continue;
                }
                let names = self.by_address.entry(ip).or_default();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
    }

    /// A name's addresses of one family: its own, else those of the wildcard in its first label's place, which stands
    /// for one label.
    fn addresses(&self, name: &Name, v4: bool) -> Vec<IpAddr> {
        let of = |name: &Name| -> Vec<IpAddr> {
            let all = self.by_name.get(name).into_iter().flatten();
            all.filter(|ip| ip.is_ipv4() == v4).copied().collect()
        };
        let own = of(name);
        let mut labels = name.labels();
        if !own.is_empty() || labels.next().is_none() {
            return own;
        }
        let wildcard = Name::from_labels(std::iter::once(&b"*"[..]).chain(labels));
        wildcard.map_or(own, |name| of(&name))
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

/// What the lines say to a question.
fn answer(hosts: &Hosts, question: &Question) -> Flow {
    let (name, table) = (&question.name, &hosts.table);
    let within = hosts.zones.iter().any(|zone| name.is_within(zone));
    let mut answers = Vec::new();
    let record = |data| Record::new(name.clone(), hosts.ttl, data);
    match question.rtype {
        rtype::PTR => {
            let names =
                name.reverse_address().filter(|_| hosts.reverse).and_then(|ip| table.by_address.get(&ip));
            let Some(names) = names else { return Flow::Next };
            answers.extend(names.iter().map(|name| record(Data::Ptr(name.clone()))));
        }
        _ if !within => return Flow::Next,
        rtype::A | rtype::AAAA => {
            let addresses = table.addresses(name, question.rtype == rtype::A);
            answers.extend(addresses.into_iter().map(|ip| record(Data::address(ip))));
        }
        _ => {}
    }
    let there = || [true, false].iter().any(|v4| !table.addresses(name, *v4).is_empty());
    if answers.is_empty() && !there() {
        if hosts.fallthrough.iter().flatten().any(|zone| name.is_within(zone)) {
            return Flow::Next;
        }
        // Without an SOA there can be no NXDOMAIN (hosts.go).
        return Flow::refuse(rcode::SERVFAIL);
    }
    Flow::Reply(Reply { answers, ..Reply::default() }.into())
}
