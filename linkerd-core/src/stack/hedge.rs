//! An attempt that takes long, made a second time elsewhere while the first goes on.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use futures::FutureExt;
use http::Response;
use linkerd_retry::{
    Deadline,
    hedge::{HedgeLayer, HedgeRequest},
};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    attempt::Attempt,
    outgoing::Outgoing,
    path::PathStack,
    time::now,
    trail::{Leg, Trail},
};
use crate::{AttemptOutcome, Body, Error, policy::HedgePolicy, telemetry::RetryStats};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The hedges of one logical name: how long its requests take, and what pays for them.
#[derive(Debug)]
pub(super) struct Hedges(HedgeLayer<Choice>);

/// Sends either leg of an attempt.
#[derive(Clone)]
struct Legs<'a> {
    stack: &'a PathStack,
    attempt: &'a Attempt<'a>,
}

/// What a leg is made of. The hedge's request is made when it is due.
enum Request<'a> {
    First(First<'a>),
    Hedge(Trail),
}

/// The attempt itself.
struct First<'a> {
    req: &'a mut Outgoing,
    deadline: Option<Deadline>,
    is_retry: bool,
}

/// What came of one leg.
struct Ended {
    leg: Leg,
    result: Result<Response<Body>, Error>,
    is_success: bool,
}

/// Every attempt that gets here may be hedged, if there is somewhere else to go, and a success wins.
#[derive(Clone, Copy, Debug)]
struct Choice;

/// Counts a hedge, also of a request that is given up.
struct Count<'a> {
    stats: &'a RetryStats,
    trail: Trail,
    won: bool,
}

impl Hedges {
    /// None if the policy cannot be, which was checked when it was made.
    pub(super) fn new(policy: &HedgePolicy, retries: &linkerd_retry::Budget) -> Option<Self> {
        policy.layer(Choice).ok().map(|layer| Self(layer.budget(retries.clone())))
    }

    /// How many attempts took long enough for a hedge that could not be paid for.
    pub(super) fn unpaid(&self) -> u64 {
        self.0.stats().budget_exhausted()
    }

    /// Makes an attempt, in two legs if the first takes long: a share of the requests, of which a retry is none. In a box:
    /// it is large, and not part of every request.
    pub(super) fn send<'a>(
        &'a self,
        stack: &'a PathStack,
        attempt: &'a Attempt<'a>,
        req: &'a mut Outgoing,
        is_retry: bool,
    ) -> Boxed<'a, Result<Response<Body>, Error>> {
        let mut count = Count { stats: stack.retry_stats(), trail: req.trail().clone(), won: false };
        let first = Request::First(First { req, deadline: attempt.deadline(), is_retry });
        let mut legs = self.0.layer(Legs { stack, attempt });
        Box::pin(legs.call(first).map(move |ended| match ended {
            Ok(Ended { leg, result, is_success }) => {
                // As a whole: its `Drop` is what counts, and has to be in here.
                let count = &mut count;
                count.won = leg == Leg::Hedge && is_success;
                result
            }
            Err(never) => match never {},
        }))
    }
}

impl Legs<'_> {
    async fn send(self, req: Request<'_>) -> Ended {
        let Self { stack, attempt } = self;
        let begun = now();
        let (trail, result) = match req {
            Request::First(First { req, .. }) => {
                let trail = req.trail().clone();
                (trail, stack.attempt(attempt, req).await)
            }
            Request::Hedge(trail) => {
                tracing::debug!(dst = %stack.info().path, "no answer yet: a second attempt is made elsewhere");
                let result = match attempt.replay() {
                    Some(again) => stack.attempt(attempt, &mut Outgoing::on(again, Some(trail.clone()))).await,
                    None => Err(Error::not_kept()),
                };
                (trail, result)
            }
        };
        let is_success = attempt.classify(result.as_ref()).is_success();
        // One that did not begin is no attempt.
        let is_late = attempt.instead(result.as_ref()).is_some();
        if !is_success && !is_late {
            trail.fail(AttemptOutcome::of(result.as_ref()), now() - begun);
        }
        Ended { leg: trail.leg(), result, is_success }
    }
}

impl<'a> Service<Request<'a>> for Legs<'a> {
    type Response = Ended;
    type Error = Infallible;
    type Future = Boxed<'a, Result<Ended, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Request<'a>) -> Self::Future {
        let legs = self.clone();
        Box::pin(async move { Ok(legs.send(req).await) })
    }
}

impl<'a> HedgeRequest<Request<'a>, Ended, Infallible> for Choice {
    fn copy(&self, first: &mut Request<'a>) -> Option<Request<'a>> {
        match first {
            Request::First(first) => Some(Request::Hedge(first.req.trail().of_hedge())),
            Request::Hedge(_) => None,
        }
    }

    fn counts(&self, first: &Request<'a>) -> bool {
        matches!(first, Request::First(First { is_retry: false, .. }))
    }

    fn deadline(&self, first: &Request<'a>) -> Option<Deadline> {
        match first {
            Request::First(first) => first.deadline,
            Request::Hedge(_) => None,
        }
    }

    fn is_wanted(&self, second: &Request<'a>) -> bool {
        match second {
            Request::First(..) => false,
            Request::Hedge(trail) => trail.has_elsewhere(),
        }
    }

    fn wins(&self, outcome: Result<&Ended, &Infallible>) -> bool {
        outcome.is_ok_and(|ended| ended.is_success)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        if self.trail.is_hedged() {
            self.stats.hedged(self.won);
        }
    }
}
