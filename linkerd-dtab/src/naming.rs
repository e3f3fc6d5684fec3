//! Naming as a tower layer of its own: a request's name → its bound tree → the service of a bound name.
//!
//! ```
//! # use std::{convert::Infallible, sync::Arc};
//! # use linkerd_dtab::{Bound, interpreter::Local, namer::Inet, naming::NamingLayer};
//! # use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let interpreter = Local::new(Vec::new(), Arc::new(Inet::default()));
//! let dtab = "/svc/users => 9 * /$/inet/8081 & /$/inet/8082".parse()?;
//! // A balancer over `bound.addr` in real life; here, a service that tells who it is.
//! let make = service_fn(|bound: Bound| async move {
//!     let id = bound.id.to_string();
//!     Ok::<_, Infallible>(service_fn(move |_: String| {
//!         let id = id.clone();
//!         async move { Ok::<_, BoxError>(id) }
//!     }))
//! });
//! let mut service = ServiceBuilder::new()
//!     .layer(NamingLayer::new(interpreter, dtab, |name: &String| name.parse().unwrap_or_default()))
//!     .service(make);
//! let answer = service.ready().await?.call("/svc/users".to_owned()).await?;
//! assert!(["/$/inet/8081", "/$/inet/8082"].contains(&&*answer));
//! # Ok(())
//! # }
//! ```

use std::{
    collections::HashMap,
    fmt,
    future::{Future, poll_fn},
    hash::{BuildHasher, Hash, RandomState},
    marker::PhantomData,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    sync::OnceCell,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Activity, Addr, Bound, Distribution, Dtab, Failure, Interpreter, NameTree, Path, State,
    switch::{self, Target},
};

/// Names requests and hands each to the service of the bound name that its name leads to.
///
/// What it wraps makes the service of a bound name: a [`Service`] of [`Bound`] that answers with one, as a balancer's
/// constructor does. Services are made when first picked, once for each id and residual, and then shared.
///
/// A name that is bound anew keeps its requests where they went until each service that is new there has been made and is
/// ready, and its addresses have an endpoint ([`switch::wait`]): for at most [two seconds](Self::with_switch_timeout), if
/// the addresses are known. In contrast to a `Mesh` of `linkerd-core`, which waits in the same way, nothing is connected to
/// but by what the services do to be ready; a change is seen when the next request of the name comes, and its time counts
/// from when it came; and requests of a name whose last endpoint is gone are not held, for only its service knows of that.
#[derive(Clone)]
pub struct NamingLayer<F> {
    interpreter: Arc<dyn Interpreter>,
    dtab: Dtab,
    name_of: F,
    limits: Limits,
    random: Arc<dyn Fn() -> u64 + Send + Sync>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    binding_timeout: Duration,
    switch_timeout: Duration,
    names: usize,
    services: usize,
}

/// The service that [`NamingLayer`] makes. A clone shares bindings and services.
///
/// Always ready: which service a request needs is known when there is a request. Waiting for the first binding and for the
/// bound name's service to be ready is part of the response future, the former bounded by the layer's timeout.
pub struct Naming<F, M, S>(Arc<Shared<F, M, S>>);

/// Response future of [`Naming`].
///
/// Boxed, which is one allocation for each request: it waits on a watch, a maker of services and a service in turn, and
/// the types of those waits cannot be named.
pub struct ResponseFuture<Rsp, E>(Pin<Box<dyn Future<Output = Result<Rsp, E>> + Send>>);

/// Why a request's name led to no service.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamingError {
    /// The name leads nowhere, or this request to a branch that does (`~`, `!` or `$`).
    #[error("no such name: {path}")]
    NoSuchName {
        /// The name.
        path: Path,
    },
    /// Nobody said in time what the name stands for.
    #[error("{path} was not bound within {after:?}")]
    Pending {
        /// The name.
        path: Path,
        /// The binding timeout.
        after: Duration,
    },
    /// The name could not be bound.
    #[error("{path} could not be bound")]
    Failed {
        /// The name.
        path: Path,
        /// Why.
        source: Failure,
    },
}

impl<F> NamingLayer<F> {
    /// Names requests by `name_of` and binds the names under `dtab`.
    ///
    /// # Defaults
    ///
    /// A binding timeout of 10 s, as in Linkerd; two seconds for what is new to be ready; at most 1,000 names and 1,000 services are kept.
    pub fn new(interpreter: impl Interpreter, dtab: Dtab, name_of: F) -> Self {
        let limits = Limits {
            binding_timeout: Duration::from_secs(10),
            switch_timeout: Duration::from_secs(2),
            names: 1_000,
            services: 1_000,
        };
        Self { interpreter: Arc::new(interpreter), dtab, name_of, limits, random: random() }
    }

