//! What requests use of an endpoint that connects by itself.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use pin_project::pin_project;
use tokio::{
    sync::futures::OwnedNotified,
    time::{self, Sleep},
};
use tower_service::Service;

use super::{
    Cause,
    task::{Endpoint, Link},
};

/// An endpoint that connects by itself; made by a [`Connector`](crate::Connector). A clone is the same endpoint.
///
/// Ready when there is a connection and its service is ready; fails to get ready with [`NotConnected`], at once or after
/// [a wait](crate::Connector::wait). Then nothing was sent, so that a [`BalanceService`](crate::BalanceService) goes on
/// to another endpoint, and its caller sees no error. If it is the service that fails to get ready, that is the error,
/// and the connection is replaced.
///
/// What was reserved belongs to a clone: a new one is not ready.
pub struct Connected<S> {
    endpoint: Arc<Endpoint<S>>,
    // The connection, by its number, that it is getting ready on.
    ready: Option<(u64, S)>,
    // Boxed: only who waits pays for it.
    waiting: Option<Pin<Box<Waiting>>>,
}

#[pin_project]
struct Waiting {
    #[pin]
    changed: OwnedNotified,
    // Armed while there is no connection.
    #[pin]
    sleep: Option<Sleep>,
}

/// There is no connection to an endpoint. Nothing was sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not connected{}: nothing was sent", after(*.attempts))]
#[non_exhaustive]
pub struct NotConnected {
    /// How many attempts failed since there was a connection that lasted.
    pub attempts: u32,
    /// When the next attempt is; `None`: it is under way.
    pub next: Option<Instant>,
    /// What the last attempt failed with, or how the last connection ended; `None` before either.
    pub source: Option<Arc<dyn Error + Send + Sync>>,
}

fn after(attempts: u32) -> String {
    match attempts {
        0 => String::new(),
        1 => " after 1 attempt".to_owned(),
        n => format!(" after {n} attempts"),
    }
}

impl NotConnected {
    pub(super) fn first() -> Self {
        Self { attempts: 0, next: None, source: None }
    }

    pub(super) fn again(source: Cause) -> Self {
        Self { attempts: 0, next: None, source: Some(source) }
    }

    pub(super) fn failed(attempts: u32, next: Instant, source: Cause) -> Self {
        Self { attempts, next: Some(next), source: Some(source) }
    }
}

impl<S> Connected<S> {
    pub(super) fn new(endpoint: Arc<Endpoint<S>>) -> Self {
        Self { endpoint, ready: None, waiting: None }
    }

    /// Why there is no connection; `None` if there is one.
    #[must_use]
    pub fn why(&self) -> Option<NotConnected> {
        match &**self.endpoint.shared.link.load() {
            Link::Connecting(why) | Link::Down(why) => Some(why.clone()),
            Link::Up { .. } => None,
        }
    }
}

impl<S, Req> Service<Req> for Connected<S>
where
    S: Service<Req> + Clone,
    S::Error: From<NotConnected>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let shared = &self.endpoint.shared;
        loop {
            let link = shared.link.load();
            let down = match &**link {
                Link::Up { life, svc } if !shared.is_broken(*life) => {
                    // What was reserved of another connection is of no use.
                    let (_, svc) = match self.ready.take_if(|(mine, _)| mine != life) {
                        None if self.ready.is_some() => self.ready.as_mut().expect("just looked at"),
                        _ => self.ready.insert((*life, svc.clone())),
                    };
                    match svc.poll_ready(cx) {
                        Poll::Ready(Ok(())) => {
                            self.waiting = None;
                            return Poll::Ready(Ok(()));
                        }
                        Poll::Ready(Err(error)) => {
                            self.ready = None;
                            shared.broke(*life);
                            match shared.wait {
                                None | Some(Duration::ZERO) => return Poll::Ready(Err(error)),
                                Some(_) => continue,
                            }
                        }
                        Poll::Pending => None,
                    }
                }
                // Found broken a moment ago.
                Link::Up { .. } => Some(NotConnected::first()),
                Link::Connecting(why) | Link::Down(why) => Some(why.clone()),
            };
            if let Some(down) = &down {
                self.ready = None;
                let waits = match shared.wait {
                    Some(max) => !max.is_zero(),
                    // An attempt has an end, so this has one.
                    None => !matches!(**link, Link::Down(_)),
                };
                if !waits {
                    self.waiting = None;
                    return Poll::Ready(Err(down.clone().into()));
                }
            }
            let Some(waiting) = &mut self.waiting else {
                // From its making on it hears of changes, so look once more before waiting.
                let changed = Arc::clone(&shared.changed).notified_owned();
                self.waiting = Some(Box::pin(Waiting { changed, sleep: None }));
                continue;
            };
            let mut waiting = waiting.as_mut().project();
            if waiting.changed.as_mut().poll(cx).is_ready() {
                waiting.changed.set(Arc::clone(&shared.changed).notified_owned());
                continue;
            }
            let (Some(down), Some(max)) = (down, shared.wait) else { return Poll::Pending };
            if waiting.sleep.is_none() {
                waiting.sleep.set(Some(time::sleep(max)));
            }
            ready!(waiting.sleep.as_pin_mut().expect("just set").poll(cx));
            self.waiting = None;
            return Poll::Ready(Err(down.into()));
        }
    }

    fn call(&mut self, req: Req) -> S::Future {
        let (_, mut svc) = self.ready.take().expect("called without being ready");
        svc.call(req)
    }
}

impl<S> Clone for Connected<S> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.endpoint))
    }
}

impl<S> fmt::Debug for Connected<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("why_not", &self.why()).finish_non_exhaustive()
    }
}
