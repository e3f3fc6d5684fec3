//! What a balancer makes of sets: slow starts, tiers, panic, and endpoints that stay after discovery dropped them.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use linkerd_balance::{
    Balance, Breaker, Candidates, Draw, EjectionLimits, Event, Health, Heap, InvalidSet, LeastLoaded, Maglev, Mark,
    Member, Panic, Policy, Random, Ring, RoundRobin, SlowStart, Status, Strategy, TierReason, Tiers, Unavailable,
    accrual::{Backoff, ConsecutiveFailures},
};

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

struct Fixture {
    balance: Balance<u16, ()>,
    healths: Arc<Mutex<HashMap<u16, Health>>>,
    events: Arc<Mutex<Vec<Event>>>,
    start: Instant,
}

fn fixture(policy: Policy) -> Fixture {
    let (healths, events) = (Arc::<Mutex<HashMap<u16, Health>>>::default(), Arc::<Mutex<Vec<Event>>>::default());
    let (kept, seen) = (Arc::clone(&healths), Arc::clone(&events));
    let policy = policy.on_event(move |event| seen.lock().unwrap().push(*event));
    let balance = Balance::new(policy, move |key: &u16, health: &Health| {
        kept.lock().unwrap().insert(*key, health.clone());
    });
    // Some way from the beginning, so that there is a before.
    let start = tokio::time::Instant::now().into_std() + 1000 * S;
    Fixture { balance, healths, events, start }
}

impl Fixture {
    fn update(&self, members: impl IntoIterator<Item = Member<u16>>, now: Instant) {
        self.balance.update_at(members, now).unwrap();
    }

    fn health(&self, key: u16) -> Health {
        self.healths.lock().unwrap()[&key].clone()
    }

    /// Of 20,000 picks at `now`, which part goes to each.
    fn shares(&self, now: Instant) -> HashMap<u16, f64> {
        let mut shares = HashMap::new();
        for seed in 0..20_000 {
            let lease = self.balance.try_acquire(Draw::new(seed), now, &[]).unwrap();
            *shares.entry(*lease.key()).or_insert(0.0) += 1.0 / 20_000.0;
        }
        shares
    }
}

fn members(keys: impl IntoIterator<Item = u16>) -> Vec<Member<u16>> {
    keys.into_iter().map(Member::new).collect()
}

fn slow() -> Policy {
    Policy::least_loaded().slow_start(SlowStart::new(100 * S).unwrap())
}

fn assert_near(share: f64, expected: f64) {
    assert!((share - expected).abs() < 0.015, "{share} is not about {expected}");
}

#[test]
fn a_newcomer_ramps_and_the_others_get_no_more_than_before() {
    let f = fixture(slow());
    f.update(members(0..4), f.start);
    f.update(members(0..5), f.start + S);
    for (age, part) in [(0, 0.1), (10, 0.1), (50, 0.5), (100, 1.0), (1000, 1.0)] {
        let shares = f.shares(f.start + S + age * S);
        assert_near(shares[&4], part / (4.0 + part));
        assert!((0..4).all(|key| shares[&key] < 0.25 + 0.015), "{shares:?}");
    }
}

#[test]
fn where_all_are_new_nobody_ramps() {
    let f = fixture(slow());
    f.update(members(0..4), f.start);
    f.update(members(4..8), f.start + S);
    let shares = f.shares(f.start + 2 * S);
    assert!((4..8).all(|key| (shares[&key] - 0.25).abs() < 0.015), "{shares:?}");
}

#[test]
fn a_ramp_is_an_endpoints_own_and_survives_changes_of_the_set() {
    let f = fixture(slow());
    f.update(members(0..1), f.start);
    f.update(members(0..2), f.start + S);
    f.update(members(0..3), f.start + 41 * S);
    f.update(members(0..4), f.start + 51 * S);
    let infos = f.balance.endpoints(f.start + 51 * S);
    assert_eq!(infos.iter().map(|info| info.ramp).collect::<Vec<_>>(), [1.0, 0.5, 0.1, 0.1]);
    // Also past one that left in the meantime.
    f.update(members([1, 2, 3]), f.start + 61 * S);
    assert_eq!(f.balance.endpoints(f.start + 61 * S)[0].ramp, 0.6);
}

