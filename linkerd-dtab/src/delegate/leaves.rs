//! Explanations with something behind their bound leaves.

use std::collections::HashMap;

use super::{Delegation, Node, Step};
use crate::{Bound, Path};

/// Tells leaves apart: the name that led there, then id and residual.
pub(crate) type LeafKey = [Path; 3];

pub(crate) fn leaf_key(path: &Path, bound: &Bound) -> LeafKey {
    [path.clone(), bound.id.clone(), bound.residual.clone()]
}

impl Delegation {
    /// The bound leaves.
    pub(crate) fn leaves(&self) -> HashMap<LeafKey, Bound> {
        let mut leaves = HashMap::new();
        // The nodes that are shown and all steps: each may have a leaf that the other has not.
        let mut todo = vec![&self.root, &self.steps];
        while let Some(node) = todo.pop() {
            match &node.step {
                Step::Delegate { to, namers } => todo.extend(namers.iter().map(|node| &**node).chain([&**to])),
                Step::Rewritten(to) | Step::Transformed { to, .. } => todo.push(to),
                Step::Alt(nodes) => todo.extend(nodes),
                Step::Union(branches) => todo.extend(branches.iter().map(|(_, node)| node)),
                Step::Leaf(bound) => _ = leaves.insert(leaf_key(&node.path, bound), bound.clone()),
                _ => {}
            }
        }
        leaves
    }

    /// The same explanation with these steps in the place of leaves.
    pub(crate) fn with_leaves(&self, steps: &HashMap<LeafKey, Step>) -> Self {
        let mut changed = self.clone();
        let mut todo: Vec<&mut Node> = vec![&mut changed.root, &mut changed.steps];
        while let Some(node) = todo.pop() {
            if let Step::Leaf(bound) = &node.step {
                if let Some(step) = steps.get(&leaf_key(&node.path, bound)) {
                    node.step = step.clone();
                }
                continue;
            }
            match &mut node.step {
                Step::Delegate { to, namers } => {
                    todo.extend(namers.iter_mut().map(|node| &mut **node).chain([&mut **to]));
                }
                Step::Rewritten(to) | Step::Transformed { to, .. } => todo.push(to),
                Step::Alt(nodes) => todo.extend(nodes),
                Step::Union(branches) => todo.extend(branches.iter_mut().map(|(_, node)| node)),
                _ => {}
            }
        }
        changed
    }
}
