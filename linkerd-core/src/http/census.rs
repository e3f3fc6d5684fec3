//! The connections of a server that are open, counted where the server is: a reload may give it to another router.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use crate::telemetry::ServerStats;

/// What is open of a server. Locked when something opens or closes, and by no request.
#[derive(Default)]
pub(super) struct Census(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    stats: Option<Arc<ServerStats>>,
    connections: i64,
    tunnels: i64,
}

/// An open connection, until it is dropped.
pub(super) struct Connection {
    census: Arc<Census>,
    since: Instant,
}

/// An open tunnel, until it is dropped: its connection is counted too.
pub(super) struct Tunnel(Arc<Census>);

impl Census {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on all of it, also what is open already, counts in these metrics and in no others.
    pub(super) fn count_in(&self, stats: Option<Arc<ServerStats>>) {
        let mut inner = self.lock();
        let before = std::mem::replace(&mut inner.stats, stats);
        // First there and then not here: of one router that stays the gauge is the same, and shows too many rather than none.
        for (stats, sign) in [(&inner.stats, 1), (&before, -1)] {
            let Some(stats) = stats else { continue };
            stats.connections.add(sign * inner.connections);
            if inner.tunnels > 0 {
                stats.tunnels().add(sign * inner.tunnels);
            }
        }
    }

    pub(super) fn connection(self: &Arc<Self>) -> Connection {
        let mut inner = self.lock();
        inner.connections += 1;
        if let Some(stats) = &inner.stats {
            stats.connects.incr();
            stats.connections.incr();
        }
        drop(inner);
        Connection { census: Arc::clone(self), since: Instant::now() }
    }

    pub(super) fn tunnel(self: &Arc<Self>) -> Tunnel {
        let mut inner = self.lock();
        inner.tunnels += 1;
        if let Some(stats) = &inner.stats {
            stats.tunnel().incr();
        }
        drop(inner);
        Tunnel(Arc::clone(self))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut inner = self.census.lock();
        inner.connections -= 1;
        if let Some(stats) = &inner.stats {
            stats.connections.decr();
            stats.connection_duration.record_ms(self.since.elapsed());
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.tunnels -= 1;
        if let Some(stats) = &inner.stats {
            stats.tunnels().decr();
        }
    }
}

impl fmt::Debug for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Census").field("connections", &inner.connections).field("tunnels", &inner.tunnels).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Registry, RouterStats};

    #[test]
    fn what_is_open_goes_with_the_server_and_ends_where_it_is_then() {
        let registry = Registry::new();
        let stats = |label| Some(Arc::new(RouterStats::new(&registry, label).server(([127, 0, 0, 1], 1).into())));
        let (old, new) = (stats("old"), stats("new"));
        let shown = |stats: &Option<Arc<ServerStats>>| {
            let stats = stats.as_deref().unwrap();
            (stats.connections.get(), stats.tunnels().get())
        };
        let census = Arc::<Census>::default();
        let before_any = census.connection();
        census.count_in(old.clone());
        let tunnel = (census.connection(), census.tunnel());
        let connection = census.connection();
        assert_eq!(shown(&old), (3, 1));
        census.count_in(new.clone());
        assert_eq!((shown(&old), shown(&new)), ((0, 0), (3, 1)));
        drop((connection, before_any));
        assert_eq!(shown(&new), (1, 1));
        census.count_in(new.clone());
        assert_eq!(shown(&new), (1, 1));
        drop(tunnel);
        assert_eq!((shown(&old), shown(&new)), ((0, 0), (0, 0)));
        assert_eq!(new.unwrap().connects.get(), 0, "they came to the old one");
    }
}
