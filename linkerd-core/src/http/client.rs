//! The client of one endpoint: HTTP/1.1 on a pooled connection.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{self, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE},
};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use pin_project::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    ClientConfig, Kept,
    case::{Spelled, Spelling, Spellings},
    dial::{self, ConnectElapsed, Open, Speak, open},
    h2::interim,
    headers::{self, Room},
    io::{Counted, Traffic},
    pool::{Checkout, Conn, Grant, Live, Pool, TooManyWaiters},
    receive::{Asked, Reading, Received, failure, receive},
    resting::{End, Line, Resting},
};
use crate::{
    Body, BoxError, Error, ErrorKind, Timer,
    body::{Payload, Resend},
    svc::{Call, SvcFuture},
    telemetry::ClientStats,
};

/// The client of one endpoint.
pub(crate) struct Client {
    addr: SocketAddr,
    config: Arc<ClientConfig>,
    pub(super) pool: Arc<Pool>,
    stats: Option<Arc<ClientStats>>,
}

impl Client {
    pub(crate) fn new(addr: SocketAddr, config: Arc<ClientConfig>, stats: Option<Arc<ClientStats>>) -> Self {
        let pool = Pool::new(Arc::clone(&config), stats.clone());
        Self { addr, config, pool, stats }
    }
}

/// A request that is to go out.
struct Outbound {
    req: Request<Body>,
    // hyper has no use for them, and they are wanted if the request comes back unsent.
    extensions: Extensions,
    resend: Resend,
}

/// A request on its way, and what is needed if it does not get there.
struct Flight {
    live: Live,
    asked: Asked,
    extensions: Extensions,
    copy: Option<Box<Request<Bytes>>>,
    resend: Resend,
    is_idempotent: bool,
    read_before: u64,
    written_before: u64,
}

impl Call for Client {
    fn call(self: Arc<Self>, mut req: Request<Body>) -> SvcFuture {
        let extensions = std::mem::take(req.extensions_mut());
        prepare(&mut req);
        #[cfg(feature = "tls")]
        if self.config.forward_client_cert {
            headers::forward_client_cert(req.headers_mut(), &extensions);
        }
        let outbound = Outbound { resend: req.body().resend, req, extensions };
        match self.checkout(&outbound) {
            // Most requests. Sent before there is a future, so that it need not hold the request.
            Ok(Checkout::Now(Grant::Live(live))) => {
                let (sent, flight) = launch(live, outbound);
                Box::pin(Landing::Sent { sent, flight: Some(flight), client: self })
            }
            checkout => Box::pin(async move { self.exchange(checkout, outbound).await }),
        }
    }

    fn left(&self) {
        self.pool.dismiss();
    }

    fn kept(self: Arc<Self>) -> Option<Kept> {
        Kept::of(self)
    }
}

impl Client {
    /// Sends a request with whatever the pool has, as often as it takes.
    async fn exchange(
        &self,
        mut checkout: Result<Checkout, TooManyWaiters>,
        mut outbound: Outbound,
    ) -> Result<Response<Body>, Error> {
        loop {
            let grant = match checkout {
                Ok(Checkout::Now(grant)) => Some(grant),
                Ok(Checkout::Later(turn)) => turn.take().await,
                Err(TooManyWaiters) => None,
            };
            let live = match grant {
                Some(Grant::Live(live)) => live,
                Some(Grant::Resting(conn, place)) => {
                    // Seldom, and large: not part of every request's future.
                    let Some(conn) = Box::pin(self.wake(conn)).await else {
                        drop(place);
                        checkout = self.checkout(&outbound);
                        continue;
                    };
                    place.fill(conn)
                }
                Some(Grant::Place(place)) => match self.open().await {
                    Ok(conn) => place.fill(conn),
                    Err(error) => return Err(outbound.unsent(error)),
                },
                None => return Err(outbound.unsent(Error::new(ErrorKind::Overloaded))),
            };
            let (sent, flight) = launch(live, outbound);
            match sent.await {
                Ok(rsp) => {
                    return match receive(rsp, &flight.asked, flight.extensions, flight.live, &self.config)? {
                        Received::Now(rsp) => Ok(rsp),
                        Received::Later(reading) => reading.await,
                    };
                }
                Err(error) => outbound = self.recover(flight, error)?,
            }
            checkout = self.checkout(&outbound);
        }
    }

    /// What a request goes out on.
    fn checkout(&self, outbound: &Outbound) -> Result<Checkout, TooManyWaiters> {
        if outbound.resend == Resend::Never { self.pool.checkout_new() } else { self.pool.checkout() }
    }

