//! `auto`: zones out of all master files below a folder, as their names say (`plugin/auto`).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;

use super::file::{Master, RELOAD, answer};
use crate::chain::args::{self, duration, err, no_more, one, unknown};
use crate::chain::{Ask, Context, Flow, Note, Now, Plugin, Query, Setup, Want};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Message, rcode};
use crate::name::Name;
use crate::zone::Zone;

/// `auto`
#[derive(Debug)]
pub struct Auto {
    /// The names that it is asked for at all.
    origins: Vec<Name>,
    directory: String,
    regex: Regex,
    /// As [`regex::Captures::expand`] takes it.
    template: String,
    /// Zero: the folder is looked at once.
    reload: Duration,
    by_mtime: bool,
    fallthrough: Vec<Name>,
    /// By path, so that of several files for one zone the first counts.
    masters: BTreeMap<String, Master>,
    started: bool,
    /// For the log.
    news: Vec<String>,
}

/// `auto [ZONES...] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let regex = Regex::new(r"db\.(.*)").map_err(|why| CorefileError::new(d.at(), why.to_string()))?;
    let mut auto = Auto {
        origins: setup.zones_or_own(&d.args)?,
        directory: String::new(),
        regex,
        template: "${1}".to_owned(),
        reload: RELOAD,
        by_mtime: false,
        fallthrough: Vec::new(),
        masters: BTreeMap::new(),
        started: false,
        news: Vec::new(),
    };
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "directory" => {
                let Some((directory, pattern)) = option.args.split_first() else {
                    return err(&option.name, "'directory' needs the path of a folder");
                };
                let path = setup.settings.path(&directory.text);
                auto.directory = if path == "/" { path } else { path.trim_end_matches('/').to_owned() };
                match pattern {
                    [] => {}
                    [regex] => return err(regex, "a regular expression needs a template for the zone"),
                    [regex, template, rest @ ..] => {
                        no_more("directory", rest)?;
                        auto.regex = args::regex(regex)?;
                        if auto.regex.captures_len() < 2 {
                            return err(regex, "the regular expression has no group that names the zone");
                        }
                        auto.template = template.text.replace('{', "${");
                    }
                }
            }
            "reload" => auto.reload = duration(one(option, "duration")?)?,
            "reload_by_mtime" => {
                no_more("reload_by_mtime", &option.args)?;
                auto.by_mtime = true;
            }
            "fallthrough" => auto.fallthrough = args::fallthrough(option)?.unwrap_or_default(),
            _ => return unknown("auto", option),
        }
    }
    if auto.directory.is_empty() {
        return err(&d.name, "'auto' needs a line 'directory DIR'");
    }
    setup.add(auto);
    Ok(())
}

impl Auto {
    /// The zone that a file of this path is for; `None`: it is none of ours.
    fn origin_of(&self, path: &str) -> Option<Name> {
        let below = Path::new(path).strip_prefix(&self.directory).ok()?;
        let captures = self.regex.captures(below.file_name()?.to_str()?)?;
        let mut origin = String::new();
        captures.expand(&self.template, &mut origin);
        origin.parse::<Name>().ok().map(|name| name.to_lowercase())
    }

    /// The zones, with the file that each is read from.
    fn current(&self) -> HashMap<&Name, &Master> {
        let mut zones = HashMap::new();
        for master in self.masters.values().filter(|master| master.zone().is_some()) {
            zones.entry(master.origin()).or_insert(master);
        }
        zones
    }

    fn gone(&mut self, path: &str) {
        let Some(master) = self.masters.remove(path) else { return };
        if master.zone().is_some() && !self.current().contains_key(master.origin()) {
            self.news.push(format!("[INFO] plugin/auto: Deleting zone `{}'", master.origin()));
        }
    }

    /// A file that is no zone does not keep the server from starting: it is logged.
    fn offer(&mut self, at: &str, path: &str, content: Option<&str>) {
        let Some(master) = self.masters.get_mut(at) else { return };
        let (known, origin) = (master.zone().is_some(), master.origin().clone());
        let line = match master.take(path, content, self.by_mtime) {
            Ok(false) => return,
            Ok(true) if known => {
                let serial = master.zone().map_or(0, |zone| zone.serial());
                format!(
                    "[INFO] plugin/auto: Successfully reloaded zone \"{origin}\" in \"{at}\" with {serial} SOA serial"
                )
            }
            Ok(true) => match self.current().get(&origin).map(|master| master.path()) {
                Some(first) if first != at => format!(
                    "[WARNING] plugin/auto: Multiple zone files match origin \"{origin}\": using \"{first}\" instead of \"{at}\""
                ),
                _ => format!("[INFO] plugin/auto: Inserting zone `{origin}' from: {at}"),
            },
            Err(why) => format!("[WARNING] plugin/auto: Parse zone `{origin}': {why}"),
        };
        self.news.push(line);
    }

    fn tell(&mut self, cx: &mut Context<'_>) {
        self.news.drain(..).for_each(|line| cx.log(line));
    }
}

impl Plugin for Auto {
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let name = &query.question().name;
        if !self.origins.iter().any(|origin| name.is_within(origin)) {
            return Flow::Next;
        }
        let masters = self.masters.values().filter(|m| m.zone().is_some() && name.is_within(m.origin()));
        // Of several that are as long the last one is taken, which is the first path.
        let longest = masters.rev().max_by_key(|master| master.origin().wire().len());
        match longest.and_then(Master::zone) {
            Some(zone) => answer::answer(zone, &self.fallthrough, query, note),
            None if cx.peers.is_last() => Flow::refuse(rcode::REFUSED),
            None => Flow::Next,
        }
    }

    fn looked_up(&mut self, query: &mut Query, note: &mut Note, found: Message, _: &mut Context<'_>) -> Flow {
        answer::chased(query, note, found)
    }

    fn zones(&self, _: Now) -> Vec<Arc<Zone>> {
        self.current().into_values().filter_map(|master| master.zone().cloned()).collect()
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        self.started = true;
        self.tell(cx);
    }

    fn tick(&mut self, cx: &mut Context<'_>) -> Vec<Ask> {
        self.tell(cx);
        Vec::new()
    }

    fn files(&self) -> Vec<Want> {
        let folder = Want { path: self.directory.clone(), folder: true, every: self.reload };
        // Those that are included may lie elsewhere.
        let includes = self.masters.values().flat_map(|master| master.wants().skip(1));
        let want = |path: &String| Want { path: path.clone(), folder: false, every: self.reload };
        std::iter::once(folder).chain(includes.map(want)).collect()
    }

    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        match (self.origin_of(path), content) {
            (Some(_), None) => self.gone(path),
            (Some(origin), Some(_)) => {
                self.masters.entry(path.to_owned()).or_insert_with(|| Master::new(path, origin));
                self.offer(path, path, content);
            }
            (None, _) => {}
        }
        let includes = |(at, master): (&String, &Master)| {
            master.wants().skip(1).any(|wanted| wanted == path).then(|| at.clone())
        };
        let including: Vec<String> = self.masters.iter().filter_map(includes).collect();
        for at in including {
            self.offer(&at, path, content);
        }
        Ok(())
    }
}
