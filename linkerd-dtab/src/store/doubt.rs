//! Which answers of a store are believed at once.
//!
//! Routing is emptied by one wrong answer: of a server that was begun anew on an empty disk, that was restored from a
//! backup, or whose tables are somewhere else now. So what would take much away has to be said for a while.

use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::Failure;

/// An answer that is older than one before it is believed when it was seen so often in a row,
const OLDER_LOOKS: u32 = 3;
/// and for so long.
const OLDER_FOR: Duration = Duration::from_secs(10);
/// What an answer lacks that would take all away, or that went back, is gone when it has been so for so long.
const LOST_FOR: Duration = Duration::from_mins(10);

/// What would change by an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Whether nothing would.
    pub(super) is_same: bool,
    /// Whether the answer has no namespace.
    pub(super) is_empty: bool,
    /// How many of the known namespaces it has.
    pub(super) kept: usize,
    /// How many of them it lacks, but for those that are being deleted here.
    pub(super) lost: usize,
}

/// What becomes of an answer.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is how things are.
    Believed,
    /// What it has is believed, and what it lacks is kept, for this reason.
    Kept(Failure),
    /// It is not believed, for this reason.
    Refused(Failure),
}

/// What a store has said lately.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// Where in its history the last answer was that was believed.
    position: Option<u64>,
    older: Option<Older>,
    lost: Option<Lost>,
}

/// Answers from before that point, each at least as new as the one before it.
#[derive(Debug)]
struct Older {
    position: u64,
    since: Instant,
    looks: u32,
}

/// Namespaces are lacking since then.
#[derive(Debug)]
struct Lost {
    since: Instant,
    /// Whether the store went back: if it then is empty it lost its disk, and that is no state that anybody wants.
    went_back: bool,
}

impl Doubt {
    /// The store was at this point in its history, at least.
    #[cfg(feature = "files")]
    pub(super) fn has_seen(&mut self, position: u64) {
        self.position = self.position.max(Some(position));
    }

    /// Judges an answer from this point in the store's history, if that is known.
    pub(super) fn judge(&mut self, position: Option<u64>, difference: Difference, now: Instant) -> Verdict {
        match self.judge_age(position, difference, now) {
            Ok(went_back) => self.judge_loss(difference, went_back, now),
            Err(doubt) => Verdict::Refused(doubt),
        }
    }

    /// Whether the store has gone back for good.
    fn judge_age(&mut self, position: Option<u64>, difference: Difference, now: Instant) -> Result<bool, Failure> {
        let last = self.position;
        let (Some(position), Some(last)) = (position, last) else {
            self.position = position.or(last);
            return Ok(false);
        };
        if position >= last || difference.is_same {
            // Consul's index goes back by itself some time after a key was deleted.
            self.position = Some(position);
            self.older = None;
            return Ok(false);
        }
        let older = match &mut self.older {
            Some(older) if older.position <= position => {
                older.position = position;
                older.looks += 1;
                older
            }
            slot => slot.insert(Older { position, since: now, looks: 1 }),
        };
        if older.looks < OLDER_LOOKS || now.duration_since(older.since) < OLDER_FOR {
            return Err(failure(format!(
                "the store went back from {last} to {position} in its history: that is believed when it stays so for {OLDER_FOR:?}"
            )));
        }
        self.position = Some(position);
        self.older = None;
        Ok(true)
    }

    fn judge_loss(&mut self, difference: Difference, went_back: bool, now: Instant) -> Verdict {
        let Difference { is_empty, kept, lost, .. } = difference;
        let is_doubtful = lost > 0 && (self.lost.is_some() || kept == 0 || went_back);
        if !is_doubtful {
            self.lost = None;
            return Verdict::Believed;
        }
        let known = self.lost.get_or_insert(Lost { since: now, went_back });
        known.went_back |= went_back;
        if known.went_back && is_empty {
            known.since = now;
            return Verdict::Kept(failure(
                "the store is empty and went back in its history, as if it had lost its disk: \
                 what it lacks is kept until it is written again or deleted",
            ));
        }
        if now.duration_since(known.since) >= LOST_FOR {
            self.lost = None;
            return Verdict::Believed;
        }
        Verdict::Kept(failure(format!(
            "the store lacks {lost} namespaces at once: they are kept until they are written again or deleted, or it stays \
             so for {LOST_FOR:?}"
        )))
    }
}

