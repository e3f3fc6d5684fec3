//! A proxy at work: who accepts, who asks for a change, and how far it is.

use std::{future::pending, io, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    BindErrors,
    admin::AdminServer,
    life::Phase,
    listeners::{Ended, Listeners, Stop, Unserved},
    pages::{Shown, Switches},
    reload::{Prepared, ReloadError, Reloaded, Request, Source, bind_ahead, give_up, prepare},
    telemeters::Telemeters,
};
use crate::{
    access_log::AccessLog,
    config::Plan,
    http::Drained,
    span::Tracer,
    telemetry::{Counter, RouterStats},
};

/// A proxy that listens on all of its sockets, at work.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) listeners: Listeners,
    pub(super) plan: Arc<Plan>,
    pub(super) shown: Shown,
    pub(super) telemeters: Arc<Telemeters>,
    /// Somebody's own, beside the telemeters.
    pub(super) tracer: Option<Tracer>,
    pub(super) pages: Switches,
    pub(super) requests: mpsc::Receiver<Request>,
}

/// How much longer than the grace of the end servers may take, which keep to it themselves.
const SLACK: Duration = Duration::from_secs(1);

/// The configuration that is being made, and who waits for it.
type Preparing = Pin<Box<dyn Future<Output = (Result<Prepared, ReloadError>, Request)> + Send>>;

impl Serving {
    /// Serves until it is told to end.
    pub(super) async fn run(
        mut self,
        unserved: Vec<Unserved>,
        admin: AdminServer,
        source: Option<Source>,
    ) -> io::Result<Drained> {
        let admin = admin.serve().await?;
        let cut_off = self.count();
        let mut serving = JoinSet::new();
        for server in unserved {
            serve(&mut serving, server);
        }
        // They end with this future.
        let mut aside = JoinSet::new();
        let registry = self.shown.registry.clone();
        aside.spawn(async move { registry.drive().await });
        let (plan, state) = (Arc::clone(&self.plan), Arc::clone(&self.shown.state));
        let bound = async move { bind_ahead(&plan, None).await };
        // From before the first phase on: none may be missed, for the last one ends it all.
        let mut phases = self.shown.shutdown.phases();
        phases.mark_changed();
        aside.spawn(self.shown.shutdown.clone().conduct(bound, move || state.shutdown()));
        tracing::info!("initialized");

        let mut preparing: Option<Preparing> = None;
        let mut aborted = 0;
        // When whoever serves still is cut off.
        let mut ends = None;
        while !serving.is_empty() {
            // Looked at, not seen: it is entered below.
            let phase = *phases.borrow();
            tokio::select! {
                Some(ended) = serving.join_next() => {
                    // A panic in there was printed already, and ends one server alone.
                    let Ok(Ended { stats, addr, drained }) = ended else { continue };
                    aborted += drained.aborted;
                    cut_off.add(drained.aborted as u64);
                    if let Some(stats) = stats {
                        self.listeners.forget(&stats, addr);
                    }
                }
                Ok(()) = phases.changed() => {
                    let phase = *phases.borrow_and_update();
                    self.enter(phase);
                    if phase == Phase::Ending {
                        ends = Instant::now().checked_add(self.shown.shutdown.ending_grace() + SLACK);
                    }
                }
                () = at(ends) => {
                    // Removed before, with a longer grace than there is now.
                    tracing::warn!("{} servers that were removed did not end in time", serving.len());
                    break;
                }
                Some(request) = self.requests.recv(), if preparing.is_none() => {
                    preparing = self.prepare(request, phase, source.as_ref());
                }
                (prepared, request) = ready(&mut preparing) => {
                    preparing = None;
                    let reloaded = match prepared {
                        Ok(_) if phase == Phase::Ending => Err(ReloadError::Ending),
                        Ok(prepared) => self.change(prepared, &mut serving),
                        Err(error) => Err(error),
                    };
                    self.shown.state.note(&reloaded);
                    // Whoever asked may have gone.
                    let _ = request.send(reloaded);
                }
            }
        }
        drop(serving);
        let logs = self.plan.routers.iter().filter_map(|router| router.access_log.as_ref());
        futures::future::join_all(logs.map(AccessLog::flush)).await;
        admin.end().await;
        Ok(Drained { aborted })
    }

