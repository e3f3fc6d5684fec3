//! Metrics as Prometheus text, with the names and labels of Linkerd 1.x.

use std::{
    collections::HashMap,
    fmt::{self, Write},
    sync::Arc,
    vec,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Reading, Registry,
    registry::{AT_A_TIME, PARTS_AT_A_TIME, Parts, Walk},
};

/// Writes a [`Registry`] as Prometheus text.
///
/// A name is the scopes joined by `:`. What tells routers, servers, services and clients apart becomes labels:
/// `rt/http/client/#/io.l5d.fs/web/requests` is `rt:client:requests{rt="http", client="#/io.l5d.fs/web"}`. The reasons
/// below `failures` and `exn` become the label `exception`; `failures` itself is their total.
///
/// A stat shows its last complete interval: `_count`, `_sum`, `_avg` and quantiles, if it saw anything. As in
/// Linkerd 1.x these begin anew each interval, so that `_count` and `_sum` are no Prometheus counters.
///
/// Unlike there, label values are escaped by the format's rules, series are sorted, and of two that became the same one
/// is shown.
#[derive(Clone, Debug, Default)]
pub struct Prometheus {
    prefix: String,
    legacy_escaping: bool,
}

/// One of the series of a name.
struct Series {
    // Those of one scope share them.
    labels: Arc<str>,
    /// Empty if it is none.
    quantile: &'static str,
    value: Value,
}

enum Value {
    Whole(u64),
    Float(f64),
}

/// A registry as text, in pieces. First it is read, and pieces are empty; then it is written, by names.
pub(crate) struct Rendering {
    prometheus: Prometheus,
    refresh: Parts,
    /// `None` when all was read.
    walk: Option<Walk>,
    reading: HashMap<String, Vec<Series>>,
    /// What is to be written, the first at the end.
    names: Vec<(String, Vec<Series>)>,
    writing: (String, vec::IntoIter<Series>),
}

impl Prometheus {
    /// What is served, by default, at this path.
    pub const DEFAULT_PATH: &'static str = "/admin/metrics/prometheus";

    /// Without a prefix, escaping by the format's rules.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins each name with this. Characters that no name may have become `_`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Escapes label values as Linkerd 1.x does: each backslash, quote and newline becomes two backslashes.
    #[must_use]
    pub fn legacy_escaping(mut self, legacy: bool) -> Self {
        self.legacy_escaping = legacy;
        self
    }

    /// The text. Of content type `text/plain`, without `HELP`, `TYPE` and times.
    #[must_use]
    pub fn render(&self, registry: &Registry) -> String {
        let mut text = String::new();
        let mut rendering = self.pieces(registry);
        while rendering.go_on(&mut text) {}
        text
    }

    /// The same in pieces.
    pub(crate) fn pieces(&self, registry: &Registry) -> Rendering {
        registry.roll_if_due(Instant::now());
        Rendering {
            prometheus: self.clone(),
            refresh: registry.refresh(),
            walk: registry.walk_in(&[]),
            reading: HashMap::new(),
            names: Vec::new(),
            writing: (String::new(), Vec::new().into_iter()),
        }
    }

    fn name(&self, segments: &[&str]) -> String {
        let mut name = String::new();
        let valid = |c: char| if c.is_ascii_alphanumeric() || c == ':' { c } else { '_' };
        name.extend(self.prefix.chars().map(valid));
        for (at, segment) in segments.iter().enumerate() {
            if at > 0 {
                name.push(':');
            }
            name.extend(segment.chars().map(valid));
        }
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            name.insert(0, '_');
        }
        name
    }

    fn label(&self, labels: &mut String, name: &str, value: &str) {
        if !labels.is_empty() {
            labels.push_str(", ");
        }
        labels.extend([name, "=\""]);
        for c in value.chars() {
            match c {
                '\\' | '"' | '\n' if self.legacy_escaping => labels.push_str(r"\\"),
                '\\' => labels.push_str(r"\\"),
                '"' => labels.push_str("\\\""),
                '\n' => labels.push_str(r"\n"),
                _ => labels.push(c),
            }
        }
        labels.push('"');
    }
}

impl Rendering {
    /// Reads some more metrics, or writes some more series. False if there were none.
    fn go_on(&mut self, text: &mut String) -> bool {
        if self.refresh.by_ref().take(PARTS_AT_A_TIME).count() > 0 {
            return true;
        }
        if let Some(mut walk) = self.walk.take() {
            if self.read(&mut walk) {
                self.walk = Some(walk);
            } else {
                self.names = self.reading.drain().collect();
                self.names.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
            }
            return true;
        }
        let before = text.len();
        (0..AT_A_TIME).all(|_| self.write(text)) || text.len() > before
    }

