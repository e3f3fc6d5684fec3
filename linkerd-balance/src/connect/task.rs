//! The task of one endpoint.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{self, Instant},
};

use super::{Cause, Connected, Connector, Life, NotConnected};
use crate::{
    accrual::Backoff,
    breaker::after,
    health::{Health, Status},
    rng,
};

/// One way to make a connection.
pub(super) trait Connect<S>: Send + 'static {
    fn connect(&mut self) -> impl Future<Output = Result<(S, Life), Cause>> + Send;
}

/// What handles and the task have in common.
pub(super) struct Shared<S> {
    pub(super) link: ArcSwap<Link<S>>,
    /// Told of each new link.
    pub(super) changed: Arc<Notify>,
    // The connection that failed to get ready last.
    broken: AtomicU64,
    broke: Notify,
    // How long a request waits. `None`: while it is connecting.
    pub(super) wait: Option<Duration>,
}

pub(super) enum Link<S> {
    // For all that is known it can be reached.
    Connecting(NotConnected),
    Down(NotConnected),
    // Counted from one.
    Up { life: u64, svc: S },
}

/// The task runs for as long as this is there.
pub(super) struct Endpoint<S> {
    pub(super) shared: Arc<Shared<S>>,
    task: AbortHandle,
}

/// Why there is no connection, where nothing was said.
#[derive(Clone, Debug, thiserror::Error)]
enum Down {
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("the connection ended after {0:?}")]
    Ended(Duration),
    #[error("connecting panicked: {0}")]
    Panicked(String),
    #[error("the task that connects has ended")]
    Task,
}

struct Task<S, C> {
    shared: Arc<Shared<S>>,
    health: Health,
    connect: C,
    backoff: Backoff,
    timeout: Duration,
}

pub(super) fn spawn<S, C>(connector: &Connector, health: &Health, connect: C) -> Connected<S>
where
    S: Clone + Send + Sync + 'static,
    C: Connect<S>,
{
    let &Connector { backoff, timeout, wait, .. } = connector;
    let shared = Arc::new(Shared {
        link: ArcSwap::from_pointee(Link::Connecting(NotConnected::first())),
        changed: Arc::default(),
        broken: AtomicU64::new(0),
        broke: Notify::new(),
        wait,
    });
    // Before the task runs for the first time: a set that is being updated asks.
    health.set_link(Status::Busy);
    let task = Task { shared: Arc::clone(&shared), health: health.clone(), connect, backoff, timeout };
    let task = tokio::spawn(task.run()).abort_handle();
    Connected::new(Arc::new(Endpoint { shared, task }))
}

impl<S: Send + Sync + 'static, C: Connect<S>> Task<S, C> {
    async fn run(mut self) {
        let (mut backoffs, mut attempts, mut life) = (self.backoff.start(), 0, 0);
        let lasting = self.backoff.start().next(0);
        loop {
            let source: Cause = match time::timeout(self.timeout, unwound(self.connect.connect())).await {
                Ok(Ok(Ok((svc, ends)))) => {
                    let since = Instant::now();
                    life += 1;
                    self.publish(Link::Up { life, svc }, Status::Open);
                    self.shared.end_of(life, ends).await;
                    let lasted = since.elapsed();
                    if lasted >= lasting {
                        (attempts, backoffs) = (0, self.backoff.start());
                        let down = NotConnected::again(Arc::new(Down::Ended(lasted)));
                        self.publish(Link::Connecting(down), Status::Busy);
                        continue;
                    }
                    // An endpoint that accepts and hangs up would be connected to all the time.
                    Arc::new(Down::Ended(lasted))
                }
                Ok(Ok(Err(error))) => error,
                Ok(Err(panicked)) => Arc::new(panicked),
                Err(_) => Arc::new(Down::Timeout(self.timeout)),
            };
            attempts += 1;
            let wait = backoffs.next(rng::thread());
            let next = Instant::from_std(after(Instant::now().into_std(), wait));
            self.publish(Link::Down(NotConnected::failed(attempts, next.into_std(), source)), Status::Closed);
            time::sleep_until(next).await;
        }
    }
}

impl<S, C> Task<S, C> {
    fn publish(&self, link: Link<S>, status: Status) {
        // The service before the status: who is sent here finds it.
        self.shared.link.store(Arc::new(link));
        self.health.set_link(status);
        self.shared.changed.notify_waiters();
    }
}

impl<S, C> Drop for Task<S, C> {
    fn drop(&mut self) {
        // Nobody is there to see it, unless the runtime ends.
        self.publish(Link::Down(NotConnected::again(Arc::new(Down::Task))), Status::Closed);
    }
}

impl<S> Shared<S> {
    /// Says that a connection fails to get ready.
    pub(super) fn broke(&self, life: u64) {
        // Relaxed: what is told next orders it for the task; a handle that misses it finds out itself.
        self.broken.fetch_max(life, Ordering::Relaxed);
        self.broke.notify_one();
    }

    pub(super) fn is_broken(&self, life: u64) -> bool {
        self.broken.load(Ordering::Relaxed) >= life
    }

    /// Waits until the connection has ended, or somebody found that it is of no use.
    async fn end_of(&self, life: u64, mut ends: Life) {
        let mut broke = pin!(async {
            while !self.is_broken(life) {
                self.broke.notified().await;
            }
        });
        // A panic in it is an end as well.
        let mut ends = pin!(unwound(ends.as_mut()));
        poll_fn(|cx| match ends.as_mut().poll(cx) {
            Poll::Pending => broke.as_mut().poll(cx),
            Poll::Ready(_) => Poll::Ready(()),
        })
        .await;
    }
}

/// Not more than an attempt fails by a panic of what users gave.
async fn unwound<F: Future>(future: F) -> Result<F::Output, Down> {
    let mut future = pin!(future);
    // Not polled again after a panic; whatever else it left half done is its maker's.
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(Down::Panicked(message(&*panic)))),
    })
    .await
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a text".to_owned())
}

impl<S> Drop for Endpoint<S> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
