//! Follows a store that is reached by the network: reads all of it, waits for a change, reads all of it again.
//!
//! Tables are few and small, so what changed is never patched into what is known: there is no event whose loss could leave
//! anything wrong for longer than [`RESYNC`], after which everything is read without a reason. A change that was made here
//! is answered after the next reading, which shows it to every watch or shows something newer. A reading that would take too
//! much away is [doubted](super::doubt).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    select,
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    Change, DtabStore, Expect, Namespace, StoreError, Stored, Version,
    backoff::Backoff,
    doubt::{Doubt, Verdict},
    mirror::{Kept, Mirror, Reading},
};
use crate::{Activity, Dtab, Failure, parse::MAX_LEN};

/// A store has this long to answer a change.
pub(super) const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A store has this long to tell all of its tables.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Everything is read this long after it was last read, whether the store told of a change or not.
pub(super) const RESYNC: Duration = Duration::from_secs(30);
/// What is told again and again without being new is listened to once in this time.
const RESTLESS: Duration = Duration::from_secs(1);
/// After an answer that was not believed it is asked again.
const DOUBT_PAUSE: Duration = Duration::from_secs(5);
/// Changes that wait for the reading after them. More wait for their turn.
const MAX_WAITING: usize = 256;
/// How often it is looked whether anybody still watches a store that was dropped.
const LINGER: Duration = Duration::from_secs(1);
/// One answer may have so many bytes.
pub(super) const MAX_ANSWER: usize = 16 << 20;
/// The most namespaces that a store may have: what has more is no store of tables.
pub(super) const MAX_NAMESPACES: usize = 100_000;

/// What a [`Backend`] answers with.
pub(super) type Asked<'a, T, E = Failure> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// How a kind of store is asked.
pub(super) trait Backend: Send + Sync + 'static {
    /// A point in the store's history.
    type Mark: Send + Sync;

    /// Reads all tables, at least as new as when this was called.
    fn read(&self) -> Asked<'_, Listing<Self::Mark>>;

    /// Waits for a change since `mark`.
    fn wait<'a>(&'a self, mark: &'a Self::Mark) -> Asked<'a, Told<Self::Mark>>;

    /// See [`DtabStore::put`].
    fn put<'a>(
        &'a self,
        namespace: &'a Namespace,
        dtab: &'a Dtab,
        expect: &'a Expect,
    ) -> Asked<'a, Version, StoreError>;

    /// See [`DtabStore::delete`].
    fn delete<'a>(&'a self, namespace: &'a Namespace, expect: &'a Expect) -> Asked<'a, (), StoreError>;
}

/// All tables at one point in the store's history.
pub(super) struct Listing<M> {
    pub(super) tables: BTreeMap<Namespace, Reading>,
    pub(super) mark: M,
    /// The same point as a number that grows with each change, if the store has one.
    pub(super) position: Option<u64>,
}

/// What a wait came to.
pub(super) enum Told<M> {
    /// Something changed, or may have.
    Changed,
    /// This is what there is now.
    #[cfg_attr(not(feature = "consul"), allow(dead_code, reason = "Consul alone answers a wait with everything"))]
    Now(Listing<M>),
}

/// A store that is followed. The connection is made when it is first asked.
pub(super) struct Followed<B> {
    shared: Arc<Shared<B>>,
    refresh: OnceLock<mpsc::Sender<Refreshed>>,
}

struct Shared<B> {
    backend: B,
    mirror: Mirror,
    backoff: Backoff,
    /// Namespaces that are being deleted: that the store lacks them is no loss.
    deleting: Mutex<Vec<Namespace>>,
    /// Why its last answer was not believed.
    refused: Mutex<Option<Failure>>,
    /// How many answers were not believed, or not whole.
    doubts: AtomicU64,
}

/// A namespace is being deleted until this is dropped.
struct Deleting<'a> {
    namespace: &'a Namespace,
    all: &'a Mutex<Vec<Namespace>>,
}

type Refreshed = oneshot::Sender<Result<(), Failure>>;

/// A failure that is text alone.
pub(super) fn failure(text: impl Into<String>) -> Failure {
    Arc::new(io::Error::other(text.into()))
}

/// That a store took too long to do this.
pub(super) fn timed_out(what: &str, after: Duration) -> Failure {
    Arc::new(io::Error::new(io::ErrorKind::TimedOut, format!("the store took more than {after:?} to {what}")))
}

impl<B: Backend> Followed<B> {
    pub(super) fn new(backend: B, backoff: Backoff) -> Self {
        let shared = Arc::new(Shared {
            backend,
            mirror: Mirror::new(),
            backoff,
            deleting: Mutex::default(),
            refused: Mutex::default(),
            doubts: AtomicU64::new(0),
        });
        Self { shared, refresh: OnceLock::new() }
    }

    fn follower(&self) -> &mpsc::Sender<Refreshed> {
        self.refresh.get_or_init(|| {
            let (refresh, refreshed) = mpsc::channel(MAX_WAITING);
            tokio::spawn(Arc::clone(&self.shared).follow(refreshed));
            refresh
        })
    }

