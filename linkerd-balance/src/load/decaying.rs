//! A number that fades, read without waiting for its writers.
//!
//! `tests/load_loom.rs` checks it under every order of threads.

use std::fmt;

use super::sync::{AtomicU64, Ordering, pause};

/// A number, and the time at which it was that: the two as they were written together, in 24 bytes.
///
/// A sequence lock of atomics: a reader takes what it read only if no writer was at work meanwhile, and a writer writes
/// only if nothing was written since it read. The others wait for no more than two stores, which is nothing to park a
/// thread for; should the system take the writer off its processor just there, they yield theirs.
pub(crate) struct Decaying {
    // Odd while a writer is at work.
    seq: AtomicU64,
    value: AtomicU64,
    at: AtomicU64,
}

/// A number and when it was that, a [stamp](crate::stamp).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampled {
    pub(crate) value: f64,
    pub(crate) at: i64,
}

impl Decaying {
    pub(crate) fn new(value: f64, at: i64) -> Self {
        let (value, at) = (AtomicU64::new(value.to_bits()), AtomicU64::new(at.cast_unsigned()));
        Self { seq: AtomicU64::new(0), value, at }
    }

    #[inline]
    pub(crate) fn get(&self) -> Sampled {
        self.read().1
    }

    /// Replaces what is there by what `f` makes of it: once more if another writer was faster.
    #[inline]
    pub(crate) fn update(&self, mut f: impl FnMut(Sampled) -> Sampled) {
        loop {
            let (seq, old) = self.read();
            let new = f(old);
            // Relaxed: what follows is ordered after it by being released.
            if self.seq.compare_exchange(seq, seq + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                // Release, all three: who sees any of them sees at least the odd number.
                self.value.store(new.value.to_bits(), Ordering::Release);
                self.at.store(new.at.cast_unsigned(), Ordering::Release);
                self.seq.store(seq + 2, Ordering::Release);
                return;
            }
        }
    }

    /// Whether the number is zero. Cheaper than [`get`](Self::get), where it mostly is.
    pub(crate) fn is_zero(&self) -> bool {
        // Relaxed: one word. A reader that sees a change a moment late is as good as one that came a moment before.
        f64::from_bits(self.value.load(Ordering::Relaxed)) == 0.0
    }

    /// What is there, and the even number that stood for it.
    #[inline]
    fn read(&self) -> (u64, Sampled) {
        let mut tries = 0_u32;
        loop {
            // Acquire, all three: if one of the two is from a writer, what that writer did to `seq` before is seen below.
            let seq = self.seq.load(Ordering::Acquire);
            let value = f64::from_bits(self.value.load(Ordering::Acquire));
            let at = self.at.load(Ordering::Acquire).cast_signed();
            // Relaxed: the loads above keep it in its place.
            if seq.is_multiple_of(2) && self.seq.load(Ordering::Relaxed) == seq {
                return (seq, Sampled { value, at });
            }
            pause(tries);
            tries = tries.saturating_add(1);
        }
    }
}

impl fmt::Debug for Decaying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