#[test]
fn where_all_are_on_their_way_the_newest_has_the_least() {
    for policy in [slow(), Policy::new(Random::new(), LeastLoaded::new).slow_start(SlowStart::new(100 * S).unwrap())] {
        let f = fixture(policy);
        f.update(members([0]), f.start);
        f.update(members([0, 1]), f.start);
        f.update(members([1]), f.start + 20 * S);
        f.update(members([1, 2]), f.start + 40 * S);
        // Nobody is past his window.
        let shares = f.shares(f.start + 40 * S);
        assert_near(shares[&2], 0.1 / 0.5);
        f.update(members([2, 3]), f.start + 41 * S);
        assert_near(f.shares(f.start + 41 * S)[&3], 0.5);
        assert_near(f.shares(f.start + 61 * S)[&3], 0.20 / 0.41);
    }
}

#[test]
fn slow_starts_compose_with_zones_and_weights() {
    let f = fixture(slow().tiers(Tiers::new().local("a")));
    let local = |key| Member::new(key).zone("a");
    f.update([local(0), local(1), Member::new(9).zone("b")], f.start);
    f.update([local(0), local(1), local(2).weight(2.0), Member::new(9).zone("b")], f.start);
    let shares = f.shares(f.start + 50 * S);
    assert_near(shares[&2], 1.0 / 3.0);
    assert!(!shares.contains_key(&9));
}

#[test]
fn the_local_zone_is_preferred_while_it_is_well() {
    let f = fixture(Policy::least_loaded().tiers(Tiers::new().local("a").fallback(["b"])));
    let in_zone = |keys: std::ops::Range<u16>, zone: &'static str| keys.map(move |key| Member::new(key).zone(zone));
    f.update(in_zone(0..10, "a").chain(in_zone(10..20, "b")).chain(in_zone(20..30, "c")), f.start);
    let to_zone = |now: Instant| {
        let mut zones = [0.0; 3];
        f.shares(now).into_iter().for_each(|(key, share)| zones[usize::from(key) / 10] += share);
        zones
    };
    assert_eq!(to_zone(f.start)[1..], [0.0, 0.0]);
    assert_eq!(f.balance.tiers(f.start)[0].why, TierReason::Preferred);
    // 7 of 10 is enough, and nothing changes.
    (0..3).for_each(|key| f.health(key).set(Status::Closed));
    let now = f.start + S;
    assert_eq!(to_zone(now)[1..], [0.0, 0.0]);
    // 6 is not: it keeps its 6/9 until 9 are back.
    f.health(3).set(Status::Closed);
    let now = f.start + 2 * S;
    let zones = to_zone(now);
    assert_near(zones[0], 6.0 / 9.0);
    assert_near(zones[1], 3.0 / 9.0);
    let tiers = f.balance.tiers(now);
    assert_eq!(tiers[0].why, TierReason::Unhealthy { open: 6, size: 10 });
    assert_eq!((tiers[1].why, tiers[2].why), (TierReason::TakesOver, TierReason::Standby));
    assert_eq!(tiers[1].zone.as_deref(), Some("b"));
    (1..4).for_each(|key| f.health(key).set(Status::Open));
    assert_eq!(to_zone(f.start + 3 * S)[1..], [0.0, 0.0]);
    // All gone: the next zone has all, and the one after that nothing.
    (0..10).for_each(|key| f.health(key).set(Status::Closed));
    assert_eq!(to_zone(f.start + 4 * S).map(f64::round), [0.0, 1.0, 0.0]);
    let tiers = f.balance.tiers(f.start + 4 * S);
    assert_eq!((tiers[0].why, tiers[0].share), (TierReason::Unhealthy { open: 0, size: 10 }, 0.0));
    assert_eq!((tiers[1].why, tiers[1].share), (TierReason::TakesOver, 1.0));
    assert_eq!(tiers[2].why, TierReason::Standby);
    let kinds: Vec<_> = f.events.lock().unwrap().iter().map(std::mem::discriminant).collect();
    assert_eq!(kinds.len(), 3, "left, back, left");
}

#[test]
fn a_request_never_fails_over_too_late() {
    // The survey is older than the fault: the very pick that finds nobody open goes on to the next tier.
    let f = fixture(Policy::least_loaded().tiers(Tiers::new().local("a")));
    f.update([Member::new(0).zone("a"), Member::new(1).zone("b")], f.start);
    assert_eq!(f.shares(f.start)[&0].round(), 1.0);
    f.health(0).set(Status::Closed);
    assert_eq!(*f.balance.try_acquire(Draw::new(1), f.start + MS, &[]).unwrap().key(), 1);
}

