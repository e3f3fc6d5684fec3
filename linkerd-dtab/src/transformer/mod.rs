//! Transformers: changes to bound names after binding.
//!
//! A transformer puts `/%/...` before the id of each name that it changed, so that a client, its metrics and its log
//! lines tell what was done to its addresses. [`TransformedInterpreter`] and [`TransformedNamer`] apply a list of them,
//! the first one first.

mod endpoints;
mod substitute;
mod transformed;

use crate::{Activity, Bound, NameTree, Path};

#[cfg(feature = "interfaces")]
pub use endpoints::Localhost;
pub use endpoints::{Port, SpecificHost};
pub use substitute::{Const, Replace};
pub use transformed::{TransformedInterpreter, TransformedNamer};

/// Maps a bound tree to another, live.
pub trait Transformer: Send + Sync + 'static {
    /// Transforms a tree that was bound.
    ///
    /// Called inside a tokio runtime.
    fn transform(&self, tree: NameTree<Bound>) -> Activity<NameTree<Bound>>;

    /// What explanations call it: the kind that configuration files know, for those that come with this crate.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }
}

/// `path` below `/%`, where transformers put their ids.
fn id_prefix<'a>(elements: impl IntoIterator<Item = &'a [u8]>) -> Path {
    let elements = std::iter::once(&b"%"[..]).chain(elements);
    Path::from_elements(elements).expect("transformers are not named by nothing")
}
