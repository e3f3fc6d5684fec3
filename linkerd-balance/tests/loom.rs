//! Every interleaving of what threads do with a breaker and its set: `just loom`.
//!
//! Empty without `--cfg loom`.
#![cfg(loom)]

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use linkerd_balance::{
    Breaker, BreakerCounters, EjectionLimits, Ejections, Health, Permit, Phase,
    accrual::{Backoff, ConsecutiveFailures},
};
use loom::thread;

const MS: Duration = Duration::from_millis(1);

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Dies of the first failure, for 10 ms.
fn breaker(health: Health) -> Breaker {
    let accrual = Box::new(ConsecutiveFailures::new(NonZeroU32::MIN));
    let backoff = Backoff::constant(10 * MS).unwrap();
    Breaker::with_counters(accrual, backoff, health, BreakerCounters::default(), 1)
}

fn set(share: f64, size: usize) -> Ejections {
    let limits = EjectionLimits::new(share).unwrap().max_probes(NonZeroU32::MIN);
    let ejections = Ejections::new(limits);
    ejections.resize(size);
    ejections
}

fn kill(breaker: &Breaker, now: Instant) {
    breaker.admit(now).record(false, now);
}

/// A breaker whose backoff is just over.
fn dead(health: Health) -> (Breaker, Instant) {
    let (breaker, now) = (breaker(health), now());
    kill(&breaker, now);
    (breaker, now + 10 * MS)
}

#[test]
fn of_two_clones_one_gets_the_probe() {
    loom::model(|| {
        let (breaker, now) = dead(Health::new());
        let clone = breaker.clone();
        let other = thread::spawn(move || clone.try_admit(now));
        let permits = [breaker.try_admit(now), other.join().unwrap()];
        assert_eq!(permits.iter().flatten().filter(|permit| permit.is_probe()).count(), 1);
        assert_eq!(permits.iter().flatten().count(), 1);
        assert_eq!(breaker.counters().probes(), 1);
    });
}

#[test]
fn the_slot_of_a_dropped_probe_is_taken_by_one() {
    loom::model(|| {
        let (breaker, now) = dead(Health::new());
        let probe = breaker.try_admit(now).unwrap();
        let dropper = thread::spawn(move || drop(probe));
        let clone = breaker.clone();
        let other = thread::spawn(move || clone.try_admit(now));
        let mine = breaker.try_admit(now);
        dropper.join().unwrap();
        let permits = [mine, other.join().unwrap()];
        let taken = permits.iter().flatten().filter(|permit| permit.is_probe()).count();
        assert_eq!(taken, permits.iter().flatten().count());
        assert!(taken <= 1);
        if taken == 0 {
            assert!(breaker.try_admit(now).is_ok_and(|permit| permit.is_probe()), "the slot is lost");
        }
    });
}

#[test]
fn two_verdicts_at_once_revive_once_or_not_at_all() {
    loom::model(|| {
        let accrual = Box::new(ConsecutiveFailures::new(NonZeroU32::MIN));
        let backoff = Backoff::constant(10 * MS).unwrap();
        let breaker =
            Breaker::builder(accrual).backoff(backoff).seed(1).max_probes(NonZeroU32::new(2).unwrap()).build();
        let now = now();
        kill(&breaker, now);
        let now = now + 10 * MS;
        let [good, bad] = [breaker.admit(now), breaker.admit(now)];
        let other = thread::spawn(move || good.record(true, now));
        bad.record(false, now);
        other.join().unwrap();
        let alive = breaker.phase() == Phase::Alive;
        assert_eq!(breaker.counters().revivals(), u64::from(alive));
    });
}

#[test]
fn ejections_never_exceed_their_share() {
    loom::model(|| {
        let ejections = set(0.5, 3);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let ejections = ejections.clone();
                thread::spawn(move || {
                    let taken = ejections.try_eject();
                    assert!(ejections.counts().ejected <= 1);
                    taken
                })
            })
            .collect();
        let taken = threads.into_iter().map(|thread| thread.join().unwrap()).filter(|taken| *taken).count();
        assert_eq!((taken, ejections.counts().ejected, ejections.counts().denied), (1, 1, 1));
    });
}

#[test]
fn a_set_that_shrinks_while_one_is_ejected_keeps_to_one_of_its_sizes() {
    loom::model(|| {
        let ejections = set(0.5, 4);
        assert!(ejections.try_eject());
        let shrinking = ejections.clone();
        let other = thread::spawn(move || shrinking.resize(2));
        let taken = ejections.try_eject();
        other.join().unwrap();
        let counts = ejections.counts();
        assert_eq!((counts.size, counts.ejected), (2, 1 + usize::from(taken)));
        assert!(!ejections.try_eject());
    });
}

#[test]
fn who_leaves_while_it_is_given_up_gives_back_once() {
    loom::model(|| {
        let ejections = set(1.0, 2);
        // The place of another one, which nobody may give back.
        assert!(ejections.try_eject());
        let health = Health::within(ejections.clone());
        let (breaker, now) = (breaker(health.clone()), now());
        let other = thread::spawn(move || kill(&breaker, now));
        health.retire();
        other.join().unwrap();
        assert_eq!(ejections.counts().ejected, 1);
        drop(health);
        assert_eq!(ejections.counts().ejected, 1);
    });
}

#[test]
fn who_leaves_while_it_returns_gives_back_once() {
    loom::model(|| {
        let ejections = set(1.0, 2);
        assert!(ejections.try_eject());
        let health = Health::within(ejections.clone());
        let (breaker, now) = dead(health.clone());
        let probe: Permit = breaker.admit(now);
        assert_eq!((ejections.counts().ejected, ejections.counts().probing), (2, 1));
        let other = thread::spawn(move || probe.record(true, now));
        health.retire();
        other.join().unwrap();
        assert_eq!((ejections.counts().ejected, ejections.counts().probing), (1, 0));
    });
}

#[test]
fn of_two_endpoints_one_is_tried_at_a_time() {
    loom::model(|| {
        let ejections = set(1.0, 2);
        let (a, now) = dead(Health::within(ejections.clone()));
        let (b, _) = dead(Health::within(ejections.clone()));
        let later = now + MS;
        let other = thread::spawn(move || b.try_admit(later).ok());
        let mine = a.try_admit(later).ok();
        let permits = [mine, other.join().unwrap()];
        assert_eq!(permits.iter().flatten().count(), 1);
        assert_eq!(ejections.counts().probing, 1);
        drop(permits);
        assert_eq!(ejections.counts().probing, 0);
    });
}
