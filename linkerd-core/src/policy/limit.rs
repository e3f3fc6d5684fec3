//! How many requests of a name are let in.

use std::{num::NonZeroUsize, sync::Arc};

use linkerd_retry::limit::{
    AdaptiveSettings, ConcurrencyLimit, InvalidAdaptive, InvalidRate, RateLimit, RateSettings, Shares, WhenFull,
};

/// How many requests of a logical name are let in, at a time or in a time. Each name has a limit like this one, which all
/// that use the name share. A request has its place until its response has ended; a retry that waits leaves it to others
/// meanwhile and is let in again, except that a rate counts it once.
///
/// # Shares
///
/// Each class of requests may use its [share](Shares) of the limit. By default the two lower ones may use 80 % and 88 % and
/// the others all of it; in a queue the higher class goes first. A request says its
/// [class](linkerd_retry::limit::Criticality) by that type among its extensions, or by the header `l5d-ctx-criticality`;
/// one that says nothing is critical. A server takes the highest class from callers only that it trusts
/// (`http::PerRequest`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitPolicy {
    kind: Kind,
    when_full: WhenFull,
    shares: Option<Shares>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Concurrency(NonZeroUsize),
    Adaptive(AdaptiveSettings),
    Rate(RateSettings),
}

/// What a policy makes.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    AtATime(ConcurrencyLimit),
    InATime(RateLimit),
}

impl LimitPolicy {
    /// The shares of the classes, unless others are set.
    pub const DEFAULT_SHARES: [u8; 4] = [80, 88, 100, 100];

    /// So many at a time.
    #[must_use]
    pub const fn concurrency(max: NonZeroUsize, when_full: WhenFull) -> Self {
        Self { kind: Kind::Concurrency(max), when_full, shares: None }
    }

    /// As many at a time as the name's endpoints can take. Latencies are those of requests that were sent once; an answer of
    /// 429 or 503, an attempt or a request that took too long, and a full pool say that it was too many.
    ///
    /// # Errors
    ///
    /// The first of the settings that is out of range.
    pub fn adaptive(settings: AdaptiveSettings, when_full: WhenFull) -> Result<Self, InvalidAdaptive> {
        ConcurrencyLimit::adaptive("", settings, when_full)?;
        Ok(Self { kind: Kind::Adaptive(settings), when_full, shares: None })
    }

    /// So many in a time.
    ///
    /// # Errors
    ///
    /// The first of the settings that is out of range.
    pub fn rate(settings: RateSettings) -> Result<Self, InvalidRate> {
        RateLimit::new("", settings)?;
        Ok(Self { kind: Kind::Rate(settings), when_full: WhenFull::Reject, shares: None })
    }

    /// The same with other shares for the classes.
    #[must_use]
    pub const fn shares(mut self, shares: Shares) -> Self {
        self.shares = Some(shares);
        self
    }

    /// `concurrency`, `adaptive` or `rate`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Concurrency(_) => "concurrency",
            Kind::Adaptive(_) => "adaptive",
            Kind::Rate(_) => "rate",
        }
    }

    /// A limit like this one. None if it cannot be, which was checked when it was made.
    pub(crate) fn build(&self, name: Arc<str>) -> Option<Door> {
        let shares = self.shares.or_else(|| Shares::new(Self::DEFAULT_SHARES).ok())?;
        Some(match self.kind {
            Kind::Concurrency(max) => {
                Door::AtATime(ConcurrencyLimit::fixed(name, max, self.when_full).with_shares(shares))
            }
            Kind::Adaptive(settings) => {
                Door::AtATime(ConcurrencyLimit::adaptive(name, settings, self.when_full).ok()?.with_shares(shares))
            }
            Kind::Rate(settings) => Door::InATime(RateLimit::new(name, settings).ok()?.with_shares(shares)),
        })
    }
}
