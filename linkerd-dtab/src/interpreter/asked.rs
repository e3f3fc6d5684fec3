//! The namers of an interpreter, and the answers of theirs that one binding depends on.

use std::{future::pending, sync::Arc};

use futures::stream::{FuturesUnordered, StreamExt};

use crate::{Activity, Bound, Name, NameTree, Namer, Path, State};

/// Namers in order of preference, each with the prefix that it is mounted at, and the system namers after them.
pub(crate) struct Namers {
    pub(crate) mounted: Vec<(Path, Arc<dyn Namer>)>,
    pub(crate) system: Arc<dyn Namer>,
}

/// What one binding has asked and still depends on.
#[derive(Default)]
pub(crate) struct Asked {
    // In the order of their namers and paths. A table of hashes has room for four at least, and most names have one.
    answers: Vec<Answer>,
    evaluation: u64,
}

struct Answer {
    namer: usize,
    path: Path,
    activity: Activity<NameTree<Name>>,
    // The evaluation that last read it.
    read: u64,
    // Its source was gone already when it was read: it cannot change.
    is_final: bool,
    // There was no answer yet when it was read.
    is_pending: bool,
}

impl Namers {
    /// What the namers say about `path` now. Negative answers go on to the next namer.
    pub(crate) fn ask(&self, path: &Path, asked: &mut Asked) -> State<NameTree<Name>> {
        for (index, (prefix, namer)) in self.mounted.iter().enumerate() {
            let Some(rest) = path.strip_prefix(prefix) else { continue };
            match asked.read(index, path, || namer.lookup(&rest)) {
                State::Ok(NameTree::Neg) => {}
                State::Ok(tree) if !namer.has_whole_ids() => return State::Ok(below(prefix, tree)),
                answer => return answer,
            }
        }
        if path.get(0) != Some(b"$") {
            return State::Ok(NameTree::Neg);
        }
        asked.read(self.mounted.len(), path, || self.system.lookup(path))
    }
}

#[cfg(feature = "namerd")]
impl Namers {
    /// What is said about `path` by the only namer that can have an answer. `None`: several can.
    pub(crate) fn ask_only(&self, path: &Path) -> Option<Activity<NameTree<Name>>> {
        let mut mounted = self.mounted.iter().filter_map(|(prefix, namer)| Some((namer, path.strip_prefix(prefix)?)));
        match (mounted.next(), mounted.next()) {
            (None, _) => Some(self.system.lookup(path)),
            (Some((namer, rest)), None) if path.get(0) != Some(b"$") => Some(namer.lookup(&rest)),
            _ => None,
        }
    }
}

/// The same tree with `prefix` before the ids of its bound leaves.
fn below(prefix: &Path, tree: NameTree<Name>) -> NameTree<Name> {
    tree.map(&mut |name| match name {
        Name::Bound(bound) => Name::Bound(Bound { id: prefix.concat(&bound.id), ..bound }),
        Name::Path(path) => Name::Path(path),
    })
}

impl Asked {
    /// Begins an evaluation: what it does not read is forgotten by [`end`](Self::end).
    pub(crate) fn begin(&mut self) {
        self.evaluation += 1;
    }

    /// Ends an evaluation: watches that it did not read are given up.
    pub(crate) fn end(&mut self) {
        self.answers.retain(|answer| answer.read == self.evaluation);
        // What was read before is still there while what is read now is asked for: mostly one answer, then two.
        self.answers.shrink_to_fit();
    }

    /// Whether nothing that was read can change.
    pub(crate) fn is_final(&self) -> bool {
        self.answers.iter().all(|answer| answer.is_final)
    }

    /// Whether somebody who was asked had not answered yet: what was made of it may be a part of the whole.
    #[cfg(feature = "namerd")]
    pub(crate) fn waits(&self) -> bool {
        self.answers.iter().any(|answer| answer.is_pending)
    }

    /// Waits until something that was read changes; for ever if nothing can.
    ///
    /// Cancel safe: a change that is not waited for is noticed the next time.
    pub(crate) async fn changed(&mut self) {
        if self.is_final() {
            return pending().await;
        }
        // Boxed: of what is bound to literal addresses, nothing can, and there are many such names.
        Box::pin(self.live_changed()).await;
    }

    async fn live_changed(&mut self) {
        let mut live: Vec<_> = self.answers.iter_mut().filter(|answer| !answer.is_final).collect();
        // Most names have one answer: it needs no set.
        if let [only] = &mut live[..] {
            return only.activity.changed().await;
        }
        let mut changes: FuturesUnordered<_> = live.into_iter().map(|answer| answer.activity.changed()).collect();
        changes.next().await;
    }

    fn read(
        &mut self,
        namer: usize,
        path: &Path,
        lookup: impl FnOnce() -> Activity<NameTree<Name>>,
    ) -> State<NameTree<Name>> {
        let place = self.answers.binary_search_by(|answer| (answer.namer, &answer.path).cmp(&(namer, path)));
        let index = place.unwrap_or_else(|index| {
            if self.answers.is_empty() {
                self.answers.reserve_exact(1);
            }
            let activity = lookup();
            let path = path.clone();
            self.answers.insert(index, Answer { namer, path, activity, read: 0, is_final: false, is_pending: true });
            index
        });
        let answer = &mut self.answers[index];
        answer.read = self.evaluation;
        // Before the value is read: after it, a last value may have come in between.
        answer.is_final = answer.activity.is_final();
        let found = answer.activity.sample_and_update();
        answer.is_pending = matches!(found, State::Pending);
        found
    }
}
