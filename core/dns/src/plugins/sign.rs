//! `sign`: signs zone files on disk, for `file` and `auto` to serve (`plugin/sign`).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::chain::args::{err, one, unknown};
use crate::chain::{Ask, Context, FileWrite, Passage, Plugin, Randomness, Setup, Want};
use crate::corefile::{CorefileError, Directive};
use crate::plugins::file::Master;
use crate::zone::dnssec::{Key, Whole, outdated};

/// Signed zones are looked at so often, seconds.
const REFRESH: u64 = 5 * 3600;
/// Signatures begin so long ago, seconds, and up to [`EARLIER`] more; …
const INCEPTION: u64 = 3 * 3600;
const EARLIER: u64 = 18 * 3600;
/// … they last so long, seconds, and up to [`LATER`] more.
const EXPIRATION: u64 = 32 * 86_400;
const LATER: u64 = 5 * 86_400;
/// Sets that are signed at a time: the server answers queries in between.
const SETS: usize = 200;
/// Between two looks at the zone files.
const LOOK: Duration = Duration::from_secs(60);
/// Where signed zones are put (CoreDNS's default).
const DIRECTORY: &str = "/var/lib/coredns";

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keys {
    /// Paths of key pairs, without `.key` and `.private`.
    Files(Vec<String>),
    /// A folder: `K<zone>+<algorithm>+<tag>`.
    Folder(String),
}

/// A zone, and its file.
#[derive(Debug)]
struct Job {
    master: Master,
    keys: Vec<Keys>,
    /// Where it is put.
    signed: String,
    /// What is there, as far as it is known.
    there: Option<String>,
    /// How much earlier and later signatures begin and end.
    jitter: (u64, u64),
    work: Option<Work>,
}

/// A zone that is being signed.
#[derive(Debug)]
struct Work {
    whole: Whole,
    keys: Vec<Key>,
    serial: u32,
}

/// All `sign` lines of a server block.
#[derive(Debug)]
pub struct Sign {
    jobs: Vec<Job>,
    random: Randomness,
    /// Files of keys.
    files: BTreeMap<String, String>,
    /// When they are looked at next, seconds since 1970.
    next: u64,
}

/// `sign DBFILE [ZONES...] { key file|directory KEY...; directory DIR }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let Some((path, zones)) = d.args.split_first() else {
        return err(&d.name, "'sign' needs the path of a master file");
    };
    let (path, zones) = (setup.settings.path(&path.text), setup.zones_or_own(zones)?);
    let (mut keys, mut directory) = (Vec::new(), DIRECTORY.to_owned());
    for option in d.block.iter().flatten() {
        match (option.name.text.as_str(), option.args.as_slice()) {
            ("key", [kind, names @ ..]) if !names.is_empty() => match kind.text.as_str() {
                "file" => {
                    let base = |text: &str| {
                        let text = text.strip_suffix(".key").unwrap_or(text);
                        setup.settings.path(text.strip_suffix(".private").unwrap_or(text))
                    };
                    keys.push(Keys::Files(names.iter().map(|name| base(&name.text)).collect()));
                }
                "directory" => {
                    let folder = |text: &str| setup.settings.path(text).trim_end_matches('/').to_owned();
                    keys.extend(names.iter().map(|name| Keys::Folder(folder(&name.text))));
                }
                other => return err(kind, format!("there are no keys of '{other}' (file, directory)")),
            },
            ("key", _) => return err(&option.name, "'key' needs 'file' or 'directory', and names"),
            ("directory", _) => {
                let path = setup.settings.path(&one(option, "path of a folder")?.text);
                directory = path.trim_end_matches('/').to_owned();
            }
            _ => return unknown("sign", option),
        }
    }
    if keys.is_empty() {
        return err(&d.name, "'sign' needs a line 'key file KEY...'");
    }
    if setup.random.source().is_none() {
        return err(&d.name, "'sign' cannot sign: the system has no randomness");
    }
    if setup.earlier::<Sign>().is_none() {
        let (jobs, random) = (Vec::new(), setup.random.clone());
        // It is no handler of queries: whoever is last in the chain stays so.
        setup.add_first(Sign { jobs, random, files: BTreeMap::new(), next: 0 });
    }
    if let Some(sign) = setup.earlier::<Sign>() {
        for zone in zones {
            sign.jobs.push(Job {
                signed: format!("{directory}/db.{zone}signed"),
                master: Master::new(&path, zone),
                keys: keys.clone(),
                there: None,
                jitter: (0, 0),
                work: None,
            });
        }
    }
    Ok(())
}

impl Job {
    /// The key pairs' paths, without endings.
    fn pairs(&self, files: &BTreeMap<String, String>) -> Vec<String> {
        let mut pairs = Vec::new();
        for keys in &self.keys {
            match keys {
                Keys::Files(bases) => pairs.extend(bases.iter().cloned()),
                Keys::Folder(folder) => {
                    let begins = format!("{folder}/K{}+", self.master.origin());
                    let bases = files.keys().filter_map(|path| path.strip_suffix(".key"));
                    pairs.extend(bases.filter(|base| base.starts_with(&begins)).map(str::to_owned));
                }
            }
        }
        pairs
    }

