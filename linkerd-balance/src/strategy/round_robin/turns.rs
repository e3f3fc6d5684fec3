//! Whose turn it is: endpoints in the order of their weights, as evenly spread as can be.

/// Takes turns by weight: at any time each has had its share of all turns so far, give or take less than one.
///
/// The problem is known as chairman assignment, the algorithm is that of Tijdeman (1980), in the shape of an earliest
/// deadline first queue: the `k`-th turn of one with share `s` of the turns may come after turn `(k - 1 + e) / s` of all
/// and must come before turn `(k - e) / s`, with `e = 1 / (2 n - 2)`; of those that may, the one that must soonest does.
/// All must can be met. Two binary heaps, so a turn costs `O(log n)`.
///
/// The clock counts turns divided by the sum of the weights, so that weights may change as they like.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    each: Vec<Turn>,
    // By when they may.
    waiting: Queue,
    // By when they must.
    ready: Queue,
    clock: f64,
    total: f64,
    slack: f64,
    // The next one whose weight is looked at again.
    cursor: usize,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    // When its last turn ended and the next one began, as if it were served without pause.
    start: f64,
    weight: f64,
    // What its queue is ordered by; then `tie`.
    key: f64,
    tie: u64,
    place: u32,
    ready: bool,
}

/// Past this the clock starts again at zero: from here on sums of small steps would lose digits.
const REBASE: f64 = 1e6;
/// Rounding must not keep anybody from a turn that is due.
const ROUNDING: f64 = 1e-9;

impl Turns {
    /// One for each `(weight, progress, tie)`. Weights are above zero, about 1 in the mean.
    ///
    /// `progress` is what [`progress`](Self::progress) said of the same one before, zero for a new one. The lower `tie`
    /// goes first.
    pub(super) fn new(of: impl Iterator<Item = (f64, f64, u64)>) -> Self {
        let turn = |(weight, progress, tie): (f64, f64, u64)| Turn {
            start: -progress / weight,
            weight,
            key: 0.0,
            tie,
            place: 0,
            ready: false,
        };
        let each: Vec<_> = of.map(turn).collect();
        let n = each.len();
        let queue = || Queue(Vec::with_capacity(n));
        let slack = 0.5 / n.saturating_sub(1).max(1) as f64;
        let mut turns = Self { each, waiting: queue(), ready: queue(), clock: 0.0, total: 0.0, slack, cursor: 0 };
        turns.rebase();
        turns
    }

    /// How far `i` is in its turn: from 0, just begun, to 1, overdue. A little less and more is possible.
    pub(super) fn progress(&self, i: usize) -> f64 {
        let Turn { start, weight, .. } = self.each[i];
        ((self.clock - start) * weight).clamp(-1.0, 1.0)
    }

    /// Breaks ties anew.
    pub(super) fn shuffle(&mut self, tie: impl Fn(usize) -> u64) {
        for (i, turn) in self.each.iter_mut().enumerate() {
            turn.tie = tie(i);
        }
        self.rebase();
    }

    /// Whose turn it is next. It stays so until it is [taken](Self::take).
    pub(super) fn next(&mut self) -> usize {
        self.clock += 1.0 / self.total;
        if self.clock > REBASE {
            self.rebase();
        }
        while let Some(i) = self.waiting.first()
            && self.each[i].key <= self.clock + ROUNDING
        {
            self.waiting.remove(&mut self.each, i);
            self.each[i].key = self.must(i);
            self.each[i].ready = true;
            self.ready.push(&mut self.each, i);
        }
        self.ready.first().or_else(|| self.waiting.first()).unwrap_or(0)
    }

    /// Takes the turn of `i`, whether or not it was the next, and lets time pass up to it. Its next one comes by `weight`.
    pub(super) fn take(&mut self, i: usize, weight: f64) {
        self.clock = self.clock.max(self.may(i));
        self.unqueue(i);
        let turn = &mut self.each[i];
        self.total += weight - turn.weight;
        turn.weight = weight;
        turn.start += 1.0 / weight;
        // Turns that it missed are lost, not owed.
        if turn.start < self.clock - 1.0 / weight {
            turn.start = self.clock;
        }
        self.queue(i);
    }

