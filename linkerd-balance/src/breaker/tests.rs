use std::num::NonZeroU32;

use super::*;
use crate::accrual::{ConsecutiveFailures, Never};

const MS: Duration = Duration::from_millis(1);

/// Dies of the second failure in a row; left alone for 10 ms, then 20, then 20.
fn breaker() -> (Breaker, Health, Instant) {
    let health = Health::new();
    let accrual = ConsecutiveFailures::new(NonZeroU32::new(2).unwrap());
    let backoff = Backoff::equal_jittered(10 * MS, 20 * MS).unwrap();
    let breaker = Breaker::new(Box::new(accrual), backoff, health.clone());
    (breaker, health, tokio::time::Instant::now().into_std())
}

fn dead() -> (Breaker, Health, Instant) {
    let (breaker, health, now) = breaker();
    breaker.admit(now).record(false, now);
    breaker.admit(now).record(false, now);
    (breaker, health, now)
}

#[test]
fn an_endpoint_that_fails_enough_is_busy_for_its_backoff() {
    let (breaker, health, now) = breaker();
    breaker.admit(now).record(false, now);
    assert_eq!((health.status(now), breaker.phase()), (Status::Open, Phase::Alive));
    breaker.admit(now).record(false, now);
    assert_eq!(breaker.phase(), Phase::Dead { until: now + 10 * MS });
    assert_eq!(health.status(now + 9 * MS), Status::Busy);
    assert_eq!(health.status(now + 10 * MS), Status::Open);
    assert_eq!((breaker.counters().removals(), breaker.counters().removed_for()), (1, 10 * MS));
}

#[test]
fn the_first_call_after_the_backoff_is_the_only_probe() {
    let (breaker, health, now) = dead();
    assert!(!breaker.admit(now + 9 * MS).is_probe());
    let now = now + 10 * MS;
    let probe = breaker.clone().admit(now);
    assert!(probe.is_probe());
    assert_eq!(health.status(now), Status::Busy);
    assert!(!breaker.admit(now).is_probe());
    assert_eq!(breaker.counters().probes(), 1);
    probe.record(true, now);
}

#[test]
fn a_probe_that_succeeds_revives_and_forgets() {
    let (breaker, health, now) = dead();
    let now = now + 10 * MS;
    breaker.admit(now).record(true, now);
    assert_eq!((health.status(now), breaker.phase()), (Status::Open, Phase::Alive));
    assert_eq!(breaker.counters().revivals(), 1);
    // Two failures again, and the first backoff again.
    breaker.admit(now).record(false, now);
    assert_eq!(breaker.phase(), Phase::Alive);
    breaker.admit(now).record(false, now);
    assert_eq!(breaker.phase(), Phase::Dead { until: now + 10 * MS });
}

#[test]
fn a_probe_that_fails_waits_for_the_next_backoff() {
    let (breaker, health, now) = dead();
    let now = now + 10 * MS;
    breaker.admit(now).record(false, now);
    let Phase::Dead { until } = breaker.phase() else { panic!("not dead") };
    assert!(until >= now + 10 * MS && until <= now + 20 * MS);
    assert_eq!(health.status(until.checked_sub(MS).unwrap()), Status::Busy);
    let counters = breaker.counters();
    assert_eq!((counters.removals(), counters.revivals(), counters.probes()), (1, 0, 1));
    assert_eq!(counters.removed_for(), 10 * MS + (until - now));
}

#[test]
fn a_dropped_probe_lets_the_next_call_probe() {
    let (breaker, health, now) = dead();
    let now = now + 10 * MS;
    drop(breaker.admit(now));
    assert_eq!(health.status(now), Status::Open);
    let probe = breaker.admit(now);
    assert!(probe.is_probe());
    probe.record(true, now);
    assert_eq!(breaker.phase(), Phase::Alive);
}

#[test]
fn a_probe_that_was_given_up_after_a_while_makes_the_next_one_wait() {
    let (breaker, health, now) = dead();
    let begun = now + 10 * MS;
    breaker.admit(begun).record(Outcome::Neutral, begun + Permit::PATIENCE.checked_sub(MS).unwrap());
    let begun = begun + Permit::PATIENCE;
    let probe = breaker.admit(begun);
    assert!(probe.is_probe(), "it was given up at once");
    let now = begun + Permit::PATIENCE;
    probe.record(Outcome::Neutral, now);
    assert_eq!((breaker.phase(), health.status(now)), (Phase::Dead { until: now + 10 * MS }, Status::Busy));
    assert!(!breaker.admit(now + 9 * MS).is_probe());
    assert!(breaker.admit(now + 10 * MS).is_probe());
}

