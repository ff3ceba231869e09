//! `k8s_external`: a zone with the addresses under which Services are reached from outside (`plugin/k8s_external`).

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use sealane_catalog::{Entry, NamespacedName, Snapshot};

use super::kubernetes::{Exposed, Kubernetes, hosts};
use crate::chain::args::{self, err, no_more, number, one, unknown};
use crate::chain::{Context, Flow, Note, Peers, Plugin, Query, Reply, Setup, World};
use crate::corefile::{CorefileError, Directive};
use crate::message::{CLASS_IN, Data, Message, Question, Record, Soa, rcode, rtype};
use crate::name::Name;

/// `k8s_external`
#[derive(Debug)]
pub struct External {
    /// Zones that it is for.
    pub zones: Vec<Name>,
    /// Label of the name servers' subdomain.
    pub apex: String,
    /// Seconds, 0-3600.
    pub ttl: u32,
    /// Headless Services' endpoints have addresses here, too.
    pub headless: bool,
    /// `fallthrough`
    pub fallthrough: Option<Vec<Name>>,
    by_address: HashMap<IpAddr, BTreeSet<NamespacedName>>,
}

/// `k8s_external [ZONES...] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    if !setup.lines.iter().any(|line| line == "kubernetes") {
        return err(&d.name, "'k8s_external' answers from 'kubernetes', which this server block lacks");
    }
    let mut zones = args::zones(&d.args)?;
    if zones.is_empty() {
        zones = setup.zones();
    }
    let mut external = External {
        zones,
        apex: "dns".to_owned(),
        ttl: 5,
        headless: false,
        fallthrough: None,
        by_address: HashMap::new(),
    };
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "apex" => {
                let token = one(option, "label")?;
                let label = |name: Name| name.labels().count() == 1;
                if !token.text.parse().is_ok_and(label) {
                    return err(token, format!("'{}' is no label", token.text));
                }
                external.apex.clone_from(&token.text);
            }
            "ttl" => {
                let token = one(option, "number of seconds")?;
                external.ttl = number(token, "number of seconds")?;
                if external.ttl > 3600 {
                    return err(token, "a TTL of k8s_external lies between 0 and 3600");
                }
            }
            "headless" => {
                no_more("headless", &option.args)?;
                external.headless = true;
            }
            "fallthrough" => external.fallthrough = args::fallthrough(option)?,
            _ => return unknown("k8s_external", option),
        }
    }
    setup.add(external);
    Ok(())
}

/// An answer in the making: names of load balancers have to be looked up.
#[derive(Debug, Default)]
struct Draft {
    steps: VecDeque<Step>,
    reply: Reply,
    truncated: bool,
}

#[derive(Debug)]
enum Step {
    Answer(Record),
    Additional(Record),
    /// What is found goes to the answers, or to the additional records.
    Lookup(Question, bool),
}

impl Draft {
    fn go_on(mut self, soa: impl FnOnce() -> Record, note: &mut Note) -> Flow {
        while let Some(step) = self.steps.pop_front() {
            match step {
                Step::Answer(record) => self.reply.answers.push(record),
                Step::Additional(record) => self.reply.additional.push(record),
                Step::Lookup(ref question, _) => {
                    let flow = Flow::Lookup(question.clone());
                    self.steps.push_front(step);
                    note.set(self);
                    return flow;
                }
            }
        }
        if self.reply.answers.is_empty() {
            self.reply.authority.push(soa());
        }
        let mut message = Message::from(self.reply);
        message.flags.truncated = self.truncated;
        Flow::Reply(message)
    }
}

impl External {
    fn zone_of(&self, name: &Name) -> Option<&Name> {
        self.zones.iter().filter(|zone| name.is_within(zone)).max_by_key(|zone| zone.wire().len())
    }

    fn soa(&self, zone: &Name, world: &World) -> Record {
        let soa = Soa {
            mname: zone.under(&["ns1", &self.apex]),
            rname: zone.under(&["hostmaster", &self.apex]),
            serial: world.serial,
            refresh: 7200,
            retry: 1800,
            expire: 86_400,
            minimum: self.ttl,
        };
        Record::new(zone.clone(), self.ttl, Data::Soa(Box::new(soa)))
    }

