//! What a mesh does, at one instant; and what may be forced on it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use linkerd_balance::Status;
use linkerd_dtab::{Activity, Addr, Bound, Dtab, NameTree, Path};

/// A logical name in use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PathState {
    /// The name.
    pub path: Path,
    /// The table of the request's own that it is bound under, mostly empty.
    pub local: Dtab,
    /// What it is bound to.
    pub tree: Activity<NameTree<Bound>>,
    /// The bound ids that its requests go by, if there are any yet: those of `tree`, or while clients that are new there are
    /// not ready those of the one before.
    pub serving: Option<NameTree<Path>>,
    /// The limit on its requests, which it shares with the same name under other tables. `None`: there is none.
    pub limit: Option<LimitState>,
}

/// The limit on the requests of a logical name, at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitState {
    /// `concurrency`, `adaptive` or `rate`.
    pub kind: &'static str,
    /// How many it lets in at a time, or in its time if that is what it counts.
    pub limit: usize,
    /// How many were let in and have not ended. `None` for a rate.
    pub in_flight: Option<usize>,
    /// How many wait to be let in.
    pub queued: usize,
    /// How many were not let in so far.
    pub shed: u64,
}

/// A bound name in use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientState {
    /// The name.
    pub id: Path,
    /// Where its endpoints are; `None` if it is answered without any.
    pub addr: Option<Activity<Addr>>,
    /// The endpoints as the balancer has them.
    pub endpoints: Vec<EndpointState>,
    /// The balancer; `None` if the name is answered without any endpoint.
    pub balancer: Option<BalancerState>,
}

/// The balancer of a bound name.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BalancerState {
    /// How it picks, `p2c_peak_ewma` for example.
    pub algorithm: String,
    /// The settings that it was made from, as JSON, if it was made from a file.
    pub settings: Option<Arc<str>>,
    /// Its numbers.
    pub stats: linkerd_balance::Stats,
    /// Its tiers, best first.
    pub tiers: Vec<linkerd_balance::TierInfo>,
}

/// An endpoint in use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointState {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its share relative to its siblings'.
    pub weight: f64,
    /// Whether it is picked.
    pub status: Status,
    /// Requests in flight.
    pub pending: usize,
    /// The load that it is picked by; its unit is the balancer's.
    pub load: f64,
    /// Where it runs, if its source says.
    pub zone: Option<Arc<str>>,
    /// Its tier, from 0.
    pub tier: usize,
    /// The part of its weight that it has reached, if it starts slowly; else 1.
    pub ramp: f64,
    /// Whether picks may meet it: false outside of the subset that the balancer uses.
    pub is_used: bool,
    /// Whether its source dropped it, and it stays for now.
    pub is_leaving: bool,
    /// Why it is as it is, in words: `open`, or what took it out, since when, and when it is tried again.
    pub why: String,
}

/// What may be forced on the breaker of an endpoint, whatever its requests say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Nothing is let through for so long, unless there is nobody else.
    Open(Duration),
    /// Everything is let through for so long.
    Closed(Duration),
    /// Nothing is forced any more, and what was learned is forgotten.
    Reset,
}

impl Force {
    /// As long as it may last: what is forgotten must not last for ever.
    pub const MAX: Duration = Duration::from_hours(24);

    pub(crate) fn apply(self, breaker: &linkerd_balance::Breaker, now: Instant) {
        match self {
            Self::Open(ttl) => breaker.force_open(ttl.min(Self::MAX), now),
            Self::Closed(ttl) => breaker.force_closed(ttl.min(Self::MAX), now),
            Self::Reset => breaker.reset(now),
        }
    }
}
