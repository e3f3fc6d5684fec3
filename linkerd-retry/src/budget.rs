//! How many retries there may be: a share of the requests, and a few a second on top.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// One retry, in the unit that a budget counts in: a billionth of a retry.
///
/// Fine enough that every share of up to nine decimals is exact, and `i128` sums cannot overflow.
const RETRY: i128 = 1_000_000_000;

/// Into how many slices `ttl` is cut. What happened in a slice is forgotten as one.
const SLICES: usize = 10;

/// How a [`Budget`] is filled.
///
/// # Defaults
///
/// Linkerd 1.x's, which are Finagle's but for the last: `ttl` 10 s, `min_per_sec` 10, `percent` 0.2. A service that
/// has seen no request yet may make 100 retries at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetSettings {
    /// For how long a request, and a retry, counts. From 1 s to 60 s.
    pub ttl: Duration,
    /// Retries per second that are allowed whatever the number of requests is. All that fall into one `ttl` may be
    /// made at once. 0 means that only requests earn retries.
    pub min_per_sec: u32,
    /// Retries per request, as a ratio: 0.2 is one retry for five requests, 2.0 is two for each. From 0 to 1000.
    /// 0 means that only `min_per_sec` counts; if that is 0 too, there are no retries.
    pub percent: f64,
}

/// A value of [`BudgetSettings`] that is out of range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBudget {
    /// `ttl` is not from 1 s to 60 s.
    #[error("a retry budget's ttl must be from 1s to 60s, not {0:?}")]
    Ttl(Duration),
    /// `percent` is negative, more than 1000, or not a number.
    #[error("a retry budget's percentage must be a ratio from 0 to 1000, not {0}")]
    Percent(f64),
    /// A cap on what may be ended early is not from 0 to 1.
    #[error("the share of requests that may be ended must be from 0 to 1, not {0}")]
    Share(f64),
}

/// An allowance of retries that requests earn and retries spend.
///
/// Clones share one allowance. Each request [deposits](Self::deposit) `percent` retries, each retry
/// [withdraws](Self::try_withdraw) one, and both are forgotten after `ttl`. On top of that comes a reserve of
/// `min_per_sec · ttl` retries. So whenever a retry is allowed, of what still counts at that moment, it included,
///
/// > retries ≤ `percent` · requests + `min_per_sec` · `ttl`
///
/// and what was not used in time is lost: a quiet night does not save up for a storm.
///
/// After Finagle's `RetryBudget` (Apache-2.0): tenths of `ttl` are forgotten as one, so that something counts for at
/// least nine tenths of it and at most the whole. Unlike there, the share is exact for any `percent`, where Finagle
/// rounds 1000/`percent` down to a whole number of tokens.
///
/// It reads no clock: `now` is an argument. A `now` before an earlier one counts as that earlier one. An operation
/// takes a lock for some tens of nanoseconds, and allocates nothing.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    settings: BudgetSettings,
    /// What a request earns.
    deposit: i128,
    /// What is there without any request.
    reserve: i128,
    slice: Duration,
    window: Mutex<Window>,
}

/// What a [`Budget`] saw since it was made. None of the three ever falls.
///
/// They change together with the balance, so that a reader never sees one without the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetCounts {
    /// Requests that earned something. With a `percent` of 0 none does, and none is counted.
    pub deposits: u64,
    /// Retries that were taken.
    pub withdrawals: u64,
    /// Times that somebody asked for a retry and there was none to take. A budget that is [off](Budget::is_off) is not
    /// exhausted, and counts none.
    pub exhausted: u64,
}

/// Deposits less withdrawals of the last `ttl`, by slices.
struct Window {
    slices: [i128; SLICES],
    /// The sum of `slices`.
    sum: i128,
    /// The slice that is being filled, and when it began: at the first use.
    head: usize,
    began: Option<Instant>,
    counts: BudgetCounts,
}

impl BudgetSettings {
    /// A share of the requests and nothing else: `min_per_sec` 0, `ttl` 10 s.
    #[must_use]
    pub fn share(percent: f64) -> Self {
        Self { min_per_sec: 0, percent, ..Self::default() }
    }

    /// No retries at all.
    #[must_use]
    pub fn off() -> Self {
        Self::share(0.0)
    }
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(10), min_per_sec: 10, percent: 0.2 }
    }
}

impl Budget {
    /// A budget with its whole reserve and no deposits.
    ///
    /// # Errors
    ///
    /// The first value that is out of range.
    pub fn new(settings: BudgetSettings) -> Result<Self, InvalidBudget> {
        if !(Duration::from_secs(1)..=Duration::from_mins(1)).contains(&settings.ttl) {
            return Err(InvalidBudget::Ttl(settings.ttl));
        }
        // NaN is in no range.
        if !(0.0..=1000.0).contains(&settings.percent) {
            return Err(InvalidBudget::Percent(settings.percent));
        }
        Ok(Self::valid(settings))
    }

