//! Loads in a set, in virtual time: who gets how much where endpoints fail, stream, come, and say what they feel.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::{Duration, Instant},
};

use linkerd_balance::{Balance, Draw, Hint, LeaseEnd, LeastLoaded, Load, Mark, Measure, P2c, PeakEwma, Policy};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

/// What becomes of one request.
#[derive(Clone, Copy)]
struct Fate {
    head: Duration,
    /// From the head to the end.
    stream: Duration,
    success: bool,
}

impl Fate {
    const fn ok(head: Duration) -> Self {
        Self { head, stream: Duration::ZERO, success: true }
    }

    const fn failed(head: Duration) -> Self {
        Self { head, stream: Duration::ZERO, success: false }
    }
}

/// One client that sends at random moments, `rate` times a second.
struct Sim {
    balance: Balance<usize, ()>,
    now: Instant,
    rng: u64,
    next: Instant,
    rate: f64,
    coming: BinaryHeap<Reverse<(Instant, u64)>>,
    // By their number: what happens at that instant, the head or the end.
    flying: BTreeMap<u64, (LeaseEnd, Fate, bool)>,
    sent: u64,
    marks: bool,
}

impl Sim {
    fn new(policy: Policy, endpoints: usize, rate: f64) -> Self {
        let balance = Balance::new(policy, |_: &usize, _: &_| ());
        balance.update((0..endpoints).map(|key| (key, 1.0))).unwrap();
        let now = tokio::time::Instant::now().into_std();
        let (coming, flying) = (BinaryHeap::new(), BTreeMap::new());
        Self { balance, now, rng: 7, next: now, rate, coming, flying, sent: 0, marks: true }
    }

