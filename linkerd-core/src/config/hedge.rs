//! `hedge`: when an attempt that takes long is made at a second endpoint too. Not a key of Linkerd 1.x.
//!
//! ```yaml
//! hedge: {percentile: 95, minDelayMs: 10, maxDelayMs: 500, maxShare: 0.05}
//! ```

use std::time::Duration;

use linkerd_retry::hedge::HedgeDelay;

use super::{
    build::CHECKED,
    decode::{At, Decode, Section},
};
use crate::HedgePolicy;

impl Decode for HedgePolicy {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "hedge")?;
        let share = s.number("maxShare", "from 0 to 1", |x| (0.0..=1.0).contains(&x));
        let delay = delay(&mut s);
        s.finish();
        let policy = Self::new(delay?).and_then(|policy| policy.share(share.unwrap_or(Self::DEFAULT_SHARE)));
        Some(policy.expect(CHECKED))
    }
}

fn delay(s: &mut Section<'_>) -> Option<HedgeDelay> {
    let fixed = s.millis("delayMs", 1);
    let percentile = s.number("percentile", "above 0 and at most 100", |x| x > 0.0 && x <= 100.0);
    let (min, max) = (s.millis("minDelayMs", 1), s.millis("maxDelayMs", 1));
    if s.has("delayMs") {
        for key in ["percentile", "minDelayMs", "maxDelayMs"].into_iter().filter(|key| s.has(key)) {
            s.problem(key, "cannot stand beside delayMs, which is the whole delay");
        }
        return fixed.map(HedgeDelay::Fixed);
    }
    if !s.has("percentile") {
        s.problem("percentile", "is required, or delayMs");
    }
    let min = min.unwrap_or(Duration::from_millis(1));
    let max = max.unwrap_or(min.max(Duration::from_secs(1)));
    if max < min {
        s.problem(
            "maxDelayMs",
            format!("must not be less than minDelayMs {}, got {}", min.as_millis(), max.as_millis()),
        );
        return None;
    }
    percentile.map(|percentile| HedgeDelay::Percentile { percentile, min, max })
}
