//! When an endpoint has failed enough, and for how long it is left alone then.

use std::{fmt, time::Instant};

mod backoff;
mod consecutive;

pub use self::{
    backoff::{Backoff, Backoffs, InvalidBackoff},
    consecutive::ConsecutiveFailures,
};

/// Decides from an endpoint's results when to stop using it. There is one for each endpoint.
///
/// How long it is left alone, and who probes it, is the [`Breaker`](crate::Breaker)'s business.
pub trait Accrual: fmt::Debug + Send + 'static {
    /// Takes a result into account. True: leave the endpoint alone from now on.
    ///
    /// Only asked about an endpoint that is in use.
    fn record(&mut self, success: bool, now: Instant) -> bool;

    /// The endpoint is back in use: forget what brought it down.
    fn revived(&mut self, now: Instant);
}

/// Uses an endpoint whatever it does: Linkerd's `none`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Never;

impl Accrual for Never {
    fn record(&mut self, _success: bool, _now: Instant) -> bool {
        false
    }

    fn revived(&mut self, _now: Instant) {}
}
