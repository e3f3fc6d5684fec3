//! What a balancer tells of itself, to people and to metrics.

use std::{
    hash::Hash,
    ops::Add,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::{
    balance::Balance,
    ejections::{EjectionCounts, Ejections},
    health::Status,
    load::Now,
    set::{Set, Share},
    strategy::ApertureWidth,
    tiers::{TierInfo, TierReason},
};

/// Numbers of a [`Balance`], as of one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Endpoints.
    pub size: usize,
    /// Endpoints that are open, with those that are [due](Self::due).
    pub available: usize,
    /// Endpoints that wait to be probed: open only by guess. A [tier](TierInfo::open) does not count them as open.
    pub due: usize,
    /// Endpoints that are busy.
    pub busy: usize,
    /// Endpoints that are closed.
    pub closed: usize,
    /// Requests in flight on all of them.
    pub load: usize,
    /// The mean of their weights; zero if there is none.
    pub mean_weight: f64,
    /// Endpoints that came, so far.
    pub adds: u64,
    /// Endpoints that went, so far.
    pub removes: u64,
    /// Calls of [`Balance::update`], so far.
    pub updates: u64,
    /// Updates that changed the set, so far.
    pub rebuilds: u64,
    /// Picks that found no open endpoint as long as their strategy tried, so far.
    pub max_effort_exhausted: u64,
    /// Endpoints that picks may meet: fewer than there are if the strategy uses a subset.
    pub in_use: usize,
    /// Endpoints that discovery dropped and that stay for now.
    pub stays: usize,
    /// Whether too few endpoints are open. Picks find that there are; picks and [`Balance::stats`] that it is over.
    /// Without any endpoint it is over too.
    pub in_panic: bool,
    /// How often there were too few, so far.
    pub panics: u64,
    /// Requests that were refused for it, so far.
    pub refused: u64,
    /// Requests that went to the next tier because their own was loaded, so far.
    pub spilled: u64,
    /// The tier that most requests are meant for, from 0.
    pub tier: usize,
    /// What is ejected of what may be, if that is limited.
    pub ejections: Option<EjectionCounts>,
    /// How many different weights there are.
    pub weight_classes: usize,
    /// Picks that compared two endpoints of which neither had any load, so far: a guess, from one pick in sixteen. Zero
    /// but for [`P2c`](crate::P2c) and what is built on it.
    pub both_idle: u64,
    /// The subset that is used, if its width follows the load; of several tiers all together.
    pub aperture: Option<ApertureWidth>,
}

/// One endpoint of a [`Balance`], as of one instant.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EndpointInfo<K> {
    /// Its name.
    pub key: K,
    /// Its weight.
    pub weight: f64,
    /// Its status.
    pub status: Status,
    /// Its score, in the unit of the [`Load`](crate::Load) in use.
    pub load: f64,
    /// Its requests in flight.
    pub pending: usize,
    /// Where it runs.
    pub zone: Option<Arc<str>>,
    /// Its tier, from 0.
    pub tier: usize,
    /// The part of its weight that it has reached, if it starts slowly; else 1.
    pub ramp: f64,
    /// Whether it waits to be probed: open only by guess.
    pub is_due: bool,
    /// Whether picks may meet it: false outside of the subset that a strategy uses.
    pub is_used: bool,
    /// Whether discovery dropped it, and it stays for now.
    pub is_leaving: bool,
}

