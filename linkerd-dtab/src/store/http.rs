//! How stores that speak HTTP are asked.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body::Body as _;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::follow::{MAX_ANSWER, failure, timed_out};
use crate::{
    Failure,
    transport::{Body, Sending, Transport, full},
};

/// A server has this long for an answer that it has no reason to wait with.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// One server, and what is said to it each time.
pub(super) struct Http {
    transport: Arc<dyn Transport>,
    headers: HeaderMap,
}

/// A request on its way.
// These two have names so that futures which hold them are seen to be `Send`: of the types inside, with their boxed
// errors, the compiler cannot tell in a generic place.
pub(super) struct Sent(Sending);

/// An answer whose body is still coming.
pub(super) struct Incoming {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    body: Body,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Http {
    pub(super) fn new(transport: impl Transport) -> Self {
        Self { transport: Arc::new(transport), headers: HeaderMap::new() }
    }

    /// Says this too, in every request.
    #[cfg(feature = "consul")]
    pub(super) fn with_header(mut self, name: header::HeaderName, value: header::HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Asks, and reads the answer to its end.
    pub(super) async fn ask(
        &self,
        method: Method,
        uri: &str,
        body: Bytes,
        kind: &'static str,
    ) -> Result<Answer, Failure> {
        let asked = self.ask_patiently(method, uri, body, kind);
        timeout(ASK_TIMEOUT, asked).await.unwrap_or_else(|_| Err(timed_out("answer", ASK_TIMEOUT)))
    }

    /// Asks without a limit of time.
    pub(super) async fn ask_patiently(
        &self,
        method: Method,
        uri: &str,
        body: Bytes,
        kind: &'static str,
    ) -> Result<Answer, Failure> {
        let mut incoming = self.send(method, uri, body, kind)?.await?;
        let mut read = BytesMut::new();
        while let Some(chunk) = incoming.chunk().await? {
            if chunk.len() > MAX_ANSWER - read.len() {
                return Err(failure(format!("the store's answer has more than {MAX_ANSWER} bytes")));
            }
            read.extend_from_slice(&chunk);
        }
        let Incoming { status, headers, .. } = incoming;
        Ok(Answer { status, headers, body: read.freeze() })
    }

    /// Asks, and hands out the answer's body as it comes.
    pub(super) fn send(&self, method: Method, uri: &str, body: Bytes, kind: &'static str) -> Result<Sent, Failure> {
        let req = Request::builder().method(method).uri(uri).body(full(body));
        let mut req = req.map_err(|error| failure(error.to_string()))?;
        *req.headers_mut() = self.headers.clone();
        if !kind.is_empty() {
            req.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        }
        Ok(Sent(self.transport.send(req)))
    }
}

impl Future for Sent {
    type Output = Result<Incoming, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map_ok(|rsp| {
            let (head, body) = rsp.into_parts();
            Incoming { status: head.status, headers: head.headers, body }
        })
    }
}

impl Incoming {
    /// The next bytes, `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        poll_fn(|cx| {
            loop {
                return match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                    None => Poll::Ready(Ok(None)),
                    Some(Err(error)) => Poll::Ready(Err(error)),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => Poll::Ready(Ok(Some(data))),
                        // Trailers.
                        Err(_) => continue,
                    },
                };
            }
        })
        .await
    }
}

impl Answer {
    /// What the body says, if the server did as it was asked.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if !self.status.is_success() {
            return Err(self.unexpected());
        }
        parse(&self.body)
    }

    /// That this was not expected.
    pub(super) fn unexpected(&self) -> Failure {
        const SHOWN: usize = 200;
        let text = String::from_utf8_lossy(&self.body);
        let text: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        failure(format!("the store answered {}: {text}", self.status.as_u16()))
    }

    /// A number in a header.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.headers.get(name)?.to_str().ok()?.trim().parse().ok()
    }
}

/// What a text in JSON says.
pub(super) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(text).map_err(|error| failure(format!("the store's answer makes no sense: {error}")))
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").finish_non_exhaustive()
    }
}
