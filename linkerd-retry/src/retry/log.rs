use std::{fmt, sync::Arc, time::Duration};

use crate::{Sent, Stop, Verdict};

/// How many attempts a [`Log`] keeps: the latest ones.
pub const MAX_LOGGED: usize = 32;

/// What was tried for one request, in order.
///
/// It is empty, and holds no memory, until the first attempt fails. Of more than [`MAX_LOGGED`] attempts it keeps the
/// latest, and the [number](Self::omitted) of the others. Printed, it is one line.
#[derive(Clone, Debug, Default)]
pub struct Log {
    tried: Vec<Tried>,
    omitted: u32,
    sent: Option<Sent>,
    stop: Option<Stop>,
}

/// One attempt that is over.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tried {
    /// Which one it was. The first is 1.
    pub number: u32,
    /// Where it went, if the [hooks](super::Hooks::endpoint) could tell.
    pub endpoint: Option<Arc<str>>,
    /// What came of it.
    pub verdict: Verdict,
    /// How long it took, without the wait before it.
    pub took: Duration,
}

impl Log {
    /// The attempts that it keeps, in order.
    pub fn tried(&self) -> &[Tried] {
        &self.tried
    }

    /// How many attempts came before those that it keeps.
    pub fn omitted(&self) -> u32 {
        self.omitted
    }

    /// Whether nothing was tried yet.
    pub fn is_empty(&self) -> bool {
        self.tried.is_empty()
    }

    /// Where attempts went, as far as is known, an endpoint as often as it was tried. What picks the next one should
    /// pick another, while there is one.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<str>> {
        self.tried.iter().filter_map(|tried| tried.endpoint.as_ref())
    }

    /// How far the request had got, with all of its attempts, those that are omitted too.
    pub fn sent(&self) -> Sent {
        self.sent.unwrap_or(Sent::Never)
    }

    /// Why there was no other attempt. `None` while there may be one.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    pub(super) fn push(&mut self, tried: Tried) {
        self.sent = self.sent.max(Some(tried.verdict.safety().sent()));
        if self.tried.len() == MAX_LOGGED {
            self.tried.remove(0);
            self.omitted = self.omitted.saturating_add(1);
        }
        self.tried.push(tried);
    }

    pub(super) fn end(&mut self, stop: Stop) {
        self.stop = Some(stop);
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tried = self.tried.len() + self.omitted as usize;
        write!(f, "tried {tried} time{}", if tried == 1 { "" } else { "s" })?;
        for (i, Tried { number, endpoint, verdict, took }) in self.tried.iter().enumerate() {
            write!(f, "{} #{number}", if i == 0 { ":" } else { "," })?;
            if let Some(endpoint) = endpoint {
                write!(f, " at {endpoint}")?;
            }
            let outcome = if verdict.class().is_success() { "succeeded" } else { "failed" };
            write!(f, " {outcome} after {took:?}")?;
        }
        self.stop.map_or(Ok(()), |stop| write!(f, "; {stop}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Safety;

    fn tried(number: u32, endpoint: &str) -> Tried {
        let verdict = Verdict::failure(Safety::Refused);
        Tried { number, endpoint: Some(Arc::from(endpoint)), verdict, took: Duration::from_millis(5) }
    }

    #[test]
    fn it_reads_as_one_line() {
        let mut log = Log::default();
        log.push(tried(1, "10.0.0.1:80"));
        assert_eq!(log.to_string(), "tried 1 time: #1 at 10.0.0.1:80 failed after 5ms");
        log.push(Tried { endpoint: None, ..tried(2, "") });
        log.end(Stop::BudgetExhausted);
        assert_eq!(
            log.to_string(),
            "tried 2 times: #1 at 10.0.0.1:80 failed after 5ms, #2 failed after 5ms; retry budget exhausted"
        );
        assert_eq!(log.endpoints().map(|endpoint| &**endpoint).collect::<Vec<_>>(), ["10.0.0.1:80"]);
    }

    #[test]
    fn it_keeps_the_latest_and_counts_the_others() {
        let mut log = Log::default();
        for number in 1..=100 {
            log.push(tried(number, "a"));
        }
        assert_eq!((log.tried().len(), log.omitted()), (MAX_LOGGED, 100 - MAX_LOGGED as u32));
        assert_eq!((log.tried()[0].number, log.tried()[31].number), (69, 100));
        assert!(log.to_string().starts_with("tried 100 times: #69"));
    }

    #[test]
    fn the_attempt_that_got_furthest_counts_even_if_it_is_omitted() {
        let mut log = Log::default();
        assert_eq!(log.sent(), Sent::Never);
        for (safety, sent) in
            [(Safety::NeverSent, Sent::Never), (Safety::Idempotent, Sent::Possibly), (Safety::Refused, Sent::Possibly)]
        {
            log.push(Tried { verdict: Verdict::failure(safety), ..tried(1, "a") });
            assert_eq!(log.sent(), sent);
        }
        for number in 0..2 * MAX_LOGGED as u32 {
            log.push(tried(number, "a"));
        }
        assert_eq!(log.sent(), Sent::Possibly);
    }
}
