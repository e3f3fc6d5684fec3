//! The thread that writes a log: those who log wait for nothing.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    runtime::Handle,
    sync::{
        mpsc::{Receiver, Sender, channel},
        oneshot,
    },
};

use super::roll::RollingFile;
use crate::telemetry::{Counter, Scope};

/// So many lines wait to be written; a further one is dropped.
const MAX_LINES: usize = 8192;
/// So many bytes of them; a further line is dropped.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// So many lines are written before the file is flushed, if more are waiting.
const BATCH: usize = 256;
/// How long is waited for what is still to be written.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// The way to the thread. Dropped where nobody else has to wait, it waits a moment for the last lines.
pub(super) struct Writer {
    lines: Option<Sender<Entry>>,
    shared: Arc<Shared>,
    // Until it begins.
    pending: Mutex<Option<Pending>>,
    ended: Mutex<Option<std::sync::mpsc::Receiver<()>>>,
}

/// What the thread is begun with.
struct Pending {
    file: RollingFile,
    appends: bool,
    waiting: Receiver<Entry>,
}

enum Entry {
    Line(Vec<u8>),
    /// Somebody waits until all that came before is in the file.
    Flush(oneshot::Sender<()>),
}

struct Shared {
    bytes: AtomicUsize,
    reopens: AtomicBool,
    stats: LogStats,
}

/// `access_log` of a router.
struct LogStats {
    lines: Counter,
    dropped: Counter,
    errors: Counter,
}

impl Writer {
    /// For lines that wait until it [begins](Self::begin); what is in the file stays if it `appends`.
    pub(super) fn new(file: RollingFile, appends: bool, scope: &Scope) -> Self {
        let stats = LogStats {
            lines: scope.counter("lines"),
            dropped: scope.counter("dropped"),
            errors: scope.counter("errors"),
        };
        let shared = Arc::new(Shared { bytes: AtomicUsize::new(0), reopens: AtomicBool::new(false), stats });
        let (lines, waiting) = channel(MAX_LINES);
        let pending = Mutex::new(Some(Pending { file, appends, waiting }));
        Self { lines: Some(lines), shared, pending, ended: Mutex::default() }
    }

    /// Begins to write, the first time.
    pub(super) fn begin(&self) -> io::Result<()> {
        let Some(pending) = lock(&self.pending).take() else { return Ok(()) };
        let (end, ended) = sync_channel(1);
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name("access-log".to_owned()).spawn(move || write(pending, &shared, &end))?;
        *lock(&self.ended) = Some(ended);
        Ok(())
    }

    /// Waits until what was logged is in the file, for a second at most.
    pub(super) async fn flush(&self) {
        let Some(lines) = &self.lines else { return };
        let (flushed, is_flushed) = oneshot::channel();
        let flushing = async {
            if lines.send(Entry::Flush(flushed)).await.is_ok() {
                // A thread that is gone flushes nothing more.
                let _ = is_flushed.await;
            }
        };
        // A disk that hangs keeps nobody.
        let _ = tokio::time::timeout(LAST_WAIT, flushing).await;
    }

    /// Sends a line on its way, with its end; drops it if too much is waiting.
    pub(super) fn line(&self, line: Vec<u8>) {
        let (shared, len) = (&self.shared, line.len());
        // Relaxed: a count, which orders nothing.
        let waiting = shared.bytes.fetch_add(len, Ordering::Relaxed);
        let sent = self
            .lines
            .as_ref()
            .filter(|_| waiting + len <= MAX_BYTES)
            .is_some_and(|lines| lines.try_send(Entry::Line(line)).is_ok());
        if !sent {
            shared.bytes.fetch_sub(len, Ordering::Relaxed);
            shared.stats.dropped.incr();
        }
    }

