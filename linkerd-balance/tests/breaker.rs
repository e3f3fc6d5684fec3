//! Breakers through their public face: reasons, limits of their set, force, outcomes.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use linkerd_balance::{
    Breaker, EjectionLimits, Ejections, Forced, Health, NextProbe, Outcome, Permit, Phase, Reason, Status,
    accrual::{Accrual, Backoff, ConsecutiveFailures, SuccessRateWindowed, Tripped},
};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn count(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

fn failures(n: u32) -> Box<dyn Accrual> {
    Box::new(ConsecutiveFailures::new(count(n)))
}

/// Dies of the second failure in a row, for 10 ms always.
fn breaker(health: &Health, max_probes: u32) -> Breaker {
    let builder = Breaker::builder(failures(2)).backoff(Backoff::constant(10 * MS).unwrap());
    builder.health(health.clone()).max_probes(count(max_probes)).id("a").build()
}

fn alive() -> (Breaker, Health, Instant) {
    let health = Health::new();
    (breaker(&health, 1), health, now())
}

fn fail(breaker: &Breaker, now: Instant) {
    breaker.admit(now).record(Outcome::Failure, now);
}

fn kill(breaker: &Breaker, now: Instant) {
    fail(breaker, now);
    fail(breaker, now);
}

mod reasons {
    use super::*;

    #[test]
    fn every_rejection_says_which_since_when_why_and_until_when() {
        let (breaker, _health, start) = alive();
        assert_eq!(breaker.why(start), None);
        kill(&breaker, start);

        let rejection = breaker.try_admit(start + 4 * MS).unwrap_err();
        assert_eq!(Some(&rejection), breaker.why(start + 4 * MS).as_ref());
        assert_eq!(rejection.breaker.as_deref(), Some("a"));
        assert_eq!(rejection.since, start);
        assert_eq!(rejection.reason, Reason::Tripped(Tripped::Consecutive { failures: 2 }));
        assert_eq!(rejection.next_probe, Some(NextProbe::At(start + 10 * MS)));
        let text = "breaker a has been open for 4ms: 2 consecutive failures; next probe in 6ms";
        assert_eq!(rejection.to_string(), text);
    }

    #[test]
    fn a_probe_that_is_out_and_one_that_failed_are_reasons() {
        let (breaker, _health, start) = alive();
        kill(&breaker, start);
        let now = start + 10 * MS;
        let probe = breaker.try_admit(now).unwrap();
        assert!(probe.is_probe());
        assert_eq!(breaker.try_admit(now).unwrap_err().next_probe, Some(NextProbe::UnderWay));
        probe.record(false, now);
        let rejection = breaker.try_admit(now).unwrap_err();
        let tripped = Tripped::Consecutive { failures: 2 };
        assert_eq!(rejection.reason, Reason::ProbeFailed { tripped, probes: 1 });
        assert_eq!((rejection.since, rejection.next_probe), (start, Some(NextProbe::At(now + 10 * MS))));
    }

    #[test]
    fn without_a_reason_calls_are_let_through() {
        let (breaker, _health, now) = alive();
        for _ in 0..100 {
            breaker.try_admit(now).unwrap().record(true, now);
        }
        fail(&breaker, now);
        assert!(!breaker.try_admit(now).unwrap().is_probe());
    }

    #[test]
    fn the_endpoint_comes_into_use_when_its_breaker_is_made() {
        // Made long before, as a setting that is cloned for each endpoint.
        let mut accrual = SuccessRateWindowed::new(0.9, 1000 * MS).unwrap();
        accrual.revived(now().checked_sub(Duration::from_hours(1)).unwrap());
        let breaker = Breaker::new(Box::new(accrual), Backoff::default(), Health::new());
        let now = now();
        for _ in 0..20 {
            fail(&breaker, now);
        }
        assert_eq!(breaker.phase(), Phase::Alive, "no window has passed");
    }
}

mod outcomes {
    use super::*;

    #[test]
    fn a_callers_fault_counts_for_nothing() {
        let (breaker, _health, now) = alive();
        for _ in 0..100 {
            breaker.admit(now).record(Outcome::Neutral, now);
        }
        fail(&breaker, now);
        // Not a success either: it does not end the row.
        breaker.admit(now).record(Outcome::Neutral, now);
        fail(&breaker, now);
        assert!(matches!(breaker.phase(), Phase::Dead { .. }));
    }

    #[test]
    fn a_neutral_probe_makes_room_for_the_next_and_does_not_revive() {
        let (breaker, health, start) = alive();
        kill(&breaker, start);
        let now = start + 10 * MS;
        breaker.admit(now).record(Outcome::Neutral, now);
        assert_eq!(breaker.phase(), Phase::Dead { until: now });
        assert_eq!(health.status(now), Status::Open);
        let probe = breaker.admit(now);
        assert!(probe.is_probe());
        probe.record(Outcome::Success, now);
        assert_eq!(breaker.phase(), Phase::Alive);
    }

    #[test]
    fn results_of_an_earlier_life_say_nothing() {
        let (breaker, _health, start) = alive();
        let late: Vec<_> = (0..8).map(|_| breaker.admit(start)).collect();
        kill(&breaker, start);
        let now = start + 10 * MS;
        breaker.admit(now).record(true, now);
        for permit in late {
            permit.record(false, now);
        }
        assert_eq!(breaker.phase(), Phase::Alive);
    }
}

mod probes {
    use super::*;

    #[test]
    fn as_many_probes_as_allowed_and_the_first_verdict_decides() {
        let health = Health::new();
        let (breaker, start) = (breaker(&health, 3), now());
        kill(&breaker, start);
        let now = start + 10 * MS;
        let mut probes = Vec::new();
        for _ in 0..3 {
            assert_eq!((health.status(now), breaker.why(now)), (Status::Open, None));
            probes.push(breaker.try_admit(now).unwrap());
        }
        assert!(probes.iter().all(Permit::is_probe));
        assert_eq!(health.status(now), Status::Busy);
        assert!(breaker.try_admit(now).is_err());

        drop(probes.pop());
        assert_eq!(health.status(now), Status::Open);
        probes.push(breaker.try_admit(now).unwrap());
        probes.pop().unwrap().record(false, now);
        assert_eq!(breaker.phase(), Phase::Dead { until: now + 10 * MS });
        // Too late.
        probes.pop().unwrap().record(true, now);
        drop(probes.pop());
        assert_eq!(breaker.phase(), Phase::Dead { until: now + 10 * MS });
    }

    #[test]
    fn a_probe_that_outlives_its_round_still_takes_its_slot() {
        let health = Health::new();
        let (breaker, start) = (breaker(&health, 2), now());
        kill(&breaker, start);
        let now = start + 10 * MS;
        let (slow, fast) = (breaker.admit(now), breaker.admit(now));
        fast.record(false, now);
        let now = now + 10 * MS;
        let probe = breaker.try_admit(now).unwrap();
        assert_eq!(breaker.try_admit(now).unwrap_err().next_probe, Some(NextProbe::UnderWay));
        assert_eq!(health.status(now), Status::Busy);
        slow.record(true, now);
        assert_eq!((breaker.phase(), health.status(now)), (Phase::Probing { since: now }, Status::Open));
        probe.record(true, now);
        assert_eq!(breaker.phase(), Phase::Alive);
    }

    #[test]
    fn a_thousand_clones_never_have_more_probes_out_than_allowed() {
        use std::sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering},
        };
        let (breaker, start) = (breaker(&Health::new(), 3), now());
        kill(&breaker, start);
        let now = start + 10 * MS;
        let clones: Vec<_> = (0..1000).map(|_| breaker.clone()).collect();
        let (out, most, barrier) = (AtomicUsize::new(0), AtomicUsize::new(0), Barrier::new(8));
        std::thread::scope(|scope| {
            for clones in clones.chunks(125) {
                let (barrier, out, most) = (&barrier, &out, &most);
                scope.spawn(move || {
                    barrier.wait();
                    for _ in 0..10 {
                        for clone in clones {
                            let Ok(probe) = clone.try_admit(now) else { continue };
                            assert!(probe.is_probe());
                            most.fetch_max(out.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            std::thread::yield_now();
                            out.fetch_sub(1, Ordering::SeqCst);
                            // Here, time stands still.
                            probe.record(Outcome::Neutral, now);
                        }
                    }
                });
            }
        });
        let most = most.into_inner();
        assert!((1..=3).contains(&most), "{most} probes at once");
        assert!(breaker.try_admit(now).unwrap().is_probe(), "all slots are free again");
    }

    #[test]
    fn a_set_tries_so_many_endpoints_at_once_and_the_others_after_them() {
        let ejections = Ejections::new(EjectionLimits::default().max_probes(count(1)));
        ejections.resize(3);
        let healths = [(); 2].map(|()| Health::within(ejections.clone()));
        let [a, b] = [0, 1].map(|i| breaker(&healths[i], 1));
        let start = now();
        kill(&a, start);
        kill(&b, start);
        let now = start + 10 * MS;
        let probe = a.try_admit(now).unwrap();
        assert_eq!(ejections.counts().probing, 1);
        assert_eq!(healths[1].status(now), Status::Busy);
        assert_eq!(b.try_admit(now).unwrap_err().next_probe, Some(NextProbe::AfterOthers));
        assert!(!b.admit(now).is_probe());
        probe.record(false, now);
        assert_eq!(healths[1].status(now), Status::Open);
        b.try_admit(now).unwrap().record(true, now);
        assert_eq!((ejections.counts().probing, ejections.counts().ejected), (0, 1));
    }
}