    /// Lets a request wait this long for the first answer about its name. Later answers are never waited for.
    #[must_use]
    pub fn with_binding_timeout(mut self, timeout: Duration) -> Self {
        self.limits.binding_timeout = timeout;
        self
    }

    /// Keeps the requests of a name that is bound anew where they went for no longer than this, if it is known where the new
    /// addresses are. Zero: changes are made at once.
    #[must_use]
    pub fn with_switch_timeout(mut self, timeout: Duration) -> Self {
        self.limits.switch_timeout = timeout;
        self
    }

    /// Keeps at most so many names bound, at least one. One more, and the one that was used least recently is given up:
    /// it is bound again when it is used again.
    #[must_use]
    pub fn with_max_names(mut self, names: usize) -> Self {
        self.limits.names = names;
        self
    }

    /// Keeps at most so many services of bound names, at least one. One more, and the one that was used least recently is
    /// dropped, once the requests that it has are done.
    #[must_use]
    pub fn with_max_services(mut self, services: usize) -> Self {
        self.limits.services = services;
        self
    }

    /// Picks branches of unions by these random bits, instead of by a generator seeded by the operating system.
    #[must_use]
    pub fn with_random(mut self, random: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.random = Arc::new(random);
        self
    }
}

impl<F: Clone, M: Service<Bound>> Layer<M> for NamingLayer<F> {
    type Service = Naming<F, M, M::Response>;

    fn layer(&self, make: M) -> Self::Service {
        Naming(Arc::new(Shared {
            layer: self.clone(),
            make: Mutex::new(make),
            names: Mutex::new(Recent::new(self.limits.names)),
            services: Mutex::new(Recent::new(self.limits.services)),
        }))
    }
}

impl<F, M, S, Req> Service<Req> for Naming<F, M, S>
where
    F: Fn(&Req) -> Path + Send + Sync + 'static,
    M: Service<Bound, Response = S> + Clone + Send + 'static,
    M::Future: Send,
    S: Service<Req> + Clone + Send + 'static,
    S::Error: From<NamingError> + From<M::Error>,
    S::Future: Send,
    Req: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let shared = Arc::clone(&self.0);
        ResponseFuture(Box::pin(async move {
            let path = (shared.layer.name_of)(&req);
            let bound = shared.pick::<Req>(&path).await?;
            let mut service = shared.service(bound).await?;
            poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(req).await
        }))
    }
}

struct Shared<F, M, S> {
    layer: NamingLayer<F>,
    make: Mutex<M>,
    names: Mutex<Recent<Path, Arc<Mutex<Named>>>>,
    services: Mutex<Recent<(Path, Path), Made<S>>>,
}

/// A bound name's service, once made.
struct Made<S> {
    // What it was made for: a name that is bound anew has another watch, and the old one may be dead.
    addr: Activity<Addr>,
    service: Arc<OnceCell<Mutex<S>>>,
}

impl<F, M, S> Shared<F, M, S> {
    async fn pick<Req>(&self, path: &Path) -> Result<Bound, NamingError>
    where
        M: Service<Bound, Response = S, Future: Send> + Clone + Send + 'static,
        S: Service<Req> + Clone + Send + 'static,
        Req: 'static,
    {
        let named = self.named(path);
        let mut shares = self.shares::<Req>(&named);
        if matches!(shares, State::Pending) {
            let after = self.layer.limits.binding_timeout;
            let mut tree = lock(&named).tree.clone();
            // The tree itself is read below, with what it is shared by.
            if timeout(after, tree.ready()).await.is_err() {
                return Err(NamingError::Pending { path: path.clone(), after });
            }
            shares = self.shares::<Req>(&named);
        }
        let picked = match shares {
            State::Ok(shares) => shares.pick((self.layer.random)()).cloned(),
            State::Failed(source) => return Err(NamingError::Failed { path: path.clone(), source }),
            State::Pending => None,
        };
        picked.ok_or_else(|| NamingError::NoSuchName { path: path.clone() })
    }

    fn named(&self, path: &Path) -> Arc<Mutex<Named>> {
        let mut names = lock(&self.names);
        if let Some(named) = names.get(path) {
            return Arc::clone(named);
        }
        let tree = self.layer.interpreter.bind(&self.layer.dtab, path);
        let named = Arc::new(Mutex::new(Named { tree, shares: None, next: None, changes: 0 }));
        names.insert(path.clone(), Arc::clone(&named));
        named
    }

