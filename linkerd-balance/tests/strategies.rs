//! Every strategy in a balancer: shares, sets that change, requests that were elsewhere before, threads.

use std::{
    collections::HashMap,
    iter,
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use linkerd_balance::{
    Balance, Draw, Health, Heap, LeastLoaded, Maglev, P2c, Policy, Random, Ring, RoundRobin, Status, StickyPrimary,
    Strategy,
};
use proptest::{collection::vec, prelude::ProptestConfig, prop_assert, prop_oneof, proptest, strategy::Just};

mod chi_square;

use chi_square::p_value;

const PICKS: usize = 100_000;
const WEIGHTS: [f64; 6] = [1.0, 1.0, 2.0, 3.0, 0.5, 4.5];

fn policy(strategy: impl Strategy) -> Policy {
    Policy::new(strategy, LeastLoaded::new)
}

/// Those that spread requests, by weight.
fn spreading() -> Vec<Policy> {
    vec![
        policy(P2c::new()),
        policy(Heap::new()),
        policy(RoundRobin::new()),
        policy(Random::new()),
        // By as many points a ring is even enough for the test, by the default it is not.
        policy(Ring::new().points(65_536).unwrap()),
        policy(Maglev::new()),
    ]
}

fn all() -> Vec<Policy> {
    // Small tables, for sets that change.
    let small = [policy(Ring::new().points(64).unwrap()), policy(Maglev::new().table_size(1_009).unwrap())];
    let sticky = [policy(StickyPrimary::new()), policy(StickyPrimary::new().in_order())];
    spreading().into_iter().take(4).chain(small).chain(sticky).collect()
}

/// Endpoints are numbers. The healths are kept for the test to write.
struct Fixture {
    balance: Balance<usize, ()>,
    healths: Arc<Mutex<HashMap<usize, Health>>>,
    now: Instant,
}

fn with(policy: Policy, weights: &[f64]) -> Fixture {
    let healths = Arc::new(Mutex::new(HashMap::new()));
    let kept = Arc::clone(&healths);
    let balance = Balance::new(policy, move |key: &usize, health: &Health| {
        kept.lock().unwrap().insert(*key, health.clone());
    });
    balance.update(weights.iter().copied().enumerate()).unwrap();
    Fixture { balance, healths, now: tokio::time::Instant::now().into_std() }
}

impl Fixture {
    fn set(&self, key: usize, status: Status) {
        self.healths.lock().unwrap()[&key].set(status);
    }

    fn pick(&self, draw: Draw, exclude: &[usize]) -> Option<usize> {
        self.balance.try_acquire(draw, self.now, exclude).ok().map(|lease| *lease.key())
    }

    fn picks(&self, keys: bool) -> [u32; WEIGHTS.len()] {
        let mut seen = [0; WEIGHTS.len()];
        for (key, draw) in draws().take(PICKS).enumerate() {
            let draw = if keys { draw.with_key(key as u64) } else { draw };
            seen[self.pick(draw, &[]).unwrap()] += 1;
        }
        seen
    }
}

/// Random bits that are the same in every run: xorshift64*, so that they owe nothing to the crate's own generator.
fn draws() -> impl Iterator<Item = Draw> {
    let mut x = 0x2545_F491_4F6C_DD1D_u64;
    iter::repeat_with(move || {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        Draw::new(x.wrapping_mul(0x2545_F491_4F6C_DD1D))
    })
}

#[test]
fn shares_follow_weights_and_their_changes() {
    for policy in spreading() {
        let name = policy.algorithm();
        let f = with(policy, &WEIGHTS);
        for keys in [false, true] {
            let seen = f.picks(keys);
            let p = p_value(&seen, &WEIGHTS);
            assert!(p > 0.01, "{name}: {p} {seen:?}");
        }
        let mut weights = WEIGHTS;
        weights.reverse();
        f.balance.update(weights.iter().copied().enumerate()).unwrap();
        let seen = f.picks(false);
        let p = p_value(&seen, &weights);
        assert!(p > 0.01, "{name}, changed: {p} {seen:?}");
    }
}

#[test]
fn a_sticky_primary_is_the_heaviest() {
    assert_eq!(with(policy(StickyPrimary::new()), &WEIGHTS).picks(false), [0, 0, 0, 0, 0, PICKS as u32]);
}

#[test]
fn sixty_four_clones_on_as_many_threads_share_exactly() {
    for weights in [&[1.0; 10][..], &[1.0, 2.0, 3.0, 4.0], &[5.0, 1.0, 1.0], &[0.1, 0.2, 0.3, 0.7, 1.3], &WEIGHTS] {
        let f = with(policy(RoundRobin::new()), weights);
        let seen = Mutex::new(vec![0; weights.len()]);
        thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    let clone = f.balance.clone();
                    let mut mine = vec![0; weights.len()];
                    for _ in 0..1_000 {
                        mine[*clone.try_acquire(Draw::random(), f.now, &[]).unwrap().key()] += 1;
                    }
                    seen.lock().unwrap().iter_mut().zip(mine).for_each(|(all, mine)| *all += mine);
                });
            }
        });
        let total: f64 = weights.iter().sum();
        for (seen, weight) in seen.into_inner().unwrap().into_iter().zip(weights) {
            let exact = 64_000.0 * weight / total;
            assert!((f64::from(seen) - exact).abs() <= 1.0, "{seen} is not {exact}");
        }
    }
}

