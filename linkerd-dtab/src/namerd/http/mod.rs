//! namerd's HTTP interface (`io.l5d.httpController`): tables, and the names bound under them, as JSON and text.
//!
//! | request | answer |
//! |---|---|
//! | `GET`, `HEAD /api/1/dtabs`, `POST` as namerd 1.7.5 | the namespaces |
//! | `GET`, `HEAD /api/1/dtabs/NS` | its table, as `Accept` says; its version is the `ETag`; 304 by `If-None-Match`, 412 by `If-Match` |
//! | `POST /api/1/dtabs/NS` | creates it: 204, or 409 if it is there already |
//! | `PUT /api/1/dtabs/NS` | writes it: 204; with `If-Match` 412 if it has another version; with `If-None-Match: *` 412 if it is there |
//! | `DELETE /api/1/dtabs/NS` | deletes it: 204, or 404; conditions as for `PUT` with `Prefer: handling=strict`, without it none, as namerd 1.7.5 |
//! | any `/api/1/bind/NS?path=P[&dtab=D]` | the bound tree |
//! | any `/api/1/addr/NS?path=ID` | the addresses of a bound name |
//! | any `/api/1/resolve/NS?path=P[&dtab=D]` | the addresses of one leaf of the bound tree, picked by weight |
//! | any `/api/1/delegate/NS?path=P[&dtab=D]` | how the name is bound, step by step |
//! | `GET`, `POST /api/1/delegate` | the same; the table is in the request, a namespace may be |
//! | `GET`, `HEAD /api/1/bound-names` | the bound names that namers can list |
//!
//! | `GET /api/1/history/NS[?limit=N]` | its last changes, newest first, as JSON; of a composed one those of its parts, each with its `namespace` |
//! | `GET /api/1/diff/NS?from=SEQ[&to=SEQ]` | what is different between two of them, as text; `to` is the newest by default |
//! | `POST /api/1/rollback/NS?to=SEQ[&automatic=true]` | goes back to what it was after one of them: 204; conditions as for `PUT`; the history says if a program did |
//! | `POST /api/1/plan/NS[?names=N,N]` | what the table in the body would move: the names, their shares before and after |
//! | `POST /api/1/check/NS` | what is wrong with the table in the body |
//!
//! A change says why in `l5d-reason`. With `Prefer: etag` the answer has the version that results as its `ETag`; what is odd
//! about the table, or about what becomes of names in use, comes in `Warning` headers.
//!
//! All that is read may be followed with `watch=true`: a body without an end has a document a line, one for each change
//! that the reader keeps up with. Nothing is written ahead: a slow reader gets the last state. The watch ends when the body
//! is dropped; a name that cannot be bound at all ends it with a line that says why. There are no heartbeats: who needs to
//! know that a silent namerd is alive lets TCP or HTTP/2 find out.
//!
//! Answers are those of namerd 1.7.5, but for a text that says what is wrong where that had an empty 500. Where in a name or a
//! table something is wrong, and which parameter has it, is told in a `Warning`. A namespace that
//! does not exist has an empty table. Requests need no `Host`.

mod changes;
mod delegate;
mod dtab_body;
mod dtabs;
mod list;
mod names;
mod params;
mod read;
mod reply;
mod route;
mod stream;
mod tags;

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use tower_service::Service;

use self::{
    list::BoundNames,
    params::Params,
    reply::{Answer, Problem},
    route::Route,
};
use super::{Meter, Namerd, Peer, Session};
use crate::transport::{Body, full};

/// The longest table in a request, in bytes: 1 MiB. A longer one is answered with 413.
///
/// A body is read only where it has a meaning, once it is known that the peer may ask so, within ten seconds (408), and
/// within what [`Limits`](super::Limits) has for all that is being read (429).
pub const MAX_BODY: usize = 1 << 20;

/// The longest body of a question, which has a name and a small table, in bytes: 256 KiB.
pub const MAX_QUESTION: usize = 256 << 10;

/// What is not known after this time is answered with 503, unless it is watched. Linkerd waits that long for a binding.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// What is not explained after this time is answered with 503.
pub const DELEGATE_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers HTTP requests about a [`Namerd`]. A clone is the same service.
///
/// Who asks is the [`Peer`] in the extensions of a request, anonymous without one; a bearer token in `Authorization` is
/// added to it. The header `l5d-reason` says why a change is made.
#[derive(Clone)]
pub struct Controller {
    namerd: Namerd,
    bound_names: Arc<BoundNames>,
    meter: Meter,
}

