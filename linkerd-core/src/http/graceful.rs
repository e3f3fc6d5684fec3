//! Connections of hyper's servers, until their clients or their server ends.

use std::{error::Error, future::Future, pin::Pin};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    rt::{Read, Write},
    server::conn::http1,
    service::Service,
};
use tokio::{select, sync::watch};

/// A connection that can be told to take no further requests.
pub(crate) trait Graceful: Future<Output = hyper::Result<()>> + Send {
    /// After this it ends with what it is at.
    fn shut_down(self: Pin<&mut Self>);
}

impl<I, S, B> Graceful for http1::Connection<I, S>
where
    Self: Send,
    I: Read + Write + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

#[cfg(feature = "namerd")]
impl<I, S, B, E> Graceful for hyper::server::conn::http2::Connection<I, S, E>
where
    Self: Send,
    I: Read + Write + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Serves a connection until its client ends it, or for what it is at when `open` is dropped on the other side.
///
/// Boxed, for the many types of services are one from here on.
pub(crate) async fn serve(mut conn: Pin<Box<dyn Graceful>>, mut open: watch::Receiver<()>) -> hyper::Result<()> {
    select! {
        result = &mut conn => return result,
        // Never changed: it returns when the server ends.
        _ = open.changed() => {}
    }
    conn.as_mut().shut_down();
    conn.await
}
