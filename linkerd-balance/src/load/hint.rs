//! What an endpoint says of its own load.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    decaying::{Decaying, Sampled},
    time::Decay,
};
use crate::stamp::{stamp, whole_nanos};

/// What an endpoint says of its own load, in its answers.
///
/// A hint makes an endpoint less attractive, never unusable: where all gave the same hint, it changes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Hint {
    /// The endpoint asks to be left alone for so long: `Retry-After`, `grpc-retry-pushback-ms`.
    ///
    /// Until then it is as good as any only among others that asked for the same. Counts for at most
    /// [`MAX_BACKOFF`](Self::MAX_BACKOFF), so that a wrong clock or unit cannot keep an endpoint out for a day. Of
    /// several the one that ends last counts; zero says nothing.
    Backoff(Duration),
    /// How much of itself the endpoint uses: 0 is idle, 1 is all; more is possible, for example of one's fair share of a
    /// processor. As ORCA (Open Request Cost Aggregation) reports name it: `cpu_utilization`, `application_utilization`.
    ///
    /// Multiplies the score by 1 / (1 − utilization), by which the queue of a server with random arrivals grows; by
    /// twenty times as much as above 0.95 it is ever more. What it adds fades by a factor of e every
    /// [`UTILIZATION_DECAY`](Self::UTILIZATION_DECAY), until the next report replaces it. Without a report an endpoint
    /// counts as idle: in a set either all or none should report.
    ///
    /// Ignored unless a finite number, zero or above. Above 100 it counts as 100.
    Utilization(f64),
}

impl Hint {
    /// The longest backoff that is heeded: five minutes.
    pub const MAX_BACKOFF: Duration = Duration::from_mins(5);

    /// How fast a utilization fades that is not reported again: by a factor of e every 10 s, as latency does by default.
    pub const UTILIZATION_DECAY: Duration = Duration::from_secs(10);
}

/// The hints that one endpoint gave. Most give none: they take room from the first one on.
#[derive(Debug)]
pub(crate) struct Hints(OnceLock<Box<Given>>);

#[derive(Debug)]
struct Given {
    // A stamp. `i64::MIN`: never.
    backoff_until: AtomicI64,
    // By how much more than one the score is multiplied.
    utilization: Decaying,
}

impl Hints {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    pub(crate) fn take(&self, hint: Hint, now: Instant) {
        let now = stamp(now);
        match hint {
            Hint::Backoff(Duration::ZERO) => {}
            Hint::Backoff(pause) => {
                let until = now.saturating_add(whole_nanos(pause.min(Hint::MAX_BACKOFF)));
                // Relaxed here and below: one word, which orders nothing else.
                self.given().backoff_until.fetch_max(until, Ordering::Relaxed);
            }
            Hint::Utilization(used) if used.is_finite() && used >= 0.0 => {
                let value = factor(used) - 1.0;
                // The younger report stands, whichever arrives first.
                self.given()
                    .utilization
                    .update(|old| if now < old.at && old.value != 0.0 { old } else { Sampled { value, at: now } });
            }
            Hint::Utilization(_) => {}
        }
    }

    fn given(&self) -> &Given {
        self.0.get_or_init(|| {
            Box::new(Given { backoff_until: AtomicI64::new(i64::MIN), utilization: Decaying::new(0.0, 0) })
        })
    }

    /// Whether there was none yet.
    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        self.0.get().is_none()
    }

    /// `score` with what the hints make of it at `now`; a backoff costs `backoff`.
    #[inline]
    pub(crate) fn apply(&self, score: f64, now: i64, backoff: f64) -> f64 {
        match self.0.get() {
            None => score,
            Some(given) => given.apply(score, now, backoff),
        }
    }

    pub(crate) fn reset(&self) {
        if let Some(given) = self.0.get() {
            given.backoff_until.store(i64::MIN, Ordering::Relaxed);
            given.utilization.update(|old| Sampled { value: 0.0, ..old });
        }
    }
}

impl Given {
    #[cold]
    #[inline(never)]
    fn apply(&self, score: f64, now: i64, backoff: f64) -> f64 {
        let score = if self.utilization.is_zero() { score } else { score * self.factor(now) };
        if now < self.backoff_until.load(Ordering::Relaxed) { score + backoff } else { score }
    }

