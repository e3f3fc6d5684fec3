//! Watches by a source.

use std::time::Duration;

use linkerd_dtab::{
    Activity, Addr, Dtab, Failure, NameTree, Path,
    interpreter::remote::{Leaf, Mesh, Source},
};
use tokio::{task::JoinHandle, time::timeout};

/// For files to be looked at again: much more than it takes.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A watch, and its end.
pub(crate) struct Followed<T> {
    pub(crate) activity: Activity<T>,
    pub(crate) end: JoinHandle<Failure>,
}

/// What is published next.
pub(crate) async fn next<T: Clone + Send + Sync + 'static>(followed: &mut Followed<T>) -> T {
    timeout(PATIENCE, followed.activity.changed()).await.unwrap();
    followed.activity.sample().ok().unwrap()
}

pub(crate) fn follow_tree(source: &Mesh, dtab: &str, name: &str) -> Followed<NameTree<Leaf>> {
    let (publisher, activity) = Activity::channel();
    let (source, dtab, name): (_, Dtab, Path) = (source.clone(), dtab.parse().unwrap(), name.parse().unwrap());
    let end = tokio::spawn(async move { source.bind(&dtab, &name, &publisher).await });
    Followed { activity, end }
}

pub(crate) fn follow_addr(source: &Mesh, id: &str) -> Followed<Addr> {
    let (publisher, activity) = Activity::channel();
    let (source, id): (_, Path) = (source.clone(), id.parse().unwrap());
    let end = tokio::spawn(async move { source.addr(&id, &publisher).await });
    Followed { activity, end }
}