#[tokio::test(start_paused = true)]
async fn callers_who_give_up_probe_no_more_often_than_the_backoff() {
    let accrual = ConsecutiveFailures::new(NonZeroU32::MIN);
    for probes in [1, 2] {
        let breaker = BreakerBuilder::new(Box::new(accrual.clone()))
            .backoff(Backoff::constant(1000 * MS).unwrap())
            .max_probes(NonZeroU32::new(probes).unwrap())
            .build();
        let now = || tokio::time::Instant::now().into_std();
        breaker.admit(now()).record(false, now());
        let mut out = Vec::new();
        for _ in 0..160 {
            tokio::time::sleep(100 * MS).await;
            out.retain(|(begun, _)| now() - *begun < 1000 * MS);
            let permit = breaker.admit(now());
            if permit.is_probe() {
                out.push((now(), permit));
            }
        }
        assert!((1..=8 * u64::from(probes)).contains(&breaker.counters().probes()), "{}", breaker.counters().probes());
    }
}

#[test]
fn calls_that_are_not_the_probe_decide_nothing_while_it_is_dead() {
    let (breaker, health, now) = dead();
    // It failed open, and that went well.
    breaker.admit(now).record(true, now);
    assert_eq!(health.status(now), Status::Busy);
    let late = breaker.admit(now);
    let now = now + 10 * MS;
    let probe = breaker.admit(now);
    late.record(true, now);
    assert_eq!(health.status(now), Status::Busy);
    breaker.admit(now).record(false, now);
    assert_eq!(breaker.phase(), Phase::Probing { since: now });
    probe.record(true, now);
    assert_eq!(breaker.phase(), Phase::Alive);
}

#[test]
fn a_dropped_permit_that_is_no_probe_changes_nothing() {
    let (breaker, health, now) = dead();
    let other = breaker.admit(now);
    let now = now + 10 * MS;
    let probe = breaker.admit(now);
    drop(other);
    assert_eq!((health.status(now), breaker.phase()), (Status::Busy, Phase::Probing { since: now }));
    drop(probe);
}

/// Dies of the first failure; left alone for a second.
fn patient(probes: u32, health: &Health) -> (Breaker, Instant) {
    let breaker = BreakerBuilder::new(Box::new(ConsecutiveFailures::new(NonZeroU32::MIN)))
        .backoff(Backoff::constant(1000 * MS).unwrap())
        .max_probes(NonZeroU32::new(probes).unwrap())
        .health(health.clone())
        .build();
    let now = tokio::time::Instant::now().into_std();
    breaker.admit(now).record(false, now);
    (breaker, now + 1000 * MS)
}

#[test]
fn a_probe_that_hangs_holds_the_next_one_up_for_a_backoff() {
    let health = Health::new();
    let (breaker, begun) = patient(1, &health);
    let hung = breaker.admit(begun);
    let before = begun + 999 * MS;
    assert!(hung.is_probe() && !breaker.admit(before).is_probe() && breaker.try_admit(before).is_err());
    assert_eq!((health.status(before), health.is_due(before)), (Status::Busy, false));
    let now = begun + 1000 * MS;
    assert_eq!((health.is_due(now), breaker.why(now)), (true, None));
    let second = breaker.admit(now);
    assert!(second.is_probe() && !breaker.admit(now).is_probe());
    assert_eq!((health.status(now), health.busy_for(now)), (Status::Busy, Some(1000 * MS)));
    second.record(true, now);
    assert_eq!((breaker.phase(), health.status(now)), (Phase::Alive, Status::Open));
    // Which was about another life.
    hung.record(false, now);
    assert_eq!(breaker.phase(), Phase::Alive);
}

#[test]
fn a_probe_that_hung_may_bring_it_back_all_the_same() {
    let (breaker, begun) = patient(1, &Health::new());
    let (hung, now) = (breaker.admit(begun), begun + 1000 * MS);
    let second = breaker.admit(now);
    hung.record(true, now);
    assert_eq!(breaker.phase(), Phase::Alive);
    second.record(false, now);
    assert_eq!(breaker.phase(), Phase::Alive);
}

#[test]
fn callers_who_never_give_up_probe_once_a_backoff() {
    for probes in [1, 2] {
        let (breaker, begun) = patient(probes, &Health::new());
        let out: Vec<_> = (0..1000).map(|tenth| breaker.admit(begun + tenth * 100 * MS)).collect();
        let sent = out.iter().filter(|permit| permit.is_probe()).count() as u32;
        assert!((99..=99 + probes).contains(&sent), "{sent} of {probes} at a time in 100 backoffs");
        assert_eq!(breaker.counters().probes(), u64::from(sent));
    }
}

#[test]
fn the_backoff_grows_while_probes_hang() {
    let breaker = BreakerBuilder::new(Box::new(ConsecutiveFailures::new(NonZeroU32::MIN)))
        .backoff(Backoff::equal_jittered(1000 * MS, 8000 * MS).unwrap())
        .build();
    let now = tokio::time::Instant::now().into_std();
    breaker.admit(now).record(false, now);
    let out: Vec<_> = (0..1000).map(|tenth| breaker.admit(now + tenth * 100 * MS)).filter(Permit::is_probe).collect();
    // After 1 s, 1 to 2, 2 to 4, 4 to 8, and from then on 8.
    assert!((14..=16).contains(&out.len()), "{} in 100 s", out.len());
    let reason = breaker.why(now + 99_900 * MS).map(|why| why.reason);
    let probes = out.len() as u32 - 1;
    assert!(matches!(reason, Some(Reason::ProbeFailed { probes: failed, .. }) if failed == probes), "{reason:?}");
}

