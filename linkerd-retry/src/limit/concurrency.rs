//! How many at a time.

use std::{
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use super::{
    Acquire, Criticality, Reason, Rejected, Shares,
    adaptive::{Adaptive, AdaptiveSettings, InvalidAdaptive, Outcome},
    queue::State,
};

/// How many may wait where a limit says that they [block](WhenFull::Block).
pub const BLOCK_CAPACITY: usize = 1 << 16;

/// What a [`ConcurrencyLimit`] does with a request that finds it full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is rejected at once.
    #[default]
    Reject,
    /// It waits, first come first served within its class, higher classes first.
    Queue {
        /// How many may wait. One more takes the place of the last of the lowest class, if that is below its own, and
        /// is rejected otherwise. 0 is as [`Reject`](Self::Reject).
        capacity: usize,
        /// For how long one may wait before it is rejected.
        wait: Duration,
    },
    /// It waits for as long as its caller does: put a timeout above it. When [`BLOCK_CAPACITY`] wait, it is as
    /// [`Queue`](Self::Queue).
    Block,
}

/// How many requests may be in flight at a time. Clones are the same limit.
///
/// The number is fixed, or follows what the service [can take](AdaptiveSettings). It is strict: over all clones and
/// threads, no more [permits](Permit) are out than it says. (One that adapts can come to be lower than what is out, and
/// then hands out none until that has gone down.)
///
/// A class of requests may use its [share](Shares) of it. What is said to be of no class, by using plain
/// [`LimitLayer::new`](super::LimitLayer::new), may use all.
///
/// Taking a permit and returning it locks for some tens of nanoseconds each and allocates nothing. Waiting for one does
/// allocate.
#[derive(Clone)]
pub struct ConcurrencyLimit(Arc<Shared>);

struct Shared {
    name: Arc<str>,
    when_full: WhenFull,
    adapts: bool,
    state: Mutex<State>,
}

/// One place in a [`ConcurrencyLimit`], which dropping it gives back. Nothing else does.
#[must_use = "it is given back when it is dropped"]
pub struct Permit {
    limit: ConcurrencyLimit,
    /// When it was handed out, until its outcome is reported. `None` if nobody wants to know.
    began: Option<Instant>,
}

/// What a [`ConcurrencyLimit`] is at, at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// How many it allows.
    pub limit: usize,
    /// How many permits are out, those for which a waiter has yet to be woken included.
    pub in_flight: usize,
    /// How many wait.
    pub queued: usize,
}

impl ConcurrencyLimit {
    /// At most `limit` at a time. `name` is what its rejections call it.
    #[must_use]
    pub fn fixed(name: impl Into<Arc<str>>, limit: NonZeroUsize, when_full: WhenFull) -> Self {
        Self::shared(name.into(), when_full, limit.get(), None)
    }

    /// As many at a time as the service can take, by what [`Permit::report`] tells of it.
    ///
    /// # Errors
    ///
    /// The first of the settings that is out of range.
    pub fn adaptive(
        name: impl Into<Arc<str>>,
        settings: AdaptiveSettings,
        when_full: WhenFull,
    ) -> Result<Self, InvalidAdaptive> {
        let adaptive = Adaptive::new(settings)?;
        Ok(Self::shared(name.into(), when_full, adaptive.limit(), Some(adaptive)))
    }

    /// The same, with other shares for the classes of requests than the default ones.
    ///
    /// It is another limit than the one it is made of: nothing is in flight in it.
    #[must_use]
    pub fn with_shares(&self, shares: Shares) -> Self {
        let Shared { name, when_full, adapts, .. } = &*self.0;
        let state = self.with(|state| state.fresh(shares));
        Self(Arc::new(Shared { name: name.clone(), when_full: *when_full, adapts: *adapts, state: Mutex::new(state) }))
    }

    /// A permit, if one is free for this class and nobody waits for it.
    ///
    /// # Errors
    ///
    /// [`Rejected`] as [full](Reason::Full) otherwise, whatever the limit does when it is full.
    pub fn try_acquire(&self, class: Criticality) -> Result<Permit, Rejected> {
        self.enter(class).ok_or_else(|| self.rejected(class, Reason::Full))
    }

    /// The same for who [waits](Self::acquire) otherwise. That there was none to be had is counted when the wait begins, by
    /// a limit that adapts, and not here.
    pub fn acquire_free(&self, class: Criticality) -> Option<Permit> {
        self.with(|state| state.enter_if_free(class)).then(|| self.permit())
    }

    /// A permit, at once or after a wait in the queue, which begins when the future is first polled.
    ///
    /// # Errors
    ///
    /// [`Rejected`] if it is full and requests do not wait, the queue is full too, the wait was too long, or its place
    /// in the queue went to a higher class. A permit that comes with the end of the wait is still taken.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives its place in the queue back, or the permit if it has just been granted one.
    pub fn acquire(&self, class: Criticality) -> Acquire {
        Acquire::new(self.clone(), class)
    }

    /// What it is at.
    pub fn usage(&self) -> Usage {
        self.with(|state| Usage { limit: state.limit, in_flight: state.in_flight, queued: state.queued() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it does when it is full.
    pub fn when_full(&self) -> WhenFull {
        self.0.when_full
    }

    fn shared(name: Arc<str>, when_full: WhenFull, limit: usize, adaptive: Option<Adaptive>) -> Self {
        let adapts = adaptive.is_some();
        let state = Mutex::new(State::new(limit, Shares::default(), adaptive));
        Self(Arc::new(Shared { name, when_full, adapts, state }))
    }

    pub(super) fn enter(&self, class: Criticality) -> Option<Permit> {
        self.with(|state| state.try_enter(class)).then(|| self.permit())
    }

    /// The permit for somebody that `State` counts already.
    pub(super) fn permit(&self) -> Permit {
        Permit { limit: self.clone(), began: self.0.adapts.then(|| tokio::time::Instant::now().into_std()) }
    }

    pub(super) fn rejected(&self, class: Criticality, reason: Reason) -> Rejected {
        let Usage { limit, in_flight, queued } = self.usage();
        Rejected { name: self.0.name.clone(), limit, in_flight, queued, class, reason }
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        // Each operation leaves the state whole, so a poisoned one is as good as any.
        f(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives out what became free, and wakes without the lock.
    fn wake(&self, mut next: Option<Waker>) {
        while let Some(waker) = next {
            waker.wake();
            next = self.with(State::grant);
        }
    }
}

impl Permit {
    /// Tells a limit that adapts how its request ended; one that is fixed ignores it, as any limit does the second time.
    ///
    /// The latency is the time since the permit was granted. Call it when the response is there, though the permit may be
    /// kept until the end of its body: how fast a client reads says nothing about the service. A permit that is dropped
    /// without a report, as when its request is cancelled, tells nothing.
    pub fn report(&mut self, outcome: Outcome) {
        let Some(began) = self.began.take() else { return };
        let now = tokio::time::Instant::now().into_std();
        let next = self.limit.with(|state| {
            state.observe(outcome, began, now);
            state.grant()
        });
        self.limit.wake(next);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = self.limit.with(|state| {
            state.exit();
            state.grant()
        });
        self.limit.wake(next);
    }
}

impl fmt::Debug for ConcurrencyLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { name, when_full, .. } = &*self.0;
        let Usage { limit, in_flight, queued } = self.usage();
        f.debug_struct("ConcurrencyLimit")
            .field("name", name)
            .field("when_full", when_full)
            .field("limit", &limit)
            .field("in_flight", &in_flight)
            .field("queued", &queued)
            .finish()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("limit", &self.limit.name()).finish_non_exhaustive()
    }
}
