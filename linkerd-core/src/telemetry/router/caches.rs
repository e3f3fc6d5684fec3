//! The metrics of the binding caches.

use std::fmt;

use crate::telemetry::{Counter, Gauge, Hold, Scope};

/// `rt/<label>/bindcache`: the four caches on the way from a path to a client, and the changes of that way.
pub struct BindCacheStats {
    /// Paths and their stacks.
    pub path: CacheStats,
    /// Bound trees.
    pub tree: CacheStats,
    /// Bound names with what the namers left of the path.
    pub bound: CacheStats,
    /// Bound names.
    pub client: CacheStats,
    /// Names that are bound to other clients than they were.
    pub switch: SwitchStats,
    _hold: Hold,
}

/// One cache.
#[derive(Clone, Debug)]
pub struct CacheStats {
    /// Look-ups that had to build.
    pub misses: Counter,
    /// Entries that had to make room.
    pub evicts: Counter,
    /// Entries that were idle for too long.
    pub expires: Counter,
    /// Builds that were not kept, since the cache was full of busy entries.
    pub oneshots: Counter,
}

/// How requests go over to other clients.
#[derive(Clone, Debug)]
pub struct SwitchStats {
    /// Names whose requests go where they went until the new clients are ready.
    pub waiting: Gauge,
    /// Changes that were made though no endpoint of a new client could be connected to in time.
    pub timeouts: Counter,
    /// Requests that wait for what takes the place of a client without endpoints.
    pub holding: Gauge,
    /// Requests that have waited for that.
    pub held: Counter,
}

impl CacheStats {
    /// Counts that nobody reads.
    pub(crate) fn detached() -> Self {
        let [misses, evicts, expires, oneshots] = std::array::from_fn(|_| Counter::default());
        Self { misses, evicts, expires, oneshots }
    }
}

impl BindCacheStats {
    /// Resolves the handles of a scope.
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        let hold = scope.hold();
        let cache = |name| {
            let scope = scope.scope(name);
            CacheStats {
                misses: scope.counter("misses"),
                evicts: scope.counter("evicts"),
                expires: scope.counter("expires"),
                oneshots: scope.counter("oneshots"),
            }
        };
        let switch = scope.scope("switch");
        Self {
            path: cache("path"),
            tree: cache("tree"),
            bound: cache("bound"),
            client: cache("client"),
            switch: SwitchStats {
                waiting: switch.gauge("waiting"),
                timeouts: switch.counter("timeouts"),
                holding: switch.gauge("holding"),
                held: switch.counter("held"),
            },
            _hold: hold,
        }
    }
}

impl fmt::Debug for BindCacheStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, tree, bound, client, switch, _hold: _ } = self;
        f.debug_struct("BindCacheStats")
            .field("path", path)
            .field("tree", tree)
            .field("bound", bound)
            .field("client", client)
            .field("switch", switch)
            .finish()
    }
}