#[test]
fn a_tier_that_lost_all_is_probed_and_comes_back() {
    let f = fixture(Policy::least_loaded().tiers(Tiers::new().local("a")));
    f.update([Member::new(0).zone("a"), Member::new(1).zone("b")], f.start);
    f.health(0).probe_from(f.start + 5 * S);
    assert_eq!(f.shares(f.start + S)[&1].round(), 1.0);
    // Not before its time, then at once, and only once for each look.
    let picks = |now| (0..100).map(|i| *f.balance.try_acquire(Draw::new(i), now, &[]).unwrap().key()).collect();
    let keys: Vec<u16> = picks(f.start + 5 * S);
    assert_eq!(keys.iter().filter(|key| **key == 0).count(), 1, "{keys:?}");
    f.health(0).set(Status::Open);
    let keys: Vec<u16> = picks(f.start + 6 * S);
    assert_eq!(keys, [0; 100]);
}

#[test]
fn a_loaded_zone_spills_what_it_cannot_take() {
    let f = fixture(Policy::least_loaded().tiers(Tiers::new().local("a").spill_load(10.0).unwrap()));
    let zones = (0..8).map(|key| Member::new(key).zone(if key < 4 { "a" } else { "b" }));
    f.update(zones, f.start);
    let leases: Vec<_> = (0..60).map(|i| f.balance.try_acquire(Draw::new(i), f.start, &[]).unwrap()).collect();
    let local = leases.iter().filter(|lease| *lease.key() < 4).count();
    assert!((38..=42).contains(&local), "{local} of 60 with room for 40");
    assert_eq!(f.balance.stats(f.start).spilled, 60 - local as u64);
    drop(leases);
    assert_eq!(f.shares(f.start).keys().filter(|key| **key >= 4).count(), 0);
}

/// Requests to each of three zones of two endpoints, of 60 that stay in flight. Zone b is `second`.
fn spilled(second: Status) -> [usize; 3] {
    let tiers = Tiers::new().local("a").fallback(["b"]).spill_load(2.0).unwrap();
    let f = fixture(Policy::least_loaded().tiers(tiers));
    f.update((0..6).map(|key| Member::new(key).zone(["a", "b", "c"][usize::from(key / 2)])), f.start);
    for key in [2, 3] {
        f.health(key).set(second);
    }
    let leases: Vec<_> = (0..60).map(|i| f.balance.try_acquire(Draw::new(i), f.start, &[]).unwrap()).collect();
    [0, 1, 2].map(|zone| leases.iter().filter(|lease| *lease.key() / 2 == zone).count())
}

#[test]
fn what_a_zone_spills_passes_over_those_that_are_full_or_dead() {
    let [first, second, third] = spilled(Status::Open);
    // Past the limit of all of them they go up together.
    assert!(first.abs_diff(20) <= 3 && second.abs_diff(20) <= 3 && third.abs_diff(20) <= 3, "{first} {second} {third}");
    let [first, second, third] = spilled(Status::Closed);
    assert!(first.abs_diff(30) <= 2 && second == 0, "{first} {second} {third}");
}

#[test]
fn keyed_requests_stay_in_their_tier() {
    let f = fixture(Policy::least_loaded().tiers(Tiers::new().min_open(1.0, 1.0).unwrap()));
    f.update((0..4).map(|key| Member::new(key).priority(u32::from(key / 2))), f.start);
    f.health(0).set(Status::Closed);
    let tier = |key, seed| {
        let draw = Draw::new(seed).with_key(key);
        f.balance.try_acquire(draw, f.start + S, &[]).unwrap().key() / 2
    };
    let tiers: Vec<_> = (0..100).map(|key| tier(key, 1)).collect();
    assert!((0..100).all(|key| tier(key, key + 7) == tiers[key as usize]));
    assert!(tiers.contains(&0) && tiers.contains(&1));
}

#[test]
fn panic_does_as_it_is_told_at_every_share() {
    for mode in [Panic::LastPick, Panic::Spray, Panic::FailFast] {
        for closed in 0..=10_u16 {
            let f = fixture(Policy::least_loaded().panic(mode).panic_below(0.5).unwrap());
            f.update(members(0..10), f.start);
            (0..closed).for_each(|key| f.health(key).set(Status::Closed));
            let picks = (0..1000).map(|i| f.balance.try_acquire(Draw::new(i), f.start, &[]));
            let picks: Vec<_> = picks.map(|pick| pick.map(|lease| *lease.key())).collect();
            let to_closed = picks.iter().filter(|pick| pick.is_ok_and(|key| key < closed)).count();
            let failed = picks.iter().filter(|pick| pick.is_err()).count();
            let panics = 10 - closed < 5;
            match mode {
                _ if !panics => assert_eq!((to_closed, failed), (0, 0), "{mode:?} {closed}"),
                Panic::LastPick => assert_eq!((to_closed, failed), (if closed == 10 { 1000 } else { 0 }, 0)),
                Panic::Spray => {
                    let expected = f64::from(closed) / 10.0;
                    assert!((to_closed as f64 / 1000.0 - expected).abs() < 0.06, "{to_closed} {expected}");
                }
                Panic::FailFast => assert_eq!(failed, 1000),
            }
            assert_eq!(f.balance.stats(f.start).in_panic, panics, "{mode:?} {closed}");
            assert_eq!(f.balance.stats(f.start).panics, u64::from(panics));
            assert_eq!(f.events.lock().unwrap().len(), usize::from(panics));
        }
    }
}

