//! How far a proxy is between its start and its end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use crate::config;

/// How far a proxy is. Numbers are those of the gauge `proxy/phase`.
///
/// ```text
/// Starting ──► Serving ──► LameDuck ──► Closing ──► Ending
///                 ▲            │            │
///                 └────────────┴────────────┘  when it is no longer to drain, and not to end
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// It serves, and the names that do not depend on requests are not bound yet.
    Starting = 0,
    /// It serves.
    Serving = 1,
    /// It serves, and says that it is not ready.
    LameDuck = 2,
    /// It serves, and asks clients to leave.
    Closing = 3,
    /// It accepts no connection, and what was asked for is answered.
    Ending = 4,
}

/// Drains a proxy, or ends it. A clone is for the same one.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    asked: watch::Sender<Asked>,
    phase: watch::Sender<Phase>,
    // In milliseconds: it changes with the file.
    grace: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    drains: bool,
    ends: Option<Duration>,
}

impl Phase {
    /// Its name, as pages show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::LameDuck => "lame duck",
            Self::Closing => "closing",
            Self::Ending => "ending",
        }
    }
}

impl Shutdown {
    pub(crate) fn new(grace: Duration) -> Self {
        let shutdown = Self(Arc::new(Inner {
            asked: watch::Sender::default(),
            phase: watch::Sender::new(Phase::Starting),
            grace: AtomicU64::new(0),
        }));
        shutdown.set_grace(grace);
        shutdown
    }

    /// Ends the proxy, with this grace for requests that have begun, or with the `shutdownGraceMs` of its file.
    ///
    /// The first call counts.
    pub fn begin(&self, grace: Option<Duration>) {
        let grace = grace.unwrap_or_else(|| self.grace());
        self.0.asked.send_if_modified(|asked| {
            let is_first = asked.ends.is_none();
            asked.ends.get_or_insert(grace);
            is_first
        });
    }

    /// Drains the proxy without ending it: it says that it is not ready, and after `lameDuckMs` asks clients to leave, each
    /// with its next answer. Nobody is refused. `false` undoes it; who was asked to leave is not asked to come back.
    pub fn drain(&self, drains: bool) {
        self.0.asked.send_if_modified(|asked| std::mem::replace(&mut asked.drains, drains) != drains);
    }

