use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use tower::service_fn;

use super::*;
use crate::{
    Balance, Draw, EjectionLimits, Ejections, Health, Policy, Status,
    accrual::{Backoff, ConsecutiveFailures, Tripped},
    breaker::{NextProbe, Reason},
};

const MS: Duration = Duration::from_millis(1);

/// An endpoint that probes well, fails, or hangs.
#[derive(Clone, Default)]
struct Endpoint(Arc<(AtomicU8, AtomicUsize)>);

const WELL: u8 = 0;
const ILL: u8 = 1;
const HANGS: u8 = 2;
const PANICS: u8 = 3;

impl Endpoint {
    fn is(&self, how: u8) {
        self.0.0.store(how, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.0.1.load(Ordering::Relaxed)
    }

    async fn answer(self) -> Result<(), &'static str> {
        self.0.1.fetch_add(1, Ordering::Relaxed);
        match self.0.0.load(Ordering::Relaxed) {
            WELL => Ok(()),
            ILL => Err("ill"),
            HANGS => std::future::pending().await,
            _ => panic!("as told"),
        }
    }

    fn probe(&self, settings: ProbeSettings, breaker: &Breaker) -> ActiveProbe {
        let endpoint = self.clone();
        ActiveProbe::spawn(settings, service_fn(move |()| endpoint.clone().answer()), breaker)
    }
}

/// Each 10 ms or so, for 5 ms at most.
fn settings() -> ProbeSettings {
    ProbeSettings::new(10 * MS, 5 * MS).unwrap()
}

/// Dies of the first failure, for 100 ms.
fn breaker(health: &Health) -> Breaker {
    let accrual = Box::new(ConsecutiveFailures::new(NonZeroU32::MIN));
    Breaker::builder(accrual).backoff(Backoff::constant(100 * MS).unwrap()).health(health.clone()).build()
}

fn kill(breaker: &Breaker) {
    breaker.admit(now()).record(false, now());
}

