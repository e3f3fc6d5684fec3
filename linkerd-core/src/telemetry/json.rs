//! Metrics as JSON, in the shapes of Linkerd 1.x's `metrics.json`.

use std::io::Write;

use bytes::Bytes;
use serde_json::{Map, Number, Value};
use tokio::time::Instant;

use super::{
    Reading, Registry, Summary,
    registry::{AT_A_TIME, PARTS_AT_A_TIME, Parts, Walk},
};

/// The metrics in the scope `path`, by their names below it; `None` if there is no such scope.
///
/// Names are the scopes joined by `/`. Counters are integers and gauges floats. A stat is nothing before its first
/// complete interval, then `<name>.count`, and if that is not zero also `.max .min .p50 .p90 .p95 .p99 .p9990 .p9999
/// .sum .avg`.
#[must_use]
pub fn flat(registry: &Registry, path: &[&str], sorted: bool) -> Option<Value> {
    registry.roll_if_due(Instant::now());
    let mut all = Map::new();
    let found = registry.visit_in(path, |path, reading| {
        members(&mut path.join("/"), &reading, |name, value| drop(all.insert(name.to_owned(), value)));
    });
    if sorted {
        all.sort_keys();
    }
    found.then_some(Value::Object(all))
}

/// The text of [`flat`], unsorted, in pieces, the first of which may be empty.
///
/// Each number is of the moment at which its piece is made. Should two metrics have one name, as `a/b` in the scope `c` and
/// `b` in `c/a` have, both are there, and who reads it into a map has the last one.
pub(crate) struct Flat {
    refresh: Parts,
    walk: Walk,
    name: String,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    /// There is a member before the next one.
    Begun,
    Over,
}

impl Flat {
    pub(crate) fn new(registry: &Registry, path: &[&str]) -> Option<Self> {
        registry.roll_if_due(Instant::now());
        let refresh = registry.refresh();
        let walk = registry.walk_in(path)?;
        Some(Self { refresh, walk, name: String::new(), state: State::New })
    }

    /// The members of the next metric. False if there was none.
    fn metric(&mut self, text: &mut Vec<u8>) -> bool {
        let Self { walk, name, state, .. } = self;
        let Some((path, reading)) = walk.reading() else { return false };
        name.clear();
        for (at, segment) in path.iter().enumerate() {
            name.extend([if at > 0 { "/" } else { "" }, segment]);
        }
        members(name, &reading, |name, value| {
            text.push(if *state == State::New { b'{' } else { b',' });
            *state = State::Begun;
            // Writing to memory does not fail.
            let _ = serde_json::to_writer(&mut *text, name);
            let _ = write!(text, ":{value}");
        });
        true
    }
}

impl Iterator for Flat {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.state == State::Over {
            return None;
        }
        if self.refresh.by_ref().take(PARTS_AT_A_TIME).count() > 0 {
            return Some(Bytes::new());
        }
        let mut text = Vec::new();
        for _ in 0..AT_A_TIME {
            if !self.metric(&mut text) {
                text.extend_from_slice(if self.state == State::New { b"{}" } else { b"}" });
                self.state = State::Over;
                break;
            }
        }
        Some(text.into())
    }
}

/// The metrics in the scope `path` as nested objects; `None` if there is no such scope.
///
/// A metric is a member `counter`, `gauge` or `stat.count`, ... of the object of its name.
#[must_use]
pub fn tree(registry: &Registry, path: &[&str]) -> Option<Value> {
    registry.roll_if_due(Instant::now());
    let mut root = Map::new();
    let found = registry.visit_in(path, |path, reading| {
        let mut node = &mut root;
        for segment in path {
            let child = node.entry(segment.to_string()).or_insert_with(|| Value::Object(Map::new()));
            // A metric named like another's member: the scope wins, since more is in it.
            if !child.is_object() {
                *child = Value::Object(Map::new());
            }
            let Value::Object(next) = child else { return };
            node = next;
        }
        let kind = match reading {
            Reading::Counter(_) => "counter",
            Reading::Gauge(_) => "gauge",
            Reading::Stat(_) => "stat",
        };
        members(&mut kind.to_owned(), &reading, |name, value| drop(node.insert(name.to_owned(), value)));
    });
    found.then_some(Value::Object(root))
}

