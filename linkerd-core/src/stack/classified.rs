//! Answers whose class is only known at their end: held back while that may mean another attempt, counted when it is here.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use linkerd_retry::{ResponseClass, Verdict, replay::MAX_FRAMES};
use tokio::time::timeout_at;

use super::path::{Attempt, after, now};
use crate::{
    Body, BoxError, Error, ErrorKind,
    classify::{HttpClassify, StreamEnd},
    http::{headers, hint, overrides::Overrides},
    telemetry::{ClientStats, RequestStats, RetryStats},
};

impl Attempt<'_> {
    /// Whether an answer is to be held back, because its end may ask for another attempt that can be made.
    pub(super) fn waits_for_end(&self, rsp: &Response<Body>) -> bool {
        let classifier = &self.info.policy.classifier;
        classifier.is_open(rsp)
            && self.is_kept()
            && (classifier.may_retry_end(self.method)
                || self.is_keyed() && classifier.may_retry_end(&Method::PUT)
                || self.overrides().is_some_and(Overrides::says_which))
    }

    /// Holds an answer back until its end says what it is; or until it is longer, or takes longer, than is waited for:
    /// then it is what it is so far.
    pub(super) async fn hold(&self, rsp: &mut Response<Body>, stats: &RetryStats) -> Verdict {
        let policy = &self.info.policy;
        let mut held = Held::new(std::mem::take(rsp.body_mut()));
        // The head came in time: it goes on when the time of the whole is over.
        let until = after(now(), policy.classification_timeout);
        let until = self.deadline().map_or(until, |deadline| until.min(deadline.instant().into()));
        let verdict = match timeout_at(until, held.fill(policy.response_buffer_bytes)).await {
            Ok(true) => Some(self.end_verdict(held.end())),
            Ok(false) => {
                stats.response_stream_too_long();
                None
            }
            Err(_) => {
                stats.classification_timeout();
                None
            }
        };
        *rsp.body_mut() = Body::new(held);
        verdict.unwrap_or(Verdict::SUCCESS)
    }

    fn end_verdict(&self, end: StreamEnd<'_>) -> Verdict {
        let classifier = &self.info.policy.classifier;
        let mut class = classifier.classify_end(self.method, end);
        if !class.is_success() && !class.is_retryable() && self.is_keyed() {
            class = classifier.classify_end(&Method::PUT, end);
        }
        let verdict = match (self.overrides(), end) {
            (Some(overrides), Ok(Some(trailers))) => overrides.end_verdict(class.into(), trailers),
            _ => Verdict::from(class),
        };
        let pushback = end.ok().flatten().and_then(hint::retry);
        pushback.map_or(verdict, |pushback| verdict.push_back(pushback))
    }
}

/// What was read of a body, and the rest of it.
pub(super) struct Held {
    read: VecDeque<Frame<Bytes>>,
    bytes: usize,
    rest: Body,
    ending: Ending,
}

enum Ending {
    /// There may be more.
    Open,
    /// There is no more.
    Whole,
    /// There is no more, because of this.
    Broken(BoxError),
}

impl Held {
    fn new(rest: Body) -> Self {
        Self { read: VecDeque::new(), bytes: 0, rest, ending: Ending::Open }
    }

    /// Reads a body of no more than so many bytes to its end.
    pub(super) async fn read(body: Body, most: usize) -> Option<Body> {
        let mut held = Self::new(body);
        held.fill(most).await.then(|| Body::new(held))
    }

    /// Reads to the end: whether it came before so many bytes.
    async fn fill(&mut self, most: usize) -> bool {
        while matches!(self.ending, Ending::Open) {
            let to_come = usize::try_from(self.rest.size_hint().lower()).unwrap_or(usize::MAX);
            if self.bytes.saturating_add(to_come) > most || self.read.len() == MAX_FRAMES {
                return false;
            }
            match self.rest.frame().await {
                None => self.ending = Ending::Whole,
                Some(Ok(frame)) => {
                    self.bytes += frame.data_ref().map_or(0, Bytes::len);
                    self.read.push_back(frame);
                    if self.rest.is_end_stream() {
                        self.ending = Ending::Whole;
                    }
                }
                Some(Err(error)) => self.ending = Ending::Broken(error),
            }
        }
        self.bytes <= most
    }

