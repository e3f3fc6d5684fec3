//! Distributions: latencies, sizes, counts per request.

use std::{
    array, fmt,
    sync::{
        Arc, LazyLock, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// Buckets that are allocated together; and how many such leaves are, before there is anything in them.
const LEAF: usize = 16;
const LEAVES: usize = 16;
/// What all buckets take of those.
const BRANCHES: usize = CHUNKS * CHUNK / (LEAF * LEAVES);
/// Buckets in a chunk; the buckets of one chunk have one width.
const CHUNK: usize = 64;
/// Chunks: the first holds 0 to 63, each further one the next power of two.
const CHUNKS: usize = 36;
/// The largest value that is told apart: about 2.2 * 10^12, which is 70 years in milliseconds.
const MAX: u64 = ((CHUNK as u64) << (CHUNKS - 1)) - 1;

/// A distribution of whole numbers, over the registry's snapshot interval. A clone records into the same one.
///
/// Values below 128 are kept exactly; above, what is read is at most 0.8 % off. Values above 2 * 10^12 count as that.
/// Recording is two relaxed atomic additions and takes no lock. Memory comes with use: eleven words for a stat in which at
/// most four different values occur in an interval, then 700 bytes, and 128 bytes for each further sixteen buckets.
///
/// `Stat::default()` is one that nobody reads.
#[derive(Clone, Default)]
pub struct Stat(Arc<Inner>);

#[derive(Default)]
struct Inner {
    few: Few,
    sum: AtomicU64,
    // What finds no room in the few.
    live: OnceLock<Box<Live>>,
    // Read and written by those who read metrics, never by those who record.
    last: Mutex<Option<Arc<Summary>>>,
}

/// The buckets that occur first in an interval, which for most stats are all. A word is a bucket's place, from one, and
/// below it its count, so that both are taken at once.
#[derive(Default)]
struct Few([AtomicU64; 4]);

/// Two sides: one is recorded to while the other is read and emptied.
struct Live {
    side: AtomicUsize,
    sides: [Side; 2],
}

struct Side {
    branches: [OnceLock<Box<Branch>>; BRANCHES],
}

type Branch = [OnceLock<Box<Leaf>>; LEAVES];
type Leaf = [AtomicU64; LEAF];

/// An interval that saw nothing, as most do: they share one.
static NOTHING: LazyLock<Arc<Summary>> = LazyLock::new(Arc::default);

/// What a [`Stat`] saw in one snapshot interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// How many values.
    pub count: u64,
    /// Their sum, exact.
    pub sum: u64,
    /// The smallest, 0 if there is none.
    pub min: u64,
    /// The largest, 0 if there is none.
    pub max: u64,
    /// The quantiles [`Summary::QUANTILES`], in that order.
    pub quantiles: [u64; 6],
}

impl Stat {
    /// Whether nobody else has it.
    #[cfg(feature = "config")]
    pub(super) fn is_free(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Records a value.
    pub fn record(&self, value: u64) {
        let (chunk, bucket) = place(value.min(MAX));
        let at = chunk * CHUNK + bucket;
        if !self.0.few.count(at) {
            self.0.live.get_or_init(Box::default).count(at);
        }
        // Most are no retry, or less than a millisecond.
        if value > 0 {
            // Relaxed: one whose count was read just before has its sum in the interval after.
            self.0.sum.fetch_add(value, Ordering::Relaxed);
        }
    }

    /// Records a time in whole milliseconds, rounded down, as Finagle does.
    pub fn record_ms(&self, time: std::time::Duration) {
        self.record(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }

    /// What the last complete interval saw; `None` before the first has ended.
    #[must_use]
    pub fn summary(&self) -> Option<Arc<Summary>> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the interval.
    pub(super) fn roll(&self) {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = self.0.few.take();
        if let Some(live) = self.0.live.get() {
            counts.extend(live.take());
        }
        *last = Some(if counts.is_empty() { Arc::clone(&NOTHING) } else { Arc::new(self.0.summarize(counts)) });
    }
}

impl Summary {
    /// Which quantiles are kept.
    pub const QUANTILES: [f64; 6] = [0.5, 0.9, 0.95, 0.99, 0.999, 0.9999];

    /// The mean, 0 if there is no value.
    #[must_use]
    pub fn avg(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }
}

impl Side {
    fn bucket(&self, at: usize) -> &AtomicU64 {
        let branch = self.branches[at / (LEAF * LEAVES)].get_or_init(Box::default);
        let leaf = branch[at / LEAF % LEAVES].get_or_init(Box::default);
        &leaf[at % LEAF]
    }

    /// All that was recorded to, with their places.
    fn buckets(&self) -> impl Iterator<Item = (usize, &AtomicU64)> {
        let branches = self.branches.iter().enumerate().filter_map(|(at, branch)| Some((at, branch.get()?)));
        let leaves = branches.flat_map(|(above, branch)| {
            let leaves = branch.iter().enumerate();
            leaves.filter_map(move |(at, leaf)| Some((above * LEAVES + at, leaf.get()?)))
        });
        leaves.flat_map(|(above, leaf)| leaf.iter().enumerate().map(move |(at, count)| (above * LEAF + at, count)))
    }

    /// Reads the side and empties it.
    fn take(&self) -> impl Iterator<Item = (usize, u64)> {
        // Relaxed: as in `Stat::record`.
        let counts = self.buckets().map(|(at, count)| (at, count.swap(0, Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0)
    }
}

impl Live {
    fn count(&self, at: usize) {
        // Relaxed: a value that lands on the side that is being emptied is counted in the interval after.
        let side = &self.sides[self.side.load(Ordering::Relaxed) & 1];
        side.bucket(at).fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> impl Iterator<Item = (usize, u64)> {
        let side = self.side.fetch_xor(1, Ordering::Relaxed) & 1;
        self.sides[side].take()
    }
}

impl Few {
    /// How many bits of a word are its count.
    const COUNT: u32 = 48;

    /// Counts one in a bucket; `false` if there is no room for it.
    fn count(&self, at: usize) -> bool {
        let place = at as u64 + 1;
        self.0.iter().any(|word| {
            let next = |is: u64| match is >> Self::COUNT {
                0 => Some(place << Self::COUNT | 1),
                other => (other == place).then_some(is + 1),
            };
            // Relaxed: as in `Stat::record`.
            word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
        })
    }

    /// Reads all counts and empties them.
    fn take(&self) -> Vec<(usize, u64)> {
        let words = self.0.iter().map(|word| word.swap(0, Ordering::Relaxed)).filter(|word| *word != 0);
        words.map(|word| ((word >> Self::COUNT) as usize - 1, word & ((1 << Self::COUNT) - 1))).collect()
    }
}

impl Inner {
    /// What an interval saw, of which these are the counts, at least one.
    fn summarize(&self, mut counts: Vec<(usize, u64)>) -> Summary {
        counts.sort_unstable();
        let count = counts.iter().map(|(_, count)| count).sum();
        let mut rest = counts.iter().map(|(at, count)| (value_of(at / CHUNK, at % CHUNK), count));
        let mut quantiles = [0; 6];
        let (mut below, mut value) = (0, 0);
        for (quantile, at) in quantiles.iter_mut().zip(Summary::QUANTILES) {
            let rank = ((at * count as f64).ceil() as u64).clamp(1, count);
            while below < rank {
                let Some((next, count)) = rest.next() else { break };
                value = next;
                below += count;
            }
            *quantile = value;
        }
        let value_at = |at: Option<&(usize, u64)>| at.map_or(0, |(at, _)| value_of(at / CHUNK, at % CHUNK));
        let (min, max) = (value_at(counts.first()), value_at(counts.last()));
        // After the counts: see `Stat::record`.
        Summary { count, sum: self.sum.swap(0, Ordering::Relaxed), min, max, quantiles }
    }
}

/// Chunk and bucket of a value up to [`MAX`].
fn place(value: u64) -> (usize, usize) {
    let chunk = (u64::BITS - (value >> CHUNK.trailing_zeros()).leading_zeros()) as usize;
    let shift = chunk.saturating_sub(1);
    (chunk, (value >> shift) as usize % CHUNK)
}

/// The middle of a bucket.
fn value_of(chunk: usize, bucket: usize) -> u64 {
    let shift = chunk.saturating_sub(1);
    let base = if chunk == 0 { 0 } else { CHUNK as u64 };
    ((base + bucket as u64) << shift) + ((1 << shift) >> 1)
}

impl Default for Live {
    fn default() -> Self {
        let side = || Side { branches: array::from_fn(|_| OnceLock::new()) };
        Self { side: AtomicUsize::new(0), sides: [side(), side()] }
    }
}

impl fmt::Debug for Stat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stat").field(&self.summary()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_told_before_the_first_interval_and_only_the_last_one_after() {
        let stat = Stat::default();
        stat.record(5);
        assert_eq!(stat.summary(), None);
        stat.roll();
        assert_eq!(stat.summary().unwrap().count, 1);
        stat.roll();
        assert_eq!(*stat.summary().unwrap(), Summary::default());
    }

    #[test]
    fn few_values_take_little_room() {
        let stat = Stat::default();
        for n in 0..1000 {
            stat.record(n % 4 * 1000);
        }
        assert!(size_of::<Inner>() <= 72 && stat.0.live.get().is_none());
        stat.record(7);
        assert!(stat.0.live.get().is_some());
        assert!(size_of::<Live>() + size_of::<Branch>() + size_of::<Leaf>() <= 700);
        stat.roll();
        let summary = stat.summary().unwrap();
        assert_eq!((summary.count, summary.sum, summary.min), (1001, 1_500_007, 0));
    }

    #[test]
    fn intervals_without_values_take_no_room() {
        let stat = Stat::default();
        stat.record(5);
        stat.roll();
        stat.roll();
        assert!(Arc::ptr_eq(&stat.summary().unwrap(), &NOTHING));
    }

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let stat = Stat::default();
        for value in 1..=100 {
            stat.record(value);
        }
        stat.roll();
        let summary = stat.summary().unwrap();
        assert_eq!(
            *summary,
            Summary { count: 100, sum: 5050, min: 1, max: 100, quantiles: [50, 90, 95, 99, 100, 100] }
        );
        assert_eq!(summary.avg(), 50.5);
    }

    #[test]
    fn a_value_past_the_range_counts_as_the_largest() {
        let stat = Stat::default();
        stat.record(u64::MAX);
        stat.roll();
        let summary = stat.summary().unwrap();
        assert_eq!(summary.count, 1);
        assert!(summary.max <= MAX && summary.max > MAX / 100 * 99, "{summary:?}");
    }

    #[test]
    fn recording_beside_rolling_loses_nothing() {
        const EACH: u64 = 20_000;
        let stat = Stat::default();
        let (mut count, mut sum) = (0, 0);
        let mut add = |stat: &Stat| {
            stat.roll();
            let summary = stat.summary().unwrap();
            count += summary.count;
            sum += summary.sum;
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| (0..EACH).for_each(|n| stat.record(n)))).collect();
            while threads.iter().any(|thread| !thread.is_finished()) {
                add(&stat);
            }
        });
        // A value whose count was read before its sum was told has it with those that come next, on its side of the two.
        for _ in 0..2 {
            stat.record(0);
            add(&stat);
        }
        assert_eq!(count, 3 * EACH + 2);
        assert_eq!(sum, 3 * (EACH * (EACH - 1) / 2));
    }

    proptest! {
        #[test]
        fn a_value_is_read_back_within_its_bound(value in 0..=MAX) {
            let (chunk, bucket) = place(value);
            prop_assert!(chunk < CHUNKS && bucket < CHUNK);
            let read = value_of(chunk, bucket);
            if value < 128 {
                prop_assert_eq!(read, value);
            } else {
                prop_assert!(read.abs_diff(value) as f64 <= value as f64 * 0.008, "{} as {}", value, read);
            }
        }

        #[test]
        fn buckets_are_in_the_order_of_values(a in 0..=MAX, b in 0..=MAX) {
            prop_assert_eq!(place(a).min(place(b)), place(a.min(b)));
        }
    }
}