    /// How requests of a name are shared now. If it is bound anew, that begins to be made ready.
    fn shares<Req>(&self, named: &Arc<Mutex<Named>>) -> State<Arc<Shares>>
    where
        M: Service<Bound, Response = S, Future: Send> + Clone + Send + 'static,
        S: Service<Req> + Clone + Send + 'static,
        Req: 'static,
    {
        let (before, next, by, change) = {
            let mut held = lock(named);
            let changed = held.tree.changed().now_or_never().is_some();
            if let (false, Some(shares)) = (changed, &held.shares) {
                return State::Ok(Arc::clone(shares));
            }
            let since = held.tree.snapshot().since;
            let next = match held.tree.sample_and_update() {
                State::Ok(tree) => Arc::new(Distribution::new(&tree)),
                State::Pending => return State::Pending,
                State::Failed(failure) => return State::Failed(failure),
            };
            let Some(before) = held.shares.clone() else {
                held.shares = Some(Arc::clone(&next));
                return State::Ok(next);
            };
            held.changes += 1;
            // One time for all that comes while one waits: a table that never rests is obeyed, too.
            let by = held.next.take().map_or(since + self.layer.limits.switch_timeout, |next| next.by);
            (before, next, by, held.changes)
        };
        let waiting = self.switch::<Req>(&before, &next, by);
        let mut held = lock(named);
        // What came meanwhile is seen to by who saw it.
        if held.changes != change {
            return State::Ok(held.shares.clone().unwrap_or(before));
        }
        let Some(waiting) = waiting else {
            held.shares = Some(Arc::clone(&next));
            return State::Ok(next);
        };
        let weak = Arc::downgrade(named);
        let task = tokio::spawn(async move {
            waiting.await;
            if let Some(named) = weak.upgrade() {
                let mut named = lock(&named);
                if named.changes == change {
                    named.shares = Some(next);
                    named.next = None;
                }
            }
        });
        held.next = Some(Next { by, task: task.abort_handle() });
        State::Ok(before)
    }

    /// Waits until requests may be shared by `next`. `None`: they may already.
    fn switch<Req>(&self, before: &Shares, next: &Shares, by: Instant) -> Option<Waiting>
    where
        M: Service<Bound, Response = S, Future: Send> + Clone + Send + 'static,
        S: Service<Req> + Clone + Send + 'static,
        Req: 'static,
    {
        let is_new = |bound: &&Bound| !used(before).any(|old| (&old.id, &old.residual) == (&bound.id, &bound.residual));
        let candidate = |bound: &Bound| Candidate::<M, S, Req> {
            bound: bound.clone(),
            make: Mutex::new(lock(&self.make).clone()),
            service: self.made(bound),
            _request: PhantomData,
        };
        let new: Vec<_> = used(next).filter(is_new).map(candidate).collect();
        if new.is_empty() || self.layer.limits.switch_timeout.is_zero() {
            return None;
        }
        let left: Vec<_> = used(before).map(|bound| bound.addr.clone()).collect();
        let mut waiting: Waiting = Box::pin(async move {
            let new: Vec<_> = new.iter().collect();
            switch::wait(emptied(left), &new, by).await;
        });
        // Mostly a service is made and ready at once.
        if waiting.as_mut().now_or_never().is_some() { None } else { Some(waiting) }
    }

    async fn service(&self, bound: Bound) -> Result<S, M::Error>
    where
        M: Service<Bound, Response = S> + Clone,
        S: Clone,
    {
        let cell = self.made(&bound);
        made(&cell, || lock(&self.make).clone(), bound).await
    }

    fn made(&self, bound: &Bound) -> Cell<S> {
        let mut services = lock(&self.services);
        let key = (bound.id.clone(), bound.residual.clone());
        if let Some(made) = services.get(&key)
            && made.addr.same_source(&bound.addr)
        {
            return Arc::clone(&made.service);
        }
        let service = Arc::new(OnceCell::new());
        services.insert(key, Made { addr: bound.addr.clone(), service: Arc::clone(&service) });
        service
    }
}

/// The service in a cell. Others that picked the same name meanwhile wait for this one; if it fails, one of them tries again.
async fn made<M, S>(cell: &OnceCell<Mutex<S>>, make: impl FnOnce() -> M, bound: Bound) -> Result<S, M::Error>
where
    M: Service<Bound, Response = S>,
    S: Clone,
{
    let service = cell.get_or_try_init(|| async {
        let mut make = make();
        poll_fn(|cx| make.poll_ready(cx)).await?;
        make.call(bound).await.map(Mutex::new)
    });
    let service = service.await?;
    Ok(lock(service).clone())
}