fn count(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

#[test]
fn values_that_cannot_be_are_refused() {
    let err = ProbeSettings::new(Duration::ZERO, MS).unwrap_err();
    assert_eq!((err, err.to_string()), (InvalidProbe::Interval(Duration::ZERO), "a probe each 0ns".into()));
    assert_eq!(ProbeSettings::new(MS, Duration::ZERO), Err(InvalidProbe::Timeout(Duration::ZERO)));
}

#[test]
fn intervals_differ_by_chance_and_not_by_more_than_a_quarter() {
    let waits: Vec<_> = (0..1000).map(|_| ProbeSettings::new(1000 * MS, MS).unwrap().wait()).collect();
    assert!(waits.iter().all(|wait| (750 * MS..=1250 * MS).contains(wait)));
    assert!(*waits.iter().min().unwrap() < 800 * MS && *waits.iter().max().unwrap() > 1200 * MS);
}

#[tokio::test(start_paused = true)]
async fn the_longest_interval_is_none_too_long() {
    let settings = ProbeSettings::new(Duration::MAX, Duration::MAX).unwrap().failures(count(1));
    let (endpoint, breaker) = (Endpoint::default(), breaker(&Health::new()));
    let _probe = endpoint.probe(settings, &breaker);
    time::sleep(1000 * MS).await;
    kill(&breaker);
    time::sleep(102 * MS).await;
    assert_eq!((endpoint.asked(), breaker.phase()), (1, Phase::Alive));
}

#[tokio::test(start_paused = true)]
async fn no_request_sees_an_endpoint_that_is_known_to_be_bad() {
    let (endpoint, breakers) = (Endpoint::default(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let kept = Arc::clone(&breakers);
    let balance = Balance::new(Policy::least_loaded(), move |_: &u8, health| {
        let breaker = breaker(health);
        kept.lock().unwrap().push(breaker.clone());
        breaker
    });
    balance.update([(1, 1.0), (2, 1.0), (3, 1.0)]).unwrap();
    let bad = breakers.lock().unwrap()[0].clone();
    let probe = endpoint.probe(settings(), &bad);
    endpoint.is(ILL);
    kill(&bad);
    for i in 0..5000 {
        time::sleep(MS).await;
        let lease = balance.try_acquire(Draw::new(i), now(), &[]).unwrap();
        assert_ne!(*lease.key(), 1, "after {i} ms");
        lease.admit(now()).record(true, now());
    }
    assert!((45..=50).contains(&endpoint.asked()), "a probe for each backoff: {}", endpoint.asked());
    assert_eq!(bad.counters().probes(), endpoint.asked() as u64);

    endpoint.is(WELL);
    time::sleep(110 * MS).await;
    assert_eq!(bad.phase(), Phase::Alive);
    assert!((0..100).any(|i| *balance.try_acquire(Draw::new(i), now(), &[]).unwrap().key() == 1));
    drop(probe);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_has_failed_at_its_timeout() {
    let (endpoint, health) = (Endpoint::default(), Health::new());
    let breaker = breaker(&health);
    let _probe = endpoint.probe(settings(), &breaker);
    endpoint.is(HANGS);
    kill(&breaker);
    let start = now();
    time::sleep(102 * MS).await;
    assert_eq!(breaker.why(now()).unwrap().next_probe, Some(NextProbe::UnderWay));
    time::sleep(5 * MS).await;
    let rejection = breaker.why(now()).unwrap();
    assert!(matches!(rejection.reason, Reason::ProbeFailed { probes: 1, .. }));
    let Some(NextProbe::At(at)) = rejection.next_probe else { panic!("{rejection}") };
    assert!((200 * MS..210 * MS).contains(&(at - start)));
}

#[tokio::test(start_paused = true)]
async fn it_may_take_several_successes() {
    let (endpoint, health) = (Endpoint::default(), Health::new());
    let breaker = breaker(&health);
    let _probe = endpoint.probe(settings().successes(count(3)), &breaker);
    kill(&breaker);
    time::sleep(102 * MS).await;
    assert_eq!((endpoint.asked(), health.status(now())), (1, Status::Busy));
    assert!(breaker.try_admit(now()).is_err() && !breaker.admit(now()).is_probe());
    time::sleep(13 * MS).await;
    assert_eq!((endpoint.asked(), health.status(now())), (2, Status::Busy));
    time::sleep(13 * MS).await;
    assert_eq!((endpoint.asked(), health.status(now())), (3, Status::Open));
    assert_eq!((breaker.counters().probes(), breaker.counters().revivals()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_in_use_is_given_up_only_if_asked_for() {
    for (settings, given_up) in [(settings(), false), (settings().failures(count(3)), true)] {
        let (endpoint, health) = (Endpoint::default(), Health::new());
        let breaker = breaker(&health);
        let _probe = endpoint.probe(settings, &breaker);
        endpoint.is(ILL);
        time::sleep(20 * MS).await;
        assert_eq!(breaker.phase(), Phase::Alive);
        time::sleep(25 * MS).await;
        let why = breaker.why(now()).map(|rejection| rejection.reason);
        let tripped = Tripped::Probes { failures: 3 };
        assert_eq!((why, endpoint.asked()), if given_up { (Some(Reason::Tripped(tripped)), 3) } else { (None, 0) });
    }
}

#[tokio::test(start_paused = true)]
async fn what_its_set_keeps_in_use_is_given_up_once_there_is_room() {
    let ejections = Ejections::new(EjectionLimits::new(0.5).unwrap());
    ejections.resize(1);
    let (endpoint, health) = (Endpoint::default(), Health::within(ejections.clone()));
    let breaker = breaker(&health);
    let _probe = endpoint.probe(settings().failures(count(1)), &breaker);
    endpoint.is(ILL);
    time::sleep(50 * MS).await;
    assert_eq!(breaker.phase(), Phase::Alive);
    assert!(ejections.counts().denied > 0);
    ejections.resize(2);
    time::sleep(13 * MS).await;
    assert!(matches!(breaker.phase(), Phase::Dead { .. }));
}

#[tokio::test(start_paused = true)]
async fn without_it_requests_are_probes_again() {
    for panics in [false, true] {
        let (endpoint, health) = (Endpoint::default(), Health::new());
        let breaker = breaker(&health);
        let probe = endpoint.probe(settings().successes(count(2)), &breaker);
        kill(&breaker);
        // In the middle of a trial.
        time::sleep(102 * MS).await;
        assert_eq!(health.status(now()), Status::Busy);
        if panics {
            endpoint.is(PANICS);
            time::sleep(13 * MS).await;
        } else {
            drop(probe);
            tokio::task::yield_now().await;
        }
        assert_eq!((health.status(now()), breaker.why(now())), (Status::Open, None));
        breaker.try_admit(now()).unwrap().record(true, now());
        assert_eq!(breaker.phase(), Phase::Alive);
        let asked = endpoint.asked();
        time::sleep(1000 * MS).await;
        assert_eq!(endpoint.asked(), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn what_somebody_reset_is_not_taken_for_the_one_that_was_tried() {
    let (endpoint, health) = (Endpoint::default(), Health::new());
    let breaker = breaker(&health);
    let _probe = endpoint.probe(settings().successes(count(2)), &breaker);
    kill(&breaker);
    time::sleep(102 * MS).await;
    breaker.reset(now());
    kill(&breaker);
    assert_eq!(breaker.phase(), Phase::Dead { until: now() + 100 * MS });
    time::sleep(102 * MS).await;
    assert_eq!(health.status(now()), Status::Busy, "one success of two");
    time::sleep(13 * MS).await;
    assert_eq!(health.status(now()), Status::Open);
}
