//! One use of an endpoint.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{
        Arc, OnceLock,
        atomic::{Ordering, fence},
    },
    time::Instant,
};

use tokio::sync::Notify;

use crate::{
    ejections::Ejections,
    health::Status,
    load::{AnyLoad, Hint, Mark},
    standing::{Place, Standing},
};

/// One use of an endpoint: its service, and the duty to say how it went.
///
/// The endpoint counts as loaded until the lease [ends](Self::end) or is dropped, which [cancels](Self::cancel) it. It stays usable if the endpoint
/// leaves the set in the meantime.
#[must_use = "dropping a lease ends it"]
pub struct Lease<K, S> {
    svc: S,
    guard: Guard<Tracked<K>>,
}

/// The end of a [`Lease`], apart from its service: rides on a response body until that ends.
///
/// Dropped without a verdict, the request counts as [cancelled](Self::cancel) at that time.
#[must_use = "dropping a lease's end counts the request as cancelled"]
pub struct LeaseEnd(Guard<dyn Tracks + Send + Sync>);

/// What outlives an endpoint's stack for as long as a lease of it does.
///
/// In this order: what a lease writes, the count of leases in its `Arc` included, is in one line of the cache or in two, and
/// is all that two threads wait for that use the same endpoint.
#[repr(C)]
pub(crate) struct Tracked<K> {
    pub(crate) load: AnyLoad,
    pub(crate) standing: Standing,
    // Made for the first one who waits until it leaves the set: few ever do.
    left: OnceLock<Box<Notify>>,
    pub(crate) key: K,
}

trait Tracks {
    fn load(&self) -> &AnyLoad;
}

struct Guard<T: Tracks + ?Sized> {
    // None once ended.
    tracked: Option<Arc<T>>,
    begun: Instant,
    known: Known,
    is_probe: bool,
}

/// What the load was told of a request before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    // An answer came so far, but not to where the latency is taken.
    Answer,
    Latency,
    Failure,
    // It wants to hear of it at the end.
    FailureUntold,
}

impl<K: Send + Sync + 'static, S> Lease<K, S> {
    #[inline]
    pub(crate) fn new(svc: S, tracked: Arc<Tracked<K>>, now: Instant) -> Self {
        tracked.load.begin(now);
        Self { svc, guard: Guard { tracked: Some(tracked), begun: now, known: Known::Nothing, is_probe: false } }
    }

    /// The same, as the first look at an endpoint that was left alone: if it goes well, what is known of its load from
    /// before is forgotten.
    pub(crate) fn into_probe(mut self) -> Self {
        self.guard.is_probe = true;
        self
    }

    /// Whether the endpoint has left the set. What waits for it should go to another.
    pub fn is_gone(&self) -> bool {
        self.guard.tracked.as_ref().is_some_and(|tracked| tracked.standing.has_left())
    }

    /// Whether the endpoint is open at `now`.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        self.guard.tracked.as_ref().is_some_and(|tracked| tracked.standing.status(now) == Status::Open)
    }

    /// Waits until the endpoint leaves the set: for ever, if it does not.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has done nothing.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<K, S> {
        let tracked = self.guard.tracked.clone();
        async move {
            let Some(tracked) = tracked else { return std::future::pending().await };
            tracked.left().await;
        }
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

    /// Says that the request came to `mark`, and whether it is a success so far.
    ///
    /// The load takes the latency here if this is where it [measures](crate::Measure), and notes a failure anyway. The
    /// request stays in flight. Marks come in their order, each at most once; one that is left out does no harm, and after
    /// a failure the others and the verdict at the end count for nothing.
    pub fn mark(&mut self, mark: Mark, success: bool, now: Instant) {
        self.guard.mark(mark, success, now);
    }

    /// Passes on what the endpoint said of itself, any number of times.
    pub fn hint(&self, hint: Hint, now: Instant) {
        self.guard.hint(hint, now);
    }

    /// Says how the request went, and ends the lease.
    pub fn end(mut self, success: bool, now: Instant) {
        self.guard.end(success, now);
    }

    /// Ends the lease of a request that was given up at `now`: no longer in flight, and if it had not come to where its
    /// latency is [measured](crate::Measure), that took longer. Dropping the lease does the same, now.
    pub fn cancel(mut self, now: Instant) {
        self.guard.cancel(|| now);
    }

    /// Takes the service and the end apart, for an end that comes later than the service is done with.
    pub fn into_parts(mut self) -> (S, LeaseEnd) {
        let Guard { begun, known, is_probe, .. } = self.guard;
        let tracked = self.guard.tracked.take().map(|tracked| tracked as Arc<dyn Tracks + Send + Sync>);
        (self.svc, LeaseEnd(Guard { tracked, begun, known, is_probe }))
    }
}