#[test]
fn a_panic_ends_with_its_endpoints_though_nobody_picks() {
    for mode in [Panic::LastPick, Panic::FailFast] {
        let f = fixture(Policy::least_loaded().panic(mode).panic_below(0.5).unwrap());
        let begin = |keys: std::ops::Range<u16>| {
            f.update(members(keys.clone()), f.start);
            keys.for_each(|key| f.health(key).set(Status::Closed));
            drop(f.balance.try_acquire(Draw::new(1), f.start, &[]));
            assert!(f.balance.stats(f.start).in_panic);
        };
        begin(0..4);
        f.balance.clear();
        let stats = f.balance.stats(f.start);
        assert_eq!((stats.size, stats.in_panic, stats.panics), (0, false, 1));
        begin(10..14);
        f.update(members(20..24), f.start);
        assert!(!f.balance.stats(f.start).in_panic, "others took their place");
        begin(30..34);
        // One of four is not enough, and one that is due is a guess.
        f.health(30).set(Status::Open);
        f.health(31).probe_from(f.start);
        assert!(f.balance.stats(f.start).in_panic);
        f.health(31).set(Status::Open);
        assert!(!f.balance.stats(f.start).in_panic);
        assert_eq!(f.events.lock().unwrap().len(), 6, "each began and ended once");
    }
}

#[test]
fn one_that_is_due_is_told_apart() {
    let f = fixture(Policy::least_loaded());
    f.update(members(0..3), f.start);
    f.health(1).probe_from(f.start);
    f.health(2).probe_from(f.start + S);
    let stats = f.balance.stats(f.start);
    assert_eq!((stats.available, stats.due, stats.busy), (2, 1, 1));
    assert_eq!(f.balance.tiers(f.start)[0].open, stats.available - stats.due);
}

#[test]
fn the_mean_weight_of_none_has_no_sign() {
    let f = fixture(Policy::least_loaded());
    assert!(f.balance.stats(f.start).mean_weight.is_sign_positive());
}

#[test]
fn failing_fast_says_why_and_lets_a_probe_through() {
    let f = fixture(Policy::least_loaded().panic(Panic::FailFast));
    f.update(members(0..3), f.start);
    f.health(0).set(Status::Closed);
    f.health(1).probe_from(f.start + 3 * S);
    f.health(2).probe_from(f.start + 2 * S);
    let err = f.balance.try_acquire(Draw::new(1), f.start, &[]).unwrap_err();
    let expected = Unavailable::FailFast { size: 3, open: 0, busy: 2, closed: 1, probe_in: Some(2 * S) };
    assert_eq!(err, expected);
    assert_eq!(f.balance.stats(f.start).refused, 1);
    let now = f.start + 2 * S;
    assert_eq!(*f.balance.try_acquire(Draw::new(1), now, &[]).unwrap().key(), 2);
    // A guess does not end the panic; what is known does.
    assert!(f.balance.stats(now).in_panic);
    f.health(2).set(Status::Open);
    drop(f.balance.try_acquire(Draw::new(1), now, &[]).unwrap());
    assert!(!f.balance.stats(now).in_panic);
    assert!(matches!(f.events.lock().unwrap()[..], [Event::PanicBegan { .. }, Event::PanicEnded { .. }]));
}

#[test]
fn on_probation_an_endpoint_stays_until_it_fails() {
    let f = fixture(Policy::least_loaded().probation(10));
    f.update(members(0..3), f.start);
    f.health(1).set(Status::Busy);
    f.update(members(0..1), f.start);
    let keys = |now| f.balance.endpoints(now).iter().map(|info| (info.key, info.is_leaving)).collect::<Vec<_>>();
    assert_eq!(keys(f.start), [(0, false), (2, true)]);
    assert_eq!(f.shares(f.start).len(), 2);
    let stats = f.balance.stats(f.start);
    assert_eq!((stats.size, stats.stays, stats.adds, stats.removes), (2, 1, 3, 1));
    f.health(2).set(Status::Busy);
    assert_eq!(f.shares(f.start).len(), 1);
    assert_eq!(f.balance.stats(f.start).size, 1);
    assert_eq!(keys(f.start), [(0, false)]);
}