#[test]
fn a_probe_that_still_hangs_is_nothing_to_the_next_life() {
    let health = Health::new();
    let breaker = BreakerBuilder::new(Box::new(ConsecutiveFailures::new(NonZeroU32::MIN)))
        .backoff(Backoff::equal_jittered(1000 * MS, 300_000 * MS).unwrap())
        .health(health.clone())
        .build();
    let mut now = tokio::time::Instant::now().into_std();
    breaker.admit(now).record(false, now);
    // Until the backoff is long.
    let mut hung = Vec::new();
    for _ in 0..5000 {
        now += 100 * MS;
        hung.extend(Some(breaker.admit(now)).filter(Permit::is_probe));
    }
    hung.pop().unwrap().record(true, now);
    assert_eq!(breaker.phase(), Phase::Alive);
    breaker.admit(now).record(false, now);
    let soon = now + 1000 * MS;
    assert_eq!((health.status(now), health.is_due(soon)), (Status::Busy, true));
    assert!(breaker.admit(soon).is_probe(), "after the first backoff, as ever");
}

#[test]
fn of_a_set_the_others_wait_no_longer_than_a_backoff_for_one_that_hangs() {
    let limits = crate::EjectionLimits::default().max_probes(NonZeroU32::MIN);
    let ejections = crate::Ejections::new(limits);
    ejections.resize(3);
    let [a, b] = [(); 2].map(|()| Health::within(ejections.clone()));
    let ((hangs, begun), (well, _)) = (patient(1, &a), patient(1, &b));
    let hung = hangs.admit(begun);
    assert!(hung.is_probe() && !well.admit(begun).is_probe());
    let now = begun + 1000 * MS;
    let again = hangs.admit(now);
    assert!(again.is_probe());
    let probe = well.admit(now);
    assert!(probe.is_probe(), "its place is free");
    // And it waits for its turn like the others.
    let later = now + 1000 * MS;
    assert_eq!((a.status(later), hangs.admit(later).is_probe()), (Status::Busy, false));
    probe.record(true, later);
    assert_eq!((a.status(later), hangs.admit(later).is_probe()), (Status::Open, true));
    assert_eq!((well.phase(), ejections.counts().probing), (Phase::Alive, 0));
    drop((hung, again));
}

#[test]
fn never_never_gives_up() {
    let (health, now) = (Health::new(), tokio::time::Instant::now().into_std());
    let breaker = Breaker::new(Box::new(Never), Backoff::default(), health.clone());
    for _ in 0..1000 {
        breaker.admit(now).record(false, now);
    }
    assert_eq!(health.status(now), Status::Open);
}

#[test]
fn a_backoff_beyond_the_clock_does_not_panic() {
    let (health, now) = (Health::new(), tokio::time::Instant::now().into_std());
    let accrual = ConsecutiveFailures::new(NonZeroU32::MIN);
    let backoff = Backoff::constant(Duration::MAX).unwrap();
    let breaker = Breaker::new(Box::new(accrual), backoff, health.clone());
    breaker.admit(now).record(false, now);
    assert_eq!(health.status(now + Duration::from_hours(24)), Status::Busy);
}

#[test]
fn one_of_many_threads_gets_the_probe() {
    let (breaker, _health, now) = dead();
    let now = now + 10 * MS;
    let permits: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| breaker.admit(now))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(permits.iter().filter(|permit| permit.is_probe()).count(), 1);
}

#[test]
fn what_happens_is_told_as_often_as_it_is_counted() {
    let told = std::sync::Arc::<std::sync::Mutex<Vec<_>>>::default();
    let seen = std::sync::Arc::clone(&told);
    let accrual = ConsecutiveFailures::new(NonZeroU32::MIN);
    let breaker = Breaker::builder(Box::new(accrual))
        .backoff(Backoff::constant(10 * MS).unwrap())
        .counters(BreakerCounters::observed(move |id, event| {
            seen.lock().unwrap().push((id.map(str::to_owned), *event));
        }))
        .id("a")
        .build();
    let now = tokio::time::Instant::now().into_std();
    breaker.admit(now).record(false, now);
    breaker.admit(now).record(false, now);
    breaker.admit(now + 10 * MS).record(false, now + 10 * MS);
    breaker.admit(now + 20 * MS).record(true, now + 20 * MS);
    // Somebody's wish is no event.
    breaker.force_open(10 * MS, now + 20 * MS);
    breaker.reset(now + 20 * MS);
    let reason = Tripped::Consecutive { failures: 1 };
    let expected = [
        BreakerEvent::Removed { reason, until: now + 10 * MS, at: now },
        BreakerEvent::Revived { since: now, probes: 2, at: now + 20 * MS },
    ];
    assert_eq!(*told.lock().unwrap(), expected.map(|event| (Some("a".to_owned()), event)));
    assert_eq!((breaker.counters().removals(), breaker.counters().revivals()), (1, 1));
}
