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

/// Weights as shares of their mean, and the alias table (Vose 1991) that draws by them.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    relative: Vec<f64>,
    // Empty when all weights are equal: then drawing is one multiplication.
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
            return Ok(Self { relative: vec![1.0; weights.len()], alias: Vec::new(), mean: first });
        }
        // Divided by the greatest first: a sum of finite numbers may be infinite.
        let max = weights.iter().copied().fold(0.0, f64::max);
        let mean = weights.iter().map(|w| w / max).sum::<f64>() / weights.len() as f64;
        // Nothing is divided by zero later on, however small a weight is beside the others.
        let relative: Vec<f64> = weights.iter().map(|w| (w / max / mean).max(f64::MIN_POSITIVE)).collect();
        let alias = alias(&relative);
        Ok(Self { relative, alias, mean: mean * max })
    }

    /// The weight of `i` divided by the mean.
    pub(crate) fn relative(&self, i: usize) -> f64 {
        self.relative[i]
    }

    pub(crate) fn mean(&self) -> f64 {
        self.mean
    }

    /// An index by chance, in proportion to the weights. There is at least one.
    pub(crate) fn draw(&self, random: u64) -> usize {
        let i = rng::below(random, self.relative.len() as u64) as usize;
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