fn failure(text: impl Into<String>) -> Failure {
    Arc::new(io::Error::other(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME: Difference = Difference { is_same: true, is_empty: false, kept: 2, lost: 0 };
    const OTHER: Difference = Difference { is_same: false, ..SAME };
    const FEWER: Difference = Difference { kept: 1, lost: 1, ..OTHER };
    const OTHERS: Difference = Difference { kept: 0, lost: 2, ..OTHER };
    const EMPTY: Difference = Difference { is_empty: true, ..OTHERS };
    const SEC: Duration = Duration::from_secs(1);

    /// A clock, and what is said at its times.
    struct Story {
        doubt: Doubt,
        now: Instant,
    }

    impl Story {
        fn new(position: u64) -> Self {
            let mut story = Self { doubt: Doubt::default(), now: Instant::now() };
            assert!(story.believes(position, OTHER));
            story
        }

        fn said(&mut self, position: u64, difference: Difference, later: Duration) -> Verdict {
            self.now += later;
            self.doubt.judge(Some(position), difference, self.now)
        }

        fn believes(&mut self, position: u64, difference: Difference) -> bool {
            matches!(self.said(position, difference, SEC), Verdict::Believed)
        }

        fn refuses(&mut self, position: u64, later: Duration) -> bool {
            matches!(self.said(position, OTHER, later), Verdict::Refused(_))
        }

        fn keeps(&mut self, position: u64, difference: Difference, later: Duration) -> bool {
            matches!(self.said(position, difference, later), Verdict::Kept(_))
        }
    }

    #[tokio::test]
    async fn what_goes_forward_is_believed() {
        let mut story = Story::new(5);
        assert!(story.believes(5, OTHER) && story.believes(9, FEWER) && story.believes(9, FEWER));
        assert!(matches!(story.doubt.judge(None, OTHER, story.now), Verdict::Believed));
        // By itself, without a change.
        assert!(story.believes(2, SAME) && story.believes(3, OTHER));
    }

    #[tokio::test]
    async fn what_goes_back_is_believed_when_it_stays_so() {
        let mut story = Story::new(50);
        assert!(story.refuses(9, SEC) && story.refuses(9, OLDER_FOR.checked_sub(SEC).unwrap()));
        assert!(story.refuses(8, SEC), "back once more: it is counted anew");
        assert!(story.refuses(8, OLDER_FOR), "for long enough, but seen twice only");
        assert!(story.believes(9, OTHER));
        assert!(story.believes(10, OTHER));
        // Two servers, one of them behind: which one answers is chance.
        for _ in 0..20 {
            assert!(story.refuses(3, OLDER_FOR) && story.refuses(4, OLDER_FOR) && story.believes(10, OTHER));
        }
    }

    #[tokio::test]
    async fn what_empties_all_is_kept_for_long() {
        for all in [OTHERS, EMPTY] {
            let mut story = Story::new(5);
            assert!(story.keeps(6, all, SEC) && story.keeps(6, all, LOST_FOR.checked_sub(SEC).unwrap()));
            assert!(story.keeps(7, FEWER, Duration::ZERO), "what is written back brings nothing else with it");
            assert!(story.believes(7, all));
        }
        let mut story = Story::new(5);
        assert!(story.keeps(6, EMPTY, SEC) && story.believes(7, OTHER) && story.keeps(8, EMPTY, 2 * LOST_FOR));
    }

    #[tokio::test]
    async fn what_lost_its_disk_is_never_believed_while_it_is_empty() {
        let mut story = Story::new(50);
        assert!(matches!(story.said(1, EMPTY, SEC), Verdict::Refused(_)));
        assert!(matches!(story.said(1, EMPTY, OLDER_FOR), Verdict::Refused(_)));
        for _ in 0..10 {
            assert!(story.keeps(1, EMPTY, LOST_FOR));
        }
        assert!(story.keeps(2, FEWER, SEC) && story.keeps(2, FEWER, LOST_FOR.checked_sub(2 * SEC).unwrap()));
        assert!(story.believes(2, FEWER));
    }

    #[tokio::test]
    async fn what_an_older_backup_lacks_is_kept_for_long() {
        let mut story = Story::new(50);
        assert!(story.refuses(9, SEC) && story.refuses(9, SEC));
        assert!(story.keeps(9, FEWER, OLDER_FOR));
        assert!(story.keeps(9, FEWER, LOST_FOR.checked_sub(SEC).unwrap()) && story.believes(9, FEWER));
    }
}
