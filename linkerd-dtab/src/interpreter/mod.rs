//! Interpreters: from a name and a table to a tree of bound names.

mod asked;
mod binding;
mod by_namespace;
mod eval;
#[cfg(feature = "fs")]
pub mod fs;
mod local;
#[cfg(feature = "remote")]
pub mod remote;
mod table;

pub use by_namespace::{ByNamespace, UnknownNamespace};
#[cfg(feature = "namerd")]
pub(crate) use eval::MAX_LOOKUPS;
pub use eval::{MAX_DEPTH, evaluate};
pub use local::Local;

pub(crate) use asked::{Asked, Namers};
pub(crate) use eval::{Union, Work, decides};

use std::sync::Arc;

use crate::{Activity, Bound, Dtab, NameTree, Path, delegate::Delegation};

/// Binds names under a delegation table.
pub trait Interpreter: Send + Sync + 'static {
    /// Binds `path` under `dtab`. The answer is live until the last clone of the activity is dropped.
    ///
    /// Called inside a tokio runtime.
    fn bind(&self, dtab: &Dtab, path: &Path) -> Activity<NameTree<Bound>>;

    /// Shows every step of binding `path` under `dtab`, for people.
    ///
    /// Live, too: a namer that has not answered yet is a pending node of an explanation that is there at once.
    fn delegate(&self, dtab: &Dtab, path: &Path) -> Activity<Delegation>;
}

impl<I: Interpreter + ?Sized> Interpreter for Arc<I> {
    fn bind(&self, dtab: &Dtab, path: &Path) -> Activity<NameTree<Bound>> {
        (**self).bind(dtab, path)
    }

    fn delegate(&self, dtab: &Dtab, path: &Path) -> Activity<Delegation> {
        (**self).delegate(dtab, path)
    }
}
