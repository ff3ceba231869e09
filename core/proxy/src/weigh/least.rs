//! Least connections: shares of the connections that come until the next look.

/// Shares, in proportion to which new connections even out the load: `flows` are those that each endpoint has,
/// `weights` what it should have in proportion, `coming` how many are expected until shares are next set. Water is
/// poured in: who has fewest per weight is filled up to the next, both to the one after, until `coming` are spent.
///
/// With `coming` small, only those who have fewest get any; with `coming` large, everybody does in proportion to its
/// weight. Who has no weight gets none.
pub(crate) fn fill(flows: &[u32], weights: &[f64], coming: f64) -> Vec<f64> {
    let coming = coming.max(1.0);
    let mut order: Vec<usize> = (0..weights.len()).filter(|i| weights[*i] > 0.0).collect();
    let depth = |i: usize| f64::from(flows[i]) / weights[i];
    order.sort_by(|a, b| depth(*a).total_cmp(&depth(*b)));
    let (mut held, mut width, mut level) = (0.0, 0.0, 0.0);
    for (n, i) in order.iter().enumerate() {
        held += f64::from(flows[*i]);
        width += weights[*i];
        level = (held + coming) / width;
        if order.get(n + 1).is_none_or(|next| level <= depth(*next)) {
            break;
        }
    }
    let share = |(flows, weight): (&u32, &f64)| (level * weight - f64::from(*flows)).max(0.0);
    flows.iter().zip(weights).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_fewest_gets_most() {
        let table: &[(&[u32], &[f64], f64, &[f64])] = &[
            (&[0, 0], &[1.0, 1.0], 10.0, &[5.0, 5.0]),
            (&[4, 0], &[1.0, 1.0], 2.0, &[0.0, 2.0]),
            (&[4, 0], &[1.0, 1.0], 10.0, &[3.0, 7.0]),
            (&[4, 2, 0], &[1.0, 1.0, 1.0], 3.0, &[0.0, 0.5, 2.5]),
            (&[3, 0], &[3.0, 1.0], 1.0, &[0.0, 1.0]),
            (&[3, 1], &[3.0, 1.0], 8.0, &[6.0, 2.0]),
            (&[9, 0], &[1.0, 0.0], 1.0, &[1.0, 0.0]),
            (&[], &[], 1.0, &[]),
            (&[7], &[0.0], 1.0, &[0.0]),
        ];
        for (flows, weights, coming, expected) in table {
            assert_eq!(fill(flows, weights, *coming), *expected, "{flows:?} {weights:?} {coming}");
        }
    }
}
