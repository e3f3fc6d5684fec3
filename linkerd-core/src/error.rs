//! Why a request failed.

mod attempts;
mod delivery;
mod join;
mod timer;

use std::{
    error::Error as StdError,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{Request, StatusCode};
use linkerd_dtab::Path;

pub use self::{
    attempts::{AttemptLog, AttemptOutcome, Attempted, Left},
    timer::{TimedOut, Timer},
};
use crate::Body;

/// Any error, as tower boxes it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a request failed, and what decided that it did.
///
/// One word wide: the details are behind a box that only a failure allocates.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    dst: Option<Path>,
    client: Option<Path>,
    text: Option<String>,
    source: Option<BoxError>,
    attempts: Option<AttemptLog>,
    never_sent: bool,
    parting: Option<Parting>,
    is_final: bool,
    timer: Option<TimedOut>,
    left: Option<Left>,
    bytes_written: Option<u64>,
    // A request is not `Sync`; nobody ever waits for this lock.
    request: Mutex<Option<Request<Body>>>,
}

/// How a connection ended while a request was on its way, through no fault of either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parting {
    /// It was idle, and its endpoint closed it.
    Idle,
    /// Its endpoint said goodbye, and left the request out.
    Goodbye,
}

/// What decided that a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No identifier could name the request.
    Unidentified,
    /// A header that steers the engine does not parse: a dtab, say.
    BadHeader,
    /// The request went through too many proxies.
    TooManyHops,
    /// The request is framed in a way that HTTP forbids.
    BadRequest,
    /// The name stands for nothing: negative, failed or empty.
    NoSuchName,
    /// The name is bound, and has no endpoints.
    NoEndpoints,
    /// The bound name has endpoints, and too few of them may be asked: breakers left them alone, or they are full. Only
    /// where [requests fail then](linkerd_balance::Panic::FailFast); the text says why of each, and until when.
    AllTripped,
    /// The same, but of all that cannot be asked it is known only that there is no connection yet, or none any more.
    AllConnecting,
    /// The name could not be bound: a namer failed, or took longer than the binding timeout.
    Binding,
    /// No connection could be made to the endpoint. Nothing was sent.
    Connect,
    /// The connection ended before the response did.
    Closed,
    /// The endpoint's answer is not HTTP, or framed in a way that HTTP forbids.
    BadResponse,
    /// The endpoint refused the request unprocessed, as often as it was asked.
    Refused,
    /// One attempt took longer than its limit.
    AttemptTimeout,
    /// The request took longer than its limit, retries included.
    TotalTimeout,
    /// The request's deadline had passed.
    Deadline,
    /// A limit on concurrency or waiting was reached: the request was shed, unprocessed.
    Overloaded,
    /// The request's own body failed before it was sent whole.
    RequestBody,
    /// A layer that is not the engine's own failed.
    Layer,
}

impl Error {
    /// An error of this kind, with nothing else known.
    #[must_use]
    pub fn new(kind: ErrorKind) -> Self {
        let never_sent = matches!(
            kind,
            ErrorKind::Unidentified
                | ErrorKind::BadHeader
                | ErrorKind::TooManyHops
                | ErrorKind::NoSuchName
                | ErrorKind::NoEndpoints
                | ErrorKind::AllTripped
                | ErrorKind::AllConnecting
                | ErrorKind::Binding
                | ErrorKind::Connect
                | ErrorKind::Overloaded
        );
        Self(Box::new(Inner {
            kind,
            dst: None,
            client: None,
            text: None,
            source: None,
            attempts: None,
            never_sent,
            parting: None,
            is_final: false,
            timer: None,
            left: None,
            bytes_written: None,
            request: Mutex::new(None),
        }))
    }

    /// Of a request that was to be sent again.
    pub(crate) fn not_kept() -> Self {
        let text = "the request became too long to be sent again while its retry was waited for";
        Self::new(ErrorKind::Closed).with_text(text)
    }

