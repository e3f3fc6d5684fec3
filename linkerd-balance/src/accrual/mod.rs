//! When an endpoint has failed enough, and for how long it is left alone then.

use std::{fmt, time::Instant};

mod backoff;
mod consecutive;
mod success_rate;
mod unified;
mod window;

pub use self::{
    backoff::{Backoff, Backoffs, InvalidBackoff},
    consecutive::ConsecutiveFailures,
    success_rate::{InvalidSuccessRate, SuccessRate, SuccessRateWindowed},
    unified::Unified,
};

/// Decides from an endpoint's results when to stop using it. There is one for each endpoint.
///
/// How long it is left alone, and who probes it, is the [`Breaker`](crate::Breaker)'s business.
pub trait Accrual: fmt::Debug + Send + 'static {
    /// Takes a result into account. A reason: leave the endpoint alone from now on.
    ///
    /// Only asked about an endpoint that is in use. It may stay in use although a reason was given, if too many others
    /// are left alone already: what has been learned is to be kept, so that the next failure gives a reason again.
    fn record(&mut self, success: bool, now: Instant) -> Option<Tripped>;

    /// The endpoint is in use from now on, for the first time or again: forget everything before.
    fn revived(&mut self, now: Instant);
}

/// Why an endpoint is left alone, with the numbers that decided it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Tripped {
    /// It failed this often without a success in between.
    Consecutive {
        /// How often.
        failures: u32,
    },
    /// Too few of its requests succeeded.
    SuccessRate {
        /// How many did, of one.
        rate: f64,
        /// How many should have.
        threshold: f64,
        /// How many requests the rate is made of.
        requests: u64,
    },
    /// It failed this many active probes in a row.
    Probes {
        /// How many.
        failures: u32,
    },
    /// What an accrual of somebody else's says.
    Other(&'static str),
}

/// Uses an endpoint whatever it does: Linkerd's `none`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Never;

impl Accrual for Never {
    fn record(&mut self, _success: bool, _now: Instant) -> Option<Tripped> {
        None
    }

    fn revived(&mut self, _now: Instant) {}
}

impl fmt::Display for Tripped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Consecutive { failures: 1 } => f.write_str("1 failure"),
            Self::Consecutive { failures } => write!(f, "{failures} consecutive failures"),
            Self::SuccessRate { rate, threshold, requests } => {
                // Rounded down: what is below the threshold must not read as if it were not.
                let rate = (rate * 1000.0).floor() / 1000.0;
                write!(f, "success rate {rate} below {threshold} over {requests} requests")
            }
            Self::Probes { failures: 1 } => f.write_str("1 failed probe"),
            Self::Probes { failures } => write!(f, "{failures} consecutive failed probes"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_reads_with_its_numbers() {
        let rate = |rate| Tripped::SuccessRate { rate, threshold: 0.8, requests: 37 }.to_string();
        assert_eq!(rate(0.42), "success rate 0.42 below 0.8 over 37 requests");
        assert_eq!(rate(0.799_99), "success rate 0.799 below 0.8 over 37 requests");
        assert_eq!(rate(0.0), "success rate 0 below 0.8 over 37 requests");
        assert_eq!(Tripped::Consecutive { failures: 5 }.to_string(), "5 consecutive failures");
        assert_eq!(Tripped::Consecutive { failures: 1 }.to_string(), "1 failure");
        assert_eq!(Tripped::Probes { failures: 3 }.to_string(), "3 consecutive failed probes");
        assert_eq!(Tripped::Other("disk full").to_string(), "disk full");
    }
}
