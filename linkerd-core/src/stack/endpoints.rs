//! The endpoints of a bound name as its source has them: their stacks, and the task that follows them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::Request;
use linkerd_balance::{
    ActiveProbe, Balance, Breaker, BreakerCounters, BreakerEvent, Event, Forced, Health, Member, Panic, Phase, Status,
    Unavailable,
};
use linkerd_dtab::{Activity, Addr, Bound, Endpoint, Failure, Path, State};
use tokio::{
    sync::{OnceCell, watch},
    task::AbortHandle,
};

use super::{
    attempt::Attempt,
    fail_fast::FailFast,
    guarded,
    hold::Lost,
    probe,
    time::{after, now},
};
use crate::{
    Body, Error, ErrorKind, Svc, Timer,
    body::Resend,
    error::{SharedFailure, twitter_duration},
    http::Connect,
    mesh::Wrap,
    policy::ClientPolicy,
    svc::SvcFuture,
    telemetry::ClientStats,
};

/// What tells one endpoint of a client from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndpointKey {
    pub(crate) addr: SocketAddr,
    pub(crate) generation: u64,
    pub(crate) authority: Option<Arc<str>>,
}

pub(super) struct Balanced {
    pub(super) balance: Balance<EndpointKey, Arc<EndpointClient>>,
    pub(super) algorithm: String,
    pub(super) settings: Option<Arc<str>>,
    pub(super) breakers: BreakerCounters,
    pub(super) connect: Arc<dyn Connect>,
    // Once an endpoint was connected to because somebody wanted to know whether it can be.
    pub(super) reached: OnceCell<()>,
    progress: Arc<Progress>,
    // The watch that is followed, and the task that follows it.
    pub(super) source: Mutex<(Activity<Addr>, Option<AbortHandle>)>,
}

/// One endpoint.
pub(crate) struct EndpointClient {
    pub(super) key: EndpointKey,
    pub(super) svc: Svc,
    // The same without layers.
    network: Svc,
    // None if it is never taken out.
    pub(super) breaker: Option<Breaker>,
    pub(super) fail_fast: Option<Arc<FailFast>>,
    // For as long as the endpoint is there.
    _probe: Option<ActiveProbe>,
    // Layers may not pass on what `Resend::BySender` needs.
    is_layered: bool,
}

/// Whether the first address came.
struct Progress {
    // All that a request looks at, once it is set.
    is_known: AtomicBool,
    lost: Lost,
    failure: watch::Sender<Option<Failure>>,
    // Which source is followed: one that was given up may be at work still, and must not have the last word.
    source: Mutex<u64>,
}

impl From<&EndpointKey> for Endpoint {
    fn from(key: &EndpointKey) -> Self {
        let mut endpoint = Self::new(key.addr);
        endpoint.generation = key.generation;
        endpoint.authority.clone_from(&key.authority);
        endpoint
    }
}

impl EndpointClient {
    pub(super) fn send(&self, attempt: &Attempt<'_>, mut req: Request<Body>) -> SvcFuture {
        if attempt.is_kept() && !self.is_layered {
            req.body_mut().resend = Resend::BySender;
        }
        self.svc.send(req)
    }

    /// Why its status is what it is, for people.
    pub(super) fn why(&self, status: Status, now: Instant) -> String {
        if let Some(why) = self.fail_fast.as_ref().and_then(|fail_fast| fail_fast.why(now)) {
            return why;
        }
        let Some(breaker) = &self.breaker else { return status.to_string() };
        if let Some(why) = breaker.why(now) {
            return why.to_string();
        }
        match (breaker.forced(now), breaker.phase()) {
            (Some(Forced::Closed { until }), _) => {
                let left = until.saturating_duration_since(now);
                format!("forced closed for another {:?}", Duration::from_millis(left.as_millis() as u64))
            }
            // As it was before its time had come.
            (_, Phase::Dead { until }) => {
                let before = until.checked_sub(Duration::from_nanos(1)).and_then(|before| breaker.why(before));
                let reason = before.map(|why| format!(" after {}", why.reason)).unwrap_or_default();
                format!("due to be tried again{reason}")
            }
            _ => status.to_string(),
        }
    }
}

