//! A limit that follows what a service can take, by what it does to latency.

use std::time::{Duration, Instant};

/// How a limit adapts.
///
/// # Defaults
///
/// From 4 to 1000, 20 at first, a latency of up to 1.2 times that without load, by windows of 200 requests. Initial limit
/// and bounds are of the size of those in Netflix's concurrency-limits; the others are from the simulations in
/// `tests/limit_adaptive.rs`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveSettings {
    /// The limit at first. From `min` to `max`.
    pub initial: usize,
    /// The least that the limit may be. From 1.
    pub min: usize,
    /// The most that it may be. Up to [`AdaptiveSettings::MAX`].
    pub max: usize,
    /// How much slower than without load responses may be, as a ratio, before the limit is taken to be too high. From
    /// 1.05 to 2. More makes for more in flight, and for less throughput lost when latencies vary by themselves.
    pub tolerance: f64,
    /// How many responses one decision looks at. From 10 to 100,000. Fewer are faster to see a change and to see one
    /// where there is none. A decision also takes at least twice the time of a response.
    pub window: u32,
}

/// A value of [`AdaptiveSettings`] that is out of range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAdaptive {
    /// The three limits are not in order, or out of range.
    #[error(
        "an adaptive limit's min, initial and max must rise from 1 to {}, unlike {min}, {initial}, {max}",
        AdaptiveSettings::MAX
    )]
    Limits {
        /// The setting.
        min: usize,
        /// The setting.
        initial: usize,
        /// The setting.
        max: usize,
    },
    /// `tolerance` is not from 1.05 to 2.
    #[error("an adaptive limit's tolerance must be from 1.05 to 2, not {0}")]
    Tolerance(f64),
    /// `window` is not from 10 to 100,000.
    #[error("an adaptive limit's window must be from 10 to 100000 responses, not {0}")]
    Window(u32),
}

/// What came of a request, for a limit that adapts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It was served: how long that took counts.
    Success,
    /// The service said that it has too much to do, or said nothing in time.
    Overloaded,
    /// It tells nothing about how much the service can take.
    Ignored,
}

/// The arithmetic of a limit that adapts, without a clock, lock or counter.
///
/// A service with room for `c` requests answers each in its own time as long as no more are in flight, and makes the
/// others wait: beyond `c`, latency is in proportion to the number in flight. So, window by window,
///
/// - while responses are about as fast as without load, the limit **grows**: by half until it was first found too high, by
///   a twentieth after that, and not above one and a half times what was in flight, unless a request was turned away;
/// - when they are slower by more than the tolerance in two windows, and what is in flight is what the limit allows, it is
///   **cut** to where the time without load says that nobody would wait, less a seventh, but to no less than half. That
///   seventh lets a queue in the service run empty, so that the time without load is measured anew in every round, and does
///   not drift up with the queue;
/// - **the cut is a trial**, and the first goes no further than to six tenths. If it was right, responses get faster and
///   throughput stays. If they stay as slow, then there was no queue and the service has become slower: the limit is put
///   back, and that is the time without load from now on;
/// - a service that is slower, but has less in flight than the limit allows, copes: the limit is left as it is, and what
///   the time without load is taken to be follows slowly;
/// - if more than a twentieth say that they are [overloaded](Outcome::Overloaded), it is cut by a seventh.
///
/// So it does not probe by letting in less than there is to do, and learns nothing where less than half a request is in
/// flight on average, as with health checks only.
///
/// # Sources
///
/// The control is of the kind of TCP Vegas (Brakmo and Peterson, 1995): two latencies and their ratio. That it is of use
/// for requests is known from Netflix's concurrency-limits and Envoy's adaptive concurrency filter, and so is what goes
/// wrong with a time without load that is a plain minimum, or is measured by closing the door. Rounds that empty the queue
/// are as in BBR (Cardwell and others, 2016). The trial is ours.
#[derive(Clone, Debug)]
pub struct Adaptive {
    settings: AdaptiveSettings,
    limit: f64,
    /// Seconds a response takes without load, as far as is known.
    base: Option<f64>,
    /// Whether it has not been too high yet.
    starting: bool,
    /// The seconds of the last window, if that was too slow.
    suspect: Option<f64>,
    trial: Option<Trial>,
    /// What ends before is about the time before the last cut.
    settled: Option<Instant>,
    window: Window,
}

