//! Names in use that a table would leave without endpoints.

use std::{collections::HashSet, time::Duration};

use tokio::{task::JoinHandle, time::Instant};

use super::{
    Role, Session,
    plan::{Affected, Count, Elsewhere, Live, Move},
};
use crate::{Bound, Distribution, Dtab, NameTree, State, store::Namespace};

/// After a write so many names are looked at; of more nothing is said.
const MAX_NAMES: usize = 1_000;

/// How long the answer to a write waits for what becomes of them. The write itself does not wait.
const PATIENCE: Duration = Duration::from_millis(500);

/// At most so many names are told.
const MAX_TOLD: usize = 8;

/// Less than this is a rounding error.
const EPSILON: f64 = 1e-9;

/// Which share of the traffic finds no endpoint after a change that finds one now.
pub(super) fn lost(before: &State<NameTree<Bound>>, after: &State<NameTree<Bound>>) -> f64 {
    let lost = unserved(after) - unserved(before);
    if lost > EPSILON { lost } else { 0.0 }
}

/// Whether what is lost is all of a name's traffic.
pub(super) fn is_whole(lost: f64) -> bool {
    lost > 1.0 - EPSILON
}

/// Which share of the traffic finds no endpoint. What is not known is taken to be well.
fn unserved(tree: &State<NameTree<Bound>>) -> f64 {
    match tree {
        State::Pending => 0.0,
        State::Failed(_) => 1.0,
        State::Ok(tree) => {
            let distribution = Distribution::new(tree);
            let empty = distribution.leaves().iter().filter(|(bound, _)| is_empty(bound));
            distribution.unavailable() + empty.map(|(_, share)| share).sum::<f64>()
        }
    }
}

fn is_empty(bound: &Bound) -> bool {
    matches!(bound.addr.sample(), State::Ok(addr) if addr.endpoints().is_empty())
}

/// What is said of the names that lose endpoints by a change of `namespace`, those that lose most first. A name that clients
/// have under several tables of their own is told once, with the one under which it loses most.
pub(super) fn warning(namespace: &Namespace, moves: &[Move]) -> Option<String> {
    let mut lost: Vec<_> = moves.iter().filter(|found| found.lost > 0.0).collect();
    let entries = |found: &Move| found.extra.entries().len();
    lost.sort_by(|a, b| {
        b.lost.total_cmp(&a.lost).then_with(|| a.name.cmp(&b.name)).then_with(|| entries(a).cmp(&entries(b)))
    });
    let mut seen = HashSet::new();
    lost.retain(|found| seen.insert((&found.namespace, &found.name)));
    let one = |found: &&Move| {
        let Move { name, namespace: of, extra, lost, .. } = found;
        let share = if is_whole(*lost) { String::new() } else { format!("{:.1} % of ", lost * 100.0) };
        let of = if of == namespace { String::new() } else { format!(" in {of}") };
        let with = if extra.entries().is_empty() { String::new() } else { format!(" with {extra}") };
        format!("{share}{name}{of}{with}")
    };
    let mut told: Vec<_> = lost.iter().take(MAX_TOLD).map(one).collect();
    if lost.len() > MAX_TOLD {
        told.push(format!("and {} more", lost.len() - MAX_TOLD));
    }
    (!told.is_empty()).then(|| format!("names in use would have no endpoints: {}", told.join(", ")))
}

impl Elsewhere {
    /// What is said of names that lose endpoints, to who may not read them: how many.
    pub(super) fn warning(self) -> Option<String> {
        let Self::Counted(Count { moved, lost, partly_lost, .. }) = self else { return None };
        if lost + partly_lost == 0 {
            return None;
        }
        let what = [
            (lost, "loses all endpoints", "lose all endpoints"),
            (partly_lost, "loses those of a part of its requests", "lose those of a part of their requests"),
            (moved - lost - partly_lost, "moves", "move"),
        ];
        let mut said = String::new();
        for (count, one, many) in what.into_iter().filter(|(count, ..)| *count > 0) {
            let (names, verb) = if count == 1 { ("name", one) } else { ("names", many) };
            let begin = if said.is_empty() { format!("{count} {names} elsewhere") } else { format!(", {count}") };
            said.extend([&*begin, " ", verb]);
        }
        Some(said + "; you may not read them")
    }
}

/// What names lose by a change that is being made.
pub(super) struct Outlook(Option<JoinHandle<Vec<String>>>);

impl Outlook {
    /// What is said of it, once that is known. To be asked after the change.
    pub(super) async fn warnings(mut self) -> Vec<String> {
        let Some(task) = &mut self.0 else { return Vec::new() };
        task.await.unwrap_or_default()
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
    /// Nothing is found out while others plan, nor of more names than the bound. Names that this peer may not see are
    /// counted.
    pub(super) async fn outlook(&self, namespace: &Namespace, dtab: &Dtab) -> Outlook {
        let Ok(affected) = self.namerd.affected(namespace, dtab).await else { return Outlook(None) };
        let mut left = MAX_NAMES;
        let mut names: Vec<(Affected, Vec<Live>, bool)> = Vec::new();
        for affected in affected {
            let is_hidden = self.may(&affected.namespace, Role::Read).is_err();
            let live = self.namerd.live(&affected.namespace, &[], left);
            left -= live.len();
            names.push((affected, live, is_hidden));
        }
        if left == MAX_NAMES {
            return Outlook(None);
        }
        let (namerd, namespace) = (self.namerd.clone(), namespace.clone());
        Outlook(Some(tokio::spawn(async move {
            let Ok(_turn) = namerd.inner.plans.try_acquire() else { return Vec::new() };
            let deadline = Instant::now() + PATIENCE;
            let (mut moves, mut elsewhere) = (Vec::new(), Elsewhere::None);
            for (affected, live, is_hidden) in names {
                let found = namerd.moves(&affected, live, deadline).await;
                if is_hidden {
                    elsewhere.count(&found, &affected.owns);
                } else {
                    moves.extend(found);
                }
            }
            warning(&namespace, &moves).into_iter().chain(elsewhere.warning()).collect()
        })))
    }
}