/// What a [`Controller`] answers with. It never fails.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Controller {
    /// The HTTP interface of this namerd.
    #[must_use]
    pub fn new(namerd: Namerd) -> Self {
        let bound_names = Arc::new(BoundNames::new(namerd.clone()));
        Self { namerd, bound_names, meter: Meter::default() }
    }

    /// Counts in `meter` what is asked, and how it is answered.
    #[must_use]
    pub fn metered(self, meter: Meter) -> Self {
        Self { meter, ..self }
    }

    async fn answer<B>(self, req: Request<B>) -> Response<Body>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: fmt::Display,
    {
        let (head, body) = req.into_parts();
        let session = self.namerd.session(peer(&head));
        let reason = head.headers.get(changes::REASON).map(|reason| String::from_utf8_lossy(reason.as_bytes()));
        let session = reason.map_or(session.clone(), |reason| session.because(&reason));
        self.meter.request();
        let rsp = self.routed(session, &head, body).await.unwrap_or_else(Problem::answer);
        if let Some(reason) = reply::reason(rsp.status()) {
            self.meter.failed(reason);
        }
        if head.method == Method::HEAD { without_body(rsp) } else { rsp }
    }

    async fn routed<B>(&self, session: Session, head: &Parts, body: B) -> Answer
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: fmt::Display,
    {
        let route = Route::of(head.uri.path());
        let limit = read::wanted(&session, head, &route)?;
        let read = read::read(body, limit, session.reading()).await?;
        let is_watch = Params::of(&head.uri).is_ok_and(|params| params.watch());
        let session = if is_watch { session } else { session.once() };
        let answer = match route {
            Route::Namespaces => dtabs::list(&session, head).await,
            Route::Dtab(namespace) => dtabs::serve(&session, head, &namespace, read.bytes()).await,
            Route::Bind(namespace) => names::bind(&self.namerd, &session, head, &namespace).await,
            Route::Addr(namespace) => names::addr(&session, head, &namespace).await,
            Route::Resolve(namespace) => names::resolve(&self.namerd, &session, head, &namespace).await,
            Route::Delegate(namespace) => delegate::serve(&self.namerd, &session, head, &namespace).await,
            Route::DelegateAny => delegate::ask(&self.namerd, &session, head, read.bytes()).await,
            Route::BoundNames => self.bound_names.serve(&session, head).await,
            Route::Change(change, namespace) => changes::serve(&session, head, change, &namespace, read.bytes()).await,
            Route::Unknown => Ok(reply::empty(StatusCode::NOT_FOUND)),
        };
        // Whatever has no end yet.
        answer.map(|rsp| match http_body::Body::size_hint(rsp.body()).exact() {
            Some(_) => rsp,
            None => self.streamed(rsp),
        })
    }

    fn streamed(&self, rsp: Response<Body>) -> Response<Body> {
        let streaming = self.meter.stream();
        rsp.map(|body| {
            let counted = body.map_frame(move |frame| {
                let _counted = &streaming;
                frame
            });
            counted.boxed_unsync()
        })
    }
}

impl<B> Service<Request<B>> for Controller
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: fmt::Display,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Request<B>) -> ResponseFuture {
        let answer = self.clone().answer(req);
        Box::pin(async move { Ok(answer.await) })
    }
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").field("namerd", &self.namerd).finish_non_exhaustive()
    }
}

/// Who asks: what the listener knows, and the token of the request.
fn peer(head: &Parts) -> Peer {
    let mut peer = head.extensions.get::<Peer>().cloned().unwrap_or_default();
    let given = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some((scheme, token)) = given.and_then(|given| given.split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
    {
        peer.token = Some(token.trim().into());
    }
    peer
}

/// The answer to `HEAD`: the length is that of the body that is not sent.
fn without_body(mut rsp: Response<Body>) -> Response<Body> {
    let length = http_body::Body::size_hint(rsp.body()).exact();
    if let Some(length) = length
        && rsp.status() == StatusCode::OK
    {
        rsp.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    *rsp.body_mut() = full(Bytes::new());
    rsp
}
