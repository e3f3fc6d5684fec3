//! What is done about newcomers, zones, and too few endpoints that are open. All extensions.

use std::time::Duration;

use super::decode::{At, Decode, Section};

/// A `slowStart` map: an endpoint that joins others gets a growing part of its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct SlowStart {
    /// `windowMs`: after which it has its full weight, at least 1 ms. Required.
    pub window: Duration,
    /// `minShare`: the part that it begins with, above 0 and at most 1. Default: 0.1.
    pub min_share: f64,
    /// `aggression`: above 1 the part grows fast at first, below 1 late. Finite, above 0. Default: 1, linear.
    pub aggression: f64,
}

/// A `zones` map: endpoints near by are preferred as long as enough of them are well.
#[derive(Clone, Debug, PartialEq)]
pub struct Zones {
    /// `local`: the zone that is preferred. Required.
    pub local: String,
    /// `fallback`: the zones after it, in this order; all others come last. Default: none.
    pub fallback: Vec<String>,
    /// `minOpen`: the share of a zone's endpoints that are open below which requests go elsewhere, from 0 to 1.
    /// Default: 0.7.
    pub min_open: f64,
    /// `returnOpen`: the share from which on all of them come back, from `minOpen` to 1. Default: 0.9.
    pub return_open: f64,
    /// `spillLoad`: requests in flight at the picked endpoint beyond which one goes to the next zone. Finite, above 0.
    /// Default: never.
    pub spill_load: Option<f64>,
}

/// A `panic` map: what becomes of requests when too few endpoints are open.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Panic {
    /// `mode`. Default: `lastPick`.
    pub mode: PanicMode,
    /// `below`: the share of open endpoints below which that is so, from 0 to 1. 0, the default, is when none is open.
    pub below: f64,
}

/// Values of `mode` in a `panic` map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PanicMode {
    /// `lastPick`: open endpoints as long as there is one, then the best that was come upon. What Linkerd does.
    #[default]
    LastPick,
    /// `spray`: all endpoints, whatever their health.
    Spray,
    /// `failFast`: none, requests fail at once.
    FailFast,
}

impl Decode for SlowStart {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "slowStart")?;
        let window = s.require_with("windowMs", |at| at.int(&(1..=super::decode::MAX_INT)));
        let min_share = s.number("minShare", "above 0 and at most 1", |x| x > 0.0 && x <= 1.0).unwrap_or(0.1);
        let aggression = s.number("aggression", "above 0", |x| x > 0.0 && x.is_finite()).unwrap_or(1.0);
        s.finish();
        Some(Self { window: Duration::from_millis(window? as u64), min_share, aggression })
    }
}

impl Decode for Zones {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "zones")?;
        let local = s.require_with("local", zone);
        let mut known: Vec<String> = local.iter().cloned().collect();
        s.with("fallback", |at| {
            at.list(|at| {
                let zone = zone(at)?;
                if known.contains(&zone) {
                    at.problem(format!("names the zone '{zone}' again"));
                } else {
                    known.push(zone);
                }
                Some(())
            })
        });
        let mut share = |key, default| s.number(key, "from 0 to 1", |x| (0.0..=1.0).contains(&x)).unwrap_or(default);
        let (min_open, return_open) = (share("minOpen", 0.7), share("returnOpen", 0.9));
        if return_open < min_open {
            s.problem("returnOpen", format!("must not be less than minOpen {min_open}, got {return_open}"));
        }
        let spill_load = s.number("spillLoad", "above 0", |x| x > 0.0 && x.is_finite());
        s.finish();
        let local = local?;
        let fallback = known.split_off(1);
        Some(Self { local, fallback, min_open, return_open, spill_load })
    }
}

fn zone(at: &At<'_>) -> Option<String> {
    match at.text()? {
        "" => at.expected("the name of a zone"),
        name => Some(name.to_owned()),
    }
}

impl Decode for Panic {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "panic")?;
        let mode = match s.kind("mode", &["lastPick", "spray", "failFast"], Some("lastPick")) {
            Some("spray") => PanicMode::Spray,
            Some("failFast") => PanicMode::FailFast,
            _ => PanicMode::LastPick,
        };
        let below = s.number("below", "from 0 to 1", |x| (0.0..=1.0).contains(&x)).unwrap_or_default();
        s.finish();
        Some(Self { mode, below })
    }
}
