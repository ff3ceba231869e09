//! What events make of the index, and what must be planned because of them.

use super::{Event, Index, Relist};
use crate::doc::{Doc, Id, Key, Row};
use crate::{Work, triggers};

impl Index {
    /// Takes in an event and says what must be planned (again) because of it. An older version than the one held, or
    /// one of an object that is known to be gone, changes nothing.
    pub fn apply(&mut self, event: Event) -> Vec<Work> {
        let mut work = Vec::new();
        match event {
            Event::Applied(doc) => self.upsert(doc, &mut work),
            Event::Written(doc) => {
                if let Some(id) = doc.id()
                    && let Some(relist) = self.relists.get_mut(id.plural)
                {
                    relist.written.insert(id.key);
                }
                let settled = match &doc {
                    Doc::Service(service) => Some(Key::of(&service.metadata)),
                    _ => None,
                };
                self.upsert(doc, &mut work);
                if let Some(key) = settled {
                    self.settled(&key);
                }
            }
            Event::Listed(doc) => {
                if let Some(id) = doc.id() {
                    self.relists.entry(id.plural).or_default().seen.insert(id.key);
                }
                self.upsert(doc, &mut work);
            }
            Event::Deleted(doc) => {
                self.gone.insert(doc.uid());
                if let Some(id) = doc.id() {
                    self.remove(&id, doc.uid(), &mut work);
                }
            }
            Event::Removed { kind, key, uid } => {
                self.gone.insert(&uid);
                self.remove(&Id { plural: kind.plural, key }, &uid, &mut work);
            }
            Event::Absent { kind, key, uid } => self.absent(kind, key, &uid, &mut work),
            Event::ListBegins(kind) => {
                self.relists.insert(kind.plural, Relist::default());
            }
            Event::ListEnds(kind) => self.sweep(kind, None, &mut work),
            Event::ListEndsAt(kind, revision) => self.sweep(kind, Some(revision), &mut work),
        }
        work.sort_unstable();
        work.dedup();
        work
    }

    fn sweep(&mut self, kind: Row, revision: Option<u64>, work: &mut Vec<Work>) {
        let relist = self.relists.remove(kind.plural).unwrap_or_default();
        self.listed.insert(kind.plural);
        let is_stale = |id: &Id, doc: &Doc| {
            let newer = match revision {
                Some(revision) => doc.revision() > revision,
                None => relist.written.contains(&id.key),
            };
            !relist.seen.contains(&id.key) && !newer
        };
        let stale: Vec<(Id, String)> = self
            .range(kind.plural, None)
            .filter(|(id, doc)| is_stale(id, doc))
            .map(|(id, doc)| (id.clone(), doc.uid().to_owned()))
            .collect();
        for (id, uid) in stale {
            self.gone.insert(&uid);
            self.remove(&id, &uid, work);
        }
    }

    fn upsert(&mut self, doc: Doc, work: &mut Vec<Work>) {
        let Some(id) = doc.id() else { return };
        if self.gone.uids.contains(doc.uid()) {
            return;
        }
        let old = self.objects.get(&id).cloned();
        if let Some(old) = &old {
            // Revisions are the store's and comparable over all its objects.
            if old.revision() >= doc.revision() {
                return;
            }
            if old.uid() != doc.uid() {
                let uid = old.uid().to_owned();
                self.gone.insert(&uid);
                self.remove(&id, &uid, work);
            } else {
                self.unlink(&id, old);
            }
        }
        let old = old.filter(|o| o.uid() == doc.uid());
        self.link(&id, &doc);
        self.objects.insert(id, doc.clone());
        triggers::changed(self, old.as_ref(), Some(&doc), work);
    }

    fn remove(&mut self, id: &Id, uid: &str, work: &mut Vec<Work>) {
        if self.objects.get(id).is_some_and(|held| held.uid() == uid)
            && let Some(old) = self.objects.remove(id)
        {
            self.unlink(id, &old);
            match old {
                Doc::Pod(_) => {
                    self.assumed.remove(&id.key);
                }
                Doc::Service(_) => self.settled(&id.key),
                _ => {}
            }
            triggers::changed(self, Some(&old), None, work);
        } else {
            triggers::lost_owner(self, uid, work);
        }
    }

    fn absent(&mut self, kind: Row, key: Key, uid: &str, work: &mut Vec<Work>) {
        if uid.is_empty() {
            if kind.plural == "nodes" && self.node(&key.name).is_none() {
                self.absent_nodes.insert(key.name.clone());
                triggers::lost_node(self, &key.name, work);
            }
            return;
        }
        self.gone.insert(uid);
        self.remove(&Id { plural: kind.plural, key }, uid, work);
    }
}
