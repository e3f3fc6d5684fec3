//! Delegation tables.

use std::sync::Arc;

use crate::{NameTree, Path};

/// A delegation table: rewriting rules for names, later ones first.
///
/// A clone shares the entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Dtab {
    entries: Arc<[Dentry]>,
}

/// One rule: names that start with the prefix stand for the tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dentry {
    /// Which names it is for.
    pub prefix: Prefix,
    /// What they stand for. What follows the prefix is appended to each leaf.
    pub dst: NameTree<Path>,
}

/// The left side of a rule: a path whose elements may be wildcards.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Prefix {
    elements: Arc<[Element]>,
}

/// An element of a [`Prefix`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// Matches any one element. Written `*`.
    Any,
    /// Matches this element. Never empty.
    Label(Arc<[u8]>),
}
