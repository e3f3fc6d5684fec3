//! Paths, tables and trees.

use super::{Budget, Levels, Malformed, Unfit, proto};
use crate::{Bound, Dentry, Dtab, Element, NameTree, Path, Prefix, Weighted, interpreter::remote::Leaf};

use proto::dtab::{
    Dentry as ProtoDentry,
    dentry::{
        Prefix as ProtoPrefix,
        prefix::{Elem, Wildcard, elem},
    },
};

impl From<&Path> for proto::Path {
    fn from(path: &Path) -> Self {
        Self { elems: path.iter().map(<[u8]>::to_vec).collect() }
    }
}

impl TryFrom<&proto::Path> for Path {
    type Error = Malformed;

    fn try_from(path: &proto::Path) -> Result<Self, Malformed> {
        Self::from_elements(&path.elems).map_err(|_| Malformed::EmptyElement)
    }
}

/// The path, or one without elements if there is none.
pub(crate) fn read_path(path: Option<&proto::Path>) -> Result<Path, Malformed> {
    path.map_or(Ok(Path::empty()), Path::try_from)
}

/// A table in a message of so many `levels`.
pub(crate) fn write_dtab(dtab: &Dtab, levels: Levels) -> Result<proto::Dtab, Unfit> {
    let levels = levels.below(1)?;
    let dentries = dtab.entries().iter().map(|entry| write_dentry(entry, levels)).collect::<Result<_, _>>()?;
    Ok(proto::Dtab { dentries })
}

/// The table, or one without entries if there is none.
pub(crate) fn read_dtab(dtab: Option<&proto::Dtab>, budget: &mut Budget) -> Result<Dtab, Malformed> {
    let dentries = dtab.map_or(&[][..], |dtab| &dtab.dentries);
    dentries.iter().map(|dentry| read_dentry(dentry, budget)).collect()
}

pub(super) fn write_dentry(Dentry { prefix, dst }: &Dentry, levels: Levels) -> Result<ProtoDentry, Unfit> {
    // The prefix, an element, a wildcard.
    levels.below(3)?;
    let elems = prefix.elements().iter().map(|element| {
        let value = match element {
            Element::Any => elem::Value::Wildcard(Wildcard {}),
            Element::Label(label) => elem::Value::Label(label.to_vec()),
        };
        Elem { value: Some(value) }
    });
    let prefix = ProtoPrefix { elems: elems.collect() };
    Ok(ProtoDentry { prefix: Some(prefix), dst: Some(write_tree(dst, levels.below(1)?)?) })
}

pub(super) fn read_dentry(dentry: &ProtoDentry, budget: &mut Budget) -> Result<Dentry, Malformed> {
    let elems = dentry.prefix.as_ref().map_or(&[][..], |prefix| &prefix.elems);
    let elements = elems.iter().map(|Elem { value }| match value {
        Some(elem::Value::Wildcard(Wildcard {})) => Ok(Element::Any),
        Some(elem::Value::Label(label)) if label.is_empty() => Err(Malformed::EmptyElement),
        Some(elem::Value::Label(label)) => Ok(Element::Label(label.as_slice().into())),
        None => Err(Malformed::Missing("an element of a prefix")),
    });
    let prefix = Prefix::new(elements.collect::<Result<Vec<_>, _>>()?);
    let dst = dentry.dst.as_ref().ok_or(Malformed::Missing("the destination of an entry"))?;
    Ok(Dentry { prefix, dst: read_tree(dst, budget)? })
}

