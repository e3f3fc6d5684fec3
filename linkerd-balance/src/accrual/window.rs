//! What happened in the last while, in slices.

use std::time::{Duration, Instant};

use crate::stamp::{Stamp, nanos_of};

/// Counts of the last `N` slices of a window, the one that is running included: between `N - 1` slices and a whole
/// window back. Takes no more memory for more requests, of which a slice counts 4 billion at most.
#[derive(Clone, Debug)]
pub(super) struct Window<const N: usize> {
    // In nanoseconds.
    whole: u64,
    // Set by the first result, if nobody said when it begins.
    start: Option<Stamp>,
    // The running slice, counted from the start.
    head: u64,
    slices: [Slice; N],
}

/// How many requests, and how many of them went well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) successes: u64,
    pub(super) requests: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    successes: u32,
    requests: u32,
}

impl<const N: usize> Window<N> {
    pub(super) fn new(window: Duration) -> Self {
        Self { whole: nanos_of(window), start: None, head: 0, slices: [Slice::default(); N] }
    }

    /// How long it is, in nanoseconds.
    pub(super) const fn nanos(&self) -> u64 {
        self.whole
    }

    /// Begins anew at `now`.
    pub(super) fn restart(&mut self, now: Instant) {
        (self.start, self.head, self.slices) = (Some(Stamp::of(now)), 0, [Slice::default(); N]);
    }

    pub(super) fn record(&mut self, success: bool, now: Instant) {
        let now = Stamp::of(now);
        let start = *self.start.get_or_insert(now);
        let at = now.since(start) / (self.whole / N as u64).max(1);
        // A result from before the running slice, which another thread began, counts in that one.
        let passed = at.saturating_sub(self.head).min(N as u64);
        for _ in 0..passed {
            self.head += 1;
            self.slices[(self.head % N as u64) as usize] = Slice::default();
        }
        if at > self.head {
            // Everything was cleared: the slices before this one are empty whichever they are.
            self.head = at;
        }
        let slice = &mut self.slices[(self.head % N as u64) as usize];
        if slice.requests < u32::MAX {
            slice.requests += 1;
            slice.successes += u32::from(success);
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.slices.iter().fold(Counts::default(), |sum, slice| Counts {
            successes: sum.successes + u64::from(slice.successes),
            requests: sum.requests + u64::from(slice.requests),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_is_a_window_old_is_forgotten() {
        let (mut window, start) = (Window::<5>::new(100 * MS), tokio::time::Instant::now().into_std());
        window.restart(start);
        window.record(true, start);
        window.record(false, start + 99 * MS);
        assert_eq!(window.counts(), Counts { successes: 1, requests: 2 });
        window.record(false, start + 100 * MS);
        assert_eq!(window.counts(), Counts { successes: 0, requests: 2 });
        window.record(true, start + 10_000 * MS);
        assert_eq!(window.counts(), Counts { successes: 1, requests: 1 });
    }

    #[test]
    fn a_clock_that_runs_back_counts_now() {
        let (mut window, start) = (Window::<5>::new(100 * MS), tokio::time::Instant::now().into_std());
        window.record(true, start + 50 * MS);
        window.record(true, start);
        assert_eq!(window.counts().requests, 2);
    }

    proptest! {
        #[test]
        fn counts_what_the_last_slices_hold(steps in prop::collection::vec((0..70_u32, any::<bool>()), 1..200)) {
            let (mut window, start) = (Window::<5>::new(100 * MS), tokio::time::Instant::now().into_std());
            window.restart(start);
            let (mut at, mut kept) = (0, VecDeque::new());
            for (wait, success) in steps {
                at += wait;
                window.record(success, start + at * MS);
                kept.push_back((at / 20, success));
                kept.retain(|(slice, _)| slice + 5 > at / 20);
                let successes = kept.iter().filter(|(_, success)| *success).count() as u64;
                prop_assert_eq!(window.counts(), Counts { successes, requests: kept.len() as u64 });
            }
        }
    }
}
