//! Seeded simulations of limits that adapt: where do they end up, and what do they turn away?

mod sim;

use std::time::{Duration, Instant};

use linkerd_retry::limit::{Adaptive, AdaptiveSettings, Criticality, Outcome, Shares};

use self::sim::{Event, Load, Sim};

struct Run {
    sim: Sim<Instant>,
    limit: Adaptive,
    in_flight: usize,
}

#[derive(Debug, Default)]
struct Seen {
    arrived: u64,
    shed: u64,
    done: u64,
    /// By time.
    mean_limit: f64,
    least: usize,
    most: usize,
}

impl Run {
    fn new(settings: AdaptiveSettings, seed: u64) -> Self {
        Self { sim: Sim::new(seed), limit: Adaptive::new(settings).unwrap(), in_flight: 0 }
    }

    /// Until `end`, in seconds, with a load that may depend on the time.
    fn until(&mut self, end: f64, load: impl Fn(f64) -> Load) -> Seen {
        self.until_with(end, load, Shares::WHOLE)
    }

    /// The same where all requests are sheddable, and may use their share.
    fn until_with(&mut self, end: f64, load: impl Fn(f64) -> Load, shares: Shares) -> Seen {
        let (begin, mut area) = (self.sim.now, 0.0);
        let mut seen = Seen { least: usize::MAX, ..Seen::default() };
        while self.sim.now < end {
            let before = self.sim.now;
            let load = load(before);
            let event = self.sim.next(&load);
            area += self.limit.limit() as f64 * (self.sim.now - before);
            let now = self.sim.instant();
            match event {
                Event::Arrival => {
                    seen.arrived += 1;
                    let allowed = shares.of(self.limit.limit() as u128, Criticality::Sheddable) as usize;
                    if self.in_flight < allowed {
                        self.in_flight += 1;
                        self.limit.on_start(self.in_flight);
                        self.sim.send(now, &load);
                    } else {
                        self.limit.on_full(self.in_flight);
                        seen.shed += 1;
                    }
                }
                Event::Done(began) => {
                    self.in_flight -= 1;
                    seen.done += 1;
                    self.limit.on_end(Outcome::Success, began, now);
                }
            }
            seen.least = seen.least.min(self.limit.limit());
            seen.most = seen.most.max(self.limit.limit());
        }
        seen.mean_limit = area / (self.sim.now - begin);
        seen
    }
}

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;

fn run(seed: u64) -> Run {
    Run::new(AdaptiveSettings::default(), seed)
}

/// `ratio` of what so many workers can do.
fn load(ratio: f64, workers: usize, service: f64) -> Load {
    Load { rate: ratio * workers as f64 / service, workers, service }
}

/// Little's law says that as many in flight as there are workers make the most throughput at the least latency.
#[track_caller]
fn assert_near(seen: &Seen, workers: usize) {
    let ratio = seen.mean_limit / workers as f64;
    assert!((0.75..=1.25).contains(&ratio), "{workers} workers: {ratio:.2} {seen:?}");
}

#[test]
fn finds_as_many_as_there_are_workers() {
    for workers in [10, 20, 50, 100, 200] {
        for service in [0.02, 0.25] {
            // With ten workers and little too much to do, up to thirteen in flight hardly make anybody wait.
            for ratio in [if workers == 10 { 1.5 } else { 1.2 }, 3.0] {
                let load = load(ratio, workers, service);
                let mut run = run(workers as u64);
                run.until(20_000.0 / load.capacity(), |_| load);
                let begin = run.sim.now;
                let seen = run.until(begin + 40_000.0 / load.capacity(), |_| load);
                assert_near(&seen, workers);
                let goodput = seen.done as f64 / (run.sim.now - begin) / load.capacity();
                assert!(goodput > 0.85, "{workers} workers: {goodput}");
            }
        }
    }
}

#[test]
fn sheds_nothing_in_an_hour_at_three_fifths_of_capacity() {
    for workers in [10, 50, 80] {
        let load = load(0.6, workers, 0.5);
        let mut run = run(1);
        // It begins at 20, and needs some seconds to find out that this is too few for the larger ones.
        let first = run.until(MINUTE, |_| load);
        assert!(first.shed < first.arrived / 8, "{first:?}");
        let hour = run.until(MINUTE + HOUR, |_| load);
        assert_eq!(hour.shed, 0, "{hour:?}");
        // Chance sets records, and they get rare.
        let before = run.limit.limit();
        run.until(MINUTE + 2.0 * HOUR, |_| load);
        assert!(run.limit.limit() <= before + before / 10, "{before}: {}", run.limit.limit());
    }
}

#[test]
fn does_not_drift_in_an_hour_of_overload() {
    let load = load(2.0, 50, 0.5);
    let mut run = run(2);
    run.until(2.0 * MINUTE, |_| load);
    for part in 1..=6 {
        let seen = run.until(f64::from(part) * 10.0 * MINUTE, |_| load);
        assert_near(&seen, 50);
    }
}

