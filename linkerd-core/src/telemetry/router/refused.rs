//! What a server answers, or ends, before there is a request.

use std::{fmt, sync::OnceLock};

use crate::telemetry::{Counter, Scope};

/// Why a server went no further with what a client sent: it counts as no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// `bad_request`: it cannot be understood. 400; of HTTP/2, a stream that is reset with `PROTOCOL_ERROR`.
    BadRequest,
    /// `late_head`: the head did not come in time. 408; of HTTP/2, also the preface or the rest of a frame, and the connection
    /// ends.
    LateHead,
    /// `line_too_long`: the first line of HTTP/1. 414.
    LineTooLong,
    /// `headers_too_large`: too many of them, or too many bytes. 431.
    HeadersTooLarge,
    /// `too_many_streams`: a stream above the limit of its connection, which is reset with `REFUSED_STREAM`.
    TooManyStreams,
    /// `flood`: a connection of HTTP/2 whose client does too much that leads to nothing, such as opening streams and
    /// resetting them. It ends with `ENHANCE_YOUR_CALM`.
    Flood,
}

impl Refused {
    const ALL: [Self; 6] =
        [Self::BadRequest, Self::LateHead, Self::LineTooLong, Self::HeadersTooLarge, Self::TooManyStreams, Self::Flood];

    fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::LateHead => "late_head",
            Self::LineTooLong => "line_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::TooManyStreams => "too_many_streams",
            Self::Flood => "flood",
        }
    }
}

/// `refused/<reason>`: what was refused before there was a request, each there from the first on.
pub struct RefusedStats {
    scope: Scope,
    by_reason: [OnceLock<Counter>; Refused::ALL.len()],
}

impl RefusedStats {
    pub(super) fn new(scope: &Scope) -> Self {
        Self { scope: scope.scope("refused"), by_reason: std::array::from_fn(|_| OnceLock::new()) }
    }

    /// Counts one.
    pub fn record(&self, why: Refused) {
        self.by_reason[why as usize].get_or_init(|| self.scope.counter(why.name())).incr();
    }
}

impl fmt::Debug for RefusedStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RefusedStats").field(&self.scope).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Registry;

    #[test]
    fn each_reason_has_a_counter_of_its_own_from_the_first_on() {
        let registry = Registry::new();
        let stats = RefusedStats::new(&registry.root());
        assert!(registry.is_empty());
        for (i, why) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, i);
            stats.record(why);
            assert_eq!(registry.root().scope("refused").counter(why.name()).get(), 1, "{why:?}");
        }
    }
}
