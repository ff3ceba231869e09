//! Label selectors as text (`k8s.io/apimachinery/pkg/labels`): `app=web,tier in (a, b),!old`.

use sealane_catalog::Labels;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

/// All of its requirements hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

impl Selector {
    /// Reads a selector; `Err` says what does not fit.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut depth, mut start) = (Vec::new(), 0u32, 0);
        for (at, c) in text.char_indices() {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => {
                    parts.push(&text[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(&text[start..]);
        parts.into_iter().map(|part| requirement(part.trim())).collect::<Result<_, _>>().map(Selector)
    }

    /// Whether these labels fit.
    pub fn matches(&self, labels: &Labels) -> bool {
        let holds = |key: &str, values: &[String]| {
            labels.get(key).is_some_and(|have| values.iter().any(|v| **v == **have))
        };
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => holds(key, values),
            Requirement::NotIn(key, values) => !holds(key, values),
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::Missing(key) => labels.get(key).is_none(),
        })
    }
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let bad = || format!("'{text}' is no label requirement");
    let key = |key: &str| {
        let key = key.trim();
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.is_empty() || !key.chars().all(fine) { Err(bad()) } else { Ok(key.to_owned()) }
    };
    if let Some((head, values)) = text.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(bad)?;
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        let (name, word) = head.trim().rsplit_once(char::is_whitespace).ok_or_else(bad)?;
        return match word {
            "in" => Ok(Requirement::In(key(name)?, values)),
            "notin" => Ok(Requirement::NotIn(key(name)?, values)),
            _ => Err(bad()),
        };
    }
    if let Some((name, value)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(key(name)?, vec![value.trim().to_owned()]));
    }
    if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(key(name)?, vec![value.trim().to_owned()]));
    }
    match text.strip_prefix('!') {
        Some(name) => Ok(Requirement::Missing(key(name)?)),
        None => Ok(Requirement::Exists(key(text)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements() {
        let labels = [("app", "web"), ("tier", "a")].map(|(k, v)| (k.into(), v.into()));
        let labels = Labels::from_iter(labels);
        for (text, fits) in [
            ("app=web", true),
            ("app==api", false),
            ("app!=api", true),
            ("tier in (a, b),app", true),
            ("tier notin (a)", false),
            ("!old", true),
            ("!app", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(&labels), fits, "{text}");
        }
        for text in ["", "a b", "a in b", "a in (b", "=x"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }
}
