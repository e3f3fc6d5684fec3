//! How long requests take: a percentile of the last minute, in bounded memory.

use std::time::{Duration, Instant};

use super::InvalidHedge;

/// Buckets for each doubling: an estimate is at most a sixteenth too high.
const STEPS: usize = 16;
/// From a microsecond to 2^32 of them, which is more than an hour.
const BUCKETS: usize = 32 * STEPS;
/// What is older than two of them is forgotten, one at a time.
const HALF: Duration = Duration::from_secs(30);
/// After how many more durations a percentile is computed anew.
const STALE: u32 = 32;

/// A percentile of the durations of the last 30 to 60 seconds.
///
/// Logarithmic buckets with sixteen steps to a doubling, as in `HdrHistogram`, once for this half minute and once for the
/// one before: 4 KiB whatever comes. It reads no clock: `now` is an argument.
#[derive(Clone, Debug)]
pub struct Percentile {
    percent: f64,
    /// How many durations are needed before there is an estimate.
    min_count: u32,
    halves: [Box<[u32; BUCKETS]>; 2],
    counts: [u32; 2],
    /// When the present half began: at the first duration.
    began: Option<Instant>,
    estimate: Option<Duration>,
    /// How many durations the estimate does not know of yet.
    stale: u32,
}

impl Percentile {
    /// This percentile, above 0 and up to 100, as soon as there are `min_count` durations. 0 of them are as 1.
    ///
    /// # Errors
    ///
    /// If the percentile is out of range.
    pub fn new(percentile: f64, min_count: u32) -> Result<Self, InvalidHedge> {
        // NaN is in no range.
        if !(percentile > 0.0 && percentile <= 100.0) {
            return Err(InvalidHedge::Percentile(percentile));
        }
        Ok(Self {
            percent: percentile,
            min_count: min_count.max(1),
            halves: [Box::new([0; BUCKETS]), Box::new([0; BUCKETS])],
            counts: [0; 2],
            began: None,
            estimate: None,
            stale: 0,
        })
    }

    /// Notes a duration.
    pub fn record(&mut self, duration: Duration, now: Instant) {
        self.forget(now);
        let bucket = &mut self.halves[0][bucket(duration)];
        *bucket = bucket.saturating_add(1);
        self.counts[0] = self.counts[0].saturating_add(1);
        self.stale += 1;
        if self.stale >= STALE || self.estimate.is_none() {
            self.compute();
        }
    }

    /// The percentile, rounded up by at most a sixteenth, of what is not forgotten. `None` if that is too little.
    ///
    /// It may be 31 durations old.
    pub fn get(&mut self, now: Instant) -> Option<Duration> {
        self.forget(now);
        self.estimate
    }

    fn forget(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let halves = now.saturating_duration_since(began).as_nanos() / HALF.as_nanos();
        if halves == 0 {
            return;
        }
        for _ in 0..halves.min(2) {
            self.halves.swap(0, 1);
            self.counts.swap(0, 1);
            self.halves[0].fill(0);
            self.counts[0] = 0;
        }
        // After a long time without any, the present half begins now.
        self.began = Some(if halves == 1 { began + HALF } else { now });
        self.compute();
    }

    fn compute(&mut self) {
        self.stale = 0;
        let count = u64::from(self.counts[0]) + u64::from(self.counts[1]);
        if count < u64::from(self.min_count) {
            self.estimate = None;
            return;
        }
        let rank = ((count as f64 * self.percent / 100.0).ceil() as u64).clamp(1, count);
        let [new, old] = &self.halves;
        let mut seen = 0;
        let at = new.iter().zip(old.iter()).position(|(new, old)| {
            seen += u64::from(*new) + u64::from(*old);
            seen >= rank
        });
        self.estimate = at.map(upper_end);
    }
}

fn bucket(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1);
    let doublings = micros.ilog2() as usize;
    // What is above the leading bit, in sixteenths of it.
    let step = ((u128::from(micros) << 4 >> doublings) as usize) % STEPS;
    (doublings * STEPS + step).min(BUCKETS - 1)
}

/// The least duration that is longer than all in this bucket.
fn upper_end(bucket: usize) -> Duration {
    let (doublings, step) = (bucket / STEPS, bucket % STEPS);
    Duration::from_micros(((STEPS + step + 1) as u64 * (1 << doublings)).div_ceil(STEPS as u64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn a_percentile_is_at_most_a_sixteenth_too_high() {
        for (percentile, exact) in [(50.0, 500), (95.0, 950), (99.0, 990), (100.0, 1000)] {
            let (mut latency, now) = (Percentile::new(percentile, 1).unwrap(), now());
            for i in 0..1000 {
                // In an order that is not theirs.
                latency.record(MS * (i * 7 % 1000 + 1), now);
            }
            let estimate = latency.get(now).unwrap();
            // Up to 31 of them are not in it yet.
            assert!(
                estimate > MS * (exact - 31) && estimate <= MS * exact * 17 / 16 + MS,
                "{percentile}: {estimate:?}"
            );
        }
    }

    #[test]
    fn too_few_say_nothing_and_what_is_old_is_forgotten() {
        let (mut latency, start) = (Percentile::new(50.0, 10).unwrap(), now());
        assert_eq!(latency.get(start), None);
        for _ in 0..9 {
            latency.record(MS, start);
        }
        assert_eq!(latency.get(start), None);
        latency.record(MS, start);
        assert!(latency.get(start).is_some());
        assert!(latency.get(start + HALF + HALF.saturating_sub(MS)).is_some());
        assert_eq!(latency.get(start + HALF * 2), None);
    }

    #[test]
    fn a_change_is_seen_after_a_minute_at_the_latest() {
        let (mut latency, start) = (Percentile::new(50.0, 10).unwrap(), now());
        for i in 0..60_000 {
            latency.record(MS, start + MS * i);
        }
        for i in 60_000..120_000 {
            latency.record(100 * MS, start + MS * i);
        }
        assert!(latency.get(start + MS * 120_000).unwrap() >= 100 * MS);
    }

    proptest! {
        #[test]
        fn whatever_the_duration_its_bucket_holds_it(micros in 1..1_u64 << 32) {
            let duration = Duration::from_micros(micros);
            let end = upper_end(bucket(duration));
            prop_assert!(end >= duration, "{end:?}");
            prop_assert!(end <= duration + duration / 16 + Duration::from_micros(1), "{end:?}");
        }
    }

    #[test]
    fn the_ends_of_the_range_are_buckets_too() {
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        assert!(upper_end(BUCKETS - 1) > Duration::from_hours(1));
    }
}