#[test]
fn on_probation_one_that_fails_leaves_with_the_next_requests() {
    for policy in [Policy::least_loaded(), Policy::least_loaded().tiers(Tiers::new().local("a"))] {
        let f = fixture(policy.probation(10));
        f.update([Member::new(0).zone("a"), Member::new(1).zone("b")], f.start);
        f.update([Member::new(0).zone("a")], f.start);
        assert_eq!(f.balance.len(), 2);
        f.balance.try_acquire(Draw::new(1), f.start, &[]).unwrap().end(true, f.start);
        f.health(1).probe_from(f.start + 100 * S);
        // Nobody asks for it, or for numbers.
        f.balance.try_acquire(Draw::new(2), f.start + S, &[]).unwrap().end(true, f.start + S);
        assert_eq!(f.balance.len(), 1);
    }
}

#[test]
fn one_that_comes_back_from_probation_is_who_it_was() {
    let f = fixture(Policy::least_loaded().probation(10));
    f.update(members(0..2), f.start);
    f.update(members(0..1), f.start);
    f.update(members(0..2), f.start);
    let stats = f.balance.stats(f.start);
    assert_eq!((stats.size, stats.stays, stats.adds, stats.removes), (2, 0, 2, 0));
}

#[test]
fn probation_has_a_bound_and_is_off_by_default() {
    let f = fixture(Policy::least_loaded().probation(2));
    f.update(members(0..10), f.start);
    f.update(members(20..21), f.start);
    assert_eq!(f.balance.len(), 3);
    let f = fixture(Policy::least_loaded());
    f.update(members(0..10), f.start);
    f.update(members(20..21), f.start);
    assert_eq!(f.balance.len(), 1);
}

#[test]
fn a_set_that_is_replaced_stays_until_the_next_is_open() {
    let closed_until_connected = |keys: std::ops::Range<u16>, f: &Fixture, now| {
        // Closed at the moment of the update, as endpoints are that connect in a task of their own.
        f.update(members(keys), now);
    };
    let policy = Policy::least_loaded().overlap(10 * S);
    let healths = Arc::<Mutex<HashMap<u16, Health>>>::default();
    let kept = Arc::clone(&healths);
    let balance = Balance::new(policy, move |key: &u16, health: &Health| {
        health.set(if *key < 10 { Status::Open } else { Status::Closed });
        kept.lock().unwrap().insert(*key, health.clone());
    });
    let start = tokio::time::Instant::now().into_std();
    let f = Fixture { balance, healths, events: Arc::default(), start };
    closed_until_connected(0..2, &f, start);
    closed_until_connected(10..12, &f, start);
    assert!(f.shares(start + S).keys().all(|key| *key < 10));
    f.health(10).set(Status::Open);
    assert_eq!(f.shares(start + S).keys().copied().collect::<Vec<_>>(), [10]);
    assert_eq!(f.balance.len(), 2);
    // And not for ever.
    closed_until_connected(0..2, &f, start + 2 * S);
    closed_until_connected(12..14, &f, start + 3 * S);
    assert_eq!(f.balance.stats(start + 12 * S).size, 4);
    assert_eq!(f.balance.stats(start + 13 * S).size, 2);
}

#[test]
fn a_fixed_set_has_an_endpoint_and_weights_that_are_some() {
    let none = Balance::<u16, ()>::fixed(Policy::default(), members([]), |_, _| ()).unwrap_err();
    assert_eq!((none, none.to_string().as_str()), (InvalidSet::NoEndpoints, "0 endpoints: at least one is needed"));
    let bad = Balance::<u16, ()>::fixed(Policy::default(), [(7, f64::NAN)], |_, _| ()).unwrap_err();
    assert_eq!(bad.to_string(), "endpoint 0 has weight NaN, not a finite number above zero");
    assert_eq!(Balance::<u16, ()>::fixed(Policy::default(), [(7, 1.0)], |_, _| ()).unwrap().len(), 1);
}

