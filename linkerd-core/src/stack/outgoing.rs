//! A request on its way, what is kept of it, and what became of it so far.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version, header::UPGRADE};
use http_body::Body as _;
use http_body_util::BodyExt;
use linkerd_retry::{
    Stop,
    replay::{ReplayBody, ReplayError, ReplayMemory},
};

use super::{
    endpoints::{EndpointClient, EndpointKey},
    hints::{Hints, finish},
    trail::{Leg, Trail, note},
};
use crate::{
    AttemptLog, AttemptOutcome, Body, BoxError, Error, ErrorKind,
    http::{deadline::GrpcUntil, headers::IDEMPOTENCY_KEY},
};

/// A request until it is sent. It stays where it is, in the request's one box, while the calls above the endpoint hand
/// on a reference: by value each of them would hold a copy's worth of room.
pub(crate) struct Outgoing {
    req: Option<Request<Body>>,
    // Where it is, or was last. Nothing is made of it unless it comes to nothing there.
    at: Option<(Arc<EndpointClient>, Instant)>,
    tried: Vec<EndpointKey>,
    // If somebody else has to know where it is.
    trail: Option<Trail>,
    // Whether it is a part of one that somebody else holds, with the log: what it has to say goes to the trail.
    is_part: bool,
    log: AttemptLog,
    // If hops tell each other of retries.
    hints: Option<Arc<Hints>>,
    // If it is a gRPC call.
    grpc: Option<GrpcUntil>,
}

/// A request that can be sent again: its head, and its body as far as it is here.
pub(crate) struct Replay {
    head: Head,
    body: Kept,
}

/// The head of a request, for a second time that most never need.
struct Head {
    method: Method,
    uri: Uri,
    version: Version,
    headers: Lines,
    extensions: Extensions,
}

/// Headers as bytes, one after the other, each behind its lengths. Copies of names and values share what they are of, which
/// takes no less time for so few bytes, and as much again when they are dropped.
struct Lines(Vec<u8>);

enum Kept {
    Whole(Bytes),
    /// Kept as it streams, while it is short enough.
    Streamed(ReplayBody<Body>),
}

impl Outgoing {
    pub(crate) fn new(req: Request<Body>) -> Self {
        Self {
            req: Some(req),
            at: None,
            tried: Vec::new(),
            trail: None,
            is_part: false,
            log: AttemptLog::default(),
            hints: None,
            grpc: None,
        }
    }

    /// A part of the one that has this trail.
    pub(super) fn on(req: Request<Body>, trail: Option<Trail>) -> Self {
        Self { trail, is_part: true, ..Self::new(req) }
    }

    /// The trail of this attempt, which begins here if it has none.
    pub(super) fn trail(&mut self) -> &Trail {
        self.trail.get_or_insert_with(|| Trail::new(&self.tried))
    }

    /// The request, while it is here.
    pub(crate) fn request(&self) -> Option<&Request<Body>> {
        self.req.as_ref()
    }

    /// Whether nobody has taken it, or it came back.
    pub(super) fn is_here(&self) -> bool {
        self.req.is_some()
    }

    pub(super) fn request_mut(&mut self) -> Option<&mut Request<Body>> {
        self.req.as_mut()
    }

    /// Heeds from now on what hops tell each other of retries.
    pub(super) fn heed_hints(&mut self) {
        self.hints = self.req.as_mut().map(Hints::take);
    }

    pub(super) fn hints(&self) -> Option<&Arc<Hints>> {
        self.hints.as_ref()
    }

    /// Says of a failure that the request was sent as often as it should be, if it was more than once or `is_final`.
    pub(super) fn finish(
        &self,
        result: Result<Response<Body>, Error>,
        is_final: bool,
    ) -> Result<Response<Body>, Error> {
        if self.hints.as_ref().is_some_and(|hints| is_final || hints.has_retried()) { finish(result) } else { result }
    }

    /// Until when it is wanted, if it is a gRPC call.
    pub(super) fn grpc(&self) -> Option<GrpcUntil> {
        self.grpc
    }

    pub(super) fn set_grpc(&mut self, grpc: Option<GrpcUntil>) {
        self.grpc = grpc;
    }

    /// Takes it, to be sent. It is here, but for a caller that sends it twice.
    pub(crate) fn take(&mut self) -> Result<Request<Body>, Error> {
        self.req.take().ok_or_else(|| Error::new(ErrorKind::Layer).with_text("a request was sent twice"))
    }

    /// Sends this one next.
    pub(crate) fn put(&mut self, req: Request<Body>) {
        self.req = Some(req);
    }

