//! One connection of a client: from hyper's requests to a service's responses.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER},
    request,
};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

#[cfg(feature = "compression")]
use super::compress::Compression;
use super::{
    RequestContext, ServerConfig,
    client::{host_of, origin_form},
    headers::{self, Scan},
    reason,
    respond::{error_response, nack, rejection},
};
use crate::{
    Body, Error, ErrorKind, Svc,
    error::twitter_duration,
    telemetry::{Gauge, ServerStats},
};

/// What all connections of a server have in common.
pub(crate) struct Shared {
    pub(crate) svc: Svc,
    pub(crate) config: ServerConfig,
    pub(crate) stats: Option<ServerStats>,
    pub(crate) in_flight: AtomicUsize,
}

/// What all requests of a connection have in common.
pub(crate) struct Peer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Why a request gets no further.
enum Refusal {
    /// It is no request that can be understood; the connection ends.
    Unreadable(StatusCode),
    /// It can be answered.
    Failed(Error),
}

/// What the client's request says of the answer that it can read.
#[derive(Clone, Copy)]
struct Reader {
    version: Version,
    keeps_alive: bool,
    takes_trailers: bool,
    #[cfg(feature = "compression")]
    takes_gzip: bool,
}

/// Counts one more while it lives, if there is something to count with.
struct Within<'a>(Option<&'a Gauge>);

/// A place among the requests that a server serves at a time.
struct Place<'a>(Option<&'a AtomicUsize>);

/// Serves one request. What hyper itself refuses does not come here.
pub(crate) async fn serve(peer: Arc<Peer>, req: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let shared = &*peer.shared;
    let begun = tokio::time::Instant::now().into_std();
    let (mut parts, body) = req.into_parts();
    let scan = Scan::of(&parts.headers);
    let reader = Reader::of(&parts, scan);
    let stats = shared.stats.as_ref();
    let _pending = Within::count(stats.map(|stats| &stats.requests.pending));
    let Some(_place) = Place::of(shared) else {
        if let Some(stats) = stats {
            stats.nacks.incr();
        }
        let mut rsp = nack(&parts.method);
        reader.suit(&mut rsp);
        return Ok(rsp);
    };
    let (rsp, error) = match peer.admit(&mut parts, scan) {
        Err(Refusal::Unreadable(status)) => return Ok(rejection(status)),
        Err(Refusal::Failed(error)) => (shared.failed(&error), Some(error)),
        Ok(cx) => match shared.read_body(body, scan.saw(Scan::CHUNKED)).await {
            Err(_) => return Ok(rejection(StatusCode::BAD_REQUEST)),
            Ok(body) => match peer.call(parts, body, cx).await {
                Ok(rsp) => (passed(rsp, reader, shared.config.via), None),
                Err(error) => (shared.failed(&error), Some(error)),
            },
        },
    };
    if let Some(stats) = stats {
        let elapsed = tokio::time::Instant::now().into_std() - begun;
        record(stats, &rsp, error.as_ref(), elapsed);
    }
    let rsp = shared.complete(rsp, reader);
    #[cfg(feature = "compression")]
    if reader.takes_gzip && shared.config.compression != Compression::Off {
        // Seldom, and large: not part of every request's future.
        return Ok(Box::pin(shared.config.compression.apply(rsp)).await);
    }
    Ok(rsp)
}

