//! `file`: zones out of master files (`plugin/file`).

pub(crate) mod answer;
mod master;

use std::sync::Arc;
use std::time::Duration;

use crate::chain::args::{self, duration, err, no_more, one, unknown};
use crate::chain::values::go_duration;
use crate::chain::{Ask, Context, Flow, Note, Now, Plugin, Query, Setup, Want};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Message, rcode};
use crate::name::Name;
use crate::zone::Zone;
use crate::zone::transfer::OPCODE_NOTIFY;
pub use master::Master;

/// Between two looks at a file where the Corefile says nothing.
pub(crate) const RELOAD: Duration = Duration::from_secs(60);

/// All `file` lines of a server block: a question is for the longest of their zones.
#[derive(Debug, Default)]
pub struct File {
    entries: Vec<Entry>,
    /// Of all lines; the last one that says something counts.
    fallthrough: Vec<Name>,
    started: bool,
    /// For the log.
    news: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    master: Master,
    /// Zero: the file is read once.
    reload: Duration,
    by_mtime: bool,
}

/// `file DBFILE [ZONES...] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let Some((path, zones)) = d.args.split_first() else {
        return err(&d.name, "'file' needs the path of a master file");
    };
    let (path, zones) = (setup.settings.path(&path.text), setup.zones_or_own(zones)?);
    let (mut reload, mut by_mtime, mut fallthrough) = (RELOAD, false, None);
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "reload" => reload = duration(one(option, "duration")?)?,
            "reload_by_mtime" => {
                no_more("reload_by_mtime", &option.args)?;
                by_mtime = true;
            }
            "fallthrough" => fallthrough = args::fallthrough(option)?,
            _ => return unknown("file", option),
        }
    }
    let file = match setup.earlier::<File>() {
        Some(file) => file,
        None => {
            setup.add(File::default());
            match setup.earlier::<File>() {
                Some(file) => file,
                None => return Ok(()),
            }
        }
    };
    for zone in zones {
        // The last line of a zone counts.
        file.entries.retain(|entry| *entry.master.origin() != zone);
        file.entries.push(Entry { master: Master::new(&path, zone), reload, by_mtime });
    }
    if let Some(zones) = fallthrough {
        file.fallthrough = zones;
    }
    Ok(())
}

impl Plugin for File {
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let name = query.question().name.clone();
        let entries = self.entries.iter().filter(|entry| name.is_within(entry.master.origin()));
        let longest = entries.max_by_key(|entry| entry.master.origin().wire().len());
        if let Some(entry) = longest.filter(|entry| entry.master.zone().is_some())
            && query.request.flags.opcode == OPCODE_NOTIFY
        {
            // Its zones have no primaries (`plugin/file/notify.go`).
            let (client, origin) = (query.client.ip().to_canonical(), entry.master.origin());
            cx.log(format!("[INFO] plugin/file: Dropping notify from {client} for {origin}"));
            return Flow::Drop;
        }
        match longest.map(|e| e.master.zone()) {
            Some(Some(zone)) => answer::answer(zone, &self.fallthrough, query, note),
            Some(None) => Flow::refuse(rcode::SERVFAIL),
            None if cx.peers.is_last() => Flow::refuse(rcode::REFUSED),
            None => Flow::Next,
        }
    }

    fn looked_up(&mut self, query: &mut Query, note: &mut Note, found: Message, _: &mut Context<'_>) -> Flow {
        answer::chased(query, note, found)
    }

    fn zones(&self, _: Now) -> Vec<Arc<Zone>> {
        self.entries.iter().filter_map(|entry| entry.master.zone().cloned()).collect()
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        self.started = true;
        for Entry { master, reload, .. } in self.entries.iter().filter(|entry| entry.master.zone().is_none())
        {
            let (path, again) = (master.path(), go_duration(*reload));
            cx.log(format!("[WARNING] plugin/file: Failed to open \"{path}\": trying again in {again}"));
        }
    }

    fn tick(&mut self, cx: &mut Context<'_>) -> Vec<Ask> {
        self.news.drain(..).for_each(|line| cx.log(line));
        Vec::new()
    }

    fn files(&self) -> Vec<Want> {
        let files = self.entries.iter().flat_map(|entry| {
            let want = |path: &String| Want { path: path.clone(), folder: false, every: entry.reload };
            entry.master.wants().map(want)
        });
        files.collect()
    }

    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        for Entry { master, reload, by_mtime } in &mut self.entries {
            if content.is_none() && path == master.path() && !self.started && !reload.is_zero() {
                // It may come.
                continue;
            }
            let other = master.take(path, content, *by_mtime).map_err(|why| format!("plugin/file: {why}"))?;
            if let Some(zone) = master.zone().filter(|_| other && self.started) {
                let (origin, path, serial) = (zone.origin(), master.path(), zone.serial());
                self.news.push(format!(
                    "[INFO] plugin/file: Successfully reloaded zone \"{origin}\" in \"{path}\" with {serial} SOA serial"
                ));
            }
        }
        Ok(())
    }
}
