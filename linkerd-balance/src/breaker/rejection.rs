//! Why a breaker lets nothing through.

use std::{
    error, fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::accrual::Tripped;

/// A [`Breaker`](crate::Breaker) is open: which one, since when, why, and when it will try again.
///
/// ```text
/// breaker 10.0.0.1:80 has been open for 3.2s: 5 consecutive failures, then 1 failed probe; next probe in 1.8s
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rejection {
    /// The breaker's id, if it was given one.
    pub breaker: Option<Arc<str>>,
    /// When it was asked.
    pub at: Instant,
    /// When it opened. Failed probes do not change that.
    pub since: Instant,
    /// Why it is open.
    pub reason: Reason,
    /// When the endpoint is tried again. `None` while it is forced open.
    pub next_probe: Option<NextProbe>,
}

/// Why a breaker is open.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// Its accrual gave the endpoint up.
    Tripped(Tripped),
    /// And probes have not found it well since.
    ProbeFailed {
        /// Why it was given up in the first place.
        tripped: Tripped,
        /// How many probes failed since.
        probes: u32,
    },
    /// Somebody wants it so.
    ForcedOpen {
        /// Until then.
        until: Instant,
    },
}

/// When an endpoint is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NextProbe {
    /// Then, or with the first call after it.
    At(Instant),
    /// Now: as many calls as may are under way to see whether it is well.
    UnderWay,
    /// Once other endpoints of its set are not tried any more: there is a limit.
    AfterOthers,
}

impl error::Error for Rejection {}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("breaker ")?;
        if let Some(id) = &self.breaker {
            write!(f, "{id} ")?;
        }
        let open_for = millis(self.since, self.at);
        if let Reason::ForcedOpen { until } = self.reason {
            return write!(f, "has been forced open for {open_for:?}, and is for another {:?}", millis(self.at, until));
        }
        write!(f, "has been open for {open_for:?}: {}", self.reason)?;
        match self.next_probe {
            None => Ok(()),
            Some(NextProbe::At(at)) if at <= self.at => f.write_str("; next probe now"),
            Some(NextProbe::At(at)) => write!(f, "; next probe in {:?}", millis(self.at, at)),
            Some(NextProbe::UnderWay) => f.write_str("; a probe is under way"),
            Some(NextProbe::AfterOthers) => f.write_str("; next probe once others have ended"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tripped(tripped) => tripped.fmt(f),
            Self::ProbeFailed { tripped, probes: 1 } => write!(f, "{tripped}, then 1 failed probe"),
            Self::ProbeFailed { tripped, probes } => write!(f, "{tripped}, then {probes} failed probes"),
            Self::ForcedOpen { .. } => f.write_str("forced open"),
        }
    }
}

fn millis(from: Instant, to: Instant) -> Duration {
    Duration::from_millis(to.saturating_duration_since(from).as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_what_an_operator_wants_to_know() {
        let since = tokio::time::Instant::now().into_std();
        let at = since + Duration::from_micros(3_200_999);
        let tripped = Tripped::Consecutive { failures: 5 };
        let mut rejection = Rejection {
            breaker: Some("a".into()),
            at,
            since,
            reason: Reason::Tripped(tripped),
            next_probe: Some(NextProbe::At(at + Duration::from_millis(1800))),
        };
        let text = "breaker a has been open for 3.2s: 5 consecutive failures; next probe in 1.8s";
        assert_eq!(rejection.to_string(), text);
        rejection.breaker = None;
        rejection.reason = Reason::ProbeFailed { tripped, probes: 2 };
        rejection.next_probe = Some(NextProbe::UnderWay);
        let text = "breaker has been open for 3.2s: 5 consecutive failures, then 2 failed probes; a probe is under way";
        assert_eq!(rejection.to_string(), text);
        rejection.reason = Reason::ForcedOpen { until: at + Duration::from_mins(1) };
        assert_eq!(rejection.to_string(), "breaker has been forced open for 3.2s, and is for another 60s");
    }
}
