//! Ten worlds with names, and the one that Finagle's authors published.

use linkerd_balance::Tiers;

use crate::{
    engine::Sim,
    model::{Endpoint, Fault, Key, MS, Nanos, SECOND, Service, Streams, WarmUp, World},
    policies::Setup,
    tally::Tally,
    topology::rolling,
    watch::{Picked, Watch},
};

/// A world with a name, and what is counted in it.
pub(crate) struct Scenario {
    /// In file names and anchors.
    pub(crate) slug: &'static str,
    pub(crate) title: &'static str,
    pub(crate) world: World,
    /// Counted from then on.
    pub(crate) from: Nanos,
    /// Whether a request is better sent elsewhere; `None` if no endpoint is worse than others.
    pub(crate) bad: Option<fn(&World, Key, Nanos) -> bool>,
    /// Clients prefer their zone.
    pub(crate) zones: bool,
}

/// What a policy made of a scenario.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) policy: &'static str,
    pub(crate) p50: Nanos,
    pub(crate) p99: Nanos,
    pub(crate) p999: Nanos,
    /// Of all picks, in millionths.
    pub(crate) to_bad: Option<u64>,
    /// Of all requests, in millionths.
    pub(crate) success: u64,
}

/// Endpoints like most: 5 ms on average, at times ten times that.
const USUAL: Service = Service::Pareto { least: 2_500 * 1_000, most: 50 * MS };

fn usual() -> Endpoint {
    Endpoint { slots: 32, queue: 64, ..Endpoint::new(USUAL) }
}

fn faulty(world: &World, key: Key, at: Nanos) -> bool {
    world.is_faulty(key, at)
}

/// Began less than its warm-up ago.
fn cold(world: &World, key: Key, at: Nanos) -> bool {
    let Some(WarmUp { lasts, .. }) = world.endpoints[key as usize].warm_up else { return false };
    let came = world.sets.iter().find(|(_, set)| set.contains(&key)).map_or(0, |(at, _)| *at);
    at < came + lasts
}

fn small(world: &World, key: Key, _at: Nanos) -> bool {
    world.endpoints[key as usize].slots == 1
}

/// All eleven.
pub(crate) fn all() -> Vec<Scenario> {
    vec![
        one_bad("one-slow", "One slow of ten", Fault::Slow(100 * MS)),
        bimodal(),
        one_bad("one-refusing", "One refusing", Fault::Refuses),
        one_bad("one-failing-fast", "One failing fast", Fault::Fails(MS)),
        one_bad("one-hanging", "One hanging", Fault::Hangs),
        cold_start(),
        rolling_deploy(),
        capacity_limited(),
        zone_loss(),
        long_streams(),
        finagle(),
    ]
}

fn one_bad(slug: &'static str, title: &'static str, fault: Fault) -> Scenario {
    let world = World::new(vec![usual(); 10], 500, 45 * SECOND).fault(5 * SECOND, 45 * SECOND, 0, fault);
    Scenario { slug, title, world, from: 5 * SECOND, bad: Some(faulty), zones: false }
}

fn bimodal() -> Scenario {
    let service = Service::Bimodal { fast: 5 * MS, slow: 50 * MS, slow_per_mille: 100 };
    let endpoint = Endpoint { slots: 4, queue: 64, ..Endpoint::new(service) };
    let world = World::new(vec![endpoint; 10], 2_800, 15 * SECOND);
    Scenario { slug: "bimodal", title: "10× bimodal", world, from: 0, bad: None, zones: false }
}

fn cold_start() -> Scenario {
    let mut endpoints = vec![Endpoint { slots: 4, queue: 64, ..Endpoint::new(USUAL) }; 6];
    endpoints[5].warm_up = Some(WarmUp { lasts: 10 * SECOND, factor: 20 });
    let world = World::new(endpoints, 1_000, 30 * SECOND);
    let world = World { sets: vec![(0, (0..5).collect()), (5 * SECOND, (0..6).collect())], ..world };
    Scenario { slug: "cold-start", title: "Cold start", world, from: 5 * SECOND, bad: Some(cold), zones: false }
}

