//! How long something usually takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// An estimate of the median of durations, which clones share.
///
/// After *frugal streaming* (Ma, Muthukrishnan, Sandler 2013), with steps of a sixteenth and not of one: it follows a
/// median to within a sixteenth, and a tenfold change in forty durations. It takes eight bytes, and no lock.
///
/// What [`Attempts::next`](crate::Attempts::next) wants to know: record successes, each by itself.
#[derive(Clone, Debug, Default)]
pub struct Typical(Arc<AtomicU64>);

impl Typical {
    /// Takes one more into account.
    pub fn record(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Relaxed, and not one operation: of two at once one may be lost, which a median does not mind.
        let now = self.0.load(Ordering::Relaxed);
        let step = (now / 16).max(1);
        let next = match took.cmp(&now) {
            _ if now == 0 => took,
            std::cmp::Ordering::Greater => now.saturating_add(step).min(took),
            std::cmp::Ordering::Less => (now - step).max(took),
            std::cmp::Ordering::Equal => return,
        };
        self.0.store(next, Ordering::Relaxed);
    }

    /// Zero as long as there is nothing to go by.
    pub fn get(&self) -> Duration {
        // Relaxed: a number that orders nothing.
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_begins_with_the_first_and_follows_a_change() {
        let typical = Typical::default();
        assert_eq!(typical.get(), Duration::ZERO);
        typical.record(Duration::from_millis(10));
        assert_eq!(typical.get(), Duration::from_millis(10));
        for _ in 0..40 {
            typical.clone().record(Duration::from_millis(100));
        }
        assert_eq!(typical.get(), Duration::from_millis(100));
        for _ in 0..40 {
            typical.record(Duration::from_millis(10));
        }
        assert_eq!(typical.get(), Duration::from_millis(10));
    }

    proptest! {
        #[test]
        fn it_is_near_the_median_whatever_a_quarter_of_them_are(
            common in 1_000..1_000_000_u64,
            rare in 0..1_000_000_000_000_u64,
        ) {
            let typical = Typical::default();
            for i in 0..1000 {
                typical.record(Duration::from_nanos(if i % 4 == 3 { rare } else { common }));
            }
            let (low, high) = (common - common / 8, common + common / 8);
            prop_assert!((low..=high).contains(&(typical.get().as_nanos() as u64)), "{typical:?}");
        }
    }
}