#[test]
fn follows_a_step_in_load() {
    let mut run = run(3);
    for ratio in [0.3, 3.0, 0.1, 1.5] {
        let load = load(ratio, 50, 0.1);
        let end = run.sim.now;
        run.until(end + 15.0, |_| load);
        let seen = run.until(end + 120.0, |_| load);
        if ratio > 1.0 {
            assert_near(&seen, 50);
        } else {
            assert_eq!(seen.shed, 0);
        }
    }
}

#[test]
fn recovers_from_a_step_in_latency() {
    // As many workers, half as fast, then as fast as before, then much faster.
    for ratio in [0.4, 3.0] {
        let mut run = run(4);
        let rate = load(ratio, 50, 0.1).rate;
        for service in [0.1, 0.2, 0.1, 0.02] {
            let load =
                Load { rate: if ratio > 1.0 { load(ratio, 50, service).rate } else { rate }, workers: 50, service };
            let end = run.sim.now;
            let first = run.until(end + 30.0, |_| load);
            let seen = run.until(end + 120.0, |_| load);
            if ratio > 1.0 {
                assert_near(&seen, 50);
            } else {
                // While it finds out, one trial may hold some up that had better gone; after that, none.
                assert!(first.shed < first.arrived / 20, "{first:?}");
                assert_eq!(seen.shed, 0);
            }
        }
    }
}

#[test]
fn follows_a_step_in_workers() {
    for seed in 1..=6 {
        let mut run = run(seed);
        for workers in [80, 20, 80] {
            let load = Load { rate: 3.0 * 80.0 / 0.1, workers, service: 0.1 };
            let end = run.sim.now;
            run.until(end + 30.0, |_| load);
            let seen = run.until(end + 70.0, |_| load);
            assert_near(&seen, workers);
        }
    }
}

#[test]
fn a_class_that_may_use_half_finds_the_optimum_too() {
    let (half, load) = (Shares::new([50, 60, 70, 100]).unwrap(), load(3.0, 40, 0.1));
    let mut run = run(1);
    run.until_with(MINUTE, |_| load, half);
    let mut seen = run.until_with(3.0 * MINUTE, |_| load, half);
    seen.mean_limit /= 2.0;
    assert_near(&seen, 40);
}

#[test]
fn gets_away_from_one_at_a_time() {
    let settings = AdaptiveSettings { initial: 1, min: 1, ..AdaptiveSettings::default() };
    let (mut run, load) = (Run::new(settings, 1), load(3.0, 10, 0.1));
    run.until(MINUTE, |_| load);
    let seen = run.until(5.0 * MINUTE, |_| load);
    assert_near(&seen, 10);
}

#[test]
fn finds_many_workers_fast() {
    for seed in 1..=12 {
        let mut run = run(seed);
        let load = load(3.0, 200, 0.1);
        run.until(10.0, |_| load);
        let seen = run.until(20.0, |_| load);
        assert_near(&seen, 200);
    }
}

#[test]
fn follows_a_service_that_slowly_gets_slower() {
    let service = |now: f64| 0.25 * (1.0 + now / HOUR);
    let mut run = run(6);
    run.until(MINUTE, |now| load(1.5, 40, service(now)));
    for part in 1..=6 {
        let seen = run.until(f64::from(part) * 10.0 * MINUTE, |now| load(1.5, 40, service(now)));
        assert_near(&seen, 40);
    }
}

#[test]
fn stays_where_it_is_without_traffic() {
    let mut run = run(7);
    let busy = load(2.0, 50, 0.1);
    run.until(MINUTE, |_| busy);
    // One in ten minutes, from when what was there is gone.
    let quiet = Load { rate: 1.0 / 600.0, ..busy };
    run.until(HOUR, |_| quiet);
    let before = run.limit.limit();
    let idle = run.until(25.0 * HOUR, |_| quiet);
    assert_eq!((idle.least, idle.most), (before, before));
    // The next arrival was still drawn from the quiet.
    run.until(run.sim.now + 1.0, |_| busy);
    let begin = run.sim.now;
    let seen = run.until(begin + 30.0, |_| load(0.6, 50, 0.1));
    assert!(seen.shed < seen.arrived / 100, "{seen:?}");
}

#[test]
fn is_not_spoiled_by_health_checks() {
    let mut run = run(8);
    // One a second, a hundred times faster than what is to come.
    let idle = run.until(HOUR, |_| Load { rate: 1.0, workers: 50, service: 0.001 });
    assert_eq!((idle.least, idle.most, idle.shed), (20, 20, 0));
    assert_eq!(run.limit.base(), None);
    for ratio in [0.3, 0.6] {
        let begin = run.sim.now;
        let first = run.until(begin + 15.0, |_| load(ratio, 50, 0.1));
        assert!(first.shed < first.arrived / 20, "{first:?}");
        let seen = run.until(begin + MINUTE, |_| load(ratio, 50, 0.1));
        assert_eq!(seen.shed, 0);
    }
}

