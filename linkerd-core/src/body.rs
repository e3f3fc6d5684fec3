//! The one body type of requests and responses.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::Incoming;

use linkerd_balance::{LeaseEnd, Mark, Outcome, Permit};

#[cfg(feature = "server")]
use crate::http::trailers::Cleaning;
use crate::{
    BoxError,
    http::{h2, hint, pool::Live},
    stack::{Leg, Open, Places, Trail, Watched, grpc_outcome, now},
};

/// The body of a request or a response: nothing, bytes, a stream from a connection, or any other stream in a box.
///
/// It has one reader, so it is not `Sync`. What ends with a response (the endpoint's lease, a pooled connection) rides
/// on it: it ends when the stream does, or when the body is dropped.
#[derive(Default)]
pub struct Body {
    inner: Inner,
    riders: [Option<Rider>; 2],
    pub(crate) resend: Resend,
    // Below client layers: what its request has to know of where it is. Lost like `resend`. In two, which takes less room.
    trail: Option<Arc<Places>>,
    leg: Leg,
    // Of a response, which has not failed yet.
    is_answer: bool,
    // What its trailers may not say.
    #[cfg(feature = "server")]
    cleaning: Option<Cleaning>,
}

#[derive(Default)]
enum Inner {
    #[default]
    Empty,
    Once(Bytes),
    Incoming(Incoming),
    /// The same, of which something was read already. In a box, for it is seldom, and larger than all others.
    Prefixed(Box<(Bytes, Incoming)>),
    /// From a stream of HTTP/2.
    Stream(h2::Stream),
    /// Another one, whose end somebody is told.
    Watched(Box<Watched>),
    /// What is left of an answer that broke off.
    Failed(BoxError),
    Dyn(UnsyncBoxBody<Bytes, BoxError>),
}

/// Who sends a request again that went out on a connection which was closing just then. It goes with the body so that it
/// costs nothing, and is lost with the body where a layer puts another one in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Resend {
    /// The client of the endpoint, from a copy that it makes.
    #[default]
    ByClient,
    /// Who sent it, and keeps a copy anyway: told by [`Error::is_lost`](crate::Error::is_lost).
    BySender,
    /// Nobody: this is the second time.
    Never,
}

/// How a body's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyEnd {
    /// All of it was read.
    Complete,
    /// It failed half way.
    Failed,
    /// Its reader dropped it before the end.
    Dropped,
}

/// What ends when a body does. An enum, so that a response costs no box for them.
pub(crate) enum Rider {
    /// The use of an endpoint: it is loaded until the stream ends.
    Lease {
        /// Ends it.
        end: LeaseEnd,
        /// Whether the head was a success.
        success: bool,
        /// Whether nothing of the body has come yet, and somebody wants to know when it does.
        awaits_first_byte: bool,
        /// Whose breaker hears how it went, if only the end of the answer says so.
        verdict: Option<Permit>,
    },
    /// A connection, which is given back.
    Conn(Live),
    /// A stream of a connection, which makes room for another one.
    Stream(h2::Slot),
    /// Of a request: notes when all of it was read, to be sent.
    Upload(Arc<OnceLock<Instant>>),
    /// Anything else, at the cost of a box.
    Dyn(Box<dyn FnOnce(BodyEnd) + Send>),
}

impl Rider {
    /// The use of an endpoint of which the head of the answer came.
    pub(crate) fn lease(end: LeaseEnd, success: bool, verdict: Option<Permit>) -> Self {
        let awaits_first_byte = success && end.needs_time();
        Self::Lease { end, success, awaits_first_byte, verdict }
    }

    fn frame(&mut self, frame: &Frame<Bytes>) {
        let Self::Lease { end, success, awaits_first_byte, verdict } = self else { return };
        if std::mem::take(awaits_first_byte) {
            end.mark(Mark::FirstByte, true, now());
        }
        // What gRPC says at the end of a stream.
        if let Some(trailers) = frame.trailers_ref() {
            *success &= !hint::grpc_failure(trailers);
            if let Some(permit) = verdict.take() {
                permit.record(grpc_outcome(trailers).unwrap_or(Outcome::Success), now());
            }
        } else if let Some(probe) = verdict.take_if(|permit| permit.is_probe()) {
            // A stream may last for days, and until the probe is over nobody else is let through. That it answers is what
            // was to be found out.
            probe.record(Outcome::Success, now());
        }
    }

