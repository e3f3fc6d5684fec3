//! The spans of requests that come in.

use std::{
    any::Any,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project::{pin_project, pinned_drop};
use tower_layer::Layer;
use tower_service::Service;

use super::{Recording, SpanKind, Tracer, draft::Draft};
use crate::{
    Error, ErrorKind,
    http::{RequestContext, TraceId},
};

/// Wraps what a server serves in [`Spans`].
#[derive(Clone, Debug)]
pub struct SpanLayer {
    settings: Arc<Settings>,
}

#[derive(Debug)]
struct Settings {
    tracer: Tracer,
    label: String,
    server: Option<SocketAddr>,
}

/// Records a span for each request whose trace is recorded, and has the mesh inside record its attempts.
///
/// A request without a [`RequestContext`], which our server gives to each, gets the one that its headers say: they are
/// taken off as [`RequestContext::read`] does. One whose headers cannot be read passes as it is.
#[derive(Clone, Debug)]
pub struct Spans<S> {
    inner: S,
    settings: Arc<Settings>,
}

/// Response future of [`Spans`]. A span whose future is dropped was cancelled.
#[pin_project(PinnedDrop)]
#[derive(Debug)]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    recording: Option<Recording>,
}

impl SpanLayer {
    /// Records what a router of this label serves.
    #[must_use]
    pub fn new(tracer: Tracer, label: impl Into<String>) -> Self {
        Self { settings: Arc::new(Settings { tracer, label: label.into(), server: None }) }
    }

    /// Calls spans by this address, in place of that at which each connection came in: that of a wildcard server, say.
    #[must_use]
    pub fn at(self, server: SocketAddr) -> Self {
        let Settings { tracer, label, .. } = &*self.settings;
        let (tracer, label) = (tracer.clone(), label.clone());
        Self { settings: Arc::new(Settings { tracer, label, server: Some(server) }) }
    }
}

impl Settings {
    /// Begins the span of a request, if its trace is recorded.
    fn begin<B>(&self, req: &mut Request<B>) -> Option<Recording> {
        let mut cx = match req.extensions_mut().remove::<RequestContext>() {
            Some(cx) => cx,
            None => RequestContext::read(req.headers_mut()).ok()?,
        };
        let (id, tracer) = self.tracer.decide(cx.trace.unwrap_or_else(TraceId::root));
        cx.trace = Some(id);
        if let Some(tracer) = tracer {
            let server = self.server.or(cx.local);
            let service = server.map_or_else(|| self.label.clone(), |addr| format!("{}/{}", addr.ip(), addr.port()));
            let mut draft = Draft::new(id, SpanKind::Server, service, req);
            draft.between(cx.local, cx.remote);
            draft.rename(self.label.clone());
            draft.tag("router.label", self.label.clone());
            if let Some(flavour) = &cx.flavour {
                draft.tag("flavour", flavour.name());
            }
            cx.recording = Some(Recording::begin(tracer, draft));
        }
        let recording = cx.recording.clone();
        req.extensions_mut().insert(cx);
        recording
    }
}

/// What Linkerd calls the part that failed.
fn failure(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::Unidentified => "Identification",
        ErrorKind::Binding
        | ErrorKind::NoSuchName
        | ErrorKind::NoEndpoints
        | ErrorKind::AllTripped
        | ErrorKind::AllConnecting
        | ErrorKind::Connect => "ClientAcquisition",
        _ => "Service",
    }
}

impl<S> Layer<S> for SpanLayer {
    type Service = Spans<S>;

    fn layer(&self, inner: S) -> Spans<S> {
        Spans { inner, settings: Arc::clone(&self.settings) }
    }
}

impl<S, Q, R> Service<Request<Q>> for Spans<S>
where
    S: Service<Request<Q>, Response = Response<R>>,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Request<Q>) -> Self::Future {
        let recording = self.settings.begin(&mut req);
        ResponseFuture { inner: self.inner.call(req), recording }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: 'static,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        if let Some(recording) = this.recording.take() {
            recording.edit(|draft| match &result {
                Ok(rsp) => draft.outcome("http.status_code", rsp.status().as_str()),
                Err(error) => match (error as &dyn Any).downcast_ref::<Error>() {
                    Some(error) => {
                        draft.outcome("http.status_code", error.status().as_str());
                        draft.outcome("error", error.kind().name());
                        draft.outcome("io.buoyant.router.Failure", failure(error));
                    }
                    None => draft.outcome("error", "true"),
                },
            });
            recording.end();
        }
        Poll::Ready(result)
    }
}

#[pinned_drop]
impl<F> PinnedDrop for ResponseFuture<F> {
    fn drop(self: Pin<&mut Self>) {
        if let Some(recording) = self.project().recording.take() {
            recording.edit(|draft| draft.outcome("error", "cancelled"));
            recording.end();
        }
    }
}
