//! Interpreters that ask a namerd: names are bound there, and followed here.
//!
//! A [`Source`] is one protocol to one namerd; [`Remote`] is the interpreter over one or several of them in order of
//! preference. It has one watch for each name and table that is bound and for each id that is resolved, however many ask;
//! a watch that ends is begun again, after a jittered pause that doubles up to a bound, at the next source; or within a second
//! or ten after somebody else was answered there. Meanwhile, and for as long as it takes, the last answer holds, marked as stale.

mod follow;
mod heard;
pub mod http;
mod lines;
#[cfg(feature = "mesh")]
mod mesh;
mod pauses;
mod pulse;
mod registry;
mod saved;
pub mod thrift;
mod watches;

use std::{fmt, future::Future, num::NonZeroUsize, pin::Pin, sync::Arc, time::Duration};

pub use follow::NoAnswer;
pub use http::Http;
#[cfg(feature = "mesh")]
pub use mesh::{Mesh, MeshError};
pub use registry::TooManyWatches;
pub use saved::{Recalled, Snapshots};

use self::watches::Watches;
use crate::{Activity, Addr, Bound, Delegation, Dtab, Failure, Interpreter, NameTree, Path, Publisher};

/// One way to ask one namerd, about one of its namespaces.
///
/// The two watches run until they cannot go on, publish what they learn meanwhile, and return why they ended. They
/// publish nothing on failure and do not try again: [`Remote`] does. What they may publish as failed is that namerd itself
/// does not know (an address whose namer failed there), while the watch goes on.
pub trait Source: Send + Sync + 'static {
    /// Follows what `name` is bound to under the namespace's table with `dtab` on top of it.
    fn bind<'a>(&'a self, dtab: &'a Dtab, name: &'a Path, tree: &'a Publisher<NameTree<Leaf>>) -> Watching<'a>;

    /// Follows where the replicas of a bound name are.
    fn addr<'a>(&'a self, id: &'a Path, addr: &'a Publisher<Addr>) -> Watching<'a>;

    /// Asks once how `name` is bound. Whoever calls bounds the time.
    fn delegate<'a>(&'a self, dtab: &'a Dtab, name: &'a Path) -> Explaining<'a>;
}

impl<S: Source + ?Sized> Source for Arc<S> {
    fn bind<'a>(&'a self, dtab: &'a Dtab, name: &'a Path, tree: &'a Publisher<NameTree<Leaf>>) -> Watching<'a> {
        (**self).bind(dtab, name, tree)
    }

    fn addr<'a>(&'a self, id: &'a Path, addr: &'a Publisher<Addr>) -> Watching<'a> {
        (**self).addr(id, addr)
    }

    fn delegate<'a>(&'a self, dtab: &'a Dtab, name: &'a Path) -> Explaining<'a> {
        (**self).delegate(dtab, name)
    }
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

/// How many names, and how many ids, are watched at once, unless [`Builder::max_watches`] says otherwise.
pub const MAX_WATCHES: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// Binds names by asking namerds.
///
/// | what happens | what is seen |
/// |---|---|
/// | a namerd goes away | the last answers, marked as stale ([`Snapshot::stale`](crate::Snapshot::stale)) |
/// | another one answers | its answers |
/// | one before it in the list answers again | the answers of that one; the other is let go after it has answered |
/// | nobody has answered, and there are [`Snapshots`] | what was known before, marked as stale |
/// | nobody has answered, and there are none | a failure once each was asked, while all are asked again and again |
/// | too many names or ids are watched | [`TooManyWatches`]; the others go on |
///
/// A clone is the same interpreter.
#[derive(Clone)]
pub struct Remote {
    watches: Arc<Watches>,
}

/// A [`Remote`] before it is made.
#[derive(Clone)]
#[must_use]
pub struct Builder {
    sources: Vec<Arc<dyn Source>>,
    pauses: Pauses,
    patience: Duration,
    max_watches: NonZeroUsize,
    snapshots: Option<Snapshots>,
}

impl Remote {
    /// An interpreter that asks this source first.
    pub fn builder(source: impl Source) -> Builder {
        Builder {
            sources: vec![Arc::new(source)],
            pauses: Pauses::default(),
            patience: Duration::from_secs(10),
            max_watches: MAX_WATCHES,
            snapshots: None,
        }
    }

    /// How many names and ids are watched now.
    #[must_use]
    pub fn watched(&self) -> (usize, usize) {
        self.watches.count()
    }

    /// The names that are watched now, for people: each with the table that it is bound under, and what is known.
    #[must_use]
    pub fn names(&self) -> Vec<(Dtab, Path, Activity<NameTree<Bound>>)> {
        self.watches.names()
    }

    /// Writes a snapshot now, if there are any: at an orderly end nothing is lost.
    ///
    /// # Errors
    ///
    /// The file could not be written. The one before is still there.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the file is the old one or the new one.
    pub async fn save(&self) -> std::io::Result<()> {
        self.watches.save().await
    }
}

impl Builder {
    /// Asks this source when those before it do not answer.
    pub fn or(mut self, source: impl Source) -> Self {
        self.sources.push(Arc::new(source));
        self
    }

    /// How long is waited between attempts. [`Pauses::default`] by default.
    pub fn pauses(mut self, pauses: Pauses) -> Self {
        self.pauses = pauses;
        self
    }

    /// How long a source may say nothing about a name before the next is asked; 10 s by default.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Watches at most this many names, and this many ids; another one fails with [`TooManyWatches`] until one of them is
    /// not watched any more. [`MAX_WATCHES`] by default.
    pub fn max_watches(mut self, max: NonZeroUsize) -> Self {
        self.max_watches = max;
        self
    }

    /// Keeps what is known on disk, and begins with it while nobody answers.
    pub fn snapshots(mut self, snapshots: Snapshots) -> Self {
        self.snapshots = Some(snapshots);
        self
    }

    /// The interpreter. Called inside a tokio runtime.
    #[must_use]
    pub fn build(self) -> Remote {
        Remote { watches: Watches::new(self) }
    }
}

impl Interpreter for Remote {
    fn bind(&self, dtab: &Dtab, path: &Path) -> Activity<NameTree<Bound>> {
        self.watches.bind(dtab, path)
    }

    /// Asked once, of the first source that answers; not live.
    fn delegate(&self, dtab: &Dtab, path: &Path) -> Activity<Delegation> {
        self.watches.delegate(dtab, path)
    }
}

impl fmt::Display for Leaf {
    /// The id, and the residual in brackets if there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        if self.residual.is_empty() { Ok(()) } else { write!(f, "[{}]", self.residual) }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (names, ids) = self.watched();
        f.debug_struct("Remote").field("names", &names).field("ids", &ids).finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("sources", &self.sources.len()).finish_non_exhaustive()
    }
}
