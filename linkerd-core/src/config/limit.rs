//! `limit`: how many requests of a logical name are let in. Not a key of Linkerd 1.x.
//!
//! ```yaml
//! limit: {kind: concurrency, max: 100, queue: 50, queueWaitMs: 100}
//! limit: {kind: adaptive, min: 10, max: 500, shares: [60, 80, 97, 100]}
//! limit: {kind: rate, perSec: 1000, burst: 50}
//! ```

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use linkerd_retry::limit::{AdaptiveSettings, BLOCK_CAPACITY, RateSettings, Shares, WhenFull};

use super::{
    build::CHECKED,
    decode::{At, Decode, Section},
};
use crate::LimitPolicy;

/// The largest limit that can adapt; a fixed one has no use for more either.
#[allow(clippy::cast_possible_wrap)] // It is a million.
const MAX: i64 = AdaptiveSettings::MAX as i64;
/// How many may wait.
#[allow(clippy::cast_possible_wrap)] // It is 65536.
const MAX_QUEUE: i64 = BLOCK_CAPACITY as i64;
/// The longest that a request may wait for its turn.
const MAX_WAIT_MS: i64 = 5 * 60 * 1000;

impl Decode for LimitPolicy {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "limit")?;
        let shares = s.with("shares", shares);
        let policy = match s.kind("kind", &["concurrency", "adaptive", "rate"], None)? {
            "concurrency" => concurrency(&mut s),
            "adaptive" => adaptive(&mut s),
            _ => rate(&mut s),
        };
        s.finish();
        Some(shares.into_iter().fold(policy?, Self::shares))
    }
}

fn concurrency(s: &mut Section<'_>) -> Option<LimitPolicy> {
    let max = s.require_with("max", |at| at.int(&(1..=MAX)));
    let when_full = when_full(s)?;
    Some(LimitPolicy::concurrency(NonZeroUsize::new(max? as usize)?, when_full))
}

fn adaptive(s: &mut Section<'_>) -> Option<LimitPolicy> {
    let default = AdaptiveSettings::default();
    let [min, initial, max] = ["min", "initial", "max"].map(|key| s.int(key, 1..=MAX).map(|limit| limit as usize));
    let tolerance = s.number("tolerance", "from 1.05 to 2", |x| (1.05..=2.0).contains(&x));
    let window = s.int("window", 10..=100_000).map(|n| n as u32);
    let when_full = when_full(s);
    let least = min.unwrap_or(default.min.min(max.unwrap_or(default.min)));
    let most = max.unwrap_or(default.max.max(least));
    if most < least {
        s.problem("max", format!("must not be less than min {least}, got {most}"));
        return None;
    }
    if let Some(initial) = initial.filter(|initial| !(least..=most).contains(initial)) {
        s.problem("initial", format!("must be {least}..{most}, as min and max are, got {initial}"));
        return None;
    }
    let settings = AdaptiveSettings {
        min: least,
        initial: initial.unwrap_or(default.initial.clamp(least, most)),
        max: most,
        tolerance: tolerance.unwrap_or(default.tolerance),
        window: window.unwrap_or(default.window),
    };
    Some(LimitPolicy::adaptive(settings, when_full?).expect(CHECKED))
}

fn rate(s: &mut Section<'_>) -> Option<LimitPolicy> {
    let count = |at: &At<'_>| at.int(&(1..=super::decode::MAX_INT)).and_then(|n| NonZeroU32::new(n as u32));
    let requests = s.require_with("perSec", count);
    let burst = s.with("burst", count);
    let wait = s.int("queueWaitMs", 0..=MAX_WAIT_MS).unwrap_or(0);
    let requests = requests?;
    let max_wait = Duration::from_millis(wait as u64);
    let settings = RateSettings { requests, burst: burst.unwrap_or(requests), max_wait, ..RateSettings::default() };
    let policy = LimitPolicy::rate(settings);
    if policy.is_err() {
        let most = (BLOCK_CAPACITY as u64 * 1000 / u64::from(requests.get())).min(MAX_WAIT_MS as u64);
        s.problem("queueWaitMs", format!("must be 0..{most}, so that no more than {BLOCK_CAPACITY} wait, got {wait}"));
    }
    policy.ok()
}

/// What is done with a request that finds no room.
fn when_full(s: &mut Section<'_>) -> Option<WhenFull> {
    let default = if s.has("queue") { "queue" } else { "reject" };
    let kind = s.kind("whenFull", &["reject", "queue", "block"], Some(default));
    if kind == Some("queue") {
        let capacity = s.require_with("queue", |at| at.int(&(1..=MAX_QUEUE)));
        let wait = s.require_with("queueWaitMs", |at| at.int(&(1..=MAX_WAIT_MS)));
        let (capacity, wait) = (capacity? as usize, Duration::from_millis(wait? as u64));
        return Some(WhenFull::Queue { capacity, wait });
    }
    for key in ["queue", "queueWaitMs"] {
        s.refuse(key, "is a key of whenFull queue");
    }
    kind.map(|kind| if kind == "block" { WhenFull::Block } else { WhenFull::Reject })
}

/// The parts of the limit that each class may use.
fn shares(at: &At<'_>) -> Option<Shares> {
    // What is wrong with one of them was said.
    let list: Vec<u8> = at.list(|at| Some(at.int(&(1..=100)).map(|n| n as u8)))?.into_iter().collect::<Option<_>>()?;
    let percent: Option<[u8; 4]> = list.try_into().ok();
    let shares = percent.and_then(|percent| Shares::new(percent).ok());
    if shares.is_none() {
        at.problem("must be four percentages that do not fall: sheddable, sheddable_plus, critical, critical_plus");
    }
    shares
}