impl LeaseEnd {
    /// When the lease began.
    #[must_use]
    pub const fn begun(&self) -> Instant {
        self.0.begun
    }

    /// Says that the request came to `mark`, and whether it is a success so far.
    ///
    /// The load takes the latency here if this is where it [measures](crate::Measure), and notes a failure anyway. The
    /// request stays in flight. Marks come in their order, each at most once; one that is left out does no harm, and after
    /// a failure the others and the verdict at the end count for nothing.
    pub fn mark(&mut self, mark: Mark, success: bool, now: Instant) {
        self.0.mark(mark, success, now);
    }

    /// Passes on what the endpoint said of itself, any number of times.
    pub fn hint(&self, hint: Hint, now: Instant) {
        self.0.hint(hint, now);
    }

    /// Whether [`end`](Self::end) looks at the time it is given if the request is a success. False once a
    /// [`mark`](Self::mark) was what the load waited for: then a caller need not look at the clock.
    #[must_use]
    pub fn needs_time(&self) -> bool {
        matches!(self.0.known, Known::Nothing | Known::Answer)
    }

    /// Says how the request went, and ends the lease.
    pub fn end(mut self, success: bool, now: Instant) {
        self.0.end(success, now);
    }

    /// Ends the lease of a request that was given up at `now`: no longer in flight, and if it had not come to where its
    /// latency is [measured](crate::Measure), that took longer. Dropping the lease does the same, now.
    pub fn cancel(mut self, now: Instant) {
        self.0.cancel(|| now);
    }

    /// The same of a request that was not sent whole before `sent`: what came before that was its caller's time.
    pub fn cancel_since(mut self, sent: Instant, now: Instant) {
        self.0.begun = self.0.begun.max(sent);
        self.0.cancel(|| now);
    }
}

impl<T: Tracks + ?Sized> Guard<T> {
    fn mark(&mut self, mark: Mark, success: bool, now: Instant) {
        let Some(tracked) = &self.tracked else { return };
        let (load, begun) = (tracked.load(), self.begun);
        if std::mem::take(&mut self.is_probe) && success {
            load.reset();
        }
        match self.known {
            Known::Failure | Known::FailureUntold => {}
            _ if !success => self.known = if load.fail(begun, now) { Known::Failure } else { Known::FailureUntold },
            Known::Latency => {}
            Known::Nothing | Known::Answer if load.mark(begun, now, mark) => self.known = Known::Latency,
            Known::Nothing | Known::Answer => self.known = Known::Answer,
        }
    }

    fn hint(&self, hint: Hint, now: Instant) {
        if let Some(tracked) = &self.tracked {
            tracked.load().hint(hint, now);
        }
    }

    fn end(&mut self, success: bool, now: Instant) {
        let Some(tracked) = self.tracked.take() else { return };
        let (load, begun) = (tracked.load(), self.begun);
        if self.is_probe && success && self.known == Known::Nothing {
            load.reset();
        }
        match self.known {
            Known::Nothing | Known::Answer => load.end(begun, now, success),
            Known::FailureUntold => load.end(begun, now, false),
            Known::Latency if !success && !load.fail(begun, now) => load.end(begun, now, false),
            Known::Latency | Known::Failure => load.cancel(),
        }
    }

    /// At `now`, if anybody wants to know.
    fn cancel(&mut self, now: impl FnOnce() -> Instant) {
        let Some(tracked) = self.tracked.take() else { return };
        match self.known {
            Known::Nothing => tracked.load().cancel_at(self.begun, now(), false),
            Known::Answer => tracked.load().cancel_at(self.begun, now(), true),
            Known::Latency | Known::Failure | Known::FailureUntold => tracked.load().cancel(),
        }
    }
}

impl<T: Tracks + ?Sized> Drop for Guard<T> {
    fn drop(&mut self) {
        self.cancel(|| tokio::time::Instant::now().into_std());
    }
}

impl<K> Tracks for Tracked<K> {
    fn load(&self) -> &AnyLoad {
        &self.load
    }
}

impl<K> Tracked<K> {
    pub(crate) fn new(key: K, load: AnyLoad, ejections: Option<Ejections>) -> Self {
        Self { standing: Standing::new(ejections), load, left: OnceLock::new(), key }
    }

