//! Carries Linkerd's context through a service: what a request brought goes out again with the requests that it causes.
//!
//! A proxy on each side of a service can only tell which of the service's requests belong to one that came in if the
//! service says so, by handing on the headers whose names start with `l5d-ctx-`. [`ServerLayer`] keeps those of a request
//! in a task-local while the service works on it, [`ClientLayer`] puts them onto whatever is sent meanwhile, byte for
//! byte. They stay across `await`; a task of its own needs [`spawn_with_context`].
//!
//! ```
//! use http::{Request, Response};
//! use linkerd_core::context::{ClientLayer, ServerLayer};
//! use tower::{BoxError, Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let backend = service_fn(|req: Request<()>| async move {
//!     assert_eq!(req.headers()["l5d-ctx-trace"], "abc");
//!     Ok::<_, BoxError>(Response::new(()))
//! });
//! let client = ClientLayer::new().layer(backend);
//! let handler = service_fn(move |_req: Request<()>| client.clone().oneshot(Request::new(())));
//!
//! let req = Request::builder().header("l5d-ctx-trace", "abc").body(())?;
//! ServerLayer::new().layer(handler).oneshot(req).await?;
//! # Ok(())
//! # }
//! ```

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::task::{JoinHandle, futures::TaskLocalFuture};
use tower_layer::Layer;
use tower_service::Service;

/// How many values are carried. More are left behind, the later ones.
pub const MAX_VALUES: usize = 32;
/// How many bytes of names and values are carried. A value that does not fit is left behind.
pub const MAX_BYTES: usize = 16 * 1024;

const PREFIX: &str = "l5d-ctx-";

/// What is carried; nothing costs nothing.
type Carried = Option<Arc<[(HeaderName, HeaderValue)]>>;

tokio::task_local! {
    static CARRIED: Carried;
}

/// Wraps the service that answers requests, in [`Server`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerLayer(());

/// Keeps the context of each request while the service inside works on it.
///
/// The response's body is not part of that: what it sends while it is read carries nothing.
#[derive(Clone, Debug)]
pub struct Server<S> {
    inner: S,
}

/// Wraps the service that sends requests, in [`Client`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientLayer(());

/// Puts the context of the request that is being worked on onto each request that is sent.
///
/// A header that the request has already stays as it is. Without a context requests pass as they are.
#[derive(Clone, Debug)]
pub struct Client<S> {
    inner: S,
}

/// Response future of [`Server`].
pub type ResponseFuture<F> = TaskLocalFuture<Carried, F>;

/// Spawns a task that works on the same request as the one that spawns it: what it sends carries the same context.
///
/// # Panics
///
/// Outside of a tokio runtime, like [`tokio::spawn`].
pub fn spawn_with_context<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(CARRIED.scope(current(), future))
}

fn current() -> Carried {
    CARRIED.try_with(Clone::clone).ok().flatten()
}

fn carried(headers: &HeaderMap) -> Carried {
    let mut left = MAX_BYTES;
    let context = headers.iter().filter(|(name, _)| name.as_str().starts_with(PREFIX));
    let fits = |(name, value): &(&HeaderName, &HeaderValue)| {
        let size = name.as_str().len() + value.len();
        let fits = size <= left;
        if fits {
            left -= size;
        } else {
            tracing::debug!(%name, size, "a context header is too long to be carried");
        }
        fits
    };
    let mut kept = context.filter(fits).take(MAX_VALUES).map(|(name, value)| (name.clone(), value.clone())).peekable();
    kept.peek()?;
    Some(kept.collect())
}

impl ServerLayer {
    /// The layer has no settings.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for ServerLayer {
    type Service = Server<S>;

    fn layer(&self, inner: S) -> Server<S> {
        Server { inner }
    }
}

