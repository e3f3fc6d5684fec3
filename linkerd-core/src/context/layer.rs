//! What puts a context in place, and what takes it along.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
};

use http::{Request, Response};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Context, InContext};
use crate::http::{RequestContext, headers::strip_class};

/// Wraps the service that answers requests, in [`Server`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerLayer {
    criticality: bool,
}

/// Keeps the context of each request while the service inside works on it, and while its response's body is read.
///
/// The request has it among its extensions too, as a [`Context`].
#[derive(Clone, Debug)]
pub struct Server<S> {
    inner: S,
    criticality: bool,
}

/// Wraps the service that sends requests, in [`Client`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientLayer(());

/// Puts the context of the request that is being worked on onto each request that is sent.
///
/// A header that the request has already stays as it is. Without a context requests pass as they are. A mesh's
/// [`Client`](crate::Client) inside heeds it as its own: its deadline, its rules for names, and its trace.
#[derive(Clone, Debug)]
pub struct Client<S> {
    inner: S,
}

/// Response future of [`Server`].
#[pin_project]
#[derive(Debug)]
pub struct ResponseFuture<F> {
    #[pin]
    inner: InContext<F>,
    context: Context,
}

impl ServerLayer {
    /// For callers that are not trusted to say that a request matters more than others.
    #[must_use]
    pub const fn new() -> Self {
        Self { criticality: false }
    }

    /// Whether callers may say that a request is `critical_plus`, by `l5d-ctx-criticality`: such requests go before all
    /// others in every limit from here on. By default the header is taken off where it says that; the other classes are
    /// no more than what a request is that says nothing, and stay. Behind an [`http::Server`](crate::http::Server) it is
    /// that server who decides, by its [`PerRequest`](crate::http::PerRequest), and this is of no matter.
    #[must_use]
    pub const fn criticality(self, criticality: bool) -> Self {
        Self { criticality }
    }
}

impl<S> Layer<S> for ServerLayer {
    type Service = Server<S>;

    fn layer(&self, inner: S) -> Server<S> {
        Server { inner, criticality: self.criticality }
    }
}

impl<S, Q, R> Service<Request<Q>> for Server<S>
where
    S: Service<Request<Q>, Response = Response<R>>,
{
    type Response = Response<InContext<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Request<Q>) -> Self::Future {
        // A server of ours has taken it off already, unless it trusts its callers.
        if !self.criticality && req.extensions().get::<RequestContext>().is_none() {
            strip_class(req.headers_mut());
        }
        let context = Context::of(&req);
        req.extensions_mut().insert(context.clone());
        // What `call` itself sends or spawns belongs to the request too.
        let future = context.run(|| self.inner.call(req));
        ResponseFuture { inner: context.clone().scope(future), context }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<InContext<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        Poll::Ready(result.map(|rsp| rsp.map(|body| std::mem::take(this.context).scope(body))))
    }
}

impl ClientLayer {
    /// The layer has no settings.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for ClientLayer {
    type Service = Client<S>;

    fn layer(&self, inner: S) -> Client<S> {
        Client { inner }
    }
}

impl<S, B> Service<Request<B>> for Client<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Request<B>) -> S::Future {
        Context::current().apply(&mut req);
        self.inner.call(req)
    }
}