    /// How far the proxy is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Whether requests should be sent here.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn ready(&self) -> Result<(), &'static str> {
        match self.phase() {
            Phase::Serving => Ok(()),
            Phase::Starting => Err("starting: names are being bound"),
            Phase::LameDuck | Phase::Closing if self.0.asked.borrow().ends.is_none() => Err("draining"),
            Phase::LameDuck | Phase::Closing | Phase::Ending => Err("ending"),
        }
    }

    /// The grace period, once the proxy was told to end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn begun(self) -> Duration {
        let mut asked = self.0.asked.subscribe();
        // It holds a sender itself.
        let grace = asked.wait_for(|asked| asked.ends.is_some()).await.map(|asked| asked.ends);
        grace.ok().flatten().unwrap_or_else(|| self.grace())
    }

    pub(super) fn set_grace(&self, grace: Duration) {
        // Relaxed: a number that orders nothing else.
        self.0.grace.store(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn grace(&self) -> Duration {
        Duration::from_millis(self.0.grace.load(Ordering::Relaxed))
    }

    /// The grace period that it was told to end with.
    pub(super) fn ending_grace(&self) -> Duration {
        let asked = self.0.asked.borrow().ends;
        asked.unwrap_or_else(|| self.grace())
    }

    pub(super) fn phases(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// Goes through the phases, up to the last one. Serving begins when `started` is ready, or ends before.
    pub(super) async fn conduct(self, started: impl Future<Output = ()>, settings: impl Fn() -> config::Shutdown) {
        let mut asked = self.0.asked.subscribe();
        tokio::select! {
            () = started => {}
            () = is(&mut asked, |asked| asked.ends.is_some()) => {}
        }
        loop {
            self.enter(Phase::Serving);
            is(&mut asked, |asked| asked.drains || asked.ends.is_some()).await;
            self.enter(Phase::LameDuck);
            if is_undone(&mut asked, sleep(settings().lame_duck)).await {
                continue;
            }
            self.enter(Phase::Closing);
            let ends = self.clone().begun();
            let over = async {
                ends.await;
            };
            if is_undone(&mut asked, over).await {
                continue;
            }
            sleep(settings().close).await;
            self.enter(Phase::Ending);
            return;
        }
    }

    fn enter(&self, phase: Phase) {
        match (self.0.phase.send_replace(phase), phase) {
            (Phase::LameDuck | Phase::Closing, Phase::Serving) => tracing::info!("ready again: draining was undone"),
            (_, Phase::LameDuck) => tracing::info!("not ready any more: what comes is served"),
            (_, Phase::Closing) => tracing::info!("clients are asked to leave"),
            (_, Phase::Ending) => tracing::info!("no connection is accepted any more: what was asked for is answered"),
            (_, Phase::Serving | Phase::Starting) => {}
        }
    }
}

/// Waits until it is asked for.
async fn is(asked: &mut watch::Receiver<Asked>, what: impl FnMut(&Asked) -> bool) {
    // Its sender is in the shutdown that waits.
    drop(asked.wait_for(what).await);
}

/// Whether draining is undone before something is over.
async fn is_undone(asked: &mut watch::Receiver<Asked>, over: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        () = over => false,
        () = is(asked, |asked| !asked.drains && asked.ends.is_none()) => true,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Conducts with so long for each phase.
    fn conducted(started: impl Future<Output = ()> + Send + 'static) -> Shutdown {
        let shutdown = Shutdown::new(10 * MS);
        let settings = config::Shutdown { lame_duck: 100 * MS, close: 50 * MS };
        tokio::spawn(shutdown.clone().conduct(started, move || settings.clone()));
        shutdown
    }

    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    async fn after(shutdown: &Shutdown, time: Duration) -> Phase {
        // What was asked for is seen before time passes, and the time after it.
        settle().await;
        advance(time).await;
        settle().await;
        shutdown.phase()
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_lasts_as_long_as_it_is_set_to() {
        let (bound, is_bound) = tokio::sync::oneshot::channel::<()>();
        let shutdown = conducted(async { drop(is_bound.await) });
        assert_eq!(after(&shutdown, 1000 * MS).await, Phase::Starting);
        assert!(shutdown.ready().is_err());
        drop(bound);
        assert_eq!(after(&shutdown, MS).await, Phase::Serving);
        assert_eq!(shutdown.ready(), Ok(()));
        shutdown.begin(None);
        shutdown.begin(Some(Duration::ZERO));
        assert_eq!(after(&shutdown, Duration::ZERO).await, Phase::LameDuck);
        assert_eq!(shutdown.ready(), Err("ending"));
        assert_eq!(after(&shutdown, 98 * MS).await, Phase::LameDuck);
        assert_eq!(after(&shutdown, 3 * MS).await, Phase::Closing);
        assert_eq!(after(&shutdown, 48 * MS).await, Phase::Closing);
        assert_eq!(after(&shutdown, 5 * MS).await, Phase::Ending);
        assert_eq!(shutdown.begun().await, 10 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn draining_can_be_undone_until_it_ends() {
        let shutdown = conducted(std::future::ready(()));
        for time in [50 * MS, 500 * MS] {
            shutdown.drain(true);
            assert_eq!(after(&shutdown, Duration::ZERO).await, Phase::LameDuck);
            assert_eq!(shutdown.ready(), Err("draining"));
            assert_ne!(after(&shutdown, time).await, Phase::Serving);
            shutdown.drain(false);
            assert_eq!(after(&shutdown, MS).await, Phase::Serving);
        }
        shutdown.drain(true);
        assert_eq!(after(&shutdown, 60 * MS).await, Phase::LameDuck);
        // What is left of the phase is not begun anew.
        shutdown.begin(None);
        shutdown.drain(false);
        assert_eq!(after(&shutdown, 50 * MS).await, Phase::Closing);
        assert_eq!(after(&shutdown, 60 * MS).await, Phase::Ending);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_told_to_end_before_it_has_started_does() {
        let shutdown = conducted(std::future::pending());
        shutdown.begin(None);
        assert_eq!(after(&shutdown, 200 * MS).await, Phase::Closing);
        assert_eq!(after(&shutdown, 60 * MS).await, Phase::Ending);
    }
}
