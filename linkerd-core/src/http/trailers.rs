//! What the end of a message may not say, as its head may not.

use http::HeaderMap;

use super::{
    headers::{self, CONTEXT, FORWARDED_CLIENT_CERT},
    overrides,
};

/// What is taken out of the trailers of a body. Nothing here reads them, but who they go to may put them among the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cleaning {
    /// Of a request: what is taken off its head where it comes in.
    Request {
        /// Whether it comes from outside.
        clears_context: bool,
        /// Whether its sender may say that it matters more than others.
        trusts_class: bool,
    },
    /// Of a response that goes outside.
    Response,
}

impl Cleaning {
    pub(crate) fn clean(self, trailers: &mut HeaderMap) {
        let Self::Request { clears_context, trusts_class } = self else {
            headers::remove_l5d(trailers);
            return;
        };
        headers::strip_hop_by_hop(trailers);
        trailers.remove(FORWARDED_CLIENT_CERT);
        if clears_context {
            headers::remove_l5d(trailers);
            headers::remove_traces(trailers);
            return;
        }
        for name in &CONTEXT {
            trailers.remove(name);
        }
        overrides::strip(trailers);
        if !trusts_class {
            headers::strip_class(trailers);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// The names that are left of these.
    fn left(cleaning: Cleaning, names: &[&'static str]) -> Vec<String> {
        let value = HeaderValue::from_static("critical_plus");
        let mut trailers = names.iter().map(|name| (HeaderName::from_static(name), value.clone())).collect();
        cleaning.clean(&mut trailers);
        names.iter().filter(|name| trailers.contains_key(**name)).map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_loses_what_its_head_loses() {
        let inside = Cleaning::Request { clears_context: false, trusts_class: true };
        let outside = Cleaning::Request { clears_context: true, trusts_class: false };
        let always = ["x-forwarded-client-cert", "connection", "te", "upgrade", "proxy-authorization"];
        let context = ["l5d-ctx-dtab", "l5d-dtab", "l5d-ctx-deadline", "l5d-ctx-trace", "l5d-sample", "l5d-timeout"];
        let further = ["l5d-own", "l5d-ctx-criticality", "traceparent", "b3", "x-b3-traceid"];
        let kept = ["grpc-status", "x-t"];
        for names in [&always[..], &context] {
            assert_eq!(left(inside, names), [""; 0]);
            assert_eq!(left(outside, names), [""; 0]);
        }
        assert_eq!(left(inside, &further), further);
        assert_eq!(left(outside, &further), [""; 0]);
        for cleaning in [inside, outside, Cleaning::Response] {
            assert_eq!(left(cleaning, &kept), kept);
        }
        let distrusting = Cleaning::Request { clears_context: false, trusts_class: false };
        assert_eq!(left(distrusting, &["l5d-ctx-criticality"]), [""; 0]);
    }

    #[test]
    fn a_response_tells_nothing_of_ours() {
        assert_eq!(left(Cleaning::Response, &["l5d-success-class", "te", "x-t"]), ["te", "x-t"]);
    }
}
