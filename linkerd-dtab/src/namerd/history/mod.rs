//! What a namespace's table was before, since when, by whom and why.

mod diff;
mod file;
mod outside;
mod record;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::SystemTime,
};

use tokio::sync::OwnedMutexGuard;

pub use diff::diff;
pub use record::Record;

pub(super) use outside::Recorder;

use crate::store::{Namespace, Stored};

/// How much of the past is kept, for each namespace.
///
/// Of what is over a bound the oldest goes. On disk, each namespace has up to twice as many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// So many records. 100 by default, at least 1.
    pub records: usize,
    /// In memory no more than so many bytes of tables, but at least one record. 1 MiB by default.
    pub bytes: usize,
    /// A file is begun anew beyond so many bytes, and the one before it is kept. 8 MiB by default.
    pub file_bytes: u64,
    /// So many namespaces that have been deleted. 10,000 by default.
    pub deleted: usize,
}

impl Default for Keep {
    fn default() -> Self {
        Self { records: 100, bytes: 1 << 20, file_bytes: 8 << 20, deleted: 10_000 }
    }
}

/// The past of all namespaces, also of those that have been deleted: in memory, and in a folder if there is one.
///
/// Records are only ever added, one for each change. Changes that were made past this namerd are recorded when they are
/// seen, by `outside`; if there were several since then, only the last. A change that could not be written to the folder is
/// made all the same: it is reported and stays in memory.
///
/// Of deleted namespaces the last [`Keep::deleted`] are remembered; with one more, the one that was deleted first is
/// forgotten, on disk too. Those that there are stay, however many. A number that was forgotten is not given again: a namespace that is
/// made anew goes on after it.
pub struct History {
    keep: Keep,
    folder: Option<PathBuf>,
    // Shared with those who write to the folder.
    logs: Arc<Mutex<Logs>>,
    /// Held while something in the folder is forgotten.
    forgetting: Arc<Mutex<()>>,
    /// Of namespaces that are being changed.
    turns: Mutex<HashMap<Namespace, Weak<tokio::sync::Mutex<()>>>>,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

/// The records of all namespaces that have any.
#[derive(Default)]
struct Logs {
    by_name: HashMap<Namespace, Log>,
    /// Namespaces whose last record is that they were deleted, in the order of that.
    deleted: BTreeMap<u64, Namespace>,
    next_deleted: u64,
    /// The highest number that was forgotten.
    forgotten: u64,
}

#[derive(Default)]
struct Log {
    records: VecDeque<Arc<Record>>,
    /// Its place among those that are deleted.
    deleted: Option<u64>,
}

/// The turn to change a namespace and to say so.
pub(super) struct Turn {
    namespace: Namespace,
    // Held from before a change to after its record: whoever sees the change then knows whose it was. Only those wait
    // who change the same namespace, for no longer than its store takes.
    _guard: OwnedMutexGuard<()>,
}

/// What a record is about, but for when and which.
pub(super) struct Entry {
    pub(super) who: String,
    pub(super) why: Option<String>,
    pub(super) table: Stored,
}

impl History {
    /// A history in memory, lost when the process ends.
    #[must_use]
    pub fn in_memory(keep: Keep) -> Self {
        Self::of(keep, None, Logs::default())
    }

    /// A history in this folder, which is made if it is not there: a file for each namespace, a record a line.
    ///
    /// Reads what is there, and blocks meanwhile: for the start of a process. A last line that was cut short, as by a
    /// crash, is taken off.
    ///
    /// # Errors
    ///
    /// The folder or a file in it cannot be read or written. Lines that are no records are reported and skipped.
    pub fn open(folder: impl Into<PathBuf>, keep: Keep) -> io::Result<Self> {
        let folder = folder.into();
        let mut found = file::read_all(&folder, keep)?;
        found.sort_by_key(|(_, records)| records.back().map(|record| record.at));
        let mut logs = Logs { forgotten: file::read_forgotten(&folder)?, ..Logs::default() };
        for (namespace, mut records) in found {
            cut(&mut records, keep);
            logs.by_name.insert(namespace.clone(), Log { records, deleted: None });
            logs.note(&namespace);
        }
        let forgotten = logs.forget(keep.deleted);
        let history = Self::of(keep, Some(folder.clone()), logs);
        forget(&folder, &history.logs, &history.forgetting, &forgotten)?;
        Ok(history)
    }

    fn of(keep: Keep, folder: Option<PathBuf>, logs: Logs) -> Self {
        let logs = Arc::new(Mutex::new(logs));
        Self {
            keep,
            folder,
            logs,
            forgetting: Arc::default(),
            turns: Mutex::default(),
            clock: Box::new(SystemTime::now),
        }
    }

    /// What says when a change was made; by default the system's clock. It is shown, and decides nothing but which of the
    /// deleted namespaces in a folder are taken for the older ones: a clock that is stepped changes neither the order of
    /// records nor their numbers.
    #[must_use]
    pub fn clock(self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { clock: Box::new(clock), ..self }
    }

    /// The records of a namespace, newest first.
    pub(super) fn records(&self, namespace: &Namespace, limit: usize) -> Vec<Arc<Record>> {
        let logs = self.logs();
        logs.by_name.get(namespace).map_or_else(Vec::new, |log| log.records.iter().rev().take(limit).cloned().collect())
    }

    /// The records of all namespaces that are `wanted`, those that were deleted too: each namespace's newest first.
    pub(super) fn records_of(
        &self,
        wanted: impl Fn(&Namespace) -> bool,
        limit: usize,
    ) -> Vec<(Namespace, Vec<Arc<Record>>)> {
        let logs = self.logs();
        let wanted = logs.by_name.iter().filter(|(namespace, _)| wanted(namespace));
        wanted.map(|(name, log)| (name.clone(), log.records.iter().rev().take(limit).cloned().collect())).collect()
    }