    /// xorshift64*, which owes nothing to the crate's own generator.
    fn random(&mut self) -> u64 {
        self.rng ^= self.rng >> 12;
        self.rng ^= self.rng << 25;
        self.rng ^= self.rng >> 27;
        self.rng.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn unit(&mut self) -> f64 {
        (self.random() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Runs for so long, and tells `seen` of each request when it is sent: to whom, and what becomes of it.
    fn run(
        &mut self,
        length: Duration,
        fate: impl Fn(usize, f64, Instant) -> Fate,
        mut seen: impl FnMut(Instant, usize, Fate),
    ) {
        let end = self.now + length;
        while self.next < end {
            self.land(self.next);
            self.now = self.next;
            let draw = Draw::new(self.random());
            let lease = self.balance.try_acquire(draw, self.now, &[]).unwrap();
            let (key, luck) = (*lease.key(), self.unit());
            let fate = fate(key, luck, self.now);
            seen(self.now, key, fate);
            self.coming.push(Reverse((self.now + fate.head, self.sent)));
            self.flying.insert(self.sent, (lease.into_parts().1, fate, false));
            self.sent += 1;
            let gap = -(1.0 - self.unit()).ln() / self.rate;
            self.next = self.now + Duration::from_secs_f64(gap);
        }
        self.land(end);
        self.now = end;
    }

    /// Heads and ends that are due by `now`, in their order.
    fn land(&mut self, now: Instant) {
        while let Some(Reverse((at, id))) = self.coming.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.coming.pop();
            let (mut end, fate, headed) = self.flying.remove(&id).unwrap();
            if headed || fate.stream.is_zero() {
                end.end(fate.success, at);
                continue;
            }
            if self.marks {
                end.mark(Mark::Headers, fate.success, at);
                end.mark(Mark::FirstByte, fate.success, at);
            }
            self.coming.push(Reverse((at + fate.stream, id)));
            self.flying.insert(id, (end, fate, true));
        }
    }
}

fn p2c<L: Load>(load: impl Fn() -> L + Send + Sync + 'static) -> Policy {
    Policy::new(P2c::new(), load)
}

/// The share of endpoint 0, from two seconds on, which fails at once while the other four work.
fn share_of_failing(policy: Policy, rate: f64) -> f64 {
    let mut sim = Sim::new(policy, 5, rate);
    let fate = |key, luck: f64, _| if key == 0 { Fate::failed(MS) } else { Fate::ok(MS.mul_f64(2.0 + 6.0 * luck)) };
    sim.run(2 * SEC, fate, |_, _, _| {});
    let (mut all, mut failing) = (0, 0);
    sim.run(20 * SEC, fate, |_, key, _| {
        all += 1;
        failing += u32::from(key == 0);
    });
    f64::from(failing) / f64::from(all)
}

#[test]
fn an_endpoint_that_fails_at_once_gets_next_to_nothing() {
    for rate in [20.0, 200.0, 2_000.0] {
        for policy in [Policy::peak_ewma(), Policy::least_loaded()] {
            let (name, share) = (policy.algorithm(), share_of_failing(policy, rate));
            assert!(share <= 0.03, "{name} at {rate}/s: {share}");
        }
        let off = Duration::ZERO;
        let finagle = share_of_failing(p2c(move || PeakEwma::default().failure_penalty(off)), rate);
        let linkerd = share_of_failing(p2c(move || LeastLoaded::new().failure_penalty(off)), rate);
        assert!(finagle > 0.2 && linkerd > 0.2, "the penalty does it: {finagle}, {linkerd}");
    }
}

#[test]
fn one_that_works_again_is_used_again() {
    for (policy, within) in [(Policy::least_loaded(), 15 * SEC), (Policy::peak_ewma(), 10 * SEC)] {
        let name = policy.algorithm();
        let mut sim = Sim::new(policy, 5, 200.0);
        let healed = sim.now + 5 * SEC;
        let fate = |key, _, now| if key == 0 && now < healed { Fate::failed(MS) } else { Fate::ok(5 * MS) };
        sim.run(5 * SEC + within, fate, |_, _, _| {});
        let (mut all, mut back) = (0, 0);
        sim.run(20 * SEC, fate, |_, key, _| {
            all += 1;
            back += u32::from(key == 0);
        });
        let share = f64::from(back) / f64::from(all);
        assert!((0.15..0.25).contains(&share), "{name}: {share}");
    }
}

#[test]
fn a_few_failures_everywhere_leave_the_balance_as_it_is() {
    for policy in [Policy::peak_ewma(), Policy::least_loaded()] {
        let mut sim = Sim::new(policy, 5, 500.0);
        let mut seen = [0; 5];
        let fate = |_, luck: f64, _| Fate { success: luck > 0.000_5, ..Fate::ok(50 * MS) };
        sim.run(120 * SEC, fate, |_, key, _| seen[key] += 1);
        let off = imbalance(&seen);
        assert!(off < 0.15, "{off}: {seen:?}");
    }
}

/// How far the one that is off the most is off the mean, as a share of it.
fn imbalance(seen: &[usize]) -> f64 {
    let mean = seen.iter().sum::<usize>() as f64 / seen.len() as f64;
    seen.iter().map(|n| (*n as f64 - mean).abs() / mean).fold(0.0, f64::max)
}

/// Streams of half a minute among short requests: how uneven requests are in all, and what is in flight at a time.
fn streams(policy: Policy, marks: bool) -> (f64, f64) {
    const ROUNDS: u32 = 240;
    let mut sim = Sim::new(policy, 6, 500.0);
    sim.marks = marks;
    let fate = |_, luck: f64, _| {
        let stream = if luck < 0.01 { 30 * SEC } else { Duration::ZERO };
        Fate { head: 5 * MS, stream, success: true }
    };
    sim.run(60 * SEC, fate, |_, _, _| {});
    let (mut unary, mut in_flight) = ([0; 6], 0.0);
    for _ in 0..ROUNDS {
        sim.run(SEC, fate, |_, key, fate| unary[key] += usize::from(fate.stream.is_zero()));
        let pending: Vec<_> = sim.balance.endpoints(sim.now).iter().map(|info| info.pending).collect();
        in_flight += imbalance(&pending) / f64::from(ROUNDS);
    }
    (imbalance(&unary), in_flight)
}

#[test]
fn long_streams_among_short_requests_are_spread_evenly() {
    let measure = |measure| p2c(move || PeakEwma::default().measure(measure));
    for (name, policy, marks) in [
        ("headers", Policy::peak_ewma(), true),
        ("first byte", measure(Measure::FirstByte), true),
        ("end of stream", measure(Measure::EndOfStream), true),
        ("end of stream, not marked", measure(Measure::EndOfStream), false),
        ("pending only", measure(Measure::PendingOnly), false),
        ("least loaded", Policy::least_loaded(), false),
    ] {
        let (unary, in_flight) = streams(policy, marks);
        assert!(unary < 0.15 && in_flight < 0.15, "{name}: {unary}, {in_flight}");
    }
    let ewma = || PeakEwma::default().measure(Measure::EndOfStream).long_stream(Duration::from_hours(1));
    let (_, in_flight) = streams(p2c(ewma), true);
    assert!(in_flight > 0.2, "as long as streams count as slow answers: {in_flight}");
}

/// How long a newcomer, whose load is made so, waits for its first request in a pool of 1 ms at 100 requests a second;
/// and its share from then on.
fn newcomer<L: Load>(policy: impl Fn() -> L + Send + Sync + 'static) -> (Option<Duration>, f64) {
    let mut sim = Sim::new(p2c(policy), 5, 100.0);
    let fate = |_, luck: f64, _| Fate::ok(MS.mul_f64(0.8 + 0.4 * luck));
    sim.run(10 * SEC, fate, |_, _, _| {});
    let came = sim.now;
    sim.balance.update_at((0..6).map(|key| (key, 1.0)), came).unwrap();
    let (mut first, mut all, mut its) = (None, 0, 0);
    sim.run(20 * SEC, fate, |now, key, _| {
        if key == 5 {
            first.get_or_insert(now - came);
        }
        all += 1;
        its += u32::from(key == 5);
    });
    (first, f64::from(its) / f64::from(all))
}

/// Does not listen to what the others are like.
#[derive(Debug)]
struct Deaf(PeakEwma);

impl Load for Deaf {
    fn score(&self, now: Instant, weight: f64, more: usize) -> f64 {
        self.0.score(now, weight, more)
    }

    fn pending(&self) -> usize {
        self.0.pending()
    }

    fn begin(&self, now: Instant) {
        self.0.begin(now);
    }

    fn end(&self, begun: Instant, now: Instant, success: bool) {
        self.0.end(begun, now, success);
    }

    fn cancel(&self) {
        self.0.cancel();
    }
}

#[test]
fn a_newcomer_is_asked_within_a_second() {
    for (name, (first, share)) in [
        ("cold", newcomer(|| Deaf(PeakEwma::default()))),
        ("median", newcomer(PeakEwma::default)),
        ("median, not what it was made with", newcomer(|| PeakEwma::default().start_latency(SEC))),
    ] {
        assert!(first.is_some_and(|first| first <= SEC), "{name}: {first:?}");
        assert!((0.1..0.25).contains(&share), "{name}: {share}");
    }
    let (first, _) = newcomer(|| Deaf(PeakEwma::default().start_latency(SEC)));
    assert!(first.is_none_or(|first| first > SEC), "as with a guess that is far too high: {first:?}");
}

/// The share of endpoint 0 for so long.
fn share(sim: &mut Sim, length: Duration, each: impl Fn(&Sim, usize)) -> f64 {
    let (mut all, mut its) = (0, 0);
    for _ in 0..length.as_secs() {
        sim.run(
            SEC,
            |_, luck, _| Fate::ok(MS.mul_f64(20.0 + 20.0 * luck)),
            |_, key, _| {
                all += 1;
                its += u32::from(key == 0);
            },
        );
        for key in 0..5 {
            each(sim, key);
        }
    }
    f64::from(its) / f64::from(all)
}

/// Lets an endpoint say something.
fn say(sim: &Sim, key: usize, hint: Hint) {
    let others: Vec<_> = (0..5).filter(|other| *other != key).collect();
    let lease = sim.balance.try_acquire(Draw::new(1), sim.now, &others).unwrap();
    assert_eq!(*lease.key(), key);
    lease.hint(hint, sim.now);
}

#[test]
fn an_endpoint_that_asks_for_a_pause_gets_one_unless_all_do() {
    for policy in [Policy::peak_ewma(), Policy::least_loaded()] {
        let mut sim = Sim::new(policy, 5, 1_000.0);
        share(&mut sim, 2 * SEC, |_, _| {});
        say(&sim, 0, Hint::Backoff(10 * SEC));
        assert_eq!(share(&mut sim, 10 * SEC, |_, _| {}), 0.0);
        let after = share(&mut sim, 10 * SEC, |_, _| {});
        assert!((0.15..0.25).contains(&after), "{after}");

        for key in 0..5 {
            say(&sim, key, Hint::Backoff(10 * SEC));
        }
        let all = share(&mut sim, 10 * SEC, |_, _| {});
        assert!((0.15..0.25).contains(&all), "{all}");
    }
}

#[test]
fn an_endpoint_that_says_it_is_hard_at_work_gets_less_until_it_stops_saying_so() {
    for policy in [Policy::peak_ewma(), Policy::least_loaded()] {
        let mut sim = Sim::new(policy, 5, 1_000.0);
        let used = |key| if key == 0 { 0.8 } else { 0.2 };
        share(&mut sim, 2 * SEC, |sim, key| say(sim, key, Hint::Utilization(used(key))));
        let busy = share(&mut sim, 10 * SEC, |sim, key| say(sim, key, Hint::Utilization(used(key))));
        assert!((0.02..0.1).contains(&busy), "{busy}");
        share(&mut sim, 60 * SEC, |_, _| {});
        let silent = share(&mut sim, 20 * SEC, |_, _| {});
        assert!((0.17..0.23).contains(&silent), "{silent}");
    }
}
