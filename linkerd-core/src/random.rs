//! Random bits for draws: fast, per thread, not for secrets.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
};

/// The next 64 bits of this thread's generator.
///
/// Steele, Lea and Flood's `SplitMix64` ("Fast splittable pseudorandom number generators", 2014), seeded from the
/// standard library's hash keys, which come from the operating system.
pub(crate) fn next() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(std::thread::current().id()));
    }
    STATE.with(|state| {
        let seed = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(seed);
        let mut bits = seed;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_spread() {
        let ones: u32 = (0..1000).map(|_| next().count_ones()).sum();
        assert!((31_000..33_000).contains(&ones), "{ones} of 64,000 bits set");
    }
}