/// Writes and reads one of the two kinds of trees, which have the same shape and no type in common.
macro_rules! tree {
    ($Tree:ident in $module:ident, $write:ident($write_leaf:ident: $Written:ty), $read:ident($read_leaf:ident: $Read:ty)) => {
        /// A tree in a message of so many `levels`.
        pub(crate) fn $write(tree: &NameTree<$Written>, levels: Levels) -> Result<proto::$Tree, Unfit> {
            use proto::$module::{Alt, Empty, Fail, Neg, Node, Union, union};
            // Its node, and the path of a leaf.
            levels.below(2)?;
            let node = match tree {
                NameTree::Neg => Node::Neg(Neg {}),
                NameTree::Fail => Node::Fail(Fail {}),
                NameTree::Empty => Node::Empty(Empty {}),
                NameTree::Alt(trees) => {
                    let below = levels.below(2)?;
                    let trees = trees.iter().map(|tree| $write(tree, below)).collect::<Result<_, _>>()?;
                    Node::Alt(Alt { trees })
                }
                NameTree::Union(branches) => {
                    let below = levels.below(3)?;
                    let branches = branches.iter().map(|Weighted { weight, tree }| {
                        Ok(union::Weighted { weight: Some(*weight), tree: Some($write(tree, below)?) })
                    });
                    Node::Union(Union { trees: branches.collect::<Result<_, _>>()? })
                }
                NameTree::Leaf(leaf) => Node::Leaf($write_leaf(leaf)),
            };
            Ok(proto::$Tree { node: Some(node) })
        }

        /// What the message of a tree stands for.
        pub(crate) fn $read(tree: &proto::$Tree, budget: &mut Budget) -> Result<NameTree<$Read>, Malformed> {
            use proto::$module::{Alt, Empty, Fail, Neg, Node, Union};
            budget.take()?;
            Ok(match tree.node.as_ref().ok_or(Malformed::Missing("the node of a tree"))? {
                Node::Neg(Neg {}) => NameTree::Neg,
                Node::Fail(Fail {}) => NameTree::Fail,
                Node::Empty(Empty {}) => NameTree::Empty,
                Node::Alt(Alt { trees }) if trees.is_empty() => NameTree::Neg,
                Node::Alt(Alt { trees }) => {
                    NameTree::Alt(trees.iter().map(|tree| $read(tree, budget)).collect::<Result<_, _>>()?)
                }
                Node::Union(Union { trees }) if trees.is_empty() => NameTree::Neg,
                Node::Union(Union { trees }) => {
                    let branches = trees.iter().map(|branch| {
                        let tree = branch.tree.as_ref().ok_or(Malformed::Missing("the tree of a weight"))?;
                        Ok(Weighted::new(read_weight(branch.weight)?, $read(tree, budget)?))
                    });
                    NameTree::Union(branches.collect::<Result<_, _>>()?)
                }
                Node::Leaf(leaf) => NameTree::Leaf($read_leaf(leaf)?),
            })
        }
    };
}

tree!(PathNameTree in path_name_tree, write_tree(write_path_leaf: Path), read_tree(read_path_leaf: Path));
tree!(BoundNameTree in bound_name_tree, write_bound(write_bound_leaf: Bound), read_bound(read_bound_leaf: Leaf));

fn write_path_leaf(path: &Path) -> proto::path_name_tree::Leaf {
    proto::path_name_tree::Leaf { id: Some(path.into()) }
}

fn read_path_leaf(leaf: &proto::path_name_tree::Leaf) -> Result<Path, Malformed> {
    read_path(leaf.id.as_ref())
}

fn write_bound_leaf(Bound { id, residual, .. }: &Bound) -> proto::bound_name_tree::Leaf {
    proto::bound_name_tree::Leaf { id: Some(id.into()), residual: Some(residual.into()) }
}

fn read_bound_leaf(leaf: &proto::bound_name_tree::Leaf) -> Result<Leaf, Malformed> {
    let id = leaf.id.as_ref().ok_or(Malformed::Missing("the id of a bound name"))?;
    Ok(Leaf { id: id.try_into()?, residual: read_path(leaf.residual.as_ref())? })
}

/// A weight; one that is left out is zero, as with every number.
pub(super) fn read_weight(weight: Option<f64>) -> Result<f64, Malformed> {
    let weight = weight.unwrap_or_default();
    if weight >= 0.0 { Ok(weight) } else { Err(Malformed::Weight(weight)) }
}
