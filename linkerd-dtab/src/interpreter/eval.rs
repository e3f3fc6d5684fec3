//! Binding as a pure function of a table and what the namers say now.

use std::sync::Arc;

use crate::{BindError, Bound, Dtab, Failure, Name, NameTree, Path, State, Weighted, error::Steps};

/// How many lookups in a row a name may take.
pub const MAX_DEPTH: usize = 100;

// Bounds on one evaluation. A table in which a union refers to itself doubles the work with each lookup, so a limit on
// depth alone bounds nothing. Stack: each level is a frame of a few hundred bytes.
const MAX_LOOKUPS: usize = 10_000;
const MAX_LEVELS: usize = 1_000;
const MAX_WORK: usize = 32 << 20;

type Tree = NameTree<Bound>;
/// What becomes of a leaf, given the weight of the branch that it is on.
type Leaf<'f, 'e, T> = &'f dyn Fn(&mut Evaluation<'e>, &T, Option<f64>) -> State<Tree>;

/// Binds `path` under `dtab`; `namers` answers for names that no entry of the table matches.
///
/// No name may take more than `max_depth` lookups in a row, nor all together more than 10,000.
///
/// The answer has no [`NameTree::Alt`]: it is negative, fails, is empty, is one bound name, or is a union of those that
/// can take traffic.
pub fn evaluate(
    dtab: &Dtab,
    path: &Path,
    max_depth: usize,
    namers: &mut dyn FnMut(&Path) -> State<NameTree<Name>>,
) -> State<Tree> {
    let mut evaluation =
        Evaluation { dtab, max_depth, namers, steps: Vec::new(), work: Work::new(MAX_LOOKUPS, MAX_LEVELS) };
    let found = evaluation.lookup(path.clone(), 0, None);
    if evaluation.work.exhausted() {
        return failed(BindError::TooMuch { path: path.clone() });
    }
    found
}

struct Evaluation<'a> {
    dtab: &'a Dtab,
    max_depth: usize,
    namers: &'a mut dyn FnMut(&Path) -> State<NameTree<Name>>,
    steps: Vec<Path>,
    work: Work,
}

/// What has been done so far, so that it can be bounded.
#[derive(Debug)]
pub(crate) struct Work {
    lookups_left: usize,
    levels_left: usize,
    units: usize,
    over: bool,
}

impl Work {
    pub(crate) fn new(max_lookups: usize, max_levels: usize) -> Self {
        Self { lookups_left: max_lookups, levels_left: max_levels, units: 0, over: false }
    }

    /// Counts a lookup in a table of this many entries. False: too much.
    pub(crate) fn lookup(&mut self, entries: usize) -> bool {
        self.units += entries;
        match self.lookups_left.checked_sub(1) {
            Some(left) => self.lookups_left = left,
            None => self.over = true,
        }
        self.check()
    }

    /// Counts the bytes of a path that is made.
    pub(crate) fn bytes(&mut self, bytes: usize) -> bool {
        self.units += bytes;
        self.check()
    }

    /// Goes one level down; [`leave`](Self::leave) goes up again. False: too deep.
    pub(crate) fn enter(&mut self) -> bool {
        match self.levels_left.checked_sub(1) {
            Some(left) => self.levels_left = left,
            None => self.over = true,
        }
        self.check()
    }

    pub(crate) fn leave(&mut self) {
        self.levels_left += 1;
    }

    pub(crate) fn exhausted(&self) -> bool {
        self.over
    }

    fn check(&mut self) -> bool {
        self.over |= self.units > MAX_WORK;
        !self.over
    }
}

impl<'e> Evaluation<'e> {
    // `depth` lookups have led to `path`; `weight` is that of the innermost union branch on the way.
    fn lookup(&mut self, path: Path, depth: usize, weight: Option<f64>) -> State<Tree> {
        if !self.work.lookup(self.dtab.len()) {
            return self.too_much();
        }
        self.steps.push(path);
        let found = self.answer(depth + 1, weight);
        self.steps.pop();
        found
    }

    fn answer(&mut self, depth: usize, weight: Option<f64>) -> State<Tree> {
        let path = self.steps.last().cloned().unwrap_or_default();
        let dtab = self.dtab.clone();
        let mut matches = dtab.matches(&path);
        let (first, second) = (matches.next(), matches.next());
        let Some(first) = first.filter(|(entry, _)| second.is_some() || entry.dst != NameTree::Neg) else {
            return self.ask(&path, depth, weight);
        };
        // Whatever the answer is: a lookup too many is rejected even if it would have been the last.
        if depth > self.max_depth {
            return self.too_deep();
        }
        for (entry, suffix) in [Some(first), second].into_iter().flatten().chain(matches) {
            let found = self.node(&entry.dst, weight, depth, &suffix);
            if decides(&found) {
                return found;
            }
        }
        State::Ok(NameTree::Neg)
    }

