//! The client of one endpoint: HTTP/2 on connections that many requests share.

use std::{future::poll_fn, net::SocketAddr, pin::Pin, sync::Arc, task::Poll};

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::{
    HeaderValue, Method, Request, Response, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE},
    request,
    uri::{Authority, Scheme},
};
use http_body::Body as _;

use super::{
    H2Config, Stream,
    conns::{Conns, MAX_CLOSED, Slot},
    fault::{failure, reset_by},
    hide_trailer, interim, is_of_a_connection,
    pipe::Pipe,
    show_trailer,
};
use crate::{
    Body, Error, ErrorKind, Reset,
    body::Rider,
    http::{ClientConfig, headers},
    svc::{Call, SvcFuture},
    telemetry::{ClientStats, Direction, Exchange, Half, Side},
};

/// The client of one endpoint.
pub(crate) struct Client {
    conns: Arc<Conns>,
    stats: Option<Arc<ClientStats>>,
}

impl Client {
    pub(crate) fn new(
        addr: SocketAddr,
        config: Arc<ClientConfig>,
        h2: H2Config,
        stats: Option<Arc<ClientStats>>,
    ) -> Self {
        Self { conns: Conns::new(addr, config, h2, stats.clone()), stats }
    }

    /// Tells the endpoint who the client is, if that is wanted.
    #[cfg(feature = "tls")]
    fn with_client_cert(&self, mut req: Request<Body>) -> Request<Body> {
        if self.conns.forwards_client_cert() {
            let extensions = std::mem::take(req.extensions_mut());
            crate::http::headers::forward_client_cert(req.headers_mut(), &extensions);
            *req.extensions_mut() = extensions;
        }
        req
    }

    async fn exchange(&self, req: Request<Body>) -> Result<Response<Body>, Error> {
        #[cfg(feature = "tls")]
        let req = self.with_client_cert(req);
        for _ in 0..MAX_CLOSED {
            let (mut sender, slot) = match self.conns.stream().await {
                Ok(stream) => stream,
                Err(error) => return Err(error.with_request(req)),
            };
            if poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
                return send(sender, slot, req, self.stats.as_deref()).await;
            }
            // Its peer said goodbye, or it broke. Nothing of the request was written.
            slot.close();
            if let Some(refused) = slot.refused() {
                return Err(refused.with_request(req));
            }
        }
        Err(Error::new(ErrorKind::Closed).with_never_sent(true).with_request(req))
    }
}

impl Call for Client {
    fn call(self: Arc<Self>, req: Request<Body>) -> SvcFuture {
        Box::pin(async move { self.exchange(req).await })
    }

    fn left(&self) {
        self.conns.dismiss();
    }
}

/// Sends a request on a stream of its own.
///
/// Dropping the future resets the stream, and so does dropping the response's body before its end.
async fn send(
    mut sender: SendRequest<Bytes>,
    mut slot: Slot,
    req: Request<Body>,
    stats: Option<&ClientStats>,
) -> Result<Response<Body>, Error> {
    let (parts, body) = req.into_parts();
    let is_whole = body.is_end_stream();
    let head = head(parts);
    let sent = sender.send_request(head, is_whole);
    let (mut response, stream) = sent.map_err(|error| failure(error).with_never_sent(true))?;
    drop(sender);
    let (mut asking, mut answering) = stats.map(halves).unzip();
    if is_whole {
        asking.iter_mut().for_each(Half::complete);
    } else {
        // Nobody would read the response to half a request.
        let mut pipe = Pipe::new(body, stream, Reason::CANCEL, |_: &mut _| {}).counted(asking);
        // Most bodies are short, and need no task.
        let sent = poll_fn(|cx| Poll::Ready(Pin::new(&mut pipe).poll(cx))).await;
        if sent.is_pending() {
            slot.sends_by(tokio::spawn(pipe).abort_handle());
        }
    }
    let awaiting = slot.await_head();
    let rsp = poll_fn(|cx| {
        let dropped = interim::receive(&mut response, cx);
        if let Some(stats) = stats.filter(|_| dropped > 0) {
            stats.interim_dropped(dropped);
        }
        Pin::new(&mut response).poll(cx)
    });
    let rsp = rsp.await.map_err(|error| {
        if let Some(half) = &mut answering {
            half.fail(reset_by(&error));
        }
        slot.explain(failure(error))
    })?;
    awaiting.came();
    answering.iter_mut().for_each(Half::restart);
    let (mut parts, recv) = rsp.into_parts();
    if is_of_a_connection(&parts.headers) {
        let error = Error::new(ErrorKind::BadResponse).with_source(Reset(Reason::PROTOCOL_ERROR.into()));
        return Err(error.with_text("a header of the response belongs to a connection, and has no place on a stream"));
    }
    if !headers::unite(&mut parts.headers, &CONTENT_LENGTH) {
        let error = Error::new(ErrorKind::BadResponse).with_source(Reset(Reason::PROTOCOL_ERROR.into()));
        return Err(error.with_text("the response has two lengths"));
    }
    show_trailer(&mut parts.headers);
    if recv.is_end_stream() {
        slot.complete();
        answering.iter_mut().for_each(Half::complete);
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let mut body = Body::stream_answer(Stream::new(recv, &parts.headers, answering));
    body.ride(Rider::Stream(slot));
    Ok(Response::from_parts(parts, body))
}

/// What is counted of a stream that begins: the request's half and the response's.
fn halves(stats: &ClientStats) -> (Half, Half) {
    let exchange = Exchange::begin(stats.streams());
    (exchange.half(Direction::Request, Side::Local), exchange.half(Direction::Response, Side::Remote))
}

/// The head as it goes out on a stream: what belongs to a connection is out, and the host is in the target.
fn head(mut parts: request::Parts) -> Request<()> {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    let headers = &mut parts.headers;
    let host = headers.remove(HOST);
    if parts.version != Version::HTTP_2 {
        for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
            headers.remove(name);
        }
        if headers.get(TE).is_some_and(|te| te != "trailers") {
            headers.remove(TE);
        }
    }
    hide_trailer(headers);
    if parts.method != Method::CONNECT && parts.uri.authority().is_none() {
        parts.uri = absolute(parts.uri, host.as_ref());
    }
    // h2 takes a request without a host for one of HTTP/1, which may have none.
    parts.version = if parts.uri.authority().is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
    Request::from_parts(parts, ())
}

/// The target with this host in it; as it is if that cannot be in one.
fn absolute(uri: Uri, host: Option<&HeaderValue>) -> Uri {
    let Some(authority) = host.and_then(|host| Authority::try_from(host.as_bytes()).ok()) else { return uri };
    let mut absolute = uri.clone().into_parts();
    (absolute.scheme, absolute.authority) = (Some(Scheme::HTTP), Some(authority));
    absolute.path_and_query.get_or_insert(http::uri::PathAndQuery::from_static("/"));
    Uri::from_parts(absolute).unwrap_or(uri)
}
