//! What is let in at all: limits by number in flight, fixed or adapting, and by rate.
//!
//! A service that takes more than it can do does less than it could: everybody waits, until what is served is served too
//! late. What cannot be done in time is better rejected at once, unsent, so that it can be tried elsewhere, and what
//! matters least is better rejected first:
//!
//! | limit | at the limit | then |
//! |---|---|---|
//! | [`ConcurrencyLimit`] that [rejects](WhenFull::Reject) | [`Reason::Full`] | - |
//! | with a [queue](WhenFull::Queue) | a wait: first come, first served within a [class](Criticality), higher classes first | [`Reason::Waited`]; with a full queue [`Reason::QueueFull`], or [`Reason::Displaced`] for the last of a lower class |
//! | that [blocks](WhenFull::Block) | a wait for as long as the caller waits | as above, with [`BLOCK_CAPACITY`] waiting |
//! | [`RateLimit`] | a wait of up to `max_wait`, if its turn comes by then | [`RateLimited`] |
//!
//! All of them belong to everybody who has a clone, are taken in the response future and not in `poll_ready`, and are given
//! back when that is dropped. A number of requests that the service can take need not be known:
//! [`ConcurrencyLimit::adaptive`] finds it. No wait lasts longer than until the request's deadline, if
//! [`Classify::deadline`] knows it: then it is [`Reason::Late`], or [`RateLimited`] at once.
//!
//! ```
//! use linkerd_retry::limit::{AdaptiveSettings, ConcurrencyLimit, Criticality, LimitLayer, Outcome, WhenFull};
//! use std::time::Duration;
//! use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let queue = WhenFull::Queue { capacity: 50, wait: Duration::from_millis(100) };
//! let limit = ConcurrencyLimit::adaptive("search", AdaptiveSettings::default(), queue)?;
//! let layer = LimitLayer::new(limit)
//!     .classify_with(|req: &&str| if *req == "/checkout" { Criticality::Critical } else { Criticality::Sheddable })
//!     .observe_with(|rsp: Result<&u16, &BoxError>| match rsp {
//!         Ok(503) => Outcome::Overloaded,
//!         Ok(_) => Outcome::Success,
//!         Err(_) => Outcome::Ignored,
//!     });
//! let svc = ServiceBuilder::new().layer(layer).service(service_fn(|_: &str| async { Ok::<_, BoxError>(200) }));
//! assert_eq!(svc.oneshot("/checkout").await?, 200);
//! # Ok(())
//! # }
//! ```

mod acquire;
mod adaptive;
mod concurrency;
mod criticality;
mod layer;
mod queue;
mod rate;
mod rate_layer;
mod rejected;

pub use self::{
    acquire::Acquire,
    adaptive::{Adaptive, AdaptiveSettings, InvalidAdaptive, Outcome},
    concurrency::{BLOCK_CAPACITY, ConcurrencyLimit, Permit, Usage, WhenFull},
    criticality::{Criticality, InvalidShares, Shares, UnknownCriticality},
    layer::{Classify, KeepPermit, Limit, LimitLayer, Observe, OkIsSuccess, ResponseFuture, Unclassed, UntilResponse},
    rate::{InvalidRate, RateLimit, RateLimited, RateSettings, Turn},
    rate_layer::{RateLimitFuture, RateLimitLayer, RateLimitService},
    rejected::{Reason, Rejected},
};
