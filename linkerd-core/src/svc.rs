//! The erased HTTP service: where sets of unlike stacks live.

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use crate::{Body, BoxError, Client, Error, http::Kept};

/// The future of a [`Svc`].
pub type SvcFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

/// An erased HTTP service. A clone is a reference count, a call one allocation: the future's box.
///
/// Always ready: a call drives a clone of the service inside to readiness in its own future, so that a reservation
/// belongs to one request and ends with it.
#[derive(Clone)]
pub struct Svc(Arc<dyn Call>);

/// What a layer may produce; one short name for a long bound.
pub trait HttpService:
    Service<Request<Body>, Response = Response<Body>, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<S> HttpService for S where
    S: Service<Request<Body>, Response = Response<Body>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// A service that is called by reference. What sits directly in a [`Svc`]'s box may be one, and save a clone.
pub(crate) trait Call: Send + Sync + 'static {
    fn call(self: Arc<Self>, req: Request<Body>) -> SvcFuture;

    /// The endpoint behind it has left its set: what waits for a turn there should go elsewhere.
    fn left(&self) {}

    /// What connects to the endpoint behind it ahead of requests, if that is wanted.
    fn kept(self: Arc<Self>) -> Option<Kept> {
        None
    }
}

struct Tower<S>(S);

impl<S: HttpService> Call for Tower<S> {
    fn call(self: Arc<Self>, req: Request<Body>) -> SvcFuture {
        let mut svc = self.0.clone();
        Box::pin(async move {
            poll_fn(|cx| svc.poll_ready(cx)).await.map_err(|error| Error::from_box(error.into()))?;
            svc.call(req).await.map_err(|error| Error::from_box(error.into()))
        })
    }
}

impl Svc {
    /// Erases a tower service.
    ///
    /// What is erased already is not boxed again: a `Svc` comes back as it is, and a call of a [`Client`] has no box of
    /// its own, unless its mesh has path layers.
    pub fn new<S: HttpService>(svc: S) -> Self {
        let mut svc = Some(svc);
        let any = &mut svc as &mut dyn Any;
        if let Some(same) = any.downcast_mut::<Option<Self>>().and_then(Option::take) {
            return same;
        }
        if let Some(client) = any.downcast_mut::<Option<Client>>().and_then(Option::take) {
            return Self::from_call(client);
        }
        // Nothing took it: it is neither.
        let Some(svc) = svc else { unreachable!("taken only when returned") };
        Self(Arc::new(Tower(svc)))
    }

    pub(crate) fn from_call(call: impl Call) -> Self {
        Self(Arc::new(call))
    }

    /// Says that the endpoint behind it has left its set.
    pub(crate) fn left(&self) {
        self.0.left();
    }

    pub(crate) fn kept(&self) -> Option<Kept> {
        Arc::clone(&self.0).kept()
    }

    pub(crate) fn from_arc(call: Arc<dyn Call>) -> Self {
        Self(call)
    }

    /// Sends a request.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the request.
    pub fn send(&self, req: Request<Body>) -> SvcFuture {
        Arc::clone(&self.0).call(req)
    }
}

impl Service<Request<Body>> for Svc {
    type Response = Response<Body>;
    type Error = Error;
    type Future = SvcFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Request<Body>) -> SvcFuture {
        self.send(req)
    }
}

impl fmt::Debug for Svc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Svc")
    }
}

#[cfg(test)]
mod tests {
    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn errors_of_a_layer_say_so_and_ours_stay_ours() {
        let svc = Svc::new(service_fn(|_| async { Err::<Response<Body>, BoxError>("no".into()) }));
        let error = svc.send(Request::new(Body::empty())).await.unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Layer);
        let again = Svc::new(svc);
        let error = again.send(Request::new(Body::empty())).await.unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "no");
    }
}
