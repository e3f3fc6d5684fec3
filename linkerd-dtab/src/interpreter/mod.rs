//! Interpreters: from a name and a table to a tree of bound names.

use crate::{Activity, Bound, Dtab, NameTree, Path, delegate::Delegation};

/// Binds names under a delegation table.
pub trait Interpreter: Send + Sync + 'static {
    /// Binds `path` under `dtab`. The answer is live until the last clone of the activity is dropped.
    ///
    /// Called inside a tokio runtime.
    fn bind(&self, dtab: &Dtab, path: &Path) -> Activity<NameTree<Bound>>;

    /// Shows every step of binding `path` under `dtab`, for people.
    fn delegate(&self, dtab: &Dtab, path: &Path) -> Activity<Delegation>;
}
