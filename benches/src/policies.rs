//! Policies by name, for the command lines of examples.

use linkerd_balance::{
    Aperture, Heap, Maglev, P2c, PeakEwma, Peer, Policy, Random, Ring, RoundRobin, StickyPrimary, Strategy, Subset,
};

/// What [`policy`] knows: `p2c` over requests in flight, all others over peak EWMA.
pub const POLICIES: [&str; 12] = [
    "p2c",
    "ewma",
    "aperture",
    "aperture-of-peer",
    "subset",
    "subset-of-peer",
    "ring",
    "maglev",
    "round-robin",
    "random",
    "heap",
    "sticky-primary",
];

/// The policy of this name. Subsets are of 100 endpoints, peers one of 20.
#[must_use]
pub fn policy(name: &str) -> Option<Policy> {
    fn over_ewma(strategy: impl Strategy) -> Policy {
        Policy::new(strategy, PeakEwma::default)
    }
    let peer = Peer::new(3, 20).ok()?;
    Some(match name {
        "p2c" => Policy::least_loaded(),
        "ewma" => Policy::peak_ewma(),
        "aperture" => over_ewma(Aperture::builder().client(1).build().ok()?),
        "aperture-of-peer" => over_ewma(Aperture::builder().peer(peer).build().ok()?),
        "subset" => over_ewma(Subset::new(100, 1, P2c::new()).ok()?),
        "subset-of-peer" => over_ewma(Subset::of_peer(100, peer, P2c::new()).ok()?),
        "ring" => over_ewma(Ring::new()),
        "maglev" => over_ewma(Maglev::new()),
        "round-robin" => over_ewma(RoundRobin::new()),
        "random" => over_ewma(Random::new()),
        "heap" => over_ewma(Heap::new()),
        "sticky-primary" => over_ewma(StickyPrimary::new()),
        _ => return None,
    })
}