    /// Any other error, as an error of a layer; one that is an [`Error`] already stays what it is.
    pub fn from_box(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => *error,
            Err(error) => Self::new(ErrorKind::Layer).with_source(error),
        }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error with the text that a caller of the proxy reads, in `l5d-err` and the body.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.0.text = Some(text.into());
        self
    }

    /// Why there is no TLS with the endpoint, as callers may read it. `None` if that is not why it failed.
    #[cfg(feature = "tls")]
    pub(crate) fn insecure(&self) -> Option<String> {
        let source = self.source()?;
        let shared = source.downcast_ref::<SharedFailure>();
        let handshake = match shared {
            Some(SharedFailure(failure)) => failure.downcast_ref(),
            None => source.downcast_ref::<crate::tls::HandshakeError>(),
        };
        handshake.map(crate::tls::HandshakeError::told)
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_self, reason = "without TLS it never is")]
    pub(crate) fn insecure(&self) -> Option<String> {
        None
    }

    /// The same error with this text, unless it has one.
    pub(crate) fn or_text(mut self, text: impl FnOnce() -> String) -> Self {
        self.0.text.get_or_insert_with(text);
        self
    }

    /// The same error with the logical name that the request was for, unless it has one.
    #[must_use]
    pub fn with_dst(mut self, dst: &Path) -> Self {
        self.0.dst.get_or_insert_with(|| dst.clone());
        self
    }

    /// The same error with the bound name that the request was sent to, unless it has one.
    #[must_use]
    pub fn with_client(mut self, client: &Path) -> Self {
        self.set_client(client);
        self
    }

    pub(crate) fn set_client(&mut self, client: &Path) {
        self.0.client.get_or_insert_with(|| client.clone());
    }

    /// The same error, with what is known of whether anything of the request was sent.
    #[must_use]
    pub fn with_never_sent(mut self, never_sent: bool) -> Self {
        self.0.never_sent = never_sent;
        self
    }

    /// The same error with the request that it is about, which was not sent.
    #[must_use]
    pub fn with_request(mut self, req: Request<Body>) -> Self {
        self.0.request = Mutex::new(Some(req));
        self
    }

    /// The request, if it came back unsent: another try needs no copy of it.
    pub fn take_request(&mut self) -> Option<Request<Body>> {
        self.0.request.get_mut().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn has_request(&self) -> bool {
        self.0.request.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The same error with what was tried, if anything was.
    pub(crate) fn with_attempts(mut self, log: AttemptLog) -> Self {
        if !log.tried().is_empty() {
            self.0.attempts = Some(log);
        }
        self
    }

    /// The same error with the timer that was over.
    pub(crate) fn with_timer(mut self, timer: TimedOut) -> Self {
        self.0.timer = Some(timer);
        self
    }

    /// The timer that was over, if one was.
    #[must_use]
    pub fn timer(&self) -> Option<TimedOut> {
        self.0.timer
    }

    /// The same error with what the request had left.
    pub(crate) fn with_left(mut self, left: Left) -> Self {
        self.0.left = Some(left);
        self
    }

    /// What the request had left when it failed. `None` if it had no name.
    #[must_use]
    pub fn left(&self) -> Option<Left> {
        self.0.left
    }

    /// The same error, with how many bytes of the request were written.
    pub(crate) fn with_bytes_written(mut self, bytes: u64) -> Self {
        self.0.bytes_written = Some(bytes);
        self
    }

    /// This error in the place of one that the time of a server took over from, of the same request.
    #[cfg(feature = "server")]
    pub(crate) fn in_place_of(mut self, error: Self) -> Self {
        let Inner { dst, client, attempts, is_final, left, .. } = *error.0;
        self.0 = Box::new(Inner { dst, client, attempts, is_final, left, ..*self.0 });
        self
    }

    /// What was tried for the request, and why there was no other attempt. `None` if nothing was: it had no name that
    /// stands for something, say, or came after its deadline.
    #[must_use]
    pub fn attempts(&self) -> Option<&AttemptLog> {
        self.0.attempts.as_ref()
    }

    /// What decided.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The logical name that the request was for.
    #[must_use]
    pub fn dst(&self) -> Option<&Path> {
        self.0.dst.as_ref()
    }

    /// The bound name that the request was sent to.
    #[must_use]
    pub fn client(&self) -> Option<&Path> {
        self.0.client.as_ref()
    }

    /// Whether it is certain that nothing of the request was written to an endpoint, so that any request may be tried
    /// again.
    #[must_use]
    pub fn never_sent(&self) -> bool {
        self.0.never_sent
    }

    /// The same error, of a request that may be sent again as if it had not been sent.
    pub(crate) fn lost(mut self) -> Self {
        self.0.parting = Some(Parting::Idle);
        self
    }

    /// Whether the endpoint closed an idle connection while the request, which may be sent twice, was on its way there.
    /// Only told to [`Resend::BySender`](crate::body::Resend).
    pub(crate) fn is_lost(&self) -> bool {
        self.0.parting == Some(Parting::Idle)
    }

    /// The same error, of a request that came when its endpoint had just said goodbye to the connection.
    pub(crate) fn left_out(mut self) -> Self {
        self.0.parting = Some(Parting::Goodbye);
        self
    }

    /// Whether the endpoint said goodbye to the connection without a look at the request: what it does when it restarts, or
    /// after so many requests. No fault of its own.
    pub(crate) fn is_left_out(&self) -> bool {
        self.0.parting == Some(Parting::Goodbye)
    }

    /// The same error, of a request that was sent as often as it should be: whoever sent it is told not to send it again.
    #[must_use]
    pub fn with_final(mut self) -> Self {
        self.0.is_final = true;
        self
    }

    /// Whether the request was sent as often as it should be, so that nobody else should send it again. Only said where
    /// [hops tell each other of retries](crate::ServicePolicy::retry_hints).
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.0.is_final
    }

    /// The status that a proxy answers with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.0.kind {
            ErrorKind::Unidentified
            | ErrorKind::BadHeader
            | ErrorKind::TooManyHops
            | ErrorKind::BadRequest
            | ErrorKind::RequestBody => StatusCode::BAD_REQUEST,
            ErrorKind::AttemptTimeout | ErrorKind::TotalTimeout | ErrorKind::Deadline | ErrorKind::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ErrorKind::NoSuchName
            | ErrorKind::NoEndpoints
            | ErrorKind::AllTripped
            | ErrorKind::AllConnecting
            | ErrorKind::Binding
            | ErrorKind::Connect
            | ErrorKind::Closed
            | ErrorKind::BadResponse
            | ErrorKind::Refused
            | ErrorKind::Layer => StatusCode::BAD_GATEWAY,
        }
    }

    /// What a caller of the proxy reads: the text given with [`with_text`](Self::with_text), else the error with its
    /// causes. Where the budget of retries, a deadline or the peer stopped it from being tried again, it ends with
    /// [what was tried](Self::attempts).
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.own_text();
        if let Some(log) = self.0.attempts.as_ref().filter(|log| log.was_stopped()) {
            text.push_str("; ");
            text.push_str(&log.to_string());
        }
        text
    }

    pub(crate) fn own_text(&self) -> String {
        if let Some(text) = &self.0.text {
            return text.clone();
        }
        self.chain().to_string()
    }

    /// The error with its causes, for those who run it: also where callers read another text.
    pub(crate) fn chain(&self) -> Chain<'_> {
        Chain(self)
    }
}