fn rolling_deploy() -> Scenario {
    let mut endpoints = vec![Endpoint { slots: 4, queue: 64, ..Endpoint::new(USUAL) }; 20];
    for endpoint in &mut endpoints[10..] {
        endpoint.warm_up = Some(WarmUp { lasts: 3 * SECOND, factor: 10 });
    }
    let all: Vec<Key> = (0..20).collect();
    let world = World { sets: rolling(&all, 10, 5 * SECOND, 20 * SECOND), ..World::new(endpoints, 1_000, 35 * SECOND) };
    let title = "Rolling deploy";
    Scenario { slug: "rolling-deploy", title, world, from: 5 * SECOND, bad: Some(cold), zones: false }
}

fn capacity_limited() -> Scenario {
    let mut endpoints = vec![Endpoint { slots: 4, queue: 16, ..Endpoint::new(Service::Constant(10 * MS)) }; 10];
    endpoints[..2].iter_mut().for_each(|endpoint| endpoint.slots = 1);
    let world = World::new(endpoints, 2_400, 15 * SECOND);
    let title = "Capacity-limited";
    Scenario { slug: "capacity-limited", title, world, from: 0, bad: Some(small), zones: false }
}

fn zone_loss() -> Scenario {
    let mut endpoints = vec![usual(); 10];
    endpoints[5..].iter_mut().for_each(|endpoint| endpoint.zone = 1);
    let mut world = World::new(endpoints, 500, 60 * SECOND);
    for key in 0..5 {
        world = world.fault(10 * SECOND, 40 * SECOND, key, Fault::Dies);
    }
    let title = "Zone loss";
    Scenario { slug: "zone-loss", title, world, from: 10 * SECOND, bad: Some(faulty), zones: true }
}

fn long_streams() -> Scenario {
    let streams = Some(Streams { per_mille: 20, mean: 10 * SECOND });
    let endpoint = Endpoint { slots: 12, queue: 64, streams, ..Endpoint::new(USUAL) };
    let world = World::new(vec![endpoint; 10], 400, 60 * SECOND);
    let title = "Long streams";
    Scenario { slug: "long-streams", title, world, from: 10 * SECOND, bad: None, zones: false }
}

/// Eleven servers, of which one pauses half of the time for longer than clients wait.
fn finagle() -> Scenario {
    let service = Service::Pareto { least: 10 * MS, most: 200 * MS };
    let world = World::new(vec![Endpoint::new(service); 11], 200, 120 * SECOND);
    let world = world.fault(30 * SECOND, 90 * SECOND, 0, Fault::Slow(2 * SECOND));
    let title = "Finagle's comparison";
    Scenario { slug: "finagle", title, world, from: 0, bad: Some(faulty), zones: false }
}

/// Picks that had better gone elsewhere.
struct Misplaced<'a> {
    scenario: &'a Scenario,
    of: u64,
    picks: u64,
}

impl Watch for Misplaced<'_> {
    fn picked(&mut self, picked: Picked) {
        let Scenario { world, from, bad, .. } = self.scenario;
        let Some(is_bad) = bad.filter(|_| picked.now >= *from) else { return };
        self.of += 1;
        self.picks += u64::from(is_bad(world, picked.key, picked.now));
    }
}

impl Scenario {
    /// Plays it with a policy.
    pub(crate) fn play(&self, setup: &Setup) -> Row {
        let setup = setup.clone();
        let setup = if self.zones { setup.with(|policy| policy.tiers(Tiers::new().local("a"))) } else { setup };
        let mut bad = Misplaced { scenario: self, of: 0, picks: 0 };
        let mut tally = Tally::new(self.world.endpoints.len(), self.from, self.world.length);
        Sim::new(&self.world, &setup, 1).finish(&mut (&mut bad, &mut tally));
        let millionths = |part: u64, of: u64| (part * 1_000_000 + of / 2) / of.max(1);
        Row {
            policy: setup.name,
            p50: tally.percentile(500),
            p99: tally.percentile(990),
            p999: tally.percentile(999),
            to_bad: self.bad.map(|_| millionths(bad.picks, bad.of)),
            success: millionths(tally.successes, tally.successes + tally.failures),
        }
    }
}
