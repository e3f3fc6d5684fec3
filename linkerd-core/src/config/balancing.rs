//! From the keys of balancing to the engine's policies.

use std::num::{NonZeroU32, NonZeroUsize};

use linkerd_balance::{
    Aperture, EjectionLimits, Heap, LeastLoaded, Maglev, P2c, PeakEwma, Peer, Policy, ProbeSettings, Random, Ring,
    RoundRobin, StickyPrimary, Strategy, Tiers,
    accrual::{Backoff as AccrualBackoff, ConsecutiveFailures, SuccessRate, SuccessRateWindowed, Unified},
};

use super::{
    AccrualKind, ApertureOrder, Backoff, BalancerKind, FailureAccrual, LoadBalancer, LoadMetric, Measure, PanicMode,
    Probe, SlowStart, Zones, build::CHECKED,
};
use crate::{AccrualPolicy, HashOn, ProbePolicy};

pub(super) fn accrual(accrual: &FailureAccrual) -> AccrualPolicy {
    let FailureAccrual {
        kind,
        backoff,
        max_ejected_share: _, // The balancer's.
        keep_last: _,
        max_probes: _,
        probe,
    } = accrual;
    let some = |n| NonZeroU32::new(n).expect(CHECKED);
    let mut policy = match *kind {
        AccrualKind::Off => AccrualPolicy::off(),
        AccrualKind::ConsecutiveFailures { failures } => AccrualPolicy::new(ConsecutiveFailures::new(some(failures))),
        AccrualKind::SuccessRate { success_rate, requests } => {
            AccrualPolicy::new(SuccessRate::new(success_rate, requests).expect(CHECKED))
        }
        AccrualKind::SuccessRateWindowed { success_rate, window } => {
            AccrualPolicy::new(SuccessRateWindowed::new(success_rate, window).expect(CHECKED))
        }
        AccrualKind::Unified { failures, success_rate, window, min_requests } => {
            let unified = Unified::new(some(failures), success_rate, window, some(min_requests));
            AccrualPolicy::new(unified.expect(CHECKED))
        }
    };
    policy.backoff = match *backoff {
        None => AccrualBackoff::default(),
        Some(Backoff::Constant { pause }) => AccrualBackoff::constant(pause).expect(CHECKED),
        Some(Backoff::Jittered { min, max }) => AccrualBackoff::jittered(min, max).expect(CHECKED),
    };
    policy.probe = probe.as_ref().map(|probe| {
        let Probe { path, host, interval, timeout, healthy, unhealthy } = probe;
        let settings = ProbeSettings::new(*interval, *timeout).expect(CHECKED);
        let settings = settings.successes(some(*healthy)).failures(some(*unhealthy));
        ProbePolicy { settings, path: path.clone(), host: host.clone() }
    });
    policy
}

pub(super) fn balancer(balancer: &LoadBalancer, accrual: &FailureAccrual) -> Policy {
    let LoadBalancer { kind, load, enable_probation, slow_start, zones, panic, overlap } = balancer;
    let mut policy = strategy(kind, load).overlap(*overlap).panic(match panic.mode {
        PanicMode::LastPick => linkerd_balance::Panic::LastPick,
        PanicMode::Spray => linkerd_balance::Panic::Spray,
        PanicMode::FailFast => linkerd_balance::Panic::FailFast,
    });
    policy = policy.panic_below(panic.below).expect(CHECKED);
    if *enable_probation {
        policy = policy.probation(MAX_PROBATION);
    }
    if let Some(SlowStart { window, min_share, aggression }) = *slow_start {
        let slow_start = linkerd_balance::SlowStart::new(window).expect(CHECKED);
        let slow_start = slow_start.min_share(min_share).and_then(|slow| slow.aggression(aggression));
        policy = policy.slow_start(slow_start.expect(CHECKED));
    }
    if let Some(Zones { local, fallback, min_open, return_open, spill_load }) = zones {
        let mut tiers = Tiers::new().local(local.as_str()).fallback(fallback.iter().map(String::as_str));
        tiers = tiers.min_open(*min_open, *return_open).expect(CHECKED);
        if let Some(spill_load) = spill_load {
            tiers = tiers.spill_load(*spill_load).expect(CHECKED);
        }
        policy = policy.tiers(tiers);
    }
    if accrual.max_ejected_share < 1.0 || accrual.keep_last || accrual.max_probes.is_some() {
        let mut limits = EjectionLimits::new(accrual.max_ejected_share).expect(CHECKED).keep_last(accrual.keep_last);
        if let Some(probes) = accrual.max_probes.and_then(NonZeroU32::new) {
            limits = limits.max_probes(probes);
        }
        policy = policy.ejections(limits);
    }
    policy
}