impl Balanced {
    pub(super) fn new(
        bound: &Bound,
        policy: &ClientPolicy,
        connect: Arc<dyn Connect>,
        layers: Vec<Wrap>,
        stats: &Arc<ClientStats>,
    ) -> Self {
        let accrual = policy.accrual.clone();
        let logged = bound.id.clone();
        let breakers = BreakerCounters::observed(move |endpoint, event| {
            log_breaker(&logged, endpoint.unwrap_or_default(), event);
        });
        let counters = breakers.clone();
        let connect = policy.connect.clone().unwrap_or(connect);
        let dialer = Arc::clone(&connect);
        let client_stats = Arc::clone(stats);
        // All three are about connections that nobody asked for: to endpoints that could not be reached, to those that take
        // the place of others, and those that are kept.
        let overlaps = !policy.balancer.longest_overlap().is_zero();
        let is_watched = policy.fail_fast || overlaps;
        let fail_fast_stats = OnceLock::new();
        let progress = Arc::new(Progress {
            is_known: AtomicBool::new(false),
            lost: Lost::default(),
            failure: watch::Sender::new(None),
            source: Mutex::new(0),
        });
        let known = Arc::clone(&progress);
        let id = bound.id.clone();
        let new_endpoint = move |key: &EndpointKey, health: &Health| {
            let endpoint = Endpoint::from(key);
            let network = connect.connect_counted(&endpoint, &client_stats);
            let svc = layers.iter().fold(network.clone(), |svc, wrap| wrap(svc));
            let is_layered = !layers.is_empty();
            let kept = network.kept();
            let breaker = accrual.breaker(key.addr.to_string(), health, &counters);
            let authority = key.authority.as_deref().map_or_else(|| key.addr.to_string(), str::to_owned);
            let probe = accrual.probe.as_ref().zip(breaker.as_ref());
            let probe = probe.and_then(|(probe, breaker)| probe::spawn(probe, &authority, svc.clone(), breaker));
            let fail_fast = (is_watched || kept.is_some()).then(|| {
                let stats = fail_fast_stats.get_or_init(|| Arc::new(client_stats.fail_fast()));
                FailFast::new(id.clone(), health.clone(), endpoint.clone(), Arc::clone(&connect), Arc::clone(stats))
            });
            if let Some(fail_fast) = &fail_fast {
                // The first ones replace nobody.
                if overlaps && known.is_known.load(Ordering::Acquire) {
                    fail_fast.check_first();
                }
                if let Some(kept) = kept {
                    fail_fast.keep(kept);
                }
            }
            Arc::new(EndpointClient { key: key.clone(), svc, network, breaker, fail_fast, _probe: probe, is_layered })
        };
        let algorithm = policy.balancer.algorithm();
        stats.algorithm(&algorithm);
        let id = bound.id.clone();
        let balancer = policy.balancer.clone().on_event(move |event| log(&id, event));
        let balance = Balance::new(balancer, new_endpoint);
        // Whoever waits in line there goes to another one.
        balance.on_left(|_, endpoint: &Arc<EndpointClient>| endpoint.network.left());
        let task = spawn_follow(bound.addr.clone(), 0, balance.clone(), Arc::clone(&progress));
        Self {
            balance,
            algorithm,
            settings: policy.settings.clone(),
            breakers,
            connect: dialer,
            reached: OnceCell::new(),
            progress,
            source: Mutex::new((bound.addr.clone(), task)),
        }
    }

    pub(super) fn follow(&self, addr: &Activity<Addr>) {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if !source.0.same_source(addr) {
            if let Some(task) = &source.1 {
                task.abort();
            }
            let number = {
                let mut number = self.progress.source.lock().unwrap_or_else(PoisonError::into_inner);
                *number += 1;
                *number
            };
            let task = spawn_follow(addr.clone(), number, self.balance.clone(), Arc::clone(&self.progress));
            *source = (addr.clone(), task);
        }
    }

