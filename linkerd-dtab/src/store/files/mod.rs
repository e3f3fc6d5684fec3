//! Tables in a folder: one file for each namespace, which people can read and edit.
//!
//! The file of the namespace `team/web` is `team%2Fweb.dtab`. Its first line is a comment with its revision; a version is
//! that revision and a digest of the file, so that an edit by another hand is another version too. Files whose names begin
//! with a dot are not tables. The file system must tell `a` from `A`, or namespaces that differ by that alone are one.
//!
//! Changes are whole and last, and several processes may use one folder, as long as its file system has locks: see
//! [`Files::open`].

mod disk;
mod sink;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    select,
    task::spawn_blocking,
    time::{Instant, sleep, timeout_at},
};

use self::{
    disk::{Disk, Locked, Tried},
    sink::TableSink,
};
use super::{
    Change, DtabStore, Expect, Namespace, StoreError, Stored, Version, VersionedDtab,
    doubt::{Difference, Doubt, Verdict},
    mirror::{Mirror, Reading},
};
use crate::{
    Activity, Dtab, Failure,
    watch::{Folder, SETTLE},
};

/// How often the folder is looked through for files that the operating system did not tell of.
const POLL: Duration = Duration::from_secs(2);
/// For how long a change waits for those of others.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before trying again to lock the folder.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// A folder as a store.
///
/// ```no_run
/// # use linkerd_dtab::store::{DtabStore, Files};
/// # async fn example() {
/// let store = Files::new("/var/lib/namerd").open();
/// let default = store.watch(&"default".parse().unwrap());
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
    settle: Duration,
}

struct FileStore {
    shared: Arc<Shared>,
    started: OnceLock<()>,
}

struct Shared {
    disk: Disk,
    folder: Folder,
    mirror: Mirror,
    /// Namespaces whose files are watched.
    attended: Mutex<HashSet<Namespace>>,
    /// Held from a change of a file, or a look at it, until the mirror shows it: the mirror never goes back.
    changes: Mutex<()>,
    doubt: Mutex<Doubt>,
    /// How often the folder was another one, or an older one.
    doubts: AtomicU64,
}

impl Files {
    /// Tables in the folder `dir`, which [`begin`](Self::begin) makes; a relative path counts from the current directory.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self { dir: dir.as_ref().to_owned(), settle: SETTLE }
    }

    /// For how long bad news by another hand (a file that is gone, empty or malformed) must stay the same to be believed:
    /// 100 ms unless it is said, a day at most.
    #[must_use]
    pub fn with_settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Makes the folder, with those above it, and marks it as one of tables by a `.revision`, if it is not yet.
    ///
    /// Blocks: for the start of a process. Whoever does this at each start takes the folder below a file system that is not
    /// mounted for a new store, and has no tables.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn begin(&self) -> io::Result<()> {
        self.disk().begin()
    }

    /// Does so if there never was such a folder, as far as can be told: it is not there, and the one above it is either not
    /// empty or mounted.
    ///
    /// # Errors
    ///
    /// Those of the file system; what is there is no folder.
    pub fn begin_if_new(&self) -> io::Result<()> {
        let disk = self.disk();
        let is_else = self.dir.try_exists()? && !self.dir.is_dir();
        if is_else || disk.is_new()? { disk.begin() } else { Ok(()) }
    }

    fn disk(&self) -> Disk {
        Disk::new(std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone()))
    }

    /// The store. The folder is looked at when it is first asked.
    ///
    /// A change is answered when it is on the disk. It takes a lock (of `.revision` in the folder) that keeps other
    /// processes out, not editors: an edit that is saved between the moment in which a table is compared with what was
    /// expected and the moment in which it is replaced is lost.
    ///
    /// A folder is one of tables if it has a `.revision`, or tables, or a file system of its own; an empty one otherwise is
    /// taken for one that is yet to be mounted, and nothing is known until it is: see [`begin`](Self::begin).
    ///
    /// While the folder is away, and when another one is in its place (one without a `.revision`, or with an older one), what
    /// is known is kept, and changes fail. An older one that has tables is believed when it stays so for ten seconds.
    #[must_use]
    pub fn open(self) -> impl DtabStore + fmt::Debug {
        self.store()
    }

    fn store(self) -> FileStore {
        let folder = Folder::new(&self.dir, self.settle);
        let shared = Arc::new(Shared {
            disk: Disk::new(folder.base().to_owned()),
            folder,
            mirror: Mirror::new(),
            attended: Mutex::default(),
            changes: Mutex::default(),
            doubt: Mutex::default(),
            doubts: AtomicU64::new(0),
        });
        FileStore { shared, started: OnceLock::new() }
    }
}

