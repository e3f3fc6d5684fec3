//! `telemetry`: where metrics and traces go.

use std::time::Duration;

use super::decode::{At, Decode, Section};

/// An entry of `telemetry`.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemeter {
    /// `experimental`: required to be true by some kinds. Default: false.
    pub experimental: bool,
    /// `kind` and its own keys.
    pub kind: TelemeterKind,
}

/// The kinds of telemeters.
#[derive(Clone, Debug, PartialEq)]
pub enum TelemeterKind {
    /// `io.l5d.prometheus`: metrics on an admin page, as Prometheus reads them.
    Prometheus {
        /// `path` of the page. Default: `/admin/metrics/prometheus`.
        path: String,
        /// `prefix` of all metrics' names. Default: empty.
        prefix: String,
    },
    /// `io.l5d.influxdb`: metrics on an admin page, as `InfluxDB` reads them.
    Influxdb,
    /// `io.l5d.statsd` (experimental): metrics to a `StatsD` server.
    Statsd {
        /// `prefix` of all metrics' names. Default: `linkerd`.
        prefix: String,
        /// `hostname`. Default: `127.0.0.1`.
        hostname: String,
        /// `port`. Default: 8125.
        port: u16,
        /// `gaugeIntervalMs`, at least 1 ms. Default: 10 s.
        gauge_interval: Duration,
        /// `sampleRate` of counters and timings, from 0 to 1. Default: 0.01.
        sample_rate: f64,
    },
    /// `io.l5d.zipkin`: traces to a Scribe collector.
    Zipkin {
        /// `host`. Default: `localhost`.
        host: String,
        /// `port`. Default: 9410.
        port: u16,
        /// `sampleRate`, from 0 to 1. Default: 0.001.
        sample_rate: f64,
    },
    /// `io.l5d.tracelog`: traces to the log.
    Tracelog {
        /// `sampleRate`, from 0 to 1. Default: 1.
        sample_rate: f64,
        /// `level` of the lines. Default: `INFO`.
        level: LogLevel,
    },
    /// `io.l5d.recentRequests`: the latest requests on an admin page.
    RecentRequests {
        /// `sampleRate`, from 0 to 1. Required.
        sample_rate: f64,
        /// `capacity`: how many are kept, at least 1. Default: 10.
        capacity: usize,
    },
}

/// A log level, written in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// `ALL`.
    All,
    /// `CRITICAL`.
    Critical,
    /// `DEBUG`.
    Debug,
    /// `ERROR`.
    Error,
    /// `FATAL`.
    Fatal,
    /// `INFO`.
    Info,
    /// `OFF`.
    Off,
    /// `TRACE`.
    Trace,
    /// `WARNING`.
    Warning,
}

const KINDS: [&str; 6] = [
    "io.l5d.prometheus",
    "io.l5d.influxdb",
    "io.l5d.statsd",
    "io.l5d.zipkin",
    "io.l5d.tracelog",
    "io.l5d.recentRequests",
];

impl Decode for Telemeter {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "telemeter")?;
        let kind = s.kind("kind", &KINDS, None)?;
        let experimental = s.or("experimental", false);
        if kind == "io.l5d.statsd" && !experimental {
            s.at().experimental(&format!("The {kind} telemeter"), "");
        }
        let kind = match kind {
            "io.l5d.prometheus" => Some(prometheus(&mut s)),
            "io.l5d.influxdb" => Some(TelemeterKind::Influxdb),
            "io.l5d.statsd" => Some(TelemeterKind::Statsd {
                prefix: s.or("prefix", "linkerd".to_owned()),
                hostname: s.or("hostname", "127.0.0.1".to_owned()),
                port: s.or("port", 8125),
                gauge_interval: s.millis("gaugeIntervalMs", 1).unwrap_or(Duration::from_secs(10)),
                sample_rate: s.with("sampleRate", rate).unwrap_or(0.01),
            }),
            "io.l5d.zipkin" => Some(TelemeterKind::Zipkin {
                host: s.or("host", "localhost".to_owned()),
                port: s.or("port", 9410),
                sample_rate: s.with("sampleRate", rate).unwrap_or(0.001),
            }),
            "io.l5d.tracelog" => Some(TelemeterKind::Tracelog {
                sample_rate: s.with("sampleRate", rate).unwrap_or(1.0),
                level: s.or("level", LogLevel::Info),
            }),
            _ => {
                let sample_rate = s.require_with("sampleRate", rate);
                let capacity = s.size("capacity", 1).unwrap_or(10);
                sample_rate.map(|sample_rate| TelemeterKind::RecentRequests { sample_rate, capacity })
            }
        };
        s.finish();
        Some(Self { experimental, kind: kind? })
    }
}

fn prometheus(s: &mut Section<'_>) -> TelemeterKind {
    let path = s.or("path", "/admin/metrics/prometheus".to_owned());
    if !path.starts_with('/') {
        s.problem("path", format!("must start with '/', got '{path}'"));
    }
    TelemeterKind::Prometheus { path, prefix: s.or("prefix", String::new()) }
}

fn rate(at: &At<'_>) -> Option<f64> {
    at.number("from 0 to 1", |x| (0.0..=1.0).contains(&x))
}

impl Decode for LogLevel {
    fn decode(at: &At<'_>) -> Option<Self> {
        match at.text()?.to_ascii_uppercase().as_str() {
            "ALL" => Some(Self::All),
            "CRITICAL" => Some(Self::Critical),
            "DEBUG" => Some(Self::Debug),
            "ERROR" => Some(Self::Error),
            "FATAL" => Some(Self::Fatal),
            "INFO" => Some(Self::Info),
            "OFF" => Some(Self::Off),
            "TRACE" => Some(Self::Trace),
            "WARNING" => Some(Self::Warning),
            _ => at.expected("one of ALL, CRITICAL, DEBUG, ERROR, FATAL, INFO, OFF, TRACE, WARNING"),
        }
    }
}
