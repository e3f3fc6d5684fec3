//! How loaded an endpoint is.

use std::{fmt, time::Instant};

mod least_loaded;
mod peak_ewma;

pub use self::{least_loaded::LeastLoaded, peak_ewma::PeakEwma};

/// What a balancer knows of one endpoint's load.
///
/// Every [`begin`](Self::begin) is followed by exactly one [`end`](Self::end) or [`cancel`](Self::cancel); a
/// [`Lease`](crate::Lease) sees to that.
pub trait Load: fmt::Debug + Send + Sync + 'static {
    /// How loaded the endpoint would be at `now` with `more` requests in flight than there are; lower is better.
    ///
    /// `weight` is the endpoint's, divided by the mean weight of its set: 1 when all are alike. It divides what is in
    /// flight, so that of two endpoints equally fast the one with twice the weight scores the same with twice the
    /// requests, and when idle. The unit is the implementation's own. Reading changes nothing.
    fn score(&self, now: Instant, weight: f64, more: usize) -> f64;

    /// What metrics call it: `least_loaded`. `custom` by default.
    fn name(&self) -> &'static str {
        "custom"
    }

    /// Requests in flight.
    fn pending(&self) -> usize;

    /// A request was given to the endpoint.
    fn begin(&self, now: Instant);

    /// A request that began at `begun` came to its end.
    fn end(&self, begun: Instant, now: Instant, success: bool);

    /// A request ended that says nothing of the endpoint: its caller went away.
    fn cancel(&self);

    /// What an endpoint that just came may be expected to be like, in the implementation's own unit; none if nothing
    /// is known. A set takes the median of those that are in it.
    fn typical(&self, now: Instant) -> Option<f64> {
        let _ = now;
        None
    }

    /// The endpoint is new in a set whose others are `typical` so.
    fn start_from(&self, typical: f64, now: Instant) {
        let _ = (typical, now);
    }

    /// Forgets what was learned, but not what is in flight: the endpoint came back from where nobody asked it.
    fn reset(&self) {}
}
