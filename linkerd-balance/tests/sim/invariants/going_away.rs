//! **What hangs is left alone though its callers go away without a word.** Of the requests of a minute at most 0.5 %, or
//! sixty of each client (one a second), meet an endpoint that hangs, by peak EWMA. No request has an outcome there: its client drops it
//! at its timeout, so no breaker sees a failure, and round robin and random go on sending 1/N.
//!
//! The same where it sends a head first and hangs then, which breakers take for a success, if latency is measured to the
//! first byte or to the end.
//!
//! Sixty: what goes out until the first of them is given up, and one more each time that the memory of that has decayed
//! to what the others' slow answers are like.

use std::time::Instant;

use linkerd_balance::{Heap, Load, Mark, Measure, P2c, PeakEwma, Policy, RoundRobin};

use super::{Invariant, Trial, fails, holds};
use crate::{
    engine::Sim,
    model::{Endpoint, Fault, Key, MS, Nanos, SECOND, US, World},
    policies::{self, Avoids, Setup},
    rng::Rng,
    tally::Tally,
    topology,
    watch::{Picked, Watch},
};

const BOUND: f64 = 0.005;
const FEW: u64 = 60;
const FROM: Nanos = 3 * SECOND;
const TO: Nanos = 63 * SECOND;
const HANGS: Key = 0;

#[derive(Debug)]
struct LeftAlone(Tally);

impl Watch for LeftAlone {
    fn picked(&mut self, picked: Picked) {
        self.0.picked(picked);
    }
}

impl Invariant for LeftAlone {
    fn verdict(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        let (share, picks, few) = (self.0.share(HANGS), self.0.picks[HANGS as usize], FEW * sim.world().clients as u64);
        if share > BOUND && picks > few {
            return Err(format!("{picks} picks, {share:.4} of all, meet the one that hangs"));
        }
        Ok(())
    }
}

fn trial(rng: &mut Rng, setup: &Setup) -> Trial {
    going_away(rng, setup, Fault::Hangs)
}

fn stalling(rng: &mut Rng, setup: &Setup) -> Trial {
    let after = rng.within(100, 5_000) * US;
    going_away(rng, setup, Fault::Stalls(after))
}

fn going_away(rng: &mut Rng, setup: &Setup, fault: Fault) -> Trial {
    let n = topology::size(rng).clamp(3, 15);
    let clients = rng.within(1, 3);
    let rate = rng.within(5, 15) * n as u64 * clients;
    let mut world = World::new(vec![Endpoint::new(topology::service(rng)); n], rate, TO);
    (world.clients, world.timeout, world.goes_away) = (clients as usize, rng.within(500, 1_000) * MS, true);
    let world = world.fault(FROM, TO, HANGS, fault);
    Trial::new(world, setup.clone()).and(LeftAlone(Tally::new(n, FROM, TO)))
}

#[test]
fn what_hangs_is_left_alone_though_callers_go_away() {
    let by_latency: Vec<Setup> = policies::all().into_iter().filter(Setup::judges_speed).collect();
    holds("what_hangs_is_left_alone_though_callers_go_away", &by_latency, trial);
}

/// By where latency is measured.
fn measuring() -> Vec<Setup> {
    const FIRST: fn() -> PeakEwma = || PeakEwma::default().measure(Measure::FirstByte);
    const END: fn() -> PeakEwma = || PeakEwma::default().measure(Measure::EndOfStream);
    let setup = |name, policy: fn() -> Policy| policies::setup(name, Avoids::Latency, move |_, _| policy());
    vec![
        setup("p2c, to the first byte", || Policy::new(P2c::new(), FIRST)),
        setup("heap, to the first byte", || Policy::new(Heap::new(), FIRST)),
        setup("p2c, to the end", || Policy::new(P2c::new(), END)),
        setup("heap, to the end", || Policy::new(Heap::new(), END)),
    ]
}

#[test]
fn what_hangs_after_the_head_is_left_alone() {
    holds("what_hangs_after_the_head_is_left_alone", &measuring(), stalling);
}

#[test]
fn measuring_to_the_head_only_is_caught() {
    let blind = policies::setup("to the head", Avoids::Latency, |_, _| Policy::new(Heap::new(), PeakEwma::default));
    assert!(fails(3, &blind, stalling));
}

/// Learns nothing of who goes away.
#[derive(Debug, Default)]
struct Forgets(PeakEwma);

impl Load for Forgets {
    fn score(&self, now: Instant, weight: f64, more: usize) -> f64 {
        self.0.score(now, weight, more)
    }
    fn pending(&self) -> usize {
        self.0.pending()
    }
    fn begin(&self, now: Instant) {
        self.0.begin(now);
    }
    fn end(&self, begun: Instant, now: Instant, success: bool) {
        self.0.end(begun, now, success);
    }
    fn cancel(&self) {
        self.0.cancel();
    }
    fn mark(&self, begun: Instant, now: Instant, mark: Mark) -> bool {
        self.0.mark(begun, now, mark)
    }
}

#[test]
fn learning_nothing_of_who_goes_away_is_caught() {
    let broken = policies::setup("forgets", Avoids::Latency, |_, _| Policy::new(P2c::new(), Forgets::default));
    assert!(fails(10, &broken, trial));
}

#[test]
fn being_blind_is_caught() {
    let blind = policies::setup("blind", Avoids::Nothing, |_, _| Policy::new(RoundRobin::new(), PeakEwma::default));
    assert!(fails(3, &blind, trial));
}