impl Peer {
    /// Checks the head of a request, takes out what ends at this hop, and reads what it carries.
    fn admit(&self, parts: &mut request::Parts, scan: Scan) -> Result<RequestContext, Refusal> {
        let config = &self.shared.config;
        if initial_line(parts) > config.max_initial_line_bytes {
            return Err(Refusal::Unreadable(StatusCode::URI_TOO_LONG));
        }
        if scan.bytes > config.max_header_bytes {
            return Err(Refusal::Unreadable(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
        if !parts.uri.path_and_query().is_none_or(|path| path.as_str().is_ascii()) {
            return Err(Refusal::Unreadable(StatusCode::BAD_REQUEST));
        }
        if parts.method == Method::CONNECT {
            let error =
                Error::new(ErrorKind::BadRequest).with_text("CONNECT is not supported: there are no tunnels here");
            return Err(Refusal::Failed(error));
        }
        if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
            if let Some(host) = host_of(&parts.uri) {
                parts.headers.insert(HOST, host);
            }
            parts.uri = origin_form(&parts.uri);
        }
        let headers = &mut parts.headers;
        if scan.saw(Scan::VIA) && headers::via_depth(headers) > config.max_call_depth {
            let max = config.max_call_depth;
            let text = format!("Maximum number of calls ({max}) has been exceeded. Please check for proxy loops.");
            return Err(Refusal::Failed(Error::new(ErrorKind::TooManyHops).with_text(text)));
        }
        if scan.saw(Scan::HOP_BY_HOP) {
            // hyper writes those trailers that are announced, so a stream keeps its announcement.
            strip(headers, scan.saw(Scan::TRAILER) && scan.saw(Scan::CHUNKED));
        }
        if config.via {
            headers::append_via(headers, parts.version);
        }
        if scan.saw(Scan::EXPECT)
            && headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        {
            // hyper answers it when the body is first read.
            headers.remove(EXPECT);
        }
        if scan.saw(Scan::CLIENT_CERT) {
            headers.remove(&headers::FORWARDED_CLIENT_CERT);
        }
        if let Some(name) = &config.timestamp_header {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            if let Ok(now) = HeaderValue::try_from(now.as_millis().to_string()) {
                headers.append(name, now);
            }
        }
        let cx = if config.clear_context {
            if scan.saw(Scan::L5D) {
                headers::remove_l5d(headers);
            }
            RequestContext::default()
        } else {
            RequestContext::read_seen(headers, scan).map_err(Refusal::Failed)?
        };
        Ok(RequestContext { remote: Some(self.remote), local: Some(self.local), version: parts.version, ..cx })
    }

    async fn call(
        &self,
        mut parts: request::Parts,
        body: Body,
        mut cx: RequestContext,
    ) -> Result<Response<Body>, Error> {
        let Some(timeout) = self.shared.config.timeout else {
            parts.extensions.insert(cx);
            return self.shared.svc.send(Request::from_parts(parts, body)).await;
        };
<<<<<<< HEAD
        let ours = Deadline::after(SystemTime::now(), timeout);
        let strictest = cx.deadline.map_or(ours, |theirs| theirs.combined(ours));
        cx.deadline = Some(strictest);
        parts.extensions.insert(cx);
        let rsp = self.shared.svc.send(Request::from_parts(parts, body));
        match tokio::time::timeout(timeout, rsp).await {
            // Whoever enforces the deadline that was set here is as quick as the timer.
            Ok(Err(error)) if error.kind() == ErrorKind::Deadline && strictest.is_as_early_as(ours) => {
                Err(self.timed_out(timeout))
            }
            Ok(result) => result,
            Err(_) => Err(self.timed_out(timeout)),
        }
    }

    fn timed_out(&self, timeout: Duration) -> Error {
        let text = format!(
            "exceeded {} to {}/{} while waiting for a response for an individual request, excluding retries. Remote \
             Info: Not Available",
            twitter_duration(timeout),
            self.local.ip(),
            self.local.port(),
        );
        Error::new(ErrorKind::AttemptTimeout).with_text(text)
=======
        let is_ours = cx.deadline.is_none_or(|theirs| theirs.remaining(SystemTime::now()) > timeout);
        cx.expire_after(timeout);
        cx.until = tokio::time::Instant::now().into_std().checked_add(timeout);
        parts.extensions.insert(cx);
        let rsp = self.shared.svc.send(Request::from_parts(parts, body));
        // What is inside ends at the same time, and knows then why: it goes first, and this is for what does not.
        let result = tokio::time::timeout(timeout.saturating_add(Duration::from_millis(2)), rsp).await;
        let is_timeout = match &result {
            Ok(Err(error)) => is_ours && error.kind() == ErrorKind::Deadline,
            Ok(Ok(_)) => false,
            Err(_) => true,
        };
        if let Ok(result) = result
            && !is_timeout
        {
            result
        } else {
            let text = format!(
                "exceeded {} to {}/{} while waiting for a response for an individual request, excluding retries. \
                 Remote Info: Not Available",
                twitter_duration(timeout),
                self.local.ip(),
                self.local.port(),
            );
            Err(Error::new(ErrorKind::AttemptTimeout).with_text(text))
        }
>>>>>>> engine
    }
}

impl Shared {
    /// A body that is short enough is read whole, so that the request can be sent again.
    async fn read_body(&self, mut body: Incoming, is_chunked: bool) -> Result<Body, hyper::Error> {
        if body.is_end_stream() {
            return Ok(Body::empty());
        }
        let limit = self.config.aggregate_up_to;
        let is_short = match body.size_hint().exact() {
            Some(len) if !is_chunked => len <= limit as u64,
            _ => limit == usize::MAX,
        };
        if !is_short {
            return Ok(Body::incoming(body));
        }
        let mut start = Bytes::new();
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if start.is_empty() {
                start = data;
                if body.is_end_stream() {
                    break;
                }
                continue;
            }
            if whole.is_empty() {
                whole.extend_from_slice(&start);
            }
            whole.extend_from_slice(&data);
        }
        Ok(if whole.is_empty() { start } else { whole.freeze() }.into())
    }

    fn failed(&self, error: &Error) -> Response<Body> {
        tracing::debug!(%error, "request failed");
        error_response(error, self.config.error_limits)
    }

    fn complete(&self, mut rsp: Response<Body>, reader: Reader) -> Response<Body> {
        if self.config.clear_context {
            let is_error = rsp.headers().contains_key(&headers::L5D_ERR);
            headers::remove_l5d(rsp.headers_mut());
            if is_error && self.config.clear_error_bodies {
                rsp.headers_mut().remove(CONTENT_LENGTH);
                *rsp.body_mut() = Body::empty();
            }
        }
        reason::set(&mut rsp);
        reader.suit(&mut rsp);
        rsp
    }
}

impl Reader {
    fn of(parts: &request::Parts, scan: Scan) -> Self {
        let says = |name, word: &str| {
            let values = parts.headers.get_all(name).iter();
            let mut words = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
            words.any(|said| said.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
        };
        Self {
            version: parts.version,
            keeps_alive: parts.version != Version::HTTP_10
                || scan.saw(Scan::CONNECTION) && says(CONNECTION, "keep-alive"),
            takes_trailers: scan.saw(Scan::TE) && says(TE, "trailers"),
            #[cfg(feature = "compression")]
            takes_gzip: scan.saw(Scan::ACCEPT_ENCODING)
                && super::compress::takes_gzip(&parts.method, parts.version, &parts.headers),
        }
    }

    /// Brings a response into the version that the client speaks.
    fn suit(self, rsp: &mut Response<Body>) {
        // Given 1.1, hyper makes of it what the client spoke, and keeps the connection if it can.
        *rsp.version_mut() = Version::HTTP_11;
        if self.version == Version::HTTP_10 && !(self.keeps_alive && rsp.body().size_hint().exact().is_some()) {
            *rsp.version_mut() = Version::HTTP_10;
            rsp.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl<'a> Within<'a> {
    fn count(gauge: Option<&'a Gauge>) -> Self {
        if let Some(gauge) = gauge {
            gauge.incr();
        }
        Self(gauge)
    }
}

impl Drop for Within<'_> {
    fn drop(&mut self) {
        if let Some(gauge) = self.0 {
            gauge.decr();
        }
    }
}

impl<'a> Place<'a> {
    fn of(shared: &'a Shared) -> Option<Self> {
        let Some(max) = shared.config.max_concurrent_requests else { return Some(Self(None)) };
        // Relaxed: a count, which orders nothing.
        let place = Self(Some(&shared.in_flight));
        (shared.in_flight.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(in_flight) = self.0 {
            in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A response on its way to the client: what ends at this hop is out, and the way it came is in.
fn passed(mut rsp: Response<Body>, reader: Reader, via: bool) -> Response<Body> {
    let version = rsp.version();
    let is_stream = rsp.body().size_hint().exact().is_none();
    let headers = rsp.headers_mut();
    let scan = Scan::of(headers);
    if scan.saw(Scan::HOP_BY_HOP) {
        strip(headers, scan.saw(Scan::TRAILER) && is_stream && reader.takes_trailers);
    }
    if via {
        headers::append_via(headers, version);
    }
    rsp
}

fn strip(headers: &mut HeaderMap, keep_trailer: bool) {
    let trailer: Vec<_> = if keep_trailer { headers.get_all(TRAILER).iter().cloned().collect() } else { Vec::new() };
    headers::strip_hop_by_hop(headers);
    for name in trailer {
        headers.append(TRAILER, name);
    }
}

/// How long the first line was.
fn initial_line(parts: &request::Parts) -> usize {
    parts.method.as_str().len() + 1 + target(&parts.uri) + " HTTP/1.1".len()
}

fn target(uri: &Uri) -> usize {
    let scheme = uri.scheme_str().map_or(0, |scheme| scheme.len() + "://".len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    scheme + authority + uri.path_and_query().map_or(0, |path| path.as_str().len())
}

fn record(stats: &ServerStats, rsp: &Response<Body>, error: Option<&Error>, elapsed: Duration) {
    let status = rsp.status();
    stats.status.record(Some(status), elapsed);
    let class = rsp.headers().get(&headers::L5D_SUCCESS_CLASS);
    let is_success = match class {
        _ if error.is_some_and(|error| error.kind() == ErrorKind::Unidentified) => false,
        // What the next proxy or our own classifier said; what is no number is a failure.
        Some(class) => {
            class.to_str().ok().and_then(|class| class.trim().parse().ok()).is_some_and(|class: f64| class > 0.0)
        }
        None => !status.is_server_error(),
    };
    if is_success {
        stats.requests.succeeded(elapsed);
    } else {
        // Linkerd's server sees what its errors were made into: responses.
        let reason = error.filter(|error| error.kind() == ErrorKind::Unidentified);
        stats.requests.failed(reason, elapsed);
    }
}
