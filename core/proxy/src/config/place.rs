//! Where in a text a field stands, for problems with its value, which YAML readers forget the place of.

use super::Problem;

/// Line and column, from 1, of a field's value in block style; `None` where it is written otherwise or not at all.
/// `path` names it from the outermost in: `iptables.masqueradeBit`; an index in brackets counts for its list.
pub fn find(text: &str, path: &str) -> Option<(usize, usize)> {
    let mut lines = text.lines().enumerate().peekable();
    let mut indent = None;
    let mut place = None;
    for part in path.split('.') {
        let key = part.split('[').next().unwrap_or(part);
        let outer = indent;
        loop {
            let (number, line) = lines.next()?;
            let depth = line.len() - line.trim_start().len();
            let content = line.trim_start();
            if content.is_empty() || content.starts_with('#') || content.starts_with("---") {
                continue;
            }
            // Back out of the section: the field is not in it.
            if outer.is_some_and(|outer| depth <= outer) {
                return None;
            }
            let quoted = content.trim_start_matches('"');
            let Some(rest) = quoted.strip_prefix(key) else { continue };
            let Some(rest) = rest.trim_start_matches('"').strip_prefix(':') else { continue };
            let blanks = rest.len() - rest.trim_start().len();
            let value = if rest.trim().is_empty() { depth } else { line.len() - rest.len() + blanks };
            indent = Some(depth);
            place = Some((number + 1, value + 1));
            break;
        }
    }
    place
}

/// Problems with their places; each message begins with its field's path and a colon.
pub(super) fn placed(mut problems: Vec<Problem>, text: &str) -> Vec<Problem> {
    for problem in problems.iter_mut().filter(|p| p.line == 0) {
        let path = problem.message.split(": ").next().unwrap_or_default();
        if let Some((line, column)) = find(text, path) {
            (problem.line, problem.column) = (line, column);
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_in_block_style() {
        let text = "# mode: x\nkind: K\nipvs:\n  syncPeriod: 1s\niptables:\n  masqueradeBit:  40\n  syncPeriod: 5\n\
                    \"mode\": ipvs\nnodePortAddresses:\n- a\n";
        for (path, place) in [
            ("kind", Some((2, 7))),
            ("mode", Some((8, 9))),
            ("iptables.masqueradeBit", Some((6, 19))),
            ("iptables.syncPeriod", Some((7, 15))),
            ("ipvs.masqueradeBit", None),
            ("nodePortAddresses[0]", Some((9, 1))),
            ("absent", None),
        ] {
            assert_eq!(find(text, path), place, "{path}");
        }
    }
}
