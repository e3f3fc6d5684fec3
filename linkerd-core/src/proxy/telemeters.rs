//! The telemeters of a file: what takes spans, and what shows metrics and requests.

use std::{num::NonZeroUsize, sync::Arc};

use tracing::Level;

use crate::{
    config::{Config, LogLevel, Telemeter, TelemeterKind},
    span::{Log, Recent, SpanKind, Tracer},
    telemetry::Prometheus,
};

/// What a file's telemeters are made of.
#[derive(Debug)]
pub(crate) struct Telemeters {
    pub(crate) tracers: Vec<Tracer>,
    /// Pages of metrics, each with its path.
    pub(crate) metrics: Vec<(String, Prometheus)>,
    /// Pages of requests.
    pub(crate) requests: Vec<Arc<Recent>>,
}

impl Telemeters {
    pub(crate) fn of(config: &Config) -> Self {
        let (mut tracers, mut metrics, mut requests) = (Vec::new(), Vec::new(), Vec::new());
        // Whether it had to be `experimental` was checked.
        for Telemeter { experimental: _, kind } in &config.telemetry {
            match kind {
                TelemeterKind::Prometheus { path, prefix } => {
                    metrics.push((path.clone(), Prometheus::new().prefix(prefix)));
                }
                TelemeterKind::Tracelog { sample_rate, level } => {
                    let log = log_level(*level).map(|level| Tracer::new(Arc::new(Log::new(level))));
                    tracers.extend(log.map(|tracer| tracer.sample_rate(*sample_rate)));
                }
                TelemeterKind::RecentRequests { sample_rate, capacity } => {
                    let capacity = NonZeroUsize::new(*capacity).unwrap_or(NonZeroUsize::MIN);
                    let recent = Arc::new(Recent::new(capacity).only(SpanKind::Server));
                    tracers.push(Tracer::new(recent.clone()).sample_rate(*sample_rate));
                    requests.push(recent);
                }
                // Refused.
                TelemeterKind::Influxdb | TelemeterKind::Statsd { .. } | TelemeterKind::Zipkin { .. } => {}
            }
        }
        Self { tracers, metrics, requests }
    }

    /// Where spans go: to these, and to somebody's own.
    pub(crate) fn with(&self, own: Option<&Tracer>) -> Option<Tracer> {
        Tracer::all(own.cloned().into_iter().chain(self.tracers.iter().cloned()))
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
