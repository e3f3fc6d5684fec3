//! The endpoints of a balancer at one moment, and how strategies see them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    health::Status,
    lease::{Lease, Tracked},
    load::Now,
    member::Member,
    rng::{self, SplitMix},
    slow_start::SlowStart,
    stamp::Stamp,
    strategy::{Candidates, Strategy},
    tiers::{Rank, Tiers},
    weight::Weights,
};

/// Swapped whole: tiers, and all that was prepared for just these.
pub(crate) struct Set<K, S> {
    // Best first. None of them is empty.
    pub(crate) tiers: Vec<Tier<K, S>>,
    pub(crate) size: usize,
    /// Whether some are not members any more, but stay for a while.
    pub(crate) has_stays: bool,
    surveyed: AtomicU64,
    pruned: AtomicU64,
    made: Instant,
}

/// The endpoints that are balanced together.
pub(crate) struct Tier<K, S> {
    pub(crate) rank: Rank,
    pub(crate) slots: Vec<Arc<Slot<K, S>>>,
    pub(crate) weights: Arc<Weights>,
    pub(crate) strategy: Arc<dyn Strategy>,
    /// What was seen at the last survey.
    pub(crate) seen: Seen,
    // From then on all have their full weight.
    ramps_until: Option<Instant>,
}

/// A tier's numbers, as of the last look at all of its endpoints. Relaxed: each stands alone, and none is exact.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) open: AtomicUsize,
    /// One of them waits to be probed.
    pub(crate) is_due: AtomicBool,
    /// It lost too many, and not enough are back.
    pub(crate) is_left: AtomicBool,
}

/// A tier's part of all requests, from 0 to 1: what the better ones leave to it, and what it keeps of that.
#[derive(Clone, Copy)]
pub(crate) struct Share {
    pub(crate) reached: f64,
    pub(crate) kept: f64,
}

/// An endpoint as a set has it: one for as long as nothing is said of it that changes, so that the next set takes a
/// pointer to it and nothing else.
pub(crate) struct Slot<K, S> {
    // Not the slot itself: a body that is still being read must not keep a removed endpoint's stack alive.
    pub(crate) tracked: Arc<Tracked<K>>,
    pub(crate) svc: S,
    pub(crate) id: u64,
    /// Its place among all that are known.
    pub(crate) label: u32,
    pub(crate) rank: Rank,
    pub(crate) weight: f64,
    pub(crate) zone: Option<Arc<str>>,
    /// None: discovery has it, as mostly; so it takes little room.
    pub(crate) stay: Option<Box<Stay>>,
    /// When it came, if it starts slowly.
    pub(crate) ramp_from: Option<Stamp>,
}

/// Why an endpoint is in the set that discovery dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    /// It works.
    Probation,
    /// None of those that took its place is open yet. Until then at most.
    Overlap(Instant),
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) adds: AtomicU64,
    pub(crate) removes: AtomicU64,
    pub(crate) updates: AtomicU64,
    pub(crate) rebuilds: AtomicU64,
    pub(crate) max_effort_exhausted: AtomicU64,
    pub(crate) both_idle: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) spilled: AtomicU64,
}

/// A tier as one pick sees it.
pub(crate) struct View<'a, K, S> {
    tier: &'a Tier<K, S>,
    slow_start: Option<&'a SlowStart>,
    now: Now,
    exclude: &'a [K],
    ignores_health: bool,
    counts: &'a Counts,
}

impl<K, S> Set<K, S> {
    pub(crate) fn empty(now: Instant) -> Self {
        Self::new(Vec::new(), false, now)
    }

