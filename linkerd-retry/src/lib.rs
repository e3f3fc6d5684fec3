//! What failed, and what now: retries that cannot turn a slow backend into an outage.
//!
//! Retries are paid for. A [`Budget`] lets them be a share of the requests, and charges for a retry when it is scheduled,
//! so that a thousand requests that fail together do not all come back. What may be retried at all, a [`Classifier`]
//! says, by how [safe](Safety) it is; how long to wait, a [`Backoff`], and the peer, who may [push back](Pushback); and a
//! [`Deadline`] when to be done. These know no clock and no protocol, and neither does what decides by them all,
//! [`Attempts`]. On them stand plain tower layers, for any request, response and error:
//!
//! ```text
//!   request ──► Deadlines ──► TotalTimeout ──► Retry ───────► Requeue ────► AttemptTimeout ──► pick an endpoint, send
//!                 what came     one time         classified     only what      one time for
//!                 too late is   for all of       failures,      was never      each attempt
//!                 dropped       it               within budget  sent, at once,
//!                                                and deadline   from a budget
//!                                                               of its own
//! ```
//!
//! | to | there is | its page |
//! |---|---|---|
//! | send again what failed | [`RetryLayer`](retry::RetryLayer) | [`retry`] |
//! | send again, unbuffered, what was never sent | [`RequeueLayer`](requeue::RequeueLayer) | [`requeue`] |
//! | send a body again that is still being received | `ReplayBody`, feature `body` | `replay` |
//! | bound requests, attempts and silence | [`TotalTimeoutLayer`](timeout::TotalTimeoutLayer), [`AttemptTimeoutLayer`](timeout::AttemptTimeoutLayer), `IdleBody` | [`timeout`] |
//! | drop what comes too late | [`DeadlineLayer`](expire::DeadlineLayer) | [`expire`] |
//! | ask a second endpoint when the first takes long | [`HedgeLayer`](hedge::HedgeLayer) | [`hedge`] |
//! | let in no more than can be served | [`LimitLayer`](limit::LimitLayer), [`RateLimitLayer`](limit::RateLimitLayer) | [`limit`] |
//! | have all that in one line | [`RetryPolicy::standard`] and its presets | [`RetryPolicy`] |
//!
//! ```
//! use linkerd_retry::{Backoff, Budget, BudgetSettings, ResponseClass};
//! use linkerd_retry::{retry::RetryLayer, timeout::TotalTimeoutLayer};
//! use std::time::Duration;
//! use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! let failed_read = |req: &&str, rsp: Result<&u16, &BoxError>| match rsp {
//!     Ok(status) if *status < 500 => ResponseClass::Success,
//!     _ => ResponseClass::Failure { retryable: req.starts_with("GET") },
//! };
//! let retry = RetryLayer::new(failed_read)
//!     .budget(Budget::new(BudgetSettings { percent: 0.5, ..BudgetSettings::default() })?)
//!     .backoff(Backoff::decorrelated(Duration::from_millis(10), Duration::from_secs(1))?);
//! let stats = retry.stats();
//! let svc = ServiceBuilder::new()
//!     .layer(TotalTimeoutLayer::new(Duration::from_secs(2)))
//!     .layer(retry)
//!     .service(service_fn(|_: &str| async { Ok::<_, BoxError>(503) }));
//! let err = svc.oneshot("GET /").await.unwrap_err();
//! assert_eq!(err.to_string(), "no response within 2s, retries included");
//! assert!(stats.total() > 0);
//! # Ok(())
//! # }
//! ```
//!
//! The layers join their errors to the inner service's by `From`: with an error type of your own, write
//! `impl From<Elapsed> for MyError`. The parts are there for a stack that is not made of layers, too:
//!
//! ```
//! # use linkerd_retry::{Backoff, Budget, Classifier};
//! # use std::time::Instant;
//! async fn call<Req: Clone, Rsp, E>(
//!     req: Req,
//!     send: impl AsyncFn(Req) -> Result<Rsp, E>,
//!     classifier: &impl Classifier<Req, Rsp, E>,
//!     budget: &Budget,
//!     backoff: &Backoff,
//! ) -> Result<Rsp, E> {
//!     let now = || tokio::time::Instant::now().into_std();
//!     budget.deposit(now());
//!     let mut delays = backoff.start();
//!     loop {
//!         let rsp = send(req.clone()).await;
//!         let class = classifier.classify(&req, rsp.as_ref());
//!         if !class.is_retryable() || !budget.try_withdraw(now()) {
//!             return rsp;
//!         }
//!         drop(rsp);
//!         tokio::time::sleep(delays.next(random())).await;
//!     }
//! }
//! # fn random() -> u64 { 4 }
//! ```
//!
//! # What happens at the limits
//!
//! | limit | then | counted as |
//! |---|---|---|
//! | the budget of [`Retry`](retry::Retry) is empty | the last outcome is passed on as it came | `budget_exhausted` |
//! | a request cannot be copied, or its copy is not whole | it is sent once | - |
//! | as many attempts as there may be | the last outcome | `max_attempts` |
//! | another attempt would not be over by the deadline | the last outcome, now and not at the deadline | `deadline` |
//! | the peer asks for no retry | the last outcome | `pushed_back` |
//! | the peer asks for more than [five minutes](MAX_PUSHBACK) | it gets these | - |
//! | more than [32 attempts](retry::MAX_LOGGED) | the log has the latest | `omitted` |
//! | a drain takes longer than there is time for it | it is dropped | - |
//! | a body is longer than its cap, or has too many frames | it streams on, and is sent once | `too_long` |
//! | all bodies together are | the same | `refused` |
//! | the budget of [`Requeue`](requeue::Requeue) is empty | the error, after [`give_up`](requeue::Unsent::give_up) | `budget_exhausted` |
//! | one request used a fifth of that budget, or its bound | the same | `request_limit` |
//! | the bound is 0: there is nowhere to go | the error as it came | `cannot_retry` |
//! | the deadline of an unsent request has passed | the error, after `give_up` | `deadline` |
//! | more than a share of the requests are late at a [server](expire::DeadlineLayer::server) | they are served | `late` less `dropped` |
//! | the time of [`TotalTimeout`](timeout::TotalTimeout) is over | [`Elapsed`](timeout::Elapsed), and what was under way is dropped | - |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod attempts;
mod backoff;
mod budget;
mod class;
mod deadline;
mod dice;
pub mod expire;
pub mod hedge;
pub mod limit;
mod policy;
mod ready;
#[cfg(feature = "body")]
#[cfg_attr(docsrs, doc(cfg(feature = "body")))]
pub mod replay;
pub mod requeue;
pub mod retry;
mod safety;
mod tally;
pub mod timeout;
mod typical;

pub use self::{
    attempts::{Attempts, Retries, Stop},
    backoff::{Backoff, Delays, InvalidBackoff},
    budget::{Budget, BudgetCounts, BudgetSettings, InvalidBudget},
    class::{Classifier, MAX_PUSHBACK, Pushback, ResponseClass, Verdict},
    deadline::{Deadline, Expired, Until},
    policy::{PolicyLayer, RetryPolicy, Timeouts},
    safety::{Delivery, Safety, Sent},
    tally::PER_REQUEST_BUCKETS,
    typical::Typical,
};

/// Compiles what the README shows.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
