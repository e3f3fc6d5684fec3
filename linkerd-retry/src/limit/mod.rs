//! What is let in at all: limits by number in flight, fixed or adapting, and by rate.

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
