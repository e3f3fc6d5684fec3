//! **An aperture's width does not flap**: under a load that stays the same it either widens or narrows, once it has found
//! its width, but not both; and the load of each endpoint is in its band, a tenth more or less.

use std::time::Duration;

use linkerd_balance::{Aperture, ApertureBuilder, ApertureMeter, LeastLoaded, Policy};

use super::{Invariant, Trial, over};
use crate::{
    engine::Sim,
    model::{Endpoint, MS, Nanos, SECOND, Service, World},
    policies::{self, Avoids},
    rng::Rng,
    topology,
    watch::Watch,
};

const SETTLED: Nanos = 10 * SECOND;
const LENGTH: Nanos = 20 * SECOND;

/// How often it widened and narrowed until it had settled, and since.
#[derive(Debug)]
struct Steady {
    meter: ApertureMeter,
    settled: Option<(u64, u64)>,
}

impl Watch for Steady {}

impl Invariant for Steady {
    fn look(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        let turns = (self.meter.widened(), self.meter.narrowed());
        let settled = *self.settled.get_or_insert(turns);
        if sim.now() <= SETTLED {
            self.settled = Some(turns);
            return Ok(());
        }
        let (widened, narrowed) = (turns.0 - settled.0, turns.1 - settled.1);
        if widened > 0 && narrowed > 0 {
            return Err(format!("widened {widened} times, narrowed {narrowed}"));
        }
        let (width, in_flight) = (self.meter.physical(), self.meter.in_flight());
        let each = in_flight / width as f64;
        if sim.now() == LENGTH && width < sim.world().endpoints.len() && !(0.45..=2.2).contains(&each) {
            return Err(format!("{each:.2} in flight for each of {width}"));
        }
        Ok(())
    }

    fn verdict(&mut self, _: &Sim<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// A load that some part of the endpoints can bear, and an aperture of which the width can be read.
fn trial(rng: &mut Rng, builder: &ApertureBuilder) -> Trial {
    let aperture = builder.clone().client(rng.below(1_000)).build().expect("valid");
    let meter = aperture.meter();
    let setup =
        policies::setup("aperture", Avoids::Pending, move |_, _| Policy::new(aperture.clone(), LeastLoaded::new));
    let mean = rng.within(50, 200) * MS;
    let service = rng.one_of(&[
        Service::Constant(mean),
        Service::Pareto { least: mean / 2, most: 5 * mean },
        Service::Bimodal { fast: mean / 2, slow: 5 * mean, slow_per_mille: 100 },
    ]);
    let n = topology::size(rng).max(20);
    let in_flight = rng.within(2, n.min(100) as u64);
    let mut world = World::new(vec![Endpoint::new(service); n], in_flight * SECOND / mean, LENGTH);
    world.timeout = 10 * SECOND;
    Trial::new(world, setup).and(Steady { meter, settled: None })
}

#[test]
fn a_steady_load_has_a_steady_width() {
    over("a_steady_load_has_a_steady_width", |seed| trial(&mut Rng::new(seed), &Aperture::builder()).play(seed));
}

#[test]
fn a_band_of_no_width_is_caught() {
    let nervous = Aperture::builder().loads(0.99, 1.0).window(Duration::from_millis(100));
    assert!((0..5).any(|seed| trial(&mut Rng::new(seed), &nervous).play(seed).is_err()));
}
