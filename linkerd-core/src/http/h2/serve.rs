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
    request,
};
use http_body::Body as _;

use super::{Stream, fault, hide_trailer, interim, is_of_a_connection, pipe::Pipe, show_trailer, watched::Turn};
use crate::{
    Body, Error, ErrorKind,
    access_log::Record,
    http::{
        deadline::is_grpc,
        detail,
        headers::{self, Scan},
        respond::grpc_error_response,
        serve::{Peer, Refusal, Shared, Visit, is_ours},
    },
    telemetry::{Direction, Exchange, Half, Refused, ServerStats, Side},
};

/// How a request is answered: by a response or a reset, and what went wrong if something did.
type Answer = (Result<Response<Body>, Reason>, Option<Error>);

/// Serves one stream. When the client gives it up, or its connection ends, so does the request.
pub(super) async fn answer(
    peer: Arc<Peer>,
    req: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    _until_the_end: Turn,
) {
    let begun = now();
    let is_head = req.method() == Method::HEAD;
    let mut visit = Visit::begin(&peer);
    let (parts, recv) = req.into_parts();
    let mut noted = peer.note(&parts, begun);
    let shared = &*peer.shared;
    let stats = shared.stats();
    let exchange = stats.map(|stats| Exchange::begin(stats.streams()));
    let answer = {
        let asking = exchange.as_ref().map(|exchange| exchange.half(Direction::Request, Side::Remote));
        let recv = Stream::new(recv, &parts.headers, asking);
        let mut served = pin!(serve(&peer, parts, recv, &mut visit, noted.as_deref_mut()));
        let answered = poll_fn(|cx| {
            let polled = served.as_mut().poll(cx);
            for mut head in interim::take() {
                if shared.config.clear_context {
                    headers::remove_l5d(head.headers_mut());
                }
                // That the stream is over is found out otherwise.
                let _ = respond.send_informational(head);
            }
            match polled {
                Poll::Ready(answer) => Poll::Ready(Ok(answer)),
                Poll::Pending => respond.poll_reset(cx).map(Err),
            }
        });
        interim::scope(answered).await
    };
    let mut ended = Ended { stats, begun, status: None, class: None };
    match answer {
        // It is no longer wanted: there is nobody to count it for.
        Err(ended) => {
            if let Some(exchange) = exchange.filter(|_| ended.is_ok()) {
                exchange.reset(Side::Remote);
            }
        }
        Ok((Err(reason), error)) => {
            respond.send_reset(reason);
            if let Some(exchange) = exchange {
                exchange.reset(Side::Local);
            }
            if let Some(mut noted) = noted {
                noted.reset(error.as_ref());
            }
            ended.record(false, error.as_ref());
        }
        Ok((Ok(mut rsp), error)) => {
            if let Some(noted) = noted {
                noted.answered(&mut rsp, error.as_ref());
            }
            let (parts, body) = rsp.into_parts();
            ended.status = Some(parts.status);
            ended.class = parts.headers.get(&headers::L5D_SUCCESS_CLASS).map(is_success);
            if error.is_some() && parts.status == StatusCode::OK {
                // To a gRPC call: its status does not say so.
                ended.class = Some(false);
            }
            let has_body = !is_head && !body.is_end_stream();
            let mut answering = exchange.map(|exchange| exchange.half(Direction::Response, Side::Local));
            let is_whole = match respond.send_response(Response::from_parts(parts, ()), !has_body) {
                Ok(stream) if has_body => send(body, stream, answering, shared, &mut ended.class).await,
                Ok(_) => {
                    answering.iter_mut().for_each(Half::complete);
                    true
                }
                Err(error) => {
                    if let Some(half) = &mut answering {
                        half.fail(fault::reset_by(&error));
                    }
                    false
                }
            };
            ended.record(is_whole, error.as_ref());
        }
    }
}

/// Sends the body of a response: whether all of it went.
async fn send(
    body: Body,
    stream: SendStream<Bytes>,
    counted: Option<Half>,
    shared: &Shared,
    class: &mut Option<bool>,
) -> bool {
    let clears = shared.config.clear_context;
    let see = |trailers: &mut HeaderMap| {
        *class = trailers.get(&headers::L5D_SUCCESS_CLASS).map(is_success).or(*class);
        if clears {
            headers::remove_l5d(trailers);
        }
    };
    Pipe::new(body, stream, Reason::INTERNAL_ERROR, see).counted(counted).await
}