/// Adds what a metric of this name says. The name is what it was, afterwards.
fn members(name: &mut String, reading: &Reading, mut add: impl FnMut(&str, Value)) {
    match reading {
        Reading::Counter(n) => add(name, (*n).into()),
        Reading::Gauge(value) => add(name, float(*value)),
        Reading::Stat(None) => {}
        Reading::Stat(Some(summary)) => {
            let len = name.len();
            stat(summary, |suffix, value| {
                name.extend([".", suffix]);
                add(name, value);
                name.truncate(len);
            });
        }
    }
}

fn stat(summary: &Summary, mut add: impl FnMut(&str, Value)) {
    add("count", summary.count.into());
    if summary.count == 0 {
        return;
    }
    let [p50, p90, p95, p99, p9990, p9999] = summary.quantiles;
    for (suffix, value) in [
        ("max", summary.max),
        ("min", summary.min),
        ("p50", p50),
        ("p90", p90),
        ("p95", p95),
        ("p99", p99),
        ("p9990", p9990),
        ("p9999", p9999),
        ("sum", summary.sum),
    ] {
        add(suffix, value.into());
    }
    add("avg", float(summary.avg()));
}

/// JSON has no infinities: they are `null`.
fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn registry() -> Registry {
        let registry = Registry::new();
        let scope = registry.root().scope("rt").scope("http").scope("service").scope("svc/web");
        scope.counter("requests").add(2);
        scope.counter("failures").incr();
        scope.scope("failures").counter("closed").incr();
        scope.gauge("pending").set(1);
        let stat = scope.stat("latency");
        stat.record(7);
        stat.roll();
        let _ = scope.stat("new");
        registry
    }

    #[test]
    fn flat_names_are_joined_scopes() {
        let all = flat(&registry(), &[], true).unwrap();
        let web = "rt/http/service/svc/web";
        assert_eq!(all[format!("{web}/requests")], json!(2));
        assert_eq!(all[format!("{web}/pending")].to_string(), "1.0");
        assert_eq!(all[format!("{web}/failures/closed")], json!(1));
        assert_eq!(all[format!("{web}/latency.p9990")], json!(7));
        assert_eq!(all[format!("{web}/latency.avg")].to_string(), "7.0");
        assert!(all.get(format!("{web}/new.count")).is_none());
        let keys: Vec<_> = all.as_object().unwrap().keys().collect();
        assert!(keys.is_sorted());
    }

    fn text(registry: &Registry, path: &[&str]) -> Option<String> {
        let pieces: Vec<_> = Flat::new(registry, path)?.collect();
        Some(String::from_utf8(pieces.concat()).unwrap())
    }

    #[test]
    fn a_text_in_pieces_is_that_of_the_whole() {
        let registry = registry();
        let scope = registry.root().scope("a \"quoted\" name");
        scope.gauge_fn("inf", || f64::INFINITY);
        for n in 0..3 * AT_A_TIME {
            scope.counter(&n.to_string()).add(n as u64);
        }
        assert_eq!(Flat::new(&registry, &[]).unwrap().count(), 4);
        assert_eq!(text(&registry, &[]).unwrap(), flat(&registry, &[], false).unwrap().to_string());
        assert_eq!(text(&registry, &["rt"]).unwrap(), flat(&registry, &["rt"], false).unwrap().to_string());
        assert_eq!(text(&registry, &["zzz"]), None);
        assert_eq!(text(&Registry::new(), &[]).unwrap(), "{}");
    }

    #[test]
    fn a_scope_is_found_by_its_segments() {
        let registry = registry();
        assert!(flat(&registry, &["rt", "zzz"], false).is_none());
        // The name of a service is one segment, slashes and all.
        assert!(flat(&registry, &["rt", "http", "service", "svc", "web"], false).is_none());
        let sub = flat(&registry, &["rt", "http"], false).unwrap();
        assert_eq!(sub["service/svc/web/requests"], json!(2));
    }

    #[test]
    fn a_tree_nests_and_keeps_a_metric_that_is_a_scope_too() {
        let sub = tree(&registry(), &["rt", "http", "service"]).unwrap();
        let stat = json!({
            "stat.count": 1, "stat.max": 7, "stat.min": 7, "stat.p50": 7, "stat.p90": 7, "stat.p95": 7, "stat.p99": 7,
            "stat.p9990": 7, "stat.p9999": 7, "stat.sum": 7, "stat.avg": 7.0
        });
        let web = json!({
            "requests": {"counter": 2},
            "failures": {"counter": 1, "closed": {"counter": 1}},
            "pending": {"gauge": 1.0},
            "latency": stat,
            "new": {},
        });
        assert_eq!(sub, json!({ "svc/web": web }));
    }
}
