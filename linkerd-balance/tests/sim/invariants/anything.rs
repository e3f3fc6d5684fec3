//! **Whatever happens**, be it to all endpoints at once: every request ends once for its caller, none is refused but by a
//! policy that fails fast, nor has nowhere to go while there are endpoints; and nobody is given up where nothing failed, or
//! more often than once a backoff. Besides, what holds [always](super::Trial): load is conserved, and open ones go first.

use std::sync::atomic::{AtomicU64, Ordering};

use linkerd_balance::Panic;

use super::{Invariant, Trial, fails, holds};
use crate::{
    engine::Sim,
    model::{Nanos, SECOND},
    policies::{self, Setup},
    rng::Rng,
    topology,
    watch::{Ended, Outcome, Watch},
};

/// What callers see.
#[derive(Debug, Default)]
struct Answered {
    fails_fast: bool,
    ended: u64,
    refused: u64,
    nowhere: Vec<Nanos>,
}

impl Watch for Answered {
    fn ended(&mut self, ended: Ended) {
        self.ended += 1;
        match ended.outcome {
            Outcome::Refused => self.refused += 1,
            Outcome::Nowhere => self.nowhere.push(ended.now),
            _ => {}
        }
    }
}

impl Invariant for Answered {
    fn verdict(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        if self.ended != sim.requests() {
            return Err(format!("{} of {} requests ended", self.ended, sim.requests()));
        }
        if self.refused > 0 && !self.fails_fast {
            return Err(format!("{} requests were refused", self.refused));
        }
        match self.nowhere.iter().find(|at| !sim.world().set_at(**at).is_empty()) {
            Some(at) => Err(format!("nowhere to go at {at} ns, with {} endpoints", sim.world().set_at(*at).len())),
            None => Ok(()),
        }
    }
}

/// How often endpoints are given up.
#[derive(Debug)]
struct GivenUp {
    shortest_backoff: Nanos,
    failures: u64,
}

impl GivenUp {
    fn new(setup: &Setup) -> Self {
        Self { shortest_backoff: setup.backoff.start().next(0).as_nanos() as Nanos, failures: 0 }
    }
}

impl Watch for GivenUp {
    fn ended(&mut self, ended: Ended) {
        self.failures += u64::from(matches!(ended.outcome, Outcome::Failure | Outcome::TimedOut));
    }
}

impl Invariant for GivenUp {
    fn verdict(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        for client in 0..sim.world().clients {
            let (removals, lives) = (sim.counters(client).removals(), sim.balance(client).stats(sim.instant()).adds);
            let most = if self.failures == 0 { 0 } else { lives * (1 + sim.now() / self.shortest_backoff) };
            if removals > most {
                return Err(format!("{removals} removals of {lives} endpoints with {} failures", self.failures));
            }
        }
        Ok(())
    }
}

fn trial(rng: &mut Rng, setup: &Setup) -> Trial {
    let world = topology::anything(rng);
    let setup = setup.clone().backoff(topology::backoff(rng));
    let (setup, panic) = topology::features(rng, setup);
    let answered = Answered { fails_fast: panic == Panic::FailFast, ..Answered::default() };
    let given_up = GivenUp::new(&setup);
    Trial::new(world, setup).and(answered).and(given_up)
}

#[test]
fn holds_whatever_happens() {
    let (began, seconds, requests) = (tokio::time::Instant::now(), AtomicU64::new(0), AtomicU64::new(0));
    holds("holds_whatever_happens", &policies::all(), |rng, setup| {
        let trial = trial(rng, setup);
        // Relaxed: read when all threads are done.
        seconds.fetch_add(trial.world().length / SECOND, Ordering::Relaxed);
        requests.fetch_add(trial.world().length * trial.world().rate / SECOND, Ordering::Relaxed);
        trial
    });
    let (seconds, took) = (seconds.into_inner() as f64, began.elapsed().as_secs_f64());
    let requests = requests.into_inner();
    println!("{seconds} simulated seconds, {requests} requests in {took:.1} s: {:.0} seconds a second", seconds / took);
}

#[test]
fn refusals_and_impatience_are_caught() {
    let refusing = |rng: &mut Rng, setup: &Setup| {
        let setup = setup.clone().with(|policy| policy.panic(Panic::FailFast));
        Trial::new(topology::anything(rng), setup).and(Answered::default())
    };
    assert!(fails(50, &policies::least_loaded(), refusing));
    let impatient = |rng: &mut Rng, setup: &Setup| {
        let given_up = GivenUp { shortest_backoff: 1_000 * SECOND, failures: 0 };
        Trial::new(topology::anything(rng), setup.clone().backoff(topology::backoff(rng))).and(given_up)
    };
    assert!(fails(200, &policies::least_loaded(), impatient));
}
