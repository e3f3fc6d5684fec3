//! The client of one endpoint: HTTP/1.1 on a pooled connection.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    request, response,
};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    ext::ReasonPhrase,
};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{
    ClientConfig, headers,
    io::Counted,
    pool::{Checkout, Conn, Pool, Pooled, TooManyWaiters},
};
use crate::{
    Body, BoxError, Error, ErrorKind,
    body::Rider,
    svc::{Call, SvcFuture},
};

/// The client of one endpoint.
pub(crate) struct Client {
    addr: SocketAddr,
    config: Arc<ClientConfig>,
    pool: Arc<Pool>,
}

impl Client {
    pub(crate) fn new(addr: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let pool = Pool::new(config.pool.clone());
        Self { addr, config, pool }
    }
}

impl Call for Client {
    fn call(self: Arc<Self>, req: Request<Body>) -> SvcFuture {
        Box::pin(async move { self.exchange(req).await })
    }
}

impl Client {
    async fn exchange(&self, req: Request<Body>) -> Result<Response<Body>, Error> {
        let (mut parts, mut body) = req.into_parts();
        // hyper has no use for them, and they are wanted if the request comes back unsent.
        let extensions = std::mem::take(&mut parts.extensions);
        prepare(&mut parts, &body);
        let version = parts.version;
        let mut may_try_again = true;
        loop {
            let mut pooled = match self.pool.checkout() {
                Ok(Checkout::Now(pooled)) => pooled,
                Ok(Checkout::Later(turn)) => match turn.await {
                    Ok(pooled) => pooled,
                    Err(_) => return Err(unsent(overloaded(), parts, body, extensions)),
                },
                Err(TooManyWaiters) => return Err(unsent(overloaded(), parts, body, extensions)),
            };
            let conn = match &mut pooled.conn {
                Some(conn) => conn,
                // Rare, and large: not part of every request's future.
                none => match Box::pin(self.open()).await {
                    Ok(conn) => none.insert(conn),
                    Err(error) => return Err(unsent(error, parts, body, extensions)),
                },
            };
            let is_reused = conn.is_reused;
            let copy = (is_reused && may_try_again).then(|| copy(&parts, &body)).flatten();
            let read_before = conn.traffic.read();
            let mut error = match conn.sender.try_send_request(Request::from_parts(parts, body)).await {
                Ok(rsp) => return self.receive(rsp, version, pooled).await,
                Err(error) => error,
            };
            if let Some(back) = error.take_message() {
                (parts, body) = back.into_parts();
                if is_reused {
                    continue; // The next one; at last a new one.
                }
                let error = Error::new(ErrorKind::Connect).with_source(error.into_error());
                return Err(unsent(error, parts, body, extensions));
            }
            let error = failure(error.into_error());
            match copy {
                // The endpoint closed an idle connection while the request was on its way there.
                Some((head, bytes)) if error.kind() == ErrorKind::Closed && conn.traffic.read() == read_before => {
                    (parts, body) = (head, bytes.into());
                    may_try_again = false;
                }
                _ => return Err(error),
            }
        }
    }

    async fn open(&self) -> Result<Conn, Error> {
        let failed = |error: BoxError| Error::new(ErrorKind::Connect).with_source(error);
        let stream = tokio::time::timeout(self.config.connect_timeout, self.config.socket.connect(self.addr))
            .await
            .map_err(|_| failed(io::Error::from(io::ErrorKind::TimedOut).into()))?
            .map_err(|error| failed(error.into()))?;
        let (stream, traffic) = Counted::new(stream);
        let (sender, conn): (SendRequest<Body>, _) = http1::Builder::new()
            .max_header_size(self.config.max_header_bytes)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.into()))?;
        let pool = Arc::downgrade(&self.pool);
        tokio::spawn(async move {
            if let Err(error) = conn.await {
                tracing::debug!(%error, "connection to an endpoint failed");
            }
            if let Some(pool) = pool.upgrade() {
                pool.reap();
            }
        });
        Ok(Conn { sender, traffic, born: Instant::now(), is_reused: false, is_reusable: true })
    }

    async fn receive(
        &self,
        rsp: Response<Incoming>,
        requested: Version,
        mut pooled: Pooled,
    ) -> Result<Response<Body>, Error> {
        let (mut parts, mut incoming) = rsp.into_parts();
        check(&mut parts)?;
        // An endpoint that speaks 1.0, or was asked in 1.0, closes as a rule, and hyper would go on in 1.0.
        if let Some(conn) = &mut pooled.conn
            && (parts.version == Version::HTTP_10 || requested == Version::HTTP_10)
        {
            conn.is_reusable = false;
        }
        if incoming.is_end_stream() {
            pooled.give_back();
            return Ok(Response::from_parts(parts, Body::empty()));
        }
        let limit = self.config.aggregate_up_to;
        let is_short = match incoming.size_hint().exact() {
            Some(len) => len <= limit as u64,
            // Of 1.0 and without a length: with one, the connection to the client may stay open.
            None => limit == usize::MAX || parts.version == Version::HTTP_10,
        };
        if !is_short {
            let mut body = Body::incoming(incoming);
            body.ride(Rider::Conn(pooled));
            return Ok(Response::from_parts(parts, body));
        }
        let mut start = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            // Trailers have no place in a body read whole.
            let Ok(data) = frame.map_err(failure)?.into_data() else { continue };
            if start.is_empty() {
                start = data;
            } else {
                if more.is_empty() {
                    more.extend_from_slice(&start);
                }
                more.extend_from_slice(&data);
            }
            if start.len().max(more.len()) > limit {
                let start = if more.is_empty() { start } else { more.freeze() };
                let mut body = Body::prefixed(start, incoming);
                body.ride(Rider::Conn(pooled));
                return Ok(Response::from_parts(parts, body));
            }
            if incoming.is_end_stream() {
                break;
            }
        }
        pooled.give_back();
        let body = if more.is_empty() { start } else { more.freeze() };
        if parts.headers.contains_key(TRANSFER_ENCODING) {
            // Its length is known now.
            parts.headers.remove(TRANSFER_ENCODING);
        }
        Ok(Response::from_parts(parts, body.into()))
    }
}

