//! **An aperture's width does not flap**: under a load that stays the same it either widens or narrows, once it has found
//! its width, but not both; and the load of each endpoint is in its band, a tenth more or less.

use std::time::Duration;

use linkerd_balance::{Aperture, ApertureBuilder, ApertureMeter, LeastLoaded, Policy};

use super::{caught, over};
use crate::{
    engine::Sim,
    model::{Endpoint, MS, SECOND, Service, World},
    policies::{self, Avoids, Setup},
    rng::Rng,
};

/// A policy of this aperture, and where its width can be read.
fn metered(builder: &ApertureBuilder) -> (Setup, ApertureMeter) {
    let aperture = builder.clone().client(7).build().expect("valid");
    let meter = aperture.meter();
    let setup =
        policies::setup("aperture", Avoids::Pending, move |_, _| Policy::new(aperture.clone(), LeastLoaded::new));
    (setup, meter)
}

fn check(mut rng: Rng, builder: &ApertureBuilder) -> Result<(), String> {
    let (setup, meter) = metered(builder);
    let mean = rng.within(5, 20) * MS;
    let n = rng.within(20, 200);
    // In flight as much as some part of the endpoints can bear.
    let in_flight = rng.within(2, n);
    let rate = in_flight * SECOND / mean;
    let mut world = World::new(vec![Endpoint::new(Service::Constant(mean)); n as usize], rate, 50 * SECOND);
    // No more than 40,000 requests.
    world.length = world.length.min(40_000 * SECOND / rate + 12 * SECOND);
    let mut sim = Sim::new(&world, &setup, rng.next());
    sim.run(10 * SECOND, &mut ());
    let settled = (meter.widened(), meter.narrowed());
    sim.run(world.length, &mut ());
    let (widened, narrowed) = (meter.widened() - settled.0, meter.narrowed() - settled.1);
    if widened > 0 && narrowed > 0 {
        return Err(format!("widened {widened} times, narrowed {narrowed}, with {in_flight} in flight on {n}"));
    }
    let each = meter.in_flight() / meter.physical() as f64;
    if meter.physical() < n as usize && !(0.45..=2.2).contains(&each) {
        return Err(format!("{each:.2} in flight for each of {}", meter.physical()));
    }
    Ok(())
}

#[test]
fn a_steady_load_has_a_steady_width() {
    over("a_steady_load_has_a_steady_width", 20, |rng| check(rng, &Aperture::builder()));
}

#[test]
fn a_band_of_no_width_is_caught() {
    let nervous = Aperture::builder().loads(0.99, 1.0).window(Duration::from_millis(100));
    assert!(caught(5, |rng| check(rng, &nervous)));
}