mod sets {
    use super::*;

    struct Set {
        ejections: Ejections,
        healths: Vec<Health>,
        breakers: Vec<Breaker>,
    }

    fn set(limits: EjectionLimits, size: usize) -> Set {
        let ejections = Ejections::new(limits);
        ejections.resize(size);
        let healths: Vec<_> = (0..size).map(|_| Health::within(ejections.clone())).collect();
        let breakers = healths.iter().map(|health| breaker(health, 1)).collect();
        Set { ejections, healths, breakers }
    }

    impl Set {
        fn busy(&self, now: Instant) -> usize {
            self.healths.iter().filter(|health| health.status(now) == Status::Busy).count()
        }
    }

    #[test]
    fn of_a_set_that_fails_as_a_whole_a_share_is_left_alone() {
        for size in 1..=10 {
            for (share, keep) in [(0.1, false), (0.34, false), (0.5, false), (1.0, false), (1.0, true)] {
                let limits = EjectionLimits::new(share).unwrap().keep_last(keep);
                let (set, now) = (set(limits, size), now());
                for breaker in &set.breakers {
                    kill(breaker, now);
                }
                assert_eq!(set.busy(now), limits.allowed(size), "{share} of {size}");
                assert_eq!(set.ejections.counts().denied, (size - limits.allowed(size)) as u64);
            }
        }
    }

