//! What a namespace's table was before, since when, by whom and why.

mod diff;
mod file;
mod outside;
mod record;

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
}

impl Default for Keep {
    fn default() -> Self {
        Self { records: 100, bytes: 1 << 20, file_bytes: 8 << 20 }
    }
}

/// The past of all namespaces, also of those that have been deleted: in memory, and in a folder if there is one.
///
/// Records are only ever added, one for each change. Changes that were made past this namerd are recorded when they are
/// seen, by `outside`; if there were several since then, only the last. A change that could not be written to the folder is
/// made all the same: it is reported and stays in memory.
pub struct History {
    keep: Keep,
    folder: Option<PathBuf>,
    logs: Mutex<HashMap<Namespace, Arc<Log>>>,
}

/// Of deleted namespaces, and those that never were written, no more than so many are remembered.
const MAX_DELETED: usize = 10_000;

#[derive(Default)]
struct Log {
    // Held from before a change to after its record: whoever sees the change then knows whose it was. Only those wait
    // who change the same namespace, for no longer than its store takes.
    turn: Arc<tokio::sync::Mutex<()>>,
    records: Mutex<VecDeque<Arc<Record>>>,
}

/// The turn to change a namespace and to say so.
pub(super) struct Turn {
    log: Arc<Log>,
    namespace: Namespace,
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
        Self { keep, folder: None, logs: Mutex::default() }
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
        let mut logs = HashMap::new();
        for (namespace, records) in file::read_all(&folder, keep)? {
            let log = Log { records: Mutex::new(records), ..Log::default() };
            log.cut(keep);
            logs.insert(namespace, Arc::new(log));
        }
        Ok(Self { keep, folder: Some(folder), logs: Mutex::new(logs) })
    }

    /// The records of a namespace, newest first.
    pub(super) fn records(&self, namespace: &Namespace, limit: usize) -> Vec<Arc<Record>> {
        let Some(log) = self.logs().get(namespace).cloned() else { return Vec::new() };
        log.records().iter().rev().take(limit).cloned().collect()
    }

    pub(super) fn record(&self, namespace: &Namespace, seq: u64) -> Option<Arc<Record>> {
        let log = self.logs().get(namespace).cloned()?;
        log.records().iter().find(|record| record.seq == seq).cloned()
    }

    /// Waits for the turn to change a namespace.
    pub(super) async fn turn(&self, namespace: &Namespace) -> Turn {
        let log = {
            let mut logs = self.logs();
            if logs.len() >= MAX_DELETED && !logs.contains_key(namespace) {
                logs.retain(|_, log| Arc::strong_count(log) > 1 || log.is_there());
            }
            Arc::clone(logs.entry(namespace.clone()).or_default())
        };
        let guard = Arc::clone(&log.turn).lock_owned().await;
        Turn { log, namespace: namespace.clone(), _guard: guard }
    }

    /// Adds a record, and says which it is.
    pub(super) async fn add(&self, turn: &Turn, entry: Entry) -> u64 {
        let Entry { who, why, table } = entry;
        let seq = turn.log.records().back().map_or(1, |record| record.seq + 1);
        let record = Arc::new(Record { seq, at: SystemTime::now(), who, why, table });
        turn.log.records().push_back(Arc::clone(&record));
        turn.log.cut(self.keep);
        if let Some(folder) = self.folder.clone() {
            let (namespace, keep) = (turn.namespace.clone(), self.keep);
            let append = move || file::append(&folder, &namespace, &record, keep);
            if let Err(error) = tokio::task::spawn_blocking(append).await.map_err(io::Error::other).flatten() {
                tracing::error!(namespace = %turn.namespace, seq, "the history was not written: {error}");
            }
        }
        seq
    }

    /// Records what a watch shows, unless it is known already.
    pub(super) async fn add_seen(&self, turn: &Turn, table: Stored) {
        let last = turn.log.records().back().cloned();
        let is_known = match &last {
            Some(last) => last.table == table,
            None => table.is_none(),
        };
        if !is_known {
            let why = last.is_none().then(|| "found at the start".to_owned());
            self.add(turn, Entry { who: "outside".to_owned(), why, table }).await;
        }
    }

    fn logs(&self) -> MutexGuard<'_, HashMap<Namespace, Arc<Log>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn records(&self) -> MutexGuard<'_, VecDeque<Arc<Record>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_there(&self) -> bool {
        self.records().back().is_some_and(|record| record.table.is_some())
    }

    /// Lets the oldest go.
    fn cut(&self, keep: Keep) {
        let mut records = self.records();
        let mut bytes: usize = records.iter().map(|record| record.size()).sum();
        while records.len() > keep.records.max(1) || (records.len() > 1 && bytes > keep.bytes) {
            bytes -= records.pop_front().map_or(0, |record| record.size());
        }
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keep, folder, logs: _ } = self;
        f.debug_struct("History").field("keep", keep).field("folder", folder).finish_non_exhaustive()
    }
}
