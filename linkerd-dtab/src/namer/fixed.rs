//! Names with addresses that code gives them: for services that know their peers, and for tests.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Activity, Addr, Bound, Failure, Name, NameTree, Path, Publisher};

/// Looks names up in a list that code keeps. The longest known name that a path begins with answers; the rest of the
/// path is its residual.
///
/// A clone is the same list, so one can be mounted and the other kept to change it:
///
/// ```
/// # use linkerd_dtab::{Addr, Namer as _, namer::fixed};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let names = fixed::Namer::new();
/// let mut answer = names.clone().lookup(&"/web/users".parse()?);
/// assert_eq!(answer.ready().await?.to_string(), "~");
///
/// names.set("/web".parse()?, Addr::of(["127.0.0.1:8080".parse()?]));
/// answer.changed().await;
/// assert_eq!(answer.ready().await?.to_string(), "/web[/users]");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Namer {
    list: Arc<Mutex<List>>,
}

type Names = Arc<HashMap<Path, Activity<Addr>>>;

struct List {
    addrs: HashMap<Path, Publisher<Addr>>,
    names: Publisher<Names>,
}

impl Namer {
    /// Knows no name.
    #[must_use]
    pub fn new() -> Self {
        let names = Activity::channel().0;
        names.ok(Names::default());
        Self { list: Arc::new(Mutex::new(List { addrs: HashMap::new(), names })) }
    }

    /// Knows `name` too, as [`set`](Self::set) does.
    #[must_use]
    pub fn with(self, name: Path, addr: Addr) -> Self {
        self.set(name, addr);
        self
    }

    /// From now on `name` is at `addr`.
    pub fn set(&self, name: Path, addr: Addr) {
        self.list().publish(name, |publisher| publisher.ok(addr));
    }

    /// The source of `name` fails: its last address is kept and marked as stale, without one it fails.
    pub fn fail(&self, name: Path, failure: Failure) {
        self.list().publish(name, |publisher| publisher.failed(failure));
    }

    /// There is no `name` any more; who still has its address sees [`Addr::Neg`].
    pub fn remove(&self, name: &Path) {
        let mut list = self.list();
        if let Some(publisher) = list.addrs.remove(name) {
            publisher.ok(Addr::Neg);
            list.tell();
        }
    }

    /// The known names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<Path> {
        let mut names: Vec<_> = self.list().addrs.keys().cloned().collect();
        names.sort();
        names
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn publish(&mut self, name: Path, publish: impl FnOnce(&Publisher<Addr>)) {
        if let Some(known) = self.addrs.get(&name) {
            return publish(known);
        }
        let publisher = Activity::channel().0;
        publish(&publisher);
        self.addrs.insert(name, publisher);
        self.tell();
    }

    fn tell(&self) {
        let names = self.addrs.iter().map(|(name, publisher)| (name.clone(), publisher.subscribe()));
        self.names.ok(Arc::new(names.collect()));
    }
}

impl crate::Namer for Namer {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        let path = path.clone();
        let names = self.list().names.subscribe();
        names.map(move |names| {
            let found = (0..=path.size()).rev().find_map(|size| {
                let id = path.take_first(size);
                let addr = names.get(&id)?.clone();
                Some(Bound::new(id, path.drop_first(size), addr))
            });
            found.map_or(NameTree::Neg, |bound| NameTree::Leaf(Name::Bound(bound)))
        })
    }

    fn names(&self) -> Option<io::Result<Vec<Path>>> {
        Some(Ok(Self::names(self)))
    }
}

impl Default for Namer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Namer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Namer").field(&self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Namer as _, State};

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    fn addr(text: &str) -> Addr {
        Addr::of([text.parse().unwrap()])
    }

    fn bound(tree: &Activity<NameTree<Name>>) -> Bound {
        let State::Ok(NameTree::Leaf(Name::Bound(bound))) = tree.sample() else { panic!("{tree:?}") };
        bound
    }

    #[tokio::test]
    async fn the_longest_known_name_answers() {
        let names = Namer::new().with(path("/a"), addr("10.0.0.1:1")).with(path("/a/b"), addr("10.0.0.2:1"));
        let found = bound(&names.lookup(&path("/a/b/c")));
        assert_eq!((found.id, found.residual), (path("/a/b"), path("/c")));
        assert_eq!(bound(&names.lookup(&path("/a/x"))).id, path("/a"));
        assert!(matches!(names.lookup(&path("/ab")).sample(), State::Ok(NameTree::Neg)));
        assert_eq!(names.names(), [path("/a"), path("/a/b")]);
    }

    #[tokio::test]
    async fn a_change_reaches_who_looked_before() {
        let names = Namer::new();
        let mut tree = names.lookup(&path("/web"));
        assert!(matches!(tree.sample_and_update(), State::Ok(NameTree::Neg)));
        names.fail(path("/web"), Arc::new(std::io::Error::other("down")));
        tree.changed().await;
        let mut watch = bound(&tree).addr;
        assert_eq!(watch.ready().await.unwrap_err().to_string(), "down");
        names.set(path("/web"), addr("10.0.0.1:1"));
        assert_eq!(watch.sample_and_update().ok(), Some(addr("10.0.0.1:1")));
        names.fail(path("/web"), Arc::new(std::io::Error::other("down")));
        assert_eq!(watch.sample().ok(), Some(addr("10.0.0.1:1")));
        tree.sample_and_update();
        names.remove(&path("/web"));
        tree.changed().await;
        assert!(matches!(tree.sample(), State::Ok(NameTree::Neg)));
        assert_eq!(watch.sample().ok(), Some(Addr::Neg));
    }
}
