//! How long certificates are good, and whether what is in the files is what is used.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::time_provider::TimeProvider;

use super::{
    handshake::{now, unix},
    pem::Validity,
};
use crate::telemetry::{Counter, Gauge, Hold, Registry};

/// Where the metrics of TLS go. A clone is the same; the default goes nowhere.
///
/// | name | what |
/// |---|---|
/// | `tls/reloads` | how often files changed and are used as they are since |
/// | `tls/reload_failures` | how often they changed into what cannot be used, or not yet |
/// | `tls/cert/<file>/expires_in_secs` | until the first certificate of the file ends; negative once it has |
/// | `tls/cert/<file>/invalid` | 1 while what is used of it has expired, or has not begun; not of those to trust |
/// | `tls/cert/<file>/stale` | 1 while something else is used than what is in the file |
/// | `tls/root/<name>/connections` | connections of peers that this root vouches for; there from the first on |
/// | `tls/root/<name>/last_seen` | when it last did, in seconds from 1970 |
/// | `tls/used_roots_dropped` | roots that changed files left out though they vouched for a peer within a day |
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Option<Registry>,
    pub(super) reloads: Counter,
    pub(super) failures: Counter,
    pub(super) dropped_roots: Counter,
}

/// The gauges of one root, shared by all that trust it.
pub(super) struct RootGauges {
    _hold: Hold,
    pub(super) connections: Gauge,
    pub(super) last_seen: Gauge,
}

/// The gauges of one set of files. They are there until this is dropped.
pub(super) struct Gauges {
    _holds: Vec<Hold>,
    used: Vec<Arc<Mutex<Validity>>>,
    is_stale: Arc<AtomicBool>,
}

impl Metrics {
    /// In this registry.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let scope = registry.root().scope("tls");
        Self {
            registry: Some(registry.clone()),
            reloads: scope.counter("reloads"),
            failures: scope.counter("reload_failures"),
            dropped_roots: scope.counter("used_roots_dropped"),
        }
    }

    pub(super) fn root(&self, name: &str) -> Option<RootGauges> {
        let scope = self.registry.as_ref()?.root().scope("tls").scope("root").scope(name);
        Some(RootGauges {
            _hold: scope.hold(),
            connections: scope.gauge("connections"),
            last_seen: scope.gauge("last_seen"),
        })
    }

    pub(super) fn gauges(&self, files: &[Validity], clock: &Arc<dyn TimeProvider>) -> Gauges {
        let is_stale = Arc::new(AtomicBool::new(false));
        let used: Vec<_> = files.iter().map(|file| Arc::new(Mutex::new(file.clone()))).collect();
        let shown = used.iter().zip(files).filter_map(|(used, file)| self.show(&file.file, used, clock, &is_stale));
        Gauges { _holds: shown.collect(), used, is_stale }
    }

    fn show(
        &self,
        file: &Path,
        used: &Arc<Mutex<Validity>>,
        clock: &Arc<dyn TimeProvider>,
        is_stale: &Arc<AtomicBool>,
    ) -> Option<Hold> {
        let registry = self.registry.as_ref()?;
        let scope = registry.root().scope("tls").scope("cert").scope(&file.display().to_string());
        let hold = scope.hold();
        let (left, time) = (Arc::clone(used), Arc::clone(clock));
        scope.gauge_fn("expires_in_secs", move || (unix(read(&left).ends) - unix(now(&*time))) as f64);
        let (invalid, time) = (Arc::clone(used), Arc::clone(clock));
        scope.gauge_fn("invalid", move || bit(read(&invalid).objection(now(&*time)).is_some()));
        let is_stale = Arc::clone(is_stale);
        // Relaxed: a number that orders nothing else.
        scope.gauge_fn("stale", move || bit(is_stale.load(Ordering::Relaxed)));
        Some(hold)
    }
}

impl Gauges {
    /// These are used from now on; the files are those of the beginning.
    pub(super) fn reloaded(&self, files: &[Validity]) {
        for (used, file) in self.used.iter().zip(files) {
            *used.lock().unwrap_or_else(PoisonError::into_inner) = file.clone();
        }
        self.is_stale.store(false, Ordering::Relaxed);
    }

    pub(super) fn stale(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }
}

fn read(used: &Mutex<Validity>) -> Validity {
    used.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn bit(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}
