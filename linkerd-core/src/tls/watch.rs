//! What was read from files, read again when they change.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{BadTls, Metrics, files::Snapshot, metrics::Gauges, pem::Expiry};

/// How often files are looked at, unless told otherwise.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// For how long files must stay as they are to be believed: one of two may be written, or half of one.
const SETTLE: Duration = Duration::from_millis(50);

/// What was made of some files.
pub(super) struct Loaded<T> {
    pub(super) value: T,
    pub(super) expiries: Vec<Expiry>,
}

/// Makes something of the files as they are.
pub(super) type Load<T> = Box<dyn Fn(&Snapshot) -> Result<Loaded<T>, BadTls> + Send + Sync>;

/// What is used of some files: the last that could be used.
pub(super) struct Live<T>(ArcSwap<T>);

impl<T: Send + Sync + 'static> Live<T> {
    /// Reads the files, and follows them in a task of its own until nobody holds what is returned.
    ///
    /// Called in a tokio runtime.
    pub(super) fn watch(
        files: Vec<PathBuf>,
        interval: Duration,
        metrics: &Metrics,
        load: Load<T>,
    ) -> Result<Arc<Self>, BadTls> {
        let snapshot = Snapshot::read(&files);
        let Loaded { value, expiries } = load(&snapshot)?;
        let live = Arc::new(Self(ArcSwap::from_pointee(value)));
        if !files.is_empty() {
            let watch = Watch {
                files,
                load,
                seen: snapshot.digest(),
                gauges: metrics.gauges(&expiries),
                metrics: metrics.clone(),
                live: Arc::downgrade(&live),
            };
            tokio::spawn(watch.run(interval));
        }
        Ok(live)
    }

    pub(super) fn now(&self) -> arc_swap::Guard<Arc<T>> {
        self.0.load()
    }
}

struct Watch<T> {
    files: Vec<PathBuf>,
    load: Load<T>,
    /// What was last taken, or refused.
    seen: u64,
    gauges: Gauges,
    metrics: Metrics,
    live: Weak<Live<T>>,
}

impl<T: Send + Sync + 'static> Watch<T> {
    async fn run(mut self, interval: Duration) {
        let mut changed = None;
        while self.live.strong_count() > 0 {
            let pause = if changed.is_some() { SETTLE.min(interval) } else { interval };
            tokio::time::sleep(pause).await;
            // It reads files.
            let looked = tokio::task::spawn_blocking(move || {
                let changed = self.look(changed);
                (self, changed)
            });
            match looked.await {
                Ok((back, seen)) => (self, changed) = (back, seen),
                // The runtime ends.
                Err(_) => return,
            }
        }
    }

    /// Looks at the files, and takes what is new in them if it was the same the last time. Returns what to wait for.
    fn look(&mut self, changed: Option<u64>) -> Option<u64> {
        let snapshot = Snapshot::read(&self.files);
        let digest = snapshot.digest();
        if digest == self.seen {
            return None;
        }
        if changed != Some(digest) {
            return Some(digest);
        }
        self.seen = digest;
        let live = self.live.upgrade()?;
        let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
        let files = files.join(", ");
        match (self.load)(&snapshot) {
            Ok(Loaded { value, expiries }) => {
                live.0.store(Arc::new(value));
                self.gauges.reloaded(&expiries);
                self.metrics.reloads.incr();
                tracing::info!(files, "TLS files changed and are used from now on");
            }
            Err(error) => {
                self.gauges.stale();
                self.metrics.failures.incr();
                tracing::error!(%error, files, "TLS files changed and cannot be used: what they were before stays");
            }
        }
        None
    }
}