    /// Whether the turn of `a` must have come before that of `b`.
    pub(super) fn is_sooner(&self, a: usize, b: usize) -> bool {
        let by_tie = || self.each[a].tie.cmp(&self.each[b].tie);
        self.must(a).total_cmp(&self.must(b)).then_with(by_tie).is_lt()
    }

    /// When the turn of `i` must have come.
    fn must(&self, i: usize) -> f64 {
        let turn = &self.each[i];
        turn.start + (1.0 - self.slack) / turn.weight
    }

    fn may(&self, i: usize) -> f64 {
        let turn = &self.each[i];
        turn.start + self.slack / turn.weight
    }

    /// Looks at the weight of one more, in turn, so that all are followed without looking at all for each pick.
    pub(super) fn follow(&mut self, weight: impl Fn(usize) -> f64) {
        let i = self.cursor;
        self.cursor = if i + 1 < self.each.len() { i + 1 } else { 0 };
        let weight = weight(i);
        let Turn { start, weight: before, .. } = self.each[i];
        if weight == before {
            return;
        }
        self.unqueue(i);
        self.total += weight - before;
        // As far in its turn as it was.
        let start = self.clock - (self.clock - start) * before / weight;
        self.each[i] = Turn { start, weight, ..self.each[i] };
        self.queue(i);
    }

    fn queue(&mut self, i: usize) {
        self.each[i].key = self.may(i);
        self.each[i].ready = false;
        self.waiting.push(&mut self.each, i);
    }

    fn unqueue(&mut self, i: usize) {
        let queue = if self.each[i].ready { &mut self.ready } else { &mut self.waiting };
        queue.remove(&mut self.each, i);
    }

    /// Sets the clock to zero and queues all anew. Exact sums again, too.
    fn rebase(&mut self) {
        self.waiting.0.clear();
        self.ready.0.clear();
        self.total = self.each.iter().map(|turn| turn.weight).sum();
        for i in 0..self.each.len() {
            self.each[i].start -= self.clock;
            self.queue(i);
        }
        self.clock = 0.0;
    }
}

/// A binary heap of places in `turns`, each of which knows its place here.
#[derive(Clone, Debug, Default)]
struct Queue(Vec<u32>);

impl Queue {
    fn first(&self) -> Option<usize> {
        self.0.first().map(|&i| i as usize)
    }

    fn push(&mut self, turns: &mut [Turn], i: usize) {
        self.0.push(i as u32);
        self.up(turns, self.0.len() - 1);
    }

    fn remove(&mut self, turns: &mut [Turn], i: usize) {
        let place = turns[i].place as usize;
        self.0.swap_remove(place);
        if place < self.0.len() {
            self.up(turns, place);
            self.down(turns, turns[self.0[place] as usize].place as usize);
        }
    }

