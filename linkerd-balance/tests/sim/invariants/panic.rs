//! **Panic is as configured**, at any share of open endpoints. With fewer than `panic_below` open, or none:
//!
//! - *last pick*: open ones are used as long as there is one;
//! - *spray*: each endpoint has its share, whatever its health, within 5 % of all picks;
//! - *fail fast*: every request is refused, and the refusal says how many are open.
//!
//! With enough open, no other is used, and none is refused. Balancers look at health again after 10 ms, so what holds
//! is checked 20 ms after a change. What comes after the panic is in `comes_back`.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use linkerd_balance::{Balance, Draw, Health, Panic, Status, Unavailable};

use super::{caught, over};
use crate::{
    policies::{self, Setup},
    rng::Rng,
    topology,
};

const PICKS: u64 = 400;

/// Plays `given` and expects `wanted`, which are the same unless something is broken.
fn check(mut rng: Rng, setup: &Setup, given: Panic, wanted: Panic) -> Result<(), String> {
    let n = topology::size(&mut rng) as u64;
    let below = rng.below(1001) as f64 / 1000.0;
    let healths: Arc<Mutex<Vec<Health>>> = Arc::default();
    let made = Arc::clone(&healths);
    let policy = (setup.policy)(0, 1).panic(given).panic_below(below).expect("a share");
    let balance = Balance::new(policy, move |_: &u32, health: &Health| {
        made.lock().expect("not poisoned").push(health.clone());
    });
    balance.update((0..n as u32).map(|key| (key, 1.0))).expect("weights above zero");
    let healths = healths.lock().expect("not poisoned").clone();
    let mut now = tokio::time::Instant::now().into_std();
    // None, one, all, and some in between.
    let mut levels: Vec<u64> = vec![0, 1, n];
    levels.extend((0..5).map(|_| rng.within(0, n)));
    for open in levels {
        for (i, health) in (0..).zip(&healths) {
            let rest = rng.one_of(&[Status::Busy, Status::Closed]);
            health.set(if i < open { Status::Open } else { rest });
        }
        now += Duration::from_millis(20);
        let panics = open == 0 || (open as f64) < below * n as f64;
        let (mut refused, mut picks) = (0, vec![0_u64; n as usize]);
        for _ in 0..PICKS {
            match balance.try_acquire(Draw::new(rng.next()).with_key(rng.next()), now, &[]) {
                Ok(lease) => {
                    picks[*lease.key() as usize] += 1;
                    // Here, time stands still.
                    lease.cancel(now);
                }
                Err(Unavailable::FailFast { size, open: said, .. }) => {
                    refused += 1;
                    if (said, size) != (open as usize, n as usize) {
                        return Err(format!("{said} of {size} are open, not {open} of {n}"));
                    }
                }
                Err(other) => return Err(format!("{other} of {n}")),
            }
        }
        let closed: u64 = picks[open as usize..].iter().sum();
        let fair = PICKS / n;
        let right = match wanted {
            _ if !panics => refused == 0 && closed == 0,
            Panic::FailFast => refused == PICKS,
            Panic::LastPick => refused == 0 && (open == 0 || closed == 0),
            Panic::Spray if !setup.spreads() => refused == 0,
            Panic::Spray => {
                refused == 0 && picks.iter().all(|picks| picks.abs_diff(fair) <= PICKS / 20 + 3 * fair.isqrt())
            }
        };
        if !right {
            let which = format_args!("{open} of {n} open, panic below {below}");
            return Err(format!("{}, {wanted:?}: {which}: {refused} refused, {picks:?}", setup.name));
        }
    }
    Ok(())
}

#[test]
fn panic_is_as_configured() {
    let policies = policies::all();
    over("panic_is_as_configured", |seed| {
        let mut rng = Rng::new(seed);
        let panic = rng.one_of(&[Panic::LastPick, Panic::Spray, Panic::FailFast]);
        check(rng, &policies[seed as usize % policies.len()], panic, panic)
    });
}

#[test]
fn one_panic_taken_for_another_is_caught() {
    let setup = policies::least_loaded();
    for (given, wanted) in
        [(Panic::LastPick, Panic::Spray), (Panic::Spray, Panic::FailFast), (Panic::FailFast, Panic::LastPick)]
    {
        assert!(caught(5, |rng| check(rng, &setup, given, wanted)), "{given:?} for {wanted:?}");
    }
}
