//! The telemeters of a file: what takes spans, and what shows metrics and requests.

use std::{num::NonZeroUsize, sync::Arc};

use tracing::Level;

use crate::{
    config::{Config, LogLevel, Telemeter, TelemeterKind},
    span::{Log, Recent, SpanKind, Tracer},
    telemetry::Prometheus,
};

/// What a file's telemeters are made of.
pub(super) struct Telemeters {
    pub(super) tracers: Vec<Tracer>,
    pub(super) pages: TelemeterPages,
}

/// What telemeters have on the admin pages.
#[derive(Default)]
pub(super) struct TelemeterPages {
    /// Each with its path.
    pub(super) metrics: Vec<(String, Prometheus)>,
    pub(super) requests: Vec<Arc<Recent>>,
}

impl Telemeters {
    pub(super) fn of(config: &Config) -> Self {
        let (mut tracers, mut pages) = (Vec::new(), TelemeterPages::default());
        // Whether it had to be `experimental` was checked.
        for Telemeter { experimental: _, kind } in &config.telemetry {
            match kind {
                TelemeterKind::Prometheus { path, prefix } => {
                    pages.metrics.push((path.clone(), Prometheus::new().prefix(prefix)));
                }
                TelemeterKind::Tracelog { sample_rate, level } => {
                    let log = log_level(*level).map(|level| Tracer::new(Arc::new(Log::new(level))));
                    tracers.extend(log.map(|tracer| tracer.sample_rate(*sample_rate)));
                }
                TelemeterKind::RecentRequests { sample_rate, capacity } => {
                    let capacity = NonZeroUsize::new(*capacity).unwrap_or(NonZeroUsize::MIN);
                    let recent = Arc::new(Recent::new(capacity).only(SpanKind::Server));
                    tracers.push(Tracer::new(recent.clone()).sample_rate(*sample_rate));
                    pages.requests.push(recent);
                }
                // Refused.
                TelemeterKind::Influxdb | TelemeterKind::Statsd { .. } | TelemeterKind::Zipkin { .. } => {}
            }
        }
        Self { tracers, pages }
    }
}

/// The nearest level that there is; `None` for `OFF`.
fn log_level(level: LogLevel) -> Option<Level> {
    match level {
        LogLevel::Off => None,
        LogLevel::Fatal | LogLevel::Critical | LogLevel::Error => Some(Level::ERROR),
        LogLevel::Warning => Some(Level::WARN),
        LogLevel::Info => Some(Level::INFO),
        LogLevel::Debug => Some(Level::DEBUG),
        LogLevel::Trace | LogLevel::All => Some(Level::TRACE),
    }
}
