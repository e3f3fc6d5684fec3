//! The client of a bound name: its endpoints, their health, and one use of one of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use http::{HeaderValue, Method, Request, Response, StatusCode};
use linkerd_balance::{Balance, Breaker, Status};
use linkerd_dtab::{Activity, Addr, Failure, Path, State};
use linkerd_retry::{Budget, ResponseClass};
use smallvec::SmallVec;
use tokio::{sync::watch, task::AbortHandle};

use super::path::{Attempt, now};
use crate::{
    Body, Error, ErrorKind, Svc,
    body::Rider,
    connect::Connect,
    error::twitter_duration,
    http::headers,
    policy::ClientPolicy,
    telemetry::ClientStats,
};

/// What tells one endpoint of a client from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndpointKey {
    pub(crate) addr: SocketAddr,
    pub(crate) generation: u64,
    pub(crate) authority: Option<Arc<str>>,
}

/// A bound name as one path came to it: a client that others share, and what its namer left over.
#[derive(Debug)]
pub(crate) struct BoundName {
    pub(crate) client: Arc<BoundClient>,
    dst_client: Option<HeaderValue>,
    dst_residual: Option<HeaderValue>,
}

/// The endpoints behind one bound id, balanced.
pub(crate) struct BoundClient {
    id: Path,
    // As metrics and messages write it, without the slash.
    label: String,
    endpoints: Endpoints,
    policy: ClientPolicy,
    requeues: Budget,
    stats: ClientStats,
}

enum Endpoints {
    Balanced { balance: Balance<EndpointKey, Arc<EndpointClient>>, progress: Progress },
    /// `/$/io.buoyant.http.status/CODE`: nobody is asked.
    Status(StatusCode),
}

/// One endpoint.
struct EndpointClient {
    svc: Svc,
    breaker: Breaker,
}

/// Whether the first address came.
struct Progress {
    // Set once, and then all that a request looks at.
    known: AtomicBool,
    state: watch::Receiver<Known>,
    source: watch::Sender<Activity<Addr>>,
    task: AbortHandle,
}

#[derive(Clone, Debug)]
enum Known {
    Pending,
    Yes,
    Failed(Failure),
}

impl BoundName {
    pub(crate) fn new(client: Arc<BoundClient>, residual: &Path) -> Self {
        // Printed paths are visible ASCII, so these always make a value.
        let header = |path: &Path| HeaderValue::try_from(path.to_string()).ok();
        let dst_client = header(&client.id);
        let dst_residual = (!residual.is_empty()).then(|| header(residual)).flatten();
        Self { client, dst_client, dst_residual }
    }

    /// Sends a request to one of the endpoints; to another one if nothing was sent.
    pub(crate) async fn send(&self, attempt: &Attempt<'_>, req: Request<Body>) -> Result<Response<Body>, Error> {
        let client = &*self.client;
        let result = match &client.endpoints {
            Endpoints::Status(status) => {
                let mut rsp = Response::new(Body::empty());
                *rsp.status_mut() = *status;
                client.stats.answered(*status, attempt.classify(Ok(&rsp)) == ResponseClass::Success, now() - attempt.begun);
                Ok(rsp)
            }
            Endpoints::Balanced { balance, progress } => {
                progress.wait(attempt).await?;
                self.requeue(balance, attempt, req).await
            }
        };
        result.map_err(|error| error.with_client(&client.id))
    }

    /// The requeue: above the pick, so that another endpoint gets the next try; below the retries, which need a class.
    async fn requeue(
        &self,
        balance: &Balance<EndpointKey, Arc<EndpointClient>>,
        attempt: &Attempt<'_>,
        mut req: Request<Body>,
    ) -> Result<Response<Body>, Error> {
        let client = &*self.client;
        let mut tried = SmallVec::<[EndpointKey; 2]>::new();
        let mut requeues = 0;
        loop {
            let begun = now();
            let Some(lease) = balance.try_acquire(begun, None, &tried) else {
                return Err(Error::new(ErrorKind::NoEndpoints));
            };
            let key = lease.key().clone();
            let (endpoint, end) = lease.into_parts();
            self.write_headers(attempt, req.headers_mut());
            let probe = endpoint.breaker.admit(begun);
            let result = client.attempt(&endpoint, &key, attempt, req).await;
            let done = now();
            let class = attempt.classify(result.as_ref());
            let success = class == ResponseClass::Success;
            client.stats.breaker(endpoint.breaker.record(success, done));
            drop(probe);
            let mut error = match result {
                Ok(mut rsp) => {
                    client.stats.answered(rsp.status(), success, done - begun);
                    rsp.body_mut().ride(Rider::Lease(end.classified(success, done)));
                    client.requeues.deposit(done);
                    return Ok(rsp);
                }
                Err(error) => error,
            };
            end.end(false, done);
            if error.kind() == ErrorKind::Connect {
                client.stats.service_creation_failures.incr();
                client.explain_connect(balance, &key, attempt, &mut error);
            } else {
                client.stats.failed(done - begun);
            }
            if !error.never_sent() {
                return Err(error);
            }
            let Some(again) = error.take_request().or_else(|| attempt.replay()) else {
                client.stats.cannot_retry.incr();
                return Err(error);
            };
            if balance.status() != Status::Open {
                client.stats.not_open.incr();
                return Err(error);
            }
            if requeues >= per_request_cap(&client.requeues, done) {
                client.stats.request_limit.incr();
                return Err(error);
            }
            if !client.requeues.try_withdraw(done) {
                client.stats.requeue_budget_exhausted.incr();
                return Err(error);
            }
            client.stats.requeues.incr();
            requeues += 1;
            tried.push(key);
            req = again;
        }
    }
}
