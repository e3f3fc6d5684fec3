//! Addresses: where a bound name's replicas are.

use std::{net::SocketAddr, sync::Arc};

/// The replicas of a bound name, once known.
#[derive(Clone, Debug, PartialEq)]
pub enum Addr {
    /// These, possibly none.
    Bound(Arc<[Endpoint]>),
    /// The name has no address: authoritative, unlike a failed lookup.
    Neg,
}

/// One replica.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Endpoint {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its share of the traffic, relative to its siblings; 1 by default, finite and not negative.
    pub weight: f64,
    /// Where it runs, for zone-aware balancing.
    pub zone: Option<Arc<str>>,
    /// The name of the node that it runs on.
    pub node: Option<Arc<str>>,
    /// The `Host` that requests to it must carry, if not the caller's.
    pub authority: Option<Arc<str>>,
    /// Tells two lives of one address apart; 0 if the source does not know.
    pub generation: u64,
}

impl Endpoint {
    /// A replica of weight 1 at `addr`.
    #[must_use]
    pub const fn new(addr: SocketAddr) -> Self {
        Self { addr, weight: 1.0, zone: None, node: None, authority: None, generation: 0 }
    }

    /// The same replica with another weight.
    #[must_use]
    pub const fn with_weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// The same replica in a zone.
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<Arc<str>>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// The same replica on a node.
    #[must_use]
    pub fn with_node(mut self, node: impl Into<Arc<str>>) -> Self {
        self.node = Some(node.into());
        self
    }

    /// The same replica with an authority of its own.
    #[must_use]
    pub fn with_authority(mut self, authority: impl Into<Arc<str>>) -> Self {
        self.authority = Some(authority.into());
        self
    }
}

impl Addr {
    /// The replicas, none for [`Addr::Neg`].
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        match self {
            Self::Bound(endpoints) => endpoints,
            Self::Neg => &[],
        }
    }

    /// An address of these replicas.
    #[must_use]
    pub fn of(endpoints: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self::Bound(endpoints.into_iter().map(Endpoint::new).collect())
    }
}
