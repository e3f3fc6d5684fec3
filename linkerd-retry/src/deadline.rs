//! When a request must be over, whoever is working on it.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::{Delivery, Sent};

/// The instant by which a request must be over. From that instant on, nothing is begun for it.
///
/// It is a point in time and not a length of it, so it can be handed down as it is: what is left shrinks by itself, from
/// one attempt to the next and from one hop to the next. Where two apply, the [first](Self::first) does; where none
/// does, an `Option` is `None`.
///
/// It reads no clock: `now` is an argument.
///
/// ```
/// use linkerd_retry::Deadline;
/// use std::time::Duration;
///
/// # let now = tokio::time::Instant::now().into_std();
/// let ours = Deadline::after(now, Duration::from_secs(2));
/// let theirs = Deadline::after(now, Duration::from_millis(500));
/// let deadline = Deadline::first(ours, theirs).unwrap();
/// assert_eq!(deadline.remaining(now), Duration::from_millis(500));
/// assert!(deadline.has_passed(now + Duration::from_millis(500)));
/// // Longer than any clock counts is as good as none.
/// assert_eq!(Deadline::after(now, Duration::MAX), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Instant);

/// The deadline of a request passed before it was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deadline passed {late:?} ago")]
pub struct Expired {
    /// How long ago that was. Zero at the instant itself.
    pub late: Duration,
    /// How far the request had got, with all of its attempts.
    pub sent: Sent,
}

/// A deadline, and how to say that it has passed with an error of type `E`.
///
/// What must not begin anything after a deadline needs an error for when it would have to.
pub struct Until<E> {
    deadline: Deadline,
    error: fn(Expired) -> E,
}

impl Deadline {
    /// At this instant.
    #[must_use]
    pub const fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// So long after `now`. `None` if that is further off than the clock can count.
    #[must_use]
    pub fn after(now: Instant, timeout: Duration) -> Option<Self> {
        now.checked_add(timeout).map(Self)
    }

    /// The first of two of which each may not be.
    #[must_use]
    pub fn first(a: impl Into<Option<Self>>, b: impl Into<Option<Self>>) -> Option<Self> {
        match (a.into(), b.into()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The instant that it is.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// How long it is from `now`: zero if it has passed.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Whether it has passed. At the instant itself it has.
    #[must_use]
    pub fn has_passed(self, now: Instant) -> bool {
        self.0 <= now
    }

    /// Whether something that takes so long from `now` is over before it. What takes no time must still begin before.
    #[must_use]
    pub fn leaves(self, now: Instant, time: Duration) -> bool {
        self.remaining(now) > time
    }

    /// Whether a request may go out of which nothing was sent yet.
    ///
    /// # Errors
    ///
    /// It has passed.
    pub fn check(self, now: Instant) -> Result<(), Expired> {
        self.check_after(Sent::Never, now)
    }

    /// The same for a request of which earlier attempts had got so far.
    ///
    /// # Errors
    ///
    /// It has passed.
    pub fn check_after(self, sent: Sent, now: Instant) -> Result<(), Expired> {
        if self.has_passed(now) { Err(self.expired(sent, now)) } else { Ok(()) }
    }

    /// The error for a request that had got so far when it was ended, `now`.
    #[must_use]
    pub fn expired(self, sent: Sent, now: Instant) -> Expired {
        Expired { late: now.saturating_duration_since(self.0), sent }
    }
}

impl<E> Until<E> {
    /// Until `deadline`, and then an error made of [`Expired`].
    #[must_use]
    pub fn new(deadline: Deadline) -> Self
    where
        E: From<Expired>,
    {
        Self { deadline, error: E::from }
    }

    /// The deadline.
    #[must_use]
    pub const fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Whether a request may go out of which nothing was sent yet.
    ///
    /// # Errors
    ///
    /// It has passed.
    pub fn check(&self, now: Instant) -> Result<(), E> {
        self.check_after(Sent::Never, now)
    }

    /// The same for a request of which earlier attempts had got so far.
    ///
    /// # Errors
    ///
    /// It has passed.
    pub fn check_after(&self, sent: Sent, now: Instant) -> Result<(), E> {
        self.deadline.check_after(sent, now).map_err(self.error)
    }
}

impl Delivery for Expired {
    /// None, if nothing was sent; and otherwise not known.
    fn bytes_written(&self) -> Option<u64> {
        (self.sent == Sent::Never).then_some(0)
    }

    fn sent(&self) -> Sent {
        self.sent
    }
}

// By hand: they do not hang on `E`.
impl<E> Clone for Until<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Until<E> {}

impl<E> fmt::Debug for Until<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Until").field(&self.deadline).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn it_has_passed_from_its_instant_on() {
        let now = now();
        let deadline = Deadline::after(now, 10 * MS).unwrap();
        assert_eq!(deadline, Deadline::at(now + 10 * MS));
        assert_eq!((deadline.remaining(now + 9 * MS), deadline.check(now + 9 * MS)), (MS, Ok(())));
        assert_eq!(deadline.remaining(now + 11 * MS), Duration::ZERO);
        assert_eq!(deadline.check(now + 10 * MS), Err(deadline.expired(Sent::Never, now + 10 * MS)));
        assert_eq!(deadline.check(now + 12 * MS).unwrap_err().to_string(), "the deadline passed 2ms ago");
    }

    #[test]
    fn it_says_how_far_the_request_had_got() {
        let now = now();
        let late = |sent| Deadline::at(now).check_after(sent, now).unwrap_err();
        let known = |expired: Expired| (expired.sent(), expired.bytes_written(), expired.may_have_been_processed());
        assert_eq!(known(late(Sent::Never)), (Sent::Never, Some(0), false));
        assert_eq!(known(late(Sent::Refused)), (Sent::Refused, None, false));
        assert_eq!(known(late(Sent::Possibly)), (Sent::Possibly, None, true));
    }

    #[test]
    fn the_first_of_two_applies_and_none_is_none() {
        let now = now();
        let (soon, late) = (Deadline::at(now), Deadline::at(now + MS));
        assert_eq!(Deadline::first(soon, late), Some(soon));
        assert_eq!(Deadline::first(late, soon), Some(soon));
        assert_eq!(Deadline::first(None, late), Some(late));
        assert_eq!(Deadline::first(late, None), Some(late));
        assert_eq!(Deadline::first(None, None), None);
    }

    #[test]
    fn what_ends_with_it_does_not_fit() {
        let now = now();
        let deadline = Deadline::at(now + 10 * MS);
        assert!(deadline.leaves(now, 9 * MS) && !deadline.leaves(now, 10 * MS));
        assert!(deadline.leaves(now + 9 * MS, Duration::ZERO) && !deadline.leaves(now + 10 * MS, Duration::ZERO));
    }

    #[test]
    fn an_error_of_ones_own_says_that_it_has_passed() {
        #[derive(Debug, PartialEq)]
        struct Mine(Expired);
        impl From<Expired> for Mine {
            fn from(expired: Expired) -> Self {
                Self(expired)
            }
        }
        let now = now();
        let until: Until<Mine> = Until::new(Deadline::at(now + MS));
        assert_eq!(until.check(now), Ok(()));
        assert_eq!(until.check(now + 2 * MS), Err(Mine(Expired { late: MS, sent: Sent::Never })));
    }
}
