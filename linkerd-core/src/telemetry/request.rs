//! What is counted of requests, wherever they pass: how many, how they ended, how long they took.

use std::{array, fmt, sync::OnceLock, time::Duration};

use http::StatusCode;

use super::{Counter, Gauge, Hold, Scope, Stat};
use crate::{Error, ErrorKind};

/// Requests of one scope: `requests success failures pending request_latency_ms`.
///
/// As in Finagle, a request is counted when it ends, so that `requests` is `success` plus `failures`. The scope is
/// pruned when the last stats of it are dropped.
#[derive(Debug)]
pub struct RequestStats {
    /// Requests that ended.
    pub requests: Counter,
    /// Those that the classifier called a success.
    pub success: Counter,
    /// The others, and why.
    pub failures: Failures,
    /// Requests that have not ended.
    pub pending: Gauge,
    /// From a request to its response's head, retries included.
    pub request_latency_ms: Stat,
    _hold: Hold,
}

/// Failures in all, and by reason below `failures/`, or below `failures/restartable/` if nothing was sent.
///
/// Where Linkerd 1.x had an exception for a reason, it is named by that class, which is what dashboards select by:
///
/// | reason | name |
/// |---|---|
/// | a response that was called a failure | `com.twitter.finagle.service.ResponseClassificationSyntheticException` |
/// | [`Unidentified`](ErrorKind::Unidentified) | `io.buoyant.router.RoutingFactory$UnknownDst` |
/// | [`NoSuchName`](ErrorKind::NoSuchName), [`NoEndpoints`](ErrorKind::NoEndpoints) | `com.twitter.finagle.naming.buoyant.RichNoBrokersAvailableException` |
/// | [`Connect`](ErrorKind::Connect) | `com.twitter.finagle.naming.buoyant.RichConnectionFailedExceptionWithPath` |
/// | [`Closed`](ErrorKind::Closed) | `com.twitter.finagle.ChannelClosedException` |
/// | [`AttemptTimeout`](ErrorKind::AttemptTimeout) | `com.twitter.finagle.IndividualRequestTimeoutException` |
/// | [`TotalTimeout`](ErrorKind::TotalTimeout) | `com.twitter.finagle.GlobalRequestTimeoutException` |
/// | any other | [`ErrorKind::name`] |
pub struct Failures {
    total: Counter,
    // The one that `failures` is in: most never need a place below it.
    scope: Scope,
    by_reason: Seen<(Option<ErrorKind>, bool), 6>,
    restartable: OnceLock<Counter>,
}

/// Responses by status: `status/200`, `status/2XX`, ..., `status/error`, and `time/2XX`, ..., `time/error`.
pub struct StatusStats {
    scope: Scope,
    classes: [Counter; 5],
    error: Counter,
    codes: Seen<u16, 14>,
    times: [OnceLock<Stat>; 6],
}

/// Counters that are made when their key first occurs. The first two keys and `N` more are found without a lock.
struct Seen<K, const N: usize> {
    first: [Slot<K>; 2],
    // In a box: most see no third.
    more: OnceLock<Box<[Slot<K>; N]>>,
}

type Slot<K> = OnceLock<(K, Counter)>;

impl RequestStats {
    /// Resolves the handles of a scope.
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        // Before the handles: another stack of this name that closes meanwhile must not take them along.
        let hold = scope.hold();
        Self {
            requests: scope.counter("requests"),
            success: scope.counter("success"),
            failures: Failures::new(scope),
            pending: scope.gauge("pending"),
            request_latency_ms: scope.stat("request_latency_ms"),
            _hold: hold,
        }
    }

    /// A request ended well after `elapsed`.
    pub fn succeeded(&self, elapsed: Duration) {
        self.requests.incr();
        self.success.incr();
        self.request_latency_ms.record_ms(elapsed);
    }

    /// A request failed after `elapsed`: with an error, or (`None`) with a response that was called a failure.
    pub fn failed(&self, error: Option<&Error>, elapsed: Duration) {
        self.requests.incr();
        self.failures.record(error);
        self.request_latency_ms.record_ms(elapsed);
    }
}

impl Failures {
    /// Resolves `failures` in a scope.
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        Self {
            total: scope.counter("failures"),
            scope: scope.clone(),
            by_reason: Seen::default(),
            restartable: OnceLock::new(),
        }
    }

    /// Counts a failure: an error, or (`None`) a response that was called a failure.
    pub fn record(&self, error: Option<&Error>) {
        let kind = error.map(Error::kind);
        let restartable = error.is_some_and(|error| error.never_sent() && is_transport(error.kind()));
        if restartable {
            self.restartable.get_or_init(|| self.scope.scope("failures").counter("restartable")).incr();
        }
        self.total.incr();
        self.by_reason.incr((kind, restartable), || {
            let (name, failures) = (reason(kind), self.scope.scope("failures"));
            if restartable { failures.scope("restartable").counter(name) } else { failures.counter(name) }
        });
    }

    /// Counts an attempt that got no connection: by its reason, which is not `restartable`.
    pub(super) fn record_creation(&self, error: &Error) {
        self.total.incr();
        self.by_reason.incr((Some(error.kind()), false), || {
            // Linkerd adds the name that was asked for only further up.
            let name = reason(Some(error.kind()));
            self.scope.scope("failures").counter(name.strip_suffix("WithPath").unwrap_or(name))
        });
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.total.get()
    }
}

/// Failures that another attempt might not have; what has no name or no route stays without.
fn is_transport(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Connect | ErrorKind::Closed | ErrorKind::Refused | ErrorKind::Overloaded)
}

