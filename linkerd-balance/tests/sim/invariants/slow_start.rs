//! **Slow start**, where weights are honoured:
//!
//! - (a) a newcomer gets requests in each second of its ramp, where its part would be five or more;
//! - (b) those that were there get no more than 10 % more than before it came, chance apart;
//! - (c) a newcomer's share is that of its ramp, within 2 % and chance, whatever else comes and goes meanwhile (a fifth of the share
//!   more for policies that hash, see `weights`);
//! - (d) so it is within a zone;
//! - (e) where all are new nobody ramps: in the first second each has at least half its fair share.
//!
//! Chance: four standard deviations.

use std::time::Duration;

use linkerd_balance::{SlowStart, Tiers};

use super::{caught, over};
use crate::{
    engine::Sim,
    model::{Endpoint, Key, Nanos, SECOND, Service, US, World},
    policies::{self, Setup},
    rng::Rng,
    watch::{Picked, Watch},
};

/// Picks of each endpoint in each second.
#[derive(Debug)]
struct Seconds(Vec<Vec<u64>>);

impl Watch for Seconds {
    fn picked(&mut self, picked: Picked) {
        self.0[(picked.now / SECOND) as usize][picked.key as usize] += 1;
    }
}

const ADDED: u64 = 5;
const MIN_SHARE: f64 = 0.1;

/// The part of its weight that a newcomer has on average in the second from `age` on.
fn ramp(age: u64, window: u64) -> f64 {
    ((age as f64 + 0.5) / window as f64).clamp(MIN_SHARE, 1.0)
}

struct Case {
    world: World,
    /// Those that were there from the start.
    old: Key,
    /// Which second each newcomer came in.
    came: Vec<(Key, u64)>,
    window: u64,
    zones: bool,
}

/// Some endpoints, then some more; and one that comes and goes all the time.
fn case(rng: &mut Rng) -> Case {
    let (old, new) = (rng.within(2, 8) as Key, rng.within(1, 2) as Key);
    let (window, zones) = (rng.within(5, 15), rng.chance(500));
    // Hardly ever two in flight: it is about weights.
    let mut endpoints = vec![Endpoint::new(Service::Constant(10 * US)); (old + new + 1) as usize];
    let coming_and_going = old + new;
    endpoints[coming_and_going as usize].zone = 1;
    let length = (ADDED + window + 8) * SECOND;
    let mut world = World::new(endpoints, rng.within(500, 1_500), length);
    let mut came = Vec::new();
    let mut set: Vec<Key> = (0..old).collect();
    world.sets = vec![(0, set.clone())];
    for key in old..old + new {
        let second = ADDED + 2 * u64::from(key - old);
        set.push(key);
        came.push((key, second));
        world.sets.push((second * SECOND, set.clone()));
    }
    if zones {
        // In another zone, so that it changes the set but takes no share.
        for second in ADDED + 3..ADDED + window {
            let mut more = set.clone();
            more.push(coming_and_going);
            let now = if second % 2 == 0 { more } else { set.clone() };
            world.sets.push((second * SECOND + SECOND / 2, now));
        }
    }
    Case { world, old, came, window, zones }
}

fn slow_setup(setup: &Setup, window: u64, zones: bool) -> Setup {
    let slow = SlowStart::new(Duration::from_secs(window)).expect("not zero").min_share(MIN_SHARE).expect("a share");
    setup.clone().with(move |policy| {
        let policy = policy.slow_start(slow);
        if zones { policy.tiers(Tiers::new().local("a")) } else { policy }
    })
}

