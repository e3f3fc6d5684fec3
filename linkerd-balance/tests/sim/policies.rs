//! The policies that are played. A new one is one line in [`all`].

use std::{fmt, sync::Arc, time::Duration};

use linkerd_balance::{
    Accrual, Aperture, Heap, LeastLoaded, Maglev, P2c, PeakEwma, Policy, Random, Ring, RoundRobin, SlowStart,
    StickyPrimary, Subset,
    accrual::{Backoff, ConsecutiveFailures, Never, Unified},
};

/// A client's policy, and its breakers'.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    /// What it promises beyond what all do.
    pub(crate) avoids: Avoids,
    pub(crate) shares: Shares,
    /// Whether scenarios are told with it: not if it would say nothing new.
    pub(crate) is_told: bool,
    /// Of the client with this ordinal, of so many.
    pub(crate) policy: Arc<dyn Fn(usize, usize) -> Policy + Send + Sync>,
    pub(crate) accrual: fn() -> Box<dyn Accrual>,
    pub(crate) backoff: Backoff,
}

/// How a policy shares requests out among endpoints that are all well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shares {
    /// By weight.
    Weighed,
    /// By weight, as evenly as hashes are.
    Hashed,
    /// By weight, but for those that came of late.
    Ramping,
    /// Some have all, and others none.
    Few,
}

/// By what a policy tells a bad endpoint, breakers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Avoids {
    /// Nothing.
    Nothing,
    /// Requests in flight, and failures.
    Pending,
    /// Latency, whatever the answer.
    Speed,
    /// Latency and failures.
    Latency,
}

/// The first number whose client begins with the first of ten endpoints, found by trial.
const FIRST_FIRST: u64 = 2;

/// All of them.
pub(crate) fn all() -> Vec<Setup> {
    use Avoids::{Latency, Nothing, Pending, Speed};
    let decay = PeakEwma::DEFAULT_DECAY;
    let plain_ewma = move || PeakEwma::new(decay).expect("the default").failure_penalty(Duration::ZERO);
    vec![
        setup("round robin", Nothing, |_, _| Policy::new(RoundRobin::new(), LeastLoaded::new)),
        setup("random", Nothing, |_, _| Policy::new(Random::new(), LeastLoaded::new)),
        setup("p2c, least loaded", Pending, |_, _| Policy::least_loaded()),
        setup("heap, least loaded", Pending, |_, _| Policy::new(Heap::new(), LeastLoaded::new)),
        setup("p2c, peak EWMA", Latency, |_, _| Policy::peak_ewma()),
        setup("heap, peak EWMA", Latency, |_, _| Policy::new(Heap::new(), PeakEwma::default)),
        setup("aperture, least loaded", Pending, |ordinal, _| {
            // A client whose aperture begins with the first endpoint, which is the bad one of scenarios.
            let client = FIRST_FIRST + ordinal as u64;
            let aperture = Aperture::builder().client(client).build().expect("Linkerd's defaults");
            Policy::new(aperture, LeastLoaded::new)
        })
        .shares(Shares::Few),
        setup("p2c of a subset, peak EWMA", Latency, |ordinal, _| {
            let subset = Subset::new(5, ordinal as u64, P2c::new()).expect("not zero");
            Policy::new(subset, PeakEwma::default)
        })
        .shares(Shares::Few)
        .untold(),
        setup("sticky primary", Nothing, |_, _| Policy::new(StickyPrimary::new(), LeastLoaded::new))
            .shares(Shares::Few)
            .untold(),
        setup("ring", Nothing, |_, _| Policy::new(Ring::new(), LeastLoaded::new)).shares(Shares::Hashed),
        setup("maglev", Nothing, |_, _| Policy::new(Maglev::new(), LeastLoaded::new)).shares(Shares::Hashed),
        setup("p2c, peak EWMA, slow start", Latency, |_, _| {
            Policy::peak_ewma().slow_start(SlowStart::new(Duration::from_secs(10)).expect("not zero"))
        })
        .shares(Shares::Ramping),
        setup("p2c, peak EWMA, unified breaker", Latency, |_, _| Policy::peak_ewma())
            .accrual(|| Box::new(Unified::default()))
            .untold(),
        setup("round robin, no breaker", Nothing, |_, _| Policy::new(RoundRobin::new(), LeastLoaded::new))
            .accrual(|| Box::new(Never)),
        setup("p2c, least loaded, no breaker", Pending, |_, _| Policy::least_loaded()).accrual(|| Box::new(Never)),
        setup("p2c, peak EWMA, no breaker", Latency, |_, _| Policy::peak_ewma()).accrual(|| Box::new(Never)),
        setup("p2c, Finagle's least loaded, no breaker", Pending, |_, _| {
            Policy::new(P2c::new(), || LeastLoaded::new().failure_penalty(Duration::ZERO))
        })
        .accrual(|| Box::new(Never)),
        setup("p2c, Finagle's EWMA, no breaker", Speed, move |_, _| Policy::new(P2c::new(), plain_ewma))
            .accrual(|| Box::new(Never)),
    ]
}

/// Linkerd's `p2c`: what broken ones are made of.
pub(crate) fn least_loaded() -> Setup {
    setup("p2c, least loaded", Avoids::Pending, |_, _| Policy::least_loaded())
}

/// With Linkerd's breaker: five failures in a row, 5 s to 300 s.
pub(crate) fn setup(
    name: &'static str,
    avoids: Avoids,
    policy: impl Fn(usize, usize) -> Policy + Send + Sync + 'static,
) -> Setup {
    let accrual = || Box::new(ConsecutiveFailures::default()) as Box<dyn Accrual>;
    Setup {
        name,
        avoids,
        shares: Shares::Weighed,
        is_told: true,
        policy: Arc::new(policy),
        accrual,
        backoff: Backoff::default(),
    }
}

impl Setup {
    fn shares(self, shares: Shares) -> Self {
        Self { shares, ..self }
    }

    fn untold(self) -> Self {
        Self { is_told: false, ..self }
    }

    /// Whether each endpoint of those that are alike gets its part.
    pub(crate) fn spreads(&self) -> bool {
        self.shares != Shares::Few
    }

    /// Whether it goes by latency.
    pub(crate) fn judges_speed(&self) -> bool {
        matches!(self.avoids, Avoids::Speed | Avoids::Latency)
    }

    pub(crate) fn hashes(&self) -> bool {
        self.shares == Shares::Hashed
    }

    pub(crate) fn accrual(self, accrual: fn() -> Box<dyn Accrual>) -> Self {
        Self { accrual, ..self }
    }

    /// The same with a policy that is changed in some way.
    pub(crate) fn with(mut self, change: impl Fn(Policy) -> Policy + Send + Sync + 'static) -> Self {
        let policy = self.policy;
        self.policy = Arc::new(move |ordinal, of| change(policy(ordinal, of)));
        self
    }

    pub(crate) fn has_breaker(&self) -> bool {
        let mut accrual = (self.accrual)();
        let now = tokio::time::Instant::now().into_std();
        (0..100).any(|_| accrual.record(false, now).is_some())
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
