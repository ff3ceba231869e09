//! Field selectors (`apimachinery/pkg/fields`).

use serde_json::Value;

use super::SelectorError;
use crate::document::text;
use crate::kinds::{FieldRefusal, Kind};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    value: String,
    equal: bool,
}

/// A field selector: all of its terms hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

/// `a=b,c!=d`, split at the commas that no backslash stands before.
fn split(selector: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in selector.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&selector[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&selector[start..]);
    terms
}

fn operator(term: &str) -> Option<(&str, bool, &str)> {
    (0..term.len()).filter(|i| term.is_char_boundary(*i)).find_map(|i| {
        let (left, right) = term.split_at(i);
        ["!=", "==", "="].iter().find_map(|op| right.strip_prefix(op).map(|v| (left, *op != "!=", v)))
    })
}

/// Undoes `\\`, `\,` and `\=`; anything else behind a backslash, and a bare `=` or `,`, is refused.
fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::new();
    let mut escaped = false;
    for c in value.chars() {
        match c {
            '\\' | ',' | '=' if escaped => {
                out.push(c);
                escaped = false;
            }
            _ if escaped => {
                return Err(SelectorError(format!("invalid field selector: invalid escape sequence: \\{c}")));
            }
            '\\' => escaped = true,
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {c}"
                )));
            }
            _ => out.push(c),
        }
    }
    if escaped {
        return Err(SelectorError("invalid field selector: invalid escape sequence: \\".to_owned()));
    }
    Ok(out)
}

impl FieldSelector {
    /// Parses a query's `fieldSelector` for a kind; "" selects everything.
    ///
    /// # Errors
    /// Upstream's refusal of what is no selector, or names a field that the kind doesn't offer.
    ///
    /// ```
    /// use sealane_api::{kinds, selector::FieldSelector};
    /// let pods = kinds::by_kind("v1", "Pod").unwrap();
    /// let selector = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed", pods).unwrap();
    /// assert!(selector.matches(&serde_json::json!({"spec": {"nodeName": "n1"}}), pods));
    /// assert!(FieldSelector::parse("spec.hostname=h", pods).is_err());
    /// ```
    pub fn parse(selector: &str, kind: &Kind) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split(selector).into_iter().filter(|p| !p.is_empty()) {
            let (field, equal, value) = operator(part).ok_or_else(|| {
                SelectorError(format!("invalid selector: '{selector}'; can't understand '{part}'"))
            })?;
            let value = unescape(value)?;
            let known = field == "metadata.name"
                || (field == "metadata.namespace"
                    && (kind.namespaced() || kind.field_refusal == FieldRefusal::Unknown))
                || kind.fields.iter().any(|f| f.label == field);
            if !known {
                return Err(SelectorError(match kind.field_refusal {
                    FieldRefusal::NotSupported => format!("field label not supported: {field}"),
                    FieldRefusal::Unknown => format!(
                        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    ),
                }));
            }
            terms.push(Term { field: field.to_owned(), value, equal });
        }
        Ok(FieldSelector { terms })
    }

    /// Whether an object of the kind is selected.
    pub fn matches(&self, object: &Value, kind: &Kind) -> bool {
        self.terms.iter().all(|term| {
            let value = match &*term.field {
                "metadata.name" => text(&object["metadata"]["name"]).to_owned(),
                "metadata.namespace" => text(&object["metadata"]["namespace"]).to_owned(),
                label => kind
                    .fields
                    .iter()
                    .find(|f| f.label == label)
                    .map_or_else(String::new, |f| f.value(object)),
            };
            (value == term.value) == term.equal
        })
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that `field` must equal, where a term says so: a watch or list of one name needs no scan.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| &*t.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_pick_and_refuse_as_upstream() {
        let pods = crate::kinds::by_kind("v1", "Pod").unwrap();
        let maps = crate::kinds::by_kind("v1", "ConfigMap").unwrap();
        let pod = json!({"metadata": {"name": "a", "namespace": "x"}, "spec": {"nodeName": "n"}});
        for (selector, selected) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==b", false),
            ("spec.nodeName!=n", false),
            ("spec.hostNetwork=false,metadata.namespace=x", true),
            ("metadata.name=a\\,b", false),
        ] {
            assert_eq!(
                FieldSelector::parse(selector, pods).unwrap().matches(&pod, pods),
                selected,
                "{selector}"
            );
        }
        let refusal = |s, k| FieldSelector::parse(s, k).unwrap_err().0;
        assert_eq!(refusal("spec.hostname=h", pods), "field label not supported: spec.hostname");
        assert_eq!(
            refusal("data.x=1", maps),
            "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert_eq!(refusal("name", maps), "invalid selector: 'name'; can't understand 'name'");
        assert_eq!(
            refusal("metadata.name=\\x", maps),
            "invalid field selector: invalid escape sequence: \\x"
        );
    }
}
