//! **No endpoint that is busy or closed is picked while one in the set is open**: not once, in any world.
//!
//! A probe is no exception: when its backoff is over an endpoint is open until its probe is out.

use std::sync::{Arc, Mutex};

use linkerd_balance::{Balance, Candidates, Draw, Health, LeastLoaded, Panic, Policy, Status, Strategy};

use super::{Invariant, Trial, caught, fails, holds, over};
use crate::{
    engine::Sim,
    policies::{self, Avoids, Setup},
    rng::Rng,
    topology,
    watch::{Picked, Watch},
};

/// Remembers the first pick of an endpoint worse than the best.
#[derive(Debug, Default)]
pub(super) struct OpenFirst(Option<Picked>);

impl Watch for OpenFirst {
    fn picked(&mut self, picked: Picked) {
        if picked.status != Status::Open && picked.best == Status::Open && self.0.is_none() {
            self.0 = Some(picked);
        }
    }
}

impl Invariant for OpenFirst {
    fn verdict(&mut self, _: &Sim<'_>) -> Result<(), String> {
        self.0.map_or(Ok(()), |picked| Err(format!("one was open, and yet {picked:?}")))
    }
}

fn trial(rng: &mut Rng, setup: &Setup) -> Trial {
    let setup = setup.clone().backoff(topology::backoff(rng));
    Trial::new(topology::anything(rng), setup)
}

/// Power of two choices as it stands in many places: what is drawn is used, be it closed.
#[derive(Debug)]
struct OneOfTwo;

impl Strategy for OneOfTwo {
    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        let (a, b) = (nodes.draw(draw.random), nodes.draw(draw.random.rotate_left(32)));
        if nodes.status(a) >= nodes.status(b) { a } else { b }
    }
}

#[test]
fn holds_for_strategies_that_do_not_look_twice() {
    let careless = policies::setup("one of two", Avoids::Nothing, |_, _| Policy::new(OneOfTwo, LeastLoaded::new));
    holds("holds_for_strategies_that_do_not_look_twice", &[careless], trial);
}

#[test]
fn ignoring_health_is_caught() {
    let spray = |policy: Policy| policy.panic(Panic::Spray).panic_below(1.0).expect("a share");
    assert!(fails(50, &policies::least_loaded().with(spray), trial));
}

/// Sets of any size and any statuses, which do not come about by requests.
fn any_statuses(mut rng: Rng, setup: &Setup) -> Result<(), String> {
    let healths: Arc<Mutex<Vec<Health>>> = Arc::default();
    let made = Arc::clone(&healths);
    let balance = Balance::new((setup.policy)(0, 1), move |_: &u32, health: &Health| {
        made.lock().expect("not poisoned").push(health.clone());
    });
    let n = topology::size(&mut rng);
    let weights = topology::weights(&mut rng, n);
    balance.update((0..).zip(weights)).expect("weights above zero");
    let healths = healths.lock().expect("not poisoned").clone();
    let now = tokio::time::Instant::now().into_std();
    let mut held = Vec::new();
    for _ in 0..20 {
        let open = rng.below(300);
        for health in &healths {
            let rest = rng.one_of(&[Status::Busy, Status::Closed]);
            health.set(if rng.chance(open) { Status::Open } else { rest });
        }
        let best = healths.iter().map(|health| health.status(now)).max();
        for _ in 0..20 {
            let draw = Draw::new(rng.next()).with_key(rng.next());
            let lease = balance.try_acquire(draw, now, &[]).map_err(|why| why.to_string())?;
            let status = healths[*lease.key() as usize].status(now);
            if best == Some(Status::Open) && status != Status::Open {
                return Err(format!("{}: {status:?} of {n}", setup.name));
            }
            if rng.chance(700) {
                held.push(lease);
            }
        }
    }
    Ok(())
}

#[test]
fn holds_for_any_statuses() {
    let policies = policies::all();
    over("holds_for_any_statuses", |seed| any_statuses(Rng::new(seed), &policies[seed as usize % policies.len()]));
    let spray = policies::least_loaded().with(|policy| policy.panic(Panic::Spray));
    let spray = spray.with(|policy| policy.panic_below(1.0).expect("a share"));
    assert!(caught(20, |rng| any_statuses(rng, &spray)));
}
