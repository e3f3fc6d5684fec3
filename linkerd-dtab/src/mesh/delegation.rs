//! Explanations.

use std::{collections::HashMap, sync::Arc};

use super::{
    Budget, Levels, Malformed, Room, Unfit,
    name::{read_dentry, read_path, read_weight, write_dentry},
    proto::{self, BoundDelegateTree as Tree, bound_delegate_tree as message},
    remote_failure,
};
use crate::{
    Activity, Bound, Dentry, Element, NameTree, Path, Prefix,
    delegate::{Node, Step},
};

use message::{Alt, Empty, Fail, Leaf, Neg, Node as Kind, Transformation, Union, union::Weighted};

/// The entry of what no entry led to: `/` as an element, which stands for nothing. Peers read no node without an entry.
fn no_op() -> Dentry {
    let slash = Element::Label(Arc::from(&b"/"[..]));
    Dentry { prefix: Prefix::new([slash]), dst: NameTree::Neg }
}

/// Writes explanations, as long as there is room.
#[derive(Debug, Default)]
pub(crate) struct Writer(Room);

impl Writer {
    /// An explanation, of the steps that Linkerd shows, in a message of so many `levels`.
    pub(crate) fn node(&mut self, node: &Node, levels: Levels) -> Result<Tree, Unfit> {
        // Its node, what of it was transformed, and the path of a leaf.
        levels.below(3)?;
        let kind = match &node.step {
            Step::Rewritten(to) => return self.node(to, levels),
            Step::Delegate { to, .. } => Kind::Delegate(Box::new(self.node(to, levels.below(1)?)?)),
            Step::Alt(nodes) => {
                let below = levels.below(2)?;
                alt(nodes.iter().map(|node| self.node(node, below)))?
            }
            Step::Union(branches) => {
                let below = levels.below(3)?;
                union(branches.iter().map(|(weight, node)| (*weight, self.node(node, below))))?
            }
            Step::Leaf(bound) => Kind::Leaf(write_leaf(bound)),
            Step::Neg => Kind::Neg(Neg {}),
            Step::Fail => Kind::Fail(Fail {}),
            Step::Empty => Kind::Empty(Empty {}),
            Step::Failed(error) => Kind::Exception(error.to_string()),
            Step::Pending => Kind::Exception("Request timed out.".to_owned()),
            Step::Transformed { name, bound, to } => {
                let (leaf, tree) = (write_leaf(bound), self.node(to, levels.below(2)?)?);
                let (leaf, tree) = (Some(leaf), Some(Box::new(tree)));
                Kind::Transformation(Box::new(Transformation { name: name.clone(), leaf, tree }))
            }
        };
        self.step(&node.path, node.dentry.as_deref(), kind, levels)
    }

    /// Explanations of several names as one, in the shape of the tree that was asked about.
    pub(crate) fn tree(
        &mut self,
        tree: &NameTree<Path>,
        explained: &HashMap<&Path, Node>,
        levels: Levels,
    ) -> Result<Tree, Unfit> {
        let kind = match tree {
            NameTree::Leaf(path) => match explained.get(path) {
                Some(node) => return self.node(node, levels),
                None => Kind::Neg(Neg {}),
            },
            NameTree::Neg => Kind::Neg(Neg {}),
            NameTree::Fail => Kind::Fail(Fail {}),
            NameTree::Empty => Kind::Empty(Empty {}),
            NameTree::Alt(trees) => {
                let below = levels.below(2)?;
                alt(trees.iter().map(|tree| self.tree(tree, explained, below)))?
            }
            NameTree::Union(branches) => {
                let below = levels.below(3)?;
                union(branches.iter().map(|branch| (branch.weight, self.tree(&branch.tree, explained, below))))?
            }
        };
        self.step(&Path::empty(), None, kind, levels)
    }

    fn step(&mut self, path: &Path, dentry: Option<&Dentry>, kind: Kind, levels: Levels) -> Result<Tree, Unfit> {
        let dentry = match dentry {
            Some(dentry) => write_dentry(dentry, levels.below(1)?)?,
            None => write_dentry(&no_op(), levels.below(1)?)?,
        };
        self.0.take(&dentry)?;
        let path = proto::Path::from(path);
        self.0.take(&path)?;
        Ok(Tree { path: Some(path), dentry: Some(dentry), node: Some(kind) })
    }
}

fn alt(trees: impl Iterator<Item = Result<Tree, Unfit>>) -> Result<Kind, Unfit> {
    Ok(Kind::Alt(Alt { trees: trees.collect::<Result<_, _>>()? }))
}

fn union(branches: impl Iterator<Item = (f64, Result<Tree, Unfit>)>) -> Result<Kind, Unfit> {
    let trees = branches.map(|(weight, tree)| Ok(Weighted { weight: Some(weight), tree: Some(tree?) }));
    Ok(Kind::Union(Union { trees: trees.collect::<Result<_, _>>()? }))
}

/// What a peer explains. Its bound names are pending: a message says nothing of their addresses.
pub(crate) fn read_node(tree: &Tree, budget: &mut Budget) -> Result<Node, Malformed> {
    budget.take()?;
    let step = match tree.node.as_ref().ok_or(Malformed::Missing("the node of an explanation"))? {
        Kind::Neg(Neg {}) => Step::Neg,
        Kind::Fail(Fail {}) => Step::Fail,
        Kind::Empty(Empty {}) => Step::Empty,
        Kind::Alt(Alt { trees }) => {
            Step::Alt(trees.iter().map(|tree| read_node(tree, budget)).collect::<Result<_, _>>()?)
        }
        Kind::Union(Union { trees }) => {
            let branches = trees.iter().map(|branch| {
                let tree = branch.tree.as_ref().ok_or(Malformed::Missing("the tree of a weight"))?;
                Ok((read_weight(branch.weight)?, read_node(tree, budget)?))
            });
            Step::Union(branches.collect::<Result<_, _>>()?)
        }
        Kind::Leaf(leaf) => Step::Leaf(read_leaf(leaf)?),
        Kind::Delegate(to) => Step::Delegate { to: Box::new(read_node(to, budget)?), namers: None },
        Kind::Exception(message) => Step::Failed(remote_failure(message)),
        Kind::Transformation(transformation) => {
            let leaf = transformation.leaf.as_ref().ok_or(Malformed::Missing("what was transformed"))?;
            let to = transformation.tree.as_ref().ok_or(Malformed::Missing("what was made of it"))?;
            let to = Box::new(read_node(to, budget)?);
            Step::Transformed { name: transformation.name.clone(), bound: read_leaf(leaf)?, to }
        }
    };
    let dentry = tree.dentry.as_ref().map(|dentry| read_dentry(dentry, budget)).transpose()?;
    let dentry = dentry.filter(|dentry| *dentry != no_op()).map(Into::into);
    Ok(Node { path: read_path(tree.path.as_ref())?, dentry, step })
}

fn write_leaf(Bound { id, residual, .. }: &Bound) -> Leaf {
    Leaf { id: Some(id.into()), residual: Some(residual.into()) }
}

fn read_leaf(leaf: &Leaf) -> Result<Bound, Malformed> {
    let id = leaf.id.as_ref().ok_or(Malformed::Missing("the id of a bound name"))?;
    Ok(Bound::new(id.try_into()?, read_path(leaf.residual.as_ref())?, Activity::channel().1))
}
