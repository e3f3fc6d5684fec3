//! `hedge`: when an attempt that takes long is made a second time.

use std::time::Duration;

use linkerd_retry::hedge::HedgeDelay;

use super::decode::{At, Decode, Section};
use crate::HedgePolicy;

/// A `hedge` map of a service: after a delay, an attempt that may be made twice is made at a second endpoint too. Not a
/// key of Linkerd 1.x.
///
/// ```yaml
/// hedge: {percentile: 95, minDelayMs: 10, maxDelayMs: 500, maxShare: 0.05}
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Hedge {
    /// After which delay: `delayMs`, always so long, or `percentile`.
    pub delay: Delay,
    /// `maxShare`: the share of the requests of the last ten seconds that are hedged at most, from 0 to 1. Default: 0.05.
    pub max_share: f64,
}

/// How long an attempt has before it is hedged.
#[derive(Clone, Debug, PartialEq)]
pub enum Delay {
    /// `delayMs`, at least 1 ms.
    Fixed(Duration),
    /// `percentile` of how long attempts took in the last minute.
    Percentile {
        /// `percentile`: above 0 and at most 100.
        percentile: f64,
        /// `minDelayMs`: but no less than this. Default: 1 ms.
        min: Duration,
        /// `maxDelayMs`: and no more than this, which is also the delay until a hundred attempts were seen. Default: 1 s, or
        /// `minDelayMs` if that is more.
        max: Duration,
    },
}

impl Hedge {
    /// As the engine has it.
    pub(super) fn policy(&self) -> HedgePolicy {
        let delay = match self.delay {
            Delay::Fixed(delay) => HedgeDelay::Fixed(delay),
            Delay::Percentile { percentile, min, max } => HedgeDelay::Percentile { percentile, min, max },
        };
        let policy = HedgePolicy::new(delay).and_then(|policy| policy.share(self.max_share));
        policy.expect(super::build::CHECKED)
    }
}

impl Decode for Hedge {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "hedge")?;
        let max_share = s.number("maxShare", "from 0 to 1", |x| (0.0..=1.0).contains(&x));
        let fixed = s.millis("delayMs", 1);
        let percentile = s.number("percentile", "above 0 and at most 100", |x| x > 0.0 && x <= 100.0);
        let (min, max) = (s.millis("minDelayMs", 1), s.millis("maxDelayMs", 1));
        let delay = if s.has("delayMs") {
            for key in ["percentile", "minDelayMs", "maxDelayMs"].into_iter().filter(|key| s.has(key)) {
                s.problem(key, "cannot stand beside delayMs, which is the whole delay");
            }
            fixed.map(Delay::Fixed)
        } else {
            if !s.has("percentile") {
                s.problem("percentile", "is required, or delayMs");
            }
            let min = min.unwrap_or(Duration::from_millis(1));
            let max = max.unwrap_or(min.max(Duration::from_secs(1)));
            if max < min {
                let (min, max) = (min.as_millis(), max.as_millis());
                s.problem("maxDelayMs", format!("must not be less than minDelayMs {min}, got {max}"));
            }
            percentile.map(|percentile| Delay::Percentile { percentile, min, max })
        };
        s.finish();
        Some(Self { delay: delay?, max_share: max_share.unwrap_or(HedgePolicy::DEFAULT_SHARE) })
    }
}
