//! **Slow start**, where weights are honoured:
//!
//! - (a) a newcomer gets requests in each second of its ramp, where its part would be fifteen or more;
//! - (b) those that were there get no more than 10 % more than before it came, chance apart;
//! - (c) a newcomer's share is that of its ramp, within 2 % and chance, whatever else comes and goes meanwhile (a fifth of the share
//!   more for policies that hash: 4.5 standard deviations of the places on a ring, see `weights`);
//! - (d) so it is within a zone;
//! - (e) where all are new nobody ramps: in the first second each has at least half its fair share;
//! - (f) a deploy that replaces all within one window, one by one, leaves each with the share of its ramp, as in (c): the newest
//!   one has the least.
//!
//! Chance: four standard deviations.

use std::{ops::Range, time::Duration};

use linkerd_balance::{SlowStart, Tiers};

use super::{Invariant, Trial, fails, holds};
use crate::{
    engine::Sim,
    model::{Endpoint, Key, SECOND, Service, US, World},
    policies::{self, Setup},
    rng::Rng,
    watch::{Picked, Watch},
};

/// Picks of each endpoint in each second.
#[derive(Debug)]
struct Seconds(Vec<Vec<u64>>);

impl Seconds {
    fn new(world: &World) -> Self {
        Self(vec![vec![0; world.endpoints.len()]; (world.length / SECOND) as usize])
    }
}

impl Watch for Seconds {
    fn picked(&mut self, picked: Picked) {
        self.0[(picked.now / SECOND) as usize][picked.key as usize] += 1;
    }
}

const ADDED: u64 = 5;
const MIN_SHARE: f64 = 0.1;
/// Requests that are not all missed by chance: once in three million times.
const SEEN: f64 = 15.0;

/// The part of its weight that a newcomer has on average in the second from `age` on.
fn ramp(age: u64, window: u64) -> f64 {
    ((age as f64 + 0.5) / window as f64).clamp(MIN_SHARE, 1.0)
}

/// (a) to (d): who came when, and how long a ramp is.
#[derive(Debug)]
struct Ramps {
    seconds: Seconds,
    /// Those that were there from the start.
    old: Key,
    /// Which second each newcomer came in.
    came: Vec<(Key, u64)>,
    window: u64,
    hashes: bool,
}

/// Some endpoints, then some more; and one that comes and goes all the time.
///
/// `setup` starts slowly, with what `given` makes of the window that is expected.
fn ramps(rng: &mut Rng, setup: &Setup, given: fn(u64) -> Option<u64>) -> Trial {
    let (old, new) = (rng.within(2, 20) as Key, rng.within(1, 3) as Key);
    let (window, zones) = (rng.within(5, 15), rng.chance(500));
    // Hardly ever two in flight: it is about weights.
    let mut endpoints = vec![Endpoint::new(Service::Constant(10 * US)); (old + new + 1) as usize];
    let coming_and_going = old + new;
    endpoints[coming_and_going as usize].zone = 1;
    let length = (ADDED + window + 8) * SECOND;
    let mut world = World::new(endpoints, rng.within(300, 600), length);
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
    let setup = match given(window) {
        Some(window) => slow_setup(setup, window, zones),
        None => setup.clone(),
    };
    let seconds = Seconds::new(&world);
    let hashes = setup.hashes();
    Trial::new(world, setup).and(Ramps { seconds, old, came, window, hashes })
}

fn slow_setup(setup: &Setup, window: u64, zones: bool) -> Setup {
    let slow = SlowStart::new(Duration::from_secs(window)).expect("not zero").min_share(MIN_SHARE).expect("a share");
    setup.clone().with(move |policy| {
        let policy = policy.slow_start(slow);
        if zones { policy.tiers(Tiers::new().local("a")) } else { policy }
    })
}

impl Watch for Ramps {
    fn picked(&mut self, picked: Picked) {
        self.seconds.picked(picked);
    }
}

