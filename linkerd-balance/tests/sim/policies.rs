//! The policies that are played. A new one is one line in [`all`].

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use linkerd_balance::{
    Accrual, Candidates, Draw, LeastLoaded, P2c, PeakEwma, Policy, Status, Strategy,
    accrual::{Backoff, ConsecutiveFailures, Never},
};

/// A client's policy, and its breakers'.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    /// What it promises beyond what all do.
    pub(crate) avoids: Avoids,
    /// Whether shares follow weights.
    pub(crate) weighs: bool,
    /// Whether endpoints that are alike get alike shares, in each ten seconds too.
    pub(crate) spreads: bool,
    /// Of the client with this ordinal, of so many.
    pub(crate) policy: Arc<dyn Fn(usize, usize) -> Policy>,
    pub(crate) accrual: fn() -> Box<dyn Accrual>,
    pub(crate) backoff: Backoff,
}

/// By what a policy tells a bad endpoint, breakers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Avoids {
    /// Nothing.
    Nothing,
    /// Requests in flight.
    Pending,
    /// Latency, whatever the answer.
    Speed,
    /// Latency and failures.
    Latency,
}

/// All of them.
pub(crate) fn all() -> Vec<Setup> {
    use Avoids::{Latency, Nothing, Pending, Speed};
    vec![
        setup("round robin", Nothing, |_, _| Policy::new(RoundRobin::default(), LeastLoaded::new)).no_weights(),
        setup("p2c, least loaded", Pending, |_, _| Policy::least_loaded()),
        setup("p2c, peak EWMA", Latency, |_, _| Policy::peak_ewma()),
        setup("round robin, no breaker", Nothing, |_, _| Policy::new(RoundRobin::default(), LeastLoaded::new))
            .no_weights()
            .no_breaker(),
        setup("p2c, least loaded, no breaker", Pending, |_, _| Policy::least_loaded()).no_breaker(),
        setup("p2c, peak EWMA, no breaker", Latency, |_, _| Policy::peak_ewma()).no_breaker(),
        setup("p2c, Finagle's EWMA, no breaker", Speed, |_, _| {
            Policy::new(P2c::new(), || PeakEwma::default().failure_penalty(Duration::ZERO))
        })
        .no_breaker(),
    ]
}

/// Linkerd's `p2c`: what broken ones are made of.
pub(crate) fn least_loaded() -> Setup {
    setup("p2c, least loaded", Avoids::Pending, |_, _| Policy::least_loaded())
}

/// With Linkerd's breaker: five failures in a row, 5 s to 300 s.
pub(crate) fn setup(name: &'static str, avoids: Avoids, policy: impl Fn(usize, usize) -> Policy + 'static) -> Setup {
    let accrual = || Box::new(ConsecutiveFailures::default()) as Box<dyn Accrual>;
    Setup { name, avoids, weighs: true, spreads: true, policy: Arc::new(policy), accrual, backoff: Backoff::default() }
}

impl Setup {
    pub(crate) fn no_weights(mut self) -> Self {
        self.weighs = false;
        self
    }

    pub(crate) fn no_breaker(mut self) -> Self {
        self.accrual = || Box::new(Never);
        self
    }

    /// The same with a policy that is changed in some way.
    pub(crate) fn with(mut self, change: impl Fn(Policy) -> Policy + 'static) -> Self {
        let policy = self.policy;
        self.policy = Arc::new(move |ordinal, of| change(policy(ordinal, of)));
        self
    }

    pub(crate) fn has_breaker(&self) -> bool {
        let mut accrual = (self.accrual)();
        let now = tokio::time::Instant::now().into_std();
        (0..100).any(|_| accrual.record(false, now))
    }

    pub(crate) fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The next one that is open, weights ignored.
#[derive(Debug, Default)]
struct RoundRobin(AtomicUsize);

impl Strategy for RoundRobin {
    fn pick(&self, nodes: &dyn Candidates, _draw: Draw) -> usize {
        let turn = self.0.fetch_add(1, Ordering::Relaxed);
        let order = (0..nodes.len()).map(|i| (turn + i) % nodes.len());
        order.clone().find(|i| nodes.status(*i) == Status::Open).unwrap_or(turn % nodes.len())
    }

    fn rebuild(&self, _nodes: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
        Some(Arc::new(Self::default()))
    }
}
