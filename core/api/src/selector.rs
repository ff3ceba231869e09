//! Label and field selectors: parsing with upstream's refusals, and matching
//! (`apimachinery/pkg/labels`, `pkg/fields`).

mod fields;
mod lexer;

use std::fmt;

use serde_json::Value;

use crate::document::{entries, items, text};
use crate::field::{FieldError, Path};
use crate::names;

pub use fields::FieldSelector;

/// What a requirement asks of its key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// One of the values (`=`, `==`, `in`).
    In(Vec<String>),
    /// None of the values, or no such label (`!=`, `notin`).
    NotIn(Vec<String>),
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// A greater integer.
    GreaterThan(i64),
    /// A smaller integer.
    LessThan(i64),
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Whether it was written `=` (which prints `a=b`, not `a in (b)`).
    equality: bool,
}

/// A label selector: all of its requirements hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// Why a selector is refused: upstream's sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

impl Requirement {
    /// Whether the labels meet it.
    pub fn matches(&self, labels: &Value) -> bool {
        let value = labels.get(&self.key).and_then(Value::as_str);
        let has = |values: &[String]| value.is_some_and(|v| values.iter().any(|x| x == v));
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => has(values),
            Operator::NotIn(values) => !has(values),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(n) => number().is_some_and(|v| v > *n),
            Operator::LessThan(n) => number().is_some_and(|v| v < *n),
        }
    }

    /// Checks key and values (`labels.NewRequirement`).
    fn checked(key: &str, operator: Operator, equality: bool) -> Result<Self, SelectorError> {
        let mut errors = Vec::new();
        let wrong = names::qualified_name(key);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(&Path::root("key"), &Value::from(key), &wrong.join("; ")));
        }
        if let Operator::In(values) | Operator::NotIn(values) = &operator {
            if values.is_empty() {
                let detail = "for 'in', 'notin' operators, values set can't be empty";
                errors.push(FieldError::invalid(&Path::root("values"), &Value::Array(Vec::new()), detail));
            }
            for (i, value) in values.iter().enumerate() {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    let path = Path::root("values").index(i).key(key);
                    errors.push(FieldError::invalid(&path, &Value::from(&**value), &wrong.join("; ")));
                }
            }
        }
        if errors.is_empty() {
            return Ok(Requirement { key: key.to_owned(), operator, equality });
        }
        let said: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
        Err(SelectorError(if said.len() == 1 { said[0].clone() } else { format!("[{}]", said.join(", ")) }))
    }
}

impl Selector {
    /// Parses a query's `labelSelector`; "" selects everything.
    ///
    /// # Errors
    /// Upstream's `unable to parse requirement: …`.
    ///
    /// ```
    /// use sealane_api::selector::Selector;
    /// let selector = Selector::parse("app in (web, api),!canary").unwrap();
    /// assert!(selector.matches(&serde_json::json!({"app": "web"})));
    /// assert_eq!(selector.to_string(), "app in (api,web),!canary");
    /// ```
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = lexer::parse(text)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Selector { requirements, nothing: false })
    }

    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects nothing.
    pub fn nothing() -> Self {
        Selector { requirements: Vec::new(), nothing: true }
    }

    /// From a map of labels (a Service's `spec.selector`): all of them; an empty map selects everything.
    pub fn from_map(labels: &Value) -> Self {
        let requirements = entries(labels)
            .map(|(k, v)| Requirement {
                key: k.to_owned(),
                operator: Operator::In(vec![text(v).to_owned()]),
                equality: true,
            })
            .collect();
        Selector { requirements, nothing: false }
    }

    /// From a `metav1.LabelSelector`: a missing one selects nothing, an empty one everything
    /// (`LabelSelectorAsSelector`).
    ///
    /// # Errors
    /// An operator that is none, or a key or value that is none.
    pub fn from_label_selector(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut all = Self::from_map(&selector["matchLabels"]);
        for expression in items(&selector["matchExpressions"]) {
            let values = || items(&expression["values"]).iter().map(|v| text(v).to_owned()).collect();
            let operator = match text(&expression["operator"]) {
                "In" => Operator::In(values()),
                "NotIn" => Operator::NotIn(values()),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{other:?} is not a valid label selector operator")));
                }
            };
            all.requirements.push(Requirement::checked(text(&expression["key"]), operator, false)?);
        }
        all.requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }

    /// Whether an object's labels (`metadata.labels`, null for none) are selected.
    pub fn matches(&self, labels: &Value) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = |values: &[String]| {
            let mut values = values.to_vec();
            values.sort();
            values.join(",")
        };
        match &self.operator {
            Operator::In(values) if self.equality => write!(f, "{}={}", self.key, sorted(values)),
            Operator::NotIn(values) if self.equality => write!(f, "{}!={}", self.key, sorted(values)),
            Operator::In(values) => write!(f, "{} in ({})", self.key, sorted(values)),
            Operator::NotIn(values) => write!(f, "{} notin ({})", self.key, sorted(values)),
            Operator::Exists => write!(f, "{}", self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
            Operator::GreaterThan(n) => write!(f, "{}>{n}", self.key),
            Operator::LessThan(n) => write!(f, "{}<{n}", self.key),
        }
    }
}

impl fmt::Display for Selector {
    /// As `labels.Selector.String()`: requirements by key, values in order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requirements_select_as_upstream_does() {
        let labels = json!({"app": "web", "n": "5", "empty": ""});
        let table = [
            ("", true),
            ("app", true),
            ("!app", false),
            ("app=web", true),
            ("app==web,n=5", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (a,web)", true),
            ("app notin (a,b), n", true),
            ("n>4", true),
            ("n<5", false),
            ("app>1", false),
            ("empty=", true),
            ("x in ()", false),
            ("empty in (,a)", true),
        ];
        for (selector, selected) in table {
            assert_eq!(Selector::parse(selector).unwrap().matches(&labels), selected, "{selector}");
        }
    }

    #[test]
    fn refusals_read_as_upstreams() {
        let table = [
            ("app===", "unable to parse requirement: found '=', expected: identifier"),
            ("x in", "unable to parse requirement: found '', expected: '('"),
            ("x,", "found '', expected: identifier after ','"),
            ("=x", "found '=', expected: !, identifier, or 'end of string'"),
            ("x y", "unable to parse requirement: found 'y', expected: in, notin, =, ==, !=, gt, lt"),
            (
                "a/b/c=1",
                "unable to parse requirement: key: Invalid value: \"a/b/c\": a valid label key must consist of \
                 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
                 (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                 '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' \
                 (e.g. 'example.com/MyName')",
            ),
        ];
        for (selector, refusal) in table {
            assert_eq!(Selector::parse(selector).map_err(|e| e.0), Err(refusal.to_owned()), "{selector}");
        }
    }

    #[test]
    fn label_selectors_of_objects_select() {
        let selector = json!({"matchLabels": {"app": "w"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["b", "a"]}]});
        let selector = Selector::from_label_selector(&selector).unwrap();
        assert_eq!(selector.to_string(), "app=w,tier notin (a,b)");
        assert!(selector.matches(&json!({"app": "w"})));
        assert!(!selector.matches(&json!({"app": "w", "tier": "a"})));
        assert!(!Selector::from_label_selector(&Value::Null).unwrap().matches(&json!({})));
        assert!(Selector::from_label_selector(&json!({})).unwrap().matches(&Value::Null));
        let odd = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
        assert!(Selector::from_label_selector(&odd).is_err());
    }
}
