//! Whether an endpoint can be used, as its own stack knows it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    ejections::Ejections,
    standing::{Place, Standing},
};

/// Whether an endpoint should get requests. Better ones compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Cannot serve. Picked only when every endpoint is closed.
    Closed,
    /// Could serve, but should not be asked now: it failed of late, or is full.
    Busy,
    /// Serves.
    Open,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Busy => "busy",
            Self::Open => "open",
        })
    }
}

/// Where an endpoint's stack says how it is, and pickers read it. A clone is the same place.
///
/// A status may carry its end: [`busy_until`](Self::busy_until) turns to [`Status::Open`] by itself, so that no
/// timer has to run for an endpoint that nobody asks.
#[derive(Clone)]
pub struct Health(Arc<dyn Place>);

impl Health {
    /// An open endpoint that may be left alone whatever becomes of others.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Standing::new(None)))
    }

    /// An open endpoint of a set of which only so many may be left alone.
    ///
    /// [`Breaker`](crate::Breaker)s ask before they leave it alone. Once it has left the set, [`retire`](Self::retire)
    /// it.
    #[must_use]
    pub fn within(ejections: Ejections) -> Self {
        Self(Arc::new(Standing::new(Some(ejections))))
    }

    /// The standing in this place.
    pub(crate) fn of(place: Arc<dyn Place>) -> Self {
        Self(place)
    }

    pub(crate) fn standing(&self) -> &Standing {
        self.0.standing()
    }

    /// The status at `now`: the worse of what the endpoint's breaker and its [link](Self::set_link) say.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        self.standing().status(now)
    }

    /// Whether it was to be left alone until a [time to be probed](Self::probe_from) that has come, and nobody has tried
    /// it since: its status is [`Status::Open`], but that is a guess.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.standing().is_due(now)
    }

    /// What the endpoint's connections know of it, apart from how requests went: closed while nothing can be reached,
    /// for example. [`Status::Open`] until it is said otherwise. Whoever connects says so; the rest is said by
    /// [`set`](Self::set), [`busy_until`](Self::busy_until) and [`probe_from`](Self::probe_from).
    pub fn set_link(&self, status: Status) {
        self.standing().set_link(status);
    }

    /// What was said last of its connections.
    #[must_use]
    pub fn link(&self) -> Status {
        self.standing().link()
    }

    /// How long it is left alone from `now` on, if that has a known end.
    #[must_use]
    pub fn busy_for(&self, now: Instant) -> Option<Duration> {
        self.standing().busy_for(now)
    }

    /// Sets a status that lasts until the next one is set.
    pub fn set(&self, status: Status) {
        self.standing().set(status);
    }

    /// Busy before `until`, open from then on, as if it had been [`set`](Self::set) then.
    ///
    /// For what is known to end, such as maintenance. Where the end is a guess, [`probe_from`](Self::probe_from) it.
    pub fn busy_until(&self, until: Instant) {
        self.standing().busy_until(until);
    }

    /// Busy before `from`; then [due](Self::is_due) to be tried, for as long as its set has a probe left, until another
    /// status is set.
    ///
    /// A balancer sends the next request that comes upon it there, however loaded it is, and takes it for open only when
    /// that is set: whoever writes this sets something else as soon as that request is under way, as
    /// [`Breaker`](crate::Breaker) does, or all requests go there.
    pub fn probe_from(&self, from: Instant) {
        self.standing().probe_from(from);
    }

    /// Says that the endpoint has left its set: places among its [`Ejections`] that it has are given back, and it takes
    /// none any more, whatever requests that are still under way have to say. Further calls do nothing.
    ///
    /// Dropping the last clone does the same.
    pub fn retire(&self) {
        self.standing().retire();
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&format_args!("{}", self.standing().name())).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::ejections::EjectionLimits;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_clone_is_the_same_place() {
        let health = Health::new();
        let now = tokio::time::Instant::now().into_std();
        health.clone().set(Status::Closed);
        assert_eq!(health.status(now), Status::Closed);
        health.clone().set(Status::Busy);
        assert_eq!(health.status(now), Status::Busy);
        health.set(Status::Open);
        assert_eq!(health.status(now), Status::Open);
    }

    #[test]
    fn busy_until_ends_at_that_instant_and_not_before() {
        let health = Health::new();
        let until = tokio::time::Instant::now().into_std() + 500 * MS;
        health.busy_until(until);
        assert_eq!(health.status(until.checked_sub(MS).unwrap()), Status::Busy);
        assert_eq!(health.status(until), Status::Open);
        assert!(!health.is_due(until), "that was a promise, not a guess");
    }

    #[test]
    fn the_worse_of_breaker_and_link_counts() {
        let health = Health::new();
        let now = tokio::time::Instant::now().into_std();
        for (own, link) in
            [(Status::Open, Status::Closed), (Status::Busy, Status::Open), (Status::Closed, Status::Busy)]
        {
            health.set(own);
            health.set_link(link);
            assert_eq!((health.status(now), health.link()), (own.min(link), link));
        }
        health.set_link(Status::Closed);
        health.probe_from(now);
        assert!(!health.is_due(now), "nobody can be sent there");
        health.set_link(Status::Open);
        assert!(health.is_due(now));
    }

    #[test]
    fn it_is_due_from_the_end_of_its_backoff_until_somebody_knows_more() {
        let health = Health::new();
        let now = tokio::time::Instant::now().into_std();
        assert_eq!((health.is_due(now), health.busy_for(now)), (false, None));
        health.probe_from(now + 500 * MS);
        assert_eq!((health.is_due(now), health.busy_for(now)), (false, Some(500 * MS)));
        let then = now + 500 * MS;
        assert_eq!((health.is_due(then), health.busy_for(then)), (true, None));
        health.set(Status::Busy);
        assert!(!health.is_due(then));
    }

    #[test]
    fn instants_before_the_epoch_compare_too() {
        let health = Health::new();
        let long_ago = tokio::time::Instant::now().into_std().checked_sub(Duration::from_mins(1)).unwrap();
        health.busy_until(long_ago + MS);
        assert_eq!(health.status(long_ago), Status::Busy);
        assert_eq!(health.status(long_ago + MS), Status::Open);
        health.busy_until(long_ago + Duration::from_hours(200 * 365 * 24));
        assert_eq!(health.status(tokio::time::Instant::now().into_std()), Status::Busy);
    }

    #[test]
    fn open_is_better_than_busy_and_busy_than_closed() {
        assert!(Status::Open > Status::Busy && Status::Busy > Status::Closed);
    }
    fn set(share: f64, size: usize) -> Ejections {
        let limits = EjectionLimits::new(share).unwrap().max_probes(NonZeroU32::MIN);
        let ejections = Ejections::new(limits);
        ejections.resize(size);
        ejections
    }

    #[test]
    fn an_endpoint_has_one_place_however_often_it_asks() {
        let ejections = set(0.5, 4);
        let (a, b, c) = (Health::within(ejections.clone()), Health::within(ejections.clone()), Health::new());
        assert!(a.standing().try_eject() && a.clone().standing().try_eject() && b.standing().try_eject());
        assert_eq!(ejections.counts().ejected, 2);
        assert!(!Health::within(ejections.clone()).standing().try_eject());
        assert!(c.standing().try_eject(), "no limit");
        a.standing().give_back();
        a.standing().give_back();
        assert_eq!(ejections.counts().ejected, 1);
    }

    #[test]
    fn who_leaves_gives_back_once_and_takes_no_more() {
        let ejections = set(0.5, 4);
        let (a, b) = (Health::within(ejections.clone()), Health::within(ejections.clone()));
        assert!(a.standing().try_eject() && a.standing().try_probe() && b.standing().try_eject());
        a.retire();
        assert_eq!((ejections.counts().ejected, ejections.counts().probing), (1, 0));
        // A request that was under way.
        assert!(a.standing().try_eject() && a.standing().try_probe());
        a.standing().give_back();
        a.retire();
        drop(a);
        assert_eq!((ejections.counts().ejected, ejections.counts().probing), (1, 0));
        drop(b);
        assert_eq!(ejections.counts().ejected, 0);
    }

    #[test]
    fn whose_turn_it_is_to_be_tried_is_busy_while_others_are() {
        let ejections = set(1.0, 4);
        let (a, b) = (Health::within(ejections.clone()), Health::within(ejections.clone()));
        let from = tokio::time::Instant::now().into_std() + MS;
        b.probe_from(from);
        assert_eq!(b.status(from.checked_sub(MS).unwrap()), Status::Busy);
        assert_eq!(b.status(from), Status::Open);
        assert!(a.standing().try_probe());
        assert_eq!(b.status(from), Status::Busy);
        a.standing().end_probe();
        assert_eq!(b.status(from), Status::Open);
    }
}