    /// Finds out whether a request that did not get through may go out again.
    fn recover(&self, flight: Flight, mut error: TrySendError<Request<Payload>>) -> Result<Outbound, Error> {
        let Flight { live, extensions, copy, resend, is_idempotent, read_before, written_before, .. } = flight;
        let refused = dial::refused(self.addr, &live.conn.traffic, self.stats.as_deref());
        if let Some(req) = error.take_message() {
            let outbound = Outbound { req: req.map(Body::from), extensions, resend };
            if live.conn.is_reused {
                // Nothing of it was written: the next connection takes it, at last a new one.
                return Ok(outbound);
            }
            let why = refused.unwrap_or_else(|| error.into_error().into());
            return Err(outbound.unsent(Error::new(ErrorKind::Connect).with_source(why)));
        }
        if let Some(why) = refused {
            return Err(Error::new(ErrorKind::Connect).with_source(why));
        }
        let written = live.conn.traffic.written() - written_before;
        let error = failure(error.into_error()).with_bytes_written(written);
        // The endpoint closed the connection while the request was on its way there.
        let is_lost =
            error.kind() == ErrorKind::Closed && live.conn.is_reused && live.conn.traffic.read() == read_before;
        match (copy, resend) {
            (Some(copy), _) if is_lost => Ok(Outbound { req: copy.map(Body::from), extensions, resend: Resend::Never }),
            (None, Resend::BySender) if is_lost && is_idempotent => Err(error.lost()),
            _ => Err(error),
        }
    }

    pub(super) async fn open(&self) -> Result<Conn, Error> {
        open(self, self.addr, &self.config, self.stats.as_deref()).await.map_err(|error| {
            let is_late = error.is::<ConnectElapsed>();
            let error = Error::new(ErrorKind::Connect).with_source(error);
            if is_late { error.with_timer(Timer::Connect.after(self.config.connect_timeout)) } else { error }
        })
    }
}

impl Speak for Client {
    type Conn = Conn;

    async fn begin<I>(&self, stream: I) -> Result<Conn, BoxError>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (stream, traffic) = Counted::of(stream, &self.config.socket, self.stats.as_deref());
        let born = Instant::now();
        let open = self.stats.clone().map(|stats| Open::new(stats, born));
        Ok(self.speak(End::new(stream, open), traffic, born).await?)
    }
}

impl Client {
    /// Goes on with a connection that rested; `None` if it was closed.
    async fn wake(&self, conn: Resting) -> Option<Conn> {
        let (traffic, born) = (Arc::clone(&conn.traffic), conn.born);
        let conn = self.speak(conn.wake()?, traffic, born).await.ok()?;
        Some(Conn { is_reused: true, ..conn })
    }

    async fn speak(&self, end: End, traffic: Arc<Traffic>, born: Instant) -> hyper::Result<Conn> {
        let (line, stream) = Line::lend(end);
        let spellings = self.config.preserve_header_case.then(Arc::<Spellings>::default);
        let stream = Spelled::of(stream, spellings.clone());
        let max = self.config.max_header_bytes;
        let room = Room::of(max, 0);
        let mut builder = http1::Builder::new();
        // A folded header of a response becomes one line, as a user agent has to see it (RFC 9112, 5.2).
        builder.max_header_size(max).allow_obsolete_multiline_headers_in_responses(true);
        if let Some(headers) = room.headers {
            builder.max_headers(headers);
        }
        if let Some(buf) = room.buf {
            builder.max_buf_size(buf);
        }
        let (sender, conn): (SendRequest<Payload>, _) = builder.handshake(TokioIo::new(stream)).await?;
        let (pool, addr, noted) = (Arc::downgrade(&self.pool), self.addr, Arc::clone(&traffic));
        let stats = self.stats.clone();
        tokio::spawn(async move {
            if let Err(error) = conn.with_upgrades().await {
                tracing::debug!(%error, "connection to an endpoint failed");
                // Also if there was no request.
                dial::refused(addr, &noted, stats.as_deref());
            }
            if let Some(pool) = pool.upgrade() {
                pool.reap();
            }
        });
        Ok(Conn { sender, line, traffic, spellings, born, is_reused: false, is_reusable: true })
    }
}

/// The response to a request that was sent at once, which most are.
///
/// By hand, because what is awaited takes up room twice in an `async` block.
#[pin_project(project = Landed)]
enum Landing<F> {
    Sent {
        #[pin]
        sent: F,
        flight: Option<Flight>,
        client: Arc<Client>,
    },
    Reading(Reading),
    Again(SvcFuture),
}

impl<F> Future for Landing<F>
where
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<Payload>>>>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                Landed::Sent { sent, flight, client } => {
                    let result = ready!(sent.poll(cx));
                    let flight = flight.take().expect("taken when there is a result");
                    match result {
                        Ok(rsp) => match receive(rsp, &flight.asked, flight.extensions, flight.live, &client.config)? {
                            Received::Now(rsp) => return Poll::Ready(Ok(rsp)),
                            Received::Later(reading) => Self::Reading(reading),
                        },
                        Err(error) => {
                            let outbound = client.recover(flight, error)?;
                            let client = Arc::clone(client);
                            Self::Again(Box::pin(
                                async move { client.exchange(client.checkout(&outbound), outbound).await },
                            ))
                        }
                    }
                }
                Landed::Reading(reading) => return Pin::new(reading).poll(cx),
                Landed::Again(again) => return again.as_mut().poll(cx),
            };
            self.set(next);
        }
    }
}

