//! What begins ends: requests in flight are as many as leases there are, whatever becomes of them and on whatever thread.

use std::{
    thread,
    time::{Duration, Instant},
};

use linkerd_balance::{Balance, Draw, Hint, Lease, LeaseEnd, LeastLoaded, Mark, Measure, P2c, PeakEwma, Policy};
use proptest::{collection::vec, prelude::*, sample::Index};

const MS: Duration = Duration::from_millis(1);

/// A lease in one piece, or what is left of it.
enum Held {
    Whole(Lease<u8, ()>),
    End(LeaseEnd),
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(u64),
    Mark(Index, bool, bool),
    Hint(Index, Hint),
    Apart(Index),
    End(Index, bool),
    /// With `true` on another thread.
    Drop(Index, bool),
    Update(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    let hint = prop_oneof![
        any::<f64>().prop_map(Hint::Utilization),
        any::<u64>().prop_map(|ms| Hint::Backoff(Duration::from_millis(ms))),
    ];
    prop_oneof![
        4 => any::<u64>().prop_map(Step::Acquire),
        2 => (index(), any::<bool>(), any::<bool>()).prop_map(|(i, head, ok)| Step::Mark(i, head, ok)),
        1 => (index(), hint).prop_map(|(i, hint)| Step::Hint(i, hint)),
        1 => index().prop_map(Step::Apart),
        1 => (index(), any::<bool>()).prop_map(|(i, ok)| Step::End(i, ok)),
        1 => (index(), any::<bool>()).prop_map(|(i, elsewhere)| Step::Drop(i, elsewhere)),
        1 => vec(1_u8..5, 0..4).prop_map(Step::Update),
    ]
}

fn policies() -> Vec<Policy> {
    let ewma = |measure| Policy::new(P2c::new(), move || PeakEwma::default().measure(measure).long_stream(5 * MS));
    vec![
        Policy::new(P2c::new(), LeastLoaded::new),
        Policy::new(P2c::new(), || LeastLoaded::new().failure_penalty(Duration::ZERO)),
        ewma(Measure::Headers),
        ewma(Measure::FirstByte),
        ewma(Measure::EndOfStream),
        ewma(Measure::PendingOnly),
    ]
}

/// Endpoint 0 is always there. The others come and go, and who comes back is another one.
fn update(balance: &Balance<u8, ()>, others: &[u8], now: Instant) {
    let keys = [0].into_iter().chain(others.iter().copied());
    balance.update_at(keys.map(|key| (key, 1.0)), now).unwrap();
}

fn key(held: &Held) -> Option<u8> {
    match held {
        Held::Whole(lease) => Some(*lease.key()),
        Held::End(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_flight_is_what_is_held(steps in vec(step(), 1..80), policy in 0..6_usize) {
        let start = tokio::time::Instant::now().into_std();
        let balance = Balance::new(policies().swap_remove(policy), |_: &u8, _: &_| ());
        update(&balance, &[1, 2, 3], start);
        // With whose lease it was, for as long as the endpoint is the same one.
        let mut held: Vec<(Held, Option<u8>)> = Vec::new();
        for (n, step) in (0..).zip(steps) {
            let now = start + n * MS;
            let any = |index: Index, held: &Vec<_>| (!held.is_empty()).then(|| index.index(held.len()));
            match step {
                Step::Acquire(random) => {
                    let lease = Held::Whole(balance.try_acquire(Draw::new(random), now, &[]).unwrap());
                    let of = key(&lease);
                    held.push((lease, of));
                }
                Step::Mark(i, head, ok) => {
                    let Some(i) = any(i, &held) else { continue };
                    let mark = if head { Mark::Headers } else { Mark::FirstByte };
                    match &mut held[i].0 {
                        Held::Whole(lease) => lease.mark(mark, ok, now),
                        Held::End(end) => end.mark(mark, ok, now),
                    }
                }
                Step::Hint(i, hint) => {
                    let Some(i) = any(i, &held) else { continue };
                    match &held[i].0 {
                        Held::Whole(lease) => lease.hint(hint, now),
                        Held::End(end) => end.hint(hint, now),
                    }
                }
                Step::Apart(i) => {
                    let Some(i) = any(i, &held) else { continue };
                    if let (Held::Whole(lease), of) = held.swap_remove(i) {
                        held.push((Held::End(lease.into_parts().1), of));
                    }
                }
                Step::End(i, ok) => {
                    let Some(i) = any(i, &held) else { continue };
                    match held.swap_remove(i).0 {
                        Held::Whole(lease) => lease.end(ok, now),
                        Held::End(end) => end.end(ok, now),
                    }
                }
                Step::Drop(i, elsewhere) => {
                    let Some(i) = any(i, &held) else { continue };
                    let gone = held.swap_remove(i).0;
                    if elsewhere {
                        thread::spawn(move || drop(gone)).join().unwrap();
                    } else {
                        drop(gone);
                    }
                }
                Step::Update(others) => {
                    update(&balance, &others, now);
                    for (_, of) in &mut held {
                        *of = of.filter(|key| *key == 0 || others.contains(key));
                    }
                }
            }
            for info in balance.endpoints(now) {
                let leases = held.iter().filter(|(_, of)| *of == Some(info.key)).count();
                prop_assert_eq!(info.pending, leases, "endpoint {}", info.key);
                prop_assert!(info.load.is_finite() && info.load >= 0.0, "{}", info.load);
            }
        }
        held.clear();
        prop_assert_eq!(balance.stats(start).load, 0);
    }
}

#[test]
fn from_many_threads_at_once_too() {
    for policy in policies() {
        let balance = Balance::new(policy, |_: &u8, _: &_| ());
        let now = tokio::time::Instant::now().into_std();
        update(&balance, &[1, 2, 3], now);
        thread::scope(|scope| {
            for seed in 0..4 {
                let balance = &balance;
                scope.spawn(move || {
                    for n in 0..2_000_u32 {
                        let lease = balance.try_acquire(Draw::new(u64::from(n * 4 + seed)), now, &[]).unwrap();
                        let (_svc, mut end) = lease.into_parts();
                        if n % 2 == 0 {
                            end.mark(Mark::Headers, n % 3 == 0, now + n * MS);
                        }
                        match n % 5 {
                            0 => end.end(true, now + n * MS),
                            1 => end.end(false, now + n * MS),
                            2 => end.hint(Hint::Utilization(f64::from(n)), now),
                            _ => drop(end),
                        }
                    }
                });
            }
        });
        assert_eq!(balance.stats(now).load, 0);
    }
}
