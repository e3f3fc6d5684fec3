//! How many in a time.

use std::{
    collections::BTreeSet,
    fmt,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Criticality, Shares};
use crate::Delivery;

/// How many requests a [`RateLimit`] lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateSettings {
    /// So many requests, over a long time, in each [`per`](Self::per).
    pub requests: NonZeroU32,
    /// From 1 ms to 1 day.
    pub per: Duration,
    /// How many may come at once after a time without any. 1 is evenly spaced.
    pub burst: NonZeroU32,
    /// For how long a request may wait for its turn, instead of being rejected. From zero, for not at all, to 5 minutes
    /// and to the time of 65,536 requests, which bounds how many can wait.
    pub max_wait: Duration,
}

/// A value of [`RateSettings`] that is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRate {
    /// `per` is not from 1 ms to 1 day.
    #[error("a rate must be per 1ms to 1 day, not per {0:?}")]
    Per(Duration),
    /// `max_wait` is longer than 5 minutes, or would let more than 65,536 requests wait.
    #[error("requests may wait 5 minutes for a rate limit, and no more than 65536 at a time, unlike {0:?}")]
    MaxWait(Duration),
}

/// A rate was used up. Nothing of the request was sent, so it may be tried elsewhere, or later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "rate limit {name} of {requests} in {per:?} is used up for class {class}, try again in {retry_after:?}; nothing of the \
     request was sent"
)]
#[non_exhaustive]
pub struct RateLimited {
    /// The limit's name.
    pub name: Arc<str>,
    /// How many it allows in `per`.
    pub requests: u32,
    /// The time that they are counted by.
    pub per: Duration,
    /// The class of the request.
    pub class: Criticality,
    /// When a request of this class would be let through if none other came before it.
    pub retry_after: Duration,
}

/// How many requests are let through in a time. Clones are the same limit.
///
/// A token bucket in the form of the generic cell rate algorithm (ITU-T I.371): all it keeps is when the bucket will be
/// full again. It is exact: over any time `t`, at most `burst + requests · t / per` are let through.
///
/// A class of requests may use its [share](Shares) of the burst and of the wait, so that there is something left for those
/// above it. It reads no clock: `now` is an argument, and one before an earlier one is harmless. An operation locks for
/// some tens of nanoseconds; only giving a turn back can allocate.
#[derive(Clone)]
pub struct RateLimit(Arc<Shared>);

struct Shared {
    name: Arc<str>,
    settings: RateSettings,
    shares: Shares,
    /// The time that one request takes from the bucket, and that the bucket holds, in ticks.
    cost: u128,
    burst: u128,
    max_wait: u128,
    bucket: Mutex<Bucket>,
}

/// Times are in ticks since `origin`. There are `requests` ticks to a nanosecond, which makes the time of one request a
/// whole number of them, whatever the rate.
#[derive(Debug, Default)]
struct Bucket {
    /// The first `now`.
    origin: Option<Instant>,
    /// When the bucket is full.
    full_at: u128,
    /// Turns that are yet to come and were given back. Those who wait behind keep theirs.
    free: BTreeSet<u128>,
}

/// When a request may go, from [`RateLimit::reserve`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the turn is taken: use it or cancel it"]
pub struct Turn {
    ticks: u128,
    at: Instant,
}

impl RateLimit {
    /// A limit with a full bucket. `name` is what its rejections call it.
    ///
    /// # Errors
    ///
    /// The first of the settings that is out of range.
    pub fn new(name: impl Into<Arc<str>>, settings: RateSettings) -> Result<Self, InvalidRate> {
        let RateSettings { requests, per, burst, max_wait } = settings;
        if !(Duration::from_millis(1)..=Duration::from_hours(24)).contains(&per) {
            return Err(InvalidRate::Per(per));
        }
        let (cost, scale) = (per.as_nanos(), u128::from(requests.get()));
        let wait = max_wait.as_nanos() * scale;
        if max_wait > Duration::from_mins(5) || wait / cost > 1 << 16 {
            return Err(InvalidRate::MaxWait(max_wait));
        }
        Ok(Self(Arc::new(Shared {
            name: name.into(),
            settings,
            shares: Shares::default(),
            cost,
            burst: cost * u128::from(burst.get()),
            max_wait: wait,
            bucket: Mutex::default(),
        })))
    }

    /// The same with other shares for the classes of requests than the default ones, and a full bucket of its own.
    #[must_use]
    pub fn with_shares(&self, shares: Shares) -> Self {
        let Shared { ref name, settings, cost, burst, max_wait, .. } = *self.0;
        let name = name.clone();
        Self(Arc::new(Shared { name, settings, shares, cost, burst, max_wait, bucket: Mutex::default() }))
    }

    /// Lets a request through now, or not.
    ///
    /// # Errors
    ///
    /// [`RateLimited`] if the rate is used up.
    pub fn try_acquire(&self, class: Criticality, now: Instant) -> Result<(), RateLimited> {
        self.take(class, 0, now).map(|_| ())
    }