    #[test]
    fn who_was_denied_stays_in_use_and_asks_again_at_its_next_failure() {
        let (set, start) = (set(EjectionLimits::new(0.5).unwrap(), 2), now());
        let [a, b] = &set.breakers[..] else { unreachable!() };
        kill(a, start);
        kill(b, start);
        assert_eq!((b.phase(), b.why(start)), (Phase::Alive, None));
        assert_eq!((b.counters().removals(), set.ejections.counts().denied), (0, 1));
        let now = start + 10 * MS;
        a.admit(now).record(true, now);
        assert_eq!(set.ejections.counts().ejected, 0);
        // One is enough: what it did before is not forgotten.
        fail(b, now);
        assert_eq!(b.why(now).unwrap().reason, Reason::Tripped(Tripped::Consecutive { failures: 3 }));
        assert_eq!(set.ejections.counts().ejected, 1);
    }

    #[test]
    fn one_that_leaves_while_it_is_left_alone_makes_room() {
        let (set, start) = (set(EjectionLimits::new(0.5).unwrap(), 2), now());
        let [a, b] = &set.breakers[..] else { unreachable!() };
        kill(a, start);
        set.healths[0].retire();
        set.ejections.resize(1);
        set.ejections.resize(2);
        assert_eq!(set.ejections.counts().ejected, 0);
        kill(b, start);
        assert_eq!(set.ejections.counts().ejected, 1);
        // What it still has to say does not give back the other's place.
        let now = start + 10 * MS;
        a.admit(now).record(true, now);
        kill(a, now);
        assert_eq!(set.ejections.counts().ejected, 1);
        assert_eq!(set.ejections.counts().probing, 0);
    }
}

