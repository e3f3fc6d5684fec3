//! A backend that does what its script says, and remembers what was asked of it.

use std::{
    future::{self, Future},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use linkerd_retry::{
    Deadline, Expired, Sent,
    limit::Rejected,
    requeue::Unsent,
    timeout::{AttemptElapsed, Elapsed},
};
use proptest::prelude::*;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};
use tower::Service;

use super::MS;

/// How many may be ready or running at a time.
pub(crate) const PERMITS: usize = 8;

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) number: usize,
    pub(crate) idempotent: bool,
    pub(crate) deadline: Option<Deadline>,
}

/// What becomes of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is handed back.
    Unsent,
    /// The peer says that it did nothing.
    Refused,
    Fails,
    Hangs,
    Succeeds,
}

/// That, how many milliseconds it takes, and how many readiness takes before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) fate: Fate,
    pub(crate) takes: u64,
    pub(crate) ready_after: u64,
}

#[derive(Debug)]
pub(crate) enum Failed {
    Unsent(Call),
    Backend(Sent),
    /// By a limit on its time.
    Ended,
    Shed,
}

/// One attempt that got here.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) number: usize,
    pub(crate) idempotent: bool,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) at: Instant,
    pub(crate) fate: Fate,
}

/// Reserves a permit by readiness, and holds it for as long as an attempt runs.
pub(crate) struct Backend {
    shared: Arc<Shared>,
    waiting: Option<Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>>,
    reserved: Option<OwnedSemaphorePermit>,
}

struct Shared {
    script: Vec<Step>,
    permits: Arc<Semaphore>,
    next: AtomicUsize,
    running: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
}

struct Running(Arc<Shared>);

pub(crate) fn scripts() -> impl Strategy<Value = Vec<Step>> {
    let fate = prop_oneof![
        2 => Just(Fate::Unsent),
        2 => Just(Fate::Refused),
        4 => Just(Fate::Fails),
        1 => Just(Fate::Hangs),
        2 => Just(Fate::Succeeds),
    ];
    let ready_after = prop_oneof![3 => Just(0), 1 => 0..100_u64];
    let step = (fate, 0..80_u64, ready_after);
    prop::collection::vec(step.prop_map(|(fate, takes, ready_after)| Step { fate, takes, ready_after }), 1..12)
}

impl Fate {
    pub(crate) fn may_be_processed(self) -> bool {
        !matches!(self, Self::Unsent | Self::Refused)
    }
}

impl Backend {
    pub(crate) fn new(script: Vec<Step>) -> Self {
        let shared = Shared {
            script,
            permits: Arc::new(Semaphore::new(PERMITS)),
            next: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            seen: Mutex::default(),
        };
        Self { shared: Arc::new(shared), waiting: None, reserved: None }
    }

    pub(crate) fn calls(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Whether there is a success in its script, which begins anew when it is over.
    pub(crate) fn ever_succeeds(&self) -> bool {
        self.shared.script.iter().any(|step| step.fate == Fate::Succeeds)
    }

    pub(crate) fn available(&self) -> usize {
        self.shared.permits.available_permits()
    }

    pub(crate) fn running(&self) -> usize {
        self.shared.running.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn step(&self, number: usize) -> Step {
        self.script[number % self.script.len()]
    }
}

impl Clone for Backend {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), waiting: None, reserved: None }
    }
}

impl Service<Call> for Backend {
    type Response = ();
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<(), Failed>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        if self.reserved.is_none() {
            let shared = &self.shared;
            let waiting = self.waiting.get_or_insert_with(|| {
                let permits = shared.permits.clone();
                let wait = shared.step(shared.next.load(Ordering::SeqCst)).ready_after;
                Box::pin(async move {
                    if wait > 0 {
                        time::sleep(wait as u32 * MS).await;
                    }
                    permits.acquire_owned().await.expect("never closed")
                })
            });
            self.reserved = Some(ready!(waiting.as_mut().poll(cx)));
            self.waiting = None;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let permit = self.reserved.take().expect("called without having been made ready");
        let shared = self.shared.clone();
        let Step { fate, takes, .. } = shared.step(shared.next.fetch_add(1, Ordering::SeqCst));
        let Call { number, idempotent, deadline } = call;
        shared.seen.lock().unwrap().push(Seen { number, idempotent, deadline, at: Instant::now(), fate });
        shared.running.fetch_add(1, Ordering::SeqCst);
        let running = Running(shared);
        Box::pin(async move {
            let (_permit, _running) = (permit, running);
            if takes > 0 {
                time::sleep(takes as u32 * MS).await;
            }
            match fate {
                Fate::Unsent => Err(Failed::Unsent(call)),
                Fate::Refused => Err(Failed::Backend(Sent::Refused)),
                Fate::Fails => Err(Failed::Backend(Sent::Possibly)),
                Fate::Hangs => future::pending().await,
                Fate::Succeeds => Ok(()),
            }
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Unsent<Call> for Failed {
    fn is_unsent(&self) -> bool {
        matches!(self, Self::Unsent(_))
    }

    fn take_unsent(self) -> Result<Call, Self> {
        match self {
            Self::Unsent(call) => Ok(call),
            failed => Err(failed),
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        match self {
            Self::Unsent(call) => call.deadline,
            _ => None,
        }
    }
}

macro_rules! becomes {
    ($kind:ident: $($error:ty),*) => {
        $(impl From<$error> for Failed {
            fn from(_: $error) -> Self {
                Self::$kind
            }
        })*
    };
}

becomes!(Ended: Elapsed, AttemptElapsed, Expired);
becomes!(Shed: Rejected);