async fn serve(
    peer: &Arc<Peer>,
    mut parts: request::Parts,
    recv: Stream,
    visit: &mut Visit,
    noted: Option<&mut Record>,
) -> Answer {
    let shared = &*peer.shared;
    if !visit.take_place() {
        if let Some(stats) = shared.stats() {
            stats.nacks.incr();
        }
        return (Err(Reason::REFUSED_STREAM), None);
    }
    let scan = Scan::of(&parts.headers);
    if scan.saw(Scan::HOP_BY_HOP) && is_of_a_connection(&parts.headers) {
        shared.refused(Refused::BadRequest);
        return (Err(Reason::PROTOCOL_ERROR), None);
    }
    // h2 counts the bytes by the first of them.
    if scan.saw(Scan::CONTENT_LENGTH) && !headers::unite(&mut parts.headers, &CONTENT_LENGTH) {
        return (Err(Reason::PROTOCOL_ERROR), None);
    }
    // The only value that h2 lets through.
    let takes_trailers = scan.saw(Scan::TE);
    let wants_detail = shared.config.wants_detail(&parts.headers, scan);
    let is_grpc = is_grpc(&parts.headers);
    let body = shared.cleaned(Body::stream(recv));
    let result = match peer.admit(&mut parts, scan) {
        Ok(cx) => {
            if let Some(noted) = noted {
                noted.carries(&cx);
            }
            parts.extensions.insert(cx);
            if scan.saw(Scan::L5D) {
                show_trailer(&mut parts.headers);
            }
            peer.send(Request::from_parts(parts, body), Duration::ZERO).await
        }
        Err(Refusal::Failed(error)) => Err(error),
        Err(Refusal::Unreadable(status)) => {
            shared.unreadable(status);
            let mut rsp = Response::new(Body::empty());
            *rsp.status_mut() = status;
            if let Some(noted) = noted {
                noted.refused(&rsp);
            }
            return (Ok(rsp), None);
        }
    };
    let (mut rsp, error) = match result {
        Ok(mut rsp) => {
            pass(&mut rsp, shared, takes_trailers);
            (rsp, None)
        }
        Err(error) => {
            // A reset has no room for what more there is to say.
            let says_more = error.is_final() || wants_detail;
            if is_grpc && (is_expiry(&error) || error.is_final()) {
                (grpc_error_response(&error, shared.config.error_limits), Some(error))
            } else if let Some(reason) = reset(&error).filter(|_| !says_more) {
                tracing::debug!(error = %error.chain(), "request failed");
                return (Err(reason), Some(error));
            } else {
                (shared.failed(&error), Some(error))
            }
        }
    };
    if wants_detail {
        detail::write(&mut rsp, error.as_ref(), shared.config.error_limits.max_header_bytes);
    }
    shared.clear(&mut rsp);
    complete(&mut rsp);
    (Ok(rsp), error)
}

/// Whether its time was over.
fn is_expiry(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Deadline | ErrorKind::TotalTimeout | ErrorKind::AttemptTimeout)
}

/// The reset that stands for an error; `None` for one that is told by a response.
fn reset(error: &Error) -> Option<Reason> {
    match error.kind() {
        ErrorKind::BadHeader
        | ErrorKind::TooManyHops
        | ErrorKind::BadRequest
        | ErrorKind::NoSuchName
        | ErrorKind::NoEndpoints
        | ErrorKind::AllTripped
        | ErrorKind::AllConnecting
        | ErrorKind::Binding
        | ErrorKind::Connect
        | ErrorKind::Deadline
        | ErrorKind::Layer => None,
        ErrorKind::Unidentified | ErrorKind::Overloaded | ErrorKind::Refused => Some(Reason::REFUSED_STREAM),
        ErrorKind::RequestBody | ErrorKind::Closed => Some(fault::reason(error, Reason::CANCEL)),
        ErrorKind::BadResponse | ErrorKind::AttemptTimeout | ErrorKind::TotalTimeout => {
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
    hide_trailer(headers);
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