impl<S, B> Service<Request<B>> for Server<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Request<B>) -> Self::Future {
        let carried = carried(req.headers());
        // What `call` itself sends or spawns belongs to the request too.
        let future = CARRIED.sync_scope(carried.clone(), || self.inner.call(req));
        CARRIED.scope(carried, future)
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

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Request<B>) -> S::Future {
        if let Some(carried) = current() {
            let headers = req.headers_mut();
            let mut last = None;
            for (name, value) in carried.iter() {
                // The values of a name come one after the other; only the first can find one that was there before.
                if last != Some(name) && headers.contains_key(name) {
                    continue;
                }
                last = Some(name);
                headers.append(name, value.clone());
            }
        }
        self.inner.call(req)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use http::Response;
    use tower::{Service, ServiceExt, service_fn};

    use super::*;

    type Sent = HeaderMap;

    /// Answers with the headers that it was sent.
    fn echo()
    -> impl Service<Request<()>, Response = Response<Sent>, Error = Infallible, Future: Send> + Clone + Send + 'static
    {
        ClientLayer::new().layer(service_fn(|req: Request<()>| async move {
            Ok::<_, Infallible>(Response::new(req.headers().clone()))
        }))
    }

    async fn send(req: Request<()>) -> Sent {
        echo().oneshot(req).await.unwrap().into_body()
    }

    async fn serve<F>(req: Request<()>, handler: impl Fn() -> F + Clone) -> Sent
    where
        F: Future<Output = Sent>,
    {
        let handler = service_fn(move |_req: Request<()>| {
            let sent = handler();
            async move { Ok::<_, Infallible>(Response::new(sent.await)) }
        });
        ServerLayer::new().layer(handler).oneshot(req).await.unwrap().into_body()
    }

    fn request(headers: &[(&'static str, &str)]) -> Request<()> {
        let mut req = Request::new(());
        for (name, value) in headers {
            req.headers_mut().append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        req
    }

    fn pairs(sent: &Sent) -> Vec<(&str, &[u8])> {
        let mut pairs: Vec<_> = sent.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        pairs.sort_unstable();
        pairs
    }

    #[tokio::test(start_paused = true)]
    async fn context_headers_go_out_byte_for_byte_and_no_others() {
        let req = request(&[
            ("l5d-ctx-trace", "abc"),
            ("l5d-ctx-dtab", "/a=>/b"),
            ("l5d-ctx-dtab", "/c => /d \u{e9}"),
            ("l5d-ctx-unknown", ""),
            ("l5d-dtab", "/x=>/y"),
            ("x-other", "1"),
        ]);
        let sent = serve(req, || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            send(Request::new(())).await
        });
        assert_eq!(
            pairs(&sent.await),
            [
                ("l5d-ctx-dtab", b"/a=>/b".as_slice()),
                ("l5d-ctx-dtab", "/c => /d \u{e9}".as_bytes()),
                ("l5d-ctx-trace", b"abc"),
                ("l5d-ctx-unknown", b""),
            ]
        );
    }

    #[tokio::test]
    async fn a_spawned_task_carries_the_context_only_if_told_to() {
        let req = || request(&[("l5d-ctx-trace", "abc")]);
        let with = serve(req(), || async { spawn_with_context(send(Request::new(()))).await.unwrap() }).await;
        assert_eq!(with["l5d-ctx-trace"], "abc");
        let without = serve(req(), || async { tokio::spawn(send(Request::new(()))).await.unwrap() }).await;
        assert!(without.is_empty());
        assert!(spawn_with_context(send(Request::new(()))).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn requests_do_not_see_each_others_context() {
        let (first, second) = tokio::join!(
            serve(request(&[("l5d-ctx-trace", "1")]), || async {
                tokio::task::yield_now().await;
                send(Request::new(())).await
            }),
            serve(request(&[("l5d-ctx-trace", "2")]), || async {
                tokio::task::yield_now().await;
                send(Request::new(())).await
            })
        );
        assert_eq!((&first["l5d-ctx-trace"], &second["l5d-ctx-trace"]), (&"1".parse().unwrap(), &"2".parse().unwrap()));
        // A request without context inside of one with it.
        let inner = serve(request(&[("l5d-ctx-trace", "1")]), || serve(Request::new(()), || send(Request::new(()))));
        assert!(inner.await.is_empty());
    }

    #[tokio::test]
    async fn a_header_of_the_senders_own_wins() {
        let sent = serve(request(&[("l5d-ctx-trace", "1"), ("l5d-ctx-trace", "2"), ("l5d-ctx-x", "3")]), || {
            send(request(&[("l5d-ctx-trace", "mine")]))
        });
        assert_eq!(pairs(&sent.await), [("l5d-ctx-trace", b"mine".as_slice()), ("l5d-ctx-x", b"3")]);
    }

    #[tokio::test]
    async fn what_is_carried_has_bounds() {
        let many: Vec<_> = (0..=MAX_VALUES).map(|_| ("l5d-ctx-n", "1")).collect();
        let sent = serve(request(&many), || send(Request::new(()))).await;
        assert_eq!(sent.len(), MAX_VALUES);

        let fits = "x".repeat(MAX_BYTES - "l5d-ctx-a".len());
        let sent = serve(request(&[("l5d-ctx-a", &fits), ("l5d-ctx-b", "1")]), || send(Request::new(()))).await;
        assert_eq!(pairs(&sent), [("l5d-ctx-a", fits.as_bytes())]);
        let over = "x".repeat(MAX_BYTES);
        let sent = serve(request(&[("l5d-ctx-a", &over), ("l5d-ctx-b", "1")]), || send(Request::new(()))).await;
        assert_eq!(pairs(&sent), [("l5d-ctx-b", b"1".as_slice())]);
    }
}