    fn ask(&mut self, path: &Path, depth: usize, weight: Option<f64>) -> State<Tree> {
        match (self.namers)(path) {
            State::Pending => State::Pending,
            State::Failed(error) => State::Failed(error),
            State::Ok(_) if depth > self.max_depth => self.too_deep(),
            State::Ok(tree) => self.tree(&tree, weight, &|this, name, weight| match name {
                Name::Path(path) => this.lookup(path.clone(), depth, weight),
                Name::Bound(bound) => State::Ok(NameTree::Leaf(Bound { weight, ..bound.clone() })),
            }),
        }
    }

    // A tree of the table, with what follows the prefix appended to each leaf.
    fn node(&mut self, tree: &NameTree<Path>, weight: Option<f64>, depth: usize, suffix: &Path) -> State<Tree> {
        self.tree(tree, weight, &|this, path, weight| {
            let path = path.concat(suffix);
            if !this.work.bytes(path.byte_len()) {
                return this.too_much();
            }
            this.lookup(path, depth, weight)
        })
    }

    fn tree<T>(&mut self, tree: &NameTree<T>, weight: Option<f64>, leaf: Leaf<'_, 'e, T>) -> State<Tree> {
        if !self.work.enter() {
            return self.too_much();
        }
        let found = match tree {
            NameTree::Leaf(name) => leaf(self, name, weight),
            NameTree::Neg => State::Ok(NameTree::Neg),
            NameTree::Fail => State::Ok(NameTree::Fail),
            NameTree::Empty => State::Ok(NameTree::Empty),
            NameTree::Union(branches) => {
                let mut union = Union::default();
                for branch in branches {
                    union.add(branch.weight, self.tree(&branch.tree, Some(branch.weight), leaf));
                }
                union.outcome()
            }
            NameTree::Alt(trees) => {
                let mut found = State::Ok(NameTree::Neg);
                for tree in trees {
                    found = self.tree(tree, weight, leaf);
                    if decides(&found) {
                        break;
                    }
                }
                found
            }
        };
        self.work.leave();
        found
    }

    fn too_deep(&self) -> State<Tree> {
        failed(BindError::TooDeep { limit: self.max_depth, steps: Steps::new(&self.steps) })
    }

    fn too_much(&self) -> State<Tree> {
        failed(BindError::TooMuch { path: self.steps.first().cloned().unwrap_or_default() })
    }
}

/// Whether this alternative decides: it is not negative. A pending or failed one is not.
pub(crate) fn decides(found: &State<Tree>) -> bool {
    !matches!(found, State::Ok(NameTree::Neg))
}

/// What becomes of a union: the branches that have an answer, simplified. If none has: the first failure, else pending.
#[derive(Default)]
pub(crate) struct Union {
    known: Vec<Weighted<Bound>>,
    failure: Option<Failure>,
    pending: bool,
}

impl Union {
    pub(crate) fn add(&mut self, weight: f64, found: State<Tree>) {
        match found {
            State::Ok(tree) => self.known.push(Weighted::new(weight, tree)),
            State::Failed(error) => self.failure = self.failure.take().or(Some(error)),
            State::Pending => self.pending = true,
        }
    }

    pub(crate) fn outcome(self) -> State<Tree> {
        let Self { mut known, failure, pending } = self;
        // A union of which one branch is known is that branch, be it a fail. The children are simplified already.
        if known.len() > 1 {
            known.retain(|branch| !matches!(branch.tree, NameTree::Neg | NameTree::Fail));
            return State::Ok(match known.len() {
                0 | 1 => known.pop().map_or(NameTree::Neg, |branch| branch.tree),
                _ => NameTree::Union(known),
            });
        }
        match (known.pop(), failure) {
            (Some(branch), _) => State::Ok(branch.tree),
            (None, Some(error)) => State::Failed(error),
            (None, None) if pending => State::Pending,
            (None, None) => State::Ok(NameTree::Neg),
        }
    }
}

fn failed<T>(error: BindError) -> State<T> {
    State::Failed(Arc::new(error) as Failure)
}
