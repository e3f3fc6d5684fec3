//! What tests put in the place of the world: a namer that says what it is told to, and endpoints that follow a script.
//!
//! ```
//! # use linkerd_core::{Mesh, testing::{FakeNamer, Reply, Scripted}};
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (namer, endpoints) = (FakeNamer::new(), Scripted::new());
//! let mesh = Mesh::builder()
//!     .namer("/#/fake", namer.clone())
//!     .connect(endpoints.clone())
//!     .dtab("/svc => /#/fake".parse()?)
//!     .build()?;
//! let addr = "10.0.0.1:80".parse()?;
//! namer.endpoints("/users", [addr]);
//! endpoints.script(addr, [Reply::unsent(), Reply::ok("hello")]);
//!
//! let rsp = mesh.client("/svc/users")?.send(http::Request::get("/").body("")?).await?;
//! assert_eq!(rsp.status(), 200);
//! assert_eq!(endpoints.seen(addr).len(), 2);
//! # Ok(())
//! # }
//! ```

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Frame;
use linkerd_dtab::{Activity, Addr, Bound, Endpoint, Failure, Name, NameTree, Namer, Path, Publisher};

use crate::{
    Body, BoxError, Error, ErrorKind, Reset, Svc,
    body::{BodyEnd, Rider},
    http::Connect,
    svc::{Call, SvcFuture},
};

/// A namer whose answers are changed by hand. A clone is the same namer.
///
/// What nothing was said of is pending. Mounted at `/#/fake`, the name `/users` here is `/#/fake/users` for others.
///
/// # Panics
///
/// Its methods, on text that is no path or tree: it is for tests.
#[derive(Clone, Default)]
pub struct FakeNamer(Arc<Names>);

#[derive(Default)]
struct Names {
    trees: Mutex<HashMap<Path, Publisher<NameTree<Name>>>>,
    addrs: Mutex<HashMap<Path, Publisher<Addr>>>,
}

/// A failure with a text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

impl FakeNamer {
    /// A namer that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `name` stands for this tree from now on: `3 * /a & /b`, `~`, `!`, `$`. Its leaves are bound; where they are,
    /// [`addrs`](Self::addrs) says.
    pub fn tree(&self, name: &str, tree: &str) {
        let tree: NameTree<Path> = parsed(tree);
        let bound = tree.map(&mut |id| Name::Bound(self.bound(&id, &Path::default())));
        self.name(name, |publisher| publisher.ok(bound));
    }

    /// `name` stands for the bound name `id`, with `residual` left over.
    pub fn residual(&self, name: &str, id: &str, residual: &str) {
        let bound = Name::Bound(self.bound(&parsed(id), &parsed(residual)));
        self.name(name, |publisher| publisher.ok(NameTree::Leaf(bound)));
    }

    /// `name` stands for itself, bound, with these endpoints.
    pub fn endpoints(&self, name: &str, endpoints: impl IntoIterator<Item = SocketAddr>) {
        self.addrs(name, endpoints);
        self.tree(name, name);
    }

    /// Nothing can be said of `name`, for this reason.
    pub fn fail(&self, name: &str, why: &str) {
        self.name(name, |publisher| publisher.failed(said(why)));
    }

    /// The bound name `id` has these endpoints.
    pub fn addrs(&self, id: &str, endpoints: impl IntoIterator<Item = SocketAddr>) {
        self.addr(id, Addr::of(endpoints));
    }

    /// The bound name `id` has this address.
    pub fn addr(&self, id: &str, addr: Addr) {
        lock(&self.0.addrs).entry(parsed(id)).or_insert_with(pending).ok(addr);
    }

    /// Nothing can be said of the address of the bound name `id`, for this reason.
    pub fn fail_addr(&self, id: &str, why: &str) {
        lock(&self.0.addrs).entry(parsed(id)).or_insert_with(pending).failed(said(why));
    }

    /// The next one who looks `id` up gets a watch of its own, which knows only what is said after this.
    pub fn forget_addr(&self, id: &str) {
        lock(&self.0.addrs).remove(&parsed::<Path>(id));
    }

    /// Whether anybody watches what `name` stands for.
    #[must_use]
    pub fn is_watched(&self, name: &str) -> bool {
        lock(&self.0.trees).get(&parsed::<Path>(name)).is_some_and(|publisher| !publisher.is_closed())
    }

    /// Whether anybody watches the address of the bound name `id`.
    ///
    /// The tree of a name that stands for it does.
    #[must_use]
    pub fn is_addr_watched(&self, id: &str) -> bool {
        lock(&self.0.addrs).get(&parsed::<Path>(id)).is_some_and(|publisher| !publisher.is_closed())
    }

    fn bound(&self, id: &Path, residual: &Path) -> Bound {
        let addr = lock(&self.0.addrs).entry(id.clone()).or_insert_with(pending).subscribe();
        Bound::new(id.clone(), residual.clone(), addr)
    }

