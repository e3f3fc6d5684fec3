//! Building an explanation from the same lookups that a binding makes.

use std::sync::Arc;

use super::{Delegation, Entry, Node, Step, view::simplify};
use crate::{BindError, Dtab, Failure, Name, NameTree, Path, State, Weighted, error::Steps, interpreter::Work};

/// Explains how `path` is bound under `dtab`, where no name may take more than `max_depth` lookups in a row; `namers`
/// answers for names that no entry of the table matches.
///
/// What a binding does is explained within the limits of a binding, so that it is too much only where a binding is. What
/// it does not do, because an alternative before it decides, has limits of its own, and is cut there.
pub(crate) fn explain(
    dtab: &Dtab,
    path: &Path,
    max_depth: usize,
    namers: &mut dyn FnMut(&Path) -> State<NameTree<Name>>,
) -> Delegation {
    let mut explanation = Explanation {
        dtab,
        max_depth,
        namers,
        steps: Vec::new(),
        work: Work::default(),
        work_aside: Work::aside(),
        is_aside: false,
    };
    let (steps, _) = explanation.name(path, None, 0);
    let exhausted = explanation.work.exhausted();
    let failure = exhausted.then(|| Arc::new(BindError::TooMuch { path: path.clone() }) as Failure);
    let mut root = steps.clone();
    simplify(&mut root);
    Delegation { root, failure, steps }
}

struct Explanation<'a> {
    dtab: &'a Dtab,
    max_depth: usize,
    namers: &'a mut dyn FnMut(&Path) -> State<NameTree<Name>>,
    steps: Vec<Path>,
    work: Work,
    work_aside: Work,
    // Below an alternative behind the one that decides.
    is_aside: bool,
}

/// What a node comes to in a binding, as far as it matters to the nodes above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Neg,
    Fail,
    /// Empty, a name or a union.
    Some,
    Failed,
    Pending,
}

impl Outcome {
    fn of(step: &Step) -> Self {
        match step {
            Step::Neg => Self::Neg,
            Step::Fail => Self::Fail,
            Step::Failed(_) => Self::Failed,
            Step::Pending => Self::Pending,
            _ => Self::Some,
        }
    }

    // As a binding's union does.
    fn of_union(branches: &[Self]) -> Self {
        let known = |outcome: &&Self| matches!(outcome, Self::Neg | Self::Fail | Self::Some);
        match branches.iter().filter(known).count() {
            0 if branches.contains(&Self::Failed) => Self::Failed,
            0 if branches.contains(&Self::Pending) => Self::Pending,
            0 => Self::Neg,
            1 => branches.iter().copied().find(|outcome| known(&outcome)).unwrap_or(Self::Neg),
            _ if branches.contains(&Self::Some) => Self::Some,
            _ => Self::Neg,
        }
    }
}

/// Where a node of a tree comes from.
struct Origin<'a> {
    path: &'a Path,
    dentry: Option<&'a Entry>,
    depth: usize,
}

impl Origin<'_> {
    fn node(&self, step: Step) -> Node {
        Node { path: self.path.clone(), dentry: self.dentry.cloned(), step }
    }

    fn end(&self, step: Step) -> (Node, Outcome) {
        let outcome = Outcome::of(&step);
        (self.node(step), outcome)
    }
}

