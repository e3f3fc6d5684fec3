//! Metrics: a registry of counters, gauges and stats in a tree of scopes, and what reads it.
//!
//! Handles are resolved when a stack is built; a request touches atomics only. Names and labels are those of Linkerd 1.x.
//!
//! ```
//! use linkerd_core::telemetry::Registry;
//!
//! let registry = Registry::new();
//! let scope = registry.root().scope("rt").scope("http").scope("server").scope("127.0.0.1/4140");
//! let requests = scope.counter("requests");
//! requests.incr();
//! assert_eq!(scope.counter("requests").get(), 1);
//! ```

#[cfg(feature = "admin")]
#[cfg_attr(docsrs, doc(cfg(feature = "admin")))]
pub mod json;
mod metric;
pub mod process;
mod prometheus;
mod registry;
mod request;
mod router;
mod stat;
mod stream;

pub use metric::{Counter, Entered, Gauge};
pub use prometheus::Prometheus;
#[cfg(feature = "admin")]
pub(crate) use registry::Attempt;
pub(crate) use registry::Parts;
pub use registry::{DEFAULT_LIMIT, DEFAULT_SNAPSHOT_INTERVAL, Hold, Reading, Registry, Scope};
pub use request::{Failures, RequestStats, StatusStats};
pub use router::{
    AccrualStats, AllowanceStats, BalancerStats, BindCacheStats, CacheStats, ClientStats, FailFastStats, LimitStats,
    PoolStats, Refused, RefusedStats, RequeueStats, RetryStats, RouterStats, ServerStats, ServiceStats, SwitchStats,
    TimeoutStats,
};
pub use stat::{Stat, Summary};
pub(crate) use stream::{Direction, Exchange, Half, Side, StreamStats};
