//! One connection of a client: from hyper's requests to a service's responses.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, UPGRADE},
    request,
};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::{body::Incoming, upgrade::OnUpgrade};

#[cfg(feature = "compression")]
use super::compress::Compression;
use super::{
    RequestContext, Scheme, ServerConfig, Wire,
    client::{host_of, origin_form},
    detail,
    flavour::Lost,
    forwarded::Ids,
    h2,
    headers::{self, Scan},
    overrides::{self, L5D_ERR_DETAIL, Overrides},
    reason,
    respond::{error_response, nack, rejection},
    trace::TraceId,
    tunnel::{self, Tunnel},
};
use crate::{
    Body, Error, ErrorKind, Svc, Timer, access_log::Record, error::twitter_duration, svc::SvcFuture,
    telemetry::ServerStats,
};

/// What all connections of a server have in common.
pub(crate) struct Shared {
    pub(crate) svc: Svc,
    pub(crate) config: ServerConfig,
    pub(crate) stats: Option<ServerStats>,
    pub(crate) in_flight: Arc<AtomicUsize>,
}

/// What all requests of a connection have in common.
pub(crate) struct Peer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ends: Ends,
    forwarded_ids: Ids,
    next: Mutex<Option<Next>>,
    has_nothing: AtomicBool,
    is_leaving: AtomicBool,
}

/// What a connection becomes when its answer is written.
pub(crate) enum Next {
    Tunnel(Box<Tunnel<Visit>>),
    H2(Box<h2::Upgrade>),
}

/// Whom a connection is between, and what it goes through.
pub(crate) struct Ends {
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) scheme: Scheme,
    /// Who the client is, if it showed a certificate.
    #[cfg(feature = "tls")]
    pub(crate) identity: Option<crate::tls::PeerIdentity>,
}

impl Ends {
    /// What to call the client, if it showed a certificate: for logs.
    #[cfg(feature = "tls")]
    pub(super) fn name(&self) -> Option<String> {
        self.identity.as_ref().map(crate::tls::PeerIdentity::name)
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_self, reason = "without TLS nobody shows one")]
    pub(super) fn name(&self) -> Option<String> {
        None
    }
}

