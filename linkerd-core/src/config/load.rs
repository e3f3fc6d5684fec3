//! `load` and its keys: by what endpoints are compared.

use std::time::Duration;

use super::decode::Section;

/// How busy an endpoint is said to be. An extension: in Linkerd 1.x the kind of balancer decides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadMetric {
    /// `leastLoaded`: requests in flight. The default of all kinds but `ewma`.
    LeastLoaded {
        /// `failurePenaltyMs`: for how long a failed request goes on counting as in flight, up to an hour. 0, the
        /// default, is off.
        failure_penalty: Duration,
    },
    /// `ewma`: a peak-sensitive average of latencies, times requests in flight. The default of kind `ewma`.
    Ewma {
        /// `decayTimeMs`: how long a latency weighs, from 1 ms to a day. Default: 10 s.
        decay_time: Duration,
        /// `failurePenaltyMs`: what a failure is taken to have lasted at least, up to an hour. 0 is off. Default: 5 s.
        failure_penalty: Duration,
        /// `measure`. Default: to the head of the response.
        measure: Measure,
        /// `longStreamMs`: a stream that lasts longer says nothing about latency. Default: 10 s.
        long_stream: Duration,
    },
}

/// Values of `measure`: up to where the latency of a request is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// `headers`: the head of the response. The default.
    #[default]
    Headers,
    /// `firstByte`: the first byte of its body.
    FirstByte,
    /// `endOfStream`: the end of its body.
    EndOfStream,
    /// `pendingOnly`: not at all, only requests in flight and failures count.
    PendingOnly,
}

const HOUR_MS: i64 = 60 * 60 * 1000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Keys that only `ewma` has.
const EWMA_KEYS: [&str; 3] = ["decayTimeMs", "measure", "longStreamMs"];

impl LoadMetric {
    /// Requests in flight, whatever became of them: what Linkerd 1.x has for all kinds but `ewma`.
    pub const LEAST_LOADED: Self = Self::LeastLoaded { failure_penalty: Duration::ZERO };

    /// `failurePenaltyMs`.
    #[must_use]
    pub fn failure_penalty(&self) -> Duration {
        let (Self::LeastLoaded { failure_penalty } | Self::Ewma { failure_penalty, .. }) = self;
        *failure_penalty
    }

    /// Reads the keys of a `loadBalancer` of this kind that are about load.
    pub(super) fn decode(s: &mut Section<'_>, kind: &str) -> Self {
        let default = if kind == "ewma" { "ewma" } else { "leastLoaded" };
        let mut load = s.kind("load", &["leastLoaded", "ewma"], Some(default));
        if (kind, load) == ("ewma", Some("leastLoaded")) {
            s.problem("load", "must be ewma with kind ewma (the same by leastLoaded is kind p2c), got 'leastLoaded'");
            load = None;
        }
        let penalty = s.int("failurePenaltyMs", 0..=HOUR_MS).map(millis);
        if load == Some("leastLoaded") {
            for key in EWMA_KEYS {
                s.refuse(key, "is a key of load ewma, not of leastLoaded");
            }
            return Self::LeastLoaded { failure_penalty: penalty.unwrap_or_default() };
        }
        Self::Ewma {
            decay_time: s.int("decayTimeMs", 1..=DAY_MS).map_or(Duration::from_secs(10), millis),
            failure_penalty: penalty.unwrap_or(Duration::from_secs(5)),
            measure: Measure::decode(s),
            long_stream: s.millis("longStreamMs", 0).unwrap_or(Duration::from_secs(10)),
        }
    }
}

impl Measure {
    fn decode(s: &mut Section<'_>) -> Self {
        let point = s.kind("measure", &["headers", "firstByte", "endOfStream", "pendingOnly"], Some("headers"));
        match point {
            Some("firstByte") => Self::FirstByte,
            Some("endOfStream") => Self::EndOfStream,
            Some("pendingOnly") => Self::PendingOnly,
            _ => Self::Headers,
        }
    }
}

fn millis(n: i64) -> Duration {
    Duration::from_millis(n as u64)
}
