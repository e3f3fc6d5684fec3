//! A bound name: the pick of an endpoint for each try, and what a request carries there.

mod client;
mod under_way;

use std::sync::Arc;

#[cfg(feature = "server")]
use futures::future::Either;
use http::{HeaderValue, Request, Response};
use linkerd_balance::Draw;
use linkerd_dtab::Path;

pub(crate) use self::client::BoundClient;
use self::{
    client::Endpoints,
    under_way::{UnderWay, Upload},
};
use super::{
    attempt::Attempt,
    endpoints::{Balanced, EndpointClient},
    outgoing::Outgoing,
    time::now,
};
#[cfg(feature = "server")]
use crate::access_log::{AccessLog, Served};
use crate::{
    AttemptOutcome, Body, Error, ErrorKind,
    body::Resend,
    http::{RequestContext, TraceId, headers},
    span::ClientSpan,
    svc::SvcFuture,
    telemetry::RequestStats,
};

/// A bound name as one path came to it: a client that others share, and what its namer left over.
#[derive(Debug)]
pub(crate) struct BoundName {
    pub(crate) client: Arc<BoundClient>,
    dst_client: Option<HeaderValue>,
    dst_residual: Option<HeaderValue>,
}

impl BoundName {
    pub(crate) fn new(client: Arc<BoundClient>, residual: &Path) -> Self {
        // Printed paths are visible ASCII, so these always make a value.
        let header = |path: &Path| HeaderValue::try_from(path.to_string()).ok();
        let dst_client = header(&client.id);
        let dst_residual = (!residual.is_empty()).then(|| header(residual)).flatten();
        Self { client, dst_client, dst_residual }
    }

    /// Sends a request to one of the endpoints; to another one if nothing was sent. Above the requeues, because an access log
    /// has a line for each attempt and not for each of those.
    pub(crate) fn send(
        &self,
        attempt: &Attempt<'_>,
        service: &Arc<RequestStats>,
        req: &mut Outgoing,
    ) -> impl Future<Output = Result<Response<Body>, Error>> {
        #[cfg(feature = "server")]
        if let Some(log) = &attempt.info.shared.access_log {
            // Seldom, and large: not part of every request's future.
            return Either::Left(Box::pin(self.send_logged(log, attempt, service, req)));
        }
        #[cfg(feature = "server")]
        return Either::Right(self.send_once(attempt, service, req));
        #[cfg(not(feature = "server"))]
        self.send_once(attempt, service, req)
    }

    #[cfg(feature = "server")]
    async fn send_logged(
        &self,
        log: &AccessLog,
        attempt: &Attempt<'_>,
        service: &Arc<RequestStats>,
        req: &mut Outgoing,
    ) -> Result<Response<Body>, Error> {
        let asked = req.request().and_then(|req| log.asked(req, attempt.cx));
        let mut rsp = self.send_once(attempt, service, req).await?;
        if let Some(asked) = asked {
            log.answered(&asked, &rsp);
        } else {
            let (client, endpoint) = (Some(self.client.id.clone()), req.endpoint());
            let hedges = u32::from(req.is_hedge());
            rsp.extensions_mut().insert(Served { client, endpoint, hedges, ..Served::default() });
        }
        Ok(rsp)
    }

    async fn send_once(
        &self,
        attempt: &Attempt<'_>,
        service: &Arc<RequestStats>,
        req: &mut Outgoing,
    ) -> Result<Response<Body>, Error> {
        let mut result = match &self.client.endpoints {
            // No answer ends with one of these; hyper would refuse it in the middle of the connection.
            Endpoints::Status(status) if status.is_informational() => {
                let text = format!("{} cannot be the status of an answer", status.as_u16());
                Err(Error::new(ErrorKind::BadResponse).with_text(text))
            }
            Endpoints::Status(status) => {
                let mut rsp = Response::new(Body::empty());
                *rsp.status_mut() = *status;
                Ok(rsp)
            }
            Endpoints::Balanced(balanced) => match balanced.wait(attempt, &self.client.id).await {
                Ok(()) => match Self::asks_for_its_way(attempt, req) {
                    None => self.requeue(balanced, attempt, service, req).await,
                    // Seldom, and large: not part of every request's future.
                    Some(trace) => Box::pin(self.trace(trace, balanced, attempt, service, req)).await,
                },
                Err(error) => Err(error),
            },
        };
        // Where it is: an answer is large, and each call on its way would move it.
        if let Err(error) = &mut result {
            error.set_client(&self.client.id);
        }
        result
    }