    /// Reads so many metrics. False if these were the last.
    fn read(&mut self, walk: &mut Walk) -> bool {
        let mut last: Arc<str> = Arc::default();
        for _ in 0..AT_A_TIME {
            let Some((path, reading)) = walk.reading() else { return false };
            let (name, labels) = rewrite(path);
            let mut text = String::new();
            for (label, value) in &labels {
                self.prometheus.label(&mut text, label, value);
            }
            if *last != *text {
                last = text.into();
            }
            let name = self.prometheus.name(&name);
            self.add(name, &last, &reading);
        }
        true
    }

    fn add(&mut self, mut name: String, labels: &Arc<str>, reading: &Reading) {
        let mut add = |name: &str, quantile, value| {
            let series = Series { labels: Arc::clone(labels), quantile, value };
            match self.reading.get_mut(name) {
                Some(all) => all.push(series),
                None => drop(self.reading.insert(name.to_owned(), vec![series])),
            }
        };
        match reading {
            Reading::Counter(n) => add(&name, "", Value::Whole(*n)),
            Reading::Gauge(value) => add(&name, "", Value::Float(*value)),
            Reading::Stat(Some(summary)) if summary.count > 0 => {
                let [p50, p90, p95, p99, p999, p9999] = summary.quantiles;
                for (quantile, value) in [
                    ("0", summary.min),
                    ("0.5", p50),
                    ("0.9", p90),
                    ("0.95", p95),
                    ("0.99", p99),
                    ("0.999", p999),
                    ("0.9999", p9999),
                    ("1", summary.max),
                ] {
                    add(&name, quantile, Value::Whole(value));
                }
                let len = name.len();
                for (suffix, value) in [
                    ("_count", Value::Whole(summary.count)),
                    ("_sum", Value::Whole(summary.sum)),
                    ("_avg", Value::Float(summary.avg())),
                ] {
                    name.push_str(suffix);
                    add(&name, "", value);
                    name.truncate(len);
                }
            }
            Reading::Stat(_) => {}
        }
    }

    /// Writes the next series. False if there is none.
    fn write(&mut self, text: &mut String) -> bool {
        loop {
            let (name, series) = &mut self.writing;
            if let Some(Series { labels, quantile, value }) = series.next() {
                text.push_str(name);
                let separator = if labels.is_empty() || quantile.is_empty() { "" } else { ", " };
                match (&*labels, quantile) {
                    ("", "") => {}
                    (labels, "") => text.extend(["{", labels, "}"]),
                    (labels, quantile) => text.extend(["{", labels, separator, "quantile=\"", quantile, "\"}"]),
                }
                // Writing to memory does not fail.
                let _ = writeln!(text, " {value}");
                return true;
            }
            let Some((name, mut series)) = self.names.pop() else { return false };
            // Nearly in order, which the stable one makes use of.
            series.sort_by(|a, b| (&*a.labels, a.quantile).cmp(&(&*b.labels, b.quantile)));
            series.dedup_by(|a, b| a.labels == b.labels && a.quantile == b.quantile);
            self.writing = (name, series.into_iter());
        }
    }
}

impl Iterator for Rendering {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut text = String::new();
        self.go_on(&mut text).then(|| text.into())
    }
}

/// As the format has it: a float with a decimal point, and `NaN`, `+Inf`, `-Inf`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            Self::Float(f64::INFINITY) => f.write_str("+Inf"),
            Self::Float(f64::NEG_INFINITY) => f.write_str("-Inf"),
            Self::Float(value) => write!(f, "{value:?}"),
        }
    }
}