/// The bound names that get requests.
fn used(shares: &Shares) -> impl Iterator<Item = &Bound> {
    shares.leaves().iter().filter(|(_, share)| *share > 0.0).map(|(bound, _)| bound)
}

/// Waits until something is so of an address. For ever, if nothing can change any more.
async fn until(addr: &Activity<Addr>, is_so: impl Fn(&State<Addr>) -> bool) {
    let mut addr = addr.clone();
    while !is_so(&addr.sample_and_update()) {
        addr.changed().await;
    }
}

fn has_endpoints(addr: &State<Addr>) -> bool {
    matches!(addr, State::Ok(addr) if !addr.endpoints().is_empty())
}

fn is_known(addr: &State<Addr>) -> bool {
    matches!(addr, State::Ok(_))
}

/// Waits until none of these has endpoints.
async fn emptied(addrs: Vec<Activity<Addr>>) {
    while let Some(addr) = addrs.iter().find(|addr| has_endpoints(&addr.sample())) {
        until(addr, |addr| !has_endpoints(addr)).await;
    }
}

type Shares = Distribution<Bound>;
type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;
type Cell<S> = Arc<OnceCell<Mutex<S>>>;

/// A name that is bound, and the shares of the tree that its requests go by.
struct Named {
    tree: Activity<NameTree<Bound>>,
    shares: Option<Arc<Shares>>,
    // What they will go by.
    next: Option<Next>,
    // How often it was bound anew.
    changes: u64,
}

/// A change that waits. Dropped, it is not made.
struct Next {
    by: Instant,
    task: AbortHandle,
}

impl Drop for Next {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A bound name that requests did not go to, and the service that is made for it.
struct Candidate<M, S, Req> {
    bound: Bound,
    make: Mutex<M>,
    service: Cell<S>,
    _request: PhantomData<fn(Req)>,
}

impl<M, S, Req> Target for Candidate<M, S, Req>
where
    M: Service<Bound, Response = S, Future: Send> + Clone + Send,
    S: Service<Req> + Clone + Send,
{
    fn id(&self) -> &Path {
        &self.bound.id
    }

    fn is_known(&self) -> bool {
        is_known(&self.bound.addr.sample())
    }

    async fn known(&self) {
        until(&self.bound.addr, is_known).await;
    }

    async fn filled(&self) {
        until(&self.bound.addr, has_endpoints).await;
    }

    async fn ready(&self) {
        /// The pause before a service that is not ready is tried again.
        const PAUSE: Duration = Duration::from_millis(100);
        loop {
            self.filled().await;
            let is_made = made(&self.service, || lock(&self.make).clone(), self.bound.clone()).await.ok();
            if let Some(mut service) = is_made
                && poll_fn(|cx| service.poll_ready(cx)).await.is_ok()
            {
                return;
            }
            sleep(PAUSE).await;
        }
    }
}

/// A map that forgets what was used least recently.
struct Recent<K, V> {
    entries: HashMap<K, (V, u64)>,
    uses: u64,
    max: usize,
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    fn new(max: usize) -> Self {
        Self { entries: HashMap::new(), uses: 0, max: max.max(1) }
    }

    fn get(&mut self, key: &K) -> Option<&V> {
        self.uses += 1;
        let (value, used) = self.entries.get_mut(key)?;
        *used = self.uses;
        Some(value)
    }

    fn insert(&mut self, key: K, value: V) {
        // A scan, but only when a name is new and the map full, next to which making what it holds is dear.
        if self.entries.len() >= self.max && !self.entries.contains_key(&key) {
            let oldest = self.entries.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.entries.remove(&oldest));
        }
        self.entries.insert(key, (value, self.uses));
    }
}

// Nothing in here leaves a value half changed when it panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// SplitMix64 (Steele, Lea and Flood 2014) over a shared counter.
fn random() -> Arc<dyn Fn() -> u64 + Send + Sync> {
    let state = AtomicU64::new(RandomState::new().hash_one(0_u64));
    Arc::new(move || {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        // Relaxed: only that each caller gets another number matters.
        let mut z = state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

impl<Rsp, E> Future for ResponseFuture<Rsp, E> {
    type Output = Result<Rsp, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<F, M, S> Clone for Naming<F, M, S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F> fmt::Debug for NamingLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamingLayer").field("dtab", &self.dtab).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<F, M, S> fmt::Debug for Naming<F, M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Naming").field(&self.0.layer).finish()
    }
}

impl<Rsp, E> fmt::Debug for ResponseFuture<Rsp, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