    pub(super) fn record(&self, namespace: &Namespace, seq: u64) -> Option<Arc<Record>> {
        let logs = self.logs();
        logs.by_name.get(namespace)?.records.iter().find(|record| record.seq == seq).cloned()
    }

    /// The first and the last record that a namespace has.
    pub(super) fn known(&self, namespace: &Namespace) -> Option<(u64, u64)> {
        let logs = self.logs();
        let records = &logs.by_name.get(namespace)?.records;
        Some((records.front()?.seq, records.back()?.seq))
    }

    /// Waits for the turn to change a namespace. Nothing is kept of a change that is not made.
    pub(super) async fn turn(&self, namespace: &Namespace) -> Turn {
        let turn = {
            let mut turns = lock(&self.turns);
            let turn = turns.get(namespace).and_then(Weak::upgrade);
            turn.unwrap_or_else(|| {
                // There are as many as changes at once.
                turns.retain(|_, turn| turn.strong_count() > 0);
                let turn = Arc::default();
                turns.insert(namespace.clone(), Arc::downgrade(&turn));
                turn
            })
        };
        Turn { namespace: namespace.clone(), _guard: turn.lock_owned().await }
    }

    /// Adds a record, and says which it is.
    pub(super) async fn add(&self, turn: &Turn, entry: Entry) -> u64 {
        let Entry { who, why, table } = entry;
        let namespace = turn.namespace.clone();
        let (record, forgotten) = {
            let mut logs = self.logs();
            let seq = 1 + logs.last(&namespace).map_or(logs.forgotten, |record| record.seq);
            let record = Arc::new(Record { seq, at: (self.clock)(), who, why, table });
            let records = &mut logs.by_name.entry(namespace.clone()).or_default().records;
            records.push_back(Arc::clone(&record));
            cut(records, self.keep);
            logs.note(&namespace);
            (record, logs.forget(self.keep.deleted))
        };
        let seq = record.seq;
        if let Some(folder) = self.folder.clone() {
            let (name, keep) = (namespace.clone(), self.keep);
            let (logs, forgetting) = (Arc::clone(&self.logs), Arc::clone(&self.forgetting));
            let write = move || {
                file::append(&folder, &name, &record, keep)?;
                forget(&folder, &logs, &forgetting, &forgotten)
            };
            if let Err(error) = tokio::task::spawn_blocking(write).await.map_err(io::Error::other).flatten() {
                tracing::error!(%namespace, seq, "the history was not written: {error}");
            }
        }
        seq
    }

    /// Records what a watch shows, unless it is known already.
    pub(super) async fn add_seen(&self, turn: &Turn, table: Stored) {
        let last = self.logs().last(&turn.namespace).cloned();
        let is_known = match &last {
            Some(last) => last.table == table,
            None => table.is_none(),
        };
        if !is_known {
            let why = last.is_none().then(|| "found at the start".to_owned());
            self.add(turn, Entry { who: "outside".to_owned(), why, table }).await;
        }
    }

    fn logs(&self) -> MutexGuard<'_, Logs> {
        lock(&self.logs)
    }
}

impl Logs {
    fn last(&self, namespace: &Namespace) -> Option<&Arc<Record>> {
        self.by_name.get(namespace)?.records.back()
    }

    /// Takes note of whether a namespace is deleted now.
    fn note(&mut self, namespace: &Namespace) {
        let Some(log) = self.by_name.get_mut(namespace) else { return };
        if let Some(place) = log.deleted.take() {
            self.deleted.remove(&place);
        }
        if log.records.back().is_none_or(|record| record.table.is_none()) {
            log.deleted = Some(self.next_deleted);
            self.deleted.insert(self.next_deleted, namespace.clone());
            self.next_deleted += 1;
        }
    }

    /// Forgets the namespaces that were deleted first, if there are more than `max`, and says which.
    fn forget(&mut self, max: usize) -> Vec<Namespace> {
        let mut forgotten = Vec::new();
        while self.deleted.len() > max
            && let Some((_, namespace)) = self.deleted.pop_first()
        {
            let log = self.by_name.remove(&namespace);
            let last = log.and_then(|log| log.records.back().map(|record| record.seq));
            self.forgotten = self.forgotten.max(last.unwrap_or(0));
            forgotten.push(namespace);
        }
        forgotten
    }
}

/// Forgets namespaces in the folder, but not their numbers.
fn forget(folder: &Path, logs: &Mutex<Logs>, forgetting: &Mutex<()>, names: &[Namespace]) -> io::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let _alone = lock(forgetting);
    let last = lock(logs).forgotten;
    file::write_forgotten(folder, last)?;
    for namespace in names {
        // Held over the removal: one that was made anew meanwhile has its new records in that file.
        let logs = lock(logs);
        if !logs.by_name.contains_key(namespace) {
            file::remove(folder, namespace)?;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here leaves it half changed when it panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the oldest go.
fn cut(records: &mut VecDeque<Arc<Record>>, keep: Keep) {
    let mut bytes: usize = records.iter().map(|record| record.size()).sum();
    while records.len() > keep.records.max(1) || (records.len() > 1 && bytes > keep.bytes) {
        bytes -= records.pop_front().map_or(0, |record| record.size());
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keep, folder, .. } = self;
        f.debug_struct("History").field("keep", keep).field("folder", folder).finish_non_exhaustive()
    }
}
