//! The metrics of a balancer.

use std::sync::OnceLock;

use linkerd_balance::ApertureWidth;

use crate::telemetry::{Counter, Gauge, Scope};

/// `loadbalancer` of a client.
#[derive(Debug)]
pub struct BalancerStats {
    /// Endpoints.
    pub size: Gauge,
    /// Endpoints that are open.
    pub available: Gauge,
    /// Endpoints without room for another request.
    pub busy: Gauge,
    /// Endpoints that are ejected or unreachable.
    pub closed: Gauge,
    /// Requests in flight, all endpoints together.
    pub load: Gauge,
    /// Endpoints that came.
    pub adds: Counter,
    /// Endpoints that went.
    pub removes: Counter,
    /// Picks that found no open endpoint and took a closed one.
    pub max_effort_exhausted: Counter,
    /// Address sets that came.
    pub updates: Counter,
    /// Those that changed the set.
    pub rebuilds: Counter,
    /// The mean of the endpoints' weights, rounded.
    pub meanweight: Gauge,
    /// Endpoints that picks may meet: fewer than there are if only a subset is used.
    pub in_use: Gauge,
    /// Endpoints that their source dropped and that stay for now.
    pub leaving: Gauge,
    /// Whether too few endpoints are open: 1 or 0.
    pub panicked: Gauge,
    /// How often too few endpoints were open.
    pub panics: Counter,
    /// Requests that were refused because too few endpoints were open.
    pub refused: Counter,
    /// Requests that went to the next tier because their own was loaded.
    pub spilled: Counter,
    /// The tier that most requests are meant for, from 0.
    pub tier: Gauge,
    /// Different weights.
    pub weight_classes: Gauge,
    both_idle: OnceLock<Counter>,
    aperture: OnceLock<ApertureStats>,
    scope: Scope,
}

/// What a balancer that uses a subset adds to its metrics.
#[derive(Debug)]
struct ApertureStats {
    logical: Gauge,
    physical: Gauge,
    is_ordered: Gauge,
    load: Gauge,
    widened: Counter,
    narrowed: Counter,
}

impl BalancerStats {
    /// Resolves the handles of a scope.
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            size: scope.gauge("size"),
            available: scope.gauge("available"),
            busy: scope.gauge("busy"),
            closed: scope.gauge("closed"),
            load: scope.gauge("load"),
            adds: scope.counter("adds"),
            removes: scope.counter("removes"),
            max_effort_exhausted: scope.counter("max_effort_exhausted"),
            updates: scope.counter("updates"),
            rebuilds: scope.counter("rebuilds"),
            meanweight: scope.gauge("meanweight"),
            in_use: scope.gauge("in_use"),
            leaving: scope.gauge("leaving"),
            panicked: scope.gauge("panicked"),
            panics: scope.counter("panics"),
            refused: scope.counter("refused"),
            spilled: scope.counter("spilled"),
            tier: scope.gauge("tier"),
            weight_classes: scope.gauge("num_weight_classes"),
            both_idle: OnceLock::new(),
            aperture: OnceLock::new(),
            scope,
        }
    }

    /// Says in `p2c/zero` how many picks, about, compared two endpoints of which neither had anything to do. There from
    /// the first on.
    pub fn both_idle(&self, picks: u64) {
        if picks > 0 {
            self.both_idle.get_or_init(|| self.scope.scope("p2c").counter("zero")).advance_to(picks);
        }
    }

    /// Says in `logical_aperture`, `physical_aperture`, `use_deterministic_ordering` and `loadband/*` how wide the subset
    /// is that is used. There from the first time on.
    pub fn aperture(&self, width: &ApertureWidth) {
        let stats = self.aperture.get_or_init(|| {
            let band = self.scope.scope("loadband");
            ApertureStats {
                logical: self.scope.gauge("logical_aperture"),
                physical: self.scope.gauge("physical_aperture"),
                is_ordered: self.scope.gauge("use_deterministic_ordering"),
                load: band.gauge("offered_load_ema"),
                widened: band.counter("widen"),
                narrowed: band.counter("narrow"),
            }
        });
        stats.logical.set_count(width.logical as u64);
        stats.physical.set_count(width.physical as u64);
        stats.is_ordered.set(i64::from(width.is_slice));
        stats.load.set_count(width.in_flight.round() as u64);
        stats.widened.advance_to(width.widened);
        stats.narrowed.advance_to(width.narrowed);
    }
}
