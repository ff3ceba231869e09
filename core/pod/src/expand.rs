//! `$(NAME)` in commands, arguments and environment values (`third_party/forked/golang/expansion`).

/// Replaces each `$(NAME)` that `lookup` knows. `$$` is a dollar sign that starts nothing; what `lookup` does not
/// know, and what has no closing parenthesis, stays as it is.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn expands_as_upstream() {
        let table = [
            ("$(A)", "a"),
            ("$(A)_$(B)", "a_b"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$(A", "$(A"),
            ("$(MISSING)", "$(MISSING)"),
            ("$()", "$()"),
            ("$A $ $", "$A $ $"),
            ("trailing$", "trailing$"),
            ("$$", "$"),
            ("$($(A))", "$($(A))"),
            ("no variables", "no variables"),
            ("ünï$(A)ö", "ünïaö"),
        ];
        for (text, want) in table {
            let got = expand(text, |n| match n {
                "A" => Some("a".into()),
                "B" => Some("b".into()),
                _ => None,
            });
            assert_eq!(got, want, "{text}");
        }
    }
}
