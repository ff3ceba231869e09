//! Names: their rules in upstream's words (`k8s.io/apimachinery/pkg/util/validation`), and generated suffixes.

/// What labels and generated names may grow to (RFC 1123 label).
pub const LABEL_MAX: usize = 63;
/// What subdomains may grow to (RFC 1123 subdomain).
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// `MESSAGE (e.g. 'A',  or 'B', regex used for validation is 'FMT')`, with upstream's two spaces.
fn regex_error(message: &str, fmt: &str, examples: &[&str]) -> String {
    let mut out = format!("{message} (e.g. ");
    for (i, example) in examples.iter().enumerate() {
        if i > 0 {
            out.push_str(" or ");
        }
        out.push_str(&format!("'{example}', "));
    }
    out.push_str(&format!("regex used for validation is '{fmt}')"));
    out
}

/// `must be no more than N characters`
pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

const EMPTY: &str = "must be non-empty";

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn label_shape(s: &str) -> bool {
    let b = s.as_bytes();
    !b.is_empty()
        && b.iter().all(|&c| lower_alnum(c) || c == b'-')
        && lower_alnum(b[0])
        && lower_alnum(b[b.len() - 1])
}

fn qualified_shape(s: &str) -> bool {
    let b = s.as_bytes();
    !b.is_empty()
        && b.iter().all(|&c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        && b[0].is_ascii_alphanumeric()
        && b[b.len() - 1].is_ascii_alphanumeric()
}

/// Why this is no DNS label (RFC 1123); empty: it is one.
pub fn dns1123_label(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !label_shape(s) {
        errors.push(if subdomain_shape(s) {
            // A dot is all that is wrong: upstream says just that.
            "must not contain dots".to_owned()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
                 and must start and end with an alphanumeric character",
                LABEL_FMT,
                &["my-name", "123-abc"],
            )
        });
    }
    errors
}

fn subdomain_shape(s: &str) -> bool {
    s.split('.').all(label_shape)
}

/// Why this is no DNS subdomain (RFC 1123); empty: it is one.
pub fn dns1123_subdomain(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !subdomain_shape(s) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
             and must start and end with an alphanumeric character",
            &format!("{LABEL_FMT}(\\.{LABEL_FMT})*"),
            &["example.com"],
        ));
    }
    errors
}

/// The same with letter case and underscores of DNS as resolvers know it
/// (`IsDNS1123SubdomainWithUnderscore`).
pub fn dns1123_subdomain_with_underscore(s: &str) -> Vec<String> {
    let edge = |c: u8| lower_alnum(c) || c == b'_';
    let shape = s.split('.').all(|l| {
        let b = l.as_bytes();
        !b.is_empty() && b.iter().all(|&c| edge(c) || c == b'-') && edge(b[0]) && lower_alnum(b[b.len() - 1])
    });
    let mut errors = Vec::new();
    if s.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !shape {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', \
             and must start and end with an alphanumeric character",
            "[a-z0-9_]([-_a-z0-9]*[a-z0-9])?(\\.[a-z0-9_]([-_a-z0-9]*[a-z0-9])?)*",
            &["_example.com"],
        ));
    }
    errors
}

