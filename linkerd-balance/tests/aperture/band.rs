//! The width follows the load.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use linkerd_balance::{Aperture, Balance, Draw, LeastLoaded, Peer, Policy, Status, Strategy};

use crate::world::{MS, SEC, World, draws};

/// Requests that come every `gap` and last `latency`.
struct Traffic {
    world: World,
    strategy: Arc<dyn Strategy>,
    flying: VecDeque<(Instant, usize)>,
    draws: Box<dyn Iterator<Item = Draw>>,
}

impl Traffic {
    fn new(n: usize, aperture: &Aperture) -> Self {
        let world = World::new(n);
        Self { strategy: world.bind(aperture), world, flying: VecDeque::new(), draws: Box::new(draws()) }
    }

    /// For so long; where each of them went.
    fn run(&mut self, time: Duration, gap: Duration, latency: Duration) -> Vec<(Instant, usize)> {
        let (end, mut went) = (self.world.now + time, Vec::new());
        while self.world.now < end {
            self.world.now += gap;
            while self.flying.front().is_some_and(|(end, _)| *end <= self.world.now) {
                let (_, i) = self.flying.pop_front().unwrap();
                self.world.pending[i] -= 1;
            }
            let i = self.strategy.pick(&self.world, self.draws.next().unwrap());
            self.world.pending[i] += 1;
            self.flying.push_back((self.world.now + latency, i));
            // Latencies change from run to run only.
            self.flying.make_contiguous().sort_unstable();
            went.push((self.world.now, i));
        }
        went
    }

    fn land(&mut self) {
        for (_, i) in self.flying.drain(..) {
            self.world.pending[i] -= 1;
        }
    }

    fn width(&self) -> usize {
        self.world.used(&*self.strategy).len()
    }
}

fn aperture() -> Aperture {
    Aperture::builder().client(1).build().unwrap()
}

#[test]
fn it_widens_under_load_and_narrows_after_it_without_flapping() {
    let aperture = aperture();
    let meter = aperture.meter();
    let mut traffic = Traffic::new(100, &aperture);
    assert_eq!((traffic.width(), meter.logical(), meter.physical()), (1, 1, 1));

    // 20 in flight, as each new one finds them.
    traffic.run(60 * SEC, 5 * MS, 100 * MS);
    let wide = traffic.width();
    assert!((9..=10).contains(&wide), "two for each: {wide}");
    assert!((18.5..=20.0).contains(&meter.in_flight()), "{}", meter.in_flight());
    let changes = (meter.widened(), meter.narrowed());
    assert_eq!(changes.1, 0);

    // From 0.6 to 1.9 for each: inside the band, whatever it does there.
    for _ in 0..20 {
        traffic.run(7 * SEC, 15 * MS, 100 * MS);
        traffic.run(7 * SEC, 6 * MS, 100 * MS);
    }
    assert_eq!((traffic.width(), meter.widened(), meter.narrowed()), (wide, changes.0, 0));

    // Two in flight: 0.2 for each.
    traffic.run(60 * SEC, 50 * MS, 100 * MS);
    let narrow = traffic.width();
    assert!((2..=4).contains(&narrow), "half a request for each: {narrow}");
    assert!(meter.narrowed() > 0 && meter.narrowed() <= 8, "{}", meter.narrowed());
    assert_eq!(meter.widened(), changes.0);
}

#[test]
fn a_burst_shorter_than_the_window_widens_little() {
    let mut traffic = Traffic::new(100, &aperture());
    traffic.run(60 * SEC, SEC, 10 * MS);
    traffic.run(200 * MS, MS, 100 * MS);
    assert!(traffic.width() <= 3, "{}", traffic.width());
}

#[test]
fn after_five_minutes_of_silence_it_is_at_its_floor() {
    for min in [1, 4] {
        let mut traffic = Traffic::new(300, &Aperture::builder().client(1).min(min).build().unwrap());
        traffic.run(30 * SEC, MS, 200 * MS);
        assert!(traffic.width() > 80, "{}", traffic.width());
        traffic.land();
        traffic.world.now += 300 * SEC;
        // Nobody picked: asking is enough.
        assert_eq!(traffic.width(), min);

        // And so is the next pick.
        traffic.run(30 * SEC, MS, 200 * MS);
        traffic.land();
        let after = traffic.run(300 * SEC, 300 * SEC, MS);
        assert_eq!(after.len(), 1);
        assert_eq!(traffic.width(), min);
    }
}

#[test]
fn at_one_request_a_second_each_of_its_hosts_is_seen_once_in_a_decay() {
    const DECAY: Duration = Duration::from_secs(10);
    let mut traffic = Traffic::new(300, &aperture());
    traffic.run(30 * SEC, MS, 100 * MS);
    assert!(traffic.width() > 40, "wide at first: {}", traffic.width());
    traffic.run(60 * SEC, SEC, 20 * MS);

    let went = traffic.run(600 * SEC, SEC, 20 * MS);
    let mut last: HashMap<usize, Instant> = HashMap::new();
    for (at, i) in went {
        if let Some(before) = last.insert(i, at) {
            assert!(at - before <= DECAY, "{i} was not asked for {:?}", at - before);
        }
    }
    assert_eq!(last.len(), traffic.width());
    // However slow they are: so many in flight, half a request for each, are ten seconds from one to the next.
    for latency in [SEC, 3 * SEC, 5 * SEC] {
        traffic.run(60 * SEC, MS, 100 * MS);
        traffic.run(120 * SEC, SEC, latency);
        assert!(traffic.width() <= 10, "{}", traffic.width());
    }
}

