//! A balancer through its public face: sets that change, picks, counts.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use linkerd_balance::{Aperture, Balance, Candidates, Draw, Health, LeastLoaded, Peer, Policy, Status, Strategy};
use proptest::{collection::vec, prelude::ProptestConfig, prop_assert, prop_assert_eq, proptest};

const MS: Duration = Duration::from_millis(1);

/// Endpoints are numbers, their services too: how many were made before. The healths are kept for the test to write.
struct Fixture {
    balance: Balance<u16, usize>,
    healths: Arc<Mutex<HashMap<u16, Health>>>,
    now: Instant,
}

fn fixture(policy: Policy) -> Fixture {
    let healths = Arc::new(Mutex::new(HashMap::new()));
    let (made, kept) = (AtomicUsize::new(0), Arc::clone(&healths));
    let balance = Balance::new(policy, move |key: &u16, health: &Health| {
        kept.lock().unwrap().insert(*key, health.clone());
        made.fetch_add(1, Ordering::Relaxed)
    });
    Fixture { balance, healths, now: tokio::time::Instant::now().into_std() }
}

fn with(keys: impl IntoIterator<Item = u16>) -> Fixture {
    let fixture = fixture(Policy::least_loaded());
    fixture.update(keys);
    fixture
}

impl Fixture {
    fn update(&self, keys: impl IntoIterator<Item = u16>) {
        self.balance.update(keys.into_iter().map(|key| (key, 1.0))).unwrap();
    }

    fn set(&self, key: u16, status: Status) {
        self.healths.lock().unwrap()[&key].set(status);
    }

    fn pick(&self, random: u64, exclude: &[u16]) -> Option<u16> {
        self.balance.try_acquire(Draw::new(random), self.now, exclude).ok().map(|lease| *lease.key())
    }

