//! Waiting until an explanation says something about everything.

use std::{future::pending, time::Duration};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::{
    select,
    time::{Instant, timeout_at},
};

#[cfg(feature = "namerd")]
use super::Node;
use super::{Delegation, Step};
#[cfg(feature = "namerd")]
use crate::interpreter::decides;
use crate::{Activity, Addr, Failure, State};

/// Why there is no settled explanation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unsettled {
    /// Names or addresses were still unknown after this time.
    #[error("not settled within {after:?}")]
    Pending {
        /// How long was waited.
        after: Duration,
        /// What was known then, if anything: nodes and addresses that are pending took too long.
        last: Option<Box<Delegation>>,
    },
    /// The interpreter could not explain: its own table is not known.
    #[error("the interpreter cannot explain now")]
    Failed {
        /// Why.
        source: Failure,
    },
}

/// Waits until no name and no address of the explanation is pending any more, but no longer than `timeout`.
///
/// # Errors
///
/// [`Unsettled`], which holds what is known so far.
///
/// # Cancel safety
///
/// Cancel safe; nothing is lost but the wait.
pub async fn settled(mut activity: Activity<Delegation>, timeout: Duration) -> Result<Delegation, Unsettled> {
    let deadline = Instant::now() + timeout;
    loop {
        let last = match activity.sample_and_update() {
            State::Failed(source) => return Err(Unsettled::Failed { source }),
            State::Pending => None,
            State::Ok(delegation) => Some(delegation),
        };
        let mut unknown = Vec::new();
        if let Some(delegation) = &last {
            unknown = delegation.addresses();
            unknown.retain(|addr| matches!(addr.sample(), State::Pending));
            let waits = delegation.nodes().any(|node| matches!(node.step, Step::Pending));
            if unknown.is_empty() && !waits {
                return Ok(delegation.clone());
            }
        }
        let changed = async {
            select! {
                () = activity.changed() => {}
                () = any_known(&mut unknown) => {}
            }
        };
        if timeout_at(deadline, changed).await.is_err() {
            return Err(Unsettled::Pending { after: timeout, last: last.map(Box::new) });
        }
    }
}

#[cfg(feature = "namerd")]
impl Delegation {
    /// Whether the outcome depends on somebody who has not answered yet. A binding goes without the branches of a union that
    /// are not known, so its first answer may be a part of the whole.
    pub(crate) fn waits(&self) -> bool {
        self.steps.waits()
    }
}

#[cfg(feature = "namerd")]
impl Node {
    fn waits(&self) -> bool {
        self.standing().0
    }

    /// Whether the outcome waits for somebody, and whether there is one that decides. Each node is looked at once: what
    /// alternatives lead to doubles with each level of a table that is made for it.
    fn standing(&self) -> (bool, bool) {
        match &self.step {
            Step::Delegate { namers: Some(to), .. }
            | Step::Delegate { to, namers: None }
            | Step::Rewritten(to)
            | Step::Transformed { to, .. } => to.standing(),
            Step::Alt(nodes) => {
                let (mut waits, mut decided) = (None, false);
                for node in nodes {
                    let (node_waits, decides) = node.standing();
                    if node_waits || decides {
                        waits.get_or_insert(node_waits);
                    }
                    decided |= decides;
                }
                (waits.unwrap_or(false), decided)
            }
            Step::Union(branches) => {
                let waits = branches.iter().any(|(_, node)| node.waits());
                (waits, decides(&self.outcome(None)))
            }
            Step::Pending => (true, decides(&State::Pending)),
            _ => (false, decides(&self.outcome(None))),
        }
    }
}

async fn any_known(addresses: &mut [Activity<Addr>]) {
    let mut changes: FuturesUnordered<_> = addresses.iter_mut().map(Activity::ready).collect();
    if changes.next().await.is_none() {
        pending::<()>().await;
    }
}