/// A cut of which it is not known yet whether it was right.
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// The limit, and the seconds that a response took with it.
    limit: f64,
    latency: f64,
    /// Whether it is the first.
    starting: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    began: Option<Instant>,
    successes: u32,
    overloaded: u32,
    /// Seconds, of the successes.
    sum: f64,
    /// The most in flight.
    peak: usize,
    /// The least with which a request found no room.
    full: Option<usize>,
}

/// Of what a full window says.
#[derive(Clone, Copy, Debug)]
struct Sight {
    /// Seconds.
    latency: f64,
    /// How many were in flight on average.
    in_flight: f64,
    /// How many there may be, for those that were most often there.
    allowed: f64,
    /// Up to where the limit may grow.
    room: f64,
}

/// The part of the limit that must be in use for it to be the limit that holds requests up.
const SATURATED: f64 = 0.75;
/// With less in flight than that on average there is no load to learn from, only health checks, perhaps.
const LEAST: f64 = 0.5;
/// How far above the most that was in flight a limit may grow: room for what chance brings.
const HEADROOM: f64 = 1.5;
/// How far a limit is cut in one step, if it is not known, and if it has just been seen, that this makes responses faster.
const DEEPEST_TRIAL: f64 = 0.6;
const DEEPEST: f64 = 0.5;
/// By how much a latency may have grown, as a ratio, and not be said to grow still.
const STEADY: f64 = 1.1;
/// Below the estimate, so that a queue runs empty.
const DRAIN: f64 = 0.85;
/// The part of overloaded responses above which the limit is cut.
const OVERLOADED: f64 = 0.05;

impl AdaptiveSettings {
    /// The most that `max` may be.
    pub const MAX: usize = 1_000_000;

    fn check(&self) -> Result<(), InvalidAdaptive> {
        let Self { initial, min, max, tolerance, window } = *self;
        if min < 1 || initial < min || max < initial || max > Self::MAX {
            return Err(InvalidAdaptive::Limits { min, initial, max });
        }
        // NaN is in no range.
        if !(1.05..=2.0).contains(&tolerance) {
            return Err(InvalidAdaptive::Tolerance(tolerance));
        }
        if !(10..=100_000).contains(&window) {
            return Err(InvalidAdaptive::Window(window));
        }
        Ok(())
    }
}

impl Default for AdaptiveSettings {
    fn default() -> Self {
        Self { initial: 20, min: 4, max: 1000, tolerance: 1.2, window: 200 }
    }
}

impl Adaptive {
    /// A limit that has seen nothing yet.
    ///
    /// # Errors
    ///
    /// The first of the settings that is out of range.
    pub fn new(settings: AdaptiveSettings) -> Result<Self, InvalidAdaptive> {
        settings.check()?;
        Ok(Self {
            settings,
            limit: settings.initial as f64,
            base: None,
            starting: true,
            suspect: None,
            trial: None,
            settled: None,
            window: Window::default(),
        })
    }

    /// How many may be in flight.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// How long a response is taken to need without load, or `None` before the first window is full.
    pub fn base(&self) -> Option<Duration> {
        self.base.map(Duration::from_secs_f64)
    }

    /// Notes that a request was let in, the `in_flight`th of those that are there now.
    pub fn on_start(&mut self, in_flight: usize) {
        self.window.peak = self.window.peak.max(in_flight);
    }

    /// Notes that a request found no room with so many `in_flight`: the limit, or the part of it that its class may use.
    pub fn on_full(&mut self, in_flight: usize) {
        self.window.full = Some(self.window.full.map_or(in_flight, |full| full.min(in_flight)));
    }

