//! Names in use that a table would leave without endpoints.

use std::time::Duration;

use tokio::{task::JoinHandle, time::Instant};

use super::{
    Role, Session,
    plan::{Live, Move, Settled},
};
use crate::{Bound, Distribution, Dtab, State, store::Namespace};

/// After a write so many names are looked at; of more nothing is said.
const MAX_NAMES: usize = 1_000;

/// How long the answer to a write waits for what becomes of them. The write itself does not wait.
const PATIENCE: Duration = Duration::from_millis(500);

/// At most so many names are told.
const MAX_TOLD: usize = 8;

/// Less than this is a rounding error.
const EPSILON: f64 = 1e-9;

/// Which share of the traffic finds no endpoint after a change that finds one now.
pub(super) fn lost(before: &Settled, after: &Settled) -> f64 {
    let lost = unserved(after) - unserved(before);
    if lost > EPSILON { lost } else { 0.0 }
}

/// Which share of the traffic finds no endpoint. What is not known is taken to be well.
fn unserved(tree: &Settled) -> f64 {
    match tree {
        None => 0.0,
        Some(Err(_)) => 1.0,
        Some(Ok(tree)) => {
            let distribution = Distribution::new(tree);
            let empty = distribution.leaves().iter().filter(|(bound, _)| is_empty(bound));
            distribution.unavailable() + empty.map(|(_, share)| share).sum::<f64>()
        }
    }
}

fn is_empty(bound: &Bound) -> bool {
    matches!(bound.addr.sample(), State::Ok(addr) if addr.endpoints().is_empty())
}

/// What is said of the names that lose endpoints by a change of `namespace`, those that lose most first.
pub(super) fn warning(namespace: &Namespace, moves: &[Move]) -> Option<String> {
    let mut lost: Vec<_> = moves.iter().filter(|found| found.lost > 0.0).collect();
    lost.sort_by(|a, b| b.lost.total_cmp(&a.lost).then_with(|| a.name.cmp(&b.name)));
    let one = |found: &&Move| {
        let Move { name, namespace: of, lost, .. } = found;
        let share = if *lost < 1.0 - EPSILON { format!("{:.1} % of ", lost * 100.0) } else { String::new() };
        let of = if of == namespace { String::new() } else { format!(" in {of}") };
        format!("{share}{name}{of}")
    };
    let mut told: Vec<_> = lost.iter().take(MAX_TOLD).map(one).collect();
    if lost.len() > MAX_TOLD {
        told.push(format!("and {} more", lost.len() - MAX_TOLD));
    }
    (!told.is_empty()).then(|| format!("names in use would have no endpoints: {}", told.join(", ")))
}

/// What names lose by a change that is being made.
pub(super) struct Outlook(Option<JoinHandle<Option<String>>>);

impl Outlook {
    /// What is said of it, once that is known. To be asked after the change.
    pub(super) async fn warning(mut self) -> Option<String> {
        let Some(task) = &mut self.0 else { return None };
        task.await.ok().flatten()
    }
}

impl Drop for Outlook {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Session {
    /// Begins to find out what names lose if a table becomes `dtab`, beside the change that makes it so.
    ///
    /// Nothing is found out while others plan, nor of more names than the bound, nor of a whole that this peer may not see.
    pub(super) async fn outlook(&self, namespace: &Namespace, dtab: &Dtab) -> Outlook {
        let Ok(affected) = self.namerd.affected(self, namespace, dtab).await else { return Outlook(None) };
        let mut left = MAX_NAMES;
        let mut names: Vec<(Namespace, Dtab, Vec<Live>)> = Vec::new();
        for (affected, after) in affected {
            if self.may(&affected, Role::Read).is_err() {
                continue;
            }
            // As they are bound now: soon they are bound by the new table.
            let live = self.namerd.live(&affected, &[], left);
            left -= live.len();
            names.push((affected, after, live));
        }
        if left == MAX_NAMES {
            return Outlook(None);
        }
        let (namerd, namespace) = (self.namerd.clone(), namespace.clone());
        Outlook(Some(tokio::spawn(async move {
            let _turn = namerd.inner.plans.try_acquire().ok()?;
            let deadline = Instant::now() + PATIENCE;
            let mut moves = Vec::new();
            for (affected, after, live) in names {
                moves.extend(namerd.moves(&affected, &after, live, deadline).await);
            }
            warning(&namespace, &moves)
        })))
    }
}