    /// Opens the file by its name again before the next line.
    pub(super) fn reopen(&self) {
        self.shared.reopens.store(true, Ordering::Relaxed);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(Pending { file, .. }) = lock(&self.pending).take() {
            file.give_up();
        }
        // A runtime's thread has others to serve, and lines are flushed by who wants to be sure of them.
        let may_wait = Handle::try_current().is_err();
        // A disk that hangs does not keep a process alive.
        if let Some(ended) = lock(&self.ended).take().filter(|_| may_wait) {
            let _ = ended.recv_timeout(LAST_WAIT);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(pending: Pending, shared: &Shared, end: &SyncSender<()>) {
    let Pending { mut file, appends, waiting: mut lines } = pending;
    let mut flushes = Vec::new();
    let mut batch = Vec::with_capacity(BATCH);
    let mut is_new = !appends;
    let mut is_failing = false;
    while lines.blocking_recv_many(&mut batch, BATCH) > 0 {
        let now = Timestamp::now();
        let at_once = shared.reopens.swap(false, Ordering::Relaxed);
        let mut result = file.look(now, at_once);
        if std::mem::take(&mut is_new) {
            result = result.and(file.truncate());
        }
        for entry in batch.drain(..) {
            let line = match entry {
                Entry::Line(line) => line,
                Entry::Flush(flushed) => {
                    flushes.push(flushed);
                    continue;
                }
            };
            shared.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            let written = file.write(&line, now);
            if written.is_ok() { &shared.stats.lines } else { &shared.stats.errors }.incr();
            result = result.and(written);
        }
        result = result.and(file.flush());
        for flushed in flushes.drain(..) {
            // Who waited no longer does not mind.
            let _ = flushed.send(());
        }
        match result {
            Ok(()) => is_failing = false,
            // Once, until it works again: it may fail for each line.
            Err(error) if !std::mem::replace(&mut is_failing, true) => {
                tracing::warn!(%error, "an access log cannot be written");
            }
            Err(_) => {}
        }
    }
    let _ = end.send(());
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::{access_log::Roll, telemetry::Registry};

    #[test]
    fn lines_beyond_the_bound_are_dropped_and_counted() {
        let (registry, folder) = (Registry::new(), tempfile::tempdir().unwrap());
        let path = folder.path().join("a.log");
        let file = RollingFile::open(&path, Roll::Never, None, TimeZone::UTC, Timestamp::now()).unwrap();
        let writer = Writer::new(file, true, &registry.root().scope("log"));
        writer.begin().unwrap();
        writer.line(vec![b'x'; MAX_BYTES + 1]);
        writer.line(b"short\n".to_vec());
        let stats = Arc::clone(&writer.shared);
        drop(writer);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "short\n");
        assert_eq!(
            (stats.stats.dropped.get(), stats.stats.lines.get(), stats.bytes.load(Ordering::Relaxed)),
            (1, 1, 0)
        );
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let (registry, folder) = (Registry::new(), tempfile::tempdir().unwrap());
        let path = folder.path().join("logs/a.log");
        let file = RollingFile::open(&path, Roll::Size(1), None, TimeZone::UTC, Timestamp::now()).unwrap();
        std::fs::remove_dir_all(folder.path().join("logs")).unwrap();
        let writer = Writer::new(file, true, &registry.root().scope("log"));
        writer.begin().unwrap();
        writer.line(b"1\n".to_vec());
        writer.line(b"2\n".to_vec());
        let stats = Arc::clone(&writer.shared);
        drop(writer);
        // The second one cannot be rolled to.
        assert_eq!(stats.stats.errors.get(), 1);
    }

    #[tokio::test]
    async fn the_end_of_a_log_keeps_no_runtime_and_a_flush_brings_its_lines() {
        let (registry, folder) = (Registry::new(), tempfile::tempdir().unwrap());
        let path = folder.path().join("a.log");
        let file = RollingFile::open(&path, Roll::Never, None, TimeZone::UTC, Timestamp::now()).unwrap();
        let writer = Writer::new(file, true, &registry.root().scope("log"));
        writer.line(b"early\n".to_vec());
        writer.begin().unwrap();
        writer.line(b"late\n".to_vec());
        writer.flush().await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "early\nlate\n");
        // A thread that does not end, as one does whose disk hangs.
        let (_end, hangs) = sync_channel(1);
        *lock(&writer.ended) = Some(hangs);
        let begun = tokio::time::Instant::now();
        drop(writer);
        assert!(begun.elapsed() < LAST_WAIT);
    }

    #[test]
    fn a_log_that_never_began_leaves_no_file_that_it_made() {
        let (registry, folder) = (Registry::new(), tempfile::tempdir().unwrap());
        let (made, found) = (folder.path().join("made.log"), folder.path().join("found.log"));
        std::fs::write(&found, "").unwrap();
        for path in [&made, &found] {
            let file = RollingFile::open(path, Roll::Never, None, TimeZone::UTC, Timestamp::now()).unwrap();
            assert!(path.exists());
            drop(Writer::new(file, true, &registry.root().scope("log")));
        }
        assert!(!made.exists() && found.exists());
    }
}
