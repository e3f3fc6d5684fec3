//! One stream of a client: from its request to a service's response, or to a reset.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, TE},
};
use http_body::Body as _;

use super::{Stream, fault, is_of_a_connection, pipe::Pipe};
use crate::{
    Body, Error, ErrorKind,
    http::{
        detail,
        headers::{self, Scan},
        serve::{Peer, Refusal, Shared, Visit, is_ours},
    },
    telemetry::ServerStats,
};

/// How a request is answered: by a response or a reset, and what went wrong if something did.
type Answer = (Result<Response<Body>, Reason>, Option<Error>);

/// Serves one stream. When the client gives it up, or its connection ends, so does the request.
pub(super) async fn answer(peer: Arc<Peer>, req: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let begun = now();
    let is_head = req.method() == Method::HEAD;
    let mut visit = Visit::begin(&peer);
    let answer = {
        let mut served = pin!(serve(&peer, req, &mut visit));
        let answered = poll_fn(|cx| match served.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        });
        answered.await
    };
    let shared = &*peer.shared;
    let mut ended = Ended { stats: shared.stats.as_ref(), begun, status: None, class: None };
    match answer {
        // It is no longer wanted: there is nobody to count it for.
        None => {}
        Some((Err(reason), error)) => {
            respond.send_reset(reason);
            ended.record(false, error.as_ref());
        }
        Some((Ok(rsp), error)) => {
            let (parts, body) = rsp.into_parts();
            ended.status = Some(parts.status);
            ended.class = parts.headers.get(&headers::L5D_SUCCESS_CLASS).map(is_success);
            let has_body = !is_head && !body.is_end_stream();
            let is_whole = match respond.send_response(Response::from_parts(parts, ()), !has_body) {
                Ok(stream) if has_body => send(body, stream, shared, &mut ended.class).await,
                sent => sent.is_ok(),
            };
            ended.record(is_whole, error.as_ref());
        }
    }
}

/// Sends the body of a response: whether all of it went.
async fn send(body: Body, stream: SendStream<Bytes>, shared: &Shared, class: &mut Option<bool>) -> bool {
    let clears = shared.config.clear_context;
    let see = |trailers: &mut HeaderMap| {
        *class = trailers.get(&headers::L5D_SUCCESS_CLASS).map(is_success).or(*class);
        if clears {
            headers::remove_l5d(trailers);
        }
    };
    Pipe::new(body, stream, Reason::INTERNAL_ERROR, see).await
}

async fn serve(peer: &Arc<Peer>, req: Request<RecvStream>, visit: &mut Visit) -> Answer {
    let shared = &*peer.shared;
    if !visit.take_place() {
        if let Some(stats) = &shared.stats {
            stats.nacks.incr();
        }
        return (Err(Reason::REFUSED_STREAM), None);
    }
    let (mut parts, recv) = req.into_parts();
    let scan = Scan::of(&parts.headers);
    if scan.saw(Scan::HOP_BY_HOP) && is_of_a_connection(&parts.headers) {
        return (Err(Reason::PROTOCOL_ERROR), None);
    }
    // The only value that h2 lets through.
    let takes_trailers = scan.saw(Scan::TE);
    let wants_detail = shared.config.wants_detail(&parts.headers, scan);
    let body = Body::stream(Stream::new(recv, &parts.headers));
    let result = match peer.admit(&mut parts, scan) {
        Ok(cx) => {
            parts.extensions.insert(cx);
            peer.send(Request::from_parts(parts, body), Duration::ZERO).await
        }
        Err(Refusal::Failed(error)) => Err(error),
        Err(Refusal::Unreadable(status)) => {
            let mut rsp = Response::new(Body::empty());
            *rsp.status_mut() = status;
            return (Ok(rsp), None);
        }
    };
    let (mut rsp, error) = match result {
        Ok(mut rsp) => {
            pass(&mut rsp, shared, takes_trailers);
            (rsp, None)
        }
        Err(error) => {
            if let Some(reason) = reset(&error) {
                tracing::debug!(%error, "request failed");
                return (Err(reason), Some(error));
            }
            (shared.failed(&error), Some(error))
        }
    };
    if wants_detail {
        detail::write(&mut rsp, error.as_ref(), shared.config.error_limits.max_header_bytes);
    }
    shared.clear(&mut rsp);
    complete(&mut rsp);
    (Ok(rsp), error)
}

/// The reset that stands for an error; `None` for one that is told by a response.
fn reset(error: &Error) -> Option<Reason> {
    match error.kind() {
        ErrorKind::BadHeader
        | ErrorKind::TooManyHops
        | ErrorKind::BadRequest
        | ErrorKind::NoSuchName
        | ErrorKind::NoEndpoints
        | ErrorKind::Binding
        | ErrorKind::Connect
        | ErrorKind::Deadline
        | ErrorKind::Layer => None,
        ErrorKind::Unidentified | ErrorKind::Overloaded | ErrorKind::Refused => Some(Reason::REFUSED_STREAM),
        ErrorKind::RequestBody => Some(fault::reason(error, Reason::CANCEL)),
        ErrorKind::Closed | ErrorKind::BadResponse | ErrorKind::AttemptTimeout | ErrorKind::TotalTimeout => {
            Some(fault::reason(error, Reason::INTERNAL_ERROR))
        }
    }
}

/// A response on its way to the client: what ends at this hop is out, and the way it came is in.
fn pass(rsp: &mut Response<Body>, shared: &Shared, takes_trailers: bool) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    let version = rsp.version();
    let is_open = !rsp.headers().contains_key(&headers::L5D_SUCCESS_CLASS) && !rsp.body().is_end_stream();
    let headers = rsp.headers_mut();
    if version != Version::HTTP_2 {
        headers::strip_hop_by_hop(headers);
        headers.remove(KEEP_ALIVE);
        headers.remove(PROXY_CONNECTION);
    }
    if shared.config.via {
        headers::append_via(headers, version);
    }
    // Its class comes in the trailers: so Linkerd 1 says it, to who asks for them.
    if is_open && takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Says how long the body is, if that is known.
fn complete(rsp: &mut Response<Body>) {
    if let Some(len) = rsp.body().size_hint().exact().filter(|len| *len > 0)
        && !rsp.headers().contains_key(CONTENT_LENGTH)
        && !matches!(rsp.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        rsp.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
    }
}

/// What is counted of a request when its stream has ended.
struct Ended<'a> {
    stats: Option<&'a ServerStats>,
    begun: Instant,
    status: Option<StatusCode>,
    /// What our own classifier, or the next proxy, made of it.
    class: Option<bool>,
}

impl Ended<'_> {
    fn record(&self, is_whole: bool, error: Option<&Error>) {
        let Some(stats) = self.stats else { return };
        let elapsed = now() - self.begun;
        if let Some(error) = error.filter(|error| is_ours(error)) {
            stats.timeouts.record(error);
        }
        stats.status.record(self.status, elapsed);
        let is_failure = self.status.is_none_or(|status| status.is_server_error());
        if is_whole && self.class.unwrap_or(!is_failure) {
            stats.requests.succeeded(elapsed);
        } else {
            let reason = error.filter(|error| error.kind() == ErrorKind::Unidentified);
            stats.requests.failed(reason, elapsed);
        }
    }
}

/// What an `l5d-success-class` says; what is no number is a failure.
fn is_success(class: &HeaderValue) -> bool {
    class.to_str().ok().and_then(|class| class.trim().parse().ok()).is_some_and(|class: f64| class > 0.0)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