    pub(crate) fn new(tiers: Vec<Tier<K, S>>, has_stays: bool, now: Instant) -> Self {
        let size = tiers.iter().map(|tier| tier.slots.len()).sum();
        Self { tiers, size, has_stays, surveyed: AtomicU64::new(0), pruned: AtomicU64::new(0), made: now }
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = &Arc<Slot<K, S>>> {
        self.tiers.iter().flat_map(|tier| &tier.slots)
    }

    /// The shares of its tiers, best first, as of the last survey.
    pub(crate) fn shares(&self, tiers: &Tiers) -> impl Iterator<Item = Share> {
        let mut reached = 1.0;
        self.tiers.iter().map(move |tier| {
            let seen = &tier.seen;
            let (is_left, open) = (seen.is_left.load(Ordering::Relaxed), seen.open.load(Ordering::Relaxed));
            let kept = reached * tiers.keeps(is_left, open, tier.slots.len());
            let share = Share { reached, kept };
            reached -= kept;
            share
        })
    }

    /// Whether it is just these, in this order.
    pub(crate) fn is_of(&self, slots: &[Arc<Slot<K, S>>]) -> bool {
        let mut left = slots;
        let mut is_next = |tier: &Tier<K, S>| {
            let Some((next, after)) = left.split_at_checked(tier.slots.len()) else { return false };
            left = after;
            tier.slots.iter().zip(next).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        self.size == slots.len() && self.tiers.iter().all(&mut is_next)
    }

    /// Whether it is time for another look at all endpoints. True for one caller only.
    pub(crate) fn is_survey_due(&self, now: Instant) -> bool {
        self.is_look_due(&self.surveyed, now)
    }

    /// Whether it is time to look whether those that stay have a reason to. True for one caller only.
    pub(crate) fn is_prune_due(&self, now: Instant) -> bool {
        self.is_look_due(&self.pruned, now)
    }

    fn is_look_due(&self, looked: &AtomicU64, now: Instant) -> bool {
        // A look takes some nanoseconds for each endpoint: a thousandth of the time at most.
        let interval = Duration::from_millis(10) * (1 + self.size as u32 / 1000);
        let since_made = |at: Instant| at.saturating_duration_since(self.made).as_nanos() as u64 + 1;
        let (last, now) = (looked.load(Ordering::Relaxed), since_made(now));
        (last == 0 || now.saturating_sub(last) >= interval.as_nanos() as u64)
            && looked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl<K, S> Tier<K, S> {
    pub(crate) fn new(
        slots: Vec<Arc<Slot<K, S>>>,
        weights: Arc<Weights>,
        strategy: Arc<dyn Strategy>,
        slow_start: Option<&SlowStart>,
    ) -> Self {
        let ends = slow_start
            .into_iter()
            .flat_map(|slow| slots.iter().filter_map(move |slot| slot.ramp_from.map(|from| slow.end(from.instant()))));
        let ramps_until = ends.max();
        Self { rank: slots[0].rank, slots, weights, strategy, seen: Seen::default(), ramps_until }
    }

    /// Counts what is open. Those that wait to be probed are not, as far as anybody knows.
    pub(crate) fn survey(&self, now: Instant) -> usize {
        let (mut open, mut is_due) = (0, false);
        for slot in &self.slots {
            let health = &slot.tracked.standing;
            if health.is_due(now) {
                is_due = true;
            } else if health.status(now) == Status::Open {
                open += 1;
            }
        }
        self.seen.open.store(open, Ordering::Relaxed);
        self.seen.is_due.store(is_due, Ordering::Relaxed);
        open
    }

    /// Whether these have the weights of the endpoints of this tier, one by one.
    pub(crate) fn weighs_as(&self, slots: &[Arc<Slot<K, S>>]) -> bool {
        let mut pairs = self.slots.iter().zip(slots);
        self.slots.len() == slots.len() && pairs.all(|(a, b)| Arc::ptr_eq(a, b) || a.weight == b.weight)
    }

    /// Requests in flight, as if every endpoint had the mean weight.
    pub(crate) fn load_of(&self, i: usize) -> f64 {
        self.slots[i].tracked.load.pending() as f64 / self.weights.relative(i)
    }
}

impl<K, S> Slot<K, S> {
    /// The part of its weight that it has at `now`.
    pub(crate) fn ramp(&self, slow_start: Option<&SlowStart>, now: Instant) -> f64 {
        match (slow_start, self.ramp_from) {
            (Some(slow), Some(from)) => slow.share(from.instant(), now),
            _ => 1.0,
        }
    }

    /// Whether discovery has it.
    #[inline]
    pub(crate) fn is_member(&self) -> bool {
        self.stay.is_none()
    }

    /// Whether nothing changes if it is named so.
    #[inline]
    pub(crate) fn is_as(&self, member: &Member<K>) -> bool {
        // The rank follows from priority and zone.
        self.weight == member.weight
            && self.rank.priority == member.priority
            && self.zone == member.zone
            && self.is_member()
    }

    /// Says that it is not in the set any more.
    pub(crate) fn leave(&self) {
        self.tracked.leave();
    }

    /// Whether it is open, and not only by guess.
    pub(crate) fn works(&self, now: Instant) -> bool {
        self.tracked.standing.status(now) == Status::Open && !self.tracked.standing.is_due(now)
    }
}

impl<K, S: Clone> Slot<K, S> {
    /// The same endpoint, of which something else is said.
    pub(crate) fn with(&self, weight: f64, rank: Rank, zone: Option<Arc<str>>, stay: Option<Stay>) -> Arc<Self> {
        let Self { ref tracked, ref svc, id, label, ramp_from, .. } = *self;
        let (tracked, svc, stay) = (Arc::clone(tracked), svc.clone(), stay.map(Box::new));
        Arc::new(Self { tracked, svc, id, label, rank, weight, zone, stay, ramp_from })
    }
}

impl<K: Send + Sync + 'static, S: Clone> Slot<K, S> {
    /// A lease of it from `now` on.
    #[inline]
    pub(crate) fn lease(&self, now: Instant) -> Lease<K, S> {
        let lease = Lease::new(self.svc.clone(), Arc::clone(&self.tracked), now);
        if self.tracked.standing.is_due(now) { lease.into_probe() } else { lease }
    }
}

impl<'a, K: Eq, S> View<'a, K, S> {
    #[inline]
    pub(crate) fn new(
        tier: &'a Tier<K, S>,
        slow_start: Option<&'a SlowStart>,
        now: Instant,
        exclude: &'a [K],
        counts: &'a Counts,
    ) -> Self {
        // Past the last ramp nobody looks at one again.
        let slow_start = slow_start.filter(|_| tier.ramps_until.is_some_and(|until| now < until));
        Self { tier, slow_start, now: Now::new(now), exclude, ignores_health: false, counts }
    }

    pub(crate) fn ignoring_health(mut self) -> Self {
        self.ignores_health = true;
        self
    }

    pub(crate) fn is_excluded(&self, i: usize) -> bool {
        !self.exclude.is_empty() && self.exclude.contains(&self.tier.slots[i].tracked.key)
    }

    #[inline]
    pub(crate) fn pick(&self, strategy: &dyn Strategy, draw: crate::Draw) -> usize {
        // The remainder is for strategies that break their word; theirs is the wrong pick, not ours the panic.
        strategy.pick(self, draw) % self.tier.slots.len()
    }

    #[cold]
    #[inline(never)]
    fn worked_out(&self, i: usize) -> Status {
        // Excluded ones look closed, so that every strategy avoids them without knowing of them.
        if self.is_excluded(i) {
            return Status::Closed;
        }
        if self.ignores_health {
            return Status::Open;
        }
        let slot = &self.tier.slots[i];
        match slot.tracked.standing.status(self.now.instant) {
            Status::Open => Status::Open,
            // It stayed because it worked.
            _ if !slot.is_member() => Status::Closed,
            status => status,
        }
    }

    #[cold]
    #[inline(never)]
    fn load_worked_out(&self, i: usize, more: usize) -> f64 {
        let slot = &self.tier.slots[i];
        // Whoever comes upon it sends the probe, however bad it was when it was last seen.
        if slot.tracked.standing.is_due(self.now.instant) {
            return -1.0;
        }
        let weight = self.tier.weights.relative(i) * self.ramp(i);
        slot.tracked.load.score(&self.now, weight, more)
    }

    #[cold]
    #[inline(never)]
    fn draw_ramped(&self, drawn: usize, random: u64) -> usize {
        // Drawn by full weight, taken by the part of it that is reached: rejection. Mostly someone has most of his weight,
        // so a few tries do; where all have little it is one of those drawn, by their parts.
        let (mut drawn, mut rng) = (drawn, SplitMix::new(!random));
        let (mut kept, mut sum, mut other) = (drawn, 0.0, SplitMix::new(random.rotate_left(32)));
        for _ in 0..32 {
            let ramp = self.ramp(drawn);
            if rng::unit(rng.next()) < ramp {
                return drawn;
            }
            sum += ramp;
            if rng::unit(other.next()) * sum < ramp {
                kept = drawn;
            }
            drawn = self.tier.weights.draw(rng.next());
        }
        kept
    }

    #[inline]
    fn ramp(&self, i: usize) -> f64 {
        match self.slow_start {
            None => 1.0,
            slow => self.tier.slots[i].ramp(slow, self.now.instant),
        }
    }
}

impl<K: Eq, S> Candidates for View<'_, K, S> {
    fn len(&self) -> usize {
        self.tier.slots.len()
    }

    #[inline]
    fn status(&self, i: usize) -> Status {
        if self.exclude.is_empty() && self.tier.slots[i].tracked.standing.is_plainly_open() {
            return Status::Open;
        }
        self.worked_out(i)
    }

    #[inline]
    fn load(&self, i: usize, more: usize) -> f64 {
        let tracked = &self.tier.slots[i].tracked;
        if tracked.standing.is_plainly_open() && self.slow_start.is_none() {
            return tracked.load.score(&self.now, self.tier.weights.relative(i), more);
        }
        self.load_worked_out(i, more)
    }

    #[inline]
    fn weight(&self, i: usize) -> f64 {
        self.tier.weights.relative(i) * self.ramp(i)
    }

    // Not as it was given: sums of such weights may be infinite, and products vanish.
    fn full_weight(&self, i: usize) -> f64 {
        self.tier.weights.relative(i)
    }

    fn excluded(&self, i: usize) -> bool {
        self.is_excluded(i)
    }

    fn draw(&self, random: u64) -> usize {
        let drawn = self.tier.weights.draw(random);
        if self.slow_start.is_none() {
            return drawn;
        }
        self.draw_ramped(drawn, random)
    }

    fn id(&self, i: usize) -> u64 {
        self.tier.slots[i].id
    }

    fn pending(&self, i: usize) -> usize {
        self.tier.slots[i].tracked.load.pending()
    }

    fn now(&self) -> Instant {
        self.now.instant
    }

    fn gave_up(&self) {
        self.counts.max_effort_exhausted.fetch_add(1, Ordering::Relaxed);
    }

    fn both_idle(&self, picks: u64) {
        self.counts.both_idle.fetch_add(picks, Ordering::Relaxed);
    }
}