    fn up(&mut self, turns: &mut [Turn], mut place: usize) {
        while place > 0 && self.less(turns, place, (place - 1) / 2) {
            self.swap(turns, place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        turns[self.0[place] as usize].place = place as u32;
    }

    fn down(&mut self, turns: &mut [Turn], mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let mut least = place;
            if left < self.0.len() && self.less(turns, left, least) {
                least = left;
            }
            if right < self.0.len() && self.less(turns, right, least) {
                least = right;
            }
            if least == place {
                break;
            }
            self.swap(turns, place, least);
            place = least;
        }
        turns[self.0[place] as usize].place = place as u32;
    }

    fn less(&self, turns: &[Turn], a: usize, b: usize) -> bool {
        let (a, b) = (&turns[self.0[a] as usize], &turns[self.0[b] as usize]);
        a.key.total_cmp(&b.key).then(a.tie.cmp(&b.tie)).is_lt()
    }

    fn swap(&mut self, turns: &mut [Turn], a: usize, b: usize) {
        self.0.swap(a, b);
        turns[self.0[a] as usize].place = a as u32;
        turns[self.0[b] as usize].place = b as u32;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn turns(weights: &[f64]) -> Turns {
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        Turns::new(weights.iter().enumerate().map(|(i, w)| (w / mean, 0.0, i as u64)))
    }

    impl Turns {
        fn step(&mut self) -> usize {
            let i = self.next();
            self.take(i, self.each[i].weight);
            i
        }
    }

    #[test]
    fn a_heavy_one_is_spread_not_served_in_a_row() {
        let mut turns = turns(&[5.0, 1.0, 1.0]);
        let order: Vec<_> = (0..7).map(|_| turns.step()).collect();
        assert_eq!(order, [0, 0, 1, 0, 0, 2, 0]);
    }

    #[test]
    fn turns_that_were_missed_are_lost() {
        let mut turns = turns(&[1.0; 4]);
        // Only the last one is there, as when nobody else is open.
        for _ in 0..1_000 {
            turns.next();
            turns.take(3, 1.0);
        }
        let seen = (0..100).filter(|_| turns.step() == 3).count();
        assert!((22..=25).contains(&seen), "{seen}");
    }

    #[test]
    fn light_ones_come_one_by_one_between_turns_of_a_heavy_one() {
        let mut weights = vec![0.5; 20];
        weights[7] = 90.5;
        let mut turns = turns(&weights);
        let mut row = 0;
        for _ in 0..10_000 {
            row = if turns.step() == 7 { 0 } else { row + 1 };
            assert!(row < 2);
        }
    }

    #[test]
    fn the_clock_starts_again_without_anybody_noticing() {
        let mut turns = turns(&[3.0, 2.0]);
        let mut seen = [0; 2];
        turns.clock += REBASE - 10.0;
        for turn in &mut turns.each {
            turn.start += REBASE - 10.0;
            turn.key += REBASE - 10.0;
        }
        for _ in 0..100 {
            seen[turns.step()] += 1;
        }
        assert!(turns.clock < 100.0);
        assert_eq!(seen, [60, 40]);
    }

    #[test]
    fn a_weight_that_changes_is_followed_from_where_it_was() {
        let mut turns = turns(&[1.0; 4]);
        turns.follow(|_| 1e-6);
        assert!((0..400).filter(|_| turns.step() == 0).count() <= 1);
        turns.cursor = 0;
        turns.follow(|_| 1.0);
        let seen = (0..400).filter(|_| turns.step() == 0).count();
        assert!((99..=101).contains(&seen), "{seen}");
    }

    #[test]
    fn those_that_grow_have_what_their_weight_was_all_that_time() {
        let mut turns = turns(&[1.0; 100]);
        let (mut seen, mut due) = (0.0, 0.0);
        for step in 1..=1_000 {
            let weight = f64::from(step) / 1_000.0;
            for _ in 0..100 {
                let i = turns.cursor;
                turns.follow(|_| if i < 50 { weight } else { 1.0 });
            }
            due += weight / (1.0 + weight);
            seen += f64::from(u8::from(turns.step() < 50));
        }
        assert!((seen - due).abs() < 10.0, "{seen}, due {due}");
    }

    proptest! {
        #[test]
        fn at_any_time_each_has_its_share_give_or_take_less_than_one(
            weights in prop::collection::vec(prop_oneof![1.0..10.0_f64, Just(1.0), Just(100.0), 0.01..1.0_f64], 2..30),
        ) {
            let mut turns = turns(&weights);
            let mut seen = vec![0.0; weights.len()];
            let total: f64 = weights.iter().sum();
            for n in 1..=500 {
                seen[turns.step()] += 1.0;
                for (seen, weight) in seen.iter().zip(&weights) {
                    prop_assert!((seen - f64::from(n) * weight / total).abs() < 1.0, "{n}: {seen} of weight {weight}");
                }
            }
        }

        #[test]
        fn queues_stay_in_order(ops in prop::collection::vec((0..9_usize, 0.01..9.0_f64), 1..200)) {
            let mut turns = turns(&[1.0; 9]);
            for (i, weight) in ops {
                turns.next();
                turns.take(i, weight);
                turns.follow(|_| weight);
                prop_assert_eq!(turns.ready.0.len() + turns.waiting.0.len(), 9);
                for queue in [&turns.ready, &turns.waiting] {
                    for place in 0..queue.0.len() {
                        prop_assert_eq!(turns.each[queue.0[place] as usize].place as usize, place);
                        prop_assert!(place == 0 || !queue.less(&turns.each, place, (place - 1) / 2));
                    }
                }
            }
        }
    }
}