fn reason(kind: Option<ErrorKind>) -> &'static str {
    match kind {
        None => "com.twitter.finagle.service.ResponseClassificationSyntheticException",
        Some(ErrorKind::Unidentified) => "io.buoyant.router.RoutingFactory$UnknownDst",
        Some(ErrorKind::NoSuchName | ErrorKind::NoEndpoints) => {
            "com.twitter.finagle.naming.buoyant.RichNoBrokersAvailableException"
        }
        Some(ErrorKind::Connect) => "com.twitter.finagle.naming.buoyant.RichConnectionFailedExceptionWithPath",
        Some(ErrorKind::Closed) => "com.twitter.finagle.ChannelClosedException",
        Some(ErrorKind::AttemptTimeout) => "com.twitter.finagle.IndividualRequestTimeoutException",
        Some(ErrorKind::TotalTimeout) => "com.twitter.finagle.GlobalRequestTimeoutException",
        Some(kind) => kind.name(),
    }
}

impl StatusStats {
    const CLASSES: [&str; 6] = ["1XX", "2XX", "3XX", "4XX", "5XX", "error"];

    /// Resolves the handles below `status` and `time` in a scope.
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        let status = scope.scope("status");
        Self {
            scope: scope.clone(),
            classes: array::from_fn(|class| status.counter(Self::CLASSES[class])),
            error: status.counter("error"),
            codes: Seen::default(),
            times: Default::default(),
        }
    }

    /// Counts a response, or (`None`) that there was none.
    pub fn record(&self, status: Option<StatusCode>, elapsed: Duration) {
        let class = match status {
            Some(status) => {
                let code = status.as_u16();
                self.codes.incr(code, || self.scope.scope("status").counter(status.as_str()));
                usize::from(code / 100) - 1
            }
            None => 5,
        };
        // A code of 600 to 999 is of no class.
        if let Some(counter) = self.classes.get(class) {
            counter.incr();
        } else if status.is_none() {
            self.error.incr();
        }
        if let Some(time) = self.times.get(class) {
            time.get_or_init(|| self.scope.scope("time").stat(Self::CLASSES[class])).record_ms(elapsed);
        }
    }
}

impl<K: Copy + PartialEq, const N: usize> Seen<K, N> {
    /// Counts one of `key`. `make` resolves the registry's counter: the same each time.
    fn incr(&self, key: K, make: impl Fn() -> Counter) {
        if self.first.iter().any(|slot| Self::incr_at(slot, key, &make)) {
            return;
        }
        let more = self.more.get_or_init(|| Box::new(array::from_fn(|_| OnceLock::new())));
        if !more.iter().any(|slot| Self::incr_at(slot, key, &make)) {
            make().incr();
        }
    }

    /// Counts one if this is the place of `key`, or of none so far.
    fn incr_at(slot: &Slot<K>, key: K, make: impl Fn() -> Counter) -> bool {
        let (at, counter) = slot.get_or_init(|| (key, make()));
        let is_there = *at == key;
        if is_there {
            counter.incr();
        }
        is_there
    }
}

impl<K, const N: usize> Default for Seen<K, N> {
    fn default() -> Self {
        Self { first: array::from_fn(|_| OnceLock::new()), more: OnceLock::new() }
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Failures").field(&self.get()).finish()
    }
}

impl fmt::Debug for StatusStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusStats").field("scope", &self.scope).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Registry, *};

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn requests_are_successes_and_failures() {
        let registry = Registry::new();
        let stats = RequestStats::new(&registry.root());
        stats.succeeded(MS);
        stats.failed(None, MS);
        stats.failed(Some(&Error::new(ErrorKind::Connect)), MS);
        stats.failed(Some(&Error::new(ErrorKind::NoSuchName)), MS);
        stats.failed(Some(&Error::new(ErrorKind::RequestBody)), MS);
        assert_eq!((stats.requests.get(), stats.success.get(), stats.failures.get()), (5, 1, 4));
        let failures = registry.root().scope("failures");
        let finagle = "com.twitter.finagle";
        for (scope, name) in [
            (&failures, &*format!("{finagle}.service.ResponseClassificationSyntheticException")),
            (&failures, &*format!("{finagle}.naming.buoyant.RichNoBrokersAvailableException")),
            (&failures, "request_body"),
            (&failures, "restartable"),
            (
                &failures.scope("restartable"),
                &*format!("{finagle}.naming.buoyant.RichConnectionFailedExceptionWithPath"),
            ),
        ] {
            assert_eq!(scope.counter(name).get(), 1, "{name}");
        }
    }

    #[test]
    fn a_status_counts_by_code_and_by_class() {
        let registry = Registry::new();
        let scope = registry.root();
        let stats = StatusStats::new(&scope);
        // More codes than are found without a lock.
        for _ in 0..2 {
            for code in 200..230 {
                stats.record(StatusCode::from_u16(code).ok(), MS);
            }
        }
        stats.record(StatusCode::from_u16(999).ok(), MS);
        stats.record(None, MS);
        let status = scope.scope("status");
        assert_eq!(status.counter("200").get(), 2);
        assert_eq!(status.counter("229").get(), 2);
        assert_eq!(status.counter("2XX").get(), 60);
        assert_eq!(status.counter("999").get(), 1);
        assert_eq!(status.counter("error").get(), 1);
        assert_eq!(status.counter("5XX").get(), 0);
        let time = scope.scope("time").stat("2XX");
        time.roll();
        assert_eq!(time.summary().unwrap().count, 60);
    }
}