    /// The requeue: above the pick, so that another endpoint gets the next try; below the retries, which need a class.
    pub(super) async fn requeue(
        &self,
        balanced: &Balanced,
        attempt: &Attempt<'_>,
        service: &Arc<RequestStats>,
        req: &mut Outgoing,
    ) -> Result<Response<Body>, Error> {
        let client = &*self.client;
        let mut requeues = 0;
        let mut limit = None;
        req.choose(balanced.balance.len() > 1);
        // Before it is sent: what is sent again has the same key.
        let key = client.hash_on.as_ref().and_then(|on| on.key(req.request()?, attempt.cx));
        let outcome = loop {
            let mut draw = Draw::new(crate::random::next());
            draw.key = key;
            let lease = match balanced.balance.try_acquire(draw, now(), req.tried()) {
                Ok(lease) => lease,
                Err(unavailable) => break Err(balanced.unavailable(unavailable)),
            };
            let (endpoint, end) = lease.into_parts();
            if req.keeps_off(&endpoint.key) {
                let text = "there is no other endpoint to hedge at";
                break Err(Error::new(ErrorKind::NoEndpoints).with_text(text));
            }
            let begun = end.begun();
            // Whatever it waited for may have been late, and the timer of the request not had its turn yet.
            if let Some(late) = attempt.late(begun) {
                break Err(late);
            }
            // Each attempt is a span of its own.
            let id = attempt.cx.map(RequestContext::next_span);
            let span = self.span(attempt, id, &endpoint, req);
            if let Some(req) = req.request_mut() {
                self.write(attempt, id, req);
            }
            let permit = endpoint.breaker.as_ref().map(|breaker| breaker.admit(begun));
            let upload = req.request_mut().and_then(Upload::of);
            let held = Some((permit, end));
            let under_way = UnderWay { name: self, service, attempt, begun, span, upload, held };
            let sent = endpoint.send(attempt, req.take()?);
            let error = match under_way.outcome(balanced, req.arrive(endpoint, begun), sent).await {
                Err(error) if error.never_sent() => error,
                outcome => break outcome,
            };
            if let Some(hints) = attempt.hints {
                hints.unsent();
            }
            let kind = error.kind();
            match client.may_requeue(balanced, attempt, error, requeues, &mut limit) {
                Ok(again) => req.put(again),
                Err(error) => break Err(error),
            }
            req.came_back(AttemptOutcome::Failed(kind), now() - begun);
            requeues += 1;
            // Failures that are there at once must let the timers of the request have their turn.
            tokio::task::yield_now().await;
        };
        client.stats.requeues.requeues_per_request.record(requeues);
        outcome
    }

    /// Waits for the response. A request that went out on a connection which was closing goes out once more.
    async fn response(
        &self,
        endpoint: &EndpointClient,
        attempt: &Attempt<'_>,
        span: Option<&ClientSpan>,
        sent: SvcFuture,
    ) -> Result<Response<Body>, Error> {
        // The answer has no room beside what is awaited next.
        let error = match sent.await {
            Err(error) if error.is_lost() => error,
            outcome => return outcome,
        };
        self.send_again(endpoint, attempt, span, error)?.await
    }

    fn send_again(
        &self,
        endpoint: &EndpointClient,
        attempt: &Attempt<'_>,
        span: Option<&ClientSpan>,
        error: Error,
    ) -> Result<SvcFuture, Error> {
        let Some(mut again) = attempt.replay() else { return Err(error) };
        if let Some(late) = attempt.late(now()) {
            // It did go out once.
            return Err(late.with_never_sent(false));
        }
        if let Some(hints) = attempt.hints {
            // As far as anybody knows.
            hints.unsent();
        }
        // The same attempt, as far as anybody can see.
        let id = span.map(ClientSpan::id).or_else(|| attempt.cx.map(RequestContext::next_span));
        self.write(attempt, id, &mut again);
        again.body_mut().resend = Resend::Never;
        Ok(endpoint.svc.send(again))
    }

