//! `kubernetes`: the names of Services, endpoints and Pods (`plugin/kubernetes`).

mod metadata;
mod records;
mod selector;

use crate::chain::args::{self, duration, err, no_more, number, one, unknown};
use crate::chain::{Context, Flow, Needs, Note, Plugin, Query, Reply, Setup, World};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Message, Question, Record, rcode};
use crate::name::Name;
pub use records::{Answer, View};
pub use selector::Selector;

/// `pods`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodMode {
    /// No records.
    Disabled,
    /// What the name says.
    Insecure,
    /// Only of Pods that exist.
    Verified,
}

/// `kubernetes`
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// Zones, reverse ones included.
    pub zones: Vec<Name>,
    /// `pods`
    pub pods: PodMode,
    /// Endpoints without host name are called after their Pods.
    pub endpoint_pod_names: bool,
    /// Seconds, 0-3600.
    pub ttl: u32,
    /// Namespaces that are served; empty: all.
    pub namespaces: Vec<String>,
    /// Services that are served.
    pub labels: Option<Selector>,
    /// Namespaces that are served, by their labels.
    pub namespace_labels: Option<Selector>,
    /// No endpoints: headless Services and endpoint names do not exist.
    pub no_endpoints: bool,
    /// NXDOMAIN for Services without endpoints.
    pub ignore_empty: bool,
    /// PTR only for endpoints that have a host name.
    pub ptr_hostname_only: bool,
    /// `fallthrough`
    pub fallthrough: Option<Vec<Name>>,
}

/// `kubernetes [ZONES...] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let mut names = args::zones(&d.args)?;
    if names.is_empty() {
        names = setup.zones();
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
        read(&mut k, option)?;
    }
    setup.add(k);
    Ok(())
}

fn read(k: &mut Kubernetes, o: &Directive) -> Result<(), CorefileError> {
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
        "fallthrough" => k.fallthrough = args::fallthrough(o)?,
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

impl Plugin for Kubernetes {
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let question = query.question();
        let within = self.zones.iter().any(|zone| question.name.is_within(zone));
        let answer = self.answer(view(cx.world), question);
        let basis = match &answer {
            Answer::Reply(reply) if cx.world.snapshot.synced() => {
                self.basis(cx.world.snapshot.as_ref(), question, reply)
            }
            _ => None,
        };
        // What is not there may come, so that what the next plugin says is from the cluster, too.
        query.from_cluster |= within;
        query.basis = basis;
        match answer {
            Answer::Next => Flow::Next,
            Answer::Refused => Flow::refuse(rcode::REFUSED),
            Answer::Reply(reply) => Flow::Reply(reply.into()),
            Answer::Chase { aliases, target } => {
                note.set(aliases);
                Flow::Lookup(Question { name: target, ..query.question().clone() })
            }
        }
    }

    fn looked_up(&mut self, _: &mut Query, note: &mut Note, found: Message, _: &mut Context<'_>) -> Flow {
        let mut answers: Vec<Record> = note.take().unwrap_or_default();
        // The alias stands, whatever became of its target.
        answers.extend(found.answers);
        let mut reply = Message::from(Reply { answers, ..Reply::default() });
        reply.flags.truncated = found.flags.truncated;
        Flow::Reply(reply)
    }

    fn metadata(&self, label: &str, query: &Query, world: &World) -> Option<String> {
        metadata::value(self, label, query, world)
    }

    fn needs(&self) -> Needs {
        Needs { cluster: true, pods: self.pods == PodMode::Verified }
    }

    fn ready(&self, world: &World) -> bool {
        world.snapshot.synced()
    }
}

fn view(world: &World) -> View<'_> {
    View { snapshot: &world.snapshot, serial: world.serial, local: &world.local }
}