    /// Shows `proxy/phase` and `proxy/workers`; the counter is `proxy/aborted`, of connections that were cut off.
    fn count(&self) -> Counter {
        let Shown { registry, shutdown, runtime, .. } = &self.shown;
        let scope = registry.root().scope("proxy");
        let phase = shutdown.phases();
        scope.gauge_fn("phase", move || f64::from(*phase.borrow() as u8));
        scope.gauge("workers").set_count(runtime.metrics().num_workers() as u64);
        scope.counter("aborted")
    }

    fn enter(&mut self, phase: Phase) {
        match phase {
            Phase::Starting | Phase::Serving | Phase::LameDuck => self.listeners.ask_to_leave(false),
            Phase::Closing => self.listeners.ask_to_leave(true),
            Phase::Ending => {
                // Told who ends it how long that may take.
                let grace = self.shown.shutdown.ending_grace();
                self.listeners.stop(Stop { close: Duration::ZERO, grace });
            }
        }
    }

    /// Begins to make what a request asks for, or tells it why not.
    fn prepare(&self, request: Request, phase: Phase, source: Option<&Source>) -> Option<Preparing> {
        let refused = match source {
            Some(_) if phase == Phase::Ending => ReloadError::Ending,
            None => ReloadError::NoSource,
            Some(source) => {
                let Self { plan, shown, telemeters, .. } = self;
                let made = prepare(source.clone(), Arc::clone(plan), shown.clone(), Arc::clone(telemeters));
                return Some(Box::pin(async move { (made.await, request) }));
            }
        };
        let _ = request.send(Err(refused));
        None
    }

    /// Puts a configuration in the place of the one that there is. Nothing waits in here, and nothing fails once the new
    /// sockets are bound.
    fn change(&mut self, prepared: Prepared, serving: &mut JoinSet<Ended>) -> Result<Reloaded, ReloadError> {
        let Prepared { plan, pages, telemeters, attempt } = prepared;
        let Shown { registry, shutdown, state, .. } = &self.shown;
        let config = plan.config();
        let stop = Stop { close: config.shutdown.close, grace: config.admin.shutdown_grace };
        let tracer = telemeters.with(self.tracer.as_ref());
        let change = match self.listeners.change(&plan, tracer.as_ref(), stop) {
            Ok(change) => change,
            Err(errors) => {
                give_up((plan, pages), attempt);
                return Err(self.explain(errors));
            }
        };
        plan.begin(registry);
        self.pages.set(pages);
        shutdown.set_grace(config.admin.shutdown_grace);
        state.serves(&plan);
        let mut reloaded = Reloaded::between(&self.plan, &plan);
        reloaded.pending = state.pending(&plan);
        let stale = change.stale.iter().map(|addr| format!("socketOptions of what listens on {addr}"));
        reloaded.pending.extend(stale);
        reloaded.closed = change.removed;
        reloaded.opened = change.returned;
        for (label, addr) in &change.renamed {
            self.listeners.forget(&RouterStats::new(registry, label), *addr);
        }
        for server in change.added {
            reloaded.opened.push(server.addr);
            serve(serving, server);
        }
        self.plan = plan;
        self.telemeters = telemeters;
        for label in &reloaded.removed {
            RouterStats::new(registry, label).scope().prune();
        }
        Ok(reloaded)
    }

    /// Why an address cannot be listened on, if it is because of one that would have been closed.
    fn explain(&self, errors: BindErrors) -> ReloadError {
        for error in errors.errors() {
            let ours = self.listeners.shown().find(|(_, addr)| addr.port() == error.addr.port());
            if let Some((_, ours)) = ours {
                let addr = error.addr;
                tracing::error!(
                    "{addr} overlaps {ours}, which this process listens on until {addr} is bound: \
                     take another port, or start the process again"
                );
            }
        }
        errors.into()
    }
}

fn serve(serving: &mut JoinSet<Ended>, server: Unserved) {
    tracing::info!("serving {} on {}", server.label, server.addr);
    serving.spawn(server.serve());
}

/// At this time; never, if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// What is being made, once it is; never, if nothing is.
async fn ready(preparing: &mut Option<Preparing>) -> (Result<Prepared, ReloadError>, Request) {
    match preparing {
        Some(preparing) => preparing.await,
        None => pending().await,
    }
}