    fn name(&self, name: &str, say: impl FnOnce(&Publisher<NameTree<Name>>)) {
        say(lock(&self.0.trees).entry(parsed(name)).or_insert_with(pending));
    }
}

impl Namer for FakeNamer {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        lock(&self.0.trees).entry(path.clone()).or_insert_with(pending).subscribe()
    }
}

fn pending<T: Clone + Send + Sync + 'static>() -> Publisher<T> {
    Activity::channel().0
}

fn said(why: &str) -> Failure {
    Arc::new(Said(why.to_owned()))
}

fn parsed<T: std::str::FromStr<Err: fmt::Display>>(text: &str) -> T {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// Endpoints that answer by a script, and write down what they saw. A clone is the same endpoints.
///
/// One without a script answers 200, with nothing in it.
#[derive(Clone, Default)]
pub struct Scripted(Arc<Mutex<HashMap<SocketAddr, Actor>>>);

#[derive(Default)]
struct Actor {
    replies: Vec<Reply>,
    next: usize,
    in_flight: usize,
    seen: Vec<Seen>,
}

/// What an endpoint does with a request.
#[derive(Clone, Debug)]
pub struct Reply {
    after: Duration,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Respond { status: StatusCode, headers: HeaderMap, body: Bytes, streamed: Option<Duration>, end: Option<Ending> },
    Fail { kind: ErrorKind, never_sent: bool, hands_back: bool },
    Hang,
    Panic,
}

/// How a body ends that does not just end. In a box: few have one.
type Ending = Box<Result<HeaderMap, Reset>>;

/// A request as an endpoint saw it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; `None` if it was a stream, which is not read.
    pub body: Option<Bytes>,
    /// When it came.
    pub at: tokio::time::Instant,
    /// What became of it.
    pub end: End,
}

/// What became of a request at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// There is no answer yet, or its body was not read whole so far.
    Open,
    /// The answer was read whole, so that a connection could have been used again.
    Complete,
    /// The caller went away before the answer, or before its end.
    Dropped,
    /// It got no answer.
    Failed,
}

impl Scripted {
    /// Endpoints without a script.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the endpoint at `addr` does with the next requests, in order; the last one for ever.
    pub fn script(&self, addr: SocketAddr, replies: impl IntoIterator<Item = Reply>) {
        let mut actors = lock(&self.0);
        let actor = actors.entry(addr).or_default();
        actor.replies = replies.into_iter().collect();
        actor.next = 0;
    }

    /// What came to `addr`, in order.
    #[must_use]
    pub fn seen(&self, addr: SocketAddr) -> Vec<Seen> {
        lock(&self.0).get(&addr).map(|actor| actor.seen.clone()).unwrap_or_default()
    }

    /// How many requests came to `addr`.
    #[must_use]
    pub fn count(&self, addr: SocketAddr) -> usize {
        lock(&self.0).get(&addr).map_or(0, |actor| actor.seen.len())
    }

    /// How many requests at `addr` have neither an answer's head, nor an error, nor lost their caller.
    #[must_use]
    pub fn in_flight(&self, addr: SocketAddr) -> usize {
        lock(&self.0).get(&addr).map_or(0, |actor| actor.in_flight)
    }
}

impl Connect for Scripted {
    fn connect(&self, endpoint: &Endpoint) -> Svc {
        Svc::from_call(At { addr: endpoint.addr, all: self.clone() })
    }
}

struct At {
    addr: SocketAddr,
    all: Scripted,
}

/// One request at one endpoint. Dropped before it is through, its caller is gone.
struct Visit {
    at: Arc<At>,
    index: usize,
    in_flight: bool,
}

impl At {
    fn begin(self: &Arc<Self>, req: &Request<Body>) -> (Reply, Visit) {
        let mut actors = lock(&self.all.0);
        let actor = actors.entry(self.addr).or_default();
        let reply = actor.replies.get(actor.next).or_else(|| actor.replies.last()).cloned();
        actor.next += 1;
        actor.in_flight += 1;
        actor.seen.push(Seen {
            method: req.method().clone(),
            uri: req.uri().clone(),
            headers: req.headers().clone(),
            body: req.body().as_bytes(),
            at: tokio::time::Instant::now(),
            end: End::Open,
        });
        (
            reply.unwrap_or_else(|| Reply::ok("")),
            Visit { at: Arc::clone(self), index: actor.seen.len() - 1, in_flight: true },
        )
    }
}

