//! Waiting for a permit.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use pin_project::{pin_project, pinned_drop};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    ConcurrencyLimit, Criticality, Permit, Reason, Rejected, WhenFull,
    concurrency::BLOCK_CAPACITY,
    queue::{Entry, Place, Settled},
};
use crate::Deadline;

/// Future of [`ConcurrencyLimit::acquire`].
#[pin_project(PinnedDrop)]
#[must_use = "futures do nothing unless polled"]
pub struct Acquire {
    limit: ConcurrencyLimit,
    class: Criticality,
    deadline: Option<Deadline>,
    /// Where it waits, or was told to stop waiting but has not looked yet.
    place: Option<Place>,
    // Armed when a wait begins: where a permit is free, no timer is touched.
    #[pin]
    sleep: Option<Sleep>,
}

impl Acquire {
    pub(super) const fn new(limit: ConcurrencyLimit, class: Criticality) -> Self {
        Self { limit, class, deadline: None, place: None, sleep: None }
    }

    /// Waits no longer than until `deadline`, and takes no permit that comes later. One that is free at once is taken.
    pub fn until(mut self, deadline: impl Into<Option<Deadline>>) -> Self {
        self.deadline = deadline.into();
        self
    }
}

impl Acquire {
    /// Why what it waited for must not begin any more, though there is a permit for it: its deadline has passed since.
    pub(super) fn too_late(&self) -> Option<Rejected> {
        let is_late = self.deadline.is_some_and(|deadline| deadline.has_passed(Instant::now().into_std()));
        is_late.then(|| self.limit.rejected(self.class, Reason::Late))
    }
}

impl Future for Acquire {
    type Output = Result<Permit, Rejected>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (limit, class, deadline) = (&*this.limit, *this.class, *this.deadline);
        let is_late = || deadline.is_some_and(|deadline| deadline.has_passed(Instant::now().into_std()));
        let (capacity, wait) = match limit.when_full() {
            WhenFull::Reject => (0, None),
            WhenFull::Queue { capacity, wait } => (capacity, Some(wait)),
            WhenFull::Block => (BLOCK_CAPACITY, None),
        };
        if this.place.is_none() {
            if capacity == 0 {
                return Poll::Ready(limit.try_acquire(class));
            }
            match limit.with(|state| state.enter_or_queue(class, cx.waker(), capacity)) {
                Entry::Entered => return Poll::Ready(Ok(limit.permit())),
                Entry::QueueFull => return Poll::Ready(Err(limit.rejected(class, Reason::QueueFull))),
                Entry::Queued(place, displaced) => {
                    displaced.into_iter().for_each(Waker::wake);
                    *this.place = Some(place);
                    let end = wait.and_then(|wait| Deadline::after(Instant::now().into_std(), wait));
                    let end = Deadline::first(end, deadline);
                    this.sleep.set(end.map(|end| sleep_until(end.instant().into())));
                }
            }
        }
        let place = this.place.expect("queued above or before");
        let settled = if let Some(settled) = limit.with(|state| state.settle(place, cx.waker())) {
            settled
        } else {
            let Some(sleep) = this.sleep.as_pin_mut() else { return Poll::Pending };
            ready!(sleep.poll(cx));
            // One that is granted together with the timer is still taken.
            let Some(settled) = limit.with(|state| state.leave_queue(place)) else {
                *this.place = None;
                let waited = wait.filter(|_| !is_late()).map_or(Reason::Late, Reason::Waited);
                return Poll::Ready(Err(limit.rejected(class, waited)));
            };
            settled
        };
        *this.place = None;
        let reason = match settled {
            Settled::Granted => {
                let permit = limit.permit();
                if !is_late() {
                    return Poll::Ready(Ok(permit));
                }
                Reason::Late
            }
            Settled::Displaced => Reason::Displaced,
        };
        Poll::Ready(Err(limit.rejected(class, reason)))
    }
}

#[pinned_drop]
impl PinnedDrop for Acquire {
    fn drop(self: Pin<&mut Self>) {
        let Some(place) = self.place else { return };
        if self.limit.with(|state| state.leave_queue(place)) == Some(Settled::Granted) {
            // Never looked at, but counted: as a permit it is given back like any other.
            drop(self.limit.permit());
        }
    }
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("limit", &self.limit.name())
            .field("class", &self.class)
            .field("waiting", &self.place.is_some())
            .finish_non_exhaustive()
    }
}
