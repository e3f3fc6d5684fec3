//! `loadBalancer`: which endpoint of a bound name gets a request.

use std::time::Duration;

use linkerd_balance::PeakEwma;

use super::decode::{At, Decode, Section};

/// A `loadBalancer` map.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancer {
    /// `kind` and its own keys. Default: `p2c`.
    pub kind: BalancerKind,
    /// `enableProbation`: endpoints that discovery dropped are used while they work. Default: false.
    pub enable_probation: bool,
}

/// The kinds of load balancers.
#[derive(Clone, Debug, PartialEq)]
pub enum BalancerKind {
    /// `p2c`: of two endpoints by chance, the one with fewer requests.
    P2c {
        /// `maxEffort`: picks until an available endpoint is found. At least 1. Default: 5.
        max_effort: usize,
    },
    /// `ewma`: of two endpoints by chance, the one with the lower peak-sensitive average latency.
    Ewma {
        /// `maxEffort`: picks until an available endpoint is found. At least 1. Default: 5.
        max_effort: usize,
        /// `decayTimeMs`: how long a latency weighs, from 1 ms to a day. Default: 10 s.
        decay_time: Duration,
    },
    /// `aperture`: `p2c` on a part of the endpoints that grows and shrinks with the load.
    Aperture {
        /// `maxEffort`: picks until an available endpoint is found. At least 1. Default: 5.
        max_effort: usize,
        /// `smoothWindowMs`: how long a load weighs, at least 1 ms. Default: 5 s.
        smooth_window: Duration,
        /// `lowLoad`: requests per endpoint below which the part shrinks. Above 0. Default: 0.5.
        low_load: f64,
        /// `highLoad`: requests per endpoint above which it grows. Above `lowLoad`. Default: 2.
        high_load: f64,
        /// `minAperture`: endpoints at least. At least 1. Default: 1.
        min_aperture: usize,
    },
    /// `heap`: the endpoint with the fewest requests.
    Heap,
    /// `roundRobin`: one after the other.
    RoundRobin {
        /// `maxEffort`: picks until an available endpoint is found. At least 1. Default: 5.
        max_effort: usize,
    },
}

const MAX_EFFORT: usize = 5;

impl Default for LoadBalancer {
    fn default() -> Self {
        Self { kind: BalancerKind::P2c { max_effort: MAX_EFFORT }, enable_probation: false }
    }
}

impl Decode for LoadBalancer {
    fn decode(at: &At<'_>) -> Option<Self> {
        const KINDS: [&str; 5] = ["p2c", "ewma", "aperture", "heap", "roundRobin"];
        let mut s = Section::open(at, "loadBalancer")?;
        let kind = s.kind("kind", &KINDS, None)?;
        let enable_probation = s.or("enableProbation", false);
        let kind = match kind {
            "heap" => BalancerKind::Heap,
            kind => {
                let max_effort = s.size("maxEffort", 1).unwrap_or(MAX_EFFORT);
                match kind {
                    "p2c" => BalancerKind::P2c { max_effort },
                    "roundRobin" => BalancerKind::RoundRobin { max_effort },
                    "ewma" => {
                        let decay_time = s.millis("decayTimeMs", 1).unwrap_or(PeakEwma::DEFAULT_DECAY);
                        if let Err(invalid) = PeakEwma::new(decay_time) {
                            s.problem("decayTimeMs", invalid.to_string());
                        }
                        BalancerKind::Ewma { max_effort, decay_time }
                    }
                    _ => aperture(&mut s, max_effort),
                }
            }
        };
        s.finish();
        Some(Self { kind, enable_probation })
    }
}

fn aperture(s: &mut Section<'_>, max_effort: usize) -> BalancerKind {
    let smooth_window = s.millis("smoothWindowMs", 1).unwrap_or(Duration::from_secs(5));
    let low_load = s.number("lowLoad", "above 0", |x| x > 0.0).unwrap_or(0.5);
    let high_load = s.number("highLoad", "above 0", |x| x > 0.0).unwrap_or(2.0);
    let min_aperture = s.size("minAperture", 1).unwrap_or(1);
    if high_load <= low_load {
        s.problem("highLoad", format!("must be above lowLoad {low_load}, got {high_load}"));
    }
    BalancerKind::Aperture { max_effort, smooth_window, low_load, high_load, min_aperture }
}