    /// Over so many seeds each of these is picked at least once, by all odds.
    fn picked(&self, exclude: &[u16]) -> Vec<u16> {
        let mut keys: Vec<_> = (0..500).filter_map(|seed| self.pick(seed, exclude)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

#[test]
fn an_empty_balancer_has_nothing_to_lease() {
    let empty = with([]);
    assert_eq!(empty.pick(1, &[]), None);
    assert!(empty.balance.is_empty());
}

#[test]
fn survivors_keep_their_state() {
    let f = with([1, 2]);
    let lease = f.balance.try_acquire(Draw::new(1), f.now, &[2]).unwrap();
    let (key, svc) = (*lease.key(), *lease);
    assert_eq!(key, 1);
    f.set(1, Status::Busy);

    f.balance.update([(3, 1.0), (1, 4.0)]).unwrap();
    let infos = f.balance.endpoints(f.now);
    assert_eq!(infos.iter().map(|info| info.key).collect::<Vec<_>>(), [3, 1]);
    assert_eq!((infos[1].status, infos[1].pending, infos[1].weight), (Status::Busy, 1, 4.0));
    assert_eq!(*f.balance.try_acquire(Draw::new(1), f.now, &[3]).unwrap(), svc, "the same service");
    drop(lease);
    assert_eq!(f.balance.endpoints(f.now)[1].pending, 0);
}

#[test]
fn one_that_left_and_came_back_starts_anew() {
    let f = with([1]);
    f.set(1, Status::Closed);
    f.update([]);
    f.update([1]);
    assert_eq!(f.balance.endpoints(f.now)[0].status, Status::Open);
    assert_eq!(*f.balance.try_acquire(Draw::new(1), f.now, &[]).unwrap(), 1);
}

#[test]
fn a_lease_of_a_removed_endpoint_stays_valid() {
    let f = with([1]);
    let lease = f.balance.try_acquire(Draw::new(1), f.now, &[]).unwrap();
    f.update([2]);
    assert_eq!(*lease.key(), 1);
    lease.end(true, f.now + MS);
    assert_eq!(f.balance.stats(f.now).load, 0);
}

#[test]
fn a_bad_weight_changes_nothing() {
    let f = with([1, 2]);
    let err = f.balance.update([(3, 1.0), (4, f64::NAN)]).unwrap_err();
    assert_eq!(err.index, 1);
    assert!(f.balance.update([(3, 0.0)]).is_err());
    assert_eq!(f.picked(&[]), [1, 2]);
    assert_eq!(f.balance.stats(f.now).updates, 1);
}

#[test]
fn a_key_given_twice_counts_once_with_its_last_weight() {
    let f = with([]);
    f.balance.update([(1, 1.0), (2, 1.0), (1, 5.0)]).unwrap();
    let infos = f.balance.endpoints(f.now);
    assert_eq!(infos.iter().map(|info| (info.key, info.weight)).collect::<Vec<_>>(), [(1, 5.0), (2, 1.0)]);
}

#[test]
fn a_requeue_goes_where_it_was_not_yet() {
    let f = with([1, 2, 3]);
    assert_eq!(f.picked(&[]), [1, 2, 3]);
    assert_eq!(f.picked(&[2]), [1, 3]);
    assert_eq!(f.picked(&[1, 2]), [3]);
    f.set(3, Status::Closed);
    assert_eq!(f.picked(&[1, 2]), [3], "untried goes before open");
    assert_eq!(f.picked(&[1, 2, 3]), [1, 2], "all were tried: as if none was, but for what is closed");
    assert_eq!(with([1]).picked(&[1, 9]), [1]);
}

#[test]
fn all_closed_fails_open() {
    let f = with([1, 2, 3]);
    for key in 1..=3 {
        f.set(key, Status::Closed);
    }
    assert_eq!(f.picked(&[]), [1, 2, 3]);
    assert_eq!(f.balance.stats(f.now).max_effort_exhausted, 500);
}

#[test]
fn stats_tell_what_there_is_and_what_happened() {
    let f = with([1, 2, 3]);
    f.update([1, 2, 3]);
    f.balance.update([(1, 1.0), (2, 2.0), (4, 3.0)]).unwrap();
    f.set(2, Status::Busy);
    f.set(4, Status::Closed);
    let lease = f.balance.try_acquire(Draw::new(1), f.now, &[]).unwrap();
    let stats = f.balance.stats(f.now);
    assert_eq!((stats.size, stats.available, stats.busy, stats.closed, stats.load), (3, 1, 1, 1, 1));
    assert_eq!((stats.adds, stats.removes, stats.updates, stats.rebuilds), (4, 1, 3, 2));
    assert_eq!((stats.mean_weight, stats.weight_classes, stats.aperture), (2.0, 3, None));
    drop(lease);
    f.balance.update([(1, 1.0), (2, 2.0), (4, 1.0)]).unwrap();
    assert_eq!(f.balance.stats(f.now).weight_classes, 2);
    let idle = f.balance.stats(f.now).both_idle;
    for random in 1..=1600 {
        let _ = f.balance.try_acquire(Draw::new(random), f.now, &[]);
    }
    // One in sixteen is counted, for sixteen; nothing is in flight.
    assert_eq!(f.balance.stats(f.now).both_idle - idle, 1600);
}

#[test]
fn each_balancer_has_an_aperture_of_its_own() {
    let aperture = Aperture::builder().min(2).peer(Peer::new(0, 2).unwrap()).build().unwrap();
    let policy = Policy::new(aperture, LeastLoaded::new);
    let (wide, narrow) = (fixture(policy.clone()), fixture(policy));
    assert_eq!(wide.balance.stats(wide.now).aperture, None, "there is no endpoint yet");
    wide.update(0..8);
    narrow.update(0..1);
    let of = |f: &Fixture| f.balance.stats(f.now).aperture.unwrap();
    assert_eq!((of(&wide).logical, of(&wide).physical, of(&wide).is_slice), (2, 4, true));
    assert_eq!((of(&narrow).logical, of(&narrow).physical), (1, 1));
    let leases: Vec<_> = (0..32).map(|n| wide.balance.try_acquire(Draw::new(n), wide.now, &[]).unwrap()).collect();
    let later = wide.now + 60_000 * MS;
    drop(wide.balance.try_acquire(Draw::new(1), later, &[]));
    let widened = wide.balance.stats(later).aperture.unwrap();
    assert_eq!((widened.widened, widened.narrowed, of(&narrow).widened), (1, 0, 0));
    assert!(widened.in_flight > 31.0 && widened.logical == 8, "{widened:?}");
    drop(leases);
}

#[test]
fn who_left_is_told_of_once_however_long_it_is_held() {
    let told = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&told);
    let balance = Balance::new(Policy::least_loaded(), |_: &u16, _: &Health| ());
    balance.on_left(move |key, ()| _ = shared.fetch_add(usize::from(*key == 1), Ordering::Relaxed));
    balance.update([(1, 1.0), (2, 1.0)]).unwrap();
    let lease = balance.try_acquire(Draw::new(1), tokio::time::Instant::now().into_std(), &[2]).unwrap();
    balance.update([(2, 1.0)]).unwrap();
    assert_eq!(told.load(Ordering::Relaxed), 1);
    drop(lease);
    balance.update([(2, 2.0)]).unwrap();
    assert_eq!(told.load(Ordering::Relaxed), 1);
    drop(balance);
    assert_eq!(told.load(Ordering::Relaxed), 1, "nobody left: all is over");
}

#[derive(Debug)]
struct OutOfRange;

impl Strategy for OutOfRange {
    fn pick(&self, nodes: &dyn Candidates, _draw: Draw) -> usize {
        nodes.len() + 1
    }
}

#[test]
fn a_strategy_that_breaks_its_word_does_no_harm() {
    let f = fixture(Policy::new(OutOfRange, LeastLoaded::new));
    f.update([1, 2, 3]);
    assert_eq!(f.picked(&[]), [2]);
}

/// Picks the heaviest, which it looks up once for each set.
#[derive(Debug)]
struct Heaviest(usize);

impl Strategy for Heaviest {
    fn pick(&self, nodes: &dyn Candidates, _draw: Draw) -> usize {
        assert!(self.0 < nodes.len(), "made for another set");
        self.0
    }

    fn rebuild(&self, nodes: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
        let heaviest = (0..nodes.len()).max_by(|&a, &b| nodes.weight(a).total_cmp(&nodes.weight(b)));
        Some(Arc::new(Heaviest(heaviest.unwrap_or(0))))
    }
}

#[test]
fn a_strategy_and_the_set_it_was_made_for_come_together() {
    let f = fixture(Policy::new(Heaviest(0), LeastLoaded::new));
    f.balance.update([(1, 1.0), (2, 1.0), (3, 9.0)]).unwrap();
    assert_eq!(f.picked(&[]), [3]);
    f.balance.update([(2, 1.0)]).unwrap();
    assert_eq!(f.picked(&[]), [2]);

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in (1..200).cycle().take(2_000) {
                f.balance.update((0..n).map(|key| (key, f64::from(key + 1)))).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert!(f.pick(1, &[]).is_some());
            }
        });
    });
}