    /// Notes where it is, and since when.
    pub(super) fn arrive(&mut self, endpoint: Arc<EndpointClient>, begun: Instant) -> &Arc<EndpointClient> {
        if let Some(trail) = &self.trail {
            trail.arrive(&endpoint.key, begun);
        }
        &self.at.insert((endpoint, begun)).0
    }

    /// How many attempts at it came to nothing.
    #[cfg(feature = "server")]
    pub(super) fn made(&self) -> u32 {
        self.log.tried().len() as u32 + self.log.omitted()
    }

    /// Whether it is a hedge.
    #[cfg(feature = "server")]
    pub(super) fn is_hedge(&self) -> bool {
        self.trail.as_ref().is_some_and(|trail| trail.leg() == Leg::Hedge)
    }

    /// Where it is, or was last.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.at.as_ref().map(|(endpoint, _)| endpoint.key.addr)
    }

    /// Notes that it came to nothing where it was: another endpoint is preferred from now on.
    pub(super) fn leave(&mut self) -> Option<SocketAddr> {
        let left = self.trail.as_ref().and_then(Trail::leave);
        let Some((endpoint, _)) = self.at.take() else { return left };
        note(&mut self.tried, &endpoint.key);
        Some(endpoint.key.addr)
    }

    /// Where it came to nothing, and where its other leg is.
    pub(super) fn tried(&mut self) -> &[EndpointKey] {
        if let Some(trail) = &self.trail {
            trail.gather(&mut self.tried);
        }
        &self.tried
    }

    /// Notes whether there is more than one place to go.
    pub(super) fn choose(&self, has_elsewhere: bool) {
        if let Some(trail) = &self.trail {
            trail.choose(has_elsewhere);
        }
    }

    /// Whether it has no business at an endpoint: it is a hedge, which is for elsewhere or not at all.
    pub(super) fn keeps_off(&mut self, key: &EndpointKey) -> bool {
        self.trail.as_ref().is_some_and(|trail| trail.leg() == Leg::Hedge) && self.tried().contains(key)
    }

    /// Writes an attempt down that failed.
    pub(super) fn failed(&mut self, outcome: AttemptOutcome, took: Duration) {
        let endpoint = self.leave();
        if let Some(trail) = self.trail.take() {
            trail.gather(&mut self.tried);
            if trail.write_failed(&mut self.log) {
                return;
            }
        }
        self.log.push(endpoint, outcome, took);
    }

    /// Writes down that it came back from an endpoint, of which the attempt may have others.
    pub(super) fn came_back(&mut self, outcome: AttemptOutcome, took: Duration) {
        let endpoint = self.leave();
        if let Some(trail) = &self.trail {
            if self.is_part {
                return trail.came_back(endpoint, outcome, took);
            }
            trail.write_failed(&mut self.log);
        }
        self.log.push(endpoint, outcome, took);
    }

    /// What was tried, when there is no time for more.
    pub(super) fn expired(&mut self, now: Instant) -> AttemptLog {
        let at = self.at.take();
        if let Some(trail) = self.trail.take() {
            trail.write_failed(&mut self.log);
            trail.write_under_way(now, &mut self.log);
        } else if let Some((endpoint, begun)) = at {
            self.log.push(Some(endpoint.key.addr), AttemptOutcome::UnderWay, now - begun);
        }
        std::mem::take(&mut self.log)
    }

    /// What was tried, when it was too late for what should have come next.
    pub(super) fn overdue(&mut self) -> AttemptLog {
        if let Some(trail) = self.trail.take() {
            trail.write_failed(&mut self.log);
        }
        self.stopped(Stop::Deadline)
    }

    /// What was tried, and why there is no more.
    pub(super) fn stopped(&mut self, stop: Stop) -> AttemptLog {
        self.log.end(stop);
        std::mem::take(&mut self.log)
    }
}

impl Replay {
    /// Keeps a request whose body is all here. A streamed one is not kept: it can be sent once.
    pub(crate) fn of(req: &Request<Body>) -> Option<Self> {
        let body = Kept::Whole(req.body().as_bytes()?);
        Some(Self { head: Head::of(req), body })
    }

    /// Keeps a request, and what streams through it up to so many bytes.
    pub(super) fn keep(req: &mut Request<Body>, max_bytes: usize, memory: &ReplayMemory) -> Option<Self> {
        let kept = Self::of(req);
        // One that is known to be too long would only be looked at frame by frame.
        if kept.is_some() || max_bytes == 0 || req.body().size_hint().lower() > max_bytes as u64 {
            return kept;
        }
        let body = ReplayBody::new(std::mem::take(req.body_mut()), max_bytes, memory);
        *req.body_mut() = streamed(body.clone());
        Some(Self { head: Head::of(req), body: Kept::Streamed(body) })
    }

