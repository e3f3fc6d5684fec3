//! Explanations: how a name is bound, step by step.

mod explain;
mod json;
mod leaves;
#[cfg(feature = "remote")]
pub(crate) mod parse;
mod settle;
mod text;
mod view;

pub use json::{JsonError, MAX_JSON, addr_json, bound_json};
#[cfg(feature = "remote")]
pub use parse::{Malformed, Told};
pub use settle::{Unsettled, settled};
pub use text::Text;

pub(crate) use explain::explain;

use std::{fmt, ops::Deref};

use crate::{
    Activity, Addr, Bound, Dentry, Dtab, Failure, NameTree, Path, State,
    interpreter::{Union, decides},
};

/// Every step of a binding.
///
/// Unlike a binding it follows every alternative, also those behind the one that decides.
///
/// Displays an indented tree for people, with each leaf's addresses and how old they are.
#[derive(Clone, Debug)]
pub struct Delegation {
    /// The requested name. Steps that show nothing (a rewrite of a name to itself) are left out.
    pub root: Node,
    /// Why there is no outcome: a union that refers to itself leads to more names than are looked up.
    pub failure: Option<Failure>,
    // With all steps.
    steps: Node,
}

/// One step.
#[derive(Clone, Debug)]
pub struct Node {
    /// The name at this step; empty for a `~` that is written in a table.
    pub path: Path,
    /// The entry of the table that led here, if one did.
    pub dentry: Option<Entry>,
    /// What became of it.
    pub step: Step,
}

/// An entry of a table. A clone shares the table.
#[derive(Clone)]
pub struct Entry {
    dtab: Dtab,
    index: usize,
}

/// What became of a name.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Step {
    /// It was rewritten.
    Delegate {
        /// What it stands for.
        to: Box<Node>,
        /// If it stands for a bare `~`: what the namers say, whom a binding asks in this case.
        /// Linkerd's own explanation leaves it out.
        namers: Option<Box<Node>>,
    },
    /// A namer rewrote it.
    Rewritten(Box<Node>),
    /// It has alternatives.
    Alt(Vec<Node>),
    /// It is shared by weight.
    Union(Vec<(f64, Node)>),
    /// It is bound. The addresses, and how old they are, are in its watch.
    Leaf(Bound),
    /// There is no such name.
    Neg,
    /// It fails.
    Fail,
    /// It has no replicas.
    Empty,
    /// It could not be looked up.
    Failed(Failure),
    /// Nobody has answered yet.
    Pending,
    /// A transformer changed it.
    Transformed {
        /// Which transformer.
        name: String,
        /// What it was before.
        bound: Bound,
        /// What it is now.
        to: Box<Node>,
    },
}

impl Deref for Entry {
    type Target = Dentry;

    fn deref(&self) -> &Dentry {
        &self.dtab.entries()[self.index]
    }
}

