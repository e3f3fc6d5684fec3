//! Random bits: a small generator for picks, not for secrets.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
};

/// `SplitMix64`, after Steele, Lea and Flood (2014): one `u64` of state, equidistributed, no allocation.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    #[inline]
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline]
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Maps random bits to `0..bound`; zero when `bound` is zero.
#[inline]
pub(crate) const fn below(random: u64, bound: u64) -> u64 {
    ((random as u128 * bound as u128) >> 64) as u64
}

/// Maps random bits to `[0, 1)`.
#[inline]
pub(crate) fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

/// Bits of this thread's generator, which starts from the operating system's randomness.
pub(crate) fn thread() -> u64 {
    thread_local! {
        static RNG: Cell<u64> = Cell::new(RandomState::new().hash_one("linkerd-balance"));
    }
    RNG.with(|state| {
        let mut rng = SplitMix::new(state.get());
        let bits = rng.next();
        state.set(rng.0);
        bits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_the_bound_and_reach_its_ends() {
        assert_eq!(below(u64::MAX, 0), 0);
        assert_eq!(below(0, 7), 0);
        assert_eq!(below(u64::MAX, 7), 6);
        assert!(unit(u64::MAX) < 1.0);
        assert_eq!(unit(0), 0.0);
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_and_threads_differ() {
        let (mut a, mut b) = (SplitMix::new(7), SplitMix::new(7));
        assert_eq!([a.next(), a.next()], [b.next(), b.next()]);
        let there = std::thread::spawn(thread).join().unwrap();
        assert_ne!(thread(), there);
    }
}
