//! What a program sends its requests with.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use linkerd_dtab::{Dtab, Path};
use tower_service::Service;

use crate::{
    Body, BoxError, Error, ErrorKind, IntoBody,
    http::context::RequestContext,
    identify::{Identifier, Unidentified},
    mesh::{Mesh, PathEntry},
    stack::now,
    svc::{Call, SvcFuture},
};

/// Sends requests to endpoints by name.
///
/// A clone shares everything. Always ready: what a request has to wait for (its name, an endpoint, a connection) it
/// waits for in its own future, each wait with a bound of its own.
#[derive(Clone)]
pub struct Client {
    mesh: Mesh,
    target: Target,
}

#[derive(Clone)]
enum Target {
    Fixed { path: Path, entry: Arc<PathEntry> },
    Routed(Arc<dyn Identifier>),
}

/// A [`Client`] whose requests have bodies of one other type, for libraries that bring one.
#[derive(Debug)]
pub struct Typed<B> {
    client: Client,
    body: PhantomData<fn(B)>,
}

/// The future of a [`Client`]'s response.
pub struct ResponseFuture {
    state: State,
    // Keeps the name's stack in its cache for as long as it is used, if the future does not.
    entry: Option<Arc<PathEntry>>,
}

enum State {
    Sent(SvcFuture),
    Failed(Option<Error>),
}

impl Client {
    pub(crate) fn fixed(mesh: Mesh, path: Path) -> Self {
        let entry = mesh.path(&path, &Dtab::empty(), now());
        Self { mesh, target: Target::Fixed { path, entry } }
    }

    pub(crate) fn routed(mesh: Mesh, identifier: Arc<dyn Identifier>) -> Self {
        Self { mesh, target: Target::Routed(identifier) }
    }

    /// Sends a request.
    ///
    /// # Errors
    ///
    /// What decided that there is no response; [`Error::kind`] tells which.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the request; whether the endpoint saw it is not known then.
    pub async fn send<B: IntoBody>(&self, req: Request<B>) -> Result<Response<Body>, Error> {
        self.dispatch(req.map(IntoBody::into_body)).await
    }

    /// The same client for requests with bodies of this type: any that a library such as tonic brings.
    ///
    /// What is not empty is a stream to the engine, which is sent once: give [`send`](Self::send) bytes or text where a
    /// request should be tried again.
    #[must_use]
    pub fn with_body<B>(self) -> Typed<B>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Typed { client: self, body: PhantomData }
    }

    fn dispatch(&self, req: Request<Body>) -> ResponseFuture {
        let overridden = req.extensions().get::<RequestContext>().and_then(RequestContext::rules);
        let (req, path) = match &self.target {
            Target::Fixed { entry, .. } if overridden.is_none() => {
                // The client keeps the entry, and the future what it needs of it.
                return Arc::clone(entry).send(req, now()).into();
            }
            Target::Fixed { path, .. } => (req, path.clone()),
            Target::Routed(identifier) => {
                let (mut parts, body) = req.into_parts();
                match identifier.identify(&parts) {
                    Ok(identified) => {
                        if let Some(target) = identified.target {
                            let mut uri = std::mem::take(&mut parts.uri).into_parts();
                            uri.path_and_query = Some(target);
                            // Its authority and scheme, if any, were valid before.
                            parts.uri = http::Uri::from_parts(uri).unwrap_or_default();
                        }
                        (Request::from_parts(parts, body), identified.path)
                    }
                    Err(unidentified) => {
                        let error = no_name(&parts, &unidentified);
                        return ResponseFuture { state: State::Failed(Some(error)), entry: None };
                    }
                }
            }
        };
        let arrived = now();
        let entry = self.mesh.path(&path, &overridden.unwrap_or_default(), arrived);
        entry.send(req, arrived).into()
    }
}

fn no_name(parts: &http::request::Parts, unidentified: &Unidentified) -> Error {
    let from = match parts.extensions.get::<RequestContext>().and_then(|cx| cx.remote) {
        Some(addr) => format!("/{addr}"),
        None => "an unknown address".to_owned(),
    };
    let (method, uri) = (&parts.method, &parts.uri);
    let text = format!("Unknown destination: Request(\"{method} {uri}\", from {from}) / {unidentified}");
    Error::new(ErrorKind::Unidentified).with_text(text).with_source(unidentified.clone())
}

impl From<(SvcFuture, Option<Arc<PathEntry>>)> for ResponseFuture {
    fn from((future, entry): (SvcFuture, Option<Arc<PathEntry>>)) -> Self {
        Self { state: State::Sent(future), entry }
    }
}

/// Erased without a box of its own: what is sent is boxed already.
impl Call for Client {
    fn call(self: Arc<Self>, req: Request<Body>) -> SvcFuture {
        match self.dispatch(req) {
            ResponseFuture { state: State::Sent(future), entry: None } => future,
            rsp => Box::pin(rsp),
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Sent(future) => future.as_mut().poll(cx),
            State::Failed(error) => Poll::Ready(Err(error.take().expect("polled once after it is ready"))),
        }
    }
}

impl Service<Request<Body>> for Client {
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Request<Body>) -> ResponseFuture {
        self.dispatch(req)
    }
}

impl<B> Service<Request<B>> for Typed<B>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Request<B>) -> ResponseFuture {
        self.client.dispatch(req.map(Body::new))
    }
}

impl<B> Clone for Typed<B> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), body: PhantomData }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Fixed { path, .. } => f.debug_tuple("Client").field(path).finish(),
            Target::Routed(_) => f.write_str("Client(routed)"),
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