    fn begin(&self, files: &BTreeMap<String, String>, random: &Randomness, now: u64) -> Result<Work, String> {
        let zone = self.master.zone().ok_or_else(|| format!("\"{}\" is no zone", self.master.path()))?;
        let source = random.source().ok_or("there is no randomness")?;
        let mut keys = Vec::new();
        for base in self.pairs(files) {
            let (public, private) = (format!("{base}.key"), format!("{base}.private"));
            let text = |path: &String| files.get(path).ok_or_else(|| format!("{path} cannot be read"));
            let key = Key::parse(&public, text(&public)?, &private, text(&private)?, source);
            let key = key.map_err(|why| why.to_string())?;
            if !key.is_ksk() {
                return Err(format!("DNSKEY in \"{public}\" is not a CSK/KSK"));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err("there are no keys".to_owned());
        }
        let wrapped = |seconds: u64| u32::try_from(seconds & u64::from(u32::MAX)).unwrap_or(0);
        let (earlier, later) = self.jitter;
        let period = (wrapped(now.saturating_sub(INCEPTION + earlier)), wrapped(now + EXPIRATION + later));
        let serial = wrapped(now);
        let whole = Whole::new(zone, &keys, serial, period).map_err(|why| why.to_string())?;
        Ok(Work { whole, keys, serial })
    }

    /// Signs a part; where all is signed, the file is written.
    fn go_on(&mut self, random: &Randomness, cx: &mut Context<'_>) {
        let (Some(mut work), Some(source)) = (self.work.take(), random.source()) else { return };
        let origin = self.master.origin();
        let failed = format!("[WARNING] plugin/sign: Error signing \"{origin}\"");
        match work.whole.go_on(&work.keys, SETS, source) {
            Some(false) => self.work = Some(work),
            None => cx.log(format!("{failed}: a key cannot sign")),
            Some(true) => match work.whole.text() {
                Err(why) => cx.log(format!("{failed}: {why}")),
                Ok(content) => {
                    let tags: Vec<String> = work.keys.iter().map(|key| key.tag.to_string()).collect();
                    let (path, serial) = (self.signed.clone(), work.serial);
                    let written = format!(
                        "[INFO] plugin/sign: Successfully signed zone \"{origin}\" in \"{path}\" with key tags \"{}\" and {serial} SOA serial",
                        tags.join(",")
                    );
                    let failed = format!("{failed}: failed to move zone file into place");
                    cx.write(FileWrite { path, content, written, failed });
                }
            },
        }
    }
}

impl Sign {
    /// Signs what has to be.
    fn look(&mut self, cx: &mut Context<'_>) {
        self.next = cx.now.unix + REFRESH;
        for job in &mut self.jobs {
            let origin = job.master.origin();
            let why = match &job.there {
                None => Some(format!("open {}: no such file or directory", job.signed)),
                Some(text) => outdated(&job.signed, text, cx.now.unix),
            };
            let Some(why) = why else {
                cx.log(format!(
                    "[INFO] plugin/sign: Skipping signing zone \"{origin}\" in \"{}\": signatures are valid",
                    job.signed
                ));
                continue;
            };
            cx.log(format!("[INFO] plugin/sign: Signing \"{origin}\" because {why}"));
            match job.begin(&self.files, &self.random, cx.now.unix) {
                Ok(work) => job.work = Some(work),
                Err(why) => {
                    cx.log(format!("[WARNING] plugin/sign: Error signing \"{origin}\": {why}"));
                }
            }
            job.go_on(&self.random, cx);
        }
    }
}

impl Plugin for Sign {
    fn passage(&self) -> Passage {
        Passage::Same
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        for job in &mut self.jobs {
            job.jitter = (cx.random() % EARLIER, cx.random() % LATER);
        }
        self.look(cx);
    }

    fn tick(&mut self, cx: &mut Context<'_>) -> Vec<Ask> {
        if cx.now.unix >= self.next {
            self.look(cx);
        }
        for job in &mut self.jobs {
            job.go_on(&self.random, cx);
        }
        Vec::new()
    }

    fn files(&self) -> Vec<Want> {
        let mut files = Vec::new();
        for job in &self.jobs {
            let look = |path: &String| Want { path: path.clone(), folder: false, every: LOOK };
            files.extend(job.master.wants().chain([&job.signed]).map(look));
            for keys in &job.keys {
                let want = |path, folder| Want { path, folder, every: Duration::ZERO };
                match keys {
                    Keys::Folder(folder) => files.push(want(folder.clone(), true)),
                    Keys::Files(bases) => {
                        files.extend(bases.iter().flat_map(|base| {
                            ["key", "private"].map(|end| want(format!("{base}.{end}"), false))
                        }))
                    }
                }
            }
        }
        files
    }

    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        let mut is_key = false;
        for job in &mut self.jobs {
            if job.signed == path {
                job.there = content.map(str::to_owned);
            }
            // It is read when the zone is signed, and may be missing until then.
            if content.is_some() && job.signed != path {
                job.master.take(path, content, true).map_err(|why| format!("plugin/sign: {why}"))?;
            }
            for keys in &job.keys {
                is_key |= match keys {
                    Keys::Folder(folder) => path.strip_prefix(folder).is_some_and(|rest| {
                        rest.starts_with("/K") && (path.ends_with(".key") || path.ends_with(".private"))
                    }),
                    Keys::Files(bases) => {
                        let base = path.strip_suffix(".key").or_else(|| path.strip_suffix(".private"));
                        base.is_some_and(|base| bases.iter().any(|known| known == base))
                    }
                };
            }
        }
        if is_key {
            let content = content.ok_or_else(|| format!("plugin/sign: {path} cannot be read"))?;
            self.files.insert(path.to_owned(), content.to_owned());
        }
        Ok(())
    }
}