/// Sends a request on a connection. The response is only awaited by what is returned.
fn launch(
    mut live: Live,
    outbound: Outbound,
) -> (impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Payload>>>>, Flight) {
    let Outbound { req, extensions, resend } = outbound;
    let offered = req.headers().get(UPGRADE).map(|offered| Box::new(offered.clone()));
    let asked = Asked { version: req.version(), offered };
    // A connection that was idle may be closing just now.
    let copy = if live.conn.is_reused && resend == Resend::ByClient { copy(&req) } else { None };
    let is_idempotent = req.method().is_idempotent();
    let (read_before, written_before) = (live.conn.traffic.read(), live.conn.traffic.written());
    live.conn.traffic.await_head();
    if let Some(spellings) = &live.conn.spellings {
        spellings.exchange(Spelling::of(&extensions));
    }
    let sent = live.conn.sender.try_send_request(req.map(Payload::from));
    (sent, Flight { live, asked, extensions, copy, resend, is_idempotent, read_before, written_before })
}

impl Outbound {
    fn unsent(mut self, error: Error) -> Error {
        *self.req.extensions_mut() = self.extensions;
        // A payload knows nothing of it.
        self.req.body_mut().resend = self.resend;
        error.with_never_sent(true).with_request(self.req)
    }
}

/// What is needed to send the request a second time, if that does no harm.
fn copy(req: &Request<Body>) -> Option<Box<Request<Bytes>>> {
    if !req.method().is_idempotent() {
        return None;
    }
    let mut copy = Box::new(Request::new(req.body().as_bytes()?));
    *copy.method_mut() = req.method().clone();
    *copy.uri_mut() = req.uri().clone();
    *copy.version_mut() = req.version();
    *copy.headers_mut() = req.headers().clone();
    Some(copy)
}

/// Brings a request into the form that goes to an endpoint.
fn prepare(req: &mut Request<Body>) {
    if req.version() == Version::HTTP_2 {
        if req.uri().authority().is_some() {
            // It was routed by its authority, and no other host may be read from it.
            req.headers_mut().remove(HOST);
        }
        join_cookies(req.headers_mut());
        // Its endpoint's 100 would not come back, so the client is told here.
        if req.headers().get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            req.headers_mut().remove(EXPECT);
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::CONTINUE;
            interim::pass(head);
        }
    }
    let version = if req.version() == Version::HTTP_10 { Version::HTTP_10 } else { Version::HTTP_11 };
    *req.version_mut() = version;
    if req.uri().scheme().is_some() || req.uri().authority().is_some() {
        to_origin_form(req);
    }
    let has_no_body = req.body().is_end_stream();
    let is_whole = req.body().as_bytes().is_some();
    let has_length = req.body().size_hint().exact().is_some();
    let headers = req.headers_mut();
    if version == Version::HTTP_11 && !headers.contains_key(HOST) {
        headers.insert(HOST, HeaderValue::from_static(""));
    }
    if has_no_body {
        headers.remove(TRANSFER_ENCODING);
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    } else if is_whole {
        headers.insert(headers::RETRYABLE_REQUEST, HeaderValue::from_static(""));
    } else if !has_length && version == Version::HTTP_11 && !headers.contains_key(TRANSFER_ENCODING) {
        // Without it, hyper takes a GET for one without a body.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Makes one header of the pieces that HTTP/2 may cut a cookie into, as RFC 9113 has it.
fn join_cookies(headers: &mut HeaderMap) {
    let header::Entry::Occupied(mut entry) = headers.entry(COOKIE) else { return };
    let pieces: Vec<_> = entry.iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1
        // Valid values joined by valid bytes are valid.
        && let Ok(whole) = HeaderValue::try_from(pieces.join(&b"; "[..]))
    {
        entry.insert(whole);
    }
}

fn to_origin_form(req: &mut Request<Body>) {
    if req.method() == Method::CONNECT {
        return;
    }
    if !req.headers().contains_key(HOST)
        && let Some(host) = host_of(req.uri())
    {
        req.headers_mut().insert(HOST, host);
    }
    *req.uri_mut() = origin_form(req.uri());
}

/// The `Host` that a URI's authority stands for: without user and password.
pub(crate) fn host_of(uri: &Uri) -> Option<HeaderValue> {
    let authority = uri.authority()?.as_str();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    HeaderValue::from_str(host).ok()
}

/// The path and query of a URI, byte for byte; `/` if it has no path.
pub(crate) fn origin_form(uri: &Uri) -> Uri {
    let Some(path) = uri.path_and_query() else { return Uri::default() };
    if path.as_str().starts_with('/') || path.as_str() == "*" {
        return Uri::from(path.clone());
    }
    Uri::try_from(format!("/{}", path.as_str())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_future_of_a_request_is_small() {
        fn size<F>(_: impl FnOnce(Live, Outbound) -> F) -> usize {
            size_of::<F>()
        }
        let client = Arc::new(Client::new(([127, 0, 0, 1], 1).into(), Arc::default(), None));
        let future = |live, outbound| {
            let (sent, flight) = launch(live, outbound);
            Landing::Sent { sent, flight: Some(flight), client }
        };
        // Half a kilobyte of it is room for the request, should it come back.
        assert!(size(future) <= 640);
    }
}
