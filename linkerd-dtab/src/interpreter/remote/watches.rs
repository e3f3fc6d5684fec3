//! All watches of one interpreter.

use std::{
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    select,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Builder, Leaf, NoAnswer, Pauses, Recalled, Source,
    follow::{Follower, Id, Named, News, Question},
    heard::Heard,
    registry::{Registered, Registry},
    saved::{Live, Saved},
};
use crate::{
    Activity, Addr, Bound, Delegation, Dtab, Failure, NameTree, Path, Publisher, Weighted,
    interpreter::local::same_tree,
};

pub(super) struct Watches {
    sources: Arc<[Arc<dyn Source>]>,
    heard: Arc<Heard>,
    pauses: Pauses,
    patience: Duration,
    names: Arc<Registry<Named, NameTree<Bound>>>,
    ids: Arc<Registry<Id, Addr>>,
    saved: Option<Arc<Saved>>,
    // Nobody has answered since something had to be recalled.
    is_away: AtomicBool,
}

/// What is made of the answers to a question, and what was known about it.
trait Kept: Question {
    type Value: Clone + Send + Sync + 'static;

    fn make(watches: &Arc<Watches>, answer: Self::Answer) -> Self::Value;
    fn is_same(old: &Self::Value, new: &Self::Value) -> bool;
    fn recall(&self, saved: &Saved) -> Option<(Self::Answer, Recalled)>;
}

impl Kept for Named {
    type Value = NameTree<Bound>;

    fn make(watches: &Arc<Watches>, answer: NameTree<Leaf>) -> NameTree<Bound> {
        bound(watches, answer, None)
    }

    fn is_same(old: &NameTree<Bound>, new: &NameTree<Bound>) -> bool {
        same_tree(old, new)
    }

    fn recall(&self, saved: &Saved) -> Option<(NameTree<Leaf>, Recalled)> {
        saved.name(self)
    }
}

impl Kept for Id {
    type Value = Addr;

    fn make(_: &Arc<Watches>, answer: Addr) -> Addr {
        answer
    }

    fn is_same(old: &Addr, new: &Addr) -> bool {
        old == new
    }

    fn recall(&self, saved: &Saved) -> Option<(Addr, Recalled)> {
        saved.id(self)
    }
}

impl Watches {
    pub(super) fn new(builder: Builder) -> Arc<Self> {
        let Builder { sources, pauses, patience, max_watches, snapshots } = builder;
        let saved = snapshots.map(|settings| Arc::new(Saved::new(settings, max_watches.get())));
        let watches = Arc::new(Self {
            heard: Arc::new(Heard::new(sources.len())),
            sources: sources.into(),
            pauses,
            patience,
            names: Arc::new(Registry::new("names", max_watches)),
            ids: Arc::new(Registry::new("ids", max_watches)),
            saved,
            is_away: AtomicBool::new(false),
        });
        if let Some(saved) = &watches.saved {
            tokio::spawn(keep_saved(Arc::downgrade(&watches), Arc::clone(saved)));
        }
        watches
    }

    pub(super) fn bind(self: &Arc<Self>, dtab: &Dtab, path: &Path) -> Activity<NameTree<Bound>> {
        let name = Named { dtab: dtab.clone(), path: path.clone() };
        self.names.watch(name.clone(), |registered| _ = tokio::spawn(follow(self.clone(), name, registered)))
    }

    fn addr(self: &Arc<Self>, id: &Path) -> Activity<Addr> {
        let id = Id(id.clone());
        self.ids.watch(id.clone(), |registered| _ = tokio::spawn(follow(self.clone(), id, registered)))
    }

    pub(super) fn delegate(self: &Arc<Self>, dtab: &Dtab, path: &Path) -> Activity<Delegation> {
        let (publisher, activity) = Activity::channel();
        let (watches, dtab, path) = (Arc::clone(self), dtab.clone(), path.clone());
        tokio::spawn(async move {
            select! {
                () = publisher.closed() => {}
                explained = watches.explain(&dtab, &path) => match explained {
                    Ok(delegation) => publisher.ok(delegation),
                    Err(error) => publisher.failed(error),
                }
            }
        });
        activity
    }

    async fn explain(&self, dtab: &Dtab, path: &Path) -> Result<Delegation, Failure> {
        let mut failure: Failure = Arc::new(NoAnswer(self.patience));
        for (i, source) in self.sources.iter().enumerate() {
            match timeout(self.patience, source.delegate(dtab, path)).await {
                Ok(Ok(delegation)) => {
                    self.heard.answered(i);
                    return Ok(delegation);
                }
                Ok(Err(error)) => failure = error,
                Err(_) => failure = Arc::new(NoAnswer(self.patience)),
            }
        }
        Err(failure)
    }

