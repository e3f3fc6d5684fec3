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
    // Both empty when all weights are equal: then drawing is one multiplication, and nothing is looked up.
    relative: Vec<f64>,
    alias: Vec<Column>,
    mean: f64,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    keep: f64,
    other: usize,
}

impl Weights {
    pub(crate) fn new(weights: &[f64]) -> Result<Self, InvalidWeight> {
        for (index, &weight) in weights.iter().enumerate() {
            if !(weight.is_finite() && weight > 0.0) {
                return Err(InvalidWeight { index, weight });
            }
        }
        let Some(&first) = weights.first() else { return Ok(Self::default()) };
        if weights.iter().all(|&w| w == first) {
            return Ok(Self { len: weights.len(), mean: first, ..Self::default() });
        }
        // Divided by the greatest first: a sum of finite numbers may be infinite.
        let max = weights.iter().copied().fold(0.0, f64::max);
        let mean = weights.iter().map(|w| w / max).sum::<f64>() / weights.len() as f64;
        let relative: Vec<f64> = weights.iter().map(|w| (w / max / mean).max(LEAST)).collect();
        let alias = alias(&relative);
        Ok(Self { len: weights.len(), relative, alias, mean: mean * max })
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
        match self.alias.get(i) {
            Some(column) if rng::unit(SplitMix::new(random).next()) >= column.keep => column.other,
            _ => i,
        }
    }
}

fn alias(relative: &[f64]) -> Vec<Column> {
    let mut columns: Vec<Column> = relative.iter().enumerate().map(|(i, &keep)| Column { keep, other: i }).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..relative.len()).partition(|&i| relative[i] < 1.0);
    while let (Some(s), Some(&l)) = (small.pop(), large.last()) {
        columns[s].other = l;
        columns[l].keep -= 1.0 - columns[s].keep;
        if columns[l].keep < 1.0 {
            large.pop();
            small.push(l);
        }
    }
    // What is left over differs from 1 by rounding only.
    for i in small.into_iter().chain(large) {
        columns[i].keep = 1.0;
    }
    columns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The probability of each index, read off the table.
    fn shares(weights: &Weights) -> Vec<f64> {
        let n = weights.relative.len();
        let mut shares = vec![0.0; n];
        for (i, column) in weights.alias.iter().enumerate() {
            shares[i] += column.keep / n as f64;
            shares[column.other] += (1.0 - column.keep) / n as f64;
        }
        shares
    }

    #[test]
    fn weights_that_are_no_weights_are_named() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let err = Weights::new(&[1.0, bad]).unwrap_err();
            assert_eq!(err.to_string(), format!("endpoint 1 has weight {bad}, not a finite number above zero"));
        }
    }

    #[test]
    fn equal_weights_need_no_table() {
        let weights = Weights::new(&[0.3; 7]).unwrap();
        assert!(weights.alias.is_empty());
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
        let weights = Weights::new(&[1.0, 2.0, 3.0, 4.0]).unwrap();
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
            let table = Weights::new(&weights).unwrap();
            prop_assume!(!table.alias.is_empty());
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
            let table = Weights::new(&weights).unwrap();
            prop_assert!(table.draw(random) < weights.len());
            prop_assert!(table.mean() > 0.0);
            for i in 0..weights.len() {
                prop_assert!((LEAST..=weights.len() as f64).contains(&table.relative(i)));
            }
        }
    }
}