    /// Says that the endpoint has left its set.
    pub(crate) fn leave(&self) {
        self.standing.leave();
        // SeqCst, here and below: of this one, who says so and then looks who waits, and of that one, who says that it
        // waits and then looks whether it is so, at least the later one sees what the other did.
        fence(Ordering::SeqCst);
        if let Some(left) = self.left.get() {
            left.notify_waiters();
        }
    }

    /// Waits until then.
    async fn left(&self) {
        loop {
            // From its making on it hears of it, so look once more before waiting.
            let left = self.left.get_or_init(Box::default).notified();
            fence(Ordering::SeqCst);
            if self.standing.has_left() {
                return;
            }
            left.await;
        }
    }
}

impl<K: Send + Sync> Place for Tracked<K> {
    fn standing(&self) -> &Standing {
        &self.standing
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
    use crate::load::{Load, Measure, Now, PeakEwma};

    const MS: Duration = Duration::from_millis(1);

    fn tracked(load: impl Load) -> Arc<Tracked<&'static str>> {
        Arc::new(Tracked::new("a", AnyLoad::new(load), None))
    }

    fn score(tracked: &Tracked<&'static str>, now: Instant, weight: f64, more: usize) -> f64 {
        tracked.load.score(&Now::new(now), weight, more)
    }

    fn lease() -> (Lease<&'static str, u32>, Arc<Tracked<&'static str>>, Instant) {
        let (tracked, now) = (tracked(PeakEwma::default()), tokio::time::Instant::now().into_std());
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
        assert_eq!(score(&tracked, now + MS, 1.0, 0), MS.as_nanos() as f64);
    }

    #[test]
    fn dropped_it_was_cancelled() {
        let (lease, tracked, now) = lease();
        drop(lease);
        assert_eq!((tracked.load.pending(), tracked.load.typical(now + MS)), (0, None));
    }

    #[test]
    fn given_up_without_an_answer_it_took_at_least_as_long_as_that() {
        for apart in [false, true] {
            let (lease, tracked, now) = lease();
            tracked.load.begin(now);
            tracked.load.end(now, now + MS, true);
            if apart {
                lease.into_parts().1.cancel(now + 50 * MS);
            } else {
                lease.cancel(now + 50 * MS);
            }
            assert_eq!((tracked.load.pending(), tracked.load.typical(now + 50 * MS)), (0, Some(50e6)));
        }
    }

    #[test]
    fn given_up_before_where_latency_is_measured_it_took_as_long_unless_it_is_a_long_stream() {
        for measure in [Measure::FirstByte, Measure::EndOfStream] {
            for (waited, known) in [(1_000 * MS, 1e9), (1_001 * MS, 1e6)] {
                let ewma = PeakEwma::default().measure(measure).long_stream(1_000 * MS);
                let (tracked, now) = (self::tracked(ewma), tokio::time::Instant::now().into_std());
                let then = now + waited;
                tracked.load.begin(now);
                tracked.load.end(then.checked_sub(MS).unwrap(), then, true);
                let mut lease = Lease::new(7, Arc::clone(&tracked), now);
                lease.mark(Mark::Headers, true, now + MS);
                lease.cancel(then);
                assert_eq!((tracked.load.pending(), tracked.load.typical(then)), (0, Some(known)), "{measure:?}");
            }
        }
    }

