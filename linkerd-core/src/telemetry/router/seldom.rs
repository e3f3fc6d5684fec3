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

/// `timeouts/<timer>`: what each timer ended, there from the first on.
pub struct TimeoutStats {
    scope: Scope,
    by_timer: [OnceLock<Counter>; Timer::ALL.len()],
}

impl TimeoutStats {
    pub(super) fn new(scope: &Scope) -> Self {
        Self { scope: scope.scope("timeouts"), by_timer: std::array::from_fn(|_| OnceLock::new()) }
    }

    /// Counts an error, if a timer is why, by [the name of the timer](Timer::name).
    pub fn record(&self, error: &Error) {
        if let Some(TimedOut { timer, .. }) = error.timer() {
            self.by_timer[timer as usize].get_or_init(|| self.scope.counter(timer.name())).incr();
        }
    }
}

impl fmt::Debug for TimeoutStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TimeoutStats").field(&self.scope).finish()
    }
}