    fn factor(&self, now: i64) -> f64 {
        let Sampled { value, at } = self.utilization.get();
        1.0 + value * Decay::new(Hint::UTILIZATION_DECAY).left(at, now)
    }
}

/// By what a score is multiplied at this utilization: 1 / (1 − used), and from where that gets too steep, in proportion.
fn factor(used: f64) -> f64 {
    const STEEP: f64 = 0.95;
    const MAX: f64 = 100.0;
    let used = used.min(MAX);
    1.0 / (1.0 - used.min(STEEP)) * (used / STEEP).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);
    const BACKOFF: f64 = 1e6;

    struct Fixture {
        hints: Hints,
        now: Instant,
    }

    fn fixture() -> Fixture {
        Fixture { hints: Hints::new(), now: tokio::time::Instant::now().into_std() }
    }

    impl Fixture {
        fn take(&self, hint: Hint, after: Duration) {
            self.hints.take(hint, self.now + after);
        }

        /// What becomes of a score of two.
        fn score(&self, after: Duration) -> f64 {
            self.hints.apply(2.0, stamp(self.now + after), BACKOFF)
        }
    }

    #[test]
    fn a_backoff_lasts_until_its_end_and_not_longer() {
        let f = fixture();
        assert_eq!(f.score(Duration::ZERO), 2.0);
        f.take(Hint::Backoff(Duration::ZERO), Duration::ZERO);
        assert_eq!(f.score(Duration::ZERO), 2.0);
        f.take(Hint::Backoff(3 * SEC), Duration::ZERO);
        assert_eq!(f.score(Duration::ZERO), BACKOFF + 2.0);
        // A shorter one does not end it.
        f.take(Hint::Backoff(SEC), SEC);
        assert_eq!(f.score((3 * SEC).saturating_sub(Duration::from_nanos(1))), BACKOFF + 2.0);
        assert_eq!(f.score(3 * SEC), 2.0);
    }

    #[test]
    fn a_backoff_of_days_is_one_of_minutes() {
        for long in [301 * SEC, Duration::MAX] {
            let f = fixture();
            f.take(Hint::Backoff(long), Duration::ZERO);
            assert_eq!(f.score(299 * SEC), BACKOFF + 2.0);
            assert_eq!(f.score(300 * SEC), 2.0);
        }
    }

    #[test]
    fn the_more_is_used_the_higher_the_score() {
        let score = |used| {
            let f = fixture();
            f.take(Hint::Utilization(used), Duration::ZERO);
            f.score(Duration::ZERO)
        };
        for (used, expected) in [(0.0, 2.0), (0.5, 4.0), (0.75, 8.0), (0.95, 40.0), (1.9, 80.0)] {
            assert!((score(used) - expected).abs() < 1e-9, "{used}: {}", score(used));
        }
        assert_eq!(score(100.0), score(1e300));
        let mut last = 0.0;
        for percent in 0..300 {
            let score = score(f64::from(percent) / 100.0);
            assert!(score > last, "{percent} %");
            last = score;
        }
        for absurd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1] {
            assert_eq!(score(absurd), 2.0, "{absurd}");
        }
    }

    #[test]
    fn a_report_fades_and_the_next_replaces_it() {
        let f = fixture();
        f.take(Hint::Utilization(0.5), Duration::ZERO);
        let faded = f.score(Hint::UTILIZATION_DECAY);
        assert!((faded - 2.0 * (1.0 + (-1.0_f64).exp())).abs() < 1e-9, "{faded}");
        assert!(f.score(200 * SEC) - 2.0 < 1e-6);
        f.take(Hint::Utilization(0.75), SEC);
        assert!((f.score(SEC) - 8.0).abs() < 1e-9);
        f.take(Hint::Utilization(0.5), Duration::ZERO);
        assert!((f.score(SEC) - 8.0).abs() < 1e-9, "an older one that came later");
        f.take(Hint::Utilization(f64::NAN), 2 * SEC);
        f.take(Hint::Utilization(0.0), 2 * SEC);
        assert_eq!(f.score(2 * SEC), 2.0);
    }
}