/// Why a request gets no further.
pub(super) enum Refusal {
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

/// A request that is being served, for the gauges and the limit that count it.
pub(crate) struct Visit {
    peer: Arc<Peer>,
    has_place: bool,
}

/// How far a request got before anything had to be waited for.
enum Stage {
    /// Answered, and not counted.
    Refused(Box<Response<Body>>),
    Failed(Error),
    /// Its body is read whole first.
    Reading(Pin<Box<dyn Future<Output = Result<Request<Body>, Unread>> + Send>>),
    Sent(SvcFuture),
}

/// Why a body was not read whole.
enum Unread {
    /// It broke off, or is none.
    Broken,
    /// It took as long as the whole request may.
    TooLate,
}

/// Serves one request. What hyper itself refuses does not come here.
///
/// What can be done at once is done at once, so that the future, which hyper moves about, has no room for the request.
pub(crate) fn serve(
    peer: &Arc<Peer>,
    req: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
    let begun = tokio::time::Instant::now().into_std();
    let (mut parts, body) = req.into_parts();
    let scan = Scan::of(&parts.headers);
    let instead = peer.instead(&mut parts, !body.is_end_stream());
    let switch = if scan.saw(Scan::UPGRADE) { parts.extensions.remove::<OnUpgrade>() } else { None };
    let reader = Reader::of(&parts, scan);
    let wants_detail = peer.shared.config.wants_detail(&parts.headers, scan);
    let log = peer.shared.config.access_log.as_ref().filter(|_| instead.is_none());
    let mut noted = log.and_then(|log| log.begin(&parts, peer.ends.remote, || peer.ends.name(), begun));
    let mut visit = Visit::begin(peer);
    let is_read_first = peer.shared.reads_whole(&body, scan.saw(Scan::CHUNKED));
    // A client that is slow to send takes no place from others.
    let may_stay = instead.is_none() && if is_read_first { visit.finds_room() } else { visit.take_place() };
    let stage = if let Some(rsp) = instead {
        Stage::Refused(Box::new(rsp))
    } else if may_stay {
        peer.begin(parts, body, scan, is_read_first, noted.as_deref_mut())
    } else {
        Stage::Refused(Box::new(peer.turn_away(&parts.method, reader)))
    };
    // Relaxed: it is read by the task that polls this.
    peer.has_nothing.store(matches!(stage, Stage::Reading(_)), Ordering::Relaxed);
    async move {
        let mut is_unread = false;
        let sent = match stage {
            Stage::Refused(rsp) => return Ok(refused(*rsp, noted)),
            Stage::Failed(error) => Err(error),
            Stage::Sent(sent) => Ok(sent),
            Stage::Reading(reading) => {
                let read = reading.await;
                visit.peer.has_nothing.store(false, Ordering::Relaxed);
                match read {
                    Ok(req) if visit.take_place() => {
                        Ok(visit.peer.send(req, tokio::time::Instant::now().into_std() - begun))
                    }
                    Ok(req) => return Ok(refused(visit.peer.turn_away(req.method(), reader), noted)),
                    Err(Unread::Broken) => return Ok(refused(rejection(StatusCode::BAD_REQUEST), noted)),
                    Err(Unread::TooLate) => {
                        is_unread = true;
                        Err(visit.peer.too_late())
                    }
                }
            }
        };
        let shared = &*visit.peer.shared;
        let result = match sent {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        let mut error = None;
        let mut rsp = match result {
            Ok(rsp) => rsp,
            Err(failed) => shared.failed(error.insert(failed)),
        };
        if error.is_none() && rsp.status() == StatusCode::SWITCHING_PROTOCOLS && switch.is_none() {
            let text = "the protocol was switched, which nobody asked for";
            rsp = shared.failed(error.insert(Error::new(ErrorKind::BadResponse).with_text(text)));
        }
        if error.is_none() {
            pass(&mut rsp, reader, shared);
        }
        if wants_detail {
            detail::write(&mut rsp, error.as_ref(), shared.config.error_limits.max_header_bytes);
        }
        if let Some(stats) = &shared.stats {
            if let Some(error) = error.as_ref().filter(|error| is_ours(error)) {
                stats.timeouts.record(error);
            }
            let elapsed = tokio::time::Instant::now().into_std() - begun;
            record(stats, &rsp, error.as_ref(), elapsed);
        }
        shared.complete(&mut rsp, reader);
        let is_leaving = visit.peer.is_leaving() && rsp.status() != StatusCode::SWITCHING_PROTOCOLS;
        // What is left of a request that was not read cannot be told from the next one.
        if is_unread || is_leaving {
            rsp.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(noted) = noted {
            noted.answered(&mut rsp, error.as_ref());
        }
        if rsp.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = switch
        {
            let peer = Arc::clone(&visit.peer);
            let tunnel = Tunnel::open(client, &mut rsp, visit);
            peer.switch(tunnel.map(|tunnel| Next::Tunnel(Box::new(tunnel))));
            return Ok(rsp);
        }
        #[cfg(feature = "compression")]
        if reader.takes_gzip && shared.config.compression != Compression::Off {
            // Seldom, and large: not part of every request's future.
            return Ok(Box::pin(shared.config.compression.apply(rsp)).await);
        }
        Ok(rsp)
    }
}

impl Visit {
    pub(super) fn begin(peer: &Arc<Peer>) -> Self {
        let shared = &peer.shared;
        if let Some(stats) = &shared.stats {
            stats.requests.pending.incr();
        }
        Self { peer: Arc::clone(peer), has_place: false }
    }

    /// Whether a place could be taken now.
    fn finds_room(&self) -> bool {
        let shared = &self.peer.shared;
        shared.config.max_concurrent_requests.is_none_or(|max| shared.in_flight.load(Ordering::Relaxed) < max)
    }

    /// Takes a place, if there is one.
    pub(super) fn take_place(&mut self) -> bool {
        let shared = &self.peer.shared;
        let Some(max) = shared.config.max_concurrent_requests else { return true };
        // Relaxed: a count, which orders nothing.
        self.has_place = shared.in_flight.fetch_add(1, Ordering::Relaxed) < max;
        if !self.has_place {
            shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        self.has_place
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(stats) = &self.peer.shared.stats {
            stats.requests.pending.decr();
        }
        if self.has_place {
            self.peer.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Ends {
    /// Of a connection in the clear.
    pub(crate) fn clear(remote: SocketAddr, local: SocketAddr) -> Self {
        Self {
            remote,
            local,
            scheme: Scheme::Http,
            #[cfg(feature = "tls")]
            identity: None,
        }
    }
}

impl Peer {
    pub(crate) fn new(shared: Arc<Shared>, ends: Ends) -> Self {
        let forwarded_ids = shared.config.forwarded.as_ref().map(|_| Ids::random()).unwrap_or_default();
        Self {
            shared,
            ends,
            forwarded_ids,
            next: Mutex::default(),
            has_nothing: AtomicBool::new(true),
            is_leaving: AtomicBool::new(false),
        }
    }

    pub(crate) fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Whether nothing would be lost with the connection but a request that is not all here: none was ever, or its
    /// body is still being read. Once one is here this is false until the next is, as its answer may be on its way out.
    pub(crate) fn has_nothing(&self) -> bool {
        self.has_nothing.load(Ordering::Relaxed)
    }

    /// Notes whether the client is asked to leave with its next answer.
    pub(crate) fn set_leaving(&self, is_leaving: bool) {
        // Relaxed here and where it is read: by the task that polls the connection.
        self.is_leaving.store(is_leaving, Ordering::Relaxed);
    }

    fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// Notes what the connection becomes when its answer is written.
    fn switch(&self, next: Option<Next>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// What the connection became, once its last message was written.
    pub(crate) fn next(&self) -> Option<Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The answer to a request that nothing is done with: one that HTTP/2 goes on with, or that should have been one.
    fn instead(&self, parts: &mut request::Parts, has_body: bool) -> Option<Response<Body>> {
        if matches!(self.shared.config.wire, Wire::Http1) {
            return None;
        }
        let upgrade = match self.ends.scheme {
            Scheme::Http => h2::Upgrade::asked(parts, has_body),
            Scheme::Https => None,
        };
        let status = match upgrade {
            Some(upgrade) => {
                self.switch(Some(Next::H2(upgrade)));
                StatusCode::SWITCHING_PROTOCOLS
            }
            None if matches!(self.shared.config.wire, Wire::H2(_)) => StatusCode::UPGRADE_REQUIRED,
            None => return None,
        };
        let mut rsp = Response::new(Body::empty());
        *rsp.status_mut() = status;
        tunnel::write(rsp.headers_mut(), HeaderValue::from_static("h2c"));
        if status == StatusCode::UPGRADE_REQUIRED {
            rsp.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
        }
        Some(rsp)
    }

    /// One request too many.
    fn turn_away(&self, method: &Method, reader: Reader) -> Response<Body> {
        if let Some(stats) = &self.shared.stats {
            stats.nacks.incr();
        }
        let mut rsp = nack(method);
        reader.suit(&mut rsp);
        rsp
    }

    fn begin(
        self: &Arc<Self>,
        mut parts: request::Parts,
        body: Incoming,
        scan: Scan,
        is_read_first: bool,
        noted: Option<&mut Record>,
    ) -> Stage {
        match self.admit(&mut parts, scan) {
            Ok(cx) => {
                if let Some(noted) = noted {
                    noted.carries(&cx);
                }
                parts.extensions.insert(cx)
            }
            Err(Refusal::Unreadable(status)) => return Stage::Refused(Box::new(rejection(status))),
            Err(Refusal::Failed(error)) => return Stage::Failed(error),
        };
        if is_read_first {
            let shared = Arc::clone(&self.shared);
            return Stage::Reading(Box::pin(async move {
                let reading = read_whole(body, shared.config.aggregate_up_to, shared.stats.as_ref());
                let read = match shared.config.timeout {
                    None => reading.await,
                    Some(timeout) => tokio::time::timeout(timeout, reading).await.map_err(|_| Unread::TooLate)?,
                };
                Ok(Request::from_parts(parts, read.map_err(|_| Unread::Broken)?))
            }));
        }
        Stage::Sent(self.send(Request::from_parts(parts, Body::incoming(body)), Duration::ZERO))
    }

    /// Checks the head of a request, takes out what ends at this hop, and reads what it carries.
    pub(super) fn admit(&self, parts: &mut request::Parts, scan: Scan) -> Result<RequestContext, Refusal> {
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
        let forwarded = config.forwarded.as_ref().map(|forwarded| (forwarded, parts.uri.scheme().cloned()));
        // In HTTP/2 the target has them, and what ends at a hop is no header.
        let is_http1 = parts.version != Version::HTTP_2;
        // A target that is an authority alone is for CONNECT.
        let is_authority = parts.uri.scheme().is_none() && parts.uri.authority().is_some();
        if is_http1 && (is_authority || scan.saw(Scan::CHUNKED) && headers::has_other_codings(&parts.headers)) {
            return Err(Refusal::Unreadable(StatusCode::BAD_REQUEST));
        }
        if is_http1 && (parts.uri.scheme().is_some() || parts.uri.authority().is_some()) {
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
        if is_http1 && scan.saw(Scan::HOP_BY_HOP) {
            let may_switch = config.upgrades && scan.saw(Scan::UPGRADE);
            let protocol = may_switch.then(|| tunnel::asked(headers, parts.version)).flatten();
            // hyper writes those trailers that are announced, so a stream keeps its announcement.
            strip(headers, scan.saw(Scan::TRAILER) && scan.saw(Scan::CHUNKED));
            if let Some(protocol) = protocol {
                tunnel::write(headers, protocol);
            }
        }
        if config.via {
            headers::append_via(headers, parts.version);
        }
        if is_http1
            && scan.saw(Scan::EXPECT)
            && headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        {
            // hyper answers it when the body is first read.
            headers.remove(EXPECT);
        }
        if scan.saw(Scan::CLIENT_CERT) {
            headers.remove(&headers::FORWARDED_CLIENT_CERT);
        }
        if let Some((forwarded, scheme)) = forwarded {
            // A target of HTTP/1 has lost its own by now.
            let authority = parts.uri.authority();
            let Ends { local, remote, .. } = self.ends;
            forwarded.write(headers, scheme.as_ref(), authority, local, remote, self.forwarded_ids);
        }
        if let Some(name) = &config.timestamp_header {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            if let Ok(now) = HeaderValue::try_from(now.as_millis().to_string()) {
                headers.append(name, now);
            }
        }
        let mut cx = if config.clear_context {
            let is_forged = scan.saw(Scan::L5D) && headers.contains_key(&headers::L5D_CTX_FLAVOUR);
            let lost_flavour = is_forged.then_some(Lost::Refused);
            if scan.saw(Scan::L5D) {
                headers::remove_l5d(headers);
            }
            if scan.saw(Scan::TRACE) {
                config.propagation.clear(headers, false);
            }
            // As Linkerd 1 has it: of h2 the attempts are children of one span, of http each begins a trace.
            let trace = (!is_http1).then(TraceId::root);
            RequestContext { trace, propagation: config.propagation, lost_flavour, ..RequestContext::default() }
        } else {
            RequestContext::read_seen(headers, scan, config.propagation).map_err(Refusal::Failed)?
        };
        self.flavour(&mut cx, &parts.headers);
        let headers = &mut parts.headers;
        if scan.saw(Scan::L5D) {
            cx.overrides = config.per_request.and_then(|bounds| Overrides::read(headers, bounds));
            overrides::strip(headers);
            if !config.per_request.is_some_and(|bounds| bounds.criticality) {
                headers::strip_class(headers);
            }
        }
        #[cfg(feature = "tls")]
        if let Some(identity) = &self.ends.identity {
            parts.extensions.insert(identity.clone());
        }
        let Ends { remote, local, scheme, .. } = self.ends;
        Ok(RequestContext { remote: Some(remote), local: Some(local), scheme, version: parts.version, ..cx })
    }

    /// Gives a request its flavour, if it comes without one that is for it, and counts what became of it.
    fn flavour(&self, cx: &mut RequestContext, headers: &HeaderMap) {
        if cx.flavour.is_none() && !self.shared.config.flavours.is_empty() {
            let now = SystemTime::now();
            cx.flavour = self.shared.config.flavours.iter().find_map(|rule| rule.apply(headers, now));
        }
        if let Some(stats) = &self.shared.stats {
            match (&cx.flavour, cx.lost_flavour.take()) {
                (_, Some(Lost::Expired)) => stats.flavour_expired(),
                (_, Some(Lost::Refused)) => stats.flavour_refused(),
                (Some(_), None) => stats.flavoured(),
                (None, None) => {}
            }
        }
    }

    /// Sends a request that was here for so long already.
    pub(super) fn send(self: &Arc<Self>, req: Request<Body>, spent: Duration) -> SvcFuture {
        match self.shared.config.timeout {
            None => self.shared.svc.send(req),
            Some(timeout) => Box::pin(Arc::clone(self).send_within(timeout.saturating_sub(spent), req)),
        }
    }

    async fn send_within(self: Arc<Self>, timeout: Duration, mut req: Request<Body>) -> Result<Response<Body>, Error> {
        let mut cx = req.extensions_mut().remove::<RequestContext>().unwrap_or_default();
        let is_ours = cx.keep_within(timeout, Timer::Server);
        cx.until = tokio::time::Instant::now().into_std().checked_add(timeout);
        req.extensions_mut().insert(cx);
        let rsp = self.shared.svc.send(req);
        // What is inside ends at the same time, and knows then why: it goes first, and this is for what does not.
        let result = tokio::time::timeout(timeout.saturating_add(Duration::from_millis(2)), rsp).await;
        let is_timeout = match &result {
            Ok(Err(error)) => is_ours && error.kind() == ErrorKind::Deadline,
            _ => false,
        };
        match result {
            Ok(Err(error)) if is_timeout => Err(self.too_late().in_place_of(error)),
            Ok(result) => result,
            Err(_) => Err(self.too_late()),
        }
    }

    /// The server's timeout is over.
    fn too_late(&self) -> Error {
        let timeout = self.shared.config.timeout.unwrap_or_default();
        let text = format!(
            "exceeded {} to {}/{} while waiting for a response for an individual request, excluding retries. \
             Remote Info: Not Available",
            twitter_duration(timeout),
            self.ends.local.ip(),
            self.ends.local.port(),
        );
        Error::new(ErrorKind::AttemptTimeout).with_text(text).with_timer(Timer::Server.after(timeout))
    }
}

impl Shared {
    /// Whether a body is short enough to be read whole, so that the request can be sent again.
    fn reads_whole(&self, body: &Incoming, is_chunked: bool) -> bool {
        let limit = self.config.aggregate_up_to;
        let is_short = match body.size_hint().exact() {
            Some(len) if !is_chunked => len <= limit as u64,
            _ => self.config.aggregate_unknown || limit == usize::MAX,
        };
        is_short && !body.is_end_stream()
    }

    pub(super) fn failed(&self, error: &Error) -> Response<Body> {
        tracing::debug!(%error, "request failed");
        error_response(error, self.config.error_limits)
    }

    fn complete(&self, rsp: &mut Response<Body>, reader: Reader) {
        self.clear(rsp);
        reason::set(rsp);
        reader.suit(rsp);
    }

    /// Takes out what is nobody's business outside.
    pub(super) fn clear(&self, rsp: &mut Response<Body>) {
        if self.config.clear_context {
            let is_error = rsp.headers().contains_key(&headers::L5D_ERR);
            headers::remove_l5d(rsp.headers_mut());
            if is_error && self.config.clear_error_bodies {
                rsp.headers_mut().remove(CONTENT_LENGTH);
                *rsp.body_mut() = Body::empty();
            }
        }
    }
}

impl ServerConfig {
    /// Whether a failure of this request comes with all that is known of it.
    pub(super) fn wants_detail(&self, headers: &HeaderMap, scan: Scan) -> bool {
        self.error_limits.detail
            || self.per_request.is_some() && scan.saw(Scan::L5D) && headers::is_true(headers, &L5D_ERR_DETAIL)
    }
}

impl Reader {
    fn of(parts: &request::Parts, scan: Scan) -> Self {
        let says = |name, word: &str| headers::names(&parts.headers, &name, word);
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

/// Reads a body whole; if it turns out to be longer than `limit`, the rest of it is still to come.
async fn read_whole(mut body: Incoming, limit: usize, stats: Option<&ServerStats>) -> Result<Body, hyper::Error> {
    let mut start = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            if let Some(stats) = stats {
                stats.trailers_dropped();
            }
            continue;
        };
        if start.is_empty() {
            start = data;
        } else {
            if whole.is_empty() {
                whole.extend_from_slice(&start);
            }
            whole.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
        if start.len().max(whole.len()) > limit {
            let read = if whole.is_empty() { start } else { whole.freeze() };
            return Ok(Body::begun(read, body));
        }
    }
    Ok(if whole.is_empty() { start } else { whole.freeze() }.into())
}

/// The answer to a request that goes no further.
fn refused(rsp: Response<Body>, noted: Option<Box<Record>>) -> Response<Body> {
    if let Some(mut noted) = noted {
        noted.refused(&rsp);
    }
    rsp
}

/// A response on its way to the client: what ends at this hop is out, and the way it came is in.
fn pass(rsp: &mut Response<Body>, reader: Reader, shared: &Shared) {
    let (version, status) = (rsp.version(), rsp.status());
    let is_stream = rsp.body().size_hint().exact().is_none();
    let headers = rsp.headers_mut();
    let scan = Scan::of(headers);
    if scan.saw(Scan::HOP_BY_HOP) {
        let protocol = if status == StatusCode::SWITCHING_PROTOCOLS { headers.get(UPGRADE).cloned() } else { None };
        let has_trailers = scan.saw(Scan::TRAILER) && is_stream;
        strip(headers, has_trailers && reader.takes_trailers);
        if has_trailers
            && !reader.takes_trailers
            && let Some(stats) = &shared.stats
        {
            stats.trailers_dropped();
        }
        if let Some(protocol) = protocol {
            tunnel::write(headers, protocol);
        }
    }
    if shared.config.via {
        headers::append_via(headers, version);
    }
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

/// Whether the time of the server ended a request, and not one further in.
pub(super) fn is_ours(error: &Error) -> bool {
    error.timer().is_some_and(|timer| timer.timer == Timer::Server)
}

fn record(stats: &ServerStats, rsp: &Response<Body>, error: Option<&Error>, elapsed: Duration) {
    let status = rsp.status();
    stats.status.record(Some(status), elapsed);
    let class = rsp.headers().get(&headers::L5D_SUCCESS_CLASS);
    let is_success = match class {
        _ if error.is_some_and(|error| error.kind() == ErrorKind::Unidentified) => false,
        // What the next proxy or our own classifier said; what is no number is a failure.
        Some(class) => {
            class == "1.0"
                || class.to_str().ok().and_then(|class| class.trim().parse().ok()).is_some_and(|class: f64| class > 0.0)
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