/// (a) to (d): `setup` starts slowly.
fn ramps(mut rng: Rng, case: &Case, setup: &Setup) -> Result<(), String> {
    let Case { world, old, came, window, .. } = case;
    let mut seconds = Seconds(vec![vec![0; world.endpoints.len()]; (world.length / SECOND) as usize]);
    Sim::new(world, setup, rng.next()).finish(&mut seconds);
    let before: u64 = seconds.0[1..ADDED as usize].iter().flatten().sum();
    let each_before = before as f64 / (ADDED - 1) as f64 / f64::from(*old);
    for (second, picks) in (0_u64..).zip(&seconds.0).skip(ADDED as usize) {
        let total = picks.iter().sum::<u64>() as f64;
        let ramp_of = |(_, since): &(Key, u64)| if second >= *since { ramp(second - since, *window) } else { 0.0 };
        let all = f64::from(*old) + came.iter().map(ramp_of).sum::<f64>();
        for newcomer in came.iter().filter(|(_, since)| second >= *since) {
            let (picks, part) = (picks[newcomer.0 as usize] as f64, ramp_of(newcomer) / all);
            let wanted = total * part;
            if picks == 0.0 && wanted >= 5.0 {
                return Err(format!("{}: (a) no request in second {second}, not {wanted:.1}", setup.name));
            }
            let tolerance = 0.02 * total + if setup.hashes() { wanted / 5.0 } else { 0.0 };
            if (picks - wanted).abs() > tolerance + 4.0 * wanted.sqrt() + 1.0 {
                return Err(format!("{}: (c) {picks} requests in second {second}, not {wanted:.1}", setup.name));
            }
        }
        for key in 0..*old {
            let (picks, most) = (picks[key as usize] as f64, 1.1 * each_before + 4.0 * (1.1 * each_before).sqrt());
            if picks > most {
                return Err(format!("{}: (b) {picks} requests for {key}, before {each_before:.0}", setup.name));
            }
        }
    }
    Ok(())
}

#[test]
fn newcomers_ramp_by_themselves_within_their_zone() {
    for setup in policies::all().iter().filter(|setup| setup.spreads()) {
        over("newcomers_ramp_by_themselves_within_their_zone", 12, |mut rng| {
            let case = case(&mut rng);
            ramps(rng, &case, &slow_setup(setup, case.window, case.zones))
        });
    }
}

#[test]
fn a_ramp_of_another_length_or_none_is_caught() {
    let check = |window: Option<u64>| {
        move |mut rng: Rng| {
            let (case, setup) = (case(&mut rng), policies::least_loaded());
            let setup = match window {
                Some(window) => slow_setup(&setup, window, case.zones),
                None => setup,
            };
            ramps(rng, &case, &setup)
        }
    };
    assert!(caught(5, check(None)));
    assert!(caught(5, check(Some(40))));
}

/// (e)
fn no_ramp(mut rng: Rng, setup: &Setup) -> Result<(), String> {
    let n = rng.within(1, 10) as Key;
    let endpoints = vec![Endpoint::new(Service::Constant(10 * US)); 2 * n as usize];
    // All at the start, and all others a while later.
    let world = World::new(endpoints, 100 * u64::from(n), 9 * SECOND);
    let world = World { sets: vec![(0, (0..n).collect()), (5 * SECOND, (n..2 * n).collect())], ..world };
    let mut seconds = Seconds(vec![vec![0; 2 * n as usize]; 9]);
    Sim::new(&world, setup, rng.next()).finish(&mut seconds);
    for (second, keys) in [(0, 0..n), (5, n..2 * n)] {
        let picks = &seconds.0[second];
        let fair: u64 = picks.iter().sum::<u64>() / u64::from(n);
        if let Some(key) = keys.into_iter().find(|key| picks[*key as usize] < fair / 2) {
            return Err(format!("{}: (e) {} requests for {key}, not {fair}", setup.name, picks[key as usize]));
        }
    }
    Ok(())
}

#[test]
fn where_all_are_new_nobody_ramps() {
    let window: Nanos = 60;
    for setup in policies::all().iter().filter(|setup| setup.spreads()) {
        let setup = slow_setup(setup, window, false);
        over("where_all_are_new_nobody_ramps", 10, |rng| no_ramp(rng, &setup));
    }
}

#[test]
fn a_set_whose_members_differ_is_caught() {
    // As if some of those that are all new had a ramp: the first has ten times the weight.
    let check = |mut rng: Rng| {
        let mut endpoints = vec![Endpoint::new(Service::Constant(10 * US)); 4];
        endpoints[0].weight = 10.0;
        let world = World::new(endpoints, 400, SECOND);
        let mut seconds = Seconds(vec![vec![0; 4]; 1]);
        Sim::new(&world, &policies::least_loaded(), rng.next()).finish(&mut seconds);
        let fair = seconds.0[0].iter().sum::<u64>() / 4;
        if seconds.0[0].iter().any(|picks| *picks < fair / 2) { Err(String::new()) } else { Ok(()) }
    };
    assert!(caught(1, check));
}
