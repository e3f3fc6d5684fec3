//! One world, and all that is watched in it.

use super::{conservation::Conserved, open_first::OpenFirst, over};
use crate::{
    engine::Sim,
    model::World,
    policies::Setup,
    rng::Rng,
    watch::{Ended, Picked, Watch},
};

/// Something that holds, and is watched.
pub(crate) trait Invariant: Watch {
    /// Looks at the world, at one instant of many.
    fn look(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        let _ = sim;
        Ok(())
    }

    /// Whether it held, now that all requests have ended.
    fn verdict(&mut self, sim: &Sim<'_>) -> Result<(), String>;
}

/// A world, who balances in it, and what is watched.
pub(crate) struct Trial {
    world: World,
    setup: Setup,
    looks: u64,
    invariants: Vec<Box<dyn Invariant>>,
}

impl Trial {
    /// Watched by what holds always.
    pub(crate) fn new(world: World, setup: Setup) -> Self {
        let invariants: Vec<Box<dyn Invariant>> = vec![Box::new(Conserved), Box::new(OpenFirst::default())];
        Self { world, setup, looks: 20, invariants }
    }

    /// Watched by this one too.
    pub(crate) fn and(mut self, invariant: impl Invariant + 'static) -> Self {
        self.invariants.push(Box::new(invariant));
        self
    }

    /// The same with somebody else who balances.
    pub(crate) fn by(self, change: impl FnOnce(Setup) -> Setup) -> Self {
        Self { setup: change(self.setup), ..self }
    }

    /// Looked at so many times, all through its length, in place of 20.
    pub(crate) fn looks(self, looks: u64) -> Self {
        Self { looks, ..self }
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// Says what did not hold, by whom and where.
    pub(crate) fn play(mut self, seed: u64) -> Result<(), String> {
        self.watch(seed).map_err(|what| format!("{}: {what}\n  in {}", self.setup.name, self.world))
    }

    fn watch(&mut self, seed: u64) -> Result<(), String> {
        let mut sim = Sim::new(&self.world, &self.setup, seed);
        for look in 1..=self.looks {
            sim.run(self.world.length * look / self.looks, &mut self.invariants);
            for invariant in &mut self.invariants {
                invariant.look(&sim)?;
            }
        }
        sim.finish(&mut self.invariants);
        self.invariants.iter_mut().try_for_each(|invariant| invariant.verdict(&sim))
    }
}

impl Watch for Vec<Box<dyn Invariant>> {
    fn picked(&mut self, picked: Picked) {
        for invariant in self {
            invariant.picked(picked);
        }
    }

    fn ended(&mut self, ended: Ended) {
        for invariant in self {
            invariant.ended(ended);
        }
    }
}

/// Plays a thousand worlds that `draw` draws, with the policies by turns.
pub(crate) fn holds(name: &str, policies: &[Setup], draw: impl Fn(&mut Rng, &Setup) -> Trial + Sync) {
    over(name, |seed| {
        let mut rng = Rng::new(seed);
        draw(&mut rng, &policies[seed as usize % policies.len()]).play(rng.next())
    });
}

/// Whether something does not hold in one of so many worlds.
pub(crate) fn fails(worlds: u64, setup: &Setup, draw: impl Fn(&mut Rng, &Setup) -> Trial) -> bool {
    super::caught(worlds, |mut rng| draw(&mut rng, setup).play(rng.next()))
}

#[test]
fn a_failure_tells_by_whom_and_where() {
    use crate::{
        model::{Endpoint, Fault, SECOND, Service},
        policies,
    };

    #[derive(Debug)]
    struct Impossible;

    impl Watch for Impossible {}

    impl Invariant for Impossible {
        fn verdict(&mut self, _: &Sim<'_>) -> Result<(), String> {
            Err("pigs fly".to_owned())
        }
    }

    let world = World::new(vec![Endpoint::new(Service::Constant(1)); 3], 10, SECOND).fault(0, SECOND, 2, Fault::Hangs);
    let what = Trial::new(world, policies::least_loaded()).and(Impossible).play(1).expect_err("they do not");
    for told in ["p2c, least loaded: pigs fly", "3 endpoints", "Constant(1)", "set of 3", "2 from 0 ns on: Hangs"] {
        assert!(what.contains(told), "{told:?} in {what}");
    }
}
