//! Random numbers that are the same on every machine, and owe nothing to the crate's own generator.

use crate::model::Nanos;

/// xorshift64*, Marsaglia (2003) and Vigna (2016).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        // Near seeds must not give near sequences, and zero is no state.
        let mut rng = Self((seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xD6E8_FEB8_6659_FD93) | 1);
        for _ in 0..4 {
            rng.next();
        }
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// From zero to just below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// From `least` to `most`, both included.
    pub(crate) fn within(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// From just above zero to one.
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// The gap to the next of events that come by chance, `mean` apart on average.
    pub(crate) fn gap(&mut self, mean: Nanos) -> Nanos {
        (-ln(self.unit()) * mean as f64) as Nanos
    }

    /// Pareto with shape 2: mean `2 * least`, infinite variance. No more than `most`.
    pub(crate) fn pareto(&mut self, least: Nanos, most: Nanos) -> Nanos {
        ((least as f64 / self.unit().sqrt()) as Nanos).min(most)
    }

    /// Another sequence, which does not move this one on by more than one step.
    pub(crate) fn fork(&mut self) -> Self {
        Self::new(self.next())
    }
}

/// The natural logarithm, from nothing but what IEEE 754 rounds exactly: `f64::ln` may differ between platforms.
pub(crate) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52).cast_signed() - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let (square, mut power, mut sum) = (t * t, t, 0.0);
    for n in 0..9 {
        sum += power / f64::from(2 * n + 1);
        power *= square;
    }
    2.0 * sum + exponent as f64 * std::f64::consts::LN_2
}

#[test]
fn the_logarithm_is_one() {
    let mut rng = Rng::new(1);
    for _ in 0..10_000 {
        let x = rng.unit();
        assert!((ln(x) - x.ln()).abs() < 1e-12, "{x}");
    }
    assert_eq!(ln(1.0), 0.0);
}

#[test]
fn gaps_and_pareto_have_their_means() {
    let mut rng = Rng::new(2);
    let mean = |mut draw: Box<dyn FnMut() -> u64>| (0..200_000).map(|_| draw()).sum::<u64>() / 200_000;
    let mut other = rng.fork();
    let gap = mean(Box::new(move || rng.gap(1_000_000)));
    assert!((990_000..1_010_000).contains(&gap), "{gap}");
    let pareto = mean(Box::new(move || other.pareto(1_000_000, u64::MAX)));
    assert!((1_950_000..2_050_000).contains(&pareto), "{pareto}");
}
