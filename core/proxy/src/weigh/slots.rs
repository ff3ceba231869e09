//! From shares to slots.

/// Slots of a target whose shares are uneven, at least: a share is as fine as 1/64.
const FEWEST: usize = 64;
/// Slots for each endpoint, where that is more: a share is as fine as a quarter of the even one.
const EACH: usize = 4;
/// Whole weights whose sum is no more than this are followed to the letter.
const EXACT: u64 = 64;

/// How many slots each has, in proportion to its share; whoever has a share has a slot at least. Where all that have a
/// share have the same, one each; where shares are whole numbers of a small sum, as many as they say. Never more than
/// 64 slots in all, or 4 for each, whichever is more.
///
/// Largest remainders first, of equal ones the first: the same shares give the same slots.
pub(crate) fn apportion(shares: &[f64]) -> Vec<u32> {
    let total: f64 = shares.iter().sum();
    let sharing = shares.iter().filter(|s| **s > 0.0).count();
    if sharing == 0 || !total.is_finite() {
        return vec![0; shares.len()];
    }
    if let Some(exact) = exactly(shares) {
        return exact;
    }
    let size = FEWEST.max(EACH * sharing);
    let quotas: Vec<f64> = shares.iter().map(|s| s.max(0.0) / total * size as f64).collect();
    let mut slots: Vec<u32> = quotas.iter().map(|q| if *q > 0.0 { (*q as u32).max(1) } else { 0 }).collect();
    let mut order: Vec<usize> = (0..shares.len()).filter(|i| quotas[*i] > 0.0).collect();
    let lack = |slots: &[u32], i: usize| quotas[i] - f64::from(slots[i]);
    let given: usize = slots.iter().map(|s| *s as usize).sum();
    order.sort_by(|a, b| lack(&slots, *b).total_cmp(&lack(&slots, *a)).then(a.cmp(b)));
    for i in order.iter().take(size.saturating_sub(given)) {
        slots[*i] += 1;
    }
    // Those who got a slot for next to nothing took it from those who have most too many.
    for _ in size..given {
        let most = order.iter().copied().filter(|i| slots[*i] > 1);
        if let Some(i) = most.min_by(|a, b| lack(&slots, *a).total_cmp(&lack(&slots, *b))) {
            slots[i] -= 1;
        }
    }
    slots
}

/// Equal shares, or whole numbers, reduced.
fn exactly(shares: &[f64]) -> Option<Vec<u32>> {
    let first = shares.iter().copied().find(|s| *s > 0.0)?;
    if shares.iter().all(|s| *s <= 0.0 || (s - first).abs() <= 1e-9 * first) {
        return Some(shares.iter().map(|s| u32::from(*s > 0.0)).collect());
    }
    if shares.iter().any(|s| s.fract() != 0.0 || *s > 1e9) {
        return None;
    }
    let whole = |s: &f64| s.max(0.0) as u64;
    let divisor = shares.iter().map(whole).fold(0, gcd).max(1);
    let total: u64 = shares.iter().map(whole).sum::<u64>() / divisor;
    (total <= EXACT).then(|| shares.iter().map(|s| (whole(s) / divisor) as u32).collect())
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_and_slots() {
        let table: &[(&[f64], &[u32])] = &[
            (&[], &[]),
            (&[0.0, 0.0], &[0, 0]),
            (&[1.0], &[1]),
            (&[0.3, 0.3, 0.3], &[1, 1, 1]),
            (&[5.0, 0.0, 5.0], &[1, 0, 1]),
            (&[1.0, 3.0], &[1, 3]),
            (&[20.0, 40.0, 60.0], &[1, 2, 3]),
            (&[1.0, 1000.0], &[1, 63]),
            (&[0.1, 1.0], &[6, 58]),
            (&[0.5, 0.25, 0.25 + 1e-6], &[32, 16, 16]),
            (&[f64::NAN, 1.0], &[0, 0]),
        ];
        for (shares, expected) in table {
            assert_eq!(apportion(shares), *expected, "{shares:?}");
        }
    }

    proptest! {
        #[test]
        fn slots_are_bounded_and_near_their_shares(shares in proptest::collection::vec(0.0..100.0f64, 1..200)) {
            let slots = apportion(&shares);
            let sharing = shares.iter().filter(|s| **s > 0.0).count();
            let (sum, size) = (slots.iter().sum::<u32>() as usize, FEWEST.max(EACH * sharing));
            prop_assert!(sum <= size);
            let total: f64 = shares.iter().sum();
            for (share, slots) in shares.iter().zip(&slots) {
                prop_assert_eq!(*share > 0.0, *slots > 0);
                // Nobody gets more than a slot too many.
                prop_assert!(f64::from(*slots) <= share / total * size as f64 + 1.0);
            }
            prop_assert_eq!(&apportion(&shares), &slots);
        }
    }
}
