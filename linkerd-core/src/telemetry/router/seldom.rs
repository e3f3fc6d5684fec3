//! Counters that are there from the first event on.

use std::{fmt, sync::OnceLock};

use crate::{
    Error, TimedOut, Timer,
    telemetry::{Counter, Scope},
};

/// A counter that is there from the first event on: Linkerd has none of its name.
#[derive(Clone, Debug)]
pub(super) struct Seldom {
    pub(super) scope: Scope,
    name: &'static str,
    counter: OnceLock<Counter>,
}

impl Seldom {
    pub(super) fn new(scope: &Scope, name: &'static str) -> Self {
        Self { scope: scope.clone(), name, counter: OnceLock::new() }
    }

    pub(super) fn add(&self, n: u64) {
        self.get().add(n);
    }

    pub(super) fn get(&self) -> &Counter {
        self.counter.get_or_init(|| self.scope.counter(self.name))
    }
}

/// Several counters of one scope, each of which is there from its first event on, and none of which takes room before.
pub(super) struct Rare<const N: usize> {
    scope: Scope,
    counters: OnceLock<Box<[OnceLock<Counter>; N]>>,
}

impl<const N: usize> Rare<N> {
    pub(super) fn new(scope: &Scope) -> Self {
        Self { scope: scope.clone(), counters: OnceLock::new() }
    }

    /// The one at this place, made by `make` in the scope that was told.
    pub(super) fn get(&self, at: usize, make: impl FnOnce(&Scope) -> Counter) -> &Counter {
        let counters = self.counters.get_or_init(|| Box::new(std::array::from_fn(|_| OnceLock::new())));
        counters[at].get_or_init(|| make(&self.scope))
    }
}

impl<const N: usize> fmt::Debug for Rare<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rare").field(&self.scope).finish()
    }
}

/// `timeouts/<timer>`: what each timer ended, there from the first on.
pub struct TimeoutStats(Rare<{ Timer::ALL.len() }>);

impl TimeoutStats {
    pub(super) fn new(scope: &Scope) -> Self {
        Self(Rare::new(scope))
    }

    /// Counts an error, if a timer is why, by [the name of the timer](Timer::name).
    pub fn record(&self, error: &Error) {
        if let Some(TimedOut { timer, .. }) = error.timer() {
            self.0.get(timer as usize, |scope| scope.scope("timeouts").counter(timer.name())).incr();
        }
    }
}

impl fmt::Debug for TimeoutStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TimeoutStats").field(&self.0).finish()
    }
}