    fn end(&self) -> StreamEnd<'_> {
        match &self.ending {
            Ending::Broken(error) => Err(error),
            Ending::Open | Ending::Whole => Ok(self.read.back().and_then(Frame::trailers_ref)),
        }
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.read.pop_front() {
            self.bytes -= frame.data_ref().map_or(0, Bytes::len);
            return Poll::Ready(Some(Ok(frame)));
        }
        match std::mem::replace(&mut self.ending, Ending::Whole) {
            Ending::Whole => Poll::Ready(None),
            Ending::Broken(error) => Poll::Ready(Some(Err(error))),
            Ending::Open => {
                self.ending = Ending::Open;
                Pin::new(&mut self.rest).poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_over = match &self.ending {
            Ending::Whole => true,
            Ending::Broken(_) => false,
            Ending::Open => self.rest.is_end_stream(),
        };
        self.read.is_empty() && is_over
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, read) = (self.rest.size_hint(), self.bytes as u64);
        if let Some(upper) = hint.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint.set_lower(hint.lower().saturating_add(read));
        hint
    }
}

/// An answer that is counted at its end.
pub(crate) struct Open {
    pub(super) classifier: Arc<dyn HttpClassify>,
    pub(super) counted: Counted,
    pub(super) method: Method,
    /// How long it took to its head.
    pub(super) elapsed: Duration,
    /// Its class is written into its trailers.
    pub(super) is_marked: bool,
}

/// For whom an answer counts.
pub(crate) enum Counted {
    /// A logical name.
    Name(Arc<RequestStats>),
    /// A bound name, and what of it is one logical name's.
    Client(Arc<ClientStats>, Arc<RequestStats>),
}

impl Counted {
    fn succeeded(&self, elapsed: Duration) {
        self.each(|stats| stats.succeeded(elapsed));
    }

    fn failed(&self, error: Option<&Error>, elapsed: Duration) {
        self.each(|stats| stats.failed(error, elapsed));
    }

    fn each(&self, count: impl Fn(&RequestStats)) {
        match self {
            Self::Name(stats) => count(stats),
            Self::Client(client, service) => {
                count(&client.requests);
                count(service);
            }
        }
    }
}

/// Tells what its end makes of an answer: its client, and its name, which share one box unless something is between them.
pub(crate) struct Watched {
    body: Body,
    open: [Option<Open>; 2],
}

impl Open {
    /// The same answer, counted when it has been read.
    pub(super) fn watch(self, rsp: Response<Body>) -> Response<Body> {
        rsp.map(|body| body.watched(self))
    }

    fn end(self, end: StreamEnd<'_>) -> ResponseClass {
        let class = self.classifier.classify_end(&self.method, end);
        if class.is_success() {
            self.counted.succeeded(self.elapsed);
        } else {
            let error = end.err().map(|_| Error::new(ErrorKind::Closed));
            self.counted.failed(error.as_ref(), self.elapsed);
        }
        class
    }
}

impl Watched {
    pub(crate) fn new(body: Body, open: Open) -> Self {
        Self { body, open: [Some(open), None] }
    }

    /// Counts for somebody else too, if there is room for it.
    pub(crate) fn also(&mut self, open: Open) -> Result<(), Open> {
        match &mut self.open {
            [Some(_), second @ None] => {
                *second = Some(open);
                Ok(())
            }
            // Or it is over.
            _ => Err(open),
        }
    }

    /// Counts it. What is returned is the class, if it is to be written down.
    fn end(&mut self, end: StreamEnd<'_>) -> Option<ResponseClass> {
        let mut marked = None;
        for open in self.open.iter_mut().filter_map(Option::take) {
            let is_marked = open.is_marked;
            let class = open.end(end);
            if is_marked {
                marked = Some(class);
            }
        }
        marked
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            None => {
                this.end(Ok(None));
                None
            }
            Some(Err(error)) => {
                this.end(Err(&error));
                Some(Err(error))
            }
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    if let Some(class) = this.end(Ok(Some(trailers))) {
                        trailers.insert(headers::L5D_SUCCESS_CLASS, success_class(class));
                    }
                } else if this.body.is_end_stream() {
                    // Who reads this may not ask for more.
                    this.end(Ok(None));
                }
                Some(Ok(frame))
            }
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Nobody wants the rest, as is usual for a stream without an end: so far it went well.
        for open in self.open.iter_mut().filter_map(Option::take) {
            open.counted.succeeded(open.elapsed);
        }
    }
}

/// The value of an `l5d-success-class`.
pub(super) fn success_class(class: ResponseClass) -> HeaderValue {
    HeaderValue::from_static(if class.is_success() { "1.0" } else { "0.0" })
}