    /// The span of an attempt, if it is recorded.
    fn span(
        &self,
        attempt: &Attempt<'_>,
        id: Option<TraceId>,
        endpoint: &EndpointClient,
        req: &Outgoing,
    ) -> Option<ClientSpan> {
        let recording = attempt.cx?.recording.as_ref()?;
        let residual = self.dst_residual.as_ref().and_then(|residual| residual.to_str().ok()).unwrap_or("/");
        Some(recording.attempt(id?, &self.client.id, residual, endpoint.key.addr, req.request()?))
    }

    /// Writes what an attempt carries.
    fn write(&self, attempt: &Attempt<'_>, id: Option<TraceId>, req: &mut Request<Body>) {
        if let Some(spelling) = attempt.cx.and_then(|cx| cx.spelling.as_ref()) {
            req.extensions_mut().insert(spelling.clone());
        }
        let headers = req.headers_mut();
        let timeout = self.client.attempt_timeout(attempt).map(|timeout| timeout.limit);
        match (attempt.cx.zip(id), timeout) {
            (Some((cx, id)), Some(timeout)) => {
                let mut cx = cx.clone();
                cx.expire_after(timeout);
                cx.write_span(id, headers);
            }
            (Some((cx, id)), None) => cx.write_span(id, headers),
            (None, _) => {}
        }
        if let Some(hints) = attempt.hints {
            hints.write(headers);
        }
        if let Some(grpc) = attempt.grpc {
            grpc.write(headers, now(), timeout);
        }
        if !attempt.info.shared.proxy {
            return;
        }
        if let Some(client) = &self.dst_client {
            headers.insert(headers::L5D_DST_CLIENT, client.clone());
        }
        match &self.dst_residual {
            Some(residual) => drop(headers.insert(headers::L5D_DST_RESIDUAL, residual.clone())),
            // A caller's own would pass for ours.
            None => drop(headers.remove(headers::L5D_DST_RESIDUAL)),
        }
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use http::Request;
    use linkerd_dtab::Endpoint;
    use tower::service_fn;

    use super::*;
    use crate::{ClientPolicy, Mesh, ServicePolicy, Svc, Uniform, http::Connect, testing::FakeNamer};

    /// Every connection is closing, which it takes so long to find out.
    #[derive(Clone)]
    struct Closing(Duration, Arc<AtomicUsize>);

    impl Connect for Closing {
        fn connect(&self, _: &Endpoint) -> Svc {
            let Self(time, sent) = self.clone();
            Svc::new(service_fn(move |_: Request<Body>| {
                sent.fetch_add(1, Ordering::Relaxed);
                // The clock goes on in the first poll: the thread is busy for so long.
                let _ = tokio_test::task::spawn(tokio::time::advance(time)).poll();
                async { Err::<Response<Body>, _>(Error::new(ErrorKind::Closed).lost()) }
            }))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_lost_is_sent_once_more_unless_its_time_is_over() {
        for (millis, expected) in [(1, (ErrorKind::Closed, 2)), (1000, (ErrorKind::TotalTimeout, 1))] {
            let (namer, sent) = (FakeNamer::new(), Arc::default());
            namer.endpoints("/users", [([10, 0, 0, 1], 80).into()]);
            let service = ServicePolicy { total_timeout: Some(Duration::from_secs(1)), ..ServicePolicy::default() };
            let mesh = Mesh::builder()
                .namer("/#/fake", namer)
                .connect(Closing(Duration::from_millis(millis), Arc::clone(&sent)))
                .dtab("/svc => /#/fake".parse().unwrap())
                .policies(Uniform { service, client: ClientPolicy::default() });
            let client = mesh.build().unwrap().client("/svc/users").unwrap();
            let error = client.send(Request::get("/").body("").unwrap()).await.unwrap_err();
            assert_eq!((error.kind(), sent.load(Ordering::Relaxed)), expected);
            assert!(!error.never_sent(), "it did go out");
        }
    }
}