/// Brings a request into the form that goes to an endpoint.
fn prepare(parts: &mut request::Parts, body: &Body) {
    if parts.version != Version::HTTP_10 {
        parts.version = Version::HTTP_11;
    }
    if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
        to_origin_form(parts);
    }
    if parts.version == Version::HTTP_11 && !parts.headers.contains_key(HOST) {
        parts.headers.insert(HOST, HeaderValue::from_static(""));
    }
    if body.is_end_stream() {
        parts.headers.remove(TRANSFER_ENCODING);
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    } else if body.as_bytes().is_some() {
        parts.headers.insert(headers::RETRYABLE_REQUEST, HeaderValue::from_static(""));
    } else if body.size_hint().exact().is_none()
        && parts.version == Version::HTTP_11
        && !parts.headers.contains_key(TRANSFER_ENCODING)
    {
        // Without it, hyper takes a GET for one without a body.
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

fn to_origin_form(parts: &mut request::Parts) {
    if parts.method == Method::CONNECT {
        return;
    }
    if !parts.headers.contains_key(HOST)
        && let Some(host) = host_of(&parts.uri)
    {
        parts.headers.insert(HOST, host);
    }
    parts.uri = origin_form(&parts.uri);
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

/// What is needed to send the request a second time, if that does no harm.
fn copy(parts: &request::Parts, body: &Body) -> Option<(request::Parts, Bytes)> {
    if !parts.method.is_idempotent() {
        return None;
    }
    let bytes = body.as_bytes()?;
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = parts.method.clone();
    head.uri = parts.uri.clone();
    head.version = parts.version;
    head.headers = parts.headers.clone();
    Some((head, bytes))
}

fn unsent(error: Error, mut parts: request::Parts, body: Body, extensions: http::Extensions) -> Error {
    parts.extensions = extensions;
    error.with_never_sent(true).with_request(Request::from_parts(parts, body))
}

fn overloaded() -> Error {
    Error::new(ErrorKind::Overloaded)
}

/// What a failed exchange says of the endpoint.
fn failure(error: hyper::Error) -> Error {
    let kind = if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        ErrorKind::BadResponse
    } else if error.is_user() && !error.is_incomplete_message() {
        ErrorKind::RequestBody
    } else {
        ErrorKind::Closed
    };
    Error::new(kind).with_never_sent(false).with_source(error)
}

/// Refuses responses that HTTP forbids, and takes out what means nothing to the next hop.
fn check(parts: &mut response::Parts) -> Result<(), Error> {
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let text = "the endpoint switched protocols, which nobody asked for";
        return Err(Error::new(ErrorKind::BadResponse).with_text(text));
    }
    let headers = &mut parts.headers;
    if headers.len() != headers.keys_len() && headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        let text = format!("Multiple Content-Length values found: [{}]", lengths(headers));
        return Err(Error::new(ErrorKind::BadResponse).with_text(text));
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    if !parts.extensions.is_empty() {
        parts.extensions.remove::<ReasonPhrase>();
    }
    Ok(())
}

fn lengths(headers: &HeaderMap) -> String {
    let values = headers.get_all(CONTENT_LENGTH).iter();
    values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(", ")
}
