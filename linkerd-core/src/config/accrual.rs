//! `failureAccrual`: when an endpoint is left alone for a while.

use std::time::Duration;

use super::{
    decode::{At, Section},
    probe::Probe,
    retries::Backoff,
    router::ProtocolKind,
};

/// A `failureAccrual` map.
///
/// Its keys but `kind`, those of the kinds of Linkerd, and `backoff` are extensions.
#[derive(Clone, Debug, PartialEq)]
pub struct FailureAccrual {
    /// `kind` and its own keys. Default: 5 consecutive failures.
    pub kind: AccrualKind,
    /// `backoff`: how long it is left alone, at least 1 ms. Default (`None`): equal-jittered from 5 s to 300 s.
    pub backoff: Option<Backoff>,
    /// `maxEjectedShare`: the share of the endpoints that may be left alone at the same time, rounded down. Above 0, at
    /// most 1. Default: 1, all.
    pub max_ejected_share: f64,
    /// `keepLast`: one endpoint is never left alone, even if the share allows for all. Default: false.
    pub keep_last: bool,
    /// `maxProbes`: endpoints that may be tried again at the same time, at least 1. Default: unlimited.
    pub max_probes: Option<u32>,
    /// `probe` (http, h2). Default: none, requests are what an endpoint is tried by.
    pub probe: Option<Probe>,
}

/// The kinds of failure accrual.
#[derive(Clone, Debug, PartialEq)]
pub enum AccrualKind {
    /// `io.l5d.consecutiveFailures`.
    ConsecutiveFailures {
        /// `failures` in a row, at least 1. Required.
        failures: u32,
    },
    /// `io.l5d.successRate`: the average over the last requests.
    SuccessRate {
        /// `successRate`, from 0 to 1, below which it is left alone. Required.
        success_rate: f64,
        /// `requests` over which to average, at least 1. Required.
        requests: u32,
    },
    /// `io.l5d.successRateWindowed`: the average over the last seconds.
    SuccessRateWindowed {
        /// `successRate`, from 0 to 1, below which it is left alone. Required.
        success_rate: f64,
        /// `window` in seconds, at least 1. Required.
        window: Duration,
    },
    /// `io.l5d.unified` (extension): so many failures in a row, or too few successes among the last seconds' requests.
    Unified {
        /// `failures` in a row, at least 1. Default: 5.
        failures: u32,
        /// `successRate`, from 0 to 1, below which it is left alone. Default: 0.8.
        success_rate: f64,
        /// `window` in seconds, at least 1. Default: 30.
        window: Duration,
        /// `minRequests` within the window until the rate counts, at least 1. Default: 20.
        min_requests: u32,
    },
    /// `none`: never.
    Off,
}

const KINDS: [&str; 5] =
    ["io.l5d.consecutiveFailures", "io.l5d.successRate", "io.l5d.successRateWindowed", "io.l5d.unified", "none"];

/// Keys that only some kinds have, and which do.
const KEYS_OF_KINDS: [(&str, &[&str]); 5] = [
    ("failures", &["io.l5d.consecutiveFailures", "io.l5d.unified"]),
    ("successRate", &["io.l5d.successRate", "io.l5d.successRateWindowed", "io.l5d.unified"]),
    ("requests", &["io.l5d.successRate"]),
    ("window", &["io.l5d.successRateWindowed", "io.l5d.unified"]),
    ("minRequests", &["io.l5d.unified"]),
];

impl Default for FailureAccrual {
    fn default() -> Self {
        Self {
            kind: AccrualKind::ConsecutiveFailures { failures: 5 },
            backoff: None,
            max_ejected_share: 1.0,
            keep_last: false,
            max_probes: None,
            probe: None,
        }
    }
}

impl FailureAccrual {
    pub(super) fn decode(at: &At<'_>, protocol: ProtocolKind) -> Option<Self> {
        let mut s = Section::open(at, "failureAccrual")?;
        let kind = s.kind("kind", &KINDS, None)?;
        let kind = AccrualKind::decode(&mut s, kind);
        let backoff = s.with("backoff", backoff);
        let max_ejected_share = s.number("maxEjectedShare", "above 0 and at most 1", |x| x > 0.0 && x <= 1.0);
        let keep_last = s.or("keepLast", false);
        let max_probes = s.count("maxProbes", 1);
        let probe = match protocol {
            ProtocolKind::Http | ProtocolKind::H2 => s.with("probe", |at| Probe::decode(at, protocol)),
            ProtocolKind::Thrift | ProtocolKind::Mux | ProtocolKind::ThriftMux => {
                s.refuse("probe", "is an HTTP request, for the protocols http and h2");
                None
            }
        };
        s.finish();
        let max_ejected_share = max_ejected_share.unwrap_or(1.0);
        Some(Self { kind: kind?, backoff, max_ejected_share, keep_last, max_probes, probe })
    }
}

impl AccrualKind {
    /// `None` means that a problem was recorded.
    fn decode(s: &mut Section<'_>, kind: &'static str) -> Option<Self> {
        for (key, kinds) in KEYS_OF_KINDS.iter().filter(|(_, kinds)| !kinds.contains(&kind)) {
            let plural = if kinds.len() == 1 { "" } else { "s" };
            s.refuse(key, &format!("is a key of the kind{plural} {}, not of {kind}", kinds.join(", ")));
        }
        match kind {
            "none" => Some(Self::Off),
            "io.l5d.consecutiveFailures" => {
                let failures = required(s, "failures");
                failures.map(|failures| Self::ConsecutiveFailures { failures })
            }
            "io.l5d.successRate" => {
                let (rate, requests) = (s.require_with("successRate", rate), required(s, "requests"));
                rate.zip(requests).map(|(success_rate, requests)| Self::SuccessRate { success_rate, requests })
            }
            "io.l5d.unified" => Some(Self::Unified {
                failures: s.count("failures", 1).unwrap_or(5),
                success_rate: s.with("successRate", rate).unwrap_or(0.8),
                window: s.seconds("window", 1).unwrap_or(Duration::from_secs(30)),
                min_requests: s.count("minRequests", 1).unwrap_or(20),
            }),
            _ => {
                let (rate, seconds) = (s.require_with("successRate", rate), required(s, "window"));
                let window = seconds.map(|n| Duration::from_secs(n.into()));
                rate.zip(window).map(|(success_rate, window)| Self::SuccessRateWindowed { success_rate, window })
            }
        }
    }
}

fn required(s: &mut Section<'_>, key: &'static str) -> Option<u32> {
    s.require_with(key, |at| at.int(&(1..=super::decode::MAX_INT))).map(|n| n as u32)
}

fn rate(at: &At<'_>) -> Option<f64> {
    at.number("from 0 to 1", |x| (0.0..=1.0).contains(&x))
}

/// A backoff that waits at all: with none an endpoint would be left alone for no time.
fn backoff(at: &At<'_>) -> Option<Backoff> {
    let backoff = Backoff::decode(at, Backoff::OF_ACCRUAL)?;
    if backoff == (Backoff::Constant { pause: Duration::ZERO }) {
        let s = Section::open(at, "backoff")?;
        s.problem("ms", if s.has("ms") { "must be at least 1, got 0" } else { "is required" });
        return None;
    }
    Some(backoff)
}