impl Explanation<'_> {
    // `depth` lookups have led to `path`, the last by `dentry`.
    fn name(&mut self, path: &Path, dentry: Option<&Entry>, depth: usize) -> (Node, Outcome) {
        let at = Origin { path, dentry, depth: depth + 1 };
        let dtab = self.dtab;
        let Some(matches) = self.work().lookup(dtab, path) else { return at.end(self.too_much()) };
        self.steps.push(path.clone());
        let found = self.lookup(&at, &matches);
        self.steps.pop();
        found
    }

    fn lookup(&mut self, at: &Origin<'_>, matches: &[usize]) -> (Node, Outcome) {
        match *matches {
            [] => self.ask(at),
            [index] if self.dtab.entries()[index].dst == NameTree::Neg => {
                let entry = Entry { dtab: self.dtab.clone(), index };
                let neg = Node { path: Path::empty(), dentry: Some(entry), step: Step::Neg };
                let (namers, outcome) = self.ask(at);
                (at.node(Step::Delegate { to: Box::new(neg), namers: Some(Box::new(namers)) }), outcome)
            }
            _ if at.depth > self.max_depth => at.end(self.too_deep()),
            [index] => {
                let (to, outcome) = self.entry(at, index);
                (at.node(Step::Delegate { to: Box::new(to), namers: None }), outcome)
            }
            _ => self.alternatives(at, matches, |this, &index| this.entry(at, index)),
        }
    }

    // What the entry at `index` makes of the name.
    fn entry(&mut self, at: &Origin<'_>, index: usize) -> (Node, Outcome) {
        let entry = Entry { dtab: self.dtab.clone(), index };
        let suffix = at.path.drop_first(entry.prefix.size());
        let at = Origin { path: at.path, dentry: Some(&entry), depth: at.depth };
        self.tree(&entry.dst, &at, &|this, leaf| {
            let path = leaf.concat(&suffix);
            if !this.work().bytes(path.byte_len()) {
                return Origin { path: &path, ..at }.end(this.too_much());
            }
            this.name(&path, Some(&entry), at.depth)
        })
    }

    fn ask(&mut self, at: &Origin<'_>) -> (Node, Outcome) {
        match (self.namers)(at.path) {
            State::Pending => at.end(Step::Pending),
            State::Failed(error) => at.end(Step::Failed(error)),
            State::Ok(_) if at.depth > self.max_depth => at.end(self.too_deep()),
            State::Ok(tree) => {
                let (node, outcome) = self.tree(&tree, at, &|this, name| match name {
                    Name::Path(to) => this.name(to, at.dentry, at.depth),
                    Name::Bound(bound) => at.end(Step::Leaf(bound.clone())),
                });
                match tree {
                    NameTree::Leaf(Name::Path(_)) => (at.node(Step::Rewritten(Box::new(node))), outcome),
                    // The namers do not know the name: unlike a `~` that is written, it has one.
                    NameTree::Neg => (Node { path: at.path.clone(), ..node }, outcome),
                    _ => (node, outcome),
                }
            }
        }
    }

    fn tree<T>(
        &mut self,
        tree: &NameTree<T>,
        at: &Origin<'_>,
        leaf: &dyn Fn(&mut Self, &T) -> (Node, Outcome),
    ) -> (Node, Outcome) {
        if !self.work().enter() {
            return at.end(self.too_much());
        }
        let found = match tree {
            NameTree::Leaf(name) => leaf(self, name),
            // Written as `~`, it has no name of its own.
            NameTree::Neg => (Node { path: Path::empty(), ..at.node(Step::Neg) }, Outcome::Neg),
            NameTree::Fail => at.end(Step::Fail),
            NameTree::Empty => at.end(Step::Empty),
            NameTree::Alt(trees) => self.alternatives(at, trees, |this, tree| this.tree(tree, at, leaf)),
            NameTree::Union(branches) => self.union(branches, at, leaf),
        };
        self.work().leave();
        found
    }

    fn union<T>(
        &mut self,
        branches: &[Weighted<T>],
        at: &Origin<'_>,
        leaf: &dyn Fn(&mut Self, &T) -> (Node, Outcome),
    ) -> (Node, Outcome) {
        let mut nodes = Vec::with_capacity(branches.len());
        let mut outcomes = Vec::with_capacity(branches.len());
        for branch in branches {
            let (node, outcome) = self.tree(&branch.tree, at, leaf);
            nodes.push((branch.weight, node));
            outcomes.push(outcome);
        }
        (at.node(Step::Union(nodes)), Outcome::of_union(&outcomes))
    }

    // All of them; those behind the one that decides are not part of a binding.
    fn alternatives<T>(
        &mut self,
        at: &Origin<'_>,
        all: &[T],
        mut explain: impl FnMut(&mut Self, &T) -> (Node, Outcome),
    ) -> (Node, Outcome) {
        let was_aside = self.is_aside;
        let mut nodes = Vec::with_capacity(all.len());
        let mut decided = Outcome::Neg;
        for one in all {
            if decided != Outcome::Neg && !self.is_aside {
                self.is_aside = true;
                self.work_aside.start_below(&self.work);
            }
            let (node, outcome) = explain(self, one);
            nodes.push(node);
            if decided == Outcome::Neg {
                decided = outcome;
            }
        }
        self.is_aside = was_aside;
        (at.node(Step::Alt(nodes)), decided)
    }

    fn work(&mut self) -> &mut Work {
        if self.is_aside { &mut self.work_aside } else { &mut self.work }
    }

    fn too_deep(&self) -> Step {
        Step::Failed(Arc::new(BindError::TooDeep { limit: self.max_depth, steps: Steps::new(&self.steps) }))
    }

    fn too_much(&self) -> Step {
        Step::Failed(Arc::new(BindError::TooMuch { path: self.steps.first().cloned().unwrap_or_default() }))
    }
}
