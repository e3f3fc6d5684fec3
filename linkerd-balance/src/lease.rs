//! One use of an endpoint.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Instant,
};

use crate::load::Load;

/// One use of an endpoint: its service, and the duty to say how it went.
///
/// The endpoint counts as loaded until the lease [ends](Self::end) or is dropped. It stays usable if the endpoint
/// leaves the set in the meantime.
#[must_use = "dropping a lease ends it"]
pub struct Lease<K, S> {
    svc: S,
    guard: Guard<Tracked<K>>,
}

/// The end of a [`Lease`], apart from its service: rides on a response body until that ends.
///
/// Dropped without a verdict, the request counts as cancelled: no longer in flight, no latency learned.
#[must_use = "dropping a lease's end counts the request as cancelled"]
pub struct LeaseEnd(Guard<dyn Tracks + Send + Sync>);

/// What outlives an endpoint's stack for as long as a lease of it does.
pub(crate) struct Tracked<K> {
    pub(crate) key: K,
    pub(crate) load: Arc<dyn Load>,
}

trait Tracks {
    fn load(&self) -> &dyn Load;
}

struct Guard<T: Tracks + ?Sized> {
    // None once ended.
    tracked: Option<Arc<T>>,
    begun: Instant,
}

impl<K: Send + Sync + 'static, S> Lease<K, S> {
    pub(crate) fn new(svc: S, tracked: Arc<Tracked<K>>, now: Instant) -> Self {
        tracked.load.begin(now);
        Self { svc, guard: Guard { tracked: Some(tracked), begun: now } }
    }

    /// The endpoint's key.
    #[expect(clippy::missing_panics_doc, reason = "what ends a lease consumes it")]
    pub fn key(&self) -> &K {
        &self.guard.tracked.as_ref().expect("ended only by value").key
    }

    /// When the lease began.
    pub const fn begun(&self) -> Instant {
        self.guard.begun
    }

    /// Says how the request went, and ends the lease.
    pub fn end(mut self, success: bool, now: Instant) {
        self.guard.end(success, now);
    }

    /// Takes the service and the end apart, for an end that comes later than the service is done with.
    pub fn into_parts(mut self) -> (S, LeaseEnd) {
        let begun = self.guard.begun;
        let tracked = self.guard.tracked.take().map(|tracked| tracked as Arc<dyn Tracks + Send + Sync>);
        (self.svc, LeaseEnd(Guard { tracked, begun }))
    }
}

impl LeaseEnd {
    /// When the lease began.
    #[must_use]
    pub const fn begun(&self) -> Instant {
        self.0.begun
    }

    /// Says how the request went, and ends the lease.
    pub fn end(mut self, success: bool, now: Instant) {
        self.0.end(success, now);
    }
}

impl<T: Tracks + ?Sized> Guard<T> {
    fn end(&mut self, success: bool, now: Instant) {
        if let Some(tracked) = self.tracked.take() {
            tracked.load().end(self.begun, now, success);
        }
    }
}

impl<T: Tracks + ?Sized> Drop for Guard<T> {
    fn drop(&mut self) {
        if let Some(tracked) = self.tracked.take() {
            tracked.load().cancel();
        }
    }
}

impl<K> Tracks for Tracked<K> {
    fn load(&self) -> &dyn Load {
        &*self.load
    }
}

impl<K, S> Deref for Lease<K, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.svc
    }
}

impl<K, S> DerefMut for Lease<K, S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.svc
    }
}

impl<K: fmt::Debug + Send + Sync + 'static, S> fmt::Debug for Lease<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("key", self.key()).field("begun", &self.begun()).finish_non_exhaustive()
    }
}

impl fmt::Debug for LeaseEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseEnd").field("begun", &self.begun()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::PeakEwma;

    const MS: Duration = Duration::from_millis(1);

    fn lease() -> (Lease<&'static str, u32>, Arc<Tracked<&'static str>>, Instant) {
        let load = Arc::new(PeakEwma::default());
        let (tracked, now) = (Arc::new(Tracked { key: "a", load }), tokio::time::Instant::now().into_std());
        (Lease::new(7, Arc::clone(&tracked), now), tracked, now)
    }

    #[test]
    fn counts_as_in_flight_until_its_verdict() {
        let (mut lease, tracked, now) = lease();
        assert_eq!((tracked.load.pending(), *lease.key(), *lease, lease.begun()), (1, "a", 7, now));
        *lease += 1;
        assert_eq!(*lease, 8);
        lease.end(true, now + MS);
        assert_eq!(tracked.load.pending(), 0);
        assert_eq!(tracked.load.score(now + MS, 1.0, 0), MS.as_nanos() as f64);
    }

    #[test]
    fn dropped_it_was_cancelled() {
        let (lease, tracked, now) = lease();
        drop(lease);
        assert_eq!((tracked.load.pending(), tracked.load.score(now + MS, 1.0, 0)), (0, 0.0));
    }

    #[test]
    fn the_end_can_outlive_the_service() {
        let (lease, tracked, now) = lease();
        let (svc, end) = lease.into_parts();
        assert_eq!((svc, tracked.load.pending()), (7, 1));
        // As on a response body, in another task.
        std::thread::spawn(move || end.end(true, now + MS)).join().unwrap();
        assert_eq!(tracked.load.pending(), 0);
        assert!(tracked.load.score(now + MS, 1.0, 0) > 0.0);
    }

    #[test]
    fn a_detached_end_that_is_dropped_was_cancelled() {
        let (lease, tracked, now) = lease();
        let (_svc, end) = lease.into_parts();
        drop(end);
        assert_eq!((tracked.load.pending(), tracked.load.score(now + MS, 1.0, 0)), (0, 0.0));
    }

    #[test]
    fn an_end_is_small_enough_to_ride_on_a_body() {
        assert!(size_of::<LeaseEnd>() <= 4 * size_of::<usize>());
    }
}