#[test]
fn a_probe_that_goes_well_is_a_new_beginning_and_one_that_does_not_is_none() {
    let f = fixture(Policy::peak_ewma());
    f.update(members(0..2), f.start);
    let load = |now: Instant| f.balance.endpoints(now)[0].load;
    let lease = |now: Instant| f.balance.try_acquire(Draw::new(1), now, &[1]).unwrap();
    // A failure costs seconds, and would for a minute.
    lease(f.start).end(false, f.start + MS);
    assert!(load(f.start + MS) > 1e9);
    f.health(0).probe_from(f.start + S);
    lease(f.start + S).end(false, f.start + S + MS);
    assert!(load(f.start + S + MS) > 1e9);
    lease(f.start + S).end(true, f.start + S + 2 * MS);
    assert!((load(f.start + S + 2 * MS) - 2e6).abs() < 1e3, "{}", load(f.start + S + 2 * MS));

    // A head says as much as an end.
    let then = f.start + 10 * S;
    lease(then).end(false, then + MS);
    assert!(load(then + MS) > 1e9);
    let mut probe = lease(then + S);
    probe.mark(Mark::Headers, true, then + S + 2 * MS);
    drop(probe);
    assert!((load(then + S + 2 * MS) - 2e6).abs() < 1e3, "{}", load(then + S + 2 * MS));
}

#[test]
fn a_newcomer_starts_as_those_are_that_are_open() {
    let f = fixture(Policy::peak_ewma());
    f.update(members(0..5), f.start);
    let now = f.start + 10 * S;
    for key in 0..5_u16 {
        let others: Vec<_> = (0..5).filter(|other| *other != key).collect();
        let begun = if key < 3 { f.start } else { now.checked_sub(MS).unwrap() };
        f.balance.try_acquire(Draw::new(1), begun, &others).unwrap().end(true, now);
    }
    (0..3).for_each(|key| f.health(key).set(Status::Closed));
    f.update(members(0..6), now);
    let load = f.balance.endpoints(now)[5].load;
    assert!((load - 1e6).abs() < 1e3, "{load}");
}

#[test]
fn one_that_leaves_while_it_is_left_alone_makes_room_however_long_it_is_held() {
    let limits = EjectionLimits::new(0.5).unwrap();
    let f = fixture(Policy::least_loaded().ejections(limits));
    f.update(members(0..2), f.start);
    let (held, breaker) = (f.balance.try_acquire(Draw::new(1), f.start, &[1]).unwrap(), |key| {
        Breaker::builder(Box::new(ConsecutiveFailures::new(NonZeroU32::MIN))).health(f.health(key)).build()
    });
    let ejected = || f.balance.stats(f.start).ejections.unwrap().ejected;
    breaker(0).admit(f.start).record(false, f.start);
    assert_eq!((*held.key(), ejected()), (0, 1));
    f.update(members(1..3), f.start);
    assert_eq!(ejected(), 0);
    breaker(1).admit(f.start).record(false, f.start);
    assert_eq!(ejected(), 1);
    drop(held);
    assert_eq!(ejected(), 1);
}

