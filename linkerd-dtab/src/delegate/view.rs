//! Which steps of an explanation are shown, here and by Linkerd.
//!
//! In place, and a small frame for each level: explanations nest as deep as tables send names round.

use std::{mem, sync::Arc};

use super::{Delegation, Node, Step};
use crate::BindError;

/// The depth limit was reached. The text is Linkerd's, which has another one for bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Max recursion level reached.")]
pub(crate) struct TooDeep;

impl Delegation {
    /// The steps that Linkerd shows.
    pub(crate) fn linkerds(&self) -> Result<Node, TooDeep> {
        let mut node = self.steps.clone();
        keep_linkerds(&mut node)?;
        simplify(&mut node);
        Ok(node)
    }
}

/// Leaves the steps that Linkerd shows.
///
/// It leaves out by which namer a name was rewritten, and what the namers say below a bare `~`. A loop is an error in the
/// place of the branch that leads to it; without a branch there is no tree.
fn keep_linkerds(node: &mut Node) -> Result<(), TooDeep> {
    while let Step::Rewritten(to) = &mut node.step {
        let to = mem::replace(&mut **to, placeholder());
        *node = to;
    }
    if let Step::Alt(nodes) = &mut node.step
        && nodes.len() == 1
    {
        node.step = nodes.pop().map_or(Step::Neg, delegate);
    }
    if let Step::Union(branches) = &mut node.step
        && branches.len() == 1
    {
        node.step = branches.pop().map_or(Step::Neg, |(_, node)| delegate(node));
    }
    let (path, dentry) = (&node.path, &node.dentry);
    let keep_branch = |child: &mut Node| {
        if let Err(error) = keep_linkerds(child) {
            *child = Node { path: path.clone(), dentry: dentry.clone(), step: Step::Failed(Arc::new(error)) };
        }
    };
    match &mut node.step {
        Step::Delegate { to, namers } => {
            *namers = None;
            keep_linkerds(to)?;
        }
        Step::Alt(nodes) => nodes.iter_mut().for_each(keep_branch),
        Step::Union(branches) => branches.iter_mut().map(|(_, node)| node).for_each(keep_branch),
        Step::Transformed { to, .. } => keep_linkerds(to)?,
        Step::Failed(error) if matches!(error.downcast_ref(), Some(BindError::TooDeep { .. })) => return Err(TooDeep),
        _ => {}
    }
    Ok(())
}

/// Leaves out steps that show nothing, as Linkerd does.
pub(super) fn simplify(node: &mut Node) {
    match &mut node.step {
        Step::Delegate { to, namers } => {
            simplify(to);
            if let Some(namers) = namers {
                simplify(namers);
            }
        }
        Step::Rewritten(to) | Step::Transformed { to, .. } => simplify(to),
        Step::Alt(nodes) => nodes.iter_mut().for_each(simplify),
        Step::Union(branches) => branches.iter_mut().for_each(|(_, node)| simplify(node)),
        _ => {}
    }
    splice(node);
    collapse(node);
}

// Alternatives of alternatives of the same name are alternatives of that name; one alternative is none.
fn splice(node: &mut Node) {
    match &mut node.step {
        Step::Alt(nodes) => {
            let is_same = |child: &Node| matches!(child.step, Step::Alt(_)) && child.path == node.path;
            if nodes.iter().any(is_same) {
                let spliced = mem::take(nodes).into_iter().flat_map(|child| match child {
                    Node { path, step: Step::Alt(inner), .. } if path == node.path => inner,
                    child => vec![child],
                });
                *nodes = spliced.collect();
            }
            if nodes.len() < 2 {
                node.step = nodes.pop().map_or(Step::Neg, delegate);
            }
        }
        Step::Union(branches) if branches.len() < 2 => {
            node.step = branches.pop().map_or(Step::Neg, |(_, node)| delegate(node));
        }
        _ => {}
    }
}

// A rewrite of a name to itself shows nothing.
fn collapse(node: &mut Node) {
    let Step::Delegate { to, namers: None } = &mut node.step else { return };
    if to.path == node.path && !matches!(to.step, Step::Neg | Step::Fail | Step::Empty) {
        let step = mem::replace(&mut to.step, Step::Neg);
        node.step = step;
    }
}

fn delegate(to: Node) -> Step {
    Step::Delegate { to: Box::new(to), namers: None }
}

fn placeholder() -> Node {
    Node { path: crate::Path::empty(), dentry: None, step: Step::Neg }
}