impl<K, S> Balance<K, S>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    /// Its numbers at `now`. Looks at every endpoint.
    #[must_use]
    pub fn stats(&self, now: Instant) -> Stats {
        self.0.prune(now);
        let (set, counts) = (self.0.set.load(), &self.0.counts);
        self.0.survey(&set, now);
        self.0.try_calm(&set, now);
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut stats = Stats {
            size: set.size,
            mean_weight: set
                .tiers
                .iter()
                .map(|tier| tier.weights.mean() * (tier.slots.len() as f64 / set.size as f64))
                // Not `sum`, which is -0 for none.
                .fold(0.0, f64::add),
            adds: count(&counts.adds),
            removes: count(&counts.removes),
            updates: count(&counts.updates),
            rebuilds: count(&counts.rebuilds),
            max_effort_exhausted: count(&counts.max_effort_exhausted),
            in_panic: self.0.in_panic.load(Ordering::Relaxed),
            panics: count(&counts.panics),
            refused: count(&counts.refused),
            spilled: count(&counts.spilled),
            ejections: self.0.ejections.as_ref().map(Ejections::counts),
            weight_classes: weight_classes(&set),
            both_idle: count(&counts.both_idle),
            aperture: set.tiers.iter().filter_map(|tier| tier.strategy.aperture()).reduce(ApertureWidth::with),
            ..Stats::default()
        };
        let shares = set.shares(&self.0.policy.tiers).enumerate();
        let most = shares.fold((0, 0.0), |most, (i, share)| if share.kept > most.1 { (i, share.kept) } else { most });
        stats.tier = most.0;
        for tier in &set.tiers {
            let view = self.0.view(tier, now, &[]);
            for (i, slot) in tier.slots.iter().enumerate() {
                stats.load = stats.load.saturating_add(slot.tracked.load.pending());
                stats.in_use += usize::from(tier.strategy.uses(&view, i));
                stats.due += usize::from(slot.tracked.standing.is_due(now));
                stats.stays += usize::from(!slot.is_member());
                match slot.tracked.standing.status(now) {
                    Status::Open => stats.available += 1,
                    Status::Busy => stats.busy += 1,
                    Status::Closed => stats.closed += 1,
                }
            }
        }
        stats
    }

    /// Its endpoints at `now`: tier by tier, within one in the order of the last update.
    #[must_use]
    pub fn endpoints(&self, now: Instant) -> Vec<EndpointInfo<K>> {
        let set = self.0.set.load();
        let tiers = set.tiers.iter().enumerate().flat_map(|(t, tier)| {
            let view = self.0.view(tier, now, &[]);
            let infos = tier.slots.iter().enumerate().map(move |(i, slot)| EndpointInfo {
                key: slot.tracked.key.clone(),
                weight: slot.weight,
                status: slot.tracked.standing.status(now),
                load: slot.tracked.load.score(&Now::new(now), tier.weights.relative(i), 0),
                pending: slot.tracked.load.pending(),
                zone: slot.zone.clone(),
                tier: t,
                ramp: slot.ramp(self.0.policy.slow_start.as_ref(), now),
                is_due: slot.tracked.standing.is_due(now),
                is_used: tier.strategy.uses(&view, i),
                is_leaving: !slot.is_member(),
            });
            infos.collect::<Vec<_>>()
        });
        tiers.collect()
    }

    /// The services of its endpoints, in the order of [`endpoints`](Self::endpoints).
    #[must_use]
    pub fn services(&self) -> Vec<(K, S)> {
        let set = self.0.set.load();
        set.slots().map(|slot| (slot.tracked.key.clone(), slot.svc.clone())).collect()
    }

    /// The first so many of those that are not open at `now`, with what they are.
    #[must_use]
    pub fn first_unavailable(&self, max: usize, now: Instant) -> Vec<(K, S, Status)> {
        let set = self.0.set.load();
        let of = set.slots().map(|slot| (slot, slot.tracked.standing.status(now)));
        let unavailable = of.filter(|(_, status)| *status != Status::Open).take(max);
        unavailable.map(|(slot, status)| (slot.tracked.key.clone(), slot.svc.clone(), status)).collect()
    }

    /// Its tiers at `now`, best first, and why each has the requests that it has.
    #[must_use]
    pub fn tiers(&self, now: Instant) -> Vec<TierInfo> {
        let set = self.0.set.load();
        self.0.survey(&set, now);
        let zones = || set.slots().filter_map(|slot| slot.zone.as_deref());
        let no_local = self.0.policy.tiers.local_zone().and_then(|local| match () {
            () if zones().next().is_none() => Some(TierReason::NoZones),
            () if zones().all(|zone| zone != local) => Some(TierReason::NoneLocal),
            () => None,
        });
        let tiers = set.tiers.iter().zip(set.shares(&self.0.policy.tiers)).enumerate();
        let tiers = tiers.map(|(i, (tier, Share { reached, kept }))| {
            let size = tier.slots.len();
            // With one tier nobody else looks.
            let open = if set.tiers.len() == 1 { tier.survey(now) } else { tier.seen.open.load(Ordering::Relaxed) };
            let zone = tier.slots[0].zone.clone();
            TierInfo {
                priority: tier.rank.priority,
                zone: zone.filter(|_| tier.slots.iter().all(|slot| slot.zone == tier.slots[0].zone)),
                size,
                open,
                in_flight: {
                    let pending = tier.slots.iter().map(|slot| slot.tracked.load.pending());
                    pending.fold(0, usize::saturating_add)
                },
                share: kept,
                why: match () {
                    () if open == 0 || tier.seen.is_left.load(Ordering::Relaxed) => {
                        TierReason::Unhealthy { open, size }
                    }
                    () if i == 0 => no_local.unwrap_or(TierReason::Preferred),
                    () if reached > 0.0 => TierReason::TakesOver,
                    () => TierReason::Standby,
                },
            }
        });
        tiers.collect()
    }
}

/// How many different weights there are.
fn weight_classes<K, S>(set: &Set<K, S>) -> usize {
    let mut weights: Vec<u64> = set.slots().map(|slot| slot.weight.to_bits()).collect();
    // Most often there is one.
    weights.dedup();
    weights.sort_unstable();
    weights.dedup();
    weights.len()
}
