//! Sorting by hashes.

/// Sorts by numbers that are spread evenly, as hashes are, then by what they came with: by their upper bits into as many
/// buckets as there are items, and within each bucket. That takes a fifth of the time of a sort by comparisons; of numbers that
/// are not spread, as long.
pub(super) fn sorted<T: Copy + Ord>(items: Vec<(u64, T)>) -> Vec<(u64, T)> {
    let bits = items.len().max(2).ilog2();
    let bucket = |hash: u64| (hash >> (u64::BITS - bits)) as usize;
    let mut ends = vec![0_u32; 1 << bits];
    for (hash, _) in &items {
        ends[bucket(*hash)] += 1;
    }
    let mut sum = 0;
    for end in &mut ends {
        (sum, *end) = (sum + *end, sum);
    }
    let mut sorted = items.clone();
    for item in items {
        let end = &mut ends[bucket(item.0)];
        sorted[*end as usize] = item;
        *end += 1;
    }
    let mut begin = 0;
    for end in ends {
        let bucket = &mut sorted[begin..end as usize];
        if bucket.len() > 1 {
            bucket.sort_unstable();
        }
        begin = end as usize;
    }
    sorted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::SplitMix;

    proptest! {
        #[test]
        fn sorts_whatever_it_is_given(hashes in prop::collection::vec(prop_oneof![any::<u64>(), 0..9_u64], 0..300)) {
            let items: Vec<_> = hashes.into_iter().zip(0_u32..).collect();
            let mut expected = items.clone();
            expected.sort_unstable();
            prop_assert_eq!(sorted(items), expected);
        }
    }

    #[test]
    fn of_equals_the_rest_decides() {
        let mut hashes = SplitMix::new(7);
        let items: Vec<_> = (0..1_000_u32).rev().map(|i| (if i % 3 == 0 { 5 } else { hashes.next() }, i)).collect();
        let (sorted, mut expected) = (sorted(items.clone()), items);
        expected.sort_unstable();
        assert_eq!(sorted, expected);
    }
}
