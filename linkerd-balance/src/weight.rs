//! Weights, and drawing by them in constant time.

use crate::rng::{self, SplitMix};

/// A weight that is not a finite number above zero.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("endpoint {index} has weight {weight}, not a finite number above zero")]
pub struct InvalidWeight {
    /// The endpoint's position in the set, from 0.
    pub index: usize,
    /// Its weight.
    pub weight: f64,
}

/// However small a weight is beside the others, it is this part of their mean: what is divided by it stays finite, and
/// nobody lives to see it drawn.
const LEAST: f64 = 1e-100;

/// Weights as shares of their mean, and the alias table (Vose 1991) that draws by them.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    len: usize,
    // All empty when all weights are equal: then drawing is one multiplication, and nothing is looked up.
    relative: Vec<f64>,
    // How much of each column is its own, and whose the rest is.
    keep: Vec<f64>,
    other: Vec<u32>,
    mean: f64,
}

impl Weights {
    /// So many of one weight.
    pub(crate) fn equal(len: usize, weight: f64) -> Self {
        Self { len, mean: weight, ..Self::default() }
    }

    /// Of weights that are [valid](check). There is at least one.
    pub(crate) fn new(weights: Vec<f64>) -> Self {
        let len = weights.len();
        if weights.iter().all(|w| *w == weights[0]) {
            return Self::equal(len, weights[0]);
        }
        // Divided by the greatest first: a sum of finite numbers may be infinite.
        let max = weights.iter().copied().fold(0.0, f64::max);
        let mean = weights.iter().map(|w| w / max).sum::<f64>() / len as f64;
        let mut relative = weights;
        for w in &mut relative {
            *w = (*w / max / mean).max(LEAST);
        }
        let (keep, other) = alias(&relative);
        Self { len, relative, keep, other, mean: mean * max }
    }

    /// The weight of `i` divided by the mean.
    #[inline]
    pub(crate) fn relative(&self, i: usize) -> f64 {
        self.relative.get(i).copied().unwrap_or(1.0)
    }

    pub(crate) fn mean(&self) -> f64 {
        self.mean
    }

    /// An index by chance, in proportion to the weights. There is at least one.
    #[inline]
    pub(crate) fn draw(&self, random: u64) -> usize {
        let i = rng::below(random, self.len as u64) as usize;
        match self.keep.get(i) {
            Some(&keep) if rng::unit(SplitMix::new(random).next()) >= keep => self.other[i] as usize,
            _ => i,
        }
    }
}

/// # Errors
///
/// The first that is no weight.
pub(crate) fn check(weights: impl Iterator<Item = f64>) -> Result<(), InvalidWeight> {
    for (index, weight) in weights.enumerate() {
        if !(weight.is_finite() && weight > 0.0) {
            return Err(InvalidWeight { index, weight });
        }
    }
    Ok(())
}

/// The columns: how much of each is its own, and whose the rest is.
fn alias(relative: &[f64]) -> (Vec<f64>, Vec<u32>) {
    let mut keep = relative.to_vec();
    let mut other: Vec<u32> = (0..relative.len() as u32).collect();
    let (mut small, mut large): (Vec<u32>, Vec<u32>) = other.iter().partition(|i| relative[**i as usize] < 1.0);
    while let (Some(s), Some(&l)) = (small.pop(), large.last()) {
        other[s as usize] = l;
        let left = 1.0 - keep[s as usize];
        let keep = &mut keep[l as usize];
        *keep -= left;
        if *keep < 1.0 {
            large.pop();
            small.push(l);
        }
    }
    // What is left over differs from 1 by rounding only.
    for i in small.into_iter().chain(large) {
        keep[i as usize] = 1.0;
    }
    (keep, other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn new(weights: &[f64]) -> Weights {
        Weights::new(weights.to_vec())
    }

    /// The probability of each index, read off the table.
    fn shares(weights: &Weights) -> Vec<f64> {
        let n = weights.relative.len();
        let mut shares = vec![0.0; n];
        for (i, (keep, other)) in weights.keep.iter().zip(&weights.other).enumerate() {
            shares[i] += keep / n as f64;
            shares[*other as usize] += (1.0 - keep) / n as f64;
        }
        shares
    }

    #[test]
    fn weights_that_are_no_weights_are_named() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let err = check([1.0, bad].into_iter()).unwrap_err();
            assert_eq!(err.to_string(), format!("endpoint 1 has weight {bad}, not a finite number above zero"));
        }
    }

    #[test]
    fn equal_weights_need_no_table() {
        let weights = new(&[0.3; 7]);
        assert!(weights.keep.is_empty());
        assert_eq!(weights.relative(3), 1.0);
        assert_eq!(weights.mean(), 0.3);
        let mut rng = SplitMix::new(1);
        let mut seen = [0_u32; 7];
        for _ in 0..70_000 {
            seen[weights.draw(rng.next())] += 1;
        }
        assert!(seen.iter().all(|n| (9_500..10_500).contains(n)), "{seen:?}");
    }

    #[test]
    fn drawing_follows_the_table() {
        let weights = new(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(weights.mean(), 2.5);
        let mut rng = SplitMix::new(1);
        let mut seen = [0_u32; 4];
        for _ in 0..100_000 {
            seen[weights.draw(rng.next())] += 1;
        }
        for (i, n) in (1..).zip(seen) {
            assert!((i * 9_500..i * 10_500).contains(&n), "{seen:?}");
        }
    }

    proptest! {
        #[test]
        fn the_table_gives_each_its_share(weights in prop::collection::vec(1e-3..1e3_f64, 1..50)) {
            let table = new(&weights);
            prop_assume!(!table.keep.is_empty());
            let total: f64 = weights.iter().sum();
            for (share, weight) in shares(&table).into_iter().zip(weights) {
                prop_assert!((share - weight / total).abs() < 1e-9);
            }
        }

        #[test]
        fn any_weights_are_drawn_within_bounds(
            weights in prop::collection::vec(prop_oneof![1.0..2.0_f64, Just(f64::MAX), Just(f64::MIN_POSITIVE)], 1..9),
            random: u64,
        ) {
            let table = new(&weights);
            prop_assert!(table.draw(random) < weights.len());
            prop_assert!(table.mean() > 0.0);
            for i in 0..weights.len() {
                prop_assert!((LEAST..=weights.len() as f64).contains(&table.relative(i)));
            }
        }
    }
}