    /// Makes a change, and answers when the watches show it.
    async fn change<T>(&self, change: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.follower();
        // What is there may not be what is shown, and what is shown may not be what is based on.
        if let Some(doubt) = lock(&self.shared.refused).clone() {
            return Err(StoreError::Unavailable(doubt));
        }
        let done = timeout(CHANGE_TIMEOUT, change);
        let done = done.await.map_err(|_| StoreError::Unavailable(timed_out("change a table", CHANGE_TIMEOUT)))??;
        self.read().await.map_err(StoreError::Unavailable)?;
        Ok(done)
    }

    /// Waits for a reading that is as new as this call.
    async fn read(&self) -> Result<(), Failure> {
        let refresh = self.follower();
        let shown = async {
            let (shown, is_shown) = oneshot::channel();
            let gone = || failure("the store is not followed any more");
            refresh.send(shown).await.map_err(|_| gone())?;
            is_shown.await.map_err(|_| gone())?
        };
        timeout(READ_TIMEOUT, shown).await.unwrap_or_else(|_| Err(timed_out("show a change", READ_TIMEOUT)))
    }

    async fn delete_one(&self, namespace: &Namespace, expect: &Expect) -> Result<(), StoreError> {
        let _deleting = Deleting::begin(namespace, &self.shared.deleting);
        let deleted = self.change(self.shared.backend.delete(namespace, expect)).await;
        if matches!(deleted, Err(StoreError::Missing(_)))
            && *expect != Expect::Absent
            && self.shared.mirror.knows(namespace)
        {
            // The store lacks what is known, and who knows better wants it gone: that ends the doubt.
            _ = self.read().await;
        }
        deleted
    }
}

impl<B: Backend> DtabStore for Followed<B> {
    fn list(&self) -> Activity<Arc<BTreeSet<Namespace>>> {
        self.follower();
        self.shared.mirror.list()
    }

    fn watch(&self, namespace: &Namespace) -> Activity<Stored> {
        self.follower();
        self.shared.mirror.watch(namespace)
    }

    fn put<'a>(&'a self, namespace: &'a Namespace, dtab: &'a Dtab, expect: &'a Expect) -> Change<'a, Version> {
        Box::pin(self.change(async move {
            if format!("{dtab:#}").len() > MAX_LEN {
                let reason = format!("it has more than {MAX_LEN} bytes as text");
                return Err(StoreError::Unfit { namespace: namespace.clone(), reason });
            }
            self.shared.backend.put(namespace, dtab, expect).await
        }))
    }

    fn delete<'a>(&'a self, namespace: &'a Namespace, expect: &'a Expect) -> Change<'a, ()> {
        Box::pin(self.delete_one(namespace, expect))
    }

    fn doubts(&self) -> u64 {
        // Relaxed: a count, and nothing else.
        self.shared.doubts.load(Ordering::Relaxed)
    }
}

impl<B: Backend> Shared<B> {
    async fn follow(self: Arc<Self>, refreshed: mpsc::Receiver<Refreshed>) {
        let doubt = Doubt::default();
        let mut follower = Follower {
            shared: &self,
            refreshed,
            waiting: Vec::new(),
            failures: 0,
            is_told: false,
            doubt,
            is_doubted: false,
        };
        follower.run().await;
    }

    async fn read(&self) -> Result<Listing<B::Mark>, Failure> {
        let read = timeout(READ_TIMEOUT, self.backend.read()).await;
        read.unwrap_or_else(|_| Err(timed_out("tell its tables", READ_TIMEOUT)))
    }
}

struct Follower<'a, B> {
    shared: &'a Shared<B>,
    refreshed: mpsc::Receiver<Refreshed>,
    /// Changes that are answered after the next reading.
    waiting: Vec<Refreshed>,
    /// In a row.
    failures: u32,
    /// Whether the next reading is because the store told of a change.
    is_told: bool,
    doubt: Doubt,
    /// Whether the last answer was not believed, or not whole.
    is_doubted: bool,
}

