//! What serde says of a YAML file, in words that its writer knows: what was expected, and what to write instead.

use sealane_dns::corefile::nearest;

/// Rust's types, and what is written for them.
const TYPES: &[(&str, &str)] = &[
    ("u8", "a whole number from 0 to 255"),
    ("u16", "a whole number from 0 to 65535"),
    ("u32", "a whole number, not negative"),
    ("u64", "a whole number, not negative"),
    ("i32", "a whole number"),
    ("i64", "a whole number"),
    ("a boolean", "true or false"),
    ("a sequence", "a list like [a, b]"),
    ("a map", "fields below it, each `name: value`"),
    ("a string", "a text; numbers need quotes to be one"),
    ("socket address", "an address with a port like 127.0.0.1:6443"),
];

/// How a text that is no YAML, or says something twice, is put right.
const ADVICE: &[(&str, &str)] = &[
    ("found a tab character", "indent with blanks"),
    ("mapping values are not allowed", "indent it as the lines around it are, and quote texts with a colon"),
    ("could not find expected ':'", "write `name: value`, with a blank behind the colon"),
    ("did not find expected", "look in this line and those before for a bracket or quote that is not closed"),
    ("duplicate ", "write it once"),
    ("invalid socket address syntax", "write it like 127.0.0.1:6443"),
];

/// A sentence without its place.
pub(crate) fn plain(said: &str) -> String {
    if let Some(unknown) = said.split("unknown field `").nth(1) {
        let words: Vec<&str> = unknown.split('`').step_by(2).collect();
        if let [word, known @ ..] = words.as_slice()
            && let Some(near) = nearest(word, known.iter().copied())
        {
            let field = said.split("unknown field `").next().unwrap_or_default();
            return format!("{field}unknown field `{word}`; is `{near}` meant?");
        }
    }
    if let Some((what, expected)) = said.rsplit_once(", expected ") {
        if expected.starts_with("struct ") {
            return format!("{what}, expected fields, each `name: value` on a line of its own");
        }
        if let Some((_, words)) = TYPES.iter().find(|(name, _)| *name == expected) {
            return format!("{what}, expected {words}");
        }
    }
    let advice = ADVICE.iter().find(|(what, _)| said.contains(what));
    advice.map_or_else(|| said.to_owned(), |(_, advice)| format!("{said}; {advice}"))
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn sentences_of_serde() {
        for (said, expected) in [
            (
                "nodes: invalid type: string \"three\", expected u16",
                "nodes: invalid type: string \"three\", expected a whole number from 0 to 65535",
            ),
            (
                "a: unknown field `mod`, expected one of `kind`, `mode`",
                "a: unknown field `mod`; is `mode` meant?",
            ),
            (
                "unknown field `xyz`, expected `kind` or `mode`",
                "unknown field `xyz`, expected `kind` or `mode`",
            ),
            ("unknown variant `ipvs`, expected `a` or `b`", "unknown variant `ipvs`, expected `a` or `b`"),
            (
                "invalid type: sequence, expected struct UpArgs",
                "invalid type: sequence, expected fields, each `name: value` on a line of its own",
            ),
            ("duplicate entry with key \"nodes\"", "duplicate entry with key \"nodes\"; write it once"),
            ("missing field `kind`", "missing field `kind`"),
        ] {
            assert_eq!(plain(said), expected);
        }
    }
}