    /// The zone itself, and its name servers' subdomain (`apex.go`); `None`: neither.
    fn own(&self, zone: &Name, query: &Query, kubernetes: &Kubernetes, world: &World) -> Option<Reply> {
        let question = query.question();
        let server = zone.under(&["ns1", &self.apex]);
        let addresses = || kubernetes.external_addresses(world, self.headless).into_iter();
        let address = |name: &Name, ip| Record::new(name.clone(), self.ttl, Data::address(ip));
        let mut reply = Reply::default();
        if question.name == *zone {
            match question.rtype {
                rtype::SOA => reply.answers.push(self.soa(zone, world)),
                rtype::NS => {
                    reply.answers.push(Record::new(zone.clone(), self.ttl, Data::Ns(server.clone())));
                    reply.additional.extend(addresses().map(|ip| address(&server, ip)));
                }
                _ => {}
            }
        } else if question.name.is_within(&zone.under(&[&self.apex])) {
            if question.name == server {
                let wanted = |ip: &IpAddr| match question.rtype {
                    rtype::A => ip.is_ipv4(),
                    rtype::AAAA => ip.is_ipv6(),
                    _ => false,
                };
                reply.answers.extend(addresses().filter(wanted).map(|ip| address(&question.name, ip)));
            } else if question.name != zone.under(&[&self.apex]) {
                reply.rcode = rcode::NXDOMAIN;
            }
        } else {
            return None;
        }
        if reply.answers.is_empty() {
            reply.authority.push(self.soa(zone, world));
        }
        Some(reply)
    }

    /// Who has an address; `None`: nobody.
    fn pointers(&self, ip: IpAddr, name: &Name, kubernetes: &Kubernetes, world: &World) -> Option<Reply> {
        let keys = self.by_address.get(&ip)?.iter().filter(|key| kubernetes.shows(world, key));
        let zone = self.zones.first()?;
        let point = |key: &NamespacedName| {
            Record::new(name.clone(), self.ttl, Data::Ptr(zone.under(&[&key.name, &key.namespace])))
        };
        let answers: Vec<Record> = keys.map(point).collect();
        (!answers.is_empty()).then(|| Reply { answers, ..Reply::default() })
    }

    /// A or AAAA records; aliases to load balancers' names with what those lead to.
    fn addresses(&self, question: &Question, rows: Vec<Exposed>, kubernetes_ttl: u32) -> VecDeque<Step> {
        let (mut steps, mut seen) = (VecDeque::new(), HashSet::new());
        for host in rows.into_iter().map(|row| row.host).filter(|host| seen.insert(host.clone())) {
            match host.parse::<IpAddr>() {
                Ok(ip) if ip.is_ipv4() == (question.rtype == rtype::A) => {
                    steps.push_back(Step::Answer(Record::new(
                        question.name.clone(),
                        self.ttl,
                        Data::address(ip),
                    )));
                }
                Ok(_) => {}
                Err(_) => {
                    let Ok(target) = host.parse::<Name>() else { continue };
                    let alias = Data::Cname(target.clone());
                    steps.push_back(Step::Answer(Record::new(question.name.clone(), kubernetes_ttl, alias)));
                    steps.push_back(Step::Lookup(Question { name: target, ..question.clone() }, true));
                }
            }
        }
        steps
    }

    /// SRV records and their targets' addresses; all weigh the same, to 100 in sum.
    fn services(
        &self,
        zone: &Name,
        question: &Question,
        rows: Vec<Exposed>,
        kubernetes_ttl: u32,
    ) -> VecDeque<Step> {
        let weight = u16::try_from(100 / rows.len().max(1)).unwrap_or(1).max(1);
        let (mut steps, mut targets, mut glue) = (VecDeque::new(), HashSet::new(), HashSet::new());
        for Exposed { host, port, owner } in rows {
            let Some(port) = port else { continue };
            let ip = host.parse::<IpAddr>();
            let labels: Vec<&str> = owner.iter().map(String::as_str).collect();
            let target = match ip {
                Ok(_) => zone.under(&labels),
                Err(_) => match host.parse() {
                    Ok(target) => target,
                    Err(_) => continue,
                },
            };
            if targets.insert((target.clone(), port)) {
                let data = Data::Srv(0, weight, port, target.clone());
                steps.push_back(Step::Answer(Record::new(question.name.clone(), kubernetes_ttl, data)));
            }
            if !glue.insert((target.clone(), host)) {
                continue;
            }
            match ip {
                Ok(ip) => {
                    steps.push_back(Step::Additional(Record::new(target, self.ttl, Data::address(ip))));
                }
                Err(_) => steps.extend([rtype::A, rtype::AAAA].map(|rtype| {
                    Step::Lookup(Question { name: target.clone(), rtype, ..question.clone() }, false)
                })),
            }
        }
        steps
    }

    fn learn(&mut self, key: &NamespacedName, before: Option<&Entry>, after: Option<&Entry>) {
        let addresses = |entry: Option<&Entry>| -> Vec<IpAddr> {
            let service = entry.and_then(|entry| entry.service.as_ref());
            service.into_iter().flat_map(|s| hosts(s)).filter_map(|host| host.parse().ok()).collect()
        };
        for ip in addresses(before) {
            if let Some(keys) = self.by_address.get_mut(&ip) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_address.remove(&ip);
                }
            }
        }
        for ip in addresses(after) {
            self.by_address.entry(ip).or_default().insert(key.clone());
        }
    }
}

