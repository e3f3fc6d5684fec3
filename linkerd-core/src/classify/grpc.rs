//! Classes by `grpc-status`, wherever it is said.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::Body as _;
use linkerd_retry::{Classifier, ResponseClass, Safety, Verdict};

use super::{HttpClassify, Reset, StreamEnd};
use crate::{Body, Error, ErrorKind};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The value of a `grpc-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrpcCode(pub u32);

/// Linkerd 1.x's response classifiers of gRPC: `io.l5d.h2.grpc.default` and its like.
///
/// What counts is the `grpc-status`: in the trailers, or in the head of an answer that has nothing else (*trailers-only*).
/// One that is no number is 2 (`UNKNOWN`), and so is none at all. A 4xx or 5xx without one is a failure by its head. Any
/// method may be sent again, since all of gRPC's are POST; but only the kinds below say so.
///
/// | kind | [`classify`](Classifier::classify) calls retryable |
/// |---|---|
/// | [`new`](Self::new): `grpc.default` | 14 (`UNAVAILABLE`) |
/// | [`compliant`](Self::compliant): `grpc.compliant` | the same, also where HTTP says it: 429, 502, 503, 504; and streams that were refused |
/// | [`always`](Self::always): `grpc.alwaysRetryable` | every `grpc-status` that is no success |
/// | [`never`](Self::never): `grpc.neverRetryable` | none |
/// | [`codes`](Self::codes): `grpc.retryableStatusCodes` | these |
///
/// Unlike Linkerd 1.7.5, where `grpc.compliant` was the default by mistake, it does what its documentation says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcClassifier {
    retry: Retry,
    successes: Box<[u32]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Retry {
    Unavailable,
    Compliant,
    Always,
    Never,
    Codes(Box<[u32]>),
}

impl GrpcCode {
    /// It did what it should.
    pub const OK: Self = Self(0);
    /// The caller went away.
    pub const CANCELLED: Self = Self(1);
    /// Nothing better is known.
    pub const UNKNOWN: Self = Self(2);
    /// It took too long.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// The caller may not do this.
    pub const PERMISSION_DENIED: Self = Self(7);
    /// There is too much of something.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// There is no such method.
    pub const UNIMPLEMENTED: Self = Self(12);
    /// Something is broken.
    pub const INTERNAL: Self = Self(13);
    /// Not now: another attempt may go well.
    pub const UNAVAILABLE: Self = Self(14);
    /// Something was lost for good.
    pub const DATA_LOSS: Self = Self(15);
    /// The caller did not say who it is.
    pub const UNAUTHENTICATED: Self = Self(16);

    /// What a head or trailers say, if they say any.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        headers.get(GRPC_STATUS).map(|value| Self::parse(value).unwrap_or(Self::UNKNOWN))
    }

    /// What a head or trailers say of the endpoint: only what is a number counts.
    pub(crate) fn of_endpoint(headers: &HeaderMap) -> Option<Self> {
        headers.get(GRPC_STATUS).and_then(Self::parse)
    }

    fn parse(value: &HeaderValue) -> Option<Self> {
        value.to_str().ok()?.trim().parse().ok().map(Self)
    }

    /// What an HTTP status means that came without one: gRPC's own table.
    #[must_use]
    pub fn of_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502..=504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    /// What a reset means that came in its place: gRPC's own table.
    #[must_use]
    pub fn of_reset(reset: Reset) -> Self {
        match reset {
            Reset::REFUSED_STREAM => Self::UNAVAILABLE,
            Reset::CANCEL => Self::CANCELLED,
            Reset::ENHANCE_YOUR_CALM => Self::RESOURCE_EXHAUSTED,
            Reset::INADEQUATE_SECURITY => Self::PERMISSION_DENIED,
            Reset(0..=4 | 6 | 9 | 10) => Self::INTERNAL,
            _ => Self::UNKNOWN,
        }
    }

    /// Whether whoever said this cannot serve, so that another endpoint should be asked: `UNKNOWN`, `DEADLINE_EXCEEDED`,
    /// `RESOURCE_EXHAUSTED`, `INTERNAL`, `UNAVAILABLE` and `DATA_LOSS`. The others are the caller's doing, or an answer.
    #[must_use]
    pub const fn is_endpoints_fault(self) -> bool {
        matches!(self.0, 2 | 4 | 8 | 13 | 14 | 15)
    }
}

impl GrpcClassifier {
    /// `io.l5d.h2.grpc.default`: what is `UNAVAILABLE` may be tried again.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Retry::Unavailable)
    }

    /// `io.l5d.h2.grpc.compliant`: the same, however it is said.
    #[must_use]
    pub fn compliant() -> Self {
        Self::of(Retry::Compliant)
    }

    /// `io.l5d.h2.grpc.alwaysRetryable`: whatever gRPC calls a failure may be tried again.
    #[must_use]
    pub fn always() -> Self {
        Self::of(Retry::Always)
    }

    /// `io.l5d.h2.grpc.neverRetryable`: nothing may be tried again.
    #[must_use]
    pub fn never() -> Self {
        Self::of(Retry::Never)
    }

    /// `io.l5d.h2.grpc.retryableStatusCodes`: these may be tried again.
    #[must_use]
    pub fn codes(codes: impl IntoIterator<Item = u32>) -> Self {
        Self::of(Retry::Codes(codes.into_iter().collect()))
    }

    /// `successStatusCodes`: these are no failures, in place of 0 alone.
    #[must_use]
    pub fn successes(self, codes: impl IntoIterator<Item = u32>) -> Self {
        Self { successes: codes.into_iter().collect(), ..self }
    }

    fn of(retry: Retry) -> Self {
        Self { retry, successes: [GrpcCode::OK.0].into() }
    }

    fn class(&self, code: GrpcCode) -> ResponseClass {
        if self.successes.contains(&code.0) {
            return ResponseClass::Success;
        }
        let retryable = match &self.retry {
            Retry::Unavailable | Retry::Compliant => code == GrpcCode::UNAVAILABLE,
            Retry::Always => true,
            Retry::Never => false,
            Retry::Codes(codes) => codes.contains(&code.0),
        };
        ResponseClass::Failure { retryable }
    }

    /// The class of what failed without saying so by gRPC's means, but as if it had said this.
    fn unsaid(&self, code: GrpcCode) -> ResponseClass {
        ResponseClass::Failure { retryable: self.retry == Retry::Compliant && code == GrpcCode::UNAVAILABLE }
    }

    /// `None`: the trailers will say.
    fn head(&self, rsp: &Response<Body>) -> Option<ResponseClass> {
        let is_over = rsp.body().is_end_stream();
        let said = GrpcCode::of(rsp.headers()).map(|code| self.class(code));
        // A success that has a body yet is none until its end; a failure stays one.
        if let Some(class) = said.filter(|class| is_over || !class.is_success()) {
            return Some(class);
        }
        let status = rsp.status();
        if status.is_client_error() || status.is_server_error() {
            return Some(self.unsaid(GrpcCode::of_http(status)));
        }
        is_over.then(|| self.unsaid(GrpcCode::UNKNOWN))
    }
}

/// `io.l5d.h2.grpc.default`.
impl Default for GrpcClassifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Classifier<Method, Response<Body>, Error> for GrpcClassifier {
    fn classify(&self, method: &Method, rsp: Result<&Response<Body>, &Error>) -> ResponseClass {
        self.verdict(method, rsp).class()
    }

    fn verdict(&self, _: &Method, rsp: Result<&Response<Body>, &Error>) -> Verdict {
        match rsp {
            Ok(rsp) => self.head(rsp).unwrap_or(ResponseClass::Success).into(),
            Err(error) if self.retry == Retry::Compliant && is_refused(error) => Verdict::failure(Safety::Refused),
            Err(_) => ResponseClass::NON_RETRYABLE.into(),
        }
    }
}

impl HttpClassify for GrpcClassifier {
    fn is_open(&self, rsp: &Response<Body>) -> bool {
        self.head(rsp).is_none()
    }

    fn classify_end(&self, _: &Method, end: StreamEnd<'_>) -> ResponseClass {
        match end {
            Ok(trailers) => match trailers.and_then(GrpcCode::of) {
                Some(code) => self.class(code),
                None => self.unsaid(GrpcCode::UNKNOWN),
            },
            Err(error) => self.unsaid(Reset::of(&**error).map_or(GrpcCode::UNKNOWN, GrpcCode::of_reset)),
        }
    }

    fn may_retry_end(&self, _: &Method) -> bool {
        match &self.retry {
            Retry::Never => false,
            Retry::Codes(codes) => !codes.is_empty(),
            _ => true,
        }
    }
}

/// Whether the peer says that it did nothing, and may be asked again.
fn is_refused(error: &Error) -> bool {
    let is_reset = || Reset::of(error).is_some_and(Reset::is_refusal);
    error.kind() == ErrorKind::Refused && (error.never_sent() || is_reset())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoxError;

    const FAILURE: ResponseClass = ResponseClass::NON_RETRYABLE;
    const AGAIN: ResponseClass = ResponseClass::RETRYABLE;

    fn kinds() -> [(&'static str, GrpcClassifier); 5] {
        [
            ("default", GrpcClassifier::new()),
            ("compliant", GrpcClassifier::compliant()),
            ("always", GrpcClassifier::always()),
            ("never", GrpcClassifier::never()),
            ("codes", GrpcClassifier::codes([2, 13])),
        ]
    }

    fn status(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(GRPC_STATUS, text.parse().unwrap())])
    }

    fn rsp(http: u16, grpc: Option<&str>, body: Body) -> Response<Body> {
        let mut rsp = Response::builder().status(http).body(body).unwrap();
        if let Some(text) = grpc {
            *rsp.headers_mut() = status(text);
        }
        rsp
    }

    /// Of an answer that its head decides.
    fn head(classifier: &GrpcClassifier, rsp: &Response<Body>) -> ResponseClass {
        assert!(!classifier.is_open(rsp), "{rsp:?}");
        classifier.classify(&Method::POST, Ok(rsp))
    }

    /// Of one that its trailers decide.
    fn end(classifier: &GrpcClassifier, text: &str) -> ResponseClass {
        let open = rsp(200, None, Body::from("x"));
        assert!(classifier.is_open(&open) && classifier.classify(&Method::POST, Ok(&open)).is_success());
        classifier.classify_end(&Method::POST, Ok(Some(&status(text))))
    }

    #[test]
    fn every_code_by_every_kind_in_trailers_and_in_place_of_a_body() {
        for code in 0..=17 {
            let retryable = [code == 14, code == 14, true, false, code == 2 || code == 13];
            for ((name, classifier), retryable) in kinds().into_iter().zip(retryable) {
                let expected = if code == 0 { ResponseClass::Success } else { ResponseClass::Failure { retryable } };
                let text = code.to_string();
                assert_eq!(end(&classifier, &text), expected, "{name}: trailers with {code}");
                let only = rsp(200, Some(&text), Body::empty());
                assert_eq!(head(&classifier, &only), expected, "{name}: trailers-only with {code}");
            }
        }
    }

    #[test]
    fn successes_can_be_others_and_only_those() {
        let classifier = GrpcClassifier::always().successes([0, 5]);
        assert_eq!(
            [0, 5, 14].map(|code: u32| end(&classifier, &code.to_string())),
            [ResponseClass::Success, ResponseClass::Success, AGAIN]
        );
        assert_eq!(end(&GrpcClassifier::new().successes([5]), "0"), FAILURE);
    }

    #[test]
    fn a_code_that_is_no_number_and_one_that_is_not_there_are_unknown() {
        for (name, classifier) in kinds() {
            let unknown = if matches!(name, "always" | "codes") { AGAIN } else { FAILURE };
            assert_eq!(end(&classifier, "abc"), unknown, "{name}");
            assert_eq!(classifier.classify_end(&Method::POST, Ok(None)), FAILURE, "{name}: no trailers");
            assert_eq!(classifier.classify_end(&Method::POST, Ok(Some(&HeaderMap::new()))), FAILURE, "{name}");
            assert_eq!(head(&classifier, &rsp(200, None, Body::empty())), FAILURE, "{name}: nothing at all");
        }
    }

    #[test]
    fn what_http_says_is_a_failure_and_only_the_compliant_kind_tries_it_again() {
        for http in [400, 401, 403, 404, 418, 429, 500, 502, 503, 504] {
            let again = matches!(http, 429 | 502..=504);
            for (name, classifier) in kinds() {
                let expected = if name == "compliant" && again { AGAIN } else { FAILURE };
                assert_eq!(head(&classifier, &rsp(http, None, Body::from("x"))), expected, "{name}: {http}");
            }
        }
        // gRPC's own word counts for more.
        assert_eq!(head(&GrpcClassifier::compliant(), &rsp(503, Some("3"), Body::empty())), FAILURE);
        assert_eq!(head(&GrpcClassifier::new(), &rsp(404, Some("14"), Body::empty())), AGAIN);
    }

    #[test]
    fn a_status_in_the_head_of_an_answer_with_a_body_counts_if_it_is_a_failure() {
        let classifier = GrpcClassifier::new();
        assert_eq!(head(&classifier, &rsp(200, Some("14"), Body::from("x"))), AGAIN);
        assert!(classifier.is_open(&rsp(200, Some("0"), Body::from("x"))), "its trailers may say something else");
    }

    #[test]
    fn of_streams_that_were_reset_only_a_refused_one_is_tried_again_by_the_compliant_kind() {
        for code in 0..=14 {
            let reset = Reset(code);
            let refused = reset == Reset::REFUSED_STREAM;
            for (name, classifier) in kinds() {
                let expected = if name == "compliant" && refused { AGAIN } else { FAILURE };
                let body: BoxError = reset.into();
                assert_eq!(classifier.classify_end(&Method::POST, Err(&body)), expected, "{name}: {reset}");
                let kind = if refused { ErrorKind::Refused } else { ErrorKind::Closed };
                let error = Error::new(kind).with_source(reset);
                let verdict = classifier.verdict(&Method::POST, Err(&error));
                assert_eq!(verdict.class(), expected, "{name}: {reset}");
                assert_eq!(verdict.safety() == Safety::Refused, expected == AGAIN, "{name}: {reset}");
            }
        }
        // A refusal that is final.
        let error = Error::new(ErrorKind::Refused);
        assert_eq!(GrpcClassifier::compliant().classify(&Method::POST, Err(&error)), FAILURE);
        let error = error.with_never_sent(true);
        assert_eq!(GrpcClassifier::compliant().classify(&Method::POST, Err(&error)), AGAIN);
    }

    #[test]
    fn an_end_is_waited_for_by_those_that_could_try_again() {
        let waits = kinds().map(|(_, classifier)| classifier.may_retry_end(&Method::POST));
        assert_eq!(waits, [true, true, true, false, true]);
        assert!(!GrpcClassifier::codes([]).may_retry_end(&Method::POST));
    }

    #[test]
    fn the_callers_faults_are_not_the_endpoints() {
        // OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED,
        // RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS,
        // UNAUTHENTICATED.
        let faults: Vec<_> = (0..=17).filter(|code| GrpcCode(*code).is_endpoints_fault()).collect();
        assert_eq!(faults, [2, 4, 8, 13, 14, 15]);
    }

    #[test]
    fn http_and_resets_have_a_code() {
        let http = [200, 400, 401, 403, 404, 429, 500, 502, 503, 504];
        let codes = http.map(|http| GrpcCode::of_http(StatusCode::from_u16(http).unwrap()).0);
        assert_eq!(codes, [2, 13, 16, 7, 12, 14, 2, 14, 14, 14]);
        let resets: Vec<_> = (0..=14).map(|code| GrpcCode::of_reset(Reset(code)).0).collect();
        assert_eq!(resets, [13, 13, 13, 13, 13, 2, 13, 14, 1, 13, 13, 8, 7, 2, 2]);
    }
}
