//! Where a server counts: a reload may give it to another router.

use std::sync::{Arc, OnceLock};

use crate::telemetry::{RouterStats, ServerStats};

/// The metrics of a server, and those that have taken their place since: connections that are open follow them.
///
/// There is a further one for each time that the server went to a router of another label while a connection was open.
#[derive(Debug, Default)]
pub(crate) struct Place {
    label: Option<Arc<str>>,
    stats: Option<Arc<ServerStats>>,
    next: OnceLock<Arc<Place>>,
}

impl Place {
    /// Where a server of this router counts, which nobody does if there is none.
    pub(super) fn new(stats: Option<&RouterStats>, server: impl Fn(&RouterStats) -> ServerStats) -> Arc<Self> {
        Arc::new(Self {
            label: stats.map(|stats| Arc::clone(stats.label())),
            stats: stats.map(|stats| Arc::new(server(stats))),
            next: OnceLock::new(),
        })
    }

    /// Whether it is of this router too.
    pub(super) fn is_of(&self, stats: Option<&RouterStats>) -> bool {
        self.label.as_ref() == stats.map(RouterStats::label)
    }

    /// From now on all that counts here counts there.
    pub(super) fn move_to(&self, next: &Arc<Self>) {
        // Only the last one moves.
        let _ = self.next.set(Arc::clone(next));
    }

    /// Where is counted now.
    pub(crate) fn stats(&self) -> Option<&Arc<ServerStats>> {
        self.now().0.stats.as_ref()
    }

    /// The same, and after how many moves.
    pub(super) fn now(&self) -> (&Self, u32) {
        let (mut place, mut moves) = (self, 0);
        while let Some(next) = place.next.get() {
            (place, moves) = (next, moves + 1);
        }
        (place, moves)
    }

    /// Where was counted after so many moves.
    pub(super) fn after(&self, moves: u32) -> Option<&Arc<ServerStats>> {
        let mut place = self;
        for _ in 0..moves {
            place = place.next.get()?;
        }
        place.stats.as_ref()
    }
}