impl Plugin for External {
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let Some(zone) = self.zone_of(&query.question().name) else { return Flow::Next };
        let Some(kubernetes) = cx.peers.of::<Kubernetes>().next() else { return Flow::Next };
        query.from_cluster = true;
        if let Some(reply) = self.own(zone, query, kubernetes, cx.world) {
            return Flow::Reply(reply.into());
        }
        let question = query.question();
        let reverse = question.name.reverse_address().filter(|_| question.rtype == rtype::PTR);
        let found = match reverse {
            Some(ip) => match self.pointers(ip, &question.name, kubernetes, cx.world) {
                Some(reply) => return Flow::Reply(reply.into()),
                None => None,
            },
            None => {
                let labels = question.name.within(zone).unwrap_or_default();
                kubernetes.external(cx.world, &labels, self.headless)
            }
        };
        let Some(rows) = found else {
            if self.fallthrough.iter().flatten().any(|zone| question.name.is_within(zone)) {
                return Flow::Next;
            }
            // Before the cluster is known a name that is not there may yet be.
            let rcode = if cx.world.snapshot.synced() { rcode::NXDOMAIN } else { rcode::SERVFAIL };
            let authority = vec![self.soa(zone, cx.world)];
            return Flow::Reply(Reply { rcode, authority, ..Reply::default() }.into());
        };
        let steps = match question.rtype {
            rtype::A | rtype::AAAA => self.addresses(question, rows, kubernetes.ttl),
            rtype::SRV => self.services(zone, question, rows, kubernetes.ttl),
            _ => VecDeque::new(),
        };
        Draft { steps, ..Draft::default() }.go_on(|| self.soa(zone, cx.world), note)
    }

    fn looked_up(
        &mut self,
        query: &mut Query,
        note: &mut Note,
        found: Message,
        cx: &mut Context<'_>,
    ) -> Flow {
        let (Some(mut draft), Some(zone)) = (note.take::<Draft>(), self.zone_of(&query.question().name))
        else {
            return Flow::Next;
        };
        match draft.steps.pop_front() {
            Some(Step::Lookup(_, true)) => {
                draft.truncated |= found.flags.truncated;
                draft.reply.answers.extend(found.answers);
            }
            _ => draft.reply.additional.extend(found.answers),
        }
        draft.go_on(|| self.soa(zone, cx.world), note)
    }

    fn transfer(&self, zone: &Name, peers: Peers<'_>, world: &World) -> Option<Vec<Record>> {
        let zone = self.zones.iter().find(|own| *own == zone)?;
        let kubernetes = peers.of::<Kubernetes>().next().filter(|_| world.snapshot.synced())?;
        let server = zone.under(&["ns1", &self.apex]);
        let mut records =
            vec![self.soa(zone, world), Record::new(zone.clone(), self.ttl, Data::Ns(server.clone()))];
        let addresses = kubernetes.external_addresses(world, self.headless).into_iter();
        records.extend(addresses.map(|ip| Record::new(server.clone(), self.ttl, Data::address(ip))));
        let mut seen = HashSet::new();
        for name in kubernetes.external_names(world, zone, self.headless) {
            let labels = name.within(zone).unwrap_or_default();
            let Some(rows) = kubernetes.external(world, &labels, self.headless) else { continue };
            // Ports' names have no addresses (`plugin/k8s_external/transfer.go`).
            let is_port = labels.first().is_some_and(|label| label.starts_with(b"_"));
            let wanted: &[u16] = if is_port { &[rtype::SRV] } else { &[rtype::A, rtype::AAAA, rtype::SRV] };
            for rtype in wanted {
                let question = Question { name: name.clone(), rtype: *rtype, class: CLASS_IN };
                let steps = match *rtype {
                    rtype::SRV => self.services(zone, &question, rows.clone(), kubernetes.ttl),
                    _ => self.addresses(&question, rows.clone(), kubernetes.ttl),
                };
                // What names of load balancers lead to is not this zone's.
                let own = steps.into_iter().filter_map(|step| match step {
                    Step::Answer(record) => Some(record),
                    Step::Additional(_) | Step::Lookup(..) => None,
                });
                records.extend(own.filter(|record| {
                    seen.insert((record.name.clone(), record.data.rtype(), record.data.wire()))
                }));
            }
        }
        Some(records)
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        for (key, entry) in cx.world.snapshot.services() {
            self.learn(key, None, Some(entry));
        }
    }

    fn snapshot_changed(&mut self, old: &Snapshot, cx: &mut Context<'_>) {
        for change in &cx.world.snapshot.since(old).services {
            self.learn(&change.key, change.before.as_deref(), change.after.as_deref());
        }
    }
}