#[test]
fn who_is_due_to_be_tried_is_tried_however_bad_it_was() {
    let f = fixture(Policy::peak_ewma());
    f.update(members(0..2), f.start);
    let all = [(0, false), (1, true)];
    for (key, success) in all {
        f.balance.try_acquire(Draw::new(1), f.start, &[1 - key]).unwrap().end(success, f.start + MS);
    }
    f.health(0).probe_from(f.start + S);
    let now = f.start + S;
    assert!((0..10).all(|seed| *f.balance.try_acquire(Draw::new(seed), now, &[]).unwrap().key() == 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_endpoint_hears_that_it_is_gone() {
    let f = fixture(Policy::least_loaded());
    f.update(members(0..2), f.start);
    let lease = f.balance.try_acquire(Draw::new(1), f.start, &[1]).unwrap();
    let mut gone = tokio_test::task::spawn(lease.gone());
    tokio_test::assert_pending!(gone.poll());
    assert!(!lease.is_gone());
    f.update(members(1..2), f.start);
    tokio_test::assert_ready!(gone.poll());
    assert!(lease.is_gone());
    lease.gone().await;
}

#[test]
fn the_only_open_one_was_tried_and_that_is_no_panic() {
    let f = fixture(Policy::least_loaded().panic(Panic::FailFast));
    f.update(members(0..3), f.start);
    (1..3).for_each(|key| f.health(key).set(Status::Closed));
    assert_eq!(*f.balance.try_acquire(Draw::new(1), f.start, &[0]).unwrap().key(), 0);
    assert_eq!(f.balance.stats(f.start).panics, 0);
    f.health(2).set(Status::Open);
    assert_eq!(*f.balance.try_acquire(Draw::new(1), f.start, &[0]).unwrap().key(), 2);
    // Without leave to fail, one that was not tried goes first.
    let f = fixture(Policy::least_loaded());
    f.update(members(0..2), f.start);
    f.health(1).set(Status::Closed);
    assert_eq!(*f.balance.try_acquire(Draw::new(1), f.start, &[0]).unwrap().key(), 1);
    assert_eq!(f.balance.stats(f.start).panics, 0);
}

/// The share of each of ten endpoints in `policy`, one second after the first was forced open for 10 ms, and how many
/// count as open then.
fn after_forced_open(policy: Policy) -> (Vec<f64>, usize) {
    let f = fixture(policy);
    f.update(members(0..10), f.start);
    let breaker = Breaker::new(Box::new(ConsecutiveFailures::default()), Backoff::default(), f.health(0));
    breaker.force_open(10 * MS, f.start);
    let shares = f.shares(f.start + 9 * MS);
    assert!(!shares.contains_key(&0), "{shares:?}");
    let now = f.start + S;
    let mut picked = vec![0.0; 10];
    // Held, so that load counts.
    let leases: Vec<_> = (0..2000).map(|seed| f.balance.try_acquire(Draw::new(seed), now, &[]).unwrap()).collect();
    for lease in &leases {
        picked[usize::from(*lease.key())] += 1.0 / 2000.0;
    }
    assert!(f.balance.endpoints(now).iter().all(|info| !info.is_due && info.load >= 0.0));
    (picked, f.balance.tiers(now)[0].open)
}

#[test]
fn who_was_forced_open_is_one_of_many_when_that_is_over() {
    for policy in [Policy::least_loaded(), Policy::peak_ewma(), Policy::new(Heap::new(), LeastLoaded::new)] {
        let (shares, open) = after_forced_open(policy);
        assert!(shares.iter().all(|share| (0.05..0.15).contains(share)), "{shares:?}");
        assert_eq!(open, 10);
    }
}

#[test]
fn who_was_forced_open_counts_for_its_tier_when_that_is_over() {
    let f = fixture(Policy::least_loaded().tiers(Tiers::new().local("a")));
    f.update((0..10).map(|key| Member::new(key).zone(if key < 5 { "a" } else { "b" })), f.start);
    (0..5).for_each(|key| f.health(key).busy_until(f.start + S));
    assert!(f.shares(f.start).keys().all(|key| *key >= 5));
    assert!(f.shares(f.start + S).keys().all(|key| *key < 5));
}

#[test]
fn a_panic_in_the_midst_of_an_update_is_made_up_for_by_the_next() {
    #[derive(Debug)]
    struct Panics(Arc<AtomicU8>);
    impl Strategy for Panics {
        fn pick(&self, _: &dyn Candidates, draw: Draw) -> usize {
            draw.random as usize
        }
        fn rebuild(&self, _: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
            assert!(self.0.load(Ordering::Relaxed) != 3, "rebuild");
            None
        }
    }
    // 1: the service panics; 2: the load; 3: the strategy.
    for which in 1..=3 {
        let arm = Arc::new(AtomicU8::new(0));
        let (svc, load) = (Arc::clone(&arm), Arc::clone(&arm));
        let policy = Policy::new(Panics(Arc::clone(&arm)), move || {
            assert!(load.load(Ordering::Relaxed) != 2, "load");
            LeastLoaded::new()
        });
        let balance = Balance::new(policy, move |key: &u16, _: &Health| {
            assert!(svc.load(Ordering::Relaxed) != 1 || *key != 3, "service");
        });
        balance.update(members(0..2)).unwrap();
        arm.store(which, Ordering::Relaxed);
        let update = || balance.update(members(1..4));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(update)).is_err());
        arm.store(0, Ordering::Relaxed);
        assert_eq!(balance.len(), 2);
        update().unwrap();
        let stats = balance.stats(tokio::time::Instant::now().into_std());
        assert_eq!((stats.size, stats.adds - stats.removes), (3, 3), "{which}: {stats:?}");
        let keys: Vec<_> = balance.services().into_iter().map(|(key, ())| key).collect();
        assert_eq!(keys, [1, 2, 3]);
    }
}

#[test]
fn an_overlap_without_an_end_is_one() {
    let start = tokio::time::Instant::now().into_std();
    let balance = Balance::new(Policy::least_loaded().overlap(Duration::MAX), |key: &u16, health: &Health| {
        health.set(if *key == 2 { Status::Closed } else { Status::Open });
    });
    balance.update_at(members([1]), start).unwrap();
    balance.update_at(members([2]), start).unwrap();
    let keys: Vec<_> = balance.services().into_iter().map(|(key, ())| key).collect();
    assert_eq!(keys, [2, 1]);
}

#[test]
fn a_fixed_set_that_can_never_have_so_many_probes_is_refused() {
    let fixed = |probes| {
        let limits = EjectionLimits::new(1.0).unwrap().max_probes(NonZeroU32::new(probes).unwrap());
        Balance::fixed(Policy::least_loaded().ejections(limits), members(0..2), |_, _| ()).map(|balance| balance.len())
    };
    assert_eq!(fixed(2), Ok(2));
    let err = fixed(1000).unwrap_err();
    assert_eq!(err, InvalidSet::Probes { probes: 1000, endpoints: 2 });
    assert_eq!(err.to_string(), "a limit of 1000 probes at a time for 2 endpoints: at most one for each");
    let unlimited = Policy::least_loaded().ejections(EjectionLimits::default());
    assert!(Balance::fixed(unlimited, members(0..2), |_, _| ()).is_ok());
}

#[test]
fn a_local_zone_that_nobody_is_in_is_told() {
    let why = |zones: [Option<&'static str>; 2]| {
        let f = fixture(Policy::least_loaded().tiers(Tiers::new().local("us-east-1a")));
        let member = |(key, zone): (u16, Option<&'static str>)| match zone {
            Some(zone) => Member::new(key).zone(zone),
            None => Member::new(key),
        };
        f.update((0..).zip(zones).map(member), f.start);
        f.balance.tiers(f.start)[0].why
    };
    assert_eq!(why([None, None]), TierReason::NoZones);
    assert_eq!(why([None, Some("us-esat-1a")]), TierReason::NoneLocal);
    assert_eq!(why([None, Some("us-east-1a")]), TierReason::Preferred);
    let texts = [TierReason::NoZones, TierReason::NoneLocal].map(|why| why.to_string());
    assert!(texts[0].contains("no endpoint says its zone") && texts[1].contains("no endpoint is in the local zone"));
    // Nobody asked for one.
    let f = fixture(Policy::least_loaded());
    f.update(members(0..2), f.start);
    assert_eq!(f.balance.tiers(f.start)[0].why, TierReason::Preferred);
    // There is nobody to leave its requests to, but it is not what one would prefer.
    f.health(0).set(Status::Closed);
    assert_eq!(f.balance.tiers(f.start)[0].why, TierReason::Preferred);
    f.health(1).set(Status::Busy);
    assert_eq!(f.balance.tiers(f.start)[0].why, TierReason::Unhealthy { open: 0, size: 2 });
}

#[test]
fn weights_may_be_as_great_or_small_as_numbers_are() {
    let strategies: [fn() -> Policy; 7] = [
        Policy::least_loaded,
        Policy::peak_ewma,
        || Policy::new(Heap::new(), LeastLoaded::new),
        || Policy::new(RoundRobin::new(), LeastLoaded::new),
        || Policy::new(Random::new(), LeastLoaded::new),
        || Policy::new(Ring::new(), LeastLoaded::new),
        || Policy::new(Maglev::new(), LeastLoaded::new),
    ];
    for weight in [1e308, 5e-324] {
        for policy in strategies {
            // The second tier's is another one, so that no tier's is the mean.
            let f = fixture(policy());
            f.update((0..6).map(|key| Member::new(key).weight(weight).priority(u32::from(key / 3))), f.start);
            // Random looks at all, by weight, when those that it draws are busy.
            f.health(0).set(Status::Busy);
            let mut picked = [0; 6];
            for seed in 0..3000 {
                let draw = Draw::new(seed).with_key(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let lease = f.balance.try_acquire(draw, f.start, &[]).unwrap();
                picked[usize::from(*lease.key())] += 1;
                lease.end(true, f.start);
            }
            assert!(picked[1] > 300 && picked[2] > 300 && picked[0] == 0, "{weight:e} {picked:?}");
            let infos = f.balance.endpoints(f.start);
            assert!(infos.iter().all(|info| info.weight == weight && info.load.is_finite()));
            assert!(f.balance.stats(f.start).mean_weight.is_finite());
        }
    }
    let f = fixture(Policy::least_loaded());
    f.update([(0, f64::MAX), (1, f64::MIN_POSITIVE)].map(|(key, weight)| Member::new(key).weight(weight)), f.start);
    let _held = f.balance.try_acquire(Draw::new(1), f.start, &[0]).unwrap();
    assert!(f.balance.endpoints(f.start).iter().all(|info| info.load.is_finite()));
    assert_eq!(f.balance.stats(f.start).mean_weight, f64::MAX / 2.0);
}

#[test]
fn whether_any_is_open_is_known_without_counting_them() {
    let f = fixture(Policy::least_loaded());
    assert!(!f.balance.has_open(f.start));
    f.update(members(0..2), f.start);
    f.health(0).set(Status::Closed);
    assert!(f.balance.has_open(f.start));
    f.health(1).busy_until(f.start + S);
    assert!(!f.balance.has_open(f.start));
    assert!(f.balance.has_open(f.start + S));
}
