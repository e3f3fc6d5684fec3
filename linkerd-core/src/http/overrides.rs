//! What a trusted caller says of the timeouts and retries of one request.

#[cfg(feature = "server")]
mod read;

use std::{num::NonZeroU32, ops::RangeInclusive};

use http::{HeaderMap, Response};
use linkerd_retry::{Safety, Verdict};

#[cfg(feature = "server")]
pub use self::read::PerRequest;
#[cfg(feature = "server")]
pub(super) use self::read::{L5D_ERR_DETAIL, strip};
use crate::{Body, Error, ErrorKind, GrpcCode, TimedOut};

/// The sender says that it may be sent again.
const RETRIED: Verdict = Verdict::failure(Safety::Idempotent);
/// The sender says that it may not.
const LASTING: Verdict = Verdict::failure(Safety::Unsafe);

/// What one request's headers said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Overrides {
    total: Option<TimedOut>,
    attempt: Option<TimedOut>,
    statuses: Option<Vec<RangeInclusive<u16>>>,
    codes: Option<Vec<GrpcCode>>,
    max_attempts: Option<NonZeroU32>,
}

impl Overrides {
    /// How long the whole request may take.
    pub(crate) fn total(&self) -> Option<TimedOut> {
        self.total
    }

    /// How long one attempt may take.
    pub(crate) fn attempt(&self) -> Option<TimedOut> {
        self.attempt
    }

    /// How often it may be sent.
    pub(crate) fn max_attempts(&self) -> Option<NonZeroU32> {
        self.max_attempts
    }

    /// Whether it says which answers are retried.
    pub(crate) fn says_which(&self) -> bool {
        self.statuses.is_some() || self.codes.is_some()
    }

    /// What an outcome means, of which a classifier says `verdict`.
    pub(crate) fn verdict(&self, verdict: Verdict, result: Result<&Response<Body>, &Error>) -> Verdict {
        match result {
            Ok(_) if !self.says_which() => verdict,
            Ok(rsp) => {
                let status = rsp.status().as_u16();
                let has_status = self.statuses.iter().flatten().any(|range| range.contains(&status));
                Self::listed(verdict, has_status || self.has_code(rsp.headers()))
            }
            Err(error) if error.kind() == ErrorKind::AttemptTimeout => match error.timer().map(|timer| timer.set_by) {
                Some("l5d-retry-timeout") => RETRIED,
                Some("l5d-response-timeout") => LASTING,
                _ => verdict,
            },
            Err(_) => verdict,
        }
    }

    /// The same of an answer that said what it is at its end, in its trailers.
    pub(crate) fn end_verdict(&self, verdict: Verdict, trailers: &HeaderMap) -> Verdict {
        if self.says_which() { Self::listed(verdict, self.has_code(trailers)) } else { verdict }
    }

    fn has_code(&self, headers: &HeaderMap) -> bool {
        let code = GrpcCode::of(headers);
        code.is_some_and(|code| self.codes.iter().flatten().any(|retried| *retried == code))
    }

    fn listed(verdict: Verdict, is_listed: bool) -> Verdict {
        match (is_listed, verdict.class().is_success()) {
            (true, _) => RETRIED,
            (false, true) => verdict,
            (false, false) => LASTING,
        }
    }
}
