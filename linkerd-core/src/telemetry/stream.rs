//! What is counted of the streams of HTTP/2.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{Counter, Gauge, Scope, Stat};

/// Streams of a server or a client: `open_streams`, `request/stream`, `response/stream` and `stream`.
#[derive(Debug)]
pub(crate) struct StreamStats {
    open: Gauge,
    halves: [HalfStats; 2],
    total: HalfStats,
    sides: [SideStats; 2],
}

/// How long it took, how it ended, and how many bytes of data it had.
#[derive(Debug)]
struct HalfStats {
    duration_ms: Stat,
    success: Counter,
    failures: Counter,
    data_bytes: Stat,
}

/// `stream/local`, what went out, or `stream/remote`, what came in.
#[derive(Debug)]
struct SideStats {
    data_bytes: Counter,
    data_frames: Counter,
    trailers: Counter,
    resets: Counter,
}

/// What one peer says to the other on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}

/// Who says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Local,
    Remote,
}

/// A stream until both of its halves are over: dropped, it is counted.
#[derive(Debug)]
pub(crate) struct Exchange {
    stats: Arc<StreamStats>,
    begun: Instant,
    // Relaxed in all: the drop that reads them comes after all that write them.
    bytes: AtomicU64,
    has_failed: AtomicBool,
    is_reset: AtomicBool,
}

/// One half of a stream. Dropped before it is complete, it was given up on this side.
#[derive(Debug)]
pub(crate) struct Half {
    exchange: Arc<Exchange>,
    direction: Direction,
    side: Side,
    begun: Instant,
    bytes: u64,
    is_over: bool,
}

impl StreamStats {
    pub(super) fn new(scope: &Scope) -> Self {
        let stream = scope.scope("stream");
        let half = |name| HalfStats::new(&scope.scope(name).scope("stream"), "stream_duration_ms");
        Self {
            open: scope.gauge("open_streams"),
            halves: [half("request"), half("response")],
            total: HalfStats::new(&stream, "total_latency_ms"),
            sides: [SideStats::new(&stream.scope("local")), SideStats::new(&stream.scope("remote"))],
        }
    }
}

impl HalfStats {
    fn new(scope: &Scope, duration: &str) -> Self {
        Self {
            duration_ms: scope.stat(duration),
            success: scope.counter("stream_success"),
            failures: scope.counter("stream_failures"),
            data_bytes: scope.stat("data_bytes"),
        }
    }

    fn record(&self, begun: Instant, bytes: u64, is_success: bool) {
        self.duration_ms.record_ms(now().saturating_duration_since(begun));
        self.data_bytes.record(bytes);
        if is_success { self.success.incr() } else { self.failures.incr() }
    }
}

impl SideStats {
    fn new(scope: &Scope) -> Self {
        let data = scope.scope("data");
        Self {
            data_bytes: data.counter("bytes"),
            data_frames: data.counter("frames"),
            trailers: scope.counter("trailers"),
            resets: scope.counter("reset"),
        }
    }
}

impl Exchange {
    pub(crate) fn begin(stats: &Arc<StreamStats>) -> Arc<Self> {
        stats.open.incr();
        Arc::new(Self {
            stats: Arc::clone(stats),
            begun: now(),
            bytes: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            is_reset: AtomicBool::new(false),
        })
    }

    /// What is sent or received from now on.
    pub(crate) fn half(self: &Arc<Self>, direction: Direction, side: Side) -> Half {
        Half { exchange: Arc::clone(self), direction, side, begun: now(), bytes: 0, is_over: false }
    }

    /// Counts who reset the stream first.
    pub(crate) fn reset(&self, by: Side) {
        self.has_failed.store(true, Ordering::Relaxed);
        if !self.is_reset.swap(true, Ordering::Relaxed) {
            self.stats.sides[by as usize].resets.incr();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stats.open.decr();
        self.stats.total.record(self.begun, *self.bytes.get_mut(), !*self.has_failed.get_mut());
    }
}

impl Half {
    /// Counts a piece of data.
    pub(crate) fn data(&mut self, len: usize) {
        let side = &self.exchange.stats.sides[self.side as usize];
        side.data_frames.incr();
        side.data_bytes.add(len as u64);
        self.bytes += len as u64;
    }

    pub(crate) fn trailers(&self) {
        self.exchange.stats.sides[self.side as usize].trailers.incr();
    }

    /// Its time is counted from now on.
    pub(crate) fn restart(&mut self) {
        self.begun = now();
    }

    /// All of it was sent or received.
    pub(crate) fn complete(&mut self) {
        self.end(true);
    }

    /// It ends before it is complete, by a reset if somebody is named.
    pub(crate) fn fail(&mut self, reset_by: Option<Side>) {
        if let Some(side) = reset_by.filter(|_| !self.is_over) {
            self.exchange.reset(side);
        }
        self.end(false);
    }

    fn end(&mut self, is_success: bool) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.exchange.bytes.fetch_add(self.bytes, Ordering::Relaxed);
        if !is_success {
            self.exchange.has_failed.store(true, Ordering::Relaxed);
        }
        self.exchange.stats.halves[self.direction as usize].record(self.begun, self.bytes, is_success);
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.fail(Some(Side::Local));
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::{super::Registry, *};

    fn stats() -> (Registry, Arc<StreamStats>) {
        let registry = Registry::new();
        let stats = Arc::new(StreamStats::new(&registry.root()));
        (registry, stats)
    }

    fn count(registry: &Registry, name: &str) -> u64 {
        let (scopes, name) = name.rsplit_once('/').unwrap();
        scopes.split('/').fold(registry.root(), |scope, name| scope.scope(name)).counter(name).get()
    }

    #[test]
    fn a_stream_is_counted_when_its_second_half_ends() {
        let (registry, stats) = stats();
        let exchange = Exchange::begin(&stats);
        let mut request = exchange.half(Direction::Request, Side::Remote);
        let mut response = exchange.half(Direction::Response, Side::Local);
        drop(exchange);
        request.data(3);
        request.data(4);
        request.complete();
        drop(request);
        assert_eq!((count(&registry, "request/stream/stream_success"), stats.open.get()), (1, 1));
        assert_eq!(count(&registry, "stream/stream_success"), 0);
        response.data(5);
        response.trailers();
        response.complete();
        drop(response);
        assert_eq!((count(&registry, "stream/stream_success"), stats.open.get()), (1, 0));
        assert_eq!(count(&registry, "stream/remote/data/bytes"), 7);
        assert_eq!(count(&registry, "stream/remote/data/frames"), 2);
        assert_eq!(count(&registry, "stream/local/data/bytes"), 5);
        assert_eq!(count(&registry, "stream/local/trailers"), 1);
        let total = registry.root().scope("stream").stat("data_bytes");
        total.roll();
        assert_eq!(total.summary().unwrap().sum, 12);
    }

    #[test]
    fn who_resets_first_is_counted_and_once() {
        let (registry, stats) = stats();
        let exchange = Exchange::begin(&stats);
        let mut request = exchange.half(Direction::Request, Side::Remote);
        let response = exchange.half(Direction::Response, Side::Local);
        request.fail(Some(Side::Remote));
        drop((request, response, exchange));
        assert_eq!(count(&registry, "stream/remote/reset"), 1);
        assert_eq!(count(&registry, "stream/local/reset"), 0);
        assert_eq!(count(&registry, "request/stream/stream_failures"), 1);
        assert_eq!(count(&registry, "response/stream/stream_failures"), 1);
        assert_eq!(count(&registry, "stream/stream_failures"), 1);
    }
}
