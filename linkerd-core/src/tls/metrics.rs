//! How long certificates are good, and whether what is in the files is what is used.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use super::pem::Expiry;
use crate::telemetry::{Counter, Hold, Registry};

/// Where the metrics of TLS go. A clone is the same; the default goes nowhere.
///
/// | name | what |
/// |---|---|
/// | `tls/reloads` | how often files changed and are used as they are since |
/// | `tls/reload_failures` | how often they changed into what cannot be used |
/// | `tls/cert/<file>/expires_in_secs` | until the first certificate of the file ends; negative once it has |
/// | `tls/cert/<file>/stale` | 1 while something else is used than what is in the file |
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Option<Registry>,
    pub(super) reloads: Counter,
    pub(super) failures: Counter,
}

/// The gauges of one set of files. They are there until this is dropped.
pub(super) struct Gauges {
    _holds: Vec<Hold>,
    ends: Vec<Arc<AtomicI64>>,
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
        }
    }

    pub(super) fn gauges(&self, expiries: &[Expiry]) -> Gauges {
        let is_stale = Arc::new(AtomicBool::new(false));
        let ends: Vec<_> = expiries.iter().map(|(_, at)| Arc::new(AtomicI64::new(unix(*at)))).collect();
        let shown = expiries.iter().zip(&ends).filter_map(|((file, _), end)| self.show(file, end, &is_stale));
        Gauges { _holds: shown.collect(), ends, is_stale }
    }

    fn show(&self, file: &Path, end: &Arc<AtomicI64>, is_stale: &Arc<AtomicBool>) -> Option<Hold> {
        let registry = self.registry.as_ref()?;
        let scope = registry.root().scope("tls").scope("cert").scope(&file.display().to_string());
        let hold = scope.hold();
        let end = Arc::clone(end);
        // Relaxed: a number that orders nothing else.
        scope.gauge_fn("expires_in_secs", move || (end.load(Ordering::Relaxed) - unix(SystemTime::now())) as f64);
        let is_stale = Arc::clone(is_stale);
        scope.gauge_fn("stale", move || f64::from(u8::from(is_stale.load(Ordering::Relaxed))));
        Some(hold)
    }
}

impl Gauges {
    /// These are used from now on; the files are those of the beginning.
    pub(super) fn reloaded(&self, expiries: &[Expiry]) {
        for (end, (_, at)) in self.ends.iter().zip(expiries) {
            end.store(unix(*at), Ordering::Relaxed);
        }
        self.is_stale.store(false, Ordering::Relaxed);
    }

    pub(super) fn stale(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }
}

fn unix(at: SystemTime) -> i64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    }
}