impl Invariant for Ramps {
    fn verdict(&mut self, _: &Sim<'_>) -> Result<(), String> {
        let before: u64 = self.seconds.0[1..ADDED as usize].iter().flatten().sum();
        let each_before = before as f64 / (ADDED - 1) as f64 / f64::from(self.old);
        let most = 1.1 * each_before + 4.0 * (1.1 * each_before).sqrt();
        for (second, picks) in (0_u64..).zip(&self.seconds.0).skip(ADDED as usize) {
            self.newcomers(second, picks)?;
            if let Some(key) = (0..self.old).find(|key| picks[*key as usize] as f64 > most) {
                let picks = picks[key as usize];
                return Err(format!("(b) {picks} requests for {key} in second {second}, before {each_before:.0}"));
            }
        }
        Ok(())
    }
}

impl Ramps {
    /// (a), (c) and (d) in one second.
    fn newcomers(&self, second: u64, picks: &[u64]) -> Result<(), String> {
        let total = picks.iter().sum::<u64>() as f64;
        let ramp_of = |(_, since): &(Key, u64)| if second >= *since { ramp(second - since, self.window) } else { 0.0 };
        let all = f64::from(self.old) + self.came.iter().map(ramp_of).sum::<f64>();
        for newcomer in self.came.iter().filter(|(_, since)| second >= *since) {
            let (picks, wanted) = (picks[newcomer.0 as usize] as f64, total * ramp_of(newcomer) / all);
            if picks == 0.0 && wanted >= SEEN {
                return Err(format!("(a) no request in second {second}, not {wanted:.1}"));
            }
            let tolerance = 0.02 * total + if self.hashes { wanted / 5.0 } else { 0.0 };
            if (picks - wanted).abs() > tolerance + 4.0 * wanted.sqrt() + 1.0 {
                return Err(format!("(c) {picks} requests in second {second}, not {wanted:.1}"));
            }
        }
        Ok(())
    }
}

#[test]
fn newcomers_ramp_by_themselves_within_their_zone() {
    let policies: Vec<Setup> = policies::all().into_iter().filter(Setup::spreads).collect();
    holds("newcomers_ramp_by_themselves_within_their_zone", &policies, |rng, setup| ramps(rng, setup, Some));
}

#[test]
fn a_ramp_of_another_length_or_none_is_caught() {
    let setup = policies::least_loaded();
    assert!(fails(5, &setup, |rng, setup| ramps(rng, setup, |_| None)));
    assert!(fails(5, &setup, |rng, setup| ramps(rng, setup, |_| Some(40))));
}

/// (f): who is there from which second on until which, and whether it was there from the start.
#[derive(Debug)]
struct Deploy {
    seconds: Seconds,
    lives: Vec<Range<u64>>,
    window: u64,
    hashes: bool,
}

impl Watch for Deploy {
    fn picked(&mut self, picked: Picked) {
        self.seconds.picked(picked);
    }
}

impl Invariant for Deploy {
    fn verdict(&mut self, _: &Sim<'_>) -> Result<(), String> {
        for (second, picks) in (0_u64..).zip(&self.seconds.0) {
            let part = |life: &Range<u64>| match life {
                life if !life.contains(&second) => 0.0,
                Range { start: 0, .. } => 1.0,
                life => ramp(second - life.start, self.window),
            };
            let all: f64 = self.lives.iter().map(part).sum();
            let total = picks.iter().sum::<u64>() as f64;
            for (key, (life, picks)) in self.lives.iter().zip(picks).enumerate() {
                let (picks, wanted) = (*picks as f64, total * part(life) / all);
                let tolerance = 0.02 * total + if self.hashes { wanted / 5.0 } else { 0.0 };
                if (picks - wanted).abs() > tolerance + 4.0 * wanted.sqrt() + 1.0 {
                    return Err(format!("(f) {picks} requests for {key} in second {second}, not {wanted:.1}"));
                }
            }
        }
        Ok(())
    }
}

