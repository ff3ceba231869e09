//! Bars in the terminal.

/// Columns of the longest bar.
const WIDTH: u64 = 40;

/// A line for each name: its share as a bar, its count, its percentage.
pub(crate) fn bars(counts: &[(String, u64)], colour: bool) -> Vec<String> {
    let total: u64 = counts.iter().map(|(_, n)| n).sum();
    let longest = counts.iter().map(|(_, n)| *n).max().unwrap_or(0).max(1);
    let name = counts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    counts
        .iter()
        .map(|(pod, n)| {
            let filled = usize::try_from((n * WIDTH).div_ceil(longest)).unwrap_or(0);
            let empty = usize::try_from(WIDTH).unwrap_or(0) - filled;
            let (on, off) = if colour { ("\x1b[36m", "\x1b[0m") } else { ("", "") };
            let percent = (n * 100).checked_div(total).unwrap_or(0);
            format!(
                "  {pod:<name$}  {on}{}{off}{}  {n:>7}  {percent:>3} %",
                "█".repeat(filled),
                "·".repeat(empty)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_count_fills_the_line() {
        let lines = bars(&[("a".into(), 90), ("bb".into(), 10), ("c".into(), 0)], false);
        assert_eq!(lines[0].matches('█').count(), 40);
        assert_eq!(lines[1].matches('█').count(), 5);
        assert_eq!(lines[2].matches('·').count(), 40);
        assert!(lines[0].ends_with("90 %") && lines[2].contains("  c   "), "{lines:#?}");
        assert!(bars(&[], true).is_empty());
    }
}