    /// Another budget with the same settings, as it was at first.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self::valid(self.0.settings)
    }

    /// A budget that never allows a retry.
    #[must_use]
    pub fn off() -> Self {
        Self::valid(BudgetSettings::off())
    }

    /// Notes that a request was made, which earns `percent` retries.
    pub fn deposit(&self, now: Instant) {
        let Shared { deposit, .. } = *self.0;
        if deposit > 0 {
            self.with(now, |window| {
                window.add(deposit);
                window.counts.deposits += 1;
            });
        }
    }

    /// Takes one retry, or says that there is none to take.
    ///
    /// Call it when the retry is *scheduled*: retries that wait in a backoff must already be paid for, or a thousand
    /// failures at once all get away. A retry that is not made after all is not given back.
    #[must_use = "a retry may be made only if this is true"]
    pub fn try_withdraw(&self, now: Instant) -> bool {
        if self.is_off() {
            return false;
        }
        let reserve = self.0.reserve;
        self.with(now, |window| {
            let enough = window.sum + reserve >= RETRY;
            if enough {
                window.add(-RETRY);
                window.counts.withdrawals += 1;
            } else {
                window.counts.exhausted += 1;
            }
            enough
        })
    }

    /// How many retries could be taken now.
    pub fn balance(&self, now: Instant) -> u64 {
        if self.is_off() {
            return 0;
        }
        let left = self.with(now, |window| window.sum) + self.0.reserve;
        // Below zero when the deposits that paid for a retry are forgotten before it is.
        u64::try_from(left.max(0) / RETRY).unwrap_or(u64::MAX)
    }

    /// The most that one request should take: a fifth of the [balance](Self::balance), rounded up.
    ///
    /// Finagle's limit for requeues. A request that keeps failing then leaves something to the others.
    pub fn share_for_one(&self, now: Instant) -> u64 {
        self.balance(now).div_ceil(5)
    }

    /// Whether there can never be a retry, so that nobody need keep a copy of a request.
    pub fn is_off(&self) -> bool {
        self.0.deposit == 0 && self.0.reserve == 0
    }

    /// Whether another one in its place, [fresh](Self::fresh), would allow no retry that this one does not, now or later.
    /// It is so once what was taken has been forgotten or was earned since.
    pub fn is_at_rest(&self, now: Instant) -> bool {
        self.with(now, |window| window.latest().all(|sum| sum >= 0))
    }

    /// What it saw so far, clones included.
    pub fn counts(&self) -> BudgetCounts {
        self.lock().counts
    }

    /// What it was made with.
    pub fn settings(&self) -> BudgetSettings {
        self.0.settings
    }

    fn valid(settings: BudgetSettings) -> Self {
        Self(Arc::new(Shared {
            settings,
            deposit: (settings.percent * RETRY as f64).round() as i128,
            // Retries a second times nanoseconds: billionths of a retry.
            reserve: i128::from(settings.min_per_sec) * settings.ttl.as_nanos().cast_signed(),
            slice: settings.ttl / SLICES as u32,
            window: Mutex::new(Window {
                slices: [0; SLICES],
                sum: 0,
                head: 0,
                began: None,
                counts: BudgetCounts::default(),
            }),
        }))
    }

    fn with<T>(&self, now: Instant, f: impl FnOnce(&mut Window) -> T) -> T {
        let mut window = self.lock();
        window.forget(now, self.0.slice);
        f(&mut window)
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        // Nothing done under it can leave the window half changed, so a poisoned one is as good as any.
        self.0.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Budget {
    /// A budget with the default [`BudgetSettings`].
    fn default() -> Self {
        Self::valid(BudgetSettings::default())
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Budget").field(&self.0.settings).finish()
    }
}

impl Window {
    fn add(&mut self, amount: i128) {
        self.slices[self.head] += amount;
        self.sum += amount;
    }

    /// What there is beside the reserve once all but the latest slice, the two latest, and so on is forgotten.
    fn latest(&self) -> impl Iterator<Item = i128> {
        let newest_first = (0..SLICES).map(|age| self.slices[(self.head + SLICES - age) % SLICES]);
        newest_first.scan(0, |sum, slice| {
            *sum += slice;
            Some(*sum)
        })
    }

    fn forget(&mut self, now: Instant, slice: Duration) {
        let began = *self.began.get_or_insert(now);
        let since = now.saturating_duration_since(began);
        // Nearly always; and a division of 128 bits is what costs most in here.
        if since < slice {
            return;
        }
        let steps = since.as_nanos() / slice.as_nanos();
        let Some(short) = usize::try_from(steps).ok().filter(|&steps| steps < SLICES) else {
            *self = Self { slices: [0; SLICES], sum: 0, head: 0, began: Some(now), counts: self.counts };
            return;
        };
        for _ in 0..short {
            self.head = (self.head + 1) % SLICES;
            self.sum -= std::mem::take(&mut self.slices[self.head]);
        }
        self.began = Some(began + slice * short as u32);
    }
}

#[cfg(test)]
mod tests;