    /// Notes what came of a request, and returns the limit as it is after that.
    pub fn on_end(&mut self, outcome: Outcome, began: Instant, now: Instant) -> usize {
        if outcome == Outcome::Ignored || self.settled.is_some_and(|settled| now < settled) {
            return self.limit();
        }
        let window = &mut self.window;
        let started = *window.began.get_or_insert(now);
        if outcome == Outcome::Success {
            window.successes += 1;
            window.sum += now.saturating_duration_since(began).as_secs_f64();
        } else {
            window.overloaded += 1;
        }
        let elapsed = now.saturating_duration_since(started).as_secs_f64();
        let count = window.successes + window.overloaded;
        let latency = window.sum / f64::from(window.successes.max(1));
        // In a shorter time than that, those that are fast would be heard more often than the others.
        if count >= self.settings.window && elapsed >= 2.0 * latency {
            let window = std::mem::take(window);
            let in_flight = latency * f64::from(count) / elapsed.max(f64::MIN_POSITIVE);
            // Where somebody was turned away, more are there to be let in.
            let room = window.full.map_or(HEADROOM * window.peak as f64, |_| f64::INFINITY);
            let allowed = window.full.map_or(self.limit, |full| self.limit.min(full as f64));
            if f64::from(window.overloaded) > OVERLOADED * f64::from(count) {
                self.back_off(latency, room, now);
            } else {
                self.decide(Sight { latency, in_flight, allowed, room }, now);
            }
        }
        self.limit()
    }

    /// Too many said that they are too many.
    fn back_off(&mut self, latency: f64, room: f64, now: Instant) {
        if room > self.limit {
            self.trial = None;
            self.cut(self.limit * DRAIN, latency, now);
        }
    }

    fn decide(&mut self, sight: Sight, now: Instant) {
        let Sight { latency, in_flight, allowed, room } = sight;
        if in_flight < LEAST {
            return;
        }
        let saturated = in_flight >= SATURATED * allowed;
        let base = self.base.unwrap_or(latency);
        // Always deep enough to empty the queue that the tolerance allows.
        let mut deepest = DEEPEST_TRIAL.min(DRAIN / self.settings.tolerance);
        // Without a load that fills the limit a trial shows nothing.
        if let Some(trial) = self.trial.take().filter(|_| saturated) {
            let expected = base.max(trial.latency * self.limit / trial.limit);
            // Nearer to what it was than to what it should be, by ratio.
            if latency * latency > expected * trial.latency {
                // Even slower is another change, in the middle of the trial: all that is known is that it helped nobody.
                if latency <= trial.latency * STEADY {
                    self.base = Some(latency);
                }
                self.starting = trial.starting;
                self.set(trial.limit);
                self.settle(latency, now);
                return;
            }
            deepest = DEEPEST;
        }
        let base = self.follow(base, latency, saturated);
        if latency <= base * self.settings.tolerance {
            self.suspect = None;
            self.grow(room);
        } else if saturated && self.suspect.replace(latency).is_none_or(|last| latency > last * STEADY) {
            // Seen once it may be chance, or the middle of a change, which is nothing to compare a trial with.
            self.settle(latency, now);
        } else if saturated {
            self.trial = Some(Trial { limit: self.limit, latency, starting: self.starting });
            self.cut(self.limit * (DRAIN * base / latency).max(deepest), latency, now);
        }
    }

    /// Fast down and slow up, and not up at all where it may be our own queue that is being measured.
    fn follow(&mut self, base: f64, latency: f64, saturated: bool) -> f64 {
        let weight = match latency < base {
            true => 0.3,
            false if saturated => 0.0,
            false => 0.01,
        };
        *self.base.insert(base + weight * (latency - base))
    }

    fn grow(&mut self, room: f64) {
        let step = if self.starting { self.limit / 2.0 } else { self.limit / 20.0 };
        self.set((self.limit + step).min(room).max(self.limit));
    }

    fn cut(&mut self, limit: f64, latency: f64, now: Instant) {
        self.starting = false;
        self.set(limit);
        self.settle(latency, now);
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(self.settings.min as f64, self.settings.max as f64);
    }

    /// Looks away until what was in flight before the change is gone.
    fn settle(&mut self, latency: f64, now: Instant) {
        // More than an hour is no latency; the clock need not be able to count it.
        self.settled = now.checked_add(Duration::from_secs_f64((2.0 * latency).min(3600.0)));
        self.window = Window::default();
    }
}
