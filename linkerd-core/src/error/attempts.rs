//! What was tried for one request.

use std::{fmt, net::SocketAddr, time::Duration};

use http::{Response, StatusCode};
use linkerd_retry::{Stop, retry::MAX_LOGGED};

use crate::{Body, Error, ErrorKind};

/// What was tried for one request, in order, and why there was no other attempt.
///
/// It holds no memory until the first attempt fails. Of more than 32 attempts it keeps the latest, and the
/// [number](Self::omitted) of the others. Printed, it is one line, with the latest five of them.
#[derive(Clone, Debug, Default)]
pub struct AttemptLog {
    tried: Vec<Attempted>,
    omitted: u32,
    stop: Option<Stop>,
}

/// One attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempted {
    /// Which one it was: retries and requeues count. The first is 1.
    pub number: u32,
    /// Where it went. `None` if it got to no endpoint, or a client layer put another body in the place of the request's.
    pub endpoint: Option<SocketAddr>,
    /// Whether it was a hedge: made while the one before it went on, because that took long.
    pub is_hedge: bool,
    /// What came of it.
    pub outcome: AttemptOutcome,
    /// How long it took, without the wait before it.
    pub took: Duration,
}

/// What a request had left when it failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Left {
    /// How many retries the budget of its name would have paid for then.
    pub retries: u64,
    /// How much time there was until the first limit on all of it. `None` if it had none.
    pub time: Option<Duration>,
}

/// What came of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// An answer.
    Answered(StatusCode),
    /// None, for this reason.
    Failed(ErrorKind),
    /// Nothing yet, when the time for all of them was over.
    UnderWay,
}

impl AttemptLog {
    /// The attempts that it keeps, in order.
    #[must_use]
    pub fn tried(&self) -> &[Attempted] {
        &self.tried
    }

    /// How many attempts came before those that it keeps.
    #[must_use]
    pub fn omitted(&self) -> u32 {
        self.omitted
    }

    /// Why there was no other attempt. `None` if the time was over in the middle of one.
    #[must_use]
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// Whether there was something else to try, and what is not the request's own fault kept it from being tried.
    pub(crate) fn was_stopped(&self) -> bool {
        use Stop::{BudgetExhausted, Deadline, IsRetry, Limited, MaxAttempts, PushedBack};
        match self.stop {
            Some(BudgetExhausted | Deadline | PushedBack | MaxAttempts | IsRetry | Limited) => true,
            Some(_) => false,
            None => self.tried.len() > 1,
        }
    }

    pub(crate) fn push(&mut self, endpoint: Option<SocketAddr>, outcome: AttemptOutcome, took: Duration) {
        let number = self.made().saturating_add(1);
        if self.tried.len() == MAX_LOGGED {
            self.tried.remove(0);
            self.omitted = self.omitted.saturating_add(1);
        }
        self.tried.push(Attempted { number, endpoint, is_hedge: false, outcome, took });
    }

    /// How many attempts there were.
    fn made(&self) -> u32 {
        self.omitted.saturating_add(self.tried.len() as u32)
    }

    /// Adds what was tried after this.
    pub(crate) fn append(&mut self, later: Self) {
        if later.omitted > 0 {
            // What is here is older than what is not there.
            self.omitted = self.made().saturating_add(later.omitted);
            self.tried.clear();
        }
        for Attempted { endpoint, is_hedge, outcome, took, .. } in later.tried {
            self.push(endpoint, outcome, took);
            if is_hedge {
                self.mark_hedge();
            }
        }
    }

    /// Says that the last one was a hedge.
    pub(crate) fn mark_hedge(&mut self) {
        if let Some(last) = self.tried.last_mut() {
            last.is_hedge = true;
        }
    }

    pub(crate) fn end(&mut self, stop: Stop) {
        self.stop = Some(stop);
    }
}

impl AttemptOutcome {
    pub(crate) fn of(result: Result<&Response<Body>, &Error>) -> Self {
        match result {
            Ok(rsp) => Self::Answered(rsp.status()),
            Err(error) => Self::Failed(error.kind()),
        }
    }
}

impl fmt::Display for AttemptLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        let made = self.made();
        write!(f, "tried {made} time{}", if made == 1 { "" } else { "s" })?;
        let latest = &self.tried[self.tried.len().saturating_sub(SHOWN)..];
        for (i, Attempted { number, endpoint, is_hedge, outcome, took }) in latest.iter().enumerate() {
            let before = match i {
                0 if latest.len() < made as usize => ", at last",
                0 => ":",
                _ => ",",
            };
            write!(f, "{before} #{number}{}", if *is_hedge { " hedged" } else { "" })?;
            if let Some(endpoint) = endpoint {
                write!(f, " at {endpoint}")?;
            }
            write!(f, " {outcome} after {}ms", took.as_millis())?;
        }
        self.stop.map_or(Ok(()), |stop| write!(f, "; {stop}"))
    }
}

impl fmt::Display for AttemptOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status) => f.write_str(status.as_str()),
            Self::Failed(kind) => f.write_str(kind.name()),
            Self::UnderWay => f.write_str("without an answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(attempts: u32) -> AttemptLog {
        let mut log = AttemptLog::default();
        let addr = Some(([10, 0, 0, 1], 80).into());
        for _ in 1..attempts {
            log.push(addr, AttemptOutcome::Answered(StatusCode::BAD_GATEWAY), Duration::from_micros(5400));
        }
        log.push(None, AttemptOutcome::Failed(ErrorKind::Closed), Duration::ZERO);
        log
    }

    #[test]
    fn it_reads_as_one_line() {
        let mut two = log(2);
        assert_eq!(two.to_string(), "tried 2 times: #1 at 10.0.0.1:80 502 after 5ms, #2 closed after 0ms");
        two.end(Stop::BudgetExhausted);
        assert!(two.to_string().ends_with("; retry budget exhausted"), "{two}");
        assert_eq!(log(1).to_string(), "tried 1 time: #1 closed after 0ms");
    }

    #[test]
    fn it_keeps_the_latest_shows_five_and_counts_all() {
        let log = log(100);
        assert_eq!((log.tried().len(), log.omitted()), (MAX_LOGGED, 100 - MAX_LOGGED as u32));
        assert_eq!((log.tried()[0].number, log.tried()[31].number), (69, 100));
        let line = log.to_string();
        assert!(line.starts_with("tried 100 times, at last #96 at 10.0.0.1:80 502"), "{line}");
    }

    #[test]
    fn what_was_tried_after_it_is_numbered_on() {
        for (before, after) in [(1, 2), (2, 40), (40, 2), (40, 40)] {
            let (mut all, mut later) = (log(before), log(after));
            later.mark_hedge();
            all.append(later);
            let made = before + after;
            let kept = made.min(MAX_LOGGED as u32);
            assert_eq!((all.tried().len() as u32, all.omitted()), (kept, made - kept));
            let numbers: Vec<_> = all.tried().iter().map(|tried| tried.number).collect();
            assert_eq!(numbers, (made - kept + 1..=made).collect::<Vec<_>>());
            let hedges = all.tried().iter().map(|tried| tried.is_hedge).collect::<Vec<_>>();
            assert_eq!(hedges.iter().rposition(|is| *is), Some(kept as usize - 1));
        }
    }
}
