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
    /// What was in them.
    pub(super) snapshot: Snapshot,
}

impl<T> Loaded<T> {
    /// Why peers do not take what they are shown of these files at a time.
    fn objection(&self, now: SystemTime) -> Option<BadTls> {
        self.files.iter().find_map(|file| file.objection(now))
    }

    /// Why this is not to take the place of what is used. What is not good itself is worth less than anything new.
    fn objection_over(&self, used: &Self, keep: Option<Duration>, now: SystemTime) -> Option<BadTls> {
        // A file that was not shown takes the place of all that was.
        let all_good = used.files.iter().any(|file| file.is_shown) && used.objection(now).is_none();
        let was_good = |file: &Validity| {
            let same = used.files.iter().find(|old| old.is_shown && old.file == file.file);
            same.map_or(all_good, |old| old.objection(now).is_none())
        };
        self.files.iter().find_map(|file| file.objection(now).filter(|_| was_good(file))).or_else(|| {
            let keep = keep?;
            let Needed { name: root, connections, idle } = used.roots.missed(&self.roots, keep, now).next()?;
            Some(BadTls::RootInUse { root, connections, idle, keep })
        })
    }
}

/// Makes something of the files as they are.
pub(super) type Load<T> = Box<dyn Fn(&Snapshot) -> Result<Loaded<T>, BadTls> + Send + Sync>;

/// What is used of some files: the last that could be used.
pub(super) struct Live<T> {
    used: ArcSwap<Loaded<T>>,
    #[cfg(feature = "config")]
    terms: Terms,
}

/// By which one takes the place of another, and who is told.
#[derive(Clone)]
struct Terms {
    metrics: Metrics,
    keep_used_roots: Option<Duration>,
    clock: Arc<dyn TimeProvider>,
}

/// What begins once what was prepared is used: until then nobody sees it, and without it nobody will.
#[must_use = "files are not followed until it begins"]
pub(crate) struct Beginning(Box<dyn FnOnce() + Send>);

/// What is used first.
struct First<T> {
    used: Loaded<T>,
    /// Why that is not what is in the files.
    refused: Option<BadTls>,
    waiting: Option<Loaded<T>>,
}

impl Beginning {
    /// In a tokio runtime.
    pub(crate) fn begin(self) {
        (self.0)();
    }
}

impl<T: Send + Sync + 'static> Live<T> {
    /// Reads the files. Once it begins they are followed, in a task of its own until nobody holds what is returned.
    ///
    /// In the place of what was used `before` nothing comes that could not if it were a change of its files. Of a file that
    /// has something like that in it, what was used of it is used on, if it was used; otherwise this is an error.
    pub(super) fn prepare(
        files: Vec<PathBuf>,
        handshake: &HandshakeSettings,
        metrics: &Metrics,
        load: Load<T>,
        before: Option<Arc<Loaded<T>>>,
    ) -> Result<(Arc<Self>, Beginning), BadTls> {
        let clock = Arc::clone(&handshake.clock);
        let terms = Terms { metrics: metrics.clone(), keep_used_roots: handshake.keep_used_roots, clock };
        let snapshot = Snapshot::read(&files);
        let First { used, refused, waiting } = match &before {
            Some(before) => terms.first_after(before, &load, &snapshot)?,
            None => First { used: load(&snapshot)?, refused: None, waiting: None },
        };
        let (seen, interval) = (snapshot.digest(), handshake.reload_interval);
        let live = Arc::new(Self {
            used: ArcSwap::from_pointee(used),
            #[cfg(feature = "config")]
            terms: terms.clone(),
        });
        let begun = Arc::clone(&live);
        let begin = move || {
            let (used, now) = (begun.now(), terms.now());
            if let Some(before) = before {
                terms.tell_dropped(&before.roots, &used.roots, now);
            }
            let objection = used.objection(now);
            if let Some(error) = &objection {
                tracing::warn!(%error, "TLS begins with what peers refuse, until the file changes or its time comes");
            }
            if files.is_empty() {
                return;
            }
            let gauges = terms.metrics.gauges(&used.files, &terms.clock);
            let was_good = objection.is_none();
            let watch = Watch { files, load, seen, waiting, was_good, gauges, terms, live: Arc::downgrade(&begun) };
            if let Some(error) = refused {
                watch.refuse(&error);
            }
            tokio::spawn(watch.run(interval));
        };
        Ok((live, Beginning(Box::new(begin))))
    }

    /// Puts what is used here in another place too, in which something was used before.
    #[cfg(feature = "config")]
    pub(super) fn replace(&self, before: Arc<Loaded<T>>) -> Result<Beginning, BadTls> {
        let (used, terms) = (self.now(), self.terms.clone());
        if let Some(objection) = used.objection_over(&before, terms.keep_used_roots, terms.now()) {
            return Err(terms.refuse(objection));
        }
        Ok(Beginning(Box::new(move || terms.tell_dropped(&before.roots, &used.roots, terms.now()))))
    }

    pub(super) fn now(&self) -> Arc<Loaded<T>> {
        self.used.load_full()
    }
}