/// Endpoints that stay after discovery dropped them, at most: as many as a large service has.
const MAX_PROBATION: usize = 1000;

fn strategy(kind: &BalancerKind, load: &LoadMetric) -> Policy {
    let some = |n: usize| NonZeroUsize::new(n).expect(CHECKED);
    match *kind {
        BalancerKind::P2c { max_effort } | BalancerKind::Ewma { max_effort } => {
            loaded(P2c::new().max_effort(some(max_effort)), load)
        }
        BalancerKind::Aperture { max_effort, smooth_window, low_load, high_load, min_aperture, ref order } => {
            let mut aperture = Aperture::builder().window(smooth_window).loads(low_load, high_load).min(min_aperture);
            aperture = aperture.max_effort(some(max_effort));
            aperture = match order {
                ApertureOrder::Chance => aperture,
                ApertureOrder::Peer { ordinal, total } => aperture.peer(Peer::new(*ordinal, *total).expect(CHECKED)),
                ApertureOrder::Client(name) => aperture.client(crate::policy::stable_hash(name.as_bytes())),
            };
            loaded(aperture.build().expect(CHECKED), load)
        }
        BalancerKind::Heap => loaded(Heap::new(), load),
        BalancerKind::RoundRobin { max_effort } => loaded(RoundRobin::new().max_effort(some(max_effort)), load),
        BalancerKind::Random { max_effort } => loaded(Random::new().max_effort(some(max_effort)), load),
        BalancerKind::Ring { hash_on: _, points_per_endpoint, max_ring_size, load_factor } => {
            let ring = Ring::new().points(points_per_endpoint).and_then(|ring| ring.max_size(max_ring_size));
            loaded(ring.and_then(|ring| ring.load_factor(load_factor)).expect(CHECKED), load)
        }
        BalancerKind::Maglev { hash_on: _, table_size, load_factor } => {
            let maglev = Maglev::new().table_size(table_size).and_then(|maglev| maglev.load_factor(load_factor));
            loaded(maglev.expect(CHECKED), load)
        }
        BalancerKind::StickyPrimary { hash_on: _, return_after } => {
            loaded(StickyPrimary::new().return_after(return_after), load)
        }
    }
}

fn loaded(strategy: impl Strategy, load: &LoadMetric) -> Policy {
    match *load {
        LoadMetric::LeastLoaded { failure_penalty } => {
            Policy::new(strategy, move || LeastLoaded::new().failure_penalty(failure_penalty))
        }
        LoadMetric::Ewma { decay_time, failure_penalty, measure, long_stream } => {
            let measure = match measure {
                Measure::Headers => linkerd_balance::Measure::Headers,
                Measure::FirstByte => linkerd_balance::Measure::FirstByte,
                Measure::EndOfStream => linkerd_balance::Measure::EndOfStream,
                Measure::PendingOnly => linkerd_balance::Measure::PendingOnly,
            };
            Policy::new(strategy, move || {
                let load = PeakEwma::new(decay_time).expect(CHECKED).failure_penalty(failure_penalty);
                load.measure(measure).long_stream(long_stream)
            })
        }
    }
}

/// What the requests of a kind that hashes have in common.
pub(super) fn hash_on(kind: &BalancerKind) -> Option<HashOn> {
    let on = match kind {
        BalancerKind::Ring { hash_on, .. } | BalancerKind::Maglev { hash_on, .. } => hash_on,
        BalancerKind::StickyPrimary { hash_on, .. } => hash_on.as_ref()?,
        _ => return None,
    };
    Some(match on {
        super::HashOn::Header(name) => HashOn::Header(name.0.parse().expect(CHECKED)),
        super::HashOn::Cookie(name) => HashOn::Cookie(name.clone()),
        super::HashOn::Path => HashOn::Path,
        super::HashOn::SourceIp => HashOn::SourceIp,
    })
}