    pub(super) fn count(&self) -> (usize, usize) {
        (self.names.len(), self.ids.len())
    }

    pub(super) fn names(&self) -> Vec<(Dtab, Path, Activity<NameTree<Bound>>)> {
        let names = self.names.all().into_iter();
        names.map(|(Named { dtab, path }, tree)| (dtab, path, tree)).collect()
    }

    pub(super) async fn save(&self) -> io::Result<()> {
        let Some(saved) = &self.saved else { return Ok(()) };
        saved.ready().await;
        saved.write(Live { names: self.names.all(), ids: self.ids.all() }).await
    }

    /// Waits until what was known may be used.
    async fn nobody_answers(&self, since: Instant) {
        let Some(saved) = &self.saved else { return std::future::pending().await };
        // Relaxed: one more wait does no harm.
        if !self.is_away.load(Ordering::Relaxed) {
            sleep_until(since + saved.patience()).await;
        }
        saved.ready().await;
    }

    fn recall<Q: Kept>(self: &Arc<Self>, question: &Q, published: &Publisher<Q::Value>) {
        let Some((answer, recalled)) = self.saved.as_ref().and_then(|saved| question.recall(saved)) else { return };
        self.is_away.store(true, Ordering::Relaxed);
        published.ok(Q::make(self, answer));
        published.failed(Arc::new(recalled));
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        // Who writes looks up and sees that there is nothing to write any more.
        if let Some(saved) = &self.saved {
            saved.note();
        }
    }
}

/// Publishes what the sources say about a question until nobody watches.
async fn follow<Q: Kept>(watches: Arc<Watches>, question: Q, registered: Registered<Q, Q::Value>) {
    let published = registered.published();
    let (sources, pauses) = (Arc::clone(&watches.sources), watches.pauses);
    let mut follower = Follower::new(sources, question.clone(), pauses, watches.patience, Arc::clone(&watches.heard));
    let began = Instant::now();
    let mut may_recall = watches.saved.is_some();
    loop {
        select! {
            biased;
            () = published.closed() => if registered.release() {
                return;
            },
            news = follower.next() => match news {
                News::Answer(answer) => {
                    may_recall = false;
                    watches.is_away.store(false, Ordering::Relaxed);
                    published.ok_if_changed(Q::make(&watches, answer), Q::is_same);
                    if let Some(saved) = &watches.saved {
                        saved.note();
                    }
                }
                News::Failed(failure) => {
                    tracing::debug!(question = %question.to_string(), "not known: {failure}");
                    if may_recall && let Some(saved) = &watches.saved {
                        may_recall = false;
                        saved.ready().await;
                        watches.recall(&question, published);
                    }
                    published.failed(failure);
                }
            },
            () = watches.nobody_answers(began), if may_recall => {
                may_recall = false;
                watches.recall(&question, published);
            }
        }
    }
}

/// Reads what was known, then writes what is known whenever it has changed.
async fn keep_saved(watches: Weak<Watches>, saved: Arc<Saved>) {
    saved.read().await;
    loop {
        saved.is_due().await;
        let Some(watches) = watches.upgrade() else { return };
        if let Err(error) = watches.save().await {
            tracing::warn!(?saved, "snapshot not written: {error}");
        }
    }
}

/// The same tree with watches of the addresses, and the weights that lead to them.
fn bound(watches: &Arc<Watches>, tree: NameTree<Leaf>, weight: Option<f64>) -> NameTree<Bound> {
    match tree {
        NameTree::Leaf(Leaf { id, residual }) => {
            let addr = watches.addr(&id);
            NameTree::Leaf(Bound { weight, ..Bound::new(id, residual, addr) })
        }
        NameTree::Alt(trees) => NameTree::Alt(trees.into_iter().map(|tree| bound(watches, tree, weight)).collect()),
        NameTree::Union(branches) => {
            let branch = |Weighted { weight, tree }| Weighted::new(weight, bound(watches, tree, Some(weight)));
            NameTree::Union(branches.into_iter().map(branch).collect())
        }
        NameTree::Neg => NameTree::Neg,
        NameTree::Fail => NameTree::Fail,
        NameTree::Empty => NameTree::Empty,
    }
}
