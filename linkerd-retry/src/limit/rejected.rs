//! Why a request was not let in.

use std::{sync::Arc, time::Duration};

use super::Criticality;
use crate::Delivery;

/// A limit let a request go no further. Nothing of it was sent, so it may be tried elsewhere, whatever it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "limit {name} {reason}: {in_flight} of {limit} in flight, {queued} queued, class {class}; nothing of the request \
     was sent"
)]
#[non_exhaustive]
pub struct Rejected {
    /// The limit's name.
    pub name: Arc<str>,
    /// How many it allows at a time, now.
    pub limit: usize,
    /// How many there were.
    pub in_flight: usize,
    /// How many were waiting, this one not included.
    pub queued: usize,
    /// The class of the request, which may be less than the whole limit is for.
    pub class: Criticality,
    /// What was wrong.
    pub reason: Reason,
}

/// What was wrong about a request that a [`ConcurrencyLimit`](super::ConcurrencyLimit) [rejected](Rejected).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// As much is in flight as its class may use, and requests do not wait.
    #[error("is full")]
    Full,
    /// As many are waiting as may wait, and none of a lower class.
    #[error("has a full queue")]
    QueueFull,
    /// It waited this long, which is as long as one may.
    #[error("was full for {0:?}")]
    Waited(Duration),
    /// It waited until its deadline.
    #[error("was full until the request's deadline")]
    Late,
    /// It waited, until a request of a higher class needed its place in the queue.
    #[error("gave its place in the queue to a higher class")]
    Displaced,
}

impl Rejected {
    /// Whether nothing of the request was sent: always.
    #[allow(clippy::unused_self)] // Asked of an error among others that have something to look at.
    pub const fn is_unsent(&self) -> bool {
        true
    }
}

impl Delivery for Rejected {
    /// None: it was never sent.
    fn bytes_written(&self) -> Option<u64> {
        Some(0)
    }
}
