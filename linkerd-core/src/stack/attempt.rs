//! One attempt at a request, as what is below the retries sees it.

use std::{sync::Arc, time::Instant};

use http::{Method, Request, Response};
use linkerd_retry::{Deadline, Pushback, ResponseClass, Safety, Verdict};

use super::{
    PathInfo,
    hints::{Hints, says_final, says_retryable},
    outgoing::Replay,
    time::{Due, Expired, now},
};
use crate::{
    Body, Error, ErrorKind,
    http::{context::RequestContext, deadline::GrpcUntil, hint, overrides::Overrides},
};

/// One attempt at a request, for what is below.
pub(crate) struct Attempt<'a> {
    /// When the request came, so that its waits add up.
    pub(crate) arrived: Instant,
    pub(crate) info: &'a PathInfo,
    pub(crate) method: &'a Method,
    pub(crate) cx: Option<&'a RequestContext>,
    /// Until when it is wanted, if it is a gRPC call.
    pub(crate) grpc: Option<GrpcUntil>,
    pub(crate) replay: Option<&'a Replay>,
    pub(crate) expired: Option<&'a Expired>,
    /// When nothing may begin for it any more.
    pub(super) due: Option<Due>,
    /// If hops tell each other of retries.
    pub(crate) hints: Option<&'a Arc<Hints>>,
}

impl Attempt<'_> {
    /// The class of this attempt's outcome, as the name's classifier has it.
    pub(crate) fn classify(&self, result: Result<&Response<Body>, &Error>) -> ResponseClass {
        self.info.policy.classifier.classify(self.method, result)
    }

    /// What this attempt's outcome means for another one, as the name's classifier, the sender and the peer have it.
    pub(super) fn verdict(&self, result: Result<&Response<Body>, &Error>) -> Verdict {
        let classifier = &self.info.policy.classifier;
        let mut verdict = classifier.verdict(self.method, result);
        let overrides = self.overrides();
        let is_listed = overrides.is_some_and(Overrides::says_which);
        if let Some(overrides) = overrides {
            verdict = overrides.verdict(verdict, result);
        }
        if verdict.class().is_success() {
            return verdict;
        }
        if !is_listed && !verdict.class().is_retryable() && self.is_keyed() {
            // As good as a method that may be repeated.
            let keyed = classifier.verdict(&Method::PUT, result);
            if keyed.class().is_retryable() {
                verdict = keyed;
            }
        }
        match result {
            Ok(rsp) => self.heed(verdict, rsp),
            Err(_) => verdict,
        }
    }

    /// What the head of an answer says of another attempt, where the answer is a failure.
    pub(super) fn heed(&self, verdict: Verdict, rsp: &Response<Body>) -> Verdict {
        if self.hints.is_some() && says_final(rsp) {
            return verdict.push_back(Pushback::Never);
        }
        let is_refused = !verdict.class().is_retryable() && says_retryable(rsp);
        let verdict = if is_refused { Verdict::failure(Safety::Refused) } else { verdict };
        hint::retry(rsp.headers()).map_or(verdict, |pushback| verdict.push_back(pushback))
    }

    /// Notes what happened in the span of the request, if it is recorded.
    pub(super) fn event(&self, event: &'static str) {
        if let Some(recording) = self.cx.and_then(|cx| cx.recording.as_ref()) {
            recording.event(event);
        }
    }

    /// What its sender says of its timeouts and retries, if it is trusted.
    pub(super) fn overrides(&self) -> Option<&Overrides> {
        self.cx?.overrides.as_deref()
    }

    /// Whether its sender says that it may be sent twice, though its method does not.
    pub(super) fn is_keyed(&self) -> bool {
        self.replay.is_some_and(Replay::is_keyed)
    }

    /// Why it must not begin any more, if the time of the whole request is over.
    pub(super) fn late(&self, now: Instant) -> Option<Error> {
        let limit = self.due?.over(now)?;
        Some(self.info.late(limit, self.arrived, self.cx).with_never_sent(true))
    }

    /// The same if that is what became of it, with what is known here. An endpoint may say so too, of a time of its own.
    pub(super) fn instead(&self, result: Result<&Response<Body>, &Error>) -> Option<Error> {
        let error = result.err()?;
        let is_time = matches!(error.kind(), ErrorKind::TotalTimeout | ErrorKind::Deadline);
        if is_time && error.never_sent() { self.late(now()) } else { None }
    }

    /// When the whole request must be over.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.expired.map(Expired::deadline)
    }

    /// The request once more, if it was kept.
    pub(crate) fn replay(&self) -> Option<Request<Body>> {
        self.replay.and_then(Replay::request)
    }

    /// Whether it was.
    pub(crate) fn is_kept(&self) -> bool {
        self.replay.is_some_and(Replay::is_whole)
    }
}
