//! `failureAccrual`: when an endpoint is left alone for a while.

use std::time::Duration;

use super::{
    decode::{At, Decode, Section},
    retries::Backoff,
};

/// A `failureAccrual` map.
#[derive(Clone, Debug, PartialEq)]
pub struct FailureAccrual {
    /// `kind` and its own keys. Default: 5 consecutive failures.
    pub kind: AccrualKind,
    /// `backoff`: how long it is left alone. Default (`None`): equal-jittered from 5 s to 300 s.
    pub backoff: Option<Backoff>,
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
    /// `none`: never.
    Off,
}

impl Default for FailureAccrual {
    fn default() -> Self {
        Self { kind: AccrualKind::ConsecutiveFailures { failures: 5 }, backoff: None }
    }
}

impl Decode for FailureAccrual {
    fn decode(at: &At<'_>) -> Option<Self> {
        const KINDS: [&str; 4] =
            ["io.l5d.consecutiveFailures", "io.l5d.successRate", "io.l5d.successRateWindowed", "none"];
        let mut s = Section::open(at, "failureAccrual")?;
        let kind = s.kind("kind", &KINDS, None)?;
        let backoff = s.get("backoff");
        let kind = match kind {
            "none" => Some(AccrualKind::Off),
            "io.l5d.consecutiveFailures" => {
                let failures = required(&mut s, "failures");
                failures.map(|failures| AccrualKind::ConsecutiveFailures { failures })
            }
            "io.l5d.successRate" => {
                let (rate, requests) = (rate(&mut s), required(&mut s, "requests"));
                rate.zip(requests).map(|(success_rate, requests)| AccrualKind::SuccessRate { success_rate, requests })
            }
            _ => {
                let (rate, seconds) = (rate(&mut s), required(&mut s, "window"));
                let window = seconds.map(|n| Duration::from_secs(n.into()));
                rate.zip(window).map(|(success_rate, window)| AccrualKind::SuccessRateWindowed { success_rate, window })
            }
        };
        s.finish();
        Some(Self { kind: kind?, backoff })
    }
}

fn required(s: &mut Section<'_>, key: &'static str) -> Option<u32> {
    s.require_with(key, |at| at.int(&(1..=super::decode::MAX_INT))).map(|n| n as u32)
}

fn rate(s: &mut Section<'_>) -> Option<f64> {
    s.require_with("successRate", |at| at.number("from 0 to 1", |x| (0.0..=1.0).contains(&x)))
}