impl<B: Backend> Follower<'_, B> {
    /// Reads and waits for as long as the store is used or watched.
    async fn run(&mut self) {
        while self.is_wanted() {
            // Before the reading begins: it is as new as all changes that are answered after it.
            while self.waiting.len() < MAX_WAITING
                && let Ok(waiting) = self.refreshed.try_recv()
            {
                self.waiting.push(waiting);
            }
            let begun = Instant::now();
            let read = self.shared.read().await;
            let is_told = std::mem::take(&mut self.is_told);
            match read.map(|listing| self.take(listing)) {
                Ok(Ok((is_news, mark))) => {
                    self.answer(&Ok(()));
                    if is_told && !is_news {
                        self.pause(RESTLESS.saturating_sub(begun.elapsed())).await;
                    }
                    self.listen(mark).await;
                }
                Ok(Err(doubt)) => {
                    self.answer(&Err(Arc::clone(&doubt)));
                    self.doubted(doubt).await;
                }
                Err(error) => {
                    self.answer(&Err(Arc::clone(&error)));
                    self.failed(error).await;
                }
            }
        }
    }

    /// Takes an answer for how things are, as far as it is believed; whether there is news, and the mark.
    fn take(&mut self, listing: Listing<B::Mark>) -> Result<(bool, B::Mark), Failure> {
        let Listing { tables, mark, position } = listing;
        let shared = self.shared;
        let but: HashSet<_> = lock(&shared.deleting).iter().cloned().collect();
        let verdict = self.doubt.judge(position, shared.mirror.compare(&tables, &but), Instant::now());
        let why = match &verdict {
            Verdict::Believed => None,
            Verdict::Kept(why) | Verdict::Refused(why) => Some(why),
        };
        let was_doubted = std::mem::replace(&mut self.is_doubted, why.is_some());
        if let Some(why) = why {
            // Relaxed: a count, and nothing else.
            shared.doubts.fetch_add(1, Ordering::Relaxed);
            if !was_doubted {
                tracing::error!(%why, "what the store of dtabs says is doubted: what is known is kept");
            }
        } else if was_doubted {
            tracing::info!("what the store of dtabs says is believed again");
        }
        *lock(&shared.refused) = None;
        match verdict {
            Verdict::Believed => Ok((shared.mirror.replace(tables), mark)),
            Verdict::Kept(why) => Ok((shared.mirror.take(tables, Some(&Kept { but: &but, why: &why })), mark)),
            Verdict::Refused(why) => {
                *lock(&shared.refused) = Some(Arc::clone(&why));
                Err(why)
            }
        }
    }

    /// Until there is a reason to read everything.
    async fn listen(&mut self, mut mark: B::Mark) {
        let shared = self.shared;
        let begun = Instant::now();
        while self.waiting.is_empty() {
            let asked = Instant::now();
            let told = select! {
                biased;
                () = self.refresh() => return,
                told = timeout(RESYNC, shared.backend.wait(&mark)) => told,
            };
            if begun.elapsed() >= self.shared.backoff.max.min(RESYNC) {
                self.failures = 0;
            }
            let is_news = match told {
                // The store was asked to tell of changes and had none to tell of: now it is asked what there is.
                Err(_) => return,
                Ok(Err(error)) => return self.failed(error).await,
                Ok(Ok(Told::Changed)) => {
                    self.failures = 0;
                    self.is_told = true;
                    return;
                }
                Ok(Ok(Told::Now(listing))) => {
                    self.failures = 0;
                    match self.take(listing) {
                        Ok((is_news, next)) => {
                            mark = next;
                            is_news
                        }
                        Err(doubt) => return self.doubted(doubt).await,
                    }
                }
            };
            if !is_news && asked.elapsed() < RESTLESS {
                self.pause(RESTLESS).await;
            }
            if !self.is_wanted() {
                return;
            }
        }
    }

    async fn failed(&mut self, error: Failure) {
        if self.failures == 0 {
            tracing::warn!(%error, "a store of dtabs is away: what is known is kept");
        }
        self.shared.mirror.failed(error);
        self.failures = self.failures.saturating_add(1);
        let pause = self.shared.backoff.pause(self.failures);
        self.pause(pause).await;
    }

    async fn doubted(&mut self, doubt: Failure) {
        self.shared.mirror.failed(doubt);
        self.pause(DOUBT_PAUSE).await;
    }

    /// A change that was just made proves that the store is there: it ends the pause.
    async fn pause(&mut self, pause: Duration) {
        select! {
            () = self.refresh() => {}
            () = sleep(pause) => {}
        }
    }

    /// Until a reading is asked for, or this store value is dropped and nobody watches it any more.
    async fn refresh(&mut self) {
        match self.refreshed.recv().await {
            Some(waiting) => self.waiting.push(waiting),
            None => {
                while self.shared.mirror.is_watched() {
                    sleep(LINGER).await;
                }
            }
        }
    }

    fn answer(&mut self, answer: &Result<(), Failure>) {
        for waiting in self.waiting.drain(..) {
            // Whoever made the change may have lost patience.
            _ = waiting.send(answer.clone());
        }
    }

    fn is_wanted(&self) -> bool {
        !self.refreshed.is_closed() || self.shared.mirror.is_watched()
    }
}

impl<'a> Deleting<'a> {
    fn begin(namespace: &'a Namespace, all: &'a Mutex<Vec<Namespace>>) -> Self {
        lock(all).push(namespace.clone());
        Self { namespace, all }
    }
}

impl Drop for Deleting<'_> {
    fn drop(&mut self) {
        let mut all = lock(self.all);
        if let Some(at) = all.iter().position(|namespace| namespace == self.namespace) {
            all.swap_remove(at);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here leaves it half changed when it panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> fmt::Debug for Followed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Followed").field(&self.shared.mirror).finish()
    }
}
