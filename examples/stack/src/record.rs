//! A layer of one's own: writes down that a request passed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tower::{Layer, Service};

/// What passed, in order. Clones write to the same list.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<&'static str>>>);

/// Wraps services in [`Record`].
#[derive(Clone, Debug)]
pub struct RecordLayer {
    place: &'static str,
    log: Log,
}

/// Writes its place down for each request that passes.
///
/// Generic in everything: it costs no allocation but the list's, and goes wherever a layer does.
#[derive(Clone, Debug)]
pub struct Record<S> {
    inner: S,
    place: &'static str,
    log: Log,
}

impl Log {
    /// A layer that writes `place` to this log.
    #[must_use]
    pub fn layer(&self, place: &'static str) -> RecordLayer {
        RecordLayer { place, log: self.clone() }
    }

    /// What passed since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, place: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(place);
    }
}

impl<S> Layer<S> for RecordLayer {
    type Service = Record<S>;

    fn layer(&self, inner: S) -> Record<S> {
        Record { inner, place: self.place, log: self.log.clone() }
    }
}

impl<S: Service<Req>, Req> Service<Req> for Record<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> S::Future {
        self.log.write(self.place);
        self.inner.call(req)
    }
}