mod force {
    use super::*;

    #[test]
    fn forced_open_survives_traffic_and_ends_by_itself() {
        let (breaker, health, start) = alive();
        breaker.force_open(100 * MS, start);
        assert_eq!(breaker.forced(start), Some(Forced::Open { until: start + 100 * MS }));
        for i in 0..100 {
            let now = start + i * MS;
            assert_eq!(health.status(now), Status::Busy);
            let rejection = breaker.try_admit(now).unwrap_err();
            assert_eq!(rejection.reason, Reason::ForcedOpen { until: start + 100 * MS });
            // It failed open, and that went well.
            breaker.admit(now).record(true, now);
        }
        let end = start + 100 * MS;
        assert_eq!((health.status(end), breaker.why(end), breaker.forced(end)), (Status::Open, None, None));
        assert!(breaker.try_admit(end).is_ok());
    }

    #[test]
    fn forced_closed_survives_failures_and_ends_by_itself() {
        let (breaker, health, start) = alive();
        kill(&breaker, start);
        breaker.force_closed(100 * MS, start);
        for i in 0..100 {
            let now = start + i * MS;
            assert_eq!((health.status(now), breaker.why(now)), (Status::Open, None));
            fail(&breaker, now);
        }
        assert_eq!(breaker.counters().removals(), 1);
        let end = start + 100 * MS;
        assert_eq!((breaker.forced(end), breaker.phase()), (None, Phase::Alive));
        fail(&breaker, end);
        assert_eq!(health.status(end), Status::Busy, "it never stopped failing");
    }

    #[test]
    fn what_was_dead_when_it_was_forced_open_is_probed_afterwards() {
        let (breaker, health, start) = alive();
        kill(&breaker, start);
        breaker.force_open(50 * MS, start);
        assert!(!breaker.admit(start + 10 * MS).is_probe());
        assert_eq!(health.status(start + 49 * MS), Status::Busy);
        let end = start + 50 * MS;
        assert_eq!(health.status(end), Status::Open);
        assert!(breaker.try_admit(end).unwrap().is_probe());
    }

    #[test]
    fn a_probe_that_is_out_may_revive_what_is_forced_open() {
        let (breaker, health, start) = alive();
        kill(&breaker, start);
        let now = start + 10 * MS;
        let probe = breaker.admit(now);
        breaker.force_open(50 * MS, now);
        probe.record(true, now);
        assert_eq!((breaker.phase(), health.status(now)), (Phase::Alive, Status::Busy));
        assert_eq!(health.status(now + 50 * MS), Status::Open);
    }

    #[test]
    fn reset_ends_force_and_failure() {
        let ejections = Ejections::new(EjectionLimits::default());
        ejections.resize(1);
        let health = Health::within(ejections.clone());
        let (breaker, start) = (breaker(&health, 1), now());
        kill(&breaker, start);
        let now = start + 10 * MS;
        let probe = breaker.admit(now);
        breaker.force_open(Duration::MAX, now);
        breaker.reset(now);
        assert_eq!((health.status(now), breaker.why(now), breaker.forced(now)), (Status::Open, None, None));
        assert_eq!((ejections.counts().ejected, ejections.counts().probing), (0, 0));
        probe.record(false, now);
        // Two failures again.
        fail(&breaker, now);
        assert_eq!(breaker.phase(), Phase::Alive);
        fail(&breaker, now);
        assert_eq!(breaker.phase(), Phase::Dead { until: now + 10 * MS });
    }

