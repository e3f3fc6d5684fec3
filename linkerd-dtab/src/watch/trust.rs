//! How sure it is that nobody is in the middle of a change.

use std::time::Duration;

use tokio::time::Instant;

use super::Stamp;

/// A file that changes all the time is waited for this many times as long as one that changed once. That it is the same
/// whenever it is looked at proves nothing: telling of a change holds the writer up, so he is met at the same step again.
const PATIENCE: u32 = 10;
/// A writer who does not close the file is waited for this many times the settle time after each of his changes, 5 s by
/// default: he may never do so.
const WRITER: u32 = 50;
/// How sure it is that nobody is in the middle of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trust {
    /// Somebody is writing, or may be.
    Passing,
    /// The writer closed the file, or renamed it into its place.
    Calm,
    /// It was the same for the time that it takes to settle.
    Settled,
}

/// Something seen and not yet believed.
pub(super) struct Held {
    pub(super) digest: u64,
    pub(super) stamp: Option<Stamp>,
    /// Since when it is there and nobody touched it.
    pub(super) untouched: Instant,
    /// Since when something is held.
    pub(super) first: Instant,
    /// Whether it has been written again and again.
    pub(super) is_busy: bool,
    /// When to look at it again if nothing is told.
    pub(super) due: Instant,
}

/// Tells whether a file is written again and again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Burst {
    /// How often it had been closed when it was last looked at.
    closed: u64,
    /// When that last was more than before.
    at: Option<Instant>,
    until: Option<Instant>,
}

impl Held {
    /// How far it is to be trusted, and when to look again if that is not enough.
    pub(super) fn trust(&mut self, now: Instant, settle: Duration, is_written: bool, told: Option<Trust>) -> Trust {
        let settles = self.untouched + settle * if self.is_busy { PATIENCE } else { 1 };
        let at_last = self.first + PATIENCE * WRITER * settle;
        let closes = at_last.min(self.untouched + WRITER * settle);
        self.due = if is_written { closes } else { settles };
        if is_written && now < closes {
            Trust::Passing
        } else if now >= settles.min(at_last) {
            Trust::Settled
        } else if now >= self.first + PATIENCE * settle {
            Trust::Calm
        } else {
            told.unwrap_or(Trust::Passing)
        }
    }
}

impl Burst {
    /// Whether the file was closed twice within a short time, not long ago, now that it was closed so often in all.
    ///
    /// If so it may be written once more, which is told late: the first step of an edit is done before it is told.
    pub(super) fn goes_on(&mut self, now: Instant, settle: Duration, closed: u64) -> bool {
        let lasts = PATIENCE * settle;
        let times = closed.saturating_sub(self.closed);
        if times > 1 || times == 1 && self.at.is_some_and(|at| now < at + lasts) {
            self.until = Some(now + lasts);
        }
        if times > 0 {
            self.at = Some(now);
        }
        self.closed = closed;
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SETTLE: Duration = Duration::from_millis(100);

    /// Something that was touched `untouched` ms ago and is held since `first` ms ago: its trust, and the ms from when it
    /// was touched to the next look.
    fn trust(untouched: u32, first: u32, is_busy: bool, is_written: bool, told: Option<Trust>) -> (Trust, u128) {
        let begin = Instant::now();
        let now = begin + first * MS;
        let mut held =
            Held { digest: 0, stamp: None, untouched: now - untouched * MS, first: begin, is_busy, due: begin };
        let trust = held.trust(now, SETTLE, is_written, told);
        (trust, (held.due - held.untouched).as_millis())
    }

    #[test]
    fn what_is_not_touched_settles() {
        assert_eq!(trust(0, 0, false, false, None), (Trust::Passing, 100));
        assert_eq!(trust(0, 0, false, false, Some(Trust::Calm)), (Trust::Calm, 100));
        assert_eq!(trust(99, 99, false, false, None), (Trust::Passing, 100));
        assert_eq!(trust(100, 100, false, false, None).0, Trust::Settled);
    }

    #[test]
    fn what_is_written_waits_for_its_writer() {
        assert_eq!(trust(0, 0, false, true, Some(Trust::Calm)), (Trust::Passing, 5000));
        assert_eq!(trust(4999, 4999, false, true, None), (Trust::Passing, 5000));
        assert_eq!(trust(5000, 5000, false, true, None).0, Trust::Settled);
    }

    #[test]
    fn what_was_written_again_and_again_takes_longer() {
        assert_eq!(trust(0, 0, true, false, Some(Trust::Calm)), (Trust::Calm, 1000));
        assert_eq!(trust(999, 999, true, false, None), (Trust::Passing, 1000));
        assert_eq!(trust(1000, 1000, true, false, None).0, Trust::Settled);
    }

    #[test]
    fn what_never_rests_settles_at_last() {
        assert_eq!(trust(0, 999, false, false, None).0, Trust::Passing);
        assert_eq!(trust(0, 1000, false, false, None).0, Trust::Calm);
        assert_eq!(trust(0, 49_999, false, false, None).0, Trust::Calm);
        assert_eq!(trust(0, 49_999, false, true, None).0, Trust::Passing);
        assert_eq!(trust(0, 50_000, false, true, None).0, Trust::Settled);
        assert_eq!(trust(0, 50_000, true, false, None).0, Trust::Settled);
    }

    #[test]
    fn two_closes_within_a_short_time_are_a_burst() {
        let begin = Instant::now();
        let mut burst = Burst::default();
        for (after, closed, expected) in [
            (0, 0, false),
            (0, 1, false),
            (999, 2, true),
            (1998, 2, true),
            (1999, 2, false),
            (2000, 3, false),
            (3000, 5, true),
            (3999, 6, true),
            (4998, 6, true),
            (4999, 6, false),
        ] {
            assert_eq!(burst.goes_on(begin + after * MS, SETTLE, closed), expected, "{closed} after {after} ms");
        }
    }
}
