//! One try at one endpoint, and what is learned from its outcome.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use http::{Request, Response, StatusCode};
use linkerd_balance::{LeaseEnd, Mark, Outcome, Permit};

use super::{
    super::{
        attempt::Attempt,
        classified::{Counted, Open},
        endpoints::{Balanced, EndpointClient},
        fault,
        time::{Expired, now},
    },
    BoundName,
};
use crate::{
    Body, Error, ErrorKind,
    body::Rider,
    http::{headers, hint},
    span::ClientSpan,
    svc::SvcFuture,
    telemetry::RequestStats,
};

/// One try at one endpoint, for as long as it has no outcome.
pub(super) struct UnderWay<'a> {
    pub(super) name: &'a BoundName,
    pub(super) service: &'a Arc<RequestStats>,
    pub(super) attempt: &'a Attempt<'a>,
    pub(super) begun: Instant,
    // If it is recorded.
    pub(super) span: Option<ClientSpan>,
    // If its body is not here whole.
    pub(super) upload: Option<Upload>,
    // `None` once there is an outcome.
    pub(super) held: Option<(Option<Permit>, LeaseEnd)>,
}

/// When all of a request was sent, whose body comes from its caller bit by bit.
pub(super) struct Upload(Arc<OnceLock<Instant>>);

impl Upload {
    /// Of this request, unless its body is here whole.
    pub(super) fn of(req: &mut Request<Body>) -> Option<Self> {
        if req.body().as_bytes().is_some() {
            return None;
        }
        let sent = Arc::default();
        req.body_mut().ride(Rider::Upload(Arc::clone(&sent)));
        Some(Self(sent))
    }
}

impl UnderWay<'_> {
    /// Waits for the outcome, and learns from it.
    pub(super) async fn outcome(
        mut self,
        balanced: &Balanced,
        endpoint: &EndpointClient,
        sent: SvcFuture,
    ) -> Result<Response<Body>, Error> {
        let Self { name, service, attempt, begun, .. } = self;
        let client = &*name.client;
        let pending = client.stats.requests.pending.enter();
        let response = name.response(endpoint, attempt, self.span.as_ref(), sent);
        let mut result = client.within_limit(attempt, response).await;
        if let Some(refused) = result.as_ref().ok().and_then(|rsp| refusal(rsp, attempt)) {
            result = Err(refused);
        }
        drop(pending);
        let (permit, mut end) = self.held.take().expect("held until here");
        let done = now();
        let class = attempt.classify(result.as_ref());
        if let Some(span) = self.span.take() {
            span.end(result.as_ref(), class);
        }
        let success = class.is_success();
        match &mut result {
            Ok(rsp) => {
                let verdict = fault::judge(permit, success, rsp, done);
                let classifier = &attempt.info.policy.classifier;
                let is_open = classifier.is_open(rsp);
                if !is_open {
                    client.count(service, success, None, done - begun);
                }
                client.stats.status.record(Some(rsp.status()), done - begun);
                if success {
                    client.requeues.deposit(done);
                }
                let served = success || fault::is_callers(rsp);
                // Too many requests: no fault, but a reason to go elsewhere. So is what gRPC says in place of a body.
                let welcome =
                    served && rsp.status() != StatusCode::TOO_MANY_REQUESTS && !hint::grpc_failure(rsp.headers());
                if client.heeds_hints && !rsp.headers().is_empty() {
                    if !welcome && let Some(push_back) = hint::push_back(rsp.headers()) {
                        end.hint(push_back, done);
                    }
                    if let Some(utilization) = hint::utilization(rsp.headers()) {
                        end.hint(utilization, done);
                    }
                }
                end.mark(Mark::Headers, welcome, done);
                rsp.body_mut().ride(Rider::lease(end, served, verdict));
                if is_open {
                    // Its end will say.
                    let open = Open {
                        classifier: Arc::clone(classifier),
                        counted: Counted::Client(Arc::clone(&client.stats), Arc::clone(service)),
                        method: attempt.method.clone(),
                        elapsed: done - begun,
                        is_marked: false,
                    };
                    return result.map(|rsp| open.watch(rsp));
                }
                // Where it is: an answer is large, and each call on its way would move it.
                result
            }
            Err(error) => {
                // That our own pool is full, our caller's stream broke, or a connection was about to end, is not the
                // endpoint's fault: what is held is given back as if it had never been taken.
                if !matches!(error.kind(), ErrorKind::Overloaded | ErrorKind::RequestBody) && !error.is_left_out() {
                    if let Some(permit) = permit {
                        permit.record(Outcome::Failure, done);
                    }
                    end.end(false, done);
                }
                client.stats.timeouts.record(error);
                if error.kind() == ErrorKind::Connect {
                    // Of a single one it would only be known that there is nobody else.
                    if client.is_fail_fast
                        && balanced.balance.len() > 1
                        && let Some(fail_fast) = &endpoint.fail_fast
                    {
                        fail_fast.failed();
                    }
                    client.stats.creation_failed(error);
                    return result.map_err(|error| balanced.unreachable(error, &endpoint.key, attempt, &client.id));
                }
                client.count(service, false, Some(error), done - begun);
                client.stats.status.record(None, done - begun);
                result
            }
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        // Without the time's being over nobody wants it any more, which says nothing of the endpoint: what is held goes
        // back as if it had never been taken.
        let Some((permit, end)) = self.held.take() else { return };
        let client = &self.name.client;
        let Some(kind) = self.attempt.expired.and_then(Expired::kind) else {
            // But for how long the endpoint was waited for, which is not how long its caller took to send.
            if let Some(Upload(sent)) = &self.upload {
                let now = now();
                end.cancel_since(sent.get().copied().unwrap_or(now), now);
            }
            return;
        };
        if let Some(span) = &mut self.span {
            span.fail(kind.name());
        }
        let done = now();
        if let Some(permit) = permit {
            permit.record(false, done);
        }
        end.end(false, done);
        client.count(self.service, false, Some(&Error::new(kind)), done - self.begun);
        client.stats.status.record(None, done - self.begun);
    }
}

/// A refusal by the peer that says of itself that nothing was done: as good as never sent, if we can send it again.
///
/// Finagle's protocol between hops. A refusal of a request that was not kept is passed on as it came.
fn refusal(rsp: &Response<Body>, attempt: &Attempt<'_>) -> Option<Error> {
    if rsp.status() != StatusCode::SERVICE_UNAVAILABLE || !attempt.is_kept() {
        return None;
    }
    let headers = rsp.headers();
    if headers.contains_key(headers::NONRETRYABLE_NACK) {
        let text = "The request was Nacked by the server and should not be retried";
        return Some(Error::new(ErrorKind::Refused).with_text(text));
    }
    let at_once = headers.get(http::header::RETRY_AFTER).is_some_and(|value| value == "0");
    (at_once || headers.contains_key(headers::NACK)).then(|| {
        let text = "The request was Nacked by the server";
        Error::new(ErrorKind::Refused).with_text(text).with_never_sent(true)
    })
}
