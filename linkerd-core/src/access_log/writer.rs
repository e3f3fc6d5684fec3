//! The thread that writes a log: those who log wait for nothing.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::roll::RollingFile;
use crate::telemetry::{Counter, Scope};

/// So many lines wait to be written; a further one is dropped.
const MAX_LINES: usize = 8192;
/// So many bytes of them; a further line is dropped.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// So many lines are written before the file is flushed, if more are waiting.
const BATCH: usize = 256;
/// How long the end of a log waits for what is still to be written.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// The way to the thread. Dropped, it waits a moment for the last lines.
pub(super) struct Writer {
    lines: Option<Sender<Vec<u8>>>,
    shared: Arc<Shared>,
    ended: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
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
    /// Begins to write; what is in the file stays if it `appends`.
    pub(super) fn spawn(file: RollingFile, appends: bool, scope: &Scope) -> io::Result<Self> {
        let stats = LogStats {
            lines: scope.counter("lines"),
            dropped: scope.counter("dropped"),
            errors: scope.counter("errors"),
        };
        let shared = Arc::new(Shared { bytes: AtomicUsize::new(0), reopens: AtomicBool::new(false), stats });
        let (lines, waiting) = channel(MAX_LINES);
        let (end, ended) = sync_channel(1);
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write(file, appends, waiting, &theirs, &end))?;
        Ok(Self { lines: Some(lines), shared, ended: std::sync::Mutex::new(ended) })
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
            .is_some_and(|lines| lines.try_send(line).is_ok());
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
        // A disk that hangs does not keep a process alive.
        if let Ok(ended) = self.ended.get_mut() {
            let _ = ended.recv_timeout(LAST_WAIT);
        }
    }
}

fn write(mut file: RollingFile, appends: bool, mut lines: Receiver<Vec<u8>>, shared: &Shared, end: &SyncSender<()>) {
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
        for line in batch.drain(..) {
            shared.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            let written = file.write(&line, now);
            if written.is_ok() { &shared.stats.lines } else { &shared.stats.errors }.incr();
            result = result.and(written);
        }
        result = result.and(file.flush());
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
        let writer = Writer::spawn(file, true, &registry.root().scope("log")).unwrap();
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
        let writer = Writer::spawn(file, true, &registry.root().scope("log")).unwrap();
        writer.line(b"1\n".to_vec());
        writer.line(b"2\n".to_vec());
        let stats = Arc::clone(&writer.shared);
        drop(writer);
        // The second one cannot be rolled to.
        assert_eq!(stats.stats.errors.get(), 1);
    }
}
