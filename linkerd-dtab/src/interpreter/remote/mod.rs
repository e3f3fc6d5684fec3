//! Interpreters that ask a namerd: names are bound there, and followed here.
//!
//! A [`Source`] is one protocol to one namerd; `Remote` is the interpreter over one or several of them in order of
//! preference. It has one watch for each name and table that is bound and for each id that is resolved, however many ask;
//! a watch that ends is begun again, after a jittered pause that doubles up to a bound, at the next source. Meanwhile, and
//! for as long as it takes, the last answer holds, marked as stale.

#[cfg(feature = "mesh")]
mod mesh;

#[cfg(feature = "mesh")]
pub use mesh::{Mesh, MeshError};
pub mod thrift;

use std::{future::Future, pin::Pin, time::Duration};

use crate::{Addr, Delegation, Dtab, Failure, NameTree, Path, Publisher};

/// One way to ask one namerd, about one of its namespaces.
///
/// The two watches run until they cannot go on, publish what they learn meanwhile, and return why they ended. They
/// publish nothing on failure and do not try again: `Remote` does.
pub trait Source: Send + Sync + 'static {
    /// Follows what `name` is bound to under the namespace's table with `dtab` on top of it.
    fn bind<'a>(&'a self, dtab: &'a Dtab, name: &'a Path, tree: &'a Publisher<NameTree<Leaf>>) -> Watching<'a>;

    /// Follows where the replicas of a bound name are.
    fn addr<'a>(&'a self, id: &'a Path, addr: &'a Publisher<Addr>) -> Watching<'a>;

    /// Asks once how `name` is bound. Whoever calls bounds the time.
    fn delegate<'a>(&'a self, dtab: &'a Dtab, name: &'a Path) -> Explaining<'a>;
}

/// A watch of a [`Source`] on its way to its end.
pub type Watching<'a> = Pin<Box<dyn Future<Output = Failure> + Send + 'a>>;

/// What [`Source::delegate`] answers with.
pub type Explaining<'a> = Pin<Box<dyn Future<Output = Result<Delegation, Failure>> + Send + 'a>>;

/// A leaf of a tree that a namerd has bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// The id of the bound name, with the prefixes of transformers.
    pub id: Path,
    /// What its namer did not consume.
    pub residual: Path,
}

/// The pauses between attempts to reach a namerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// The first, before it is jittered. At least 1 ms.
    pub base: Duration,
    /// The longest.
    pub max: Duration,
}
