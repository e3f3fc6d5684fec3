//! `responseClassifier`: what counts as a failure, and which failures are retried.

use std::sync::Arc;

use super::{
    decode::{At, MAX_INT, Section},
    router::ProtocolKind,
};
use crate::{GrpcClassifier, H2Classifier, HttpClassifier, HttpClassify};

/// A `responseClassifier` map, by its `kind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Classifier {
    /// `io.l5d.http.nonRetryable5XX`, `io.l5d.h2.nonRetryable5XX`: 5xx fails and is not retried. The default.
    NonRetryable5xx,
    /// `io.l5d.http.retryableRead5XX`, `io.l5d.h2.retryableRead5XX`: GET, HEAD, OPTIONS and TRACE are retried.
    RetryableRead5xx,
    /// `io.l5d.http.retryableIdempotent5XX`, `io.l5d.h2.retryableIdempotent5XX`: also PUT and DELETE.
    RetryableIdempotent5xx,
    /// `io.l5d.http.retryableAll5XX`, `io.l5d.h2.retryableAll5XX`: also POST and PATCH.
    RetryableAll5xx,
    /// `io.l5d.http.allSuccessful`, `io.l5d.h2.allSuccessful`: every response is a success.
    AllSuccessful,
    /// One of the `io.l5d.h2.grpc.*`.
    Grpc {
        /// Which failures are retried.
        retry: GrpcRetry,
        /// `successStatusCodes`: values of `grpc-status` that are successes. Default: 0.
        success_status_codes: Vec<u32>,
    },
}

/// Which gRPC failures are retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrpcRetry {
    /// `io.l5d.h2.grpc.default`: status 14.
    Default,
    /// `io.l5d.h2.grpc.compliant`: status 14, HTTP 429, 502, 503 and 504, refused streams.
    Compliant,
    /// `io.l5d.h2.grpc.alwaysRetryable`: every gRPC status.
    Always,
    /// `io.l5d.h2.grpc.neverRetryable`.
    Never,
    /// `io.l5d.h2.grpc.retryableStatusCodes`: these, given by `retryableStatusCodes`. Required.
    StatusCodes(Vec<u32>),
}

const HTTP_KINDS: [&str; 5] = [
    "io.l5d.http.nonRetryable5XX",
    "io.l5d.http.retryableRead5XX",
    "io.l5d.http.retryableIdempotent5XX",
    "io.l5d.http.retryableAll5XX",
    "io.l5d.http.allSuccessful",
];

const H2_KINDS: [&str; 10] = [
    "io.l5d.h2.nonRetryable5XX",
    "io.l5d.h2.retryableRead5XX",
    "io.l5d.h2.retryableIdempotent5XX",
    "io.l5d.h2.retryableAll5XX",
    "io.l5d.h2.allSuccessful",
    "io.l5d.h2.grpc.default",
    "io.l5d.h2.grpc.compliant",
    "io.l5d.h2.grpc.alwaysRetryable",
    "io.l5d.h2.grpc.neverRetryable",
    "io.l5d.h2.grpc.retryableStatusCodes",
];

impl Classifier {
    /// The kinds of h2 for h2 routers, those of http for all others, as Linkerd 1.x has it.
    pub(super) fn decode(at: &At<'_>, protocol: ProtocolKind) -> Option<Self> {
        let (name, kinds) = match protocol {
            ProtocolKind::H2 => ("h2 classifier", &H2_KINDS[..]),
            _ => ("http classifier", &HTTP_KINDS[..]),
        };
        let mut s = Section::open(at, name)?;
        let kind = s.kind("kind", kinds, None)?;
        let short = kind.trim_start_matches("io.l5d.").trim_start_matches("http.").trim_start_matches("h2.");
        let classifier = match short {
            "nonRetryable5XX" => Some(Self::NonRetryable5xx),
            "retryableRead5XX" => Some(Self::RetryableRead5xx),
            "retryableIdempotent5XX" => Some(Self::RetryableIdempotent5xx),
            "retryableAll5XX" => Some(Self::RetryableAll5xx),
            "allSuccessful" => Some(Self::AllSuccessful),
            grpc => {
                let success_status_codes = s.with("successStatusCodes", codes).unwrap_or_else(|| vec![0]);
                let retry = match grpc {
                    "grpc.default" => Some(GrpcRetry::Default),
                    "grpc.compliant" => Some(GrpcRetry::Compliant),
                    "grpc.alwaysRetryable" => Some(GrpcRetry::Always),
                    "grpc.neverRetryable" => Some(GrpcRetry::Never),
                    _ => s.require_with("retryableStatusCodes", codes).map(GrpcRetry::StatusCodes),
                };
                retry.map(|retry| Self::Grpc { retry, success_status_codes })
            }
        };
        s.finish();
        classifier
    }

