//! `dnssec`: signs the answers of the plugins behind it as they go out (`plugin/dnssec`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::chain::args::{err, number, one, unknown};
use crate::chain::{Context, Flow, Note, Plugin, Query, Randomness, Setup, Up, Want};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Message, rtype};
use crate::metrics::{Family, Metrics};
use crate::name::Name;
use crate::zone::dnssec::{Key, Signer};

/// Sets whose signatures are kept where the Corefile says nothing.
const CAPACITY: usize = 10_000;

static ENTRIES: Family =
    Family::gauge("coredns_dnssec_cache_entries", "The number of elements in the dnssec cache.");
static HITS: Family = Family::counter("coredns_dnssec_cache_hits_total", "The count of cache hits.");
static MISSES: Family = Family::counter("coredns_dnssec_cache_misses_total", "The count of cache misses.");

/// `dnssec`
#[derive(Debug)]
pub struct Dnssec {
    zones: Vec<Name>,
    /// Paths of key pairs, without `.key` and `.private`.
    keys: Vec<String>,
    capacity: usize,
    random: Randomness,
    files: BTreeMap<String, String>,
    /// Once all keys are there.
    signer: Option<Signer>,
}

/// `dnssec [ZONES...] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let mut dnssec = Dnssec {
        zones: setup.zones_or_own(&d.args)?,
        keys: Vec::new(),
        capacity: CAPACITY,
        random: setup.random.clone(),
        files: BTreeMap::new(),
        signer: None,
    };
    for option in d.block.iter().flatten() {
        match (option.name.text.as_str(), option.args.as_slice()) {
            ("key", [kind, keys @ ..]) if kind.text == "file" => {
                if keys.is_empty() {
                    return err(kind, "'key file' needs the name of a key");
                }
                for key in keys {
                    let name = key.text.strip_suffix(".key").unwrap_or(&key.text);
                    let name = name.strip_suffix(".private").unwrap_or(name);
                    dnssec.keys.push(setup.settings.path(name));
                }
            }
            ("key", [kind, ..]) => {
                return err(kind, format!("keys of '{}' are not Sealane's yet (file)", kind.text));
            }
            ("key", []) => return err(&option.name, "'key' needs 'file' and the names of keys"),
            ("cache_capacity", _) => {
                dnssec.capacity = number(one(option, "number of signatures")?, "number of signatures")?;
            }
            _ => return unknown("dnssec", option),
        }
    }
    if dnssec.random.source().is_none() {
        return err(&d.name, "'dnssec' cannot sign: the system has no randomness");
    }
    if dnssec.keys.is_empty() {
        dnssec.signer = Signer::new(dnssec.zones.clone(), Vec::new(), dnssec.capacity).ok();
    }
    setup.add(dnssec);
    Ok(())
}

impl Dnssec {
    /// Makes the signer, once all files are there.
    fn prepare(&mut self) -> Result<(), String> {
        let Some(random) = self.random.source() else { return Ok(()) };
        let mut keys = Vec::new();
        for name in &self.keys {
            let (public, private) = (format!("{name}.key"), format!("{name}.private"));
            let (Some(key), Some(secret)) = (self.files.get(&public), self.files.get(&private)) else {
                return Ok(());
            };
            keys.push(
                Key::parse(&public, key, &private, secret, random)
                    .map_err(|why| format!("plugin/dnssec: {why}"))?,
            );
        }
        let signer = Signer::new(self.zones.clone(), keys, self.capacity);
        self.signer = Some(signer.map_err(|why| format!("plugin/dnssec: {why}"))?);
        Ok(())
    }
}

impl Plugin for Dnssec {
    fn down(&mut self, query: &mut Query, _: &mut Note, cx: &mut Context<'_>) -> Flow {
        if query.question().rtype != rtype::DNSKEY {
            return Flow::Next;
        }
        let (Some(signer), Some(random)) = (&mut self.signer, self.random.source()) else {
            return Flow::Next;
        };
        let mut request = Message { questions: vec![query.question().clone()], ..query.request.clone() };
        request.questions[0].name = request.questions[0].name.to_lowercase();
        signer.dnskey(&request, cx.now.unix, random).map_or(Flow::Next, Flow::Reply)
    }

    fn up(&mut self, query: &mut Query, _: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        if query.dnssec_ok()
            && let (Some(signer), Some(random)) = (&mut self.signer, self.random.source())
        {
            // The question as this plugin saw it, whatever the answer says about itself.
            reply.questions = vec![query.question().clone()];
            signer.sign_message(reply, cx.now.unix, random);
        }
        Up::Pass
    }

    fn files(&self) -> Vec<Want> {
        let pair = |name: &String| ["key", "private"].map(|end| format!("{name}.{end}"));
        let want = |path| Want { path, folder: false, every: Duration::ZERO };
        self.keys.iter().flat_map(pair).map(want).collect()
    }

    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        let name = path.strip_suffix(".key").or_else(|| path.strip_suffix(".private"));
        if !name.is_some_and(|name| self.keys.iter().any(|key| key == name)) {
            return Ok(());
        }
        let content = content.ok_or_else(|| format!("plugin/dnssec: {path} cannot be read"))?;
        self.files.insert(path.to_owned(), content.to_owned());
        self.prepare()
    }

    fn render_metrics(&self, labels: &[Arc<str>], out: &mut Metrics) {
        let Some(stats) = self.signer.as_ref().map(Signer::stats) else { return };
        for labels in labels {
            // `server="dns://:53"`, without zone and view.
            let server = labels.split(',').next().unwrap_or("");
            out.add(&ENTRIES, &format!("{server},type=\"signature\""), stats.entries as f64);
            out.add(&HITS, server, stats.hits as f64);
            out.add(&MISSES, server, stats.misses as f64);
        }
    }
}
