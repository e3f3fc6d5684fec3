//! From the keys of balancing to the engine's policies.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use linkerd_balance::{
    Aperture, EjectionLimits, Heap, LeastLoaded, Maglev, P2c, PeakEwma, Peer, Policy, ProbeSettings, Random, Ring,
    RoundRobin, StickyPrimary, Strategy, Tiers,
    accrual::{Backoff as AccrualBackoff, ConsecutiveFailures, SuccessRate, SuccessRateWindowed, Unified},
};

use serde_json::{Value, json};

use super::{
    AccrualKind, ApertureOrder, Backoff, BalancerKind, Budget, FailureAccrual, HostConnectionPool, LoadBalancer,
    LoadMetric, Measure, PanicMode, Probe, ProbeKind, SlowStart, Zones, build::CHECKED,
};
use crate::{AccrualPolicy, HashOn, ProbePolicy, ProbeQuestion};

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
        // Full jitter is refused where the file is read.
        Some(Backoff::EqualJittered { min, max } | Backoff::FullJittered { min, max }) => {
            AccrualBackoff::equal_jittered(min, max).expect(CHECKED)
        }
    };
    policy.probe = probe.as_ref().map(|probe| {
        let Probe { kind, host, interval, timeout, healthy, unhealthy } = probe;
        let settings = ProbeSettings::new(*interval, *timeout).expect(CHECKED);
        let settings = settings.successes(some(*healthy)).failures(some(*unhealthy));
        let question = match kind.clone() {
            ProbeKind::Http { path } => ProbeQuestion::Http { path },
            ProbeKind::Grpc { service } => ProbeQuestion::Grpc { service },
        };
        ProbePolicy { settings, question, host: host.clone() }
    });
    policy
}