/// Why this is no DNS label that starts with a letter (RFC 1035); empty: it is one.
pub fn dns1035_label(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !(label_shape(s) && s.as_bytes()[0].is_ascii_lowercase()) {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
             start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// Why this is no qualified name (`[PREFIX/]NAME`, a label's key); empty: it is one.
pub fn qualified_name(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = s.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push(format!("prefix part {EMPTY}"));
            } else {
                errors.extend(dns1123_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            errors.push(format!(
                "{} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(
                    "a valid label key must consist of alphanumeric characters, '-', '_' or '.', \
                     and must start and end with an alphanumeric character",
                    QUALIFIED_FMT,
                    &["MyName", "my.name", "123-abc"],
                )
            ));
            return errors;
        }
    };
    if name.is_empty() {
        errors.push(format!("name part {EMPTY}"));
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !qualified_shape(name) {
        errors.push(format!(
            "name part {}",
            regex_error(
                "must consist of alphanumeric characters, '-', '_' or '.', \
                 and must start and end with an alphanumeric character",
                QUALIFIED_FMT,
                &["MyName", "my.name", "123-abc"],
            )
        ));
    }
    errors
}

/// Why this is no label's value; empty: it is one.
pub fn label_value(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !s.is_empty() && !qualified_shape(s) {
        errors.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
             and must start and end with an alphanumeric character",
            &format!("({QUALIFIED_FMT})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// Why this is no key of a ConfigMap or Secret; empty: it is one.
pub fn config_key(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    let shape = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if s.is_empty() || !s.bytes().all(shape) {
        errors.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errors.extend(parent_directory(s, true));
    errors
}

fn parent_directory(s: &str, also_as_prefix: bool) -> Option<String> {
    match s {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if also_as_prefix && s.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// Why this is no environment variable's name (`IsRelaxedEnvVarName`: printable ASCII without `=`).
pub fn env_var_name(s: &str) -> Vec<String> {
    if s.is_empty() {
        return vec![format!("environment variable name {EMPTY}")];
    }
    let wrong = s.chars().any(|c| !(' '..='~').contains(&c) || c == '=');
    if wrong {
        vec!["a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned()]
    } else {
        Vec::new()
    }
}

/// Why this is no port name (`IsValidPortName`, IANA service name, RFC 6335); empty: it is one.
pub fn port_name(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 15 {
        errors.push(too_long(15));
    }
    if !s.bytes().all(|c| lower_alnum(c) || c == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !s.bytes().any(|c| c.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if s.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if s.starts_with('-') || s.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// `must be between 1 and 65535, inclusive`, unless it is.
pub fn port_number(n: i64) -> Option<String> {
    (!(1..=65535).contains(&n)).then(|| "must be between 1 and 65535, inclusive".to_owned())
}

/// Why this is no name in a path (`IsValidPathSegmentName`; RBAC's names); empty: it is one.
pub fn path_segment(s: &str) -> Vec<String> {
    if s == "." || s == ".." {
        return vec![format!("may not be '{s}'")];
    }
    ['/', '%'].iter().filter(|c| s.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// Characters of generated suffixes: no vowels, none that look alike (`apimachinery/pkg/util/rand`).
pub const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// One character of a suffix for each byte of `random`.
pub fn suffix(random: &[u8]) -> String {
    random.iter().map(|b| SUFFIX_ALPHABET[usize::from(*b) % SUFFIX_ALPHABET.len()] as char).collect()
}

/// A name from `generateName` and five random bytes; a long base is cut so that the name is a label.
pub fn generate(base: &str, random: [u8; 5]) -> String {
    let mut end = base.len().min(LABEL_MAX - random.len());
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], suffix(&random))
}

/// A safely encoded hash: the digits of `text` in the suffix alphabet (`rand.SafeEncodeString`).
pub fn safe_encode(text: &str) -> String {
    suffix(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rule = fn(&str) -> Vec<String>;

    #[test]
    fn each_rule_takes_what_upstream_takes() {
        let long = "a".repeat(64);
        let table: &[(Rule, &str, bool)] = &[
            (dns1123_label, "a", true),
            (dns1123_label, "1-a", true),
            (dns1123_label, "-a", false),
            (dns1123_label, "a.b", false),
            (dns1123_label, "", false),
            (dns1123_label, &long, false),
            (dns1035_label, "1a", false),
            (dns1035_label, "", false),
            (dns1035_label, "a1", true),
            (dns1123_subdomain, "a.b-c.1", true),
            (dns1123_subdomain, "a..b", false),
            (qualified_name, "example.com/My_Name", true),
            (qualified_name, "/x", false),
            (qualified_name, "x/", false),
            (qualified_name, "a/b/c", false),
            (label_value, "", true),
            (label_value, "a b", false),
            (config_key, "..x", false),
            (config_key, "a.B_c-1", true),
            (env_var_name, "A=B", false),
            (env_var_name, "1 a", true),
            (port_name, "http-2", true),
            (port_name, "123", false),
            (port_name, "a--b", false),
            (path_segment, "system:node", true),
            (path_segment, "a/b", false),
        ];
        for (rule, name, fine) in table {
            assert_eq!(rule(name).is_empty(), *fine, "{name:?}: {:?}", rule(name));
        }
    }

    #[test]
    fn generated_names_stay_labels() {
        assert_eq!(generate("web-", [0, 1, 26, 27, 255]), "web-bc9bq");
        assert_eq!(generate(&"x".repeat(70), [0; 5]).len(), LABEL_MAX);
        assert!(generate(&"é".repeat(40), [0; 5]).len() <= LABEL_MAX);
    }
}