    /// Whether all of it is here that was sent so far.
    pub(super) fn is_whole(&self) -> bool {
        match &self.body {
            Kept::Whole(_) => true,
            Kept::Streamed(body) => body.is_whole(),
        }
    }

    /// Whether it may be on its way twice at once: sending it twice is as good as once, and its body is not read from
    /// somewhere, which can only be read by one.
    pub(super) fn may_be_hedged(&self) -> bool {
        let is_here = matches!(self.body, Kept::Whole(_));
        is_here && (self.head.method.is_idempotent() || self.is_keyed()) && self.head.get(&UPGRADE).is_none()
    }

    /// The request once more, if it is whole.
    pub(super) fn request(&self) -> Option<Request<Body>> {
        let body = match &self.body {
            Kept::Whole(bytes) => Body::from(bytes.clone()),
            Kept::Streamed(body) if body.is_whole() => streamed(body.clone()),
            Kept::Streamed(_) => return None,
        };
        Some(self.head.request(body))
    }

    /// Whether its sender says that sending it twice is as good as once, though its method does not.
    pub(super) fn is_keyed(&self) -> bool {
        matches!(self.head.method, Method::POST | Method::PATCH)
            && self.head.get(&IDEMPOTENCY_KEY).is_some_and(|key| !key.is_empty())
    }
}

impl Head {
    fn of(req: &Request<Body>) -> Self {
        let headers = Lines::of(req.headers());
        // An empty map that was in use once would be copied with its table.
        let extensions = if req.extensions().is_empty() { Extensions::new() } else { req.extensions().clone() };
        Self { method: req.method().clone(), uri: req.uri().clone(), version: req.version(), headers, extensions }
    }

    /// The first value of a header.
    fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        self.headers.iter().find(|line| line.name == name.as_str().as_bytes()).map(|line| line.value)
    }

    fn request(&self, body: Body) -> Request<Body> {
        let mut req = Request::new(body);
        *req.method_mut() = self.method.clone();
        *req.uri_mut() = self.uri.clone();
        *req.version_mut() = self.version;
        self.headers.write(req.headers_mut());
        *req.extensions_mut() = self.extensions.clone();
        req
    }
}

/// A header of [`Lines`].
struct Line<'a> {
    name: &'a [u8],
    value: &'a [u8],
    is_sensitive: bool,
}

impl Lines {
    fn of(headers: &HeaderMap) -> Self {
        // Enough for most.
        let mut bytes = Vec::with_capacity(48 * headers.len());
        for (name, value) in headers {
            let name = name.as_str().as_bytes();
            // A name has at most 64 KiB.
            let lengths = (value.len() as u64) << 32 | u64::from(value.is_sensitive()) << 16 | name.len() as u64;
            bytes.extend_from_slice(&lengths.to_ne_bytes());
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value.as_bytes());
        }
        Self(bytes)
    }

    fn iter(&self) -> impl Iterator<Item = Line<'_>> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (lengths, line) = rest.split_first_chunk()?;
            let lengths = u64::from_ne_bytes(*lengths);
            let (name, line) = line.split_at_checked(usize::from(lengths as u16))?;
            let (value, after) = line.split_at_checked((lengths >> 32) as usize)?;
            rest = after;
            Some(Line { name, value, is_sensitive: lengths >> 16 & 1 != 0 })
        })
    }

    fn write(&self, headers: &mut HeaderMap) {
        headers.reserve(self.iter().count());
        for Line { name, value, is_sensitive } in self.iter() {
            // They were names and values before.
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                value.set_sensitive(is_sensitive);
                headers.append(name, value);
            }
        }
    }
}

fn streamed(body: ReplayBody<Body>) -> Body {
    Body::new(body.map_err(|error| match error {
        ReplayError::Body(error) => error,
        error => BoxError::from(error.to_string()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_time_has_the_headers_of_the_first() {
        let mut req = Request::new(Body::empty());
        let headers = req.headers_mut();
        for (name, value) in [("host", "a"), ("x-a", "1"), ("x-b", ""), ("x-a", "\u{e9}\t2")] {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let mut secret = HeaderValue::from_static("s");
        secret.set_sensitive(true);
        headers.insert("authorization", secret);
        let again = Head::of(&req).request(Body::empty());
        assert_eq!(again.headers(), req.headers());
        assert!(again.headers()["authorization"].is_sensitive() && !again.headers()["host"].is_sensitive());
        assert_eq!(Head::of(&again).get(&IDEMPOTENCY_KEY), None);
        assert_eq!(Head::of(&again).get(&http::header::HOST), Some(&b"a"[..]));
    }
}
