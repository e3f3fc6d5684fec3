//! Peak EWMA beside its definition, written plainly.

use std::time::Duration;

use linkerd_balance::{Load, PeakEwma};
use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy},
    prop_assert, prop_assert_eq, prop_oneof, proptest,
};

/// The definition: latencies in nanoseconds, times in milliseconds from the start.
#[derive(Default)]
struct Model {
    decay: u64,
    penalty: u64,
    pending: usize,
    // What was learned last, and when.
    average: Option<(f64, u64)>,
    guess: Option<(f64, u64)>,
    // How long the penalty lasts; failures in a row, and when the last of them was.
    until: u64,
    row: u64,
    failed: Option<u64>,
}

impl Model {
    fn left(&self, then: u64, now: u64) -> f64 {
        (-(now.saturating_sub(then) as f64) / self.decay as f64).exp()
    }

    fn score(&self, now: u64, weight: f64) -> f64 {
        let known = self.average.or(self.guess).map_or(0.0, |(value, at)| value * self.left(at, now));
        let cost = known.max(self.until.saturating_sub(now) as f64 * 1e6);
        let pending = self.pending as f64 / weight;
        if cost == 0.0 && pending > 0.0 {
            return (i64::MAX >> 16) as f64 + pending;
        }
        cost * (pending + 1.0)
    }

    fn observe(&mut self, took: u64, now: u64) {
        let sample = took as f64 * 1e6;
        self.average = Some(match self.average {
            Some((average, at)) if sample <= average * self.left(at, now) => {
                let w = self.left(at, now);
                (average * w + sample * (1.0 - w), now)
            }
            _ => (sample, now),
        });
    }

    /// A latency that is longer than `waited`.
    fn give_up(&mut self, waited: u64, now: u64) {
        let sample = waited as f64 * 1e6;
        let known = self.average.or(self.guess);
        if known.is_none() && waited == 0 || known.is_some_and(|(value, at)| sample <= value * self.left(at, now)) {
            return;
        }
        let of = if self.average.is_some() { &mut self.average } else { &mut self.guess };
        *of = Some((sample, now));
    }

    fn end(&mut self, begun: u64, now: u64, success: bool) {
        self.pending -= 1;
        // Whether it began when the last failure was known.
        let next = self.failed.is_none_or(|failed| begun >= failed);
        // A failure that took longer than what is known, or than it costs.
        let known = self.average.or(self.guess).map(|(value, at)| value * self.left(at, now));
        let is_peak = known.is_some_and(|known| (now - begun) as f64 * 1e6 > known);
        if success || is_peak || now - begun >= self.penalty {
            self.observe(now - begun, now);
        }
        if success {
            self.row = if next { 0 } else { self.row };
            return;
        }
        self.row = if next { (self.row + 1).min(12) } else { self.row.max(1) };
        self.failed = Some(now);
        self.until = self.until.max(now + self.penalty * self.row);
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A request that is given up after so many milliseconds.
    GiveUp(u64),
    /// A request that takes so many milliseconds and then succeeds or fails.
    Request(u64, bool),
    Begin,
    Cancel,
    /// Only reads, so many times.
    Read(u8),
    StartFrom(f64),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u64..20_000, prop_oneof![4 => Just(true), 1 => Just(false)]).prop_map(|(ms, ok)| Step::Request(ms, ok)),
        1 => (0_u64..20_000).prop_map(Step::GiveUp),
        1 => Just(Step::Begin),
        1 => Just(Step::Cancel),
        2 => (1_u8..20).prop_map(Step::Read),
        1 => (1e3..1e10_f64).prop_map(Step::StartFrom),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn scores_are_as_defined(
        steps in vec((step(), 0_u64..30_000), 1..60), decay_ms in 1_u64..60_000, penalty_ms in 0_u64..10_000,
        weight in 0.1..10.0_f64,
    ) {
        let penalty = Duration::from_millis(penalty_ms);
        let load = PeakEwma::new(Duration::from_millis(decay_ms)).unwrap().failure_penalty(penalty);
        let mut model =
            Model { decay: decay_ms, penalty: penalty_ms, ..Model::default() };
        let start = tokio::time::Instant::now().into_std();
        let at = |ms: u64| start + Duration::from_millis(ms);
        // When the last step was; long enough for requests to begin before the first.
        let mut now = 60_000;
        for (step, later) in steps {
            now += later;
            match step {
                Step::Request(took, success) => {
                    let begun = now.saturating_sub(took);
                    load.begin(at(begun));
                    model.pending += 1;
                    load.end(at(begun), at(now), success);
                    model.end(begun, now, success);
                }
                Step::GiveUp(waited) => {
                    let begun = now.saturating_sub(waited);
                    load.begin(at(begun));
                    load.cancel_at(at(begun), at(now), false);
                    model.give_up(now - begun, now);
                }
                Step::Begin => {
                    load.begin(at(now));
                    model.pending += 1;
                }
                Step::Cancel if model.pending > 0 => {
                    load.cancel();
                    model.pending -= 1;
                }
                Step::Cancel => {}
                Step::Read(times) => {
                    for n in 0..u64::from(times) {
                        let _ = (load.score(at(now + n), weight, 0), load.typical(at(now + n)));
                    }
                }
                Step::StartFrom(nanos) => {
                    load.start_from(nanos, at(now));
                    if model.average.is_none() {
                        model.guess = Some((nanos, now));
                    }
                }
                Step::Reset => {
                    load.reset();
                    model.average = None;
                    model.guess = None;
                    model.until = 0;
                    model.row = 0;
                }
            }
            prop_assert_eq!(load.pending(), model.pending);
            for ahead in [0, 1, 5_000] {
                let score = load.score(at(now + ahead), weight, 0);
                let expected = model.score(now + ahead, weight);
                prop_assert!((score - expected).abs() <= expected * 1e-9, "{} is not {}", score, expected);
            }
        }
    }
}
