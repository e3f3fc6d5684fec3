//! What of an explanation Linkerd shows.

use std::sync::Arc;

use super::{Node, Step};
use crate::{BindError, Dentry, Failure, Path};

/// The depth limit was reached. The text is Linkerd's, which has another one for bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Max recursion level reached.")]
pub struct TooDeep;

/// The tree that Linkerd shows for these steps.
///
/// It leaves out by which namer a name was rewritten, and what the namers say below a bare `~`. A loop is an error in the
/// place of the branch that leads to it; without a branch there is no tree.
pub(super) fn linkerd(node: &Node) -> Result<Node, TooDeep> {
    shown(node).map(simplify)
}

fn shown(node: &Node) -> Result<Node, TooDeep> {
    let branch = |child: &Node| {
        let looped = |error| Node {
            step: Step::Failed(Arc::new(error) as Failure),
            path: node.path.clone(),
            dentry: node.dentry.clone(),
        };
        shown(child).unwrap_or_else(looped)
    };
    let step = match &node.step {
        Step::Rewritten(to) => return shown(to),
        Step::Delegate { to, .. } => Step::Delegate { to: Box::new(shown(to)?), namers: None },
        Step::Alt(nodes) => match &nodes[..] {
            [only] => Step::Delegate { to: Box::new(shown(only)?), namers: None },
            nodes => Step::Alt(nodes.iter().map(branch).collect()),
        },
        Step::Union(branches) => match &branches[..] {
            [(_, only)] => Step::Delegate { to: Box::new(shown(only)?), namers: None },
            branches => Step::Union(branches.iter().map(|(weight, node)| (*weight, branch(node))).collect()),
        },
        Step::Failed(error) if matches!(error.downcast_ref(), Some(BindError::TooDeep { .. })) => return Err(TooDeep),
        step => step.clone(),
    };
    Ok(Node { path: node.path.clone(), dentry: node.dentry.clone(), step })
}

/// Leaves out steps that show nothing.
pub(super) fn simplify(node: Node) -> Node {
    let Node { path, dentry, step } = node;
    let step = match step {
        Step::Delegate { to, namers } => {
            let to = simplify(*to);
            let namers = namers.map(|node| Box::new(simplify(*node)));
            if namers.is_none() && to.path == path && !matches!(to.step, Step::Neg | Step::Fail | Step::Empty) {
                return Node { path, dentry, step: to.step };
            }
            Step::Delegate { to: Box::new(to), namers }
        }
        Step::Alt(nodes) => {
            let mut spliced = Vec::with_capacity(nodes.len());
            for node in nodes.into_iter().map(simplify) {
                match node.step {
                    Step::Alt(inner) if node.path == path => spliced.extend(inner),
                    step => spliced.push(Node { step, ..node }),
                }
            }
            match spliced.len() {
                0 => Step::Neg,
                1 => return only_child(path, dentry, spliced.pop()),
                _ => Step::Alt(spliced),
            }
        }
        Step::Union(branches) => {
            let mut branches: Vec<_> = branches.into_iter().map(|(weight, node)| (weight, simplify(node))).collect();
            match branches.len() {
                0 => Step::Neg,
                1 => return only_child(path, dentry, branches.pop().map(|(_, node)| node)),
                _ => Step::Union(branches),
            }
        }
        Step::Rewritten(to) => Step::Rewritten(Box::new(simplify(*to))),
        Step::Transformed { name, bound, to } => Step::Transformed { name, bound, to: Box::new(simplify(*to)) },
        step => step,
    };
    Node { path, dentry, step }
}

// What stands for a node with one child: as a rewrite, it may show nothing.
fn only_child(path: Path, dentry: Option<Dentry>, child: Option<Node>) -> Node {
    let step = child.map_or(Step::Neg, |child| Step::Delegate { to: Box::new(child), namers: None });
    simplify(Node { path, dentry, step })
}
