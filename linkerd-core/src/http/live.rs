//! What a server serves, and how, while it serves.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::Request;
use tokio::sync::Notify;

use super::{
    census::Census,
    drain::{Drain, Stage},
    place::Place,
    serve::Shared,
    server::ServerConfig,
};
#[cfg(feature = "admin")]
use crate::telemetry::RouterStats;
use crate::{
    Body, Svc,
    access_log::AccessLog,
    svc::{Call, SvcFuture},
};

/// Changes a server while it serves. A clone changes the same one.
#[derive(Clone)]
pub struct ServerControl {
    pub(super) live: Arc<Live>,
    pub(super) drain: Drain,
}

/// What the connections of a server have in common at this moment.
pub(super) struct Live {
    local: SocketAddr,
    switch: Arc<Switch>,
    log: Arc<LogSwitch>,
    open: Arc<Census>,
    shared: ArcSwap<Shared>,
    changed: Notify,
}

/// Where requests are logged at this moment, if anywhere.
pub(super) type LogSwitch = ArcSwapOption<AccessLog>;

/// Where requests go at this moment. What is under way stays where it went.
pub(crate) struct Switch(ArcSwap<Svc>);

impl Switch {
    pub(crate) fn new(svc: Svc) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(svc)))
    }

    pub(crate) fn set(&self, svc: Svc) {
        self.0.store(Arc::new(svc));
    }

    /// What sends each request where it is to go then.
    pub(crate) fn svc(self: &Arc<Self>) -> Svc {
        Svc::from_arc(Arc::clone(self) as _)
    }
}

impl Call for Switch {
    fn call(self: Arc<Self>, req: Request<Body>) -> SvcFuture {
        self.0.load().send(req)
    }
}

impl Live {
    pub(super) fn new(local: SocketAddr, svc: Svc, config: ServerConfig) -> Self {
        let (switch, log) = (Switch::new(svc), Arc::new(log(&config)));
        let open = Arc::<Census>::default();
        let place = place(local, &config);
        open.count_in(place.stats().cloned());
        let shared = shared(place, &switch, &log, &open, config, Arc::default());
        Self { local, switch, log, open, shared: ArcSwap::from_pointee(shared), changed: Notify::new() }
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// What a connection that begins now has in common with others.
    pub(super) fn now(&self) -> Arc<Shared> {
        self.shared.load_full()
    }

    /// How many connections there may be at a time.
    pub(super) fn max_connections(&self) -> Option<usize> {
        self.shared.load().config.max_connections
    }

    /// Waits until something is changed, or was since the last time.
    ///
    /// # Cancel safety
    ///
    /// No change is missed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

fn log(config: &ServerConfig) -> LogSwitch {
    LogSwitch::new(config.access_log.clone().map(Arc::new))
}

fn place(local: SocketAddr, config: &ServerConfig) -> Arc<Place> {
    Place::new(config.stats.as_ref(), |stats| stats.server(local))
}

fn shared(
    place: Arc<Place>,
    switch: &Arc<Switch>,
    log: &Arc<LogSwitch>,
    open: &Arc<Census>,
    config: ServerConfig,
    in_flight: Arc<AtomicUsize>,
) -> Shared {
    Shared { svc: switch.svc(), log: Arc::clone(log), open: Arc::clone(open), config, place, in_flight }
}

impl ServerControl {
    /// Where the server listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.live.local
    }

    /// Where its metrics go now.
    #[cfg(feature = "admin")]
    pub(crate) fn stats(&self) -> Option<RouterStats> {
        self.live.now().config.stats.clone()
    }

    /// From now on requests go to `svc` and are logged by `config`'s log, those on open connections too; what is under way
    /// stays where it went, until it ends, and counts there. Open connections and tunnels, and what goes over them, count in
    /// `config`'s metrics. Connections that come from now on are treated as `config` says; those that are open as they were.
    ///
    /// Where and how the server listens stays: the `addr` and of the `socket` what is about listening have no effect. Those
    /// who wait to be accepted lose nothing.
    pub fn replace(&self, svc: Svc, config: ServerConfig) {
        let Live { local, switch, log: logs, open, shared: current, changed } = &*self.live;
        // One limit on requests at a time for all of them, whenever their connections came.
        let before = current.load_full();
        let in_flight = Arc::clone(&before.in_flight);
        let place = if before.place.is_of(config.stats.as_ref()) {
            Arc::clone(&before.place)
        } else {
            let place = place(*local, &config);
            open.count_in(place.stats().cloned());
            before.place.move_to(&place);
            place
        };
        // Connections last: one that comes in between finds its requests' service.
        switch.set(svc);
        logs.store(config.access_log.clone().map(Arc::new));
        current.store(Arc::new(shared(place, switch, logs, open, config, in_flight)));
        changed.notify_one();
    }

    /// Whether clients are asked to leave: those that speak HTTP/1.1 by `Connection: close` on each answer, those that
    /// speak HTTP/2 by a GOAWAY that lets streams finish, once they had one. Nobody is cut off or refused, and a connection of
    /// HTTP/1.1 stays until its client says something. Off, which who was asked to leave does not notice.
    pub fn ask_to_leave(&self, asks: bool) {
        self.drain.set(if asks { Stage::Leaving } else { Stage::Serving });
    }
}

impl fmt::Debug for ServerControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerControl").field("local", &self.live.local).finish_non_exhaustive()
    }
}