impl FileStore {
    fn shared(&self) -> &Arc<Shared> {
        self.started.get_or_init(|| {
            tokio::spawn(follow(Arc::clone(&self.shared)));
        });
        &self.shared
    }

    /// Makes a change when nobody else makes one.
    async fn change<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&mut Locked<'_>, &Shared) -> Result<T, StoreError> + Send + Sync + 'static,
    {
        let busy = || {
            let busy = format!("others have been changing the folder for {LOCK_TIMEOUT:?}");
            StoreError::Unavailable(Arc::new(io::Error::new(io::ErrorKind::TimedOut, busy)))
        };
        let until = Instant::now() + LOCK_TIMEOUT;
        let mut names = self.shared().mirror.list();
        let ready = timeout_at(until, names.ready()).await;
        ready.map_err(|_| busy())?.map_err(StoreError::Unavailable)?;
        let change = Arc::new(change);
        // A change that has begun is waited for, however slow the disk is: nobody can say that it was not made.
        loop {
            let (shared, change) = (Arc::clone(&self.shared), Arc::clone(&change));
            let tried = spawn_blocking(move || shared.try_change(&*change)).await;
            match tried.map_err(|error| StoreError::Unavailable(Arc::new(error)))?? {
                Tried::Done(done) => return Ok(done),
                Tried::Busy if Instant::now() >= until => return Err(busy()),
                Tried::Busy => sleep(LOCK_PAUSE).await,
            }
        }
    }
}

impl DtabStore for FileStore {
    fn list(&self) -> Activity<Arc<BTreeSet<Namespace>>> {
        self.shared().mirror.list()
    }

    fn watch(&self, namespace: &Namespace) -> Activity<Stored> {
        let activity = self.shared().mirror.watch(namespace);
        // Also if there is no such file: one that appears is then told of.
        self.shared.attend(namespace);
        activity
    }

    fn put<'a>(&'a self, namespace: &'a Namespace, dtab: &'a Dtab, expect: &'a Expect) -> Change<'a, Version> {
        let (namespace, dtab, expect) = (namespace.clone(), dtab.clone(), expect.clone());
        Box::pin(self.change(move |locked, shared| {
            let version = locked.put(&namespace, &dtab, &expect)?;
            let table = VersionedDtab { version: version.clone(), dtab: dtab.clone() };
            shared.mirror.set(&namespace, Reading::Table(table));
            Ok(version)
        }))
    }

