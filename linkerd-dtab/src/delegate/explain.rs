//! Building an explanation from the same lookups that a binding makes.

use std::sync::Arc;

use super::{Delegation, Node, Step, view::simplify};
use crate::{
    BindError, Dentry, Dtab, Failure, Name, NameTree, Path, State,
    error::Steps,
    interpreter::{MAX_DEPTH, Work},
};

/// Explains how `path` is bound under `dtab`; `namers` answers for names that no entry of the table matches.
pub(crate) fn explain(dtab: &Dtab, path: &Path, namers: &mut dyn FnMut(&Path) -> State<NameTree<Name>>) -> Delegation {
    let mut explanation = Explanation { dtab, namers, steps: Vec::new(), work: Work::default() };
    let root = explanation.name(path.clone(), None, 0);
    let failure = match explanation.work.exhausted() {
        true => Some(Arc::new(BindError::TooMuch { path: path.clone() }) as Failure),
        false => None,
    };
    Delegation { root: simplify(root.clone()), steps: root, failure }
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
    dentry: Option<&'a Dentry>,
    depth: usize,
}

impl Explanation<'_> {
    // `depth` lookups have led to `path`, the last by `dentry`.
    fn name(&mut self, path: Path, dentry: Option<&Dentry>, depth: usize) -> Node {
        let node = |step| Node { path: path.clone(), dentry: dentry.cloned(), step };
        if !(self.work.lookup(self.dtab.len()) && self.work.enter()) {
            return node(self.too_much());
        }
        self.steps.push(path.clone());
        let step = self.lookup(&path, dentry, depth + 1);
        self.steps.pop();
        self.work.leave();
        match step {
            // The answer of a namer is a node of its own already.
            Expanded::Node(node) => node,
            Expanded::Step(step) => node(step),
        }
    }

    fn lookup(&mut self, path: &Path, dentry: Option<&Dentry>, depth: usize) -> Expanded {
        let dtab = self.dtab.clone();
        let mut matches: Vec<_> = dtab.matches(path).collect();
        if matches.is_empty() {
            return self.ask(path, dentry, depth);
        }
        if depth > MAX_DEPTH {
            return Expanded::Step(self.too_deep());
        }
        let only = matches.len() == 1;
        let falls_through = only && matches[0].0.dst == NameTree::Neg;
        let mut nodes = matches.drain(..).map(|(entry, suffix)| {
            let origin = Origin { path, dentry: Some(entry), depth };
            self.tree(&entry.dst, &origin, &|this, leaf, origin| {
                let path = leaf.concat(&suffix);
                if !this.work.bytes(path.byte_len()) {
                    let step = this.too_much();
                    return Node { path, dentry: origin.dentry.cloned(), step };
                }
                this.name(path, origin.dentry, depth)
            })
        });
        if !only {
            return Expanded::Step(Step::Alt(nodes.collect()));
        }
        let Some(to) = nodes.next().map(Box::new) else { return Expanded::Step(Step::Neg) };
        drop(nodes);
        let namers = falls_through.then(|| match self.ask(path, dentry, depth) {
            Expanded::Node(node) => Box::new(node),
            Expanded::Step(step) => Box::new(Node { path: path.clone(), dentry: dentry.cloned(), step }),
        });
        Expanded::Step(Step::Delegate { to, namers })
    }

    fn ask(&mut self, path: &Path, dentry: Option<&Dentry>, depth: usize) -> Expanded {
        let origin = Origin { path, dentry, depth };
        match (self.namers)(path) {
            State::Pending => Expanded::Step(Step::Pending),
            State::Failed(error) => Expanded::Step(Step::Failed(error)),
            State::Ok(_) if depth > MAX_DEPTH => Expanded::Step(self.too_deep()),
            State::Ok(NameTree::Leaf(Name::Path(to))) => {
                let to = self.name(to, dentry, depth);
                Expanded::Step(Step::Rewritten(Box::new(to)))
            }
            State::Ok(NameTree::Neg) => Expanded::Step(Step::Neg),
            State::Ok(tree) => Expanded::Node(self.tree(&tree, &origin, &|this, name, origin| match name {
                Name::Path(to) => this.name(to.clone(), origin.dentry, origin.depth),
                Name::Bound(bound) => {
                    let step = Step::Leaf(bound.clone());
                    Node { path: origin.path.clone(), dentry: origin.dentry.cloned(), step }
                }
            })),
        }
    }

    fn tree<T>(
        &mut self,
        tree: &NameTree<T>,
        origin: &Origin<'_>,
        leaf: &dyn Fn(&mut Self, &T, &Origin<'_>) -> Node,
    ) -> Node {
        let node = |step| Node { path: origin.path.clone(), dentry: origin.dentry.cloned(), step };
        if !self.work.enter() {
            self.work.leave();
            return node(self.too_much());
        }
        let made = match tree {
            NameTree::Leaf(name) => leaf(self, name, origin),
            // Written as `~`, it has no name of its own.
            NameTree::Neg => Node { path: Path::empty(), ..node(Step::Neg) },
            NameTree::Fail => node(Step::Fail),
            NameTree::Empty => node(Step::Empty),
            NameTree::Alt(trees) => node(Step::Alt(trees.iter().map(|tree| self.tree(tree, origin, leaf)).collect())),
            NameTree::Union(branches) => node(Step::Union(
                branches.iter().map(|branch| (branch.weight, self.tree(&branch.tree, origin, leaf))).collect(),
            )),
        };
        self.work.leave();
        made
    }

    fn too_deep(&self) -> Step {
        Step::Failed(Arc::new(BindError::TooDeep { limit: MAX_DEPTH, steps: Steps::new(&self.steps) }))
    }

    fn too_much(&self) -> Step {
        Step::Failed(Arc::new(BindError::TooMuch { path: self.steps.first().cloned().unwrap_or_default() }))
    }
}

enum Expanded {
    Node(Node),
    Step(Step),
}
