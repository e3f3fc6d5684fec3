//! Building an explanation from the same lookups that a binding makes.

use std::sync::Arc;

use super::{Delegation, Entry, Node, Step, view::simplify};
use crate::{
    BindError, Dtab, Failure, Name, NameTree, Path, State,
    error::Steps,
    interpreter::{MAX_DEPTH, Work},
};

// People read it: fewer than a binding may take, since each step holds the text of an entry.
const MAX_LOOKUPS: usize = 2_000;
const MAX_LEVELS: usize = 500;

/// Explains how `path` is bound under `dtab`; `namers` answers for names that no entry of the table matches.
pub(crate) fn explain(dtab: &Dtab, path: &Path, namers: &mut dyn FnMut(&Path) -> State<NameTree<Name>>) -> Delegation {
    let mut explanation = Explanation { dtab, namers, steps: Vec::new(), work: Work::new(MAX_LOOKUPS, MAX_LEVELS) };
    let steps = explanation.name(path, None, 0);
    let exhausted = explanation.work.exhausted();
    let failure = exhausted.then(|| Arc::new(BindError::TooMuch { path: path.clone() }) as Failure);
    let mut root = steps.clone();
    simplify(&mut root);
    Delegation { root, failure, steps }
}

struct Explanation<'a> {
    dtab: &'a Dtab,
    namers: &'a mut dyn FnMut(&Path) -> State<NameTree<Name>>,
    steps: Vec<Path>,
    work: Work,
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
}

impl Explanation<'_> {
    // `depth` lookups have led to `path`, the last by `dentry`.
    fn name(&mut self, path: &Path, dentry: Option<&Entry>, depth: usize) -> Node {
        let at = Origin { path, dentry, depth: depth + 1 };
        if !(self.work.lookup(self.dtab.len()) && self.work.enter()) {
            return at.node(self.too_much());
        }
        self.steps.push(path.clone());
        let node = self.lookup(&at);
        self.steps.pop();
        self.work.leave();
        node
    }

    fn lookup(&mut self, at: &Origin<'_>) -> Node {
        let dtab = self.dtab.clone();
        let mut matches: Vec<_> = dtab.matching(at.path).collect();
        if matches.is_empty() {
            return self.ask(at);
        }
        if at.depth > MAX_DEPTH {
            return at.node(self.too_deep());
        }
        if matches.len() > 1 {
            let mut nodes = Vec::with_capacity(matches.len());
            for (index, suffix) in matches {
                nodes.push(self.entry(at, index, &suffix));
            }
            return at.node(Step::Alt(nodes));
        }
        let Some((index, suffix)) = matches.pop() else { return at.node(Step::Neg) };
        let to = Box::new(self.entry(at, index, &suffix));
        let falls_through = dtab.entries()[index].dst == NameTree::Neg;
        let namers = falls_through.then(|| Box::new(self.ask(at)));
        at.node(Step::Delegate { to, namers })
    }

    // What the entry at `index` makes of the name.
    fn entry(&mut self, at: &Origin<'_>, index: usize, suffix: &Path) -> Node {
        let entry = Entry { dtab: self.dtab.clone(), index };
        let at = Origin { path: at.path, dentry: Some(&entry), depth: at.depth };
        self.tree(&entry.dst, &at, &|this, leaf| {
            let path = leaf.concat(suffix);
            if !this.work.bytes(path.byte_len()) {
                return Node { path, dentry: Some(entry.clone()), step: this.too_much() };
            }
            this.name(&path, Some(&entry), at.depth)
        })
    }

    fn ask(&mut self, at: &Origin<'_>) -> Node {
        match (self.namers)(at.path) {
            State::Pending => at.node(Step::Pending),
            State::Failed(error) => at.node(Step::Failed(error)),
            State::Ok(_) if at.depth > MAX_DEPTH => at.node(self.too_deep()),
            State::Ok(NameTree::Neg) => at.node(Step::Neg),
            State::Ok(NameTree::Leaf(Name::Path(to))) => {
                let to = self.name(&to, at.dentry, at.depth);
                at.node(Step::Rewritten(Box::new(to)))
            }
            State::Ok(tree) => self.tree(&tree, at, &|this, name| match name {
                Name::Path(to) => this.name(to, at.dentry, at.depth),
                Name::Bound(bound) => at.node(Step::Leaf(bound.clone())),
            }),
        }
    }

    fn tree<T>(&mut self, tree: &NameTree<T>, at: &Origin<'_>, leaf: &dyn Fn(&mut Self, &T) -> Node) -> Node {
        if !self.work.enter() {
            return at.node(self.too_much());
        }
        let node = match tree {
            NameTree::Leaf(name) => leaf(self, name),
            // Written as `~`, it has no name of its own.
            NameTree::Neg => Node { path: Path::empty(), ..at.node(Step::Neg) },
            NameTree::Fail => at.node(Step::Fail),
            NameTree::Empty => at.node(Step::Empty),
            NameTree::Alt(trees) => {
                let mut nodes = Vec::with_capacity(trees.len());
                for tree in trees {
                    nodes.push(self.tree(tree, at, leaf));
                }
                at.node(Step::Alt(nodes))
            }
            NameTree::Union(branches) => {
                let mut nodes = Vec::with_capacity(branches.len());
                for branch in branches {
                    nodes.push((branch.weight, self.tree(&branch.tree, at, leaf)));
                }
                at.node(Step::Union(nodes))
            }
        };
        self.work.leave();
        node
    }

    fn too_deep(&self) -> Step {
        Step::Failed(Arc::new(BindError::TooDeep { limit: MAX_DEPTH, steps: Steps::new(&self.steps) }))
    }

    fn too_much(&self) -> Step {
        Step::Failed(Arc::new(BindError::TooMuch { path: self.steps.first().cloned().unwrap_or_default() }))
    }
}
