//! A zone and the master file that it is read from, with the files that this one includes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::name::Name;
use crate::zone::{self, Zone};

/// A zone's master file. What it includes is learnt by reading it: [`Master::wants`] grows.
#[derive(Debug)]
pub struct Master {
    path: String,
    origin: Name,
    text: Option<String>,
    /// Included files: not handed in yet, not to be had, or there.
    includes: BTreeMap<String, Option<Option<String>>>,
    zone: Option<Arc<Zone>>,
}

impl Master {
    /// Not read yet.
    pub fn new(path: &str, origin: Name) -> Self {
        Master { path: path.to_owned(), origin, text: None, includes: BTreeMap::new(), zone: None }
    }

    /// What the zone is called.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// The file.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The zone, once a file was one.
    pub fn zone(&self) -> Option<&Arc<Zone>> {
        self.zone.as_ref()
    }

    /// The files that it is read from.
    pub fn wants(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.path).chain(self.includes.keys())
    }

    /// Takes a file's content; of others' files nothing. Whether there is another zone now: without `any_change` one
    /// with another serial (`file.Parse`). A file that is gone takes nothing away.
    ///
    /// # Errors
    /// Why it can't be read; the zone stays as it was.
    pub fn take(&mut self, path: &str, content: Option<&str>, any_change: bool) -> Result<bool, String> {
        if path == self.path {
            let gone = || format!("Failed to open zone \"{}\" in \"{path}\"", self.origin);
            self.text = Some(content.ok_or_else(gone)?.to_owned());
        } else if let Some(include) = self.includes.get_mut(path) {
            *include = Some(content.map(str::to_owned));
        } else {
            return Ok(false);
        }
        let Some(text) = &self.text else { return Ok(false) };
        let (mut used, mut waits) = (BTreeMap::new(), false);
        let mut include = |path: &str| {
            let known = self.includes.get(path).cloned().flatten();
            waits |= known.is_none();
            used.insert(path.to_owned(), known.clone());
            let content = known.flatten().ok_or_else(|| "there is none, or it cannot be read".to_owned())?;
            Ok(content.into_bytes())
        };
        let records = zone::parse(&self.path, text.as_bytes(), &self.origin, &mut include);
        self.includes = used;
        if waits {
            return Ok(false);
        }
        let about = |why: String| format!("zone \"{}\" in \"{}\": {why}", self.origin, self.path);
        let records = records.map_err(|why| about(why.to_string()))?;
        let zone = Zone::new(&self.origin, records).map_err(|why| about(why.to_string()))?;
        let same = |old: &Arc<Zone>| !any_change && old.serial() == zone.serial();
        if self.zone.as_ref().is_some_and(same) {
            return Ok(false);
        }
        self.zone = Some(Arc::new(zone));
        Ok(true)
    }
}