#[test]
fn picks_and_updates_at_once_lose_no_load() {
    let f = with(0..10);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let pickers: Vec<_> = (0..3)
            .map(|thread| {
                let (f, done) = (&f, &done);
                scope.spawn(move || {
                    for seed in 0.. {
                        let lease = f.balance.try_acquire(Draw::new(seed * 3 + thread), f.now, &[]);
                        let lease = lease.expect("0 is always there");
                        match seed % 3 {
                            0 => lease.end(true, f.now),
                            1 => drop(lease),
                            _ => lease.into_parts().1.end(false, f.now),
                        }
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                })
            })
            .collect();
        for round in 0..500 {
            // Endpoint 0 stays, the others come and go.
            f.update((0..10).filter(|key| *key == 0 || (key + round) % 3 != 0));
        }
        done.store(true, Ordering::Relaxed);
        for picker in pickers {
            picker.join().unwrap();
        }
    });
    f.update(0..10);
    let stats = f.balance.stats(f.now);
    assert_eq!((stats.size, stats.load), (10, 0));
    assert_eq!(stats.adds - stats.removes, 10);
}

fn status(of: u8) -> Status {
    match of {
        0 => Status::Closed,
        1 => Status::Busy,
        _ => Status::Open,
    }
}

proptest! {
    // No file beside the test: seeds that fail belong into a test of their own.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pick_has_the_best_status_of_those_not_tried(
        of in vec(0_u8..3, 1..20), tried in vec(0_u16..20, 0..20), random: u64,
    ) {
        let f = with(0..of.len() as u16);
        for (key, of) in (0..).zip(&of) {
            f.set(key, status(*of));
        }
        let untried: Vec<u16> = (0..of.len() as u16).filter(|key| !tried.contains(key)).collect();
        let key = f.pick(random, &tried).unwrap();
        if untried.is_empty() {
            return Ok(());
        }
        prop_assert!(untried.contains(&key));
        let best = untried.iter().map(|key| of[usize::from(*key)]).max().unwrap();
        prop_assert_eq!(of[usize::from(key)], best);
    }

    #[test]
    fn an_update_keeps_who_stays_and_renews_who_comes(
        before in vec(0_u16..20, 0..20), after in vec(0_u16..20, 0..20),
    ) {
        let f = with(before.clone());
        let services = |keys: &[u16]| -> HashMap<u16, usize> {
            let only = |key: u16| (0..20).filter(|k| *k != key).collect::<Vec<_>>();
            let svc = |key| *f.balance.try_acquire(Draw::new(1), f.now, &only(key)).unwrap();
            keys.iter().map(|key| (*key, svc(*key))).collect()
        };
        let old = services(&before);
        f.update(after.clone());
        let new = services(&after);
        prop_assert_eq!(f.balance.len(), new.len());
        for (key, svc) in new {
            match old.get(&key) {
                Some(same) => prop_assert_eq!(*same, svc),
                None => prop_assert!(svc >= old.len()),
            }
        }
    }
}
