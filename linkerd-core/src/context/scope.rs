//! The context of what is being worked on.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use futures::Stream;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::task::JoinHandle;

use super::Context;

tokio::task_local! {
    static CURRENT: Context;
}

/// A future, a stream or a body that is polled in a context.
#[pin_project]
#[derive(Clone, Debug)]
pub struct InContext<T> {
    #[pin]
    inner: T,
    context: Context,
}

pub(super) fn current() -> Context {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Spawns a task that works on the same request as the one that spawns it: what it sends carries the same context.
///
/// # Panics
///
/// Outside of a tokio runtime, like [`tokio::spawn`].
pub fn spawn_with_context<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(current().scope(future))
}

impl Context {
    /// Has a future, a stream or a body work in this context, and not in the one around it.
    pub fn scope<T>(self, inner: T) -> InContext<T> {
        InContext { inner, context: self }
    }

    /// Calls a function in this context.
    pub fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self.clone(), f)
    }
}

impl<T> InContext<T> {
    /// What is inside.
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl<F: Future> Future for InContext<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.context.run(|| this.inner.poll(cx))
    }
}

impl<S: Stream> Stream for InContext<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        this.context.run(|| this.inner.poll_next(cx))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

impl<B: Body> Body for InContext<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        this.context.run(|| this.inner.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