    /// What classifies the answers of a service; the default one if the file says nothing.
    pub(super) fn build(classifier: Option<&Self>, protocol: ProtocolKind) -> Arc<dyn HttpClassify> {
        let http = match classifier {
            Some(Self::Grpc { retry, success_status_codes }) => {
                return Arc::new(retry.build().successes(success_status_codes.iter().copied()));
            }
            None | Some(Self::NonRetryable5xx) => HttpClassifier::NonRetryable5xx,
            Some(Self::RetryableRead5xx) => HttpClassifier::RetryableRead5xx,
            Some(Self::RetryableIdempotent5xx) => HttpClassifier::RetryableIdempotent5xx,
            Some(Self::RetryableAll5xx) => HttpClassifier::RetryableAll5xx,
            Some(Self::AllSuccessful) => HttpClassifier::AllSuccessful,
        };
        if protocol == ProtocolKind::H2 { Arc::new(H2Classifier(http)) } else { Arc::new(http) }
    }
}

impl GrpcRetry {
    fn build(&self) -> GrpcClassifier {
        match self {
            Self::Default => GrpcClassifier::new(),
            Self::Compliant => GrpcClassifier::compliant(),
            Self::Always => GrpcClassifier::always(),
            Self::Never => GrpcClassifier::never(),
            Self::StatusCodes(codes) => GrpcClassifier::codes(codes.iter().copied()),
        }
    }
}

fn codes(at: &At<'_>) -> Option<Vec<u32>> {
    at.list(|at| at.int(&(0..=MAX_INT)).map(|n| n as u32))
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderMap, HeaderValue, Method, Response};
    use linkerd_retry::ResponseClass;

    use super::*;
    use crate::{Body, BoxError, config::Config};

    fn built(protocol: ProtocolKind, classifier: &str) -> Arc<dyn HttpClassify> {
        let name = if protocol == ProtocolKind::H2 { "h2" } else { "http" };
        let text =
            format!("routers: [{{protocol: {name}, servers: [{{}}], service: {{responseClassifier: {classifier}}}}}]");
        let config = Config::parse("f", &text).unwrap_or_else(|errors| panic!("{errors}"));
        let service = config.routers[0].service.for_path(&"/svc/web".parse().unwrap());
        Classifier::build(service.response_classifier.as_ref(), protocol)
    }

    /// `+` a success, `-` a failure, `r` one that is retried: a GET, PUT and POST with 503, the same breaking off, and
    /// statuses 0, 2, 5 and 14 in trailers.
    fn classes(classifier: &dyn HttpClassify) -> String {
        let methods = [Method::GET, Method::PUT, Method::POST];
        let failed = Response::builder().status(503).body(Body::from("x")).unwrap();
        let heads = methods.iter().map(|method| classifier.classify(method, Ok(&failed)));
        let broken: BoxError = "broken off".into();
        let ends = methods.iter().map(|method| classifier.classify_end(method, Err(&broken)));
        let codes = ["0", "2", "5", "14"].into_iter().map(|code| {
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(code))]);
            classifier.classify_end(&Method::POST, Ok(Some(&trailers)))
        });
        let letter = |class| match class {
            ResponseClass::Success => '+',
            class if class.is_retryable() => 'r',
            _ => '-',
        };
        heads.chain(ends).chain(codes).map(letter).collect()
    }

    #[test]
    fn every_kind_of_h2_is_the_classifier_that_it_says() {
        for (classifier, expected) in [
            ("null", "------++++"),
            ("{kind: io.l5d.h2.nonRetryable5XX}", "------++++"),
            ("{kind: io.l5d.h2.retryableRead5XX}", "r--r--++++"),
            ("{kind: io.l5d.h2.retryableIdempotent5XX}", "rr-rr-++++"),
            ("{kind: io.l5d.h2.retryableAll5XX}", "rrrrrr++++"),
            ("{kind: io.l5d.h2.allSuccessful}", "+++---++++"),
            ("{kind: io.l5d.h2.grpc.default}", "------+--r"),
            ("{kind: io.l5d.h2.grpc.default, successStatusCodes: [0, 5]}", "------+-+r"),
            ("{kind: io.l5d.h2.grpc.compliant}", "rrr---+--r"),
            ("{kind: io.l5d.h2.grpc.alwaysRetryable}", "------+rrr"),
            ("{kind: io.l5d.h2.grpc.neverRetryable}", "------+---"),
            ("{kind: io.l5d.h2.grpc.retryableStatusCodes, retryableStatusCodes: [2, 5]}", "------+rr-"),
        ] {
            assert_eq!(classes(&*built(ProtocolKind::H2, classifier)), expected, "{classifier}");
        }
    }

    #[test]
    fn those_of_http_go_by_the_head_alone() {
        let open = Response::new(Body::from("x"));
        assert!(!built(ProtocolKind::Http, "{kind: io.l5d.http.retryableRead5XX}").is_open(&open));
        assert!(built(ProtocolKind::H2, "{kind: io.l5d.h2.retryableRead5XX}").is_open(&open));
    }
}