pub(super) fn balancer(balancer: &LoadBalancer, accrual: &FailureAccrual) -> Policy {
    let LoadBalancer { kind, load, enable_probation, slow_start, zones, panic, overlap, hints: _ } = balancer;
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

/// The settings in force, under the names that they have in a file, defaults included.
pub(super) fn shown<const N: usize>(
    balancer: &LoadBalancer,
    accrual: &FailureAccrual,
    others: [(&'static str, Value); N],
) -> String {
    let mut all = json!({"loadBalancer": shown_balancer(balancer), "failureAccrual": shown_accrual(accrual)});
    for (name, value) in others {
        all[name] = value;
    }
    all.to_string()
}

fn shown_balancer(balancer: &LoadBalancer) -> Value {
    let LoadBalancer { kind, load, enable_probation, slow_start, zones, panic, overlap, hints } = balancer;
    let mut shown = match kind {
        BalancerKind::P2c { max_effort } => json!({"kind": "p2c", "maxEffort": max_effort}),
        BalancerKind::Ewma { max_effort } => json!({"kind": "ewma", "maxEffort": max_effort}),
        BalancerKind::Aperture { max_effort, smooth_window, low_load, high_load, min_aperture, order } => {
            let mut shown = json!({
                "kind": "aperture", "maxEffort": max_effort, "smoothWindowMs": millis(*smooth_window),
                "lowLoad": low_load, "highLoad": high_load, "minAperture": min_aperture,
            });
            match order {
                ApertureOrder::Chance => {}
                ApertureOrder::Peer { ordinal, total } => shown["peer"] = json!({"ordinal": ordinal, "total": total}),
                ApertureOrder::Client(name) => shown["clientId"] = json!(name),
            }
            shown
        }
        BalancerKind::Heap => json!({"kind": "heap"}),
        BalancerKind::RoundRobin { max_effort } => json!({"kind": "roundRobin", "maxEffort": max_effort}),
        BalancerKind::Random { max_effort } => json!({"kind": "random", "maxEffort": max_effort}),
        BalancerKind::Ring { hash_on, points_per_endpoint, max_ring_size, load_factor } => json!({
            "kind": "ring", "hashOn": shown_hash_on(hash_on), "pointsPerEndpoint": points_per_endpoint,
            "maxRingSize": max_ring_size, "loadFactor": load_factor.unwrap_or(0.0),
        }),
        BalancerKind::Maglev { hash_on, table_size, load_factor } => json!({
            "kind": "maglev", "hashOn": shown_hash_on(hash_on), "tableSize": table_size,
            "loadFactor": load_factor.unwrap_or(0.0),
        }),
        BalancerKind::StickyPrimary { hash_on, return_after } => json!({
            "kind": "stickyPrimary", "hashOn": hash_on.as_ref().map(shown_hash_on),
            "returnAfterMs": return_after.map(millis),
        }),
    };
    match load {
        LoadMetric::LeastLoaded { failure_penalty } => {
            shown["load"] = json!("leastLoaded");
            shown["failurePenaltyMs"] = millis(*failure_penalty);
        }
        LoadMetric::Ewma { decay_time, failure_penalty, measure, long_stream } => {
            shown["load"] = json!("ewma");
            shown["decayTimeMs"] = millis(*decay_time);
            shown["failurePenaltyMs"] = millis(*failure_penalty);
            shown["longStreamMs"] = millis(*long_stream);
            shown["measure"] = json!(match measure {
                Measure::Headers => "headers",
                Measure::FirstByte => "firstByte",
                Measure::EndOfStream => "endOfStream",
                Measure::PendingOnly => "pendingOnly",
            });
        }
    }
    shown["enableProbation"] = json!(enable_probation);
    shown["hints"] = json!(hints);
    shown["overlapMs"] = millis(*overlap);
    let mode = match panic.mode {
        PanicMode::LastPick => "lastPick",
        PanicMode::Spray => "spray",
        PanicMode::FailFast => "failFast",
    };
    shown["panic"] = json!({"mode": mode, "below": panic.below});
    shown["slowStart"] = slow_start.as_ref().map_or(Value::Null, |SlowStart { window, min_share, aggression }| {
        json!({"windowMs": millis(*window), "minShare": min_share, "aggression": aggression})
    });
    shown["zones"] = zones.as_ref().map_or(Value::Null, |zones| {
        let Zones { local, fallback, min_open, return_open, spill_load } = zones;
        json!({
            "local": local, "fallback": fallback, "minOpen": min_open, "returnOpen": return_open,
            "spillLoad": spill_load,
        })
    });
    shown
}

fn shown_hash_on(on: &super::HashOn) -> Value {
    match on {
        super::HashOn::Header(name) => json!({"header": name.0}),
        super::HashOn::Cookie(name) => json!({"cookie": name}),
        super::HashOn::Path => json!({"path": true}),
        super::HashOn::SourceIp => json!({"sourceIp": true}),
    }
}

fn shown_accrual(accrual: &FailureAccrual) -> Value {
    let FailureAccrual { kind, backoff, max_ejected_share, keep_last, max_probes, probe } = accrual;
    let mut shown = match kind {
        AccrualKind::Off => json!({"kind": "none"}),
        AccrualKind::ConsecutiveFailures { failures } => {
            json!({"kind": "io.l5d.consecutiveFailures", "failures": failures})
        }
        AccrualKind::SuccessRate { success_rate, requests } => {
            json!({"kind": "io.l5d.successRate", "successRate": success_rate, "requests": requests})
        }
        AccrualKind::SuccessRateWindowed { success_rate, window } => json!({
            "kind": "io.l5d.successRateWindowed", "successRate": success_rate, "window": window.as_secs(),
        }),
        AccrualKind::Unified { failures, success_rate, window, min_requests } => json!({
            "kind": "io.l5d.unified", "failures": failures, "successRate": success_rate, "window": window.as_secs(),
            "minRequests": min_requests,
        }),
    };
    shown["backoff"] = match *backoff {
        None => json!({"kind": "equalJittered", "minMs": 5000, "maxMs": 300_000}),
        Some(Backoff::Constant { pause }) => json!({"kind": "constant", "ms": millis(pause)}),
        Some(Backoff::Jittered { min, max }) => {
            json!({"kind": "jittered", "minMs": millis(min), "maxMs": millis(max)})
        }
        Some(Backoff::EqualJittered { min, max } | Backoff::FullJittered { min, max }) => {
            json!({"kind": "equalJittered", "minMs": millis(min), "maxMs": millis(max)})
        }
    };
    shown["maxEjectedShare"] = json!(max_ejected_share);
    shown["keepLast"] = json!(keep_last);
    shown["maxProbes"] = json!(max_probes);
    shown["probe"] = probe.as_ref().map_or(Value::Null, |probe| {
        let Probe { kind, host, interval, timeout, healthy, unhealthy } = probe;
        let mut shown = match kind {
            ProbeKind::Http { path } => json!({"kind": "http", "path": path}),
            ProbeKind::Grpc { service } => json!({"kind": "grpc", "service": service}),
        };
        shown["host"] = json!(host);
        shown["intervalMs"] = millis(*interval);
        shown["timeoutMs"] = millis(*timeout);
        shown["healthy"] = json!(healthy);
        shown["unhealthy"] = json!(unhealthy);
        shown
    });
    shown
}

pub(super) fn shown_budget(budget: &Budget) -> Value {
    let Budget { ttl, min_retries_per_sec, percent_can_retry } = *budget;
    json!({
        "ttlSecs": ttl.as_secs(), "minRetriesPerSec": min_retries_per_sec, "percentCanRetry": percent_can_retry,
    })
}

pub(super) fn shown_pool(pool: &HostConnectionPool) -> Value {
    let HostConnectionPool { min_size, max_size, idle_time, max_waiters } = *pool;
    json!({
        "minSize": min_size, "maxSize": max_size, "idleTimeMs": idle_time.map(millis), "maxWaiters": max_waiters,
    })
}

fn millis(time: Duration) -> Value {
    json!(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