impl ErrorKind {
    /// A short name for metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unidentified => "unidentified",
            Self::BadHeader => "bad_header",
            Self::TooManyHops => "too_many_hops",
            Self::BadRequest => "bad_request",
            Self::NoSuchName => "no_such_name",
            Self::NoEndpoints => "no_endpoints",
            Self::AllTripped => "all_tripped",
            Self::AllConnecting => "all_connecting",
            Self::Binding => "binding",
            Self::Connect => "connect",
            Self::Closed => "closed",
            Self::BadResponse => "bad_response",
            Self::Refused => "refused",
            Self::AttemptTimeout => "attempt_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::Deadline => "deadline",
            Self::Overloaded => "overloaded",
            Self::RequestBody => "request_body",
            Self::Layer => "layer",
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Unidentified => "the request has no name",
            Self::BadHeader => "a header does not parse",
            Self::TooManyHops => "the request went through too many proxies",
            Self::BadRequest => "the request is not well-formed",
            Self::NoSuchName => "the name stands for nothing",
            Self::NoEndpoints => "the name has no endpoints",
            Self::AllTripped => "too few endpoints are in use: breakers have tripped",
            Self::AllConnecting => "the endpoints are not connected to yet",
            Self::Binding => "the name could not be bound",
            Self::Connect => "no connection to the endpoint",
            Self::Closed => "the connection ended before the response did",
            Self::BadResponse => "the response is not well-formed",
            Self::Refused => "the endpoint refused the request",
            Self::AttemptTimeout => "the attempt took too long",
            Self::TotalTimeout => "the request took too long",
            Self::Deadline => "the deadline has passed",
            Self::Overloaded => "too many requests are waiting",
            Self::RequestBody => "the request's body failed",
            Self::Layer => "a layer failed",
        }
    }
}

