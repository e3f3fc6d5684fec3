//! Transformers: changes to bound names after binding.

use crate::{Activity, Bound, NameTree};

/// Maps a bound tree to another, live.
pub trait Transformer: Send + Sync + 'static {
    /// Transforms a tree that was bound.
    fn transform(&self, tree: NameTree<Bound>) -> Activity<NameTree<Bound>>;
}
