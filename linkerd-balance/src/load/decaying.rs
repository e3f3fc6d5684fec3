//! A number that fades, read without waiting for its writers.
//!
//! `tests/load_loom.rs` checks it under every order of threads.

use std::{fmt, sync::PoisonError};

use super::sync::{AtomicU64, Mutex, Ordering, TRIES, spin_loop};

/// A number, and the time at which it was that: the two as they were written together, in 40 bytes.
///
/// A sequence lock of atomics: a reader takes what it read only if no writer was at work meanwhile. Writers take turns
/// by a mutex, which a reader too takes rather than spin for long, since a writer may have lost its processor half way.
pub(crate) struct Decaying {
    // Odd while a writer is at work.
    seq: AtomicU64,
    value: AtomicU64,
    at: AtomicU64,
    writing: Mutex<()>,
}

/// A number and when it was that, in a [`Clock`]'s nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampled {
    pub(crate) value: f64,
    pub(crate) at: i64,
}

impl Decaying {
    pub(crate) fn new(value: f64, at: i64) -> Self {
        Self {
            seq: AtomicU64::new(0),
            value: AtomicU64::new(value.to_bits()),
            at: AtomicU64::new(at.cast_unsigned()),
            writing: Mutex::new(()),
        }
    }

    pub(crate) fn get(&self) -> Sampled {
        for _ in 0..TRIES {
            // Acquire, all three: if one of the two is from a writer, what that writer did to `seq` before is seen below.
            let seq = self.seq.load(Ordering::Acquire);
            let read = self.load(Ordering::Acquire);
            // Relaxed: the loads above keep it in its place.
            if seq.is_multiple_of(2) && self.seq.load(Ordering::Relaxed) == seq {
                return read;
            }
            spin_loop();
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed: the mutex orders it after the last writer.
        self.load(Ordering::Relaxed)
    }

    /// Replaces what is there by what `f` makes of it. `f` runs alone and should be short.
    pub(crate) fn update(&self, f: impl FnOnce(Sampled) -> Sampled) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed: only who holds the mutex writes these.
        let new = f(self.load(Ordering::Relaxed));
        let seq = self.seq.load(Ordering::Relaxed);
        self.seq.store(seq + 1, Ordering::Relaxed);
        // Release, all three: a reader of any of them sees at least the odd number.
        self.value.store(new.value.to_bits(), Ordering::Release);
        self.at.store(new.at.cast_unsigned(), Ordering::Release);
        self.seq.store(seq + 2, Ordering::Release);
    }

    /// Whether the number is zero. Cheaper than [`get`](Self::get), where it mostly is.
    pub(crate) fn is_zero(&self) -> bool {
        // Relaxed: one word. A reader that sees a change a moment late is as good as one that came a moment before.
        f64::from_bits(self.value.load(Ordering::Relaxed)) == 0.0
    }

    fn load(&self, ordering: Ordering) -> Sampled {
        let value = f64::from_bits(self.value.load(ordering));
        Sampled { value, at: self.at.load(ordering).cast_signed() }
    }
}

impl fmt::Debug for Decaying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
