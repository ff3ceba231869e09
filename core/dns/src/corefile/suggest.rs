//! What a misspelt word may have meant.

/// The candidate that is a slip or two away from `word` (letters changed, left out, added or swapped), if there is
/// one; of the nearest the first, or the first that has the same letters.
///
/// ```
/// use sealane_dns::corefile::nearest;
/// assert_eq!(nearest("foward", ["cache", "forward"]), Some("forward"));
/// assert_eq!(nearest("whatever", ["cache", "forward"]), None);
/// ```
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(64).flat_map(char::to_lowercase).collect();
    let scored = candidates.into_iter().map(|candidate| {
        let letters: Vec<char> = candidate.chars().collect();
        ((distance(&word, &letters), sorted(&word) != sorted(&letters)), candidate)
    });
    // Two slips in a short word make another word of it.
    let near = scored.filter(|((slips, _), candidate)| *slips <= 2 && slips * 2 < candidate.len());
    near.min_by_key(|(slips, _)| *slips).map(|(_, candidate)| candidate)
}

fn sorted(letters: &[char]) -> Vec<char> {
    let mut letters = letters.to_vec();
    letters.sort_unstable();
    letters
}

/// Damerau and Levenshtein's distance, neighbours swapped counting once.
fn distance(a: &[char], b: &[char]) -> usize {
    let (mut before, mut last) = (Vec::new(), (0..=b.len()).collect::<Vec<usize>>());
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut cost = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && b[j - 1] == *x {
                let swapped: &Vec<usize> = &before;
                cost = cost.min(swapped[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips() {
        let names =
            ["chaos", "cache", "errors", "forward", "health", "hosts", "kubernetes", "log", "loop", "ready"];
        for (word, meant) in [
            ("kubernets", Some("kubernetes")),
            ("Forward", Some("forward")),
            ("chace", Some("cache")),
            ("error", Some("errors")),
            ("logs", Some("log")),
            ("heatlh", Some("health")),
            ("proxy", None),
            ("oops", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, names), meant, "{word}");
        }
    }
}