impl Visit {
    fn update(&mut self, end: End) {
        let mut actors = lock(&self.at.all.0);
        let Some(actor) = actors.get_mut(&self.at.addr) else { return };
        if std::mem::take(&mut self.in_flight) {
            actor.in_flight -= 1;
        }
        if actor.seen[self.index].end == End::Open {
            actor.seen[self.index].end = end;
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.update(End::Dropped);
    }
}

impl Call for At {
    fn call(self: Arc<Self>, req: Request<Body>) -> SvcFuture {
        Box::pin(async move {
            let (reply, mut visit) = self.begin(&req);
            if !reply.after.is_zero() {
                tokio::time::sleep(reply.after).await;
            }
            match reply.what {
                What::Respond { status, headers, body, streamed, end } => {
                    let mut rsp = Response::new(match (streamed, end) {
                        (None, None) => Body::from(body),
                        (gap, end) => {
                            let end = end.map(|end| end.map(Frame::trailers).map_err(BoxError::from));
                            let gap = gap.unwrap_or_default();
                            let frames = chunks(body, gap).chain(futures::stream::iter(end));
                            Body::new(http_body_util::StreamBody::new(Box::pin(frames)))
                        }
                    });
                    *rsp.status_mut() = status;
                    *rsp.headers_mut() = headers;
                    visit.update(End::Open);
                    let end = move |how| match how {
                        BodyEnd::Complete => visit.update(End::Complete),
                        BodyEnd::Failed | BodyEnd::Dropped => visit.update(End::Dropped),
                    };
                    rsp.body_mut().ride(Rider::Dyn(Box::new(end)));
                    Ok(rsp)
                }
                What::Fail { kind, never_sent, hands_back } => {
                    visit.update(End::Failed);
                    let error = Error::new(kind).with_never_sent(never_sent);
                    Err(if hands_back { error.with_request(req) } else { error })
                }
                What::Hang => std::future::pending().await,
                What::Panic => panic!("as the script says"),
            }
        })
    }
}

/// A byte at a time, with a pause before each.
fn chunks(body: Bytes, gap: Duration) -> impl futures::Stream<Item = Result<Frame<Bytes>, BoxError>> + Send {
    futures::stream::unfold(body, move |mut left| async move {
        if left.is_empty() {
            return None;
        }
        if !gap.is_zero() {
            tokio::time::sleep(gap).await;
        }
        Some((Ok(Frame::data(left.split_to(1))), left))
    })
}

impl Reply {
    /// 200 with this body.
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self::status(200).body(body)
    }

    /// This status, with an empty body.
    ///
    /// # Panics
    ///
    /// If there is no such status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or_else(|error| panic!("{status}: {error}"));
        Self::what(What::Respond { status, headers: HeaderMap::new(), body: Bytes::new(), streamed: None, end: None })
    }

    /// The same answer with this body.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        if let What::Respond { body, .. } = &mut self.what {
            *body = bytes.into();
        }
        self
    }

    /// The same answer with this header too.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        if let What::Respond { headers, .. } = &mut self.what {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        self
    }

    /// The same answer with its body as a stream of unknown length, a byte at a time, each after `gap`.
    #[must_use]
    pub fn streamed(mut self, gap: Duration) -> Self {
        if let What::Respond { streamed, .. } = &mut self.what {
            *streamed = Some(gap);
        }
        self
    }

    /// The same answer with this trailer too, at the end of a stream.
    #[must_use]
    pub fn trailer(mut self, name: &'static str, value: &'static str) -> Self {
        if let What::Respond { end, .. } = &mut self.what {
            let mut trailers = end.take().and_then(|end| end.ok()).unwrap_or_default();
            trailers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            *end = Some(Box::new(Ok(trailers)));
        }
        self
    }

    /// The same answer, whose body breaks off where it should have ended.
    #[must_use]
    pub fn reset(mut self, reset: Reset) -> Self {
        if let What::Respond { end, .. } = &mut self.what {
            *end = Some(Box::new(Err(reset)));
        }
        self
    }

    /// The same, after a while.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.after = wait;
        self
    }

    /// No connection: nothing was sent, and the request comes back.
    #[must_use]
    pub fn unsent() -> Self {
        Self::what(What::Fail { kind: ErrorKind::Connect, never_sent: true, hands_back: true })
    }

    /// The connection ends before the response.
    #[must_use]
    pub fn closed() -> Self {
        Self::fail(ErrorKind::Closed, false)
    }

    /// An error of this kind.
    #[must_use]
    pub fn fail(kind: ErrorKind, never_sent: bool) -> Self {
        Self::what(What::Fail { kind, never_sent, hands_back: false })
    }

    /// A refusal that may be tried again: Finagle's.
    #[must_use]
    pub fn nack() -> Self {
        Self::status(503).header("finagle-http-nack", "true")
    }

    /// A refusal that may not be tried again.
    #[must_use]
    pub fn nonretryable_nack() -> Self {
        Self::status(503).header("finagle-http-nonretryable-nack", "true")
    }

    /// No answer, ever.
    #[must_use]
    pub fn hang() -> Self {
        Self::what(What::Hang)
    }

    /// A panic.
    #[must_use]
    pub fn panic() -> Self {
        Self::what(What::Panic)
    }

    fn what(what: What) -> Self {
        Self { after: Duration::ZERO, what }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for FakeNamer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FakeNamer").field(&*lock(&self.0.trees)).finish()
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actors = lock(&self.0);
        f.debug_map().entries(actors.iter().map(|(addr, actor)| (addr, actor.seen.len()))).finish()
    }
}
