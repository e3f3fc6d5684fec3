//! Which part of a set is asked first, and when the next one is.

use std::{fmt, sync::Arc};

/// Prefers some endpoints to others: those of the local zone, those of a better priority.
///
/// A set is divided into *tiers*: first by [`Member::priority`](crate::Member::priority), within that by zone: the
/// local one, those of [`fallback`](Self::fallback) in their order, all others. Each request is for one tier, whose
/// endpoints the strategy balances as if there were no others. It leaves the first tier
///
/// - by **health**: once fewer than [`min_open`](Self::min_open) of the tier's endpoints are open, the tier keeps a
///   share of the requests that shrinks with them, and the next tier gets the rest. It has all of them back when
///   the greater share that was given with it is open, so that one endpoint that comes and goes does not move
///   traffic to and fro;
/// - by **load**: when the endpoint that was picked has [`spill_load`](Self::spill_load) requests in flight or more, for one
///   of mean weight: to the first tier after it where that is not so, or if it is so everywhere to where there are least;
/// - by **need**: when no endpoint of it is open, for the very request that finds it so.
///
/// An endpoint whose time to be probed has come gets its probe whatever its tier's share is; else a tier that lost all
/// would never come back. Keyed requests (hashing) choose their tier by key, so that they stay where they are.
///
/// # Defaults
///
/// No zones, 70 % and 90 %, no spilling by load.
#[derive(Clone, Debug, PartialEq)]
pub struct Tiers {
    local: Option<Arc<str>>,
    fallback: Vec<Arc<str>>,
    min_open: f64,
    return_open: f64,
    spill_load: Option<f64>,
}

/// Tiers that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTiers {
    /// Not a share.
    #[error("a share of {0} open endpoints, not from 0 to 1")]
    Share(f64),
    /// It would come back before it went.
    #[error("a tier is left below {min_open} and taken back at {return_open}, which is less")]
    Order {
        /// Below this share it is left.
        min_open: f64,
        /// From this share on it is taken back.
        return_open: f64,
    },
    /// Not a load.
    #[error("a spill load of {0}, not a finite number above 0")]
    SpillLoad(f64),
}

/// One tier of a set, as of one instant.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TierInfo {
    /// The priority of its endpoints.
    pub priority: u32,
    /// Its zone; none if it holds several, or nobody says.
    pub zone: Option<Arc<str>>,
    /// Its endpoints.
    pub size: usize,
    /// How many of them are open.
    pub open: usize,
    /// Its requests in flight.
    pub in_flight: usize,
    /// The share of requests that is meant for it, from 0 to 1, what spills by load not counted.
    pub share: f64,
    /// Why it has that share.
    pub why: TierReason,
}

/// Why a tier has the share of requests that it has.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum TierReason {
    /// It is the best one, and well.
    Preferred,
    /// It is the best one, and well; but no endpoint of the set says its zone, so that the local one prefers nobody.
    NoZones,
    /// It is the best one, and well; but no endpoint of the set is in the local zone, of those that say theirs. Perhaps its
    /// name is another.
    NoneLocal,
    /// Too few of its endpoints are open.
    Unhealthy {
        /// Those that are.
        open: usize,
        /// Of so many.
        size: usize,
    },
    /// A better one is unhealthy, so it takes what that leaves.
    TakesOver,
    /// Better ones take all there is; it gets what they spill, if they may.
    Standby,
}

impl Tiers {
    /// Divides a set by priority only.
    #[must_use]
    pub const fn new() -> Self {
        Self { local: None, fallback: Vec::new(), min_open: 0.7, return_open: 0.9, spill_load: None }
    }

    /// Prefers the endpoints of this zone.
    #[must_use]
    pub fn local(mut self, zone: impl Into<Arc<str>>) -> Self {
        self.local = Some(zone.into());
        self
    }

    /// After the local zone these, in this order.
    #[must_use]
    pub fn fallback<Z: Into<Arc<str>>>(mut self, zones: impl IntoIterator<Item = Z>) -> Self {
        self.fallback = zones.into_iter().map(Into::into).collect();
        self
    }

    /// Leaves a tier when less than the share `leave` of its endpoints is open, and is back in full from the share
    /// `back` on.
    ///
    /// # Errors
    ///
    /// What is no share, and `back` below `leave`.
    pub fn min_open(self, leave: f64, back: f64) -> Result<Self, InvalidTiers> {
        for share in [leave, back] {
            if !(0.0..=1.0).contains(&share) {
                return Err(InvalidTiers::Share(share));
            }
        }
        if back < leave {
            return Err(InvalidTiers::Order { min_open: leave, return_open: back });
        }
        Ok(Self { min_open: leave, return_open: back, ..self })
    }

