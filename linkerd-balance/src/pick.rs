//! One pick: which tier, which endpoint, and what is done when none is open.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use crate::{
    balance::Inner,
    health::Status,
    panic::{Event, Panic, Unavailable},
    rng::{self, SplitMix},
    set::{Set, Slot, Tier, View},
    strategy::{Candidates, Draw, best_by_weight},
};

#[derive(Clone, Copy)]
pub(crate) struct Pick {
    tier: usize,
    i: usize,
    status: Status,
}

impl Pick {
    #[inline]
    pub(crate) fn slot<'a, K, S>(&self, set: &'a Set<K, S>) -> &'a Arc<Slot<K, S>> {
        &set.tiers[self.tier].slots[self.i]
    }
}

impl<K: Eq, S> Inner<K, S> {
    #[inline]
    pub(crate) fn pick(&self, set: &Set<K, S>, draw: Draw, now: Instant, exclude: &[K]) -> Result<Pick, Unavailable> {
        if set.tiers.is_empty() {
            return Err(Unavailable::NoEndpoints);
        }
        // What was tried already is used only if there is nothing else.
        let all_tried = exclude.len() >= set.size && set.slots().all(|slot| exclude.contains(&slot.tracked.key));
        let exclude = if all_tried { &[] } else { exclude };
        if self.policy.panic_below > 0.0 {
            self.survey(set, now);
            let open: usize = set.tiers.iter().map(|tier| tier.seen.open.load(Ordering::Relaxed)).sum();
            if (open as f64) < self.policy.panic_below * set.size as f64 {
                return self.in_panic(set, None, draw, now, exclude);
            }
        }
        let pick = self.best(set, draw, now, exclude);
        if pick.status != Status::Open && !exclude.is_empty() {
            // What was tried already may be all that is open, which is no panic. It just failed this request: one that
            // was not tried goes first, unless such ones are not to be used at all.
            let again = self.best(set, draw, now, &[]);
            if again.status == Status::Open {
                return Ok(if self.policy.panic == Panic::FailFast { again } else { pick });
            }
        }
        if pick.status != Status::Open {
            return self.in_panic(set, Some(pick), draw, now, exclude);
        }
        if self.in_panic.load(Ordering::Relaxed) && !pick.slot(set).tracked.standing.is_due(now) {
            self.calm(set, now);
        }
        Ok(pick)
    }

    /// What the strategy picks where health counts.
    #[inline]
    fn best(&self, set: &Set<K, S>, draw: Draw, now: Instant, exclude: &[K]) -> Pick {
        match &*set.tiers {
            [_] => self.pick_in(set, 0, draw, now, exclude),
            _ => self.pick_tiered(set, draw, now, exclude),
        }
    }

    /// One of a tier's endpoints: an open one, if there is one.
    #[inline]
    fn pick_in(&self, set: &Set<K, S>, tier: usize, draw: Draw, now: Instant, exclude: &[K]) -> Pick {
        let view = self.view(&set.tiers[tier], now, exclude);
        let i = view.pick(&*set.tiers[tier].strategy, draw);
        let status = view.status(i);
        if status == Status::Open {
            return Pick { tier, i, status };
        }
        Self::open_instead(&view, Pick { tier, i, status }, draw)
    }

    /// An open endpoint of the tier in place of one that is not, if there is one.
    #[cold]
    #[inline(never)]
    fn open_instead(view: &View<'_, K, S>, Pick { tier, i, status }: Pick, draw: Draw) -> Pick {
        // Strategies look long, but not all of them at all.
        let any = |i| (!view.is_excluded(i)).then(|| (view.status(i), view.weight(i)));
        match best_by_weight(view.len(), any, draw.random) {
            Some(best) if view.status(best) > status || view.is_excluded(i) => {
                Pick { tier, i: best, status: view.status(best) }
            }
            _ => Pick { tier, i, status },
        }
    }

    #[inline(never)]
    fn pick_tiered(&self, set: &Set<K, S>, draw: Draw, now: Instant, exclude: &[K]) -> Pick {
        self.survey(set, now);
        if let Some(probe) = self.probe(set, now, exclude) {
            return probe;
        }
        let wanted = self.wanted_tier(set, draw);
        let mut best = self.pick_in(set, wanted, draw, now, exclude);
        if best.status != Status::Open {
            for tier in (0..set.tiers.len()).filter(|tier| *tier != wanted) {
                let other = self.pick_in(set, tier, draw, now, exclude);
                if other.status > best.status {
                    best = other;
                }
                if best.status == Status::Open {
                    break;
                }
            }
            return best;
        }
        self.spill(set, best, draw, now, exclude)
    }

    /// Somebody whose time to be probed has come, whether or not the strategy would come upon him: a tier that lost too
    /// many is back only when these are.
    fn probe(&self, set: &Set<K, S>, now: Instant, exclude: &[K]) -> Option<Pick> {
        // One request for each survey, so that the rest does not look for what is found.
        let is_due = |tier: &Tier<K, S>| {
            tier.seen.is_due.load(Ordering::Relaxed) && tier.seen.is_due.swap(false, Ordering::Relaxed)
        };
        set.tiers.iter().any(is_due).then(|| self.due(set, now, exclude))?
    }

    /// The tier that a request is for, by the shares that they keep.
    fn wanted_tier(&self, set: &Set<K, S>, draw: Draw) -> usize {
        // Other bits than the strategy's, which begins with the same seed.
        let mut left = rng::unit(SplitMix::new(!draw.key.unwrap_or(draw.random)).next());
        for (i, share) in set.shares(&self.policy.tiers).enumerate() {
            if left < share.kept {
                return i;
            }
            left -= share.kept;
        }
        0
    }

