//! `hosts`: lines of a hosts file, of a file or inline (`plugin/hosts`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::chain::args::{self, duration, err, no_more, number, one, unknown};
use crate::chain::{Ask, Context, Flow, Note, Passage, Plugin, Query, Reply, Setup, Want};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Data, Question, Record, rcode, rtype};
use crate::metrics::{Family, Metrics};
use crate::name::Name;

static ENTRIES: Family =
    Family::gauge("coredns_hosts_entries", "The combined number of entries in hosts and Corefile.");
static RELOADED: Family = Family::gauge(
    "coredns_hosts_reload_timestamp_seconds",
    "The timestamp of the last reload of hosts file.",
);

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
    /// `fallthrough_unsupported`: types that no line can have fall through, too.
    pub others_fall: bool,
    /// The file's lines, and the Corefile's.
    tables: [Table; 2],
    /// The file was read and the clock not yet looked at; when that was, in seconds since 1970.
    read: (bool, u64),
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
        others_fall: false,
        tables: Default::default(),
        read: (false, 0),
    };
    let mut others = None;
    if hosts.zones.is_empty() {
        hosts.zones = setup.zones();
    }
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "fallthrough" => hosts.fallthrough = args::fallthrough(option)?,
            "fallthrough_unsupported" => {
                no_more("fallthrough_unsupported", &option.args)?;
                hosts.others_fall = true;
                others = Some(&option.name);
            }
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
            address if address_of(address).is_some() => {
                if option.args.is_empty() {
                    return err(&option.name, format!("no name stands behind {address}"));
                }
                hosts.inline.push_str(address);
                for name in &option.args {
                    if let Err(why) = name.text.parse::<Name>() {
                        return err(name, format!("'{}' is no name: {why}", name.text));
                    }
                    hosts.inline.push(' ');
                    hosts.inline.push_str(&name.text);
                }
                hosts.inline.push('\n');
            }
            _ => return unknown("hosts", option),
        }
    }
    if let Some(name) = others.filter(|_| hosts.fallthrough.is_none()) {
        return err(name, "'fallthrough_unsupported' needs 'fallthrough'");
    }
    hosts.tables[1] = Table::parse(&hosts.inline, &hosts.zones);
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
        // A file that is gone is as it was.
        if let Some(text) = content.filter(|_| path == self.path) {
            self.tables[0] = Table::parse(text, &self.zones);
            self.read.0 = true;
        }
        Ok(())
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        self.tick(cx);
    }

    fn tick(&mut self, cx: &mut Context<'_>) -> Vec<Ask> {
        if std::mem::take(&mut self.read.0) {
            self.read.1 = cx.now.unix;
        }
        Vec::new()
    }

    fn render_metrics(&self, _: &[Arc<str>], out: &mut Metrics) {
        let entries = self.tables.iter().map(|table| table.len(self.reverse)).sum::<usize>();
        out.set(&ENTRIES, &format!("hostsfile=\"{}\"", self.path), entries as f64);
        if self.read.1 > 0 {
            out.set(&RELOADED, "", self.read.1 as f64);
        }
    }
}

/// An address, its zone left out.
fn address_of(text: &str) -> Option<IpAddr> {
    text.split('%').next()?.parse().ok()
}

/// Names and addresses of hosts lines.
#[derive(Clone, Default)]
struct Table {
    by_name: HashMap<Name, Vec<IpAddr>>,
    by_address: HashMap<IpAddr, Vec<Name>>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} entries", self.len(true))
    }
}

impl Table {
    /// Reads lines `ADDRESS NAME...`; what is not one is left out, as everybody who reads hosts files does, and so
    /// are names of other zones.
    fn parse(text: &str, zones: &[Name]) -> Self {
        let mut table = Table::default();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or("").split_whitespace();
            let Some(ip) = words.next().and_then(address_of) else { continue };
            for name in words.filter_map(|word| word.parse::<Name>().ok()) {
                if !zones.iter().any(|zone| name.is_within(zone)) {
                    continue;
                }
                let name = name.to_lowercase();
                let addresses = table.by_name.entry(name.clone()).or_default();
                if !addresses.contains(&ip) {
                    addresses.push(ip);
                }
                let names = table.by_address.entry(ip).or_default();
                if !is_wildcard(&name) && !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        table
    }

    /// The addresses of a name: its own of that family, or else those of the wildcard in its leftmost label's place.
    fn addresses(&self, name: &Name, v4: bool) -> Vec<IpAddr> {
        let of = |name: &Name| {
            let all = self.by_name.get(name).into_iter().flatten();
            all.copied().filter(|ip| ip.is_ipv4() == v4).collect::<Vec<_>>()
        };
        let own = if is_wildcard(name) { Vec::new() } else { of(name) };
        if !own.is_empty() {
            return own;
        }
        let wildcard = Name::from_labels(std::iter::once(&b"*"[..]).chain(name.labels().skip(1)));
        wildcard.ok().filter(|_| name.labels().count() > 1).map_or_else(Vec::new, |name| of(&name))
    }

    fn len(&self, reverse: bool) -> usize {
        let names = self.by_address.values().map(Vec::len).sum::<usize>();
        self.by_name.values().map(Vec::len).sum::<usize>() + if reverse { names } else { 0 }
    }
}

fn is_wildcard(name: &Name) -> bool {
    name.labels().next() == Some(b"*")
}

impl Hosts {
    fn addresses(&self, name: &Name, v4: bool) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = Vec::new();
        for ip in self.tables.iter().flat_map(|table| table.addresses(name, v4)) {
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
        all
    }
}

/// What the lines say to a question.
fn answer(hosts: &Hosts, question: &Question) -> Flow {
    let name = &question.name;
    let within = hosts.zones.iter().any(|zone| name.is_within(zone));
    let falls = hosts.fallthrough.iter().flatten().any(|zone| name.is_within(zone));
    let mut answers = Vec::new();
    let record = |data| Record::new(name.clone(), hosts.ttl, data);
    match question.rtype {
        rtype::PTR => {
            let ip = name.reverse_address().filter(|_| hosts.reverse);
            let tables = hosts.tables.iter().filter_map(|table| table.by_address.get(&ip?));
            answers.extend(tables.flatten().map(|name| record(Data::Ptr(name.clone()))));
            if answers.is_empty() {
                return Flow::Next;
            }
        }
        _ if !within => return Flow::Next,
        rtype::A | rtype::AAAA => {
            let addresses = hosts.addresses(name, question.rtype == rtype::A);
            answers.extend(addresses.into_iter().map(|ip| record(Data::address(ip))));
        }
        _ if hosts.others_fall && falls => return Flow::Next,
        _ => {}
    }
    if answers.is_empty() && [true, false].iter().all(|v4| hosts.addresses(name, *v4).is_empty()) {
        // Without an SOA there can be no NXDOMAIN (hosts.go).
        return if falls { Flow::Next } else { Flow::refuse(rcode::SERVFAIL) };
    }
    Flow::Reply(Reply { answers, ..Reply::default() }.into())
}
