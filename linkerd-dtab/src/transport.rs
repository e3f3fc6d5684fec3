//! What namers, stores and clients of namerd reach the network by.
//!
//! This crate has no HTTP client and no TLS of its own. What speaks HTTP is handed a [`Transport`], what speaks another
//! protocol a [`Dial`]; `linkerd-core` makes both from its own client, so that such calls have the pool, the TLS, the time
//! limits and the metrics of a user's. Tests hand in scripts.

use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Failure;

/// A body in either direction. Its end is the end of the message; an error is a message that was cut short.
pub type Body = UnsyncBoxBody<Bytes, Failure>;

/// What a [`Transport`] answers with.
pub type Sending = Pin<Box<dyn Future<Output = Result<Response<Body>, Failure>> + Send>>;

/// What a [`Dial`] answers with.
pub type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// An HTTP client that is pointed at one service.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request and waits for the head of the response.
    ///
    /// The URI is in origin form: which service is asked, over which protocol and whether by TLS, is the transport's
    /// matter. Whoever calls bounds the time. Dropping the future or the body cancels the request.
    ///
    /// # Errors
    ///
    /// Nothing was answered. A status of any kind is an answer.
    fn send(&self, request: Request<Body>) -> Sending;
}

/// A way to open connections to one service.
pub trait Dial: Send + Sync + 'static {
    /// Opens a connection; with TLS it is past the handshake. Whoever calls bounds the time.
    fn dial(&self) -> Dialling;
}

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// How a peer that is gone is noticed: it is asked for a sign of life, and given up without one.
///
/// # Defaults
///
/// 5 s and 4 s, those of Linkerd's `failureThreshold`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// How often it is asked (`minPeriodMs`). At least 1 ms.
    pub period: Duration,
    /// How long it may take to answer (`closeTimeoutMs`). At least 1 ms.
    pub timeout: Duration,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { period: Duration::from_secs(5), timeout: Duration::from_secs(4) }
    }
}

impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn send(&self, request: Request<Body>) -> Sending {
        (**self).send(request)
    }
}

impl<T: Dial + ?Sized> Dial for Arc<T> {
    fn dial(&self) -> Dialling {
        (**self).dial()
    }
}

/// A body of these bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