    /// The turn of a request: now, or at a time that is within what it may wait.
    ///
    /// Turns are first come, first served, except that one which was given back goes to the next who asks. A turn that
    /// was taken and is not used must be [cancelled](Self::cancel), or is lost.
    ///
    /// # Errors
    ///
    /// [`RateLimited`] if the next turn for this class is later than that.
    pub fn reserve(&self, class: Criticality, now: Instant) -> Result<Turn, RateLimited> {
        self.take(class, self.0.max_wait, now)
    }

    /// Gives back a turn that is not used. One whose time has come is lost: it is too late for somebody else to use it.
    #[allow(clippy::needless_pass_by_value)] // It is used up.
    pub fn cancel(&self, turn: Turn, now: Instant) {
        let (ticks, Shared { cost, burst, .. }) = (turn.ticks, &*self.0);
        self.with(now, |bucket, now| {
            if ticks <= now {
                return;
            }
            bucket.free.insert(ticks);
            // The last turns of all are free again as if they had never been taken.
            while let Some(last) = bucket.free.last().copied().filter(|last| last + *burst == bucket.full_at) {
                bucket.free.remove(&last);
                bucket.full_at -= cost;
            }
        });
    }

    /// Whether another one in its place, with a full bucket, would let through nothing that this one does not.
    pub fn is_at_rest(&self, now: Instant) -> bool {
        self.with(now, |bucket, now| bucket.full_at <= now)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it was made with.
    pub fn settings(&self) -> RateSettings {
        self.0.settings
    }

    fn take(&self, class: Criticality, max_wait: u128, now: Instant) -> Result<Turn, RateLimited> {
        let Shared { cost, burst, shares, .. } = &*self.0;
        // At least one request's, or a class could never go at all.
        let allowed = (shares.of(*burst, class) / cost).max(1) * cost + shares.of(max_wait, class);
        let taken = self.with(now, |bucket, now| {
            let free = bucket.free.first().copied();
            if let Some(ticks) = free.filter(|ticks| ticks + burst <= now + allowed) {
                bucket.free.pop_first();
                return Ok(bucket.turn(ticks, self.scale()));
            }
            let full_at = bucket.full_at.max(now) + cost;
            if full_at > now + allowed {
                let next = free.map_or(full_at, |ticks| full_at.min(ticks + burst));
                return Err(self.duration(next - now - allowed));
            }
            bucket.full_at = full_at;
            Ok(bucket.turn(full_at.saturating_sub(*burst).max(now), self.scale()))
        });
        taken.map_err(|retry_after| self.limited(class, retry_after))
    }

    pub(super) fn limited(&self, class: Criticality, retry_after: Duration) -> RateLimited {
        let Shared { name, settings, .. } = &*self.0;
        RateLimited { name: name.clone(), requests: settings.requests.get(), per: settings.per, class, retry_after }
    }

    fn scale(&self) -> u128 {
        u128::from(self.0.settings.requests.get())
    }

    fn duration(&self, ticks: u128) -> Duration {
        nanos(ticks.div_ceil(self.scale()))
    }

    /// `now` in ticks, and the bucket without the free turns whose time has passed.
    fn with<T>(&self, now: Instant, f: impl FnOnce(&mut Bucket, u128) -> T) -> T {
        // Each operation leaves the bucket whole, so a poisoned one is as good as any.
        let mut bucket = self.0.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = *bucket.origin.get_or_insert(now);
        let now = now.saturating_duration_since(origin).as_nanos() * self.scale();
        while bucket.free.first().is_some_and(|first| *first <= now) {
            bucket.free.pop_first();
        }
        f(&mut bucket, now)
    }
}

impl Bucket {
    fn turn(&self, ticks: u128, scale: u128) -> Turn {
        let origin = self.origin.expect("set before anything is asked");
        Turn { ticks, at: origin + nanos(ticks.div_ceil(scale)) }
    }
}

impl Turn {
    /// When the request may go. Not in the future if it may go now.
    pub fn at(&self) -> Instant {
        self.at
    }
}

impl RateLimited {
    /// Whether nothing of the request was sent: always.
    #[allow(clippy::unused_self)] // Asked of an error among others that have something to look at.
    pub const fn is_unsent(&self) -> bool {
        true
    }
}

impl Delivery for RateLimited {
    /// None: it was never sent.
    fn bytes_written(&self) -> Option<u64> {
        Some(0)
    }
}

impl Default for RateSettings {
    /// A hundred a second, a burst of a hundred, no wait.
    fn default() -> Self {
        let hundred = const { NonZeroU32::new(100).unwrap() };
        Self { requests: hundred, per: Duration::from_secs(1), burst: hundred, max_wait: Duration::ZERO }
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").field("name", &self.name()).field("settings", &self.settings()).finish()
    }
}

fn nanos(nanos: u128) -> Duration {
    // Saturates after 584 years.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