    /// Sends a request on when the endpoint that was picked has so many in flight or more, for one of the tier's mean
    /// weight: to the next tier, or if that has no open endpoint or is as full, to the one after it, and so on. Where all are
    /// that full it goes to the one with the least in flight.
    ///
    /// # Errors
    ///
    /// A load that is not a finite number above zero.
    pub fn spill_load(self, in_flight: f64) -> Result<Self, InvalidTiers> {
        if in_flight.is_finite() && in_flight > 0.0 {
            return Ok(Self { spill_load: Some(in_flight), ..self });
        }
        Err(InvalidTiers::SpillLoad(in_flight))
    }

    pub(crate) const fn spills_at(&self) -> Option<f64> {
        self.spill_load
    }

    /// The zone that is preferred.
    #[must_use]
    pub fn local_zone(&self) -> Option<&str> {
        self.local.as_deref()
    }

    /// Where an endpoint stands: less is better.
    pub(crate) fn rank(&self, priority: u32, zone: Option<&Arc<str>>) -> Rank {
        let Some(local) = &self.local else { return Rank { priority, zone: 0 } };
        let place = match zone {
            Some(zone) if zone == local => 0,
            Some(zone) => 1 + self.fallback.iter().position(|z| z == zone).unwrap_or(self.fallback.len()),
            None => 1 + self.fallback.len(),
        };
        Rank { priority, zone: u32::try_from(place).unwrap_or(u32::MAX) }
    }

    /// Whether a tier that was `left` or not is left now.
    pub(crate) fn leaves(&self, left: bool, open: usize, size: usize) -> bool {
        let open = open as f64;
        open < if left { self.return_open } else { self.min_open } * size as f64
    }

    /// How much of the requests that reach it a tier keeps.
    pub(crate) fn keeps(&self, left: bool, open: usize, size: usize) -> f64 {
        if !left {
            return 1.0;
        }
        (open as f64 / size as f64 / self.return_open).min(1.0)
    }
}

impl Default for Tiers {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TierReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preferred => f.write_str("preferred"),
            Self::NoZones => f.write_str("the best there is, but a local zone is set and no endpoint says its zone"),
            Self::NoneLocal => f.write_str("the best there is, but no endpoint is in the local zone"),
            Self::Unhealthy { open, size } => write!(f, "only {open} of {size} endpoints are open"),
            Self::TakesOver => f.write_str("takes over what an unhealthy tier leaves"),
            Self::Standby => f.write_str("standby: better tiers take all"),
        }
    }
}

/// The place of a tier among the tiers of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) priority: u32,
    zone: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_ranked_local_then_fallback_then_the_rest() {
        let tiers = Tiers::new().local("a").fallback(["c", "b"]);
        let rank = |priority, zone: &str| tiers.rank(priority, Some(&zone.into()));
        let mut ranks = [rank(1, "a"), rank(0, "x"), rank(0, "b"), tiers.rank(0, None), rank(0, "c"), rank(0, "a")];
        ranks.sort_unstable();
        let sorted = [rank(0, "a"), rank(0, "c"), rank(0, "b"), rank(0, "x"), rank(0, "y"), rank(1, "a")];
        assert_eq!(ranks, sorted);
    }

    #[test]
    fn without_a_local_zone_only_priority_counts() {
        let tiers = Tiers::new();
        assert_eq!(tiers.rank(0, Some(&"a".into())), tiers.rank(0, None));
        assert!(tiers.rank(0, None) < tiers.rank(1, None));
    }

    #[test]
    fn a_tier_is_left_at_one_share_and_taken_back_at_a_greater() {
        let tiers = Tiers::new().min_open(0.5, 0.8).unwrap();
        assert!(!tiers.leaves(false, 5, 10));
        assert!(tiers.leaves(false, 4, 10));
        assert!(tiers.leaves(true, 7, 10));
        assert!(!tiers.leaves(true, 8, 10));
        assert_eq!(tiers.keeps(false, 5, 10), 1.0);
        assert_eq!(tiers.keeps(true, 4, 10), 0.5);
        assert_eq!(tiers.keeps(true, 0, 10), 0.0);
    }

    #[test]
    fn what_cannot_be_is_named() {
        assert_eq!(Tiers::new().min_open(0.5, 1.5), Err(InvalidTiers::Share(1.5)));
        let err = Tiers::new().min_open(0.5, 0.4).unwrap_err();
        assert_eq!(err.to_string(), "a tier is left below 0.5 and taken back at 0.4, which is less");
        for bad in [0.0, -1.0, f64::NAN] {
            assert!(Tiers::new().spill_load(bad).unwrap_err().to_string().contains(&format!("{bad}")));
        }
    }
}