    #[test]
    fn given_up_past_where_latency_is_measured_it_says_no_more() {
        for measure in [Measure::Headers, Measure::PendingOnly] {
            let (tracked, now) =
                (tracked(PeakEwma::default().measure(measure)), tokio::time::Instant::now().into_std());
            let mut lease = Lease::new(7, Arc::clone(&tracked), now);
            lease.mark(Mark::Headers, true, now + MS);
            let known = tracked.load.typical(now + MS);
            lease.cancel(now + 50 * MS);
            assert_eq!((tracked.load.pending(), tracked.load.typical(now + MS)), (0, known), "{measure:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_it_was_given_up_at_that_time() {
        let (lease, tracked, now) = lease();
        tracked.load.begin(now);
        tracked.load.end(now, now, true);
        tokio::time::sleep(50 * MS).await;
        drop(lease);
        assert_eq!((tracked.load.pending(), tracked.load.typical(now + 50 * MS)), (0, Some(50e6)));
    }

    #[test]
    fn the_end_can_outlive_the_service() {
        let (lease, tracked, now) = lease();
        let (svc, end) = lease.into_parts();
        assert_eq!((svc, tracked.load.pending()), (7, 1));
        // As on a response body, in another task.
        std::thread::spawn(move || end.end(true, now + MS)).join().unwrap();
        assert_eq!(tracked.load.pending(), 0);
        assert!(score(&tracked, now + MS, 1.0, 0) > 0.0);
    }

    #[test]
    fn a_detached_end_that_is_dropped_was_cancelled() {
        let (lease, tracked, now) = lease();
        let (_svc, end) = lease.into_parts();
        drop(end);
        assert_eq!((tracked.load.pending(), tracked.load.typical(now + MS)), (0, None));
    }

    #[test]
    fn the_latency_counts_once_and_at_the_mark() {
        let (mut lease, tracked, now) = lease();
        lease.mark(Mark::Headers, true, now + MS);
        assert_eq!(tracked.load.pending(), 1);
        let (_svc, mut end) = lease.into_parts();
        end.mark(Mark::FirstByte, true, now + 10 * MS);
        end.end(true, now + 100 * MS);
        assert_eq!(tracked.load.pending(), 0);
        assert_eq!(tracked.load.typical(now + MS), Some(1e6));
    }

    #[test]
    fn cancelled_after_its_mark_the_latency_stays() {
        let (mut lease, tracked, now) = lease();
        lease.mark(Mark::Headers, true, now + MS);
        drop(lease);
        assert_eq!((tracked.load.pending(), tracked.load.typical(now + MS)), (0, Some(1e6)));
    }

    #[test]
    fn a_failure_counts_once_wherever_it_shows() {
        // Under a load that sums up failures.
        let least = || {
            let (tracked, now) = (tracked(crate::LeastLoaded::new()), tokio::time::Instant::now().into_std());
            (Lease::new(7, Arc::clone(&tracked), now), tracked, now)
        };
        let (lease, tracked, now) = least();
        lease.end(false, now);
        assert_eq!((tracked.load.pending(), score(&tracked, now, 1.0, 0)), (0, 1.0));

        let (mut lease, tracked, now) = least();
        lease.mark(Mark::Headers, true, now);
        lease.mark(Mark::FirstByte, false, now);
        assert_eq!(score(&tracked, now, 1.0, 0), 2.0, "in flight, and failed");
        lease.mark(Mark::FirstByte, false, now);
        lease.end(false, now);
        assert_eq!((tracked.load.pending(), score(&tracked, now, 1.0, 0)), (0, 1.0));

        let (mut lease, tracked, now) = super::tests::lease();
        lease.mark(Mark::Headers, true, now + MS);
        lease.end(false, now + 2 * MS);
        assert_eq!(tracked.load.pending(), 0);
        assert!(score(&tracked, now + 2 * MS, 1.0, 0) >= 4e9, "a stream that breaks after its head");
    }

    /// Knows of nothing but the end, as loads did before there were marks.
    #[derive(Debug, Default)]
    struct Ends(std::sync::Mutex<Vec<bool>>);

    impl Load for Ends {
        fn score(&self, _now: Instant, _weight: f64, _more: usize) -> f64 {
            0.0
        }
        fn pending(&self) -> usize {
            self.0.lock().unwrap().iter().filter(|success| **success).count()
        }
        fn begin(&self, _now: Instant) {}
        fn end(&self, _begun: Instant, _now: Instant, success: bool) {
            self.0.lock().unwrap().push(success);
        }
        fn cancel(&self) {
            panic!("it had a verdict");
        }
    }

    #[test]
    fn a_load_without_marks_is_told_all_at_the_end() {
        let now = tokio::time::Instant::now().into_std();
        let tracked = tracked(Ends::default());
        let mut lease = Lease::new(7, Arc::clone(&tracked), now);
        lease.hint(Hint::Utilization(0.5), now);
        lease.mark(Mark::Headers, false, now);
        lease.end(true, now);
        assert_eq!(tracked.load.pending(), 0, "it failed, whatever its end says");
        let mut lease = Lease::new(7, Arc::clone(&tracked), now);
        lease.mark(Mark::Headers, true, now);
        lease.end(true, now);
        assert_eq!(tracked.load.pending(), 1);
    }

    #[test]
    fn hints_reach_the_load_before_and_after_the_service_is_gone() {
        let (lease, tracked, now) = lease();
        lease.hint(Hint::Utilization(0.5), now);
        let (_svc, end) = lease.into_parts();
        end.hint(Hint::Backoff(MS), now);
        let both = score(&tracked, now, 1.0, 0);
        end.end(true, now + MS);
        assert!(both > 1e15, "{both}");
        assert!((score(&tracked, now + MS, 1.0, 0) / 2e6 - 1.0).abs() < 1e-3);
    }

    #[test]
    fn an_end_is_small_enough_to_ride_on_a_body() {
        assert!(size_of::<LeaseEnd>() <= 5 * size_of::<usize>());
    }
}