    fn delete<'a>(&'a self, namespace: &'a Namespace, expect: &'a Expect) -> Change<'a, ()> {
        let (namespace, expect) = (namespace.clone(), expect.clone());
        Box::pin(self.change(move |locked, shared| {
            locked.delete(&namespace, &expect)?;
            shared.mirror.remove(&namespace);
            Ok(())
        }))
    }

    fn doubts(&self) -> u64 {
        // Relaxed: a count, and nothing else.
        self.shared.doubts.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn try_change<T>(
        self: &Arc<Self>,
        change: &dyn Fn(&mut Locked<'_>, &Self) -> Result<T, StoreError>,
    ) -> Result<Tried<T>, StoreError> {
        let _changing = self.changes();
        match self.disk.lock() {
            Ok(Tried::Done(mut locked)) => change(&mut locked, self).map(Tried::Done),
            Ok(Tried::Busy) => Ok(Tried::Busy),
            Err(error) => Err(StoreError::Unavailable(Arc::new(error))),
        }
    }

    /// Looks through the folder; the first time, at the files too.
    fn look(self: &Arc<Self>, is_first: bool) -> io::Result<()> {
        if is_first {
            self.disk.claim()?;
        }
        let is_other = self.judge().inspect_err(|_| {
            // Relaxed: a count, and nothing else.
            self.doubts.fetch_add(1, Ordering::Relaxed);
        })?;
        let names = self.disk.names()?;
        if is_first || is_other {
            let _changing = self.changes();
            let readings: BTreeMap<_, _> = names.iter().map(|name| (name.clone(), self.first(name))).collect();
            self.mirror.replace(readings);
        } else {
            self.mirror.contact();
        }
        for name in names.iter().chain(&self.mirror.watched()) {
            self.attend(name);
        }
        Ok(())
    }

    /// Whether the folder is another one than before, and believed. Fails if it is not believed.
    fn judge(&self) -> io::Result<bool> {
        let (position, seen) = (self.disk.position()?, self.disk.seen());
        let Some(position) = position.filter(|position| *position < seen) else {
            *self.doubt.lock().unwrap_or_else(PoisonError::into_inner) = Doubt::default();
            return Ok(false);
        };
        let tables = self.disk.list()?.len();
        if tables == 0 {
            let folder = disk::display(self.folder.base());
            let text = format!("the folder {folder} went back from revision {seen} to {position}, and has no tables");
            return Err(io::Error::other(text));
        }
        let mut doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        doubt.has_seen(seen);
        let difference = Difference { kept: tables, ..Difference::default() };
        match doubt.judge(Some(position), difference, Instant::now()) {
            Verdict::Believed => {
                self.disk.go_back(position);
                Ok(true)
            }
            Verdict::Kept(why) | Verdict::Refused(why) => Err(io::Error::other(why)),
        }
    }

    /// What is first read of a file. If it is no table it may yet be one when its writer is done, so it is no answer.
    fn first(&self, namespace: &Namespace) -> Reading {
        let unsure = |error: &dyn fmt::Display| {
            let text = format!("{}: {error}", disk::display(&self.disk.path(namespace)));
            Reading::Bad(Arc::new(io::Error::other(text)) as Failure)
        };
        match self.disk.read(namespace) {
            Ok(Some(bytes)) => match std::str::from_utf8(&bytes) {
                Ok("") => unsure(&"it is empty so far"),
                Ok(text) => disk::table(text).map_or_else(|error| unsure(&error.summary()), Reading::Table),
                Err(error) => unsure(&error),
            },
            Ok(None) => unsure(&"it was there a moment ago"),
            Err(error) => unsure(&error),
        }
    }

    /// Sees to it that a namespace's file is watched.
    fn attend(self: &Arc<Self>, namespace: &Namespace) {
        if self.attended().insert(namespace.clone()) {
            let sink = TableSink::new(self, namespace);
            self.folder.watch(vec![disk::file_name(namespace)], Box::new(sink));
        }
    }

    fn attended(&self) -> MutexGuard<'_, HashSet<Namespace>> {
        self.attended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks through the folder for as long as the store is used or watched.
async fn follow(shared: Arc<Shared>) {
    let mut is_first = true;
    let mut was_well = true;
    // This is one of those who hold it; the other is the store.
    while Arc::strong_count(&shared) > 1 || shared.mirror.is_watched() {
        let looking = Arc::clone(&shared);
        let looked = spawn_blocking(move || looking.look(is_first)).await;
        let looked = looked.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let Err(error) = looked {
            if std::mem::take(&mut was_well) {
                let folder = disk::display(shared.folder.base());
                tracing::error!(%folder, %error, "cannot look into the folder of dtabs: what is known is kept");
            }
            shared.mirror.failed(Arc::new(error));
        } else {
            is_first = false;
            was_well = true;
        }
        select! {
            () = shared.folder.strange() => {}
            () = sleep(POLL) => {}
        }
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("dir", &self.shared.folder.base()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_that_has_begun_is_waited_for_however_slow_the_disk_is() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        files.begin().unwrap();
        let slow = files.store();
        let (begun, mut has_begun) = tokio::sync::mpsc::channel(1);
        let (end, ends) = mpsc::sync_channel(1);
        let ends = Mutex::new(ends);
        let changing = tokio::spawn(async move {
            let change = move |_: &mut Locked<'_>, _: &Shared| {
                let _ = begun.try_send(());
                let _ = ends.lock().unwrap().recv();
                Ok(7)
            };
            slow.change(change).await
        });
        has_begun.recv().await.unwrap();
        tokio::time::advance(3 * LOCK_TIMEOUT).await;
        assert!(!changing.is_finished());
        end.send(()).unwrap();
        assert_eq!(changing.await.unwrap().unwrap(), 7);
    }
}
