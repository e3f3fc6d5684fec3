//! One connection of a client: from hyper's requests to a service's responses.

mod admit;
mod answer;
mod head;
mod timeout;
mod whole;

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONNECTION, request};
use http_body::Body as _;
use hyper::{body::Incoming, ext::ReasonPhrase, upgrade::OnUpgrade};

pub(super) use self::{
    admit::Refusal,
    head::{HeadTimed, Late},
    timeout::is_ours,
};
use self::{
    answer::{Reader, pass, record, refused},
    head::Head,
    whole::{Unread, read_whole},
};
#[cfg(feature = "compression")]
use super::compress::Compression;
use super::{
    Scheme, ServerConfig, Wire,
    case::{Spelling, Spellings},
    census::Census,
    detail,
    forwarded::Ids,
    h2,
    headers::Scan,
    live::LogSwitch,
    place::Place,
    respond::nack,
    spare,
    tunnel::{self, Tunnel},
};
use crate::{Body, Error, ErrorKind, Svc, access_log::Record, svc::SvcFuture, telemetry::ServerStats};

/// What all connections of a server have in common.
pub(crate) struct Shared {
    pub(crate) svc: Svc,
    /// In place of the log of `config`, which may be an old one.
    pub(super) log: Arc<LogSwitch>,
    pub(super) open: Arc<Census>,
    pub(crate) config: ServerConfig,
    pub(super) place: Arc<Place>,
    pub(crate) in_flight: Arc<AtomicUsize>,
}

/// What all requests of a connection have in common.
pub(crate) struct Peer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ends: Ends,
    forwarded_ids: Ids,
    next: Mutex<Option<Next>>,
    head: Head,
    /// If the case of names is kept.
    pub(super) spellings: Option<Arc<Spellings>>,
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

/// A request that is being served, for the gauges and the limit that count it.
pub(crate) struct Visit {
    peer: Arc<Peer>,
    has_place: bool,
    /// So often the server had gone to another router when it began: it counts there to its end.
    moves: u32,
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

/// Serves one request. What hyper itself refuses does not come here.
///
/// What can be done at once is done at once, so that the future, which hyper moves about, has no room for the request.
pub(crate) fn serve(
    peer: &Arc<Peer>,
    req: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
    let begun = tokio::time::Instant::now().into_std();
    let (mut parts, body) = req.into_parts();
    peer.head.is_here(body.size_hint().exact());
    let scan = Scan::of(&parts.headers);
    let instead = peer.instead(&mut parts, !body.is_end_stream());
    let switch = if scan.saw(Scan::UPGRADE) { parts.extensions.remove::<OnUpgrade>() } else { None };
    let spelling = peer.hear(scan);
    let reader = Reader::of(&parts, scan);
    let wants_detail = peer.shared.config.wants_detail(&parts.headers, scan);
    let mut noted = peer.note(&parts, begun);
    let mut visit = Visit::begin(peer);
    let is_read_first = peer.shared.reads_whole(&body, scan.saw(Scan::CHUNKED));
    // A client that is slow to send takes no place from others.
    let may_stay = instead.is_none() && if is_read_first { visit.finds_room() } else { visit.take_place() };
    let stage = if let Some(rsp) = instead {
        Stage::Refused(Box::new(rsp))
    } else if may_stay {
        peer.begin(parts, body, scan, is_read_first, spelling, noted.as_deref_mut())
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
                    Err(Unread::Broken) => {
                        return Ok(refused(visit.peer.shared.reject(StatusCode::BAD_REQUEST), noted));
                    }
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
        if let Some(stats) = visit.stats() {
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
            peer.spell(&mut rsp);
            return Ok(rsp);
        }
        #[cfg(feature = "compression")]
        if reader.takes_gzip && shared.config.compression != Compression::Off {
            // Seldom, and large: not part of every request's future.
            rsp = Box::pin(shared.config.compression.apply(rsp)).await;
        }
        visit.peer.spell(&mut rsp);
        // hyper reads no others.
        if rsp.extensions().get::<ReasonPhrase>().is_none() {
            spare::give(std::mem::take(rsp.extensions_mut()));
        }
        Ok(rsp)
    }
}

impl Visit {
    pub(super) fn begin(peer: &Arc<Peer>) -> Self {
        let moves = peer.shared.place.now().1;
        let visit = Self { peer: Arc::clone(peer), has_place: false, moves };
        if let Some(stats) = visit.stats() {
            stats.requests.pending.incr();
        }
        visit
    }

    /// Where it is counted.
    pub(super) fn stats(&self) -> Option<&ServerStats> {
        self.peer.shared.place.after(self.moves).map(|stats| &**stats)
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
        if let Some(stats) = self.stats() {
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
        let spellings = shared.config.preserve_header_case.then(Arc::default);
        let forwarded_ids = shared.config.forwarded.as_ref().map(|_| Ids::random()).unwrap_or_default();
        Self {
            shared,
            ends,
            forwarded_ids,
            next: Mutex::default(),
            head: Head::default(),
            spellings,
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

    /// Begins to note a request, if requests are logged.
    pub(super) fn note(&self, parts: &request::Parts, begun: Instant) -> Option<Box<Record>> {
        let log = self.shared.log.load();
        log.as_deref()?.begin(parts, self.ends.remote, || self.ends.name(), begun)
    }

    /// How the names of the request are spelled that came, if that is kept.
    fn hear(&self, scan: Scan) -> Option<Spelling> {
        let spellings = self.spellings.as_ref()?;
        let heard = spellings.heard();
        if scan.saw(Scan::UPGRADE) {
            // What comes next may be anything.
            spellings.leave();
        }
        heard
    }

    /// Lets the names of an answer be spelled as they came, when its head is written, which is next.
    fn spell(&self, rsp: &mut Response<Body>) {
        if let Some(spellings) = &self.spellings
            && let Some(spelling) = rsp.extensions_mut().remove()
        {
            spellings.answer(spelling);
        }
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
        if let Some(stats) = self.shared.stats() {
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
        spelling: Option<Spelling>,
        noted: Option<&mut Record>,
    ) -> Stage {
        match self.admit(&mut parts, scan) {
            Ok(mut cx) => {
                cx.spelling = spelling;
                if let Some(noted) = noted {
                    noted.carries(&cx);
                }
                if parts.extensions.is_empty() {
                    parts.extensions = spare::take();
                }
                parts.extensions.insert(cx)
            }
            Err(Refusal::Unreadable(status)) => return Stage::Refused(Box::new(self.shared.reject(status))),
            Err(Refusal::Failed(error)) => return Stage::Failed(error),
        };
        if is_read_first {
            let shared = Arc::clone(&self.shared);
            return Stage::Reading(Box::pin(async move {
                let reading = read_whole(body, shared.config.aggregate_up_to, shared.stats());
                let read = match shared.config.timeout {
                    None => reading.await,
                    Some(timeout) => tokio::time::timeout(timeout, reading).await.map_err(|_| Unread::TooLate)?,
                };
                Ok(Request::from_parts(parts, shared.cleaned(read.map_err(|_| Unread::Broken)?)))
            }));
        }
        let body = self.shared.cleaned(Body::incoming(body));
        Stage::Sent(self.send(Request::from_parts(parts, body), Duration::ZERO))
    }
}
