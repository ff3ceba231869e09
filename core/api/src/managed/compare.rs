//! What differs between two versions of an object (`structured-merge-diff/typed/compare.go`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::Set;
use super::shape::{Shape, View, view};
use super::step::{Step, field};

/// The paths that a change removes, modifies and adds.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) removed: Set,
    pub(super) modified: Set,
    pub(super) added: Set,
}

impl Comparison {
    pub(super) fn between(shape: &Shape, old: &Value, new: &Value) -> Self {
        let mut out = Comparison::default();
        out.both(shape, Some(old), Some(new), &mut Vec::new());
        out
    }

    /// Leaves out what a request cannot change anyhow.
    pub(super) fn without(&self, ignored: &Set) -> Self {
        Comparison {
            removed: self.removed.without(ignored),
            modified: self.modified.without(ignored),
            added: self.added.without(ignored),
        }
    }

    /// Modified or added.
    pub(super) fn written(&self) -> Set {
        self.modified.union(&self.added)
    }

    pub(super) fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    fn mark(&mut self, old: Option<&Value>, new: Option<&Value>, path: &[Step]) {
        match (old, new) {
            (None, Some(_)) => self.added.insert(path),
            (Some(_), None) => self.removed.insert(path),
            (Some(old), Some(new)) if old != new => self.modified.insert(path),
            _ => {}
        }
    }

    fn both(&mut self, shape: &Shape, old: Option<&Value>, new: Option<&Value>, path: &mut Vec<Step>) {
        let (before, after) = (old.map(|v| view(shape, v)), new.map(|v| view(shape, v)));
        match (before, after) {
            (Some(View::Leaf), _) | (_, Some(View::Leaf)) => return self.leaves(shape, old, new, path),
            (Some(View::Map(a)), None) => self.fields(shape, a, None, old, new, path),
            (None, Some(View::Map(b))) => self.fields(shape, None, b, old, new, path),
            (Some(View::Map(a)), Some(View::Map(b))) => self.fields(shape, a, b, old, new, path),
            (Some(View::List(a)), None) => self.items(shape, a, &[], old, new, path),
            (None, Some(View::List(b))) => self.items(shape, &[], b, old, new, path),
            (Some(View::List(a)), Some(View::List(b))) => self.items(shape, a, b, old, new, path),
            (Some(View::Map(_)), Some(View::List(_))) | (Some(View::List(_)), Some(View::Map(_))) => {
                return self.mark(old, new, path);
            }
            (None, None) => return,
        }
        // What appears or goes is named itself too.
        if old.is_none() || new.is_none() {
            self.mark(old, new, path);
        }
    }

    /// Where one side is no map or list, what the other side held counts field by field.
    fn leaves(&mut self, shape: &Shape, old: Option<&Value>, new: Option<&Value>, path: &mut Vec<Step>) {
        if let (Some(a), Some(b)) = (old, new) {
            if matches!(view(shape, a), View::Leaf) && !matches!(view(shape, b), View::Leaf) {
                self.both(shape, None, Some(b), path);
            } else if !matches!(view(shape, a), View::Leaf) && matches!(view(shape, b), View::Leaf) {
                self.both(shape, Some(a), None, path);
            }
        }
        self.mark(old, new, path);
    }

    fn fields(
        &mut self,
        shape: &Shape,
        before: Option<&Map<String, Value>>,
        after: Option<&Map<String, Value>>,
        old: Option<&Value>,
        new: Option<&Value>,
        path: &mut Vec<Step>,
    ) {
        let nothing = Map::new();
        let (before, after) = (before.unwrap_or(&nothing), after.unwrap_or(&nothing));
        // Two empty ones are leaves: null and {} differ.
        if before.is_empty() && after.is_empty() {
            return self.mark(old, new, path);
        }
        for name in before.keys().chain(after.keys().filter(|name| !before.contains_key(*name))) {
            path.push(field(name));
            self.both(&shape.field(name), before.get(name), after.get(name), path);
            path.pop();
        }
    }

    fn items(
        &mut self,
        shape: &Shape,
        before: &[Value],
        after: &[Value],
        old: Option<&Value>,
        new: Option<&Value>,
        path: &mut Vec<Step>,
    ) {
        if before.is_empty() && after.is_empty() {
            return self.mark(old, new, path);
        }
        let (Some(before), Some(after)) = (by_step(shape, before), by_step(shape, after)) else {
            return self.mark(old, new, path);
        };
        let item = shape.item();
        for step in before.keys().chain(after.keys().filter(|step| !before.contains_key(*step))) {
            path.push(step.clone());
            let (a, b) = (before.get(step).map_or(&[][..], |v| v), after.get(step).map_or(&[][..], |v| v));
            match (a, b) {
                // Items that stand twice are owned as one.
                (a @ [_, _, ..], b) | (a, b @ [_, _, ..]) => {
                    if a != b {
                        self.mark(a.first().copied(), b.first().copied(), path);
                        if !a.is_empty() && !b.is_empty() {
                            self.modified.insert(path);
                        }
                    }
                }
                (a, b) => self.both(&item, a.first().copied(), b.first().copied(), path),
            }
            path.pop();
        }
    }
}

/// Items by their steps; `None` where one of them has no step.
fn by_step<'a>(shape: &Shape, items: &'a [Value]) -> Option<BTreeMap<Step, Vec<&'a Value>>> {
    let mut out: BTreeMap<Step, Vec<&Value>> = BTreeMap::new();
    for item in items {
        out.entry(shape.item_step(item).ok()?).or_default().push(item);
    }
    Some(out)
}