/// Each second one comes and the oldest goes, until all that were there at first have gone, and some more.
fn deploy(rng: &mut Rng, setup: &Setup, given: fn(u64) -> u64) -> Trial {
    let old = rng.within(2, 6);
    let new = old + rng.within(1, 4);
    let window = 2 * (old + new) + rng.within(0, 20);
    let lives: Vec<_> =
        (0..old + new).map(|i| (i + 1).saturating_sub(old)..if i < new { i + 2 } else { new + 4 }).collect();
    let mut world = World::new(
        vec![Endpoint::new(Service::Constant(10 * US)); lives.len()],
        rng.within(300, 600),
        (new + 4) * SECOND,
    );
    let set_at =
        |second: u64| (0..).zip(&lives).filter(|(_, life)| life.contains(&second)).map(|(key, _)| key).collect();
    world.sets = (0..=new + 1).map(|second| (second * SECOND, set_at(second))).collect();
    let setup = slow_setup(setup, given(window), false);
    let (seconds, hashes) = (Seconds::new(&world), setup.hashes());
    Trial::new(world, setup).and(Deploy { seconds, lives, window, hashes })
}

#[test]
fn a_deploy_within_one_window_favours_nobody_for_being_new() {
    let name = "a_deploy_within_one_window_favours_nobody_for_being_new";
    let policies: Vec<Setup> = policies::all().into_iter().filter(Setup::spreads).collect();
    holds(name, &policies, |rng, setup| deploy(rng, setup, |window| window));
}

#[test]
fn a_window_that_is_over_at_once_is_caught() {
    assert!(fails(5, &policies::least_loaded(), |rng, setup| deploy(rng, setup, |_| 1)));
}

/// (e): those that came together, and when.
#[derive(Debug)]
struct AllNew {
    seconds: Seconds,
    came: [(u64, Range<Key>); 2],
}

impl Watch for AllNew {
    fn picked(&mut self, picked: Picked) {
        self.seconds.picked(picked);
    }
}

impl Invariant for AllNew {
    fn verdict(&mut self, _: &Sim<'_>) -> Result<(), String> {
        for (second, keys) in &self.came {
            let picks = &self.seconds.0[*second as usize];
            let fair = picks.iter().sum::<u64>() / keys.len() as u64;
            if let Some(key) = keys.clone().find(|key| picks[*key as usize] < fair / 2) {
                return Err(format!("(e) {} requests for {key}, not {fair}", picks[key as usize]));
            }
        }
        Ok(())
    }
}

/// All at the start, and all others a while later. One of them has so many times the weight.
fn all_new(rng: &mut Rng, setup: &Setup, first: f64) -> Trial {
    let n = rng.within(1, 30) as Key;
    let (second, window) = (rng.within(1, 3), rng.within(5, 60));
    let mut endpoints = vec![Endpoint::new(Service::Constant(10 * US)); 2 * n as usize];
    endpoints[0].weight = first;
    let world = World::new(endpoints, 100 * u64::from(n), (second + 1) * SECOND);
    let world = World { sets: vec![(0, (0..n).collect()), (second * SECOND, (n..2 * n).collect())], ..world };
    let (seconds, zones) = (Seconds::new(&world), rng.chance(500));
    let came = [(0, 0..n), (second, n..2 * n)];
    Trial::new(world, slow_setup(setup, window, zones)).and(AllNew { seconds, came })
}

#[test]
fn where_all_are_new_nobody_ramps() {
    let policies: Vec<Setup> = policies::all().into_iter().filter(Setup::spreads).collect();
    holds("where_all_are_new_nobody_ramps", &policies, |rng, setup| all_new(rng, setup, 1.0));
}

/// As if all but the first of those that are all new had a ramp.
#[test]
fn a_set_whose_members_differ_is_caught() {
    assert!(fails(5, &policies::least_loaded(), |rng, setup| all_new(rng, setup, 10.0)));
}