#[test]
fn round_robin_is_exact_over_ten_thousand_endpoints() {
    let weights: Vec<_> = (0..10_000).map(|i| f64::from(1 + i % 3)).collect();
    let f = with(policy(RoundRobin::new()), &weights);
    let mut seen = vec![0.0; weights.len()];
    for draw in draws().take(60_000) {
        seen[f.pick(draw, &[]).unwrap()] += 1.0;
    }
    for (seen, weight) in seen.iter().zip(&weights) {
        assert!((seen - 3.0 * weight).abs() <= 1.0, "{seen} of weight {weight}");
    }
}

#[test]
fn empty_sets_and_sets_of_one() {
    for policy in all() {
        let f = with(policy, &[]);
        let draw = Draw::new(1).with_key(2);
        assert_eq!(f.pick(draw, &[]), None);
        f.balance.update([(7, 1.0)]).unwrap();
        assert_eq!(f.pick(draw, &[]), Some(7));
        f.set(7, Status::Closed);
        assert_eq!(f.pick(draw, &[7]), Some(7), "there is nothing else");
        f.balance.clear();
        assert_eq!(f.pick(draw, &[]), None);
    }
}

#[test]
fn a_request_goes_where_it_was_not_before() {
    for policy in all() {
        let name = policy.algorithm();
        let f = with(policy, &[1.0, 5.0, 2.0]);
        for (n, draw) in draws().take(300).enumerate() {
            let first = f.pick(draw.with_key(n as u64), &[]).unwrap();
            let second = f.pick(draw.with_key(n as u64), &[first]).unwrap();
            let third = f.pick(draw.with_key(n as u64), &[first, second]).unwrap();
            let mut each = [first, second, third];
            each.sort_unstable();
            assert_eq!(each, [0, 1, 2], "{name}");
            assert!(f.pick(draw, &[0, 1, 2]).is_some());
        }
    }
}

#[test]
fn fails_open_on_the_best_there_is() {
    for policy in all() {
        let f = with(policy, &[1.0; 4]);
        for (key, status) in [Status::Closed, Status::Busy, Status::Closed, Status::Busy].into_iter().enumerate() {
            f.set(key, status);
        }
        for (n, draw) in draws().take(100).enumerate() {
            let i = f.pick(draw.with_key(n as u64), &[]).unwrap();
            assert!(i == 1 || i == 3);
        }
        assert_eq!(f.balance.stats(f.now).max_effort_exhausted, 100);
    }
}

#[test]
fn hashing_keeps_keys_where_they_were_when_the_set_changes() {
    for policy in [policy(Ring::new()), policy(Maglev::new())] {
        let f = with(policy, &[1.0; 10]);
        let owners = || (0..20_000).map(|key| f.pick(Draw::random().with_key(key), &[])).collect::<Vec<_>>();
        let before = owners();
        f.balance.update((0..9).map(|key| (key, 1.0))).unwrap();
        let after = owners();
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert!((1_600..=2_400).contains(&moved), "{moved} of 20,000");
        // Back again, in another order.
        f.balance.update((0..10).rev().map(|key| (key, 1.0))).unwrap();
        assert_eq!(owners(), before);
    }
}

#[test]
fn a_popular_key_is_bounded() {
    for policy in [policy(Ring::new()), policy(Maglev::new())] {
        let f = with(policy, &[1.0; 10]);
        let leases: Vec<_> =
            (0..1_000).map(|_| f.balance.try_acquire(Draw::random().with_key(7), f.now, &[]).unwrap()).collect();
        let most = f.balance.endpoints(f.now).iter().map(|info| info.pending).max();
        assert_eq!(most, Some(125));
        drop(leases);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn never_a_closed_or_busy_one_while_one_is_open_whatever_changes(
        sets in vec(vec((0..20_usize, 1e-3..1e3_f64), 1..20), 1..4),
        statuses in vec(prop_oneof![Just(Status::Open), Just(Status::Busy), Just(Status::Closed)], 20),
        random: u64,
    ) {
        for policy in all() {
            let f = with(policy, &[1.0; 20]);
            for set in &sets {
                f.balance.update(set.iter().copied()).unwrap();
                for info in f.balance.endpoints(f.now) {
                    f.set(info.key, statuses[info.key]);
                }
                let infos = f.balance.endpoints(f.now);
                let best = infos.iter().map(|info| info.status).max().unwrap();
                for n in 0..5 {
                    let i = f.pick(Draw::new(random ^ n).with_key(n), &[]).unwrap();
                    prop_assert!(infos.iter().any(|info| info.key == i && info.status == best));
                }
            }
        }
    }
}
