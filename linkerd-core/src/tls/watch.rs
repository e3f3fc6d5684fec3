//! What was read from files, read again when they change.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::time_provider::TimeProvider;

use super::{
    BadTls, HandshakeSettings, Metrics,
    files::Snapshot,
    handshake::now,
    metrics::Gauges,
    pem::Validity,
    roots::{Needed, Roots},
};

/// How often files are looked at, unless told otherwise.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// For how long files must stay as they are to be believed: one of two may be written, or half of one.
const SETTLE: Duration = Duration::from_millis(50);

/// A root that vouched for nobody within this time is not missed, unless another one is configured.
const MISSED: Duration = Duration::from_hours(24);

/// What was made of some files.
pub(super) struct Loaded<T> {
    pub(super) value: Arc<T>,
    /// The files with certificates, in the same order each time.
    pub(super) files: Vec<Validity>,
    pub(super) roots: Roots,
}

impl<T> Loaded<T> {
    /// Why peers do not take what they are shown of these files at a time.
    fn objection(&self, now: SystemTime) -> Option<BadTls> {
        self.files.iter().find_map(|file| file.objection(now))
    }

    /// Why this is not to take the place of what is used. What is not good itself is worth less than anything new.
    fn objection_over(&self, used: &Self, keep: Option<Duration>, now: SystemTime) -> Option<BadTls> {
        let both = self.files.iter().zip(&used.files);
        let mut good = both.filter(|(_, used)| used.objection(now).is_none());
        good.find_map(|(new, _)| new.objection(now)).or_else(|| {
            let keep = keep?;
            let Needed { name: root, connections, idle } = used.roots.missed(&self.roots, keep, now).next()?;
            Some(BadTls::RootInUse { root, connections, idle, keep })
        })
    }
}

/// Makes something of the files as they are.
pub(super) type Load<T> = Box<dyn Fn(&Snapshot) -> Result<Loaded<T>, BadTls> + Send + Sync>;

/// What is used of some files: the last that could be used.
pub(super) struct Live<T>(ArcSwap<Loaded<T>>);

impl<T: Send + Sync + 'static> Live<T> {
    /// Reads the files, and follows them in a task of its own until nobody holds what is returned.
    ///
    /// Called in a tokio runtime.
    pub(super) fn watch(
        files: Vec<PathBuf>,
        handshake: &HandshakeSettings,
        metrics: &Metrics,
        load: Load<T>,
    ) -> Result<Arc<Self>, BadTls> {
        let snapshot = Snapshot::read(&files);
        let loaded = load(&snapshot)?;
        let clock = Arc::clone(&handshake.clock);
        let objection = loaded.objection(now(&*clock));
        if let Some(error) = &objection {
            tracing::warn!(%error, "TLS begins with what peers refuse, until the file changes or its time comes");
        }
        let gauges = metrics.gauges(&loaded.files, &clock);
        let live = Arc::new(Self(ArcSwap::from_pointee(loaded)));
        if !files.is_empty() {
            let watch = Watch {
                files,
                load,
                seen: snapshot.digest(),
                waiting: None,
                was_good: objection.is_none(),
                gauges,
                metrics: metrics.clone(),
                keep_used_roots: handshake.keep_used_roots,
                clock,
                live: Arc::downgrade(&live),
            };
            tokio::spawn(watch.run(handshake.reload_interval));
        }
        Ok(live)
    }

    pub(super) fn now(&self) -> Arc<Loaded<T>> {
        self.0.load_full()
    }
}

struct Watch<T> {
    files: Vec<PathBuf>,
    load: Load<T>,
    /// What was last taken, or refused.
    seen: u64,
    /// What is in the files, if its time has not come.
    waiting: Option<Loaded<T>>,
    /// Whether peers took what is used, when that was last looked at.
    was_good: bool,
    gauges: Gauges,
    metrics: Metrics,
    keep_used_roots: Option<Duration>,
    clock: Arc<dyn TimeProvider>,
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
        let live = self.live.upgrade()?;
        if digest == self.seen {
            self.look_at_time(&live);
            return None;
        }
        if changed != Some(digest) {
            return Some(digest);
        }
        self.seen = digest;
        self.waiting = None;
        match (self.load)(&snapshot) {
            Ok(mut loaded) => {
                let used = live.now();
                loaded.roots.inherit(&used.roots);
                if let Some(objection) = loaded.objection_over(&used, self.keep_used_roots, now(&*self.clock)) {
                    self.refuse(&objection);
                    self.waiting = Some(loaded);
                } else {
                    self.take(&live, loaded);
                }
            }
            Err(error) => self.refuse(&error),
        }
        None
    }

    /// Time alone may end what is used, and lets what waits take its place.
    fn look_at_time(&mut self, live: &Live<T>) {
        let (used, now, keep) = (live.now(), now(&*self.clock), self.keep_used_roots);
        if let Some(waiting) = self.waiting.take_if(|waiting| waiting.objection_over(&used, keep, now).is_none()) {
            return self.take(live, waiting);
        }
        let objection = used.objection(now);
        if let Some(error) = objection.as_ref().filter(|_| self.was_good) {
            tracing::error!(%error, "what is used for TLS is refused by peers from now on, until the file changes");
        }
        self.was_good = objection.is_none();
    }

    fn take(&mut self, live: &Live<T>, loaded: Loaded<T>) {
        let now = now(&*self.clock);
        for Needed { name: root, connections, idle } in live.now().roots.missed(&loaded.roots, MISSED, now) {
            self.metrics.dropped_roots.incr();
            let idle_secs = idle.as_secs();
            tracing::warn!(root, connections, idle_secs, "a root is trusted no more that vouched for peers of late");
        }
        let objection = loaded.objection(now);
        self.was_good = objection.is_none();
        self.gauges.reloaded(&loaded.files);
        live.0.store(Arc::new(loaded));
        self.metrics.reloads.incr();
        let files = self.names();
        match objection {
            None => tracing::info!(files, "TLS files changed and are used from now on"),
            Some(error) => tracing::warn!(%error, files, "TLS files changed and are used, but peers refuse them"),
        }
    }

    fn refuse(&self, error: &BadTls) {
        self.gauges.stale();
        self.metrics.failures.incr();
        let files = self.names();
        tracing::error!(%error, files, "TLS files changed and cannot be used: what they were before stays");
    }

    fn names(&self) -> String {
        let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
        files.join(", ")
    }
}
