//! What kubectl prints, taken apart.

/// Rows of cells; kubectl puts at least two blanks between columns, and single ones inside cells (`+ 1 more...`).
pub fn table(text: &str) -> Vec<Vec<String>> {
    let row =
        |line: &str| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).map(str::to_owned).collect();
    text.lines().filter(|l| !l.trim().is_empty()).map(row).collect()
}

/// The value of `Name:   value` in what `kubectl describe` prints, its first line's.
#[track_caller]
pub fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}: in\n{text}")).trim().to_owned()
}

/// Lines after `NAME:` (with their indentation) up to the next line that is no further in.
#[track_caller]
pub fn section(text: &str, name: &str) -> String {
    let head = format!("{name}:");
    let mut lines = text.lines().skip_while(|l| l.trim_end() != head);
    assert!(lines.next().is_some(), "no {head} in\n{text}");
    lines.take_while(|l| l.starts_with(' ') || l.is_empty()).map(|l| format!("{l}\n")).collect()
}