    fn end(self, how: BodyEnd) {
        match self {
            // Nobody wants it any more: that is not the endpoint's fault, and says no more than that it took so long.
            Self::Lease { end, success: true, .. } if how == BodyEnd::Dropped && end.needs_time() => drop(end),
            Self::Lease { end, success, verdict, .. } => {
                let success = success && how != BodyEnd::Failed;
                // Of one that is not wanted any more nothing is known.
                if let Some(permit) = verdict.filter(|_| how != BodyEnd::Dropped) {
                    permit.record(success, now());
                }
                // A look at the clock costs as much as the rest.
                let now = if success && !end.needs_time() { end.begun() } else { now() };
                end.end(success, now);
            }
            Self::Conn(conn) if how == BodyEnd::Complete => conn.give_back(),
            Self::Stream(slot) if how == BodyEnd::Complete => slot.complete(),
            Self::Upload(sent) if how == BodyEnd::Complete => {
                let _ = sent.set(now());
            }
            // Dropping it closes it: what is left of the response cannot be told from the next one.
            // Dropping that ends what is left of the request too.
            Self::Conn(_) | Self::Stream(_) | Self::Upload(_) => {}
            Self::Dyn(end) => end(how),
        }
    }
}

/// What may be given as a body: text, bytes, `()` for none, or a [`Body`].
pub trait IntoBody {
    /// Makes it a [`Body`].
    fn into_body(self) -> Body;
}

impl Body {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Any body. One that is a [`Body`] already is not boxed again, and nothing is made of one that is at its end.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut body = Some(body);
        if let Some(same) = (&mut body as &mut dyn std::any::Any).downcast_mut::<Option<Self>>() {
            return same.take().unwrap_or_default();
        }
        match body {
            Some(body) if body.is_end_stream() => Self::empty(),
            Some(body) => Inner::Dyn(body.map_err(Into::into).boxed_unsync()).into(),
            None => Self::empty(),
        }
    }

    /// A stream from a connection, without a box.
    pub(crate) fn incoming(body: Incoming) -> Self {
        if body.is_end_stream() { Self::empty() } else { Inner::Incoming(body).into() }
    }

    /// From a stream of HTTP/2, without a box.
    pub(crate) fn stream(body: h2::Stream) -> Self {
        if body.is_end_stream() { Self::empty() } else { Inner::Stream(body).into() }
    }

    /// What an endpoint answers on a stream of HTTP/2.
    pub(crate) fn stream_answer(body: h2::Stream) -> Self {
        let mut answer = Self::stream(body);
        answer.is_answer = true;
        answer
    }

    /// What an endpoint answers.
    pub(crate) fn answer(body: Incoming) -> Self {
        let mut answer = Self::incoming(body);
        answer.is_answer = true;
        answer
    }

    /// A stream from a connection, of which something was read already.
    pub(crate) fn begun(start: Bytes, rest: Incoming) -> Self {
        Inner::Prefixed(Box::new((start, rest))).into()
    }

    /// What an endpoint answers, of which something was read already.
    pub(crate) fn prefixed(start: Bytes, rest: Incoming) -> Self {
        let mut answer = Self::begun(start, rest);
        answer.is_answer = true;
        answer
    }

    /// The bytes, if they are all here already, or nothing is to come.
    pub(crate) fn as_bytes(&self) -> Option<Bytes> {
        match &self.inner {
            Inner::Empty => Some(Bytes::new()),
            Inner::Once(bytes) => Some(bytes.clone()),
            Inner::Incoming(_)
            | Inner::Prefixed(_)
            | Inner::Stream(_)
            | Inner::Watched(_)
            | Inner::Failed(_)
            | Inner::Dyn(_) => None,
        }
    }

    /// Tells how it ends; of two who want to know, one after the other, both share what that takes.
    pub(crate) fn watched(mut self, open: Open) -> Self {
        let open = match &mut self.inner {
            Inner::Watched(watched) => match watched.also(open) {
                Ok(()) => return self,
                Err(open) => open,
            },
            _ => open,
        };
        Inner::Watched(Box::new(Watched::new(self, open))).into()
    }

    /// The same, whose trailers are cleaned in this way and no other.
    #[cfg(feature = "server")]
    pub(crate) fn cleaned(mut self, cleaning: Cleaning) -> Self {
        self.cleaning = Some(cleaning);
        self
    }

    /// Lets something end with this body; at once if there is nothing left to read.
    ///
    /// Two find room; each further one costs a box.
    pub(crate) fn ride(&mut self, rider: Rider) {
        if self.is_end_stream() {
            rider.end(BodyEnd::Complete);
            return;
        }
        if let Some(place) = self.riders.iter_mut().find(|place| place.is_none()) {
            *place = Some(rider);
        } else if let Some(first) = self.riders[0].take() {
            self.riders[0] = Some(Rider::Dyn(Box::new(move |how| {
                first.end(how);
                rider.end(how);
            })));
        }
    }

    /// Lets the trail of the request go with it.
    pub(crate) fn set_trail(&mut self, trail: Trail) {
        let (places, leg) = trail.into_parts();
        (self.trail, self.leg) = (Some(places), leg);
    }

    pub(crate) fn take_trail(&mut self) -> Option<Trail> {
        self.trail.take().map(|places| Trail::from_parts(places, self.leg))
    }

    fn end(&mut self, how: BodyEnd) {
        for place in &mut self.riders {
            if let Some(rider) = place.take() {
                rider.end(how);
            }
        }
    }
}