    /// The same pick, or one of the first tier after it that has room for more; if none has, of the one that has least to do.
    fn spill(&self, set: &Set<K, S>, pick: Pick, draw: Draw, now: Instant, exclude: &[K]) -> Pick {
        let Some(limit) = self.policy.tiers.spills_at() else { return pick };
        let load_of = |pick: &Pick| set.tiers[pick.tier].load_of(pick.i);
        let (mut best, mut load) = (pick, load_of(&pick));
        if load < limit || pick.slot(set).tracked.standing.is_due(now) {
            return pick;
        }
        for tier in pick.tier + 1..set.tiers.len() {
            let other = self.pick_in(set, tier, draw, now, exclude);
            if other.status == Status::Open && load_of(&other) < load {
                (best, load) = (other, load_of(&other));
            }
            if load < limit {
                break;
            }
        }
        if best.tier != pick.tier {
            self.counts.spilled.fetch_add(1, Ordering::Relaxed);
        }
        best
    }

    /// Too few are open. `best` is what was picked where health counts, if that was tried.
    #[cold]
    #[inline(never)]
    fn in_panic(
        &self,
        set: &Set<K, S>,
        best: Option<Pick>,
        draw: Draw,
        now: Instant,
        exclude: &[K],
    ) -> Result<Pick, Unavailable> {
        let mode = self.policy.panic;
        if !self.in_panic.swap(true, Ordering::Relaxed) {
            self.counts.panics.fetch_add(1, Ordering::Relaxed);
            self.observe(&Event::PanicBegan { mode, size: set.size, at: now });
        }
        match mode {
            Panic::LastPick => Ok(best.unwrap_or_else(|| self.best(set, draw, now, exclude))),
            Panic::Spray => {
                // A tier by its size, then whoever the strategy takes.
                let mut rng = SplitMix::new(!draw.key.unwrap_or(draw.random));
                let mut left = rng::below(rng.next(), set.size as u64) as usize;
                let mut tier = 0;
                while left >= set.tiers[tier].slots.len() {
                    left -= set.tiers[tier].slots.len();
                    tier += 1;
                }
                let view = self.view(&set.tiers[tier], now, exclude).ignoring_health();
                let i = view.pick(&*set.tiers[tier].strategy, draw);
                Ok(Pick { tier, i, status: view.status(i) })
            }
            Panic::FailFast => self.due(set, now, exclude).ok_or_else(|| {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                unavailable(set, now)
            }),
        }
    }

    /// Somebody whose time to be probed has come.
    fn due(&self, set: &Set<K, S>, now: Instant, exclude: &[K]) -> Option<Pick> {
        set.tiers.iter().enumerate().find_map(|(tier, of)| {
            let view = self.view(of, now, exclude);
            let i = of
                .slots
                .iter()
                .enumerate()
                .position(|(i, slot)| slot.tracked.standing.is_due(now) && view.status(i) == Status::Open)?;
            Some(Pick { tier, i, status: Status::Open })
        })
    }

    /// Ends a panic that is over, for a balancer that nobody asks for an endpoint.
    pub(crate) fn try_calm(&self, set: &Set<K, S>, now: Instant) {
        if !self.in_panic.load(Ordering::Relaxed) {
            return;
        }
        let open: usize = set.tiers.iter().map(|tier| tier.survey(now)).sum();
        let is_enough = open > 0 && open as f64 >= self.policy.panic_below * set.size as f64;
        if set.size == 0 || is_enough {
            self.calm(set, now);
        }
    }

    #[cold]
    #[inline(never)]
    fn calm(&self, set: &Set<K, S>, now: Instant) {
        if self.in_panic.swap(false, Ordering::Relaxed) {
            self.observe(&Event::PanicEnded { size: set.size, at: now });
        }
    }

    /// Looks at all endpoints, if the last look is too long ago.
    pub(crate) fn survey(&self, set: &Set<K, S>, now: Instant) {
        if !set.is_survey_due(now) {
            return;
        }
        for (i, tier) in set.tiers.iter().enumerate() {
            let (open, size) = (tier.survey(now), tier.slots.len());
            let was = tier.seen.is_left.load(Ordering::Relaxed);
            // The last one has nobody to leave its requests to.
            let left = i + 1 < set.tiers.len() && self.policy.tiers.leaves(was, open, size);
            if left == was {
                continue;
            }
            tier.seen.is_left.store(left, Ordering::Relaxed);
            self.observe(&if left {
                Event::TierLeft { tier: i, open, size, at: now }
            } else {
                Event::TierBack { tier: i, open, size, at: now }
            });
        }
    }

    #[inline]
    pub(crate) fn view<'a>(&'a self, tier: &'a Tier<K, S>, now: Instant, exclude: &'a [K]) -> View<'a, K, S> {
        View::new(tier, self.policy.slow_start.as_ref(), now, exclude, &self.counts)
    }

    fn observe(&self, event: &Event) {
        if let Some(observer) = &self.policy.observer {
            observer(event);
        }
    }
}

fn unavailable<K, S>(set: &Set<K, S>, now: Instant) -> Unavailable {
    let (mut open, mut busy, mut closed, mut unconnected, mut probe_in) = (0, 0, 0, 0, None);
    for slot in set.slots() {
        let health = &slot.tracked.standing;
        match health.status(now) {
            Status::Open => open += 1,
            Status::Busy => busy += 1,
            Status::Closed => closed += 1,
        }
        unconnected += usize::from(health.link() != Status::Open);
        if let Some(wait) = health.busy_for(now) {
            probe_in = Some(probe_in.map_or(wait, |least| wait.min(least)));
        }
    }
    Unavailable::FailFast { size: set.size, open, busy, closed, unconnected, probe_in }
}