/// Takes out of a metric's path what are labels.
fn rewrite(path: &[Arc<str>]) -> (Vec<&str>, Vec<(&'static str, String)>) {
    let mut name: Vec<&str> = Vec::with_capacity(path.len());
    let mut labels: Vec<(&'static str, String)> = Vec::new();
    for segment in path {
        name.push(segment);
        let has = |label| labels.iter().any(|(name, _)| *name == label);
        let label = match name[..] {
            ["rt", _] if !has("rt") => "rt",
            ["rt", "service", _] | ["rt", "client", "service", _] if !has("service") => "service",
            ["rt", "client", _] if !has("client") => "client",
            ["rt", "server", _] if !has("server") => "server",
            ["tls", "cert", _] if !has("cert") => "cert",
            ["tls", "root", _] if !has("root") => "root",
            ["rt", "service" | "client" | "server", kind @ ("failures" | "exn" | "exceptions"), cause] => {
                if let Some((_, causes)) = labels.iter_mut().find(|(name, _)| *name == "exception") {
                    let _ = write!(causes, ":{cause}");
                } else {
                    labels.push(("exception", cause.to_owned()));
                }
                name.truncate(2);
                name.push(if kind == "failures" { kind } else { "exceptions" });
                continue;
            }
            _ => continue,
        };
        name.pop();
        labels.push((label, segment.to_string()));
    }
    (name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(path: &[&str]) -> String {
        let registry = Registry::new();
        let (name, scopes) = path.split_last().unwrap();
        let scope = scopes.iter().fold(registry.root(), |scope, name| scope.scope(name));
        let _ = scope.counter(name);
        Prometheus::new().render(&registry)
    }

    #[test]
    fn scopes_become_labels() {
        for (path, line) in [
            (&["rt", "http", "originator"][..], r#"rt:originator{rt="http"} 0"#),
            (
                &["rt", "http", "server", "0.0.0.0/4140", "requests"],
                r#"rt:server:requests{rt="http", server="0.0.0.0/4140"} 0"#,
            ),
            (
                &["rt", "h", "service", "svc/web", "retries", "total"],
                r#"rt:service:retries:total{rt="h", service="svc/web"} 0"#,
            ),
            (
                &["rt", "h", "client", "#/io.l5d.fs/web", "service", "svc/web", "requests"],
                r##"rt:client:service:requests{rt="h", client="#/io.l5d.fs/web", service="svc/web"} 0"##,
            ),
            (&["rt", "h", "client", "c", "status", "4XX"], r#"rt:client:status:4XX{rt="h", client="c"} 0"#),
            (&["rt", "h", "server", "s", "failures"], r#"rt:server:failures{rt="h", server="s"} 0"#),
            (
                &["rt", "h", "service", "s", "failures", "restartable", "a.b.C"],
                r#"rt:service:failures{rt="h", service="s", exception="restartable:a.b.C"} 0"#,
            ),
            (
                &["rt", "h", "client", "c", "exn", "x", "y"],
                r#"rt:client:exceptions{rt="h", client="c", exception="x:y"} 0"#,
            ),
            // Only these three have reasons as labels.
            (
                &["rt", "h", "client", "c", "service", "s", "failures", "a.B"],
                r#"rt:client:service:failures:a_B{rt="h", client="c", service="s"} 0"#,
            ),
            (
                &["rt", "h", "client", "c", "service_creation", "failures", "x"],
                r#"rt:client:service_creation:failures:x{rt="h", client="c"} 0"#,
            ),
            (&["rt", "h", "bindcache", "path", "misses"], r#"rt:bindcache:path:misses{rt="h"} 0"#),
            (&["tls", "cert", "/a/b.pem", "stale"], r#"tls:cert:stale{cert="/a/b.pem"} 0"#),
            (&["tls", "root", "CN=a, O=b", "last_seen"], r#"tls:root:last_seen{root="CN=a, O=b"} 0"#),
            (&["jvm", "mem", "current-used"], "jvm:mem:current_used 0"),
        ] {
            assert_eq!(series(path), format!("{line}\n"));
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let registry = Registry::new();
        let _ = registry.root().scope("rt").scope("a\\b\"c\nd").counter("x");
        let text = Prometheus::new().render(&registry);
        assert_eq!(text, "rt:x{rt=\"a\\\\b\\\"c\\nd\"} 0\n");
        let text = Prometheus::new().legacy_escaping(true).render(&registry);
        assert_eq!(text, "rt:x{rt=\"a\\\\b\\\\c\\\\d\"} 0\n");
    }

    #[test]
    fn stats_are_shown_after_their_interval_and_if_not_empty() {
        let registry = Registry::new();
        let scope = registry.root().scope("rt").scope("http").scope("server").scope("s");
        let stat = scope.stat("request_latency_ms");
        stat.record(1);
        stat.record(2);
        let prometheus = Prometheus::new();
        assert_eq!(prometheus.render(&registry), "");
        stat.roll();
        let expected = [
            r#"{rt="http", server="s", quantile="0"} 1"#,
            r#"{rt="http", server="s", quantile="0.5"} 1"#,
            r#"{rt="http", server="s", quantile="0.9"} 2"#,
            r#"{rt="http", server="s", quantile="0.95"} 2"#,
            r#"{rt="http", server="s", quantile="0.99"} 2"#,
            r#"{rt="http", server="s", quantile="0.999"} 2"#,
            r#"{rt="http", server="s", quantile="0.9999"} 2"#,
            r#"{rt="http", server="s", quantile="1"} 2"#,
            r#"_avg{rt="http", server="s"} 1.5"#,
            r#"_count{rt="http", server="s"} 2"#,
            r#"_sum{rt="http", server="s"} 3"#,
        ];
        let text = expected.map(|line| format!("rt:server:request_latency_ms{line}\n")).concat();
        assert_eq!(prometheus.render(&registry), text);
        stat.roll();
        assert_eq!(prometheus.render(&registry), "");
    }

    #[test]
    fn numbers_and_names_are_of_the_format() {
        let registry = Registry::new();
        let root = registry.root();
        root.gauge("a-gauge").set(1);
        root.gauge_fn("inf", || f64::INFINITY);
        root.gauge_fn("nan", || f64::NAN);
        let _ = (root.counter("same.name"), root.counter("same_name"), root.counter("9lives"));
        assert_eq!(Prometheus::new().render(&registry), "_9lives 0\na_gauge 1.0\ninf +Inf\nnan NaN\nsame_name 0\n");
        assert!(Prometheus::new().prefix("l5d-").render(&registry).starts_with("l5d_9lives 0\n"));
    }
}