impl Inner {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(match self {
            Self::Empty => None,
            Self::Once(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                (!bytes.is_empty()).then(|| Ok(Frame::data(bytes)))
            }
            Self::Incoming(body) => ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(Into::into)),
            Self::Prefixed(prefixed) => {
                let (start, rest) = &mut **prefixed;
                let start = std::mem::take(start);
                if start.is_empty() {
                    ready!(Pin::new(rest).poll_frame(cx)).map(|frame| frame.map_err(Into::into))
                } else {
                    Some(Ok(Frame::data(start)))
                }
            }
            Self::Stream(body) => ready!(Pin::new(body).poll_frame(cx)),
            Self::Watched(body) => ready!(Pin::new(&mut **body).poll_frame(cx)),
            Self::Dyn(body) => ready!(Pin::new(body).poll_frame(cx)),
            Self::Failed(_) => match std::mem::take(self) {
                Self::Failed(error) => Some(Err(error)),
                _ => None,
            },
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(bytes) => bytes.is_empty(),
            Self::Incoming(body) => body.is_end_stream(),
            Self::Stream(body) => body.is_end_stream(),
            Self::Watched(body) => body.is_end_stream(),
            Self::Prefixed(_) | Self::Failed(_) => false,
            Self::Dyn(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Once(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Incoming(body) => body.size_hint(),
            Self::Stream(body) => body.size_hint(),
            Self::Watched(body) => body.size_hint(),
            Self::Prefixed(_) | Self::Failed(_) => SizeHint::default(),
            Self::Dyn(body) => body.size_hint(),
        }
    }
}

/// A request's body on its way to a connection, in a box unless it is empty, as most are: each connection has a queue with
/// places for 32 requests, and hyper moves each of them a dozen times.
pub(crate) struct Payload(Option<Box<Body>>);

impl From<Body> for Payload {
    fn from(body: Body) -> Self {
        let is_nothing = matches!(body.inner, Inner::Empty) && body.riders.iter().all(Option::is_none);
        Self((!is_nothing).then(|| Box::new(body)))
    }
}

impl From<Payload> for Body {
    fn from(payload: Payload) -> Self {
        payload.0.map_or_else(Self::empty, |body| *body)
    }
}

impl HttpBody for Payload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            None => Poll::Ready(None),
            Some(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_deref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_deref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl From<Inner> for Body {
    fn from(inner: Inner) -> Self {
        Self {
            inner,
            riders: [None, None],
            resend: Resend::default(),
            trail: None,
            leg: Leg::First,
            is_answer: false,
            #[cfg(feature = "server")]
            cleaning: None,
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let how = if self.is_end_stream() { BodyEnd::Complete } else { BodyEnd::Dropped };
        self.end(how);
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        #[cfg_attr(not(feature = "server"), allow(unused_mut))]
        let mut frame = match ready!(this.inner.poll_frame(cx)) {
            // Whoever passes it on may not have written what came before, its head perhaps, and would not any more: to
            // the client it would seem that nothing ever came, and that the request may be sent again.
            Some(Err(error)) if std::mem::take(&mut this.is_answer) => {
                this.inner = Inner::Failed(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            frame => frame,
        };
        #[cfg(feature = "server")]
        if let (Some(cleaning), Some(Ok(frame))) = (this.cleaning, &mut frame)
            && let Some(trailers) = frame.trailers_mut()
        {
            cleaning.clean(trailers);
        }
        if let Some(Ok(frame)) = &frame {
            for rider in this.riders.iter_mut().flatten() {
                rider.frame(frame);
            }
        }
        match &frame {
            None => this.end(BodyEnd::Complete),
            Some(Err(_)) => this.end(BodyEnd::Failed),
            Some(Ok(_)) if this.is_end_stream() => this.end(BodyEnd::Complete),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.inner {
            Inner::Empty => "empty",
            Inner::Once(_) => "bytes",
            Inner::Incoming(_) | Inner::Prefixed(_) | Inner::Stream(_) => "incoming",
            Inner::Watched(_) | Inner::Dyn(_) => "stream",
            Inner::Failed(_) => "failed",
        };
        f.debug_struct("Body").field("kind", &kind).field("size", &self.size_hint()).finish_non_exhaustive()
    }
}

impl IntoBody for Body {
    fn into_body(self) -> Body {
        self
    }
}

impl IntoBody for () {
    fn into_body(self) -> Body {
        Body::empty()
    }
}

macro_rules! bytes_into_body {
    ($($from:ty),*) => {$(
        impl IntoBody for $from {
            fn into_body(self) -> Body {
                let bytes = Bytes::from(self);
                if bytes.is_empty() { Body::empty() } else { Inner::Once(bytes).into() }
            }
        }

        impl From<$from> for Body {
            fn from(from: $from) -> Self {
                from.into_body()
            }
        }
    )*};
}

bytes_into_body!(Bytes, &'static str, &'static [u8], String, Vec<u8>);

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::StreamBody;

    use super::*;

    fn recorder() -> (Arc<Mutex<Vec<BodyEnd>>>, impl Fn() -> Rider) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&seen);
        let rider = move || {
            let seen = Arc::clone(&shared);
            Rider::Dyn(Box::new(move |how| seen.lock().unwrap().push(how)))
        };
        (seen, rider)
    }

    fn stream() -> Body {
        Body::new(StreamBody::new(futures::stream::iter([
            Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"a"))),
            Ok(Frame::data(Bytes::from_static(b"b"))),
        ])))
    }