impl Terms {
    fn now(&self) -> SystemTime {
        now(&*self.clock)
    }

    fn first_after<T>(&self, before: &Loaded<T>, load: &Load<T>, snapshot: &Snapshot) -> Result<First<T>, BadTls> {
        let load = |snapshot: &Snapshot| {
            let mut loaded = load(snapshot)?;
            loaded.roots.inherit(&before.roots);
            let objection = loaded.objection_over(before, self.keep_used_roots, self.now());
            Ok::<_, BadTls>((loaded, objection))
        };
        let (refused, waiting) = match load(snapshot) {
            Ok((used, None)) => return Ok(First { used, refused: None, waiting: None }),
            Ok((loaded, Some(objection))) => (objection, Some(loaded)),
            Err(error) => (error, None),
        };
        match load(&snapshot.as_in(&before.snapshot)) {
            Ok((used, None)) => Ok(First { used, refused: Some(refused), waiting }),
            _ if waiting.is_some() => Err(self.refuse(refused)),
            _ => Err(refused),
        }
    }

    /// Counts, and logs, that something does not come in the place of what is used.
    fn refuse(&self, objection: BadTls) -> BadTls {
        self.metrics.failures.incr();
        tracing::error!(error = %objection, "what was configured for TLS is worse than what is used: that stays");
        objection
    }

    /// Counts and logs the roots that are no longer among those to trust, and were needed of late.
    fn tell_dropped(&self, before: &Roots, roots: &Roots, now: SystemTime) {
        for Needed { name: root, connections, idle } in before.missed(roots, MISSED, now) {
            self.metrics.dropped_roots.incr();
            let idle_secs = idle.as_secs();
            tracing::warn!(root, connections, idle_secs, "a root is trusted no more that vouched for peers of late");
        }
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
    terms: Terms,
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
                if let Some(objection) = loaded.objection_over(&used, self.terms.keep_used_roots, self.terms.now()) {
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
        let (used, now, keep) = (live.now(), self.terms.now(), self.terms.keep_used_roots);
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
        let now = self.terms.now();
        self.terms.tell_dropped(&live.now().roots, &loaded.roots, now);
        let objection = loaded.objection(now);
        self.was_good = objection.is_none();
        self.gauges.reloaded(&loaded.files);
        // Counted before it is seen.
        self.terms.metrics.reloads.incr();
        live.used.store(Arc::new(loaded));
        let files = self.names();
        match objection {
            None => tracing::info!(files, "TLS files changed and are used from now on"),
            Some(error) => tracing::warn!(%error, files, "TLS files changed and are used, but peers refuse them"),
        }
    }

    fn refuse(&self, error: &BadTls) {
        self.gauges.stale();
        self.terms.metrics.failures.incr();
        let files = self.names();
        tracing::error!(%error, files, "TLS files changed and cannot be used: what they were before stays");
    }

    fn names(&self) -> String {
        let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
        files.join(", ")
    }
}
