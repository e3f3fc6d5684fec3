//! What happens when too few endpoints are open.

use std::time::{Duration, Instant};

/// What becomes of requests when too few endpoints are open: fewer than [`Policy::panic_below`], or none.
///
/// [`Policy::panic_below`]: crate::Policy::panic_below
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Panic {
    /// Open endpoints are used as long as there is one; without any, the best of what the strategy came upon. What
    /// Finagle does.
    #[default]
    LastPick,
    /// Health is ignored: requests go to all endpoints, so that the few good ones are not overrun. What Envoy does.
    Spray,
    /// Requests fail at once with [`Unavailable`], so that endpoints can recover. One whose time to be probed has come
    /// gets its probe.
    FailFast,
}

/// There is no endpoint for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// None is known.
    #[error("no endpoint is known")]
    NoEndpoints,
    /// Too few are open, and the policy is to fail then.
    #[error(
        "{open} of {size} endpoints are open ({busy} left alone or full, {closed} closed){}{}",
        links(*.unconnected),
        next(*.probe_in)
    )]
    FailFast {
        /// Endpoints.
        size: usize,
        /// Those that are open.
        open: usize,
        /// Those that are busy.
        busy: usize,
        /// Those that are closed.
        closed: usize,
        /// Those of either kind that have no connection, whatever became of requests: their
        /// [link](crate::Health::set_link) is not open.
        unconnected: usize,
        /// Until the first of them may be tried again, if that is known.
        probe_in: Option<Duration>,
    },
}

impl Unavailable {
    /// Whether it is for want of connections alone: there are endpoints, and each one that is not open has none yet, or
    /// none any more. Otherwise some were left alone for what became of requests, or are full.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        matches!(*self, Self::FailFast { size, open, unconnected, .. } if unconnected > 0 && open + unconnected == size)
    }
}

fn links(unconnected: usize) -> String {
    if unconnected == 0 { String::new() } else { format!(", {unconnected} of them without a connection") }
}

fn next(probe_in: Option<Duration>) -> String {
    probe_in.map(|wait| format!(", the next one is tried in {wait:?}")).unwrap_or_default()
}

/// Something that happened to a set, for logs.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Too few endpoints are open: [`Panic`] says what is done.
    PanicBegan {
        /// What is done.
        mode: Panic,
        /// Endpoints.
        size: usize,
        /// When.
        at: Instant,
    },
    /// Enough endpoints are open again, or there is none any more.
    PanicEnded {
        /// Endpoints.
        size: usize,
        /// When.
        at: Instant,
    },
    /// A tier lost too many of its endpoints: others take over.
    TierLeft {
        /// Its place among the tiers, from 0.
        tier: usize,
        /// Its open endpoints.
        open: usize,
        /// All of them.
        size: usize,
        /// When.
        at: Instant,
    },
    /// A tier has its requests back.
    TierBack {
        /// Its place among the tiers, from 0.
        tier: usize,
        /// Its open endpoints.
        open: usize,
        /// All of them.
        size: usize,
        /// When.
        at: Instant,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_can_read_why_a_request_failed() {
        let mut err = Unavailable::FailFast { size: 3, open: 0, busy: 2, closed: 1, unconnected: 0, probe_in: None };
        assert_eq!(err.to_string(), "0 of 3 endpoints are open (2 left alone or full, 1 closed)");
        if let Unavailable::FailFast { probe_in, .. } = &mut err {
            *probe_in = Some(Duration::from_millis(1500));
        }
        assert!(err.to_string().ends_with("closed), the next one is tried in 1.5s"));
        if let Unavailable::FailFast { unconnected, .. } = &mut err {
            *unconnected = 2;
        }
        assert!(err.to_string().ends_with("1 closed), 2 of them without a connection, the next one is tried in 1.5s"));
    }

    #[test]
    fn it_is_for_want_of_connections_if_nothing_else_is_wrong_with_any() {
        let of = |open, unconnected| {
            let busy = 4 - open;
            Unavailable::FailFast { size: 4, open, busy, closed: 0, unconnected, probe_in: None }.is_connecting()
        };
        assert!(of(0, 4) && of(1, 3));
        assert!(!of(0, 3) && !of(0, 0) && !of(1, 2));
        assert!(!Unavailable::NoEndpoints.is_connecting());
    }
}