    #[test]
    fn who_forces_is_not_limited_by_the_set() {
        let ejections = Ejections::new(EjectionLimits::new(0.1).unwrap());
        ejections.resize(2);
        let health = Health::within(ejections.clone());
        let (breaker, now) = (breaker(&health, 1), now());
        breaker.force_open(MS, now);
        assert_eq!((health.status(now), ejections.counts().ejected), (Status::Busy, 0));
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u32),
    Admit(usize),
    TryAdmit(usize),
    Record(usize, Outcome),
    Drop(usize),
    Force(usize, bool, u32),
    Reset(usize),
    Resize(usize),
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    let (which, permit) = (0..4_usize, 0..8_usize);
    let outcome = prop_oneof![1 => Just(Outcome::Success), 1 => Just(Outcome::Neutral), 2 => Just(Outcome::Failure)];
    prop_oneof![
        3 => (0..8_u32).prop_map(Step::Wait),
        1 => (0..300_u32).prop_map(Step::Wait),
        4 => which.clone().prop_map(Step::Admit),
        4 => which.clone().prop_map(Step::TryAdmit),
        8 => (permit.clone(), outcome).prop_map(|(i, outcome)| Step::Record(i, outcome)),
        1 => permit.prop_map(Step::Drop),
        1 => (which.clone(), any::<bool>(), 0..20_u32).prop_map(|(i, open, ttl)| Step::Force(i, open, ttl)),
        1 => which.prop_map(Step::Reset),
        1 => (0..6_usize).prop_map(Step::Resize),
    ]
}

proptest! {
    #[test]
    fn health_and_reasons_and_places_always_agree(
        share in 0.2..=1.0_f64, probes in 1..3_u32, of_set in 1..3_u32, steps in prop::collection::vec(step(), 0..300),
    ) {
        let limits = EjectionLimits::new(share).unwrap().max_probes(count(of_set));
        let ejections = Ejections::new(limits);
        ejections.resize(4);
        let healths: Vec<_> = (0..4).map(|_| Health::within(ejections.clone())).collect();
        let breakers: Vec<_> = healths.iter().map(|health| breaker(health, probes)).collect();
        let (mut now, mut permits, mut most) = (now(), Vec::new(), limits.allowed(4));
        // The last step after which each was not being probed: what was out then is of a round that is over.
        let mut over = [0; 4];
        for (at_step, step) in (1_usize..).zip(steps) {
            match step {
                Step::Wait(ms) => now += ms * MS,
                Step::Admit(i) => permits.push((i, now, breakers[i].admit(now), at_step)),
                Step::TryAdmit(i) => {
                    let why = breakers[i].why(now);
                    match breakers[i].try_admit(now) {
                        Ok(permit) => {
                            prop_assert_eq!(why, None);
                            permits.push((i, now, permit, at_step));
                        }
                        Err(rejection) => prop_assert_eq!(why, Some(rejection)),
                    }
                }
                Step::Record(i, outcome) if i < permits.len() => permits.swap_remove(i).2.record(outcome, now),
                Step::Drop(i) if i < permits.len() => drop(permits.swap_remove(i)),
                Step::Record(..) | Step::Drop(_) => {}
                Step::Force(i, true, ttl) => breakers[i].force_open(ttl * MS, now),
                Step::Force(i, false, ttl) => breakers[i].force_closed(ttl * MS, now),
                Step::Reset(i) => breakers[i].reset(now),
                Step::Resize(size) => {
                    ejections.resize(size);
                    most = most.max(limits.allowed(size));
                }
            }
            for (breaker, health) in breakers.iter().zip(&healths) {
                let why = breaker.why(now);
                prop_assert_eq!(health.status(now) == Status::Open, why.is_none(), "{:?}: {:?}", breaker, why);
            }
            for i in 0..4 {
                if !matches!(breakers[i].phase(), Phase::Probing { .. }) {
                    over[i] = at_step;
                }
                // Longer ones hold nobody up, and so do those of an earlier round.
                let counts = |begun: Instant, step| now - begun < Permit::PATIENCE && step > over[i];
                let probes_out = permits.iter().filter(|(of, _, permit, _)| *of == i && permit.is_probe());
                let out = probes_out.filter(|(_, at, _, step)| counts(*at, *step)).count();
                prop_assert!(out <= probes as usize, "{} probes out", out);
            }
            let counts = ejections.counts();
            let dead = breakers.iter().filter(|breaker| breaker.phase() != Phase::Alive).count();
            let probing = breakers.iter().filter(|breaker| matches!(breaker.phase(), Phase::Probing { .. })).count();
            prop_assert_eq!(counts.ejected, dead);
            // Fewer, if some hang.
            prop_assert!(counts.probing <= probing);
            prop_assert!(counts.ejected <= most && counts.probing <= of_set as usize);
        }
        drop(permits);
        prop_assert_eq!(ejections.counts().probing, 0);
        drop((breakers, healths));
        prop_assert_eq!(ejections.counts().ejected, 0);
    }
}