#[test]
fn does_not_grow_without_bound() {
    // All the workers in the world.
    let load = Load { rate: 200.0, workers: 1_000_000, service: 0.1 };
    let mut run = run(9);
    let seen = run.until(HOUR, |_| load);
    assert!(seen.most < 75, "{seen:?}");
}

#[test]
fn learns_the_time_without_load_even_where_it_starts_under_load() {
    // Twenty at first, where eight would do: the first window is slower than it need be.
    let load = load(3.0, 8, 0.1);
    let mut run = run(10);
    run.until(4.0 * MINUTE, |_| load);
    let seen = run.until(10.0 * MINUTE, |_| load);
    assert_near(&seen, 8);
}

/// A service that always has as many in flight as the limit allows, and is as slow as it is told to be.
struct Saturated {
    limit: Adaptive,
    now: Instant,
}

impl Saturated {
    /// Twenty without load, as was seen in one window, and thirty now.
    fn new() -> Self {
        let limit = Adaptive::new(AdaptiveSettings::default()).unwrap();
        let mut new = Self { limit, now: tokio::time::Instant::now().into_std() + Duration::from_mins(1) };
        assert_eq!(new.changes(100), 30);
        new
    }

    fn answer(&mut self, millis: u32) {
        let (latency, in_flight) = (Duration::from_millis(millis.into()), self.limit.limit());
        self.now += latency / in_flight as u32;
        self.limit.on_start(in_flight);
        self.limit.on_end(Outcome::Success, self.now.checked_sub(latency).unwrap(), self.now);
    }

    /// The next limit, with this latency.
    fn changes(&mut self, millis: u32) -> usize {
        let before = self.limit.limit();
        for _ in 0..10_000 {
            self.answer(millis);
            if self.limit.limit() != before {
                return self.limit.limit();
            }
        }
        panic!("still {before}");
    }

    fn base_millis(&self) -> u128 {
        self.limit.base().unwrap().as_millis()
    }
}

#[test]
fn a_cut_that_helps_stands() {
    let mut service = Saturated::new();
    assert_eq!(service.changes(160), 18);
    assert_eq!((service.changes(100), service.base_millis()), (18 + 1, 100));
}

#[test]
fn a_cut_that_does_not_help_is_taken_back_and_growth_goes_on_as_before() {
    let mut service = Saturated::new();
    assert_eq!(service.changes(160), 18);
    assert_eq!((service.changes(160), service.base_millis()), (30, 160));
    assert_eq!(service.changes(160), 45);
}

#[test]
fn what_gets_slower_during_a_trial_is_not_taken_for_idle() {
    let mut service = Saturated::new();
    assert_eq!(service.changes(160), 18);
    assert_eq!((service.changes(400), service.base_millis()), (30, 100));
}

#[test]
fn a_trial_waits_until_latency_has_stopped_to_rise() {
    let mut service = Saturated::new();
    for millis in [150, 200, 280, 400, 560] {
        // One window, and what has to pass before it.
        for _ in 0..280 {
            service.answer(millis);
        }
        assert_eq!(service.limit.limit(), 30, "at {millis} ms");
    }
    assert_eq!(service.changes(560), 18);
}

#[test]
fn responses_that_say_overloaded_bring_it_down_to_its_minimum_and_no_further() {
    let mut limit = Adaptive::new(AdaptiveSettings { window: 10, ..AdaptiveSettings::default() }).unwrap();
    let mut now = tokio::time::Instant::now().into_std();
    let mut round = |limit: &mut Adaptive, outcome| {
        let before = limit.limit();
        for _ in 0..500 {
            limit.on_start(before);
            now += Duration::from_millis(1);
            limit.on_end(outcome, now.checked_sub(Duration::from_millis(1)).unwrap(), now);
        }
        limit.limit()
    };
    assert_eq!(round(&mut limit, Outcome::Ignored), 20);
    assert_eq!(round(&mut limit, Outcome::Overloaded), 4);
    assert_eq!(round(&mut limit, Outcome::Ignored), 4);
}

#[test]
fn settings_out_of_range_are_refused() {
    let refused = |settings: AdaptiveSettings| Adaptive::new(settings).unwrap_err().to_string();
    let default = AdaptiveSettings::default();
    for (min, initial, max) in [(0, 20, 100), (30, 20, 100), (4, 200, 100), (4, 20, 2_000_000)] {
        let err = refused(AdaptiveSettings { initial, min, max, ..default });
        assert!(err.ends_with(&format!("unlike {min}, {initial}, {max}")), "{err}");
    }
    for tolerance in [1.0, 2.1, f64::NAN, f64::INFINITY, -1.5] {
        assert!(refused(AdaptiveSettings { tolerance, ..default }).ends_with(&format!("not {tolerance}")));
    }
    for window in [0, 9, 100_001] {
        assert!(refused(AdaptiveSettings { window, ..default }).ends_with(&format!("not {window}")));
    }
}