#[test]
fn it_is_never_wider_than_told_or_than_there_are() {
    let mut traffic = Traffic::new(300, &Aperture::builder().client(1).min(2).max(7).build().unwrap());
    traffic.run(30 * SEC, MS, 200 * MS);
    assert_eq!(traffic.width(), 7);
    let mut all = Traffic::new(3, &Aperture::builder().min(9).build().unwrap());
    assert_eq!(all.width(), 3);
    all.run(30 * SEC, MS, 200 * MS);
    assert_eq!(all.width(), 3);
}

#[test]
fn the_width_outlives_a_change_of_the_set() {
    let mut traffic = Traffic::new(100, &aperture());
    traffic.run(60 * SEC, 5 * MS, 100 * MS);
    let before = traffic.world.used(&*traffic.strategy);
    let gone = (0..100).find(|i| traffic.strategy.uses(&traffic.world, *i)).unwrap();
    let fewer = traffic.world.without(gone);
    let after = fewer.used(&*traffic.strategy.rebuild(&fewer).unwrap());
    assert_eq!(after.len(), before.len());
    assert_eq!(after.iter().filter(|id| !before.contains(id)).count(), 1, "the next in order, nothing else");
}

#[test]
fn balancers_of_one_policy_have_a_width_each() {
    let policy = Policy::new(aperture(), LeastLoaded::new);
    assert_eq!(policy.algorithm(), "aperture_least_loaded");
    let balance = |policy| {
        let balance: Balance<u16, ()> = Balance::new(policy, |_, _| ());
        balance.update((0..50).map(|key| (key, 1.0))).unwrap();
        balance
    };
    let (busy, idle) = (balance(policy.clone()), balance(policy));
    let mut now = tokio::time::Instant::now().into_std();
    let mut leases = Vec::new();
    for draw in draws().take(2_000) {
        now += 10 * MS;
        leases.push(busy.try_acquire(draw, now, &[]).unwrap());
        drop(idle.try_acquire(draw, now, &[]).unwrap());
        if leases.len() > 40 {
            leases.remove(0).end(true, now);
        }
    }
    let used = |balance: &Balance<u16, ()>| balance.endpoints(now).iter().filter(|e| e.pending > 0).count();
    assert!(used(&busy) >= 15, "{}", used(&busy));
    let key = *idle.try_acquire(Draw::new(1), now, &[]).unwrap().key();
    for draw in draws().take(100) {
        assert_eq!(*idle.try_acquire(draw, now, &[]).unwrap().key(), key);
    }
    let retried = idle.try_acquire(Draw::new(1), now, &[key]).unwrap();
    assert_ne!(*retried.key(), key, "a retry looks further");
    assert_eq!(*idle.try_acquire(Draw::new(2), now, &[]).unwrap().key(), key, "for itself alone");
}

#[test]
fn endpoints_that_are_not_open_are_made_up_for_at_once_and_leave_again() {
    let peer = Aperture::builder().min(3).peer(Peer::new(7, 50).unwrap()).build().unwrap();
    for aperture in [Aperture::builder().min(3).client(1).build().unwrap(), peer] {
        let mut world = World::new(50);
        let strategy = world.bind(&aperture);
        let before = world.used(&*strategy);
        for i in 0..50 {
            if before.contains(&world.ids[i]) {
                world.status[i] = Status::Busy;
            }
        }
        // In the same instant.
        let mut seen = vec![0; 50];
        for draw in draws().take(1_000) {
            seen[strategy.pick(&world, draw)] += 1;
        }
        assert!(seen.iter().filter(|n| **n > 0).count() >= 3, "not all on one: {seen:?}");
        assert!((0..50).all(|i| seen[i] == 0 || world.status[i] == Status::Open));
        world.now += SEC;
        let wider = world.used(&*strategy);
        assert!(before.iter().all(|id| wider.contains(id)), "it keeps those it waits for");
        assert!((before.len() + 3..=before.len() + 4).contains(&wider.len()), "{}", wider.len());

        world.status.fill(Status::Open);
        world.now += SEC;
        assert_eq!(world.used(&*strategy), before);
        world.status.fill(Status::Closed);
        world.now += SEC;
        assert_eq!(world.used(&*strategy), before, "where none is open it is no use to look further");
        assert_eq!(world.gave_up.get(), 0);
        strategy.pick(&world, Draw::new(1));
        assert_eq!(world.gave_up.get(), 1, "told once");
    }
}

#[test]
fn callers_that_all_wait_and_come_again_at_once_widen_it() {
    let aperture = aperture();
    let mut traffic = Traffic::new(12, &aperture);
    // Six, each with a timeout of 1 s, and nobody answers.
    for _ in 0..30 {
        traffic.land();
        for _ in 0..6 {
            let i = traffic.strategy.pick(&traffic.world, traffic.draws.next().unwrap());
            traffic.world.pending[i] += 1;
            traffic.flying.push_back((traffic.world.now + SEC, i));
        }
        traffic.world.now += SEC;
    }
    assert!(aperture.meter().in_flight() > 4.0, "{:?}", aperture.meter());
    assert!(aperture.meter().widened() > 0 && aperture.meter().logical() >= 3, "{:?}", aperture.meter());
}
