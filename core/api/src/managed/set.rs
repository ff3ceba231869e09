//! Sets of field paths and their form in an object, FieldsV1 (`structured-merge-diff/fieldpath`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::shape::Shape;
use super::step::{Step, canonical, field, spoken};

/// Paths: those that end here, and those that go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) members: BTreeSet<Step>,
    pub(super) children: BTreeMap<Step, Set>,
}

impl Set {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// The set of some dotted paths of fields, e.g. `metadata.name`.
    pub(super) fn of(paths: &[&str]) -> Self {
        let mut set = Set::default();
        for path in paths {
            let steps: Vec<Step> = path.split('.').map(field).collect();
            set.insert(&steps);
        }
        set
    }

    pub(super) fn insert(&mut self, path: &[Step]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    fn keep(children: impl Iterator<Item = (Step, Set)>) -> BTreeMap<Step, Set> {
        children.filter(|(_, set)| !set.is_empty()).collect()
    }

    pub(super) fn union(&self, other: &Set) -> Set {
        let mut out = self.clone();
        out.members.extend(other.members.iter().cloned());
        for (step, set) in &other.children {
            let merged = out.children.get(step).map_or_else(|| set.clone(), |own| own.union(set));
            out.children.insert(step.clone(), merged);
        }
        out
    }

    pub(super) fn intersection(&self, other: &Set) -> Set {
        Set {
            members: self.members.intersection(&other.members).cloned().collect(),
            children: Self::keep(
                self.children.iter().filter_map(|(step, set)| {
                    Some((step.clone(), set.intersection(other.children.get(step)?)))
                }),
            ),
        }
    }

    /// What is in this and not in `other`, path by path: children of a path that is in `other` stay.
    pub(super) fn difference(&self, other: &Set) -> Set {
        Set {
            members: self.members.difference(&other.members).cloned().collect(),
            children: Self::keep(self.children.iter().map(|(step, set)| {
                let left = other.children.get(step).map_or_else(|| set.clone(), |gone| set.difference(gone));
                (step.clone(), left)
            })),
        }
    }

    /// What is in this and neither in `other` nor below a path in it.
    pub(super) fn without(&self, other: &Set) -> Set {
        Set {
            members: self.members.difference(&other.members).cloned().collect(),
            children: Self::keep(
                self.children.iter().filter(|(step, _)| !other.members.contains(*step)).map(|(step, set)| {
                    let left = other.children.get(step).map_or_else(|| set.clone(), |gone| set.without(gone));
                    (step.clone(), left)
                }),
            ),
        }
    }

    /// Steps to a type's own fields become members (`EnsureNamedFieldsAreMembers`), so that taking a set away
    /// takes the fields that hold its paths as well.
    pub(super) fn with_named_fields(&self, shape: &Shape) -> Set {
        let mut out = Set { members: self.members.clone(), children: BTreeMap::new() };
        for (step, set) in &self.children {
            if step.strip_prefix("f:").is_some_and(|name| shape.declares(name)) {
                out.members.insert(step.clone());
            }
            out.children.insert(step.clone(), set.with_named_fields(&shape.step(step)));
        }
        out
    }

    /// Every path as messages write it: `.spec.containers[name="c"].image`, members before what goes on.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect("", &mut out);
        out
    }

    fn collect(&self, prefix: &str, out: &mut Vec<String>) {
        out.extend(self.members.iter().map(|step| format!("{prefix}{}", spoken(step))));
        for (step, set) in &self.children {
            set.collect(&format!("{prefix}{}", spoken(step)), out);
        }
    }

    pub(super) fn to_value(&self) -> Value {
        let mut out = Map::new();
        for step in &self.members {
            out.insert(step.clone(), Value::Object(Map::new()));
        }
        for (step, set) in &self.children {
            let mut inner = set.to_value();
            if let (true, Value::Object(fields)) = (self.members.contains(step), &mut inner) {
                fields.insert(".".into(), Value::Object(Map::new()));
            }
            out.insert(step.clone(), inner);
        }
        Value::Object(out)
    }

    /// `None` where it isn't FieldsV1.
    pub(super) fn from_value(value: &Value) -> Option<Set> {
        let mut out = Set::default();
        for (step, inner) in value.as_object()? {
            if step == "." {
                continue;
            }
            let step = canonical(step)?;
            let fields = inner.as_object()?;
            if fields.is_empty() || fields.contains_key(".") {
                out.members.insert(step.clone());
            }
            let set = Set::from_value(inner)?;
            if !set.is_empty() {
                out.children.insert(step, set);
            }
        }
        Some(out)
    }
}