    #[tokio::test]
    async fn riders_end_once_with_the_stream() {
        let (seen, rider) = recorder();
        let mut body = stream();
        for _ in 0..3 {
            body.ride(rider());
        }
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        assert!(seen.lock().unwrap().is_empty());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "b");
        assert_eq!(*seen.lock().unwrap(), [BodyEnd::Complete; 3]);
    }

    #[tokio::test]
    async fn a_dropped_stream_ends_its_riders() {
        let (seen, rider) = recorder();
        let mut body = stream();
        body.ride(rider());
        drop(body);
        assert_eq!(*seen.lock().unwrap(), [BodyEnd::Dropped]);
    }

    #[tokio::test]
    async fn riders_on_an_empty_body_end_at_once() {
        let (seen, rider) = recorder();
        Body::empty().ride(rider());
        assert_eq!(*seen.lock().unwrap(), [BodyEnd::Complete]);
    }

    #[test]
    fn a_request_on_its_way_to_a_connection_is_small() {
        // hyper has room for 32 of them for each connection.
        let size = size_of::<http::Request<Payload>>();
        assert!(size <= 232, "{size}");
    }

    #[tokio::test]
    async fn a_payload_is_the_body_and_ends_what_rides_on_it() {
        let (seen, rider) = recorder();
        let mut body = stream();
        body.ride(rider());
        for body in [stream(), body, Body::from("ab")] {
            assert_eq!(Payload::from(body).collect().await.unwrap().to_bytes(), "ab");
        }
        assert_eq!(*seen.lock().unwrap(), [BodyEnd::Complete]);
        assert_eq!(Body::from(Payload::from(Body::from("ab"))).as_bytes().unwrap(), "ab");
    }

    #[test]
    fn a_body_is_not_boxed_again() {
        assert!(matches!(Body::new(Body::from("x")).inner, Inner::Once(_)));
    }
}