impl From<Dentry> for Entry {
    /// The only entry of a table.
    fn from(entry: Dentry) -> Self {
        Self { dtab: Dtab::new([entry]), index: 0 }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Delegation {
    /// What a binding makes of this: the outcome that decides.
    #[must_use]
    pub fn outcome(&self) -> State<NameTree<Bound>> {
        match &self.failure {
            Some(error) => State::Failed(error.clone()),
            None => self.steps.outcome(None),
        }
    }

    /// All nodes from the requested name down, each before those that it leads to.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        let mut todo = vec![&self.root];
        std::iter::from_fn(move || {
            let node = todo.pop()?;
            match &node.step {
                Step::Delegate { to, namers } => todo.extend(namers.iter().map(|node| &**node).chain([&**to])),
                Step::Alt(nodes) => todo.extend(nodes.iter().rev()),
                Step::Union(branches) => todo.extend(branches.iter().rev().map(|(_, node)| node)),
                Step::Rewritten(to) | Step::Transformed { to, .. } => todo.push(to),
                _ => {}
            }
            Some(node)
        })
    }

    /// An explanation that was made elsewhere, of the steps that are shown.
    #[cfg(feature = "remote")]
    pub(crate) fn of_steps(steps: Node) -> Self {
        Self { root: steps.clone(), failure: None, steps }
    }

    /// The same explanation with each bound name changed by a transformer of this name.
    ///
    /// A name that the transformer leaves as it is shows no step.
    #[must_use]
    pub fn transform(mut self, name: &str, mut transform: impl FnMut(&Bound) -> State<NameTree<Bound>>) -> Self {
        self.root.transform(name, &mut transform);
        self.steps.transform(name, &mut transform);
        self
    }

    /// The watches of all bound names in it.
    fn addresses(&self) -> Vec<Activity<Addr>> {
        let bound = self.nodes().filter_map(|node| match &node.step {
            Step::Leaf(bound) => Some(bound.addr.clone()),
            _ => None,
        });
        bound.collect()
    }
}

impl Node {
    fn transform(&mut self, name: &str, transform: &mut dyn FnMut(&Bound) -> State<NameTree<Bound>>) {
        match &mut self.step {
            Step::Delegate { to, namers } => {
                to.transform(name, transform);
                if let Some(namers) = namers {
                    namers.transform(name, transform);
                }
            }
            // Of what was changed before, the result.
            Step::Rewritten(to) | Step::Transformed { to, .. } => to.transform(name, transform),
            Step::Alt(nodes) => nodes.iter_mut().for_each(|node| node.transform(name, transform)),
            Step::Union(branches) => branches.iter_mut().for_each(|(_, node)| node.transform(name, transform)),
            Step::Leaf(bound) => {
                let found = transform(bound);
                let same = |new: &Bound| new == bound && new.addr.same_source(&bound.addr);
                if matches!(&found, State::Ok(NameTree::Leaf(new)) if same(new)) {
                    return;
                }
                let to = match found {
                    State::Ok(tree) => self.with(tree),
                    State::Pending => Self { step: Step::Pending, path: self.path.clone(), dentry: None },
                    State::Failed(error) => Self { step: Step::Failed(error), path: self.path.clone(), dentry: None },
                };
                if let Step::Leaf(bound) = &self.step {
                    let bound = bound.clone();
                    self.step = Step::Transformed { name: name.to_owned(), bound, to: Box::new(to) };
                }
            }
            Step::Neg | Step::Fail | Step::Empty | Step::Failed(_) | Step::Pending => {}
        }
    }

    // A bound tree as nodes in this one's place.
    fn with(&self, tree: NameTree<Bound>) -> Self {
        let step = match tree {
            NameTree::Leaf(bound) => Step::Leaf(bound),
            NameTree::Neg => Step::Neg,
            NameTree::Fail => Step::Fail,
            NameTree::Empty => Step::Empty,
            NameTree::Alt(trees) => Step::Alt(trees.into_iter().map(|tree| self.with(tree)).collect()),
            NameTree::Union(branches) => {
                Step::Union(branches.into_iter().map(|branch| (branch.weight, self.with(branch.tree))).collect())
            }
        };
        Self { path: self.path.clone(), dentry: self.dentry.clone(), step }
    }

    fn outcome(&self, weight: Option<f64>) -> State<NameTree<Bound>> {
        match &self.step {
            Step::Delegate { namers: Some(namers), .. } => namers.outcome(weight),
            Step::Delegate { to, .. } | Step::Rewritten(to) | Step::Transformed { to, .. } => to.outcome(weight),
            Step::Alt(nodes) => {
                let found = nodes.iter().map(|node| node.outcome(weight)).find(decides);
                found.unwrap_or(State::Ok(NameTree::Neg))
            }
            Step::Union(branches) => {
                let mut union = Union::default();
                for (weight, node) in branches {
                    union.add(*weight, node.outcome(Some(*weight)));
                }
                union.outcome()
            }
            Step::Leaf(bound) => State::Ok(NameTree::Leaf(Bound { weight, ..bound.clone() })),
            Step::Neg => State::Ok(NameTree::Neg),
            Step::Fail => State::Ok(NameTree::Fail),
            Step::Empty => State::Ok(NameTree::Empty),
            Step::Failed(error) => State::Failed(error.clone()),
            Step::Pending => State::Pending,
        }
    }
}
