//! Random bits for jitter.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A stream of random bits that clones share. Good enough to spread retries, and for nothing else.
///
/// `SplitMix64` (Steele, Lea, Flood 2014): its state only counts, so one `fetch_add` makes it safe to share.
#[derive(Clone, Debug)]
pub(crate) struct Dice(Arc<AtomicU64>);

impl Dice {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    pub(crate) fn roll(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        // Relaxed: every caller gets another value of the counter, and nothing else hangs on it.
        let mut bits = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

impl Default for Dice {
    /// Seeded by the standard library's hash keys, which differ from one to the next.
    fn default() -> Self {
        Self::seeded(RandomState::new().hash_one(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_one_stream_and_a_seed_repeats_it() {
        let dice = Dice::seeded(0);
        let shared = dice.clone();
        // The published first outputs of SplitMix64 for seed 0.
        assert_eq!(dice.roll(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(shared.roll(), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(dice.roll(), 0x06c4_5d18_8009_454f);
        assert_ne!(Dice::default().roll(), Dice::default().roll());
    }
}