    /// Whether the addresses are known, be there none.
    pub(super) fn is_known(&self) -> bool {
        // Acquire: what was published before it is seen after it.
        self.progress.is_known.load(Ordering::Acquire)
    }

    /// Since when there are no endpoints any more, if there were some.
    pub(super) fn lost(&self) -> Option<Instant> {
        self.progress.lost.since().filter(|_| self.balance.is_empty())
    }

    /// Waits until something is so that only what is said of the addresses can change.
    pub(super) async fn until(&self, is_so: impl Fn() -> bool) {
        // Before it is asked, so that no change is missed in between.
        let mut news = self.progress.failure.subscribe();
        while !is_so() {
            if news.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits for the first address, as long as a name may take to bind.
    pub(super) async fn wait(&self, attempt: &Attempt<'_>, id: &Path) -> Result<(), Error> {
        if self.is_known() {
            return Ok(());
        }
        let timeout = attempt.info.shared.binding_timeout;
        let mut failure = self.progress.failure.subscribe();
        let first = async {
            loop {
                let failed = failure.borrow_and_update().clone();
                if self.is_known() {
                    return Ok(());
                }
                if let Some(failed) = failed {
                    let text = failed.to_string();
                    return Err(Error::new(ErrorKind::Binding).with_text(text).with_source(SharedFailure(failed)));
                }
                if failure.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        if let Ok(result) = tokio::time::timeout_at(after(attempt.arrived, timeout), first).await {
            return result;
        }
        let (timer, timeout, path) = (Timer::Binding.after(timeout), twitter_duration(timeout), &attempt.info.path);
        let text = format!("Exceeded {timeout} binding timeout while connecting to {id} for name: {path}");
        Err(Error::new(ErrorKind::Binding).with_text(text).with_timer(timer))
    }

    /// No endpoint may be asked, and why.
    pub(super) fn unavailable(&self, unavailable: Unavailable) -> Error {
        /// So many endpoints are told of.
        const TOLD: usize = 5;
        if unavailable == Unavailable::NoEndpoints {
            return Error::new(ErrorKind::NoEndpoints);
        }
        let now = now();
        // Requests that are refused come by the thousand, and endpoints may be as many.
        let told = self.balance.first_unavailable(TOLD, now);
        let reasons = told.iter().map(|(key, svc, status)| {
            let why = svc.why(*status, now);
            // A breaker is called by its endpoint's address.
            if why.starts_with("breaker ") { why } else { format!("{} {why}", key.addr) }
        });
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        let all = match unavailable {
            Unavailable::FailFast { busy, closed, .. } => busy + closed,
            _ => told.len(),
        };
        let more = match all.saturating_sub(TOLD) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Error::from(unavailable).with_text(format!("{unavailable}: {reasons}{more}"))
    }

    /// The addresses of all endpoints, as texts have them.
    pub(super) fn addrs(&self) -> String {
        let mut addrs: Vec<_> = self.balance.endpoints(now()).iter().map(|endpoint| endpoint.key.addr).collect();
        addrs.sort_unstable();
        addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The text that Linkerd 1.x has for an endpoint that could not be reached.
    pub(super) fn unreachable(&self, error: Error, key: &EndpointKey, attempt: &Attempt<'_>, id: &Path) -> Error {
        let (addr, path) = (key.addr, &attempt.info.path);
        // Linkerd has no such line; an endpoint that is there and not trusted is told from one that is down.
        let cause = error.insecure().map(|why| format!("cause: {why}\n")).unwrap_or_default();
        error.or_text(|| {
            let addrs = self.addrs();
            format!(
                "Unable to establish connection to {addr}.\n\nservice name: {path}\nclient name: {id}\naddresses: \
                 [{addrs}]\nselected address: {addr}\n{cause}"
            )
        })
    }
}

/// Tells those who run it what became of a set.
fn log(client: &Path, event: &Event) {
    match event {
        Event::PanicBegan { mode, size, .. } => {
            let what = match mode {
                Panic::LastPick => "requests go to one that is not",
                Panic::Spray => "requests go to all of them",
                Panic::FailFast => "requests fail",
            };
            tracing::warn!(%client, endpoints = size, "too few endpoints are open: {what}");
        }
        Event::PanicEnded { size, .. } => tracing::info!(%client, endpoints = size, "enough endpoints are open again"),
        Event::TierLeft { tier, open, size, .. } => {
            tracing::warn!(%client, tier, "only {open} of a tier's {size} endpoints are open: others take over");
        }
        Event::TierBack { tier, open, size, .. } => {
            tracing::info!(%client, tier, "{open} of a tier's {size} endpoints are open: it has its requests back");
        }
        event => tracing::info!(%client, "{event:?}"),
    }
}

/// Tells them what became of an endpoint. As often as that happens: at most once for each backoff.
fn log_breaker(client: &Path, endpoint: &str, event: &BreakerEvent) {
    let between = |from: &Instant, to: &Instant| Duration::from_millis((*to - *from).as_millis() as u64);
    match event {
        BreakerEvent::Removed { reason, until, at, .. } => {
            tracing::warn!(%client, %endpoint, "an endpoint is left alone for {:?}: {reason}", between(at, until));
        }
        BreakerEvent::Revived { since, probes, at, .. } => {
            tracing::info!(%client, %endpoint, probes, "an endpoint is back after {:?}", between(since, at));
        }
        event => tracing::info!(%client, %endpoint, "{event:?}"),
    }
}

/// One task keeps the endpoints as the watch has them, until the client is gone; none if nothing can change any more.
fn spawn_follow(
    mut addr: Activity<Addr>,
    number: u64,
    balance: Balance<EndpointKey, Arc<EndpointClient>>,
    progress: Arc<Progress>,
) -> Option<AbortHandle> {
    let publish = move |state: State<Addr>| {
        let source = progress.source.lock().unwrap_or_else(PoisonError::into_inner);
        if *source == number {
            publish(state, &balance, &progress);
        }
    };
    // Before it is read: what comes last is read then.
    let is_final = addr.is_final();
    // What is known already is there before the first request.
    publish(addr.sample_and_update());
    if is_final {
        return None;
    }
    let task = tokio::spawn(async move {
        loop {
            addr.changed().await;
            publish(addr.sample_and_update());
        }
    });
    Some(task.abort_handle())
}

fn publish(state: State<Addr>, balance: &Balance<EndpointKey, Arc<EndpointClient>>, progress: &Progress) {
    match state {
        // Of endpoints that are known this only means that nobody could say anything newer.
        State::Pending => {}
        State::Failed(failure) => drop(progress.failure.send_replace(Some(failure))),
        State::Ok(addr) => {
            // A weight of zero is no traffic, so it is no endpoint.
            let is_usable = |endpoint: &&Endpoint| endpoint.weight > 0.0 && endpoint.weight.is_finite();
            let usable = addr.endpoints().iter().filter(is_usable);
            if usable.clone().next().is_none() && !balance.is_empty() {
                progress.lost.begin();
            }
            let keyed = usable.map(|endpoint| {
                let key = EndpointKey {
                    addr: endpoint.addr,
                    generation: endpoint.generation,
                    authority: endpoint.authority.clone(),
                };
                let mut member = Member::new(key).weight(endpoint.weight);
                member.zone.clone_from(&endpoint.zone);
                member
            });
            match guarded(|| balance.update(keyed)) {
                Ok(Ok(())) if balance.is_empty() => {}
                Ok(Ok(())) => progress.lost.end(),
                Ok(Err(error)) => return tracing::warn!("endpoints not taken over: {error}"),
                Err(panicked) => {
                    progress.failure.send_replace(Some(panicked));
                    return;
                }
            }
            // Release: who sees it sees the endpoints.
            progress.is_known.store(true, Ordering::Release);
            progress.failure.send_replace(None);
        }
    }
}

impl Drop for Balanced {
    fn drop(&mut self) {
        if let Some(task) = &self.source.get_mut().unwrap_or_else(PoisonError::into_inner).1 {
            task.abort();
        }
    }
}
