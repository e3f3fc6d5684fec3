//! A newcomer's way to its full share.

use std::time::{Duration, Instant};

/// Gives an endpoint that joins others a growing part of its weight, so that one with cold caches is not overrun.
///
/// Its weight is multiplied by `(age / window)^(1 / aggression)`, at least [`min_share`](Self::min_share), from its
/// arrival until `window` later; then it has its full weight. Every strategy that honours weights honours this.
///
/// - An endpoint's window is its own: it goes on whatever else changes in the set.
/// - Endpoints that come together into a set of which nobody was there before start with their full weight: where all are
///   new there is nobody to spare them.
/// - Where all are on their way, as in a deploy that is done before its first one's window is over, each has its part by
///   how far it is: the newest one the least.
/// - Those that were there get no more than they had before the newcomer came.
///
/// The curve is Envoy's `slow_start_config`; there the window ends when the set changes, and newcomers to an empty set
/// ramp too.
///
/// # Defaults
///
/// Off, unless a policy is given one; then at least a tenth, and linear.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    window: Duration,
    min_share: f64,
    aggression: f64,
}

/// A slow start that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSlowStart {
    /// It would be over at once.
    #[error("a slow start of no time")]
    Window,
    /// Not a share of the weight that is more than none of it.
    #[error("a smallest share of {0}, not above 0 and at most 1")]
    MinShare(f64),
    /// Not a number above zero.
    #[error("an aggression of {0}, not a finite number above 0")]
    Aggression(f64),
}

impl SlowStart {
    /// The smallest share where none is chosen.
    pub const DEFAULT_MIN_SHARE: f64 = 0.1;

    /// A linear way of length `window`.
    ///
    /// # Errors
    ///
    /// A window of zero.
    pub const fn new(window: Duration) -> Result<Self, InvalidSlowStart> {
        if window.is_zero() {
            return Err(InvalidSlowStart::Window);
        }
        Ok(Self { window, min_share: Self::DEFAULT_MIN_SHARE, aggression: 1.0 })
    }

    /// Begins with this share of the weight: above 0, at most 1.
    ///
    /// # Errors
    ///
    /// Any other number.
    pub fn min_share(self, min_share: f64) -> Result<Self, InvalidSlowStart> {
        if min_share > 0.0 && min_share <= 1.0 {
            return Ok(Self { min_share, ..self });
        }
        Err(InvalidSlowStart::MinShare(min_share))
    }

    /// Above 1 the share grows fast at first, below 1 late. 1 is linear.
    ///
    /// # Errors
    ///
    /// A number that is not finite and above zero.
    pub fn aggression(self, aggression: f64) -> Result<Self, InvalidSlowStart> {
        if aggression.is_finite() && aggression > 0.0 {
            return Ok(Self { aggression, ..self });
        }
        Err(InvalidSlowStart::Aggression(aggression))
    }

    /// When an endpoint that came at `since` has its full weight.
    pub(crate) fn end(&self, since: Instant) -> Instant {
        // Windows beyond the clock end with it, in a year.
        since.checked_add(self.window).unwrap_or(since + Duration::from_hours(365 * 24))
    }

    /// The part of its weight that an endpoint which came at `since` has at `now`: above 0, at most 1.
    #[must_use]
    pub fn share(&self, since: Instant, now: Instant) -> f64 {
        let age = now.saturating_duration_since(since);
        if age >= self.window {
            return 1.0;
        }
        let part = age.as_secs_f64() / self.window.as_secs_f64();
        let part = if self.aggression == 1.0 { part } else { part.powf(1.0 / self.aggression) };
        part.max(self.min_share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn the_share_grows_from_its_least_to_all() {
        let (slow, t) = (SlowStart::new(10 * S).unwrap(), now());
        let shares = [0, 1, 5, 10, 100].map(|s| slow.share(t, t + s * S));
        assert_eq!(shares, [0.1, 0.1, 0.5, 1.0, 1.0]);
        // A clock that stands before the arrival is no reason for more.
        assert_eq!(slow.share(t + S, t), 0.1);
    }

    #[test]
    fn aggression_bends_the_curve() {
        let (t, slow) = (now(), SlowStart::new(100 * S).unwrap());
        assert!((slow.aggression(2.0).unwrap().share(t, t + 25 * S) - 0.5).abs() < 1e-9);
        assert!((slow.aggression(0.5).unwrap().share(t, t + 50 * S) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn what_cannot_be_is_named() {
        assert_eq!(SlowStart::new(Duration::ZERO), Err(InvalidSlowStart::Window));
        let slow = SlowStart::new(S).unwrap();
        for bad in [0.0, -0.5, 1.5, f64::NAN] {
            let err = slow.min_share(bad).unwrap_err();
            assert_eq!(err.to_string(), format!("a smallest share of {bad}, not above 0 and at most 1"));
        }
        for bad in [0.0, -1.0, f64::INFINITY] {
            assert!(slow.aggression(bad).unwrap_err().to_string().contains(&bad.to_string()));
        }
    }
}
