//! `retries`: budgets and backoffs.

use std::{num::NonZeroU32, time::Duration};

use super::decode::{At, Decode, Section};

/// The `retries` map of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retries {
    /// `budget`.
    pub budget: Option<Budget>,
    /// `backoff`: the pause before a retry. Default: none.
    pub backoff: Option<Backoff>,
    /// `maxAttempts`: how often a request is sent at most, the first time included. Default: as the budget allows.
    ///
    /// Not a key of Linkerd 1.x.
    pub max_attempts: Option<NonZeroU32>,
    /// `hints`: tell other hops of retries, and heed what they tell, so that retries do not multiply. Default: false.
    ///
    /// Not a key of Linkerd 1.x.
    pub hints: Option<bool>,
    /// `bufferBytes`: how much of a body that streams is kept, to be sent again. A longer one is sent once. Default: 0,
    /// as in Linkerd 1.x, which retries no streams.
    ///
    /// Not a key of Linkerd 1.x.
    pub buffer_bytes: Option<usize>,
}

/// A `budget` or `requeueBudget` map.
///
/// ```yaml
/// budget:
///   ttlSecs: 15
///   minRetriesPerSec: 5
///   percentCanRetry: 0.5
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// `ttlSecs`: for how long a request counts, from 1 to 60 s. Default: 10 s.
    pub ttl: Duration,
    /// `minRetriesPerSec`: retries that are always allowed. Default: 10.
    pub min_retries_per_sec: u32,
    /// `percentCanRetry`: retries per request, from 0 to 1000; 0.2 is one for five requests. Default: 0.2.
    pub percent_can_retry: f64,
}

/// A `backoff` map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// `constant`: always `ms`. Default: none, the pause is zero.
    Constant {
        /// `ms`.
        pause: Duration,
    },
    /// `equalJittered`: `minMs` first, then a part that doubles from `minMs` on and up to as much again by chance; once it
    /// comes to `maxMs`, always `maxMs`.
    ///
    /// Not a kind of Linkerd 1.x.
    EqualJittered {
        /// `minMs`, at least 1 ms. Required.
        min: Duration,
        /// `maxMs`, at least `minMs`. Required.
        max: Duration,
    },
    /// `fullJittered` (of retries): each by chance between nothing and a ceiling that doubles from `minMs` on, up to
    /// `maxMs`.
    ///
    /// Not a kind of Linkerd 1.x.
    FullJittered {
        /// `minMs`, the first ceiling, at least 1 ms. Required.
        min: Duration,
        /// `maxMs`, at least `minMs`. Required.
        max: Duration,
    },
    /// `jittered` (decorrelated): each by chance between `minMs` and three times the last, up to `maxMs`.
    Jittered {
        /// `minMs`, at least 1 ms. Required.
        min: Duration,
        /// `maxMs`, at least `minMs`. Required.
        max: Duration,
    },
}

impl Default for Budget {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(10), min_retries_per_sec: 10, percent_can_retry: 0.2 }
    }
}

impl Decode for Retries {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "retries")?;
        let retries = Self {
            budget: s.get("budget"),
            backoff: s.with("backoff", |at| Backoff::decode(at, Backoff::KINDS)),
            max_attempts: s.count("maxAttempts", 1).and_then(NonZeroU32::new),
            hints: s.get("hints"),
            buffer_bytes: s.size("bufferBytes", 0),
        };
        s.finish();
        Some(retries)
    }
}

impl Decode for Budget {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "budget")?;
        let default = Self::default();
        let ttl = s.int("ttlSecs", 1..=60).map(|n| Duration::from_secs(n as u64));
        let percent = s.number("percentCanRetry", "from 0 to 1000", |x| (0.0..=1000.0).contains(&x));
        let budget = Self {
            ttl: ttl.unwrap_or(default.ttl),
            min_retries_per_sec: s.count("minRetriesPerSec", 0).unwrap_or(default.min_retries_per_sec),
            percent_can_retry: percent.unwrap_or(default.percent_can_retry),
        };
        s.finish();
        Some(budget)
    }
}

impl Backoff {
    /// All kinds.
    const KINDS: &[&'static str] = &["constant", "jittered", "equalJittered", "fullJittered"];
    /// Linkerd's.
    pub(super) const OF_LINKERD: &[&'static str] = &["constant", "jittered"];
    /// Those without waits that are next to none.
    pub(super) const OF_ACCRUAL: &[&'static str] = &["constant", "jittered", "equalJittered"];

    pub(super) fn decode(at: &At<'_>, kinds: &[&'static str]) -> Option<Self> {
        let mut s = Section::open(at, "backoff")?;
        let kind = s.kind("kind", kinds, None)?;
        let backoff = if kind == "constant" {
            Some(Self::Constant { pause: s.millis("ms", 0).unwrap_or_default() })
        } else {
            let read = |at: &At<'_>| at.int(&(1..=super::decode::MAX_INT)).map(|n| Duration::from_millis(n as u64));
            let (min, max) = (s.require_with("minMs", read), s.require_with("maxMs", read));
            if let (Some(min), Some(max)) = (min, max)
                && max < min
            {
                s.problem("maxMs", format!("must not be less than minMs {}, got {}", min.as_millis(), max.as_millis()));
            }
            min.zip(max).map(|(min, max)| match kind {
                "equalJittered" => Self::EqualJittered { min, max },
                "fullJittered" => Self::FullJittered { min, max },
                _ => Self::Jittered { min, max },
            })
        };
        s.finish();
        backoff
    }
}
