//! Taking a change back by itself, when what it moved fails.

use std::{collections::VecDeque, future::Future, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Session, WriteError, Written};
use crate::{
    Failure,
    store::{Expect, Namespace},
};

/// When a change is taken back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoRevert {
    /// For how long a change is watched. Five minutes by default; what holds until then is kept.
    pub watch_for: Duration,
    /// Over how long the success rate is taken. 30 seconds by default, no longer than it is watched.
    pub window: Duration,
    /// The lowest success rate that is kept, from 0 to 1. 0.95 by default.
    pub min_success: f64,
    /// With fewer requests in the window nothing is decided. 20 by default.
    pub min_requests: u64,
    /// How often is looked. A second by default.
    pub every: Duration,
}

impl Default for AutoRevert {
    fn default() -> Self {
        Self {
            watch_for: Duration::from_mins(5),
            window: Duration::from_secs(30),
            min_success: 0.95,
            min_requests: 20,
            every: Duration::from_secs(1),
        }
    }
}

/// What came of the requests that a change moved, since they were counted last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// How many there were.
    pub requests: u64,
    /// How many of them failed.
    pub failures: u64,
}

/// What a [`Watchdog`] says.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing is decided yet.
    Watching,
    /// The time is over, and all was well.
    Keep,
    /// Too many requests failed: this is their success rate.
    Revert(f64),
}

/// Decides whether a change is taken back. Knows no clock: who asks says what time it is.
#[derive(Clone, Debug)]
pub struct Watchdog {
    settings: AutoRevert,
    ends: Instant,
    samples: VecDeque<(Instant, Sample)>,
    requests: u64,
    failures: u64,
}

impl Watchdog {
    /// Watches a change that was made at `now`.
    #[must_use]
    pub fn new(settings: AutoRevert, now: Instant) -> Self {
        Self { settings, ends: now + settings.watch_for, samples: VecDeque::new(), requests: 0, failures: 0 }
    }

    /// Takes a sample, and decides. Samples are kept for as long as the window is, so as many as are taken in it.
    pub fn observe(&mut self, now: Instant, sample: Sample) -> Verdict {
        self.samples.push_back((now, sample));
        self.requests = self.requests.saturating_add(sample.requests);
        self.failures = self.failures.saturating_add(sample.failures);
        while let Some((at, old)) = self.samples.front().copied()
            && now.duration_since(at) >= self.settings.window
        {
            self.samples.pop_front();
            self.requests = self.requests.saturating_sub(old.requests);
            self.failures = self.failures.saturating_sub(old.failures);
        }
        let rate = 1.0 - self.failures.min(self.requests) as f64 / self.requests.max(1) as f64;
        if self.requests > 0 && self.requests >= self.settings.min_requests && rate < self.settings.min_success {
            return Verdict::Revert(rate);
        }
        if now >= self.ends { Verdict::Keep } else { Verdict::Watching }
    }
}

/// What became of a change that was watched.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Watched {
    /// It stayed.
    Kept,
    /// It was taken back.
    Reverted(Written),
    /// It should have been taken back, at this success rate, and could not be: somebody has changed the namespace since,
    /// or the store is away.
    Failed(f64, WriteError),
}

impl Session {
    /// Watches a change that was `written` to a namespace, and takes it back if too many of the requests that it moved fail.
    ///
    /// It goes back to the record before the change, and only if the namespace has not been changed since. `rates` is asked
    /// for what came of the requests since it was asked last; when it fails, or takes longer than the interval, nothing is
    /// known of that time and nothing is decided by it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is watched once the future is dropped; a change is taken back whole or not at all.
    pub async fn watch_change<F>(
        &self,
        namespace: &Namespace,
        written: &Written,
        settings: AutoRevert,
        mut rates: impl FnMut() -> F,
    ) -> Watched
    where
        F: Future<Output = Result<Sample, Failure>>,
    {
        let mut watchdog = Watchdog::new(settings, Instant::now());
        let every = settings.every.max(Duration::from_millis(1));
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let sample = match tokio::time::timeout(every, rates()).await {
                Ok(Ok(sample)) => sample,
                Ok(Err(error)) => {
                    tracing::warn!(%namespace, "the success rate is not known: {error}");
                    Sample::default()
                }
                Err(_) => Sample::default(),
            };
            match watchdog.observe(Instant::now(), sample) {
                Verdict::Watching => {}
                Verdict::Keep => return Watched::Kept,
                Verdict::Revert(rate) => return self.take_back(namespace, written, rate).await,
            }
        }
    }

    async fn take_back(&self, namespace: &Namespace, written: &Written, rate: f64) -> Watched {
        let why = format!("taken back by itself: {:.1} % of the requests succeeded", rate * 100.0);
        tracing::warn!(%namespace, seq = written.seq, "{why}");
        let expect = Expect::Version(written.version.clone());
        match self.automatic().because(&why).rollback(namespace, written.seq.saturating_sub(1), &expect).await {
            Ok(reverted) => Watched::Reverted(reverted),
            Err(error) => Watched::Failed(rate, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sample(requests: u64, failures: u64) -> Sample {
        Sample { requests, failures }
    }

    #[test]
    fn a_change_is_taken_back_when_the_rate_falls_under_the_limit_and_not_at_it() {
        let start = Instant::now();
        let settings = AutoRevert { min_success: 0.9, min_requests: 10, ..AutoRevert::default() };
        let mut watchdog = Watchdog::new(settings, start);
        assert_eq!(watchdog.observe(start, sample(9, 9)), Verdict::Watching, "too few");
        let mut watchdog = Watchdog::new(settings, start);
        assert_eq!(watchdog.observe(start, sample(100, 10)), Verdict::Watching, "at the limit");
        assert_eq!(watchdog.observe(start + SECOND, sample(0, 0)), Verdict::Watching);
        assert_eq!(watchdog.observe(start + SECOND, sample(100, 30)), Verdict::Revert(0.8));
    }

    #[test]
    fn only_the_window_counts_and_what_holds_is_kept() {
        let start = Instant::now();
        let settings = AutoRevert { min_success: 0.5, window: 10 * SECOND, ..AutoRevert::default() };
        let mut watchdog = Watchdog::new(settings, start);
        assert_eq!(watchdog.observe(start, sample(1000, 0)), Verdict::Watching);
        assert_eq!(watchdog.observe(start + 9 * SECOND, sample(100, 100)), Verdict::Watching);
        assert_eq!(watchdog.observe(start + 10 * SECOND, sample(0, 0)), Verdict::Revert(0.0), "the good ones are past");
        let mut watchdog = Watchdog::new(settings, start);
        assert_eq!(watchdog.observe(start + settings.watch_for - SECOND, sample(100, 0)), Verdict::Watching);
        assert_eq!(watchdog.observe(start + settings.watch_for, sample(100, 0)), Verdict::Keep);
        assert_eq!(Watchdog::new(settings, start).observe(start + settings.watch_for, sample(0, 0)), Verdict::Keep);
    }
}