/// An error, and what caused it, and what caused that.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// A failure that several requests share, as the cause of each one's error.
#[derive(Clone, Debug)]
pub(crate) struct SharedFailure(pub(crate) linkerd_dtab::Failure);

impl fmt::Display for SharedFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for SharedFailure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// A duration as Twitter's prints, for the texts that callers know: `10.seconds`, `1.seconds+500.milliseconds`.
pub(crate) fn twitter_duration(duration: Duration) -> String {
    const UNITS: [(u128, &str); 7] = [
        (86_400_000_000_000, "days"),
        (3_600_000_000_000, "hours"),
        (60_000_000_000, "minutes"),
        (1_000_000_000, "seconds"),
        (1_000_000, "milliseconds"),
        (1000, "microseconds"),
        (1, "nanoseconds"),
    ];
    let mut left = duration.as_nanos();
    let mut parts = Vec::new();
    for (size, unit) in UNITS {
        if left >= size {
            parts.push(format!("{}.{unit}", left / size));
            left %= size;
        }
    }
    if parts.is_empty() { "0.seconds".to_owned() } else { parts.join("+") }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.kind.message())?;
        if let Some(dst) = &self.0.dst {
            write!(f, " ({dst}")?;
            if let Some(client) = &self.0.client {
                write!(f, " at {client}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            kind,
            dst,
            client,
            text,
            source,
            attempts,
            never_sent,
            is_final,
            timer,
            left,
            bytes_written,
            request: _,
            parting: _,
        } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("dst", dst)
            .field("client", client)
            .field("text", text)
            .field("source", source)
            .field("attempts", attempts)
            .field("never_sent", never_sent)
            .field("is_final", is_final)
            .field("timer", timer)
            .field("left", left)
            .field("bytes_written", bytes_written)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_run_it_read_the_causes_whatever_callers_read() {
        let cause = Error::new(ErrorKind::Closed).with_source(std::io::Error::other("broken"));
        let shared = SharedFailure(std::sync::Arc::new(cause));
        let error = Error::new(ErrorKind::Connect).with_source(shared).with_text("told");
        let expected = "no connection to the endpoint: the connection ended before the response did: broken";
        assert_eq!((error.text().as_str(), error.chain().to_string().as_str()), ("told", expected));
    }

    #[test]
    fn is_one_word() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn durations_print_as_twitters_do() {
        for (millis, text) in [
            (10_000, "10.seconds"),
            (500, "500.milliseconds"),
            (60_000, "1.minutes"),
            (1500, "1.seconds+500.milliseconds"),
            (0, "0.seconds"),
        ] {
            assert_eq!(twitter_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_boxed_error_is_unboxed_and_not_wrapped() {
        let error = Error::new(ErrorKind::Connect);
        assert_eq!(Error::from_box(Box::new(error)).kind(), ErrorKind::Connect);
        assert_eq!(Error::from_box("other".into()).kind(), ErrorKind::Layer);
    }
}
