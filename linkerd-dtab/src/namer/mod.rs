//! Namers: from a path to a tree of bound names.

pub mod fixed;
#[cfg(feature = "fs")]
pub mod fs;
pub mod global;
pub mod inet;
mod resolve;
pub mod rewrite;

use std::{io, sync::Arc};

use crate::{Activity, Name, NameTree, Path};

pub use global::{Global, status_code};
pub use inet::Inet;
pub use resolve::Resolve;

/// Answers what a path stands for, and keeps the answer current.
pub trait Namer: Send + Sync + 'static {
    /// Looks a path up. `path` is without the prefix that the namer is mounted at.
    ///
    /// The answer is live: it changes when what is behind it does, until the last clone of the activity is dropped. A
    /// namer that cannot answer (yet) says [`State::Pending`](crate::State::Pending) or
    /// [`State::Failed`](crate::State::Failed); *no such name* is [`NameTree::Neg`].
    ///
    /// Called inside a tokio runtime.
    ///
    /// The ids of bound leaves are the elements that were consumed, unless [`has_whole_ids`](Self::has_whole_ids):
    /// whoever mounts the namer puts the prefix before them.
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>>;

    /// Whether the ids of bound leaves are whole already. False by default; a namer whose ids do not begin with the
    /// prefix that it is mounted at (the transformers' do not) says true.
    fn has_whole_ids(&self) -> bool {
        false
    }

    /// The names that it can list, without the prefix that it is mounted at; `None`, the default, if it can list none.
    ///
    /// May block: it is called where that is allowed.
    fn names(&self) -> Option<io::Result<Vec<Path>>> {
        None
    }
}

impl<N: Namer + ?Sized> Namer for Arc<N> {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        (**self).lookup(path)
    }

    fn has_whole_ids(&self) -> bool {
        (**self).has_whole_ids()
    }

    fn names(&self) -> Option<io::Result<Vec<Path>>> {
        (**self).names()
    }
}
