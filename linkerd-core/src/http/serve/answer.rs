//! An answer on its way to the client, and what is counted of it.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TE, TRAILER, UPGRADE},
    request,
};
use http_body::Body as _;

use super::Shared;
use crate::{
    Body, Error, ErrorKind,
    access_log::Record,
    http::{
        ServerConfig,
        headers::{self, Scan},
        overrides::L5D_ERR_DETAIL,
        reason,
        respond::{error_response, rejection},
        trailers::Cleaning,
        tunnel,
    },
    telemetry::{Refused, ServerStats},
};

/// What the client's request says of the answer that it can read.
#[derive(Clone, Copy)]
pub(super) struct Reader {
    version: Version,
    keeps_alive: bool,
    takes_trailers: bool,
    #[cfg(feature = "compression")]
    pub(super) takes_gzip: bool,
}

impl Shared {
    /// Where is counted now.
    pub(in crate::http) fn stats(&self) -> Option<&ServerStats> {
        self.place.stats().map(|stats| &**stats)
    }

    /// Counts what goes no further, and is no request.
    pub(in crate::http) fn refused(&self, why: Refused) {
        if let Some(stats) = self.stats() {
            stats.refused.record(why);
        }
    }

    /// Counts what is no request by its answer.
    pub(in crate::http) fn unreadable(&self, status: StatusCode) {
        self.refused(match status {
            StatusCode::URI_TOO_LONG => Refused::LineTooLong,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Refused::HeadersTooLarge,
            _ => Refused::BadRequest,
        });
    }

    /// The answer to what is no request, which is counted.
    pub(super) fn reject(&self, status: StatusCode) -> Response<Body> {
        self.unreadable(status);
        rejection(status)
    }

    pub(in crate::http) fn failed(&self, error: &Error) -> Response<Body> {
        tracing::debug!(error = %error.chain(), "request failed");
        error_response(error, self.config.error_limits)
    }

    pub(super) fn complete(&self, rsp: &mut Response<Body>, reader: Reader) {
        self.clear(rsp);
        if self.config.clear_context {
            let body = std::mem::take(rsp.body_mut());
            *rsp.body_mut() = body.cleaned(Cleaning::Response);
        }
        reason::set(rsp);
        reader.suit(rsp);
    }

    /// The body of a request, whose trailers say nothing that its head may not.
    pub(in crate::http) fn cleaned(&self, body: Body) -> Body {
        let trusts_class = self.config.per_request.is_some_and(|bounds| bounds.criticality);
        body.cleaned(Cleaning::Request { clears_context: self.config.clear_context, trusts_class })
    }

    /// Takes out what is nobody's business outside.
    pub(in crate::http) fn clear(&self, rsp: &mut Response<Body>) {
        if self.config.clear_context {
            let is_error = rsp.headers().contains_key(&headers::L5D_ERR);
            headers::remove_l5d(rsp.headers_mut());
            if is_error && self.config.clear_error_bodies {
                rsp.headers_mut().remove(CONTENT_LENGTH);
                *rsp.body_mut() = Body::empty();
            }
        }
    }
}

impl ServerConfig {
    /// Whether a failure of this request comes with all that is known of it.
    pub(in crate::http) fn wants_detail(&self, headers: &HeaderMap, scan: Scan) -> bool {
        self.error_limits.detail
            || self.per_request.is_some() && scan.saw(Scan::L5D) && headers::is_true(headers, &L5D_ERR_DETAIL)
    }
}

impl Reader {
    pub(super) fn of(parts: &request::Parts, scan: Scan) -> Self {
        let says = |name, word: &str| headers::names(&parts.headers, &name, word);
        Self {
            version: parts.version,
            keeps_alive: parts.version != Version::HTTP_10
                || scan.saw(Scan::CONNECTION) && says(CONNECTION, "keep-alive"),
            takes_trailers: scan.saw(Scan::TE) && says(TE, "trailers"),
            #[cfg(feature = "compression")]
            takes_gzip: scan.saw(Scan::ACCEPT_ENCODING)
                && crate::http::compress::takes_gzip(&parts.method, parts.version, &parts.headers),
        }
    }

    /// Brings a response into the version that the client speaks.
    pub(super) fn suit(self, rsp: &mut Response<Body>) {
        // Given 1.1, hyper makes of it what the client spoke, and keeps the connection if it can.
        *rsp.version_mut() = Version::HTTP_11;
        if self.version == Version::HTTP_10 && !(self.keeps_alive && rsp.body().size_hint().exact().is_some()) {
            *rsp.version_mut() = Version::HTTP_10;
            rsp.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// The answer to a request that goes no further.
pub(super) fn refused(rsp: Response<Body>, noted: Option<Box<Record>>) -> Response<Body> {
    if let Some(mut noted) = noted {
        noted.refused(&rsp);
    }
    rsp
}

/// A response on its way to the client: what ends at this hop is out, and the way it came is in.
pub(super) fn pass(rsp: &mut Response<Body>, reader: Reader, shared: &Shared) {
    let (version, status) = (rsp.version(), rsp.status());
    let is_stream = rsp.body().size_hint().exact().is_none();
    let headers = rsp.headers_mut();
    let scan = Scan::of(headers);
    if scan.saw(Scan::HOP_BY_HOP) {
        let protocol = if status == StatusCode::SWITCHING_PROTOCOLS { headers.get(UPGRADE).cloned() } else { None };
        let has_trailers = scan.saw(Scan::TRAILER) && is_stream;
        strip(headers, has_trailers && reader.takes_trailers);
        if has_trailers
            && !reader.takes_trailers
            && let Some(stats) = shared.stats()
        {
            stats.trailers_dropped();
        }
        if let Some(protocol) = protocol {
            tunnel::write(headers, protocol);
        }
    }
    if shared.config.via {
        headers::append_via(headers, version);
    }
}

pub(super) fn strip(headers: &mut HeaderMap, keep_trailer: bool) {
    let trailer: Vec<_> = if keep_trailer { headers.get_all(TRAILER).iter().cloned().collect() } else { Vec::new() };
    headers::strip_hop_by_hop(headers);
    for name in trailer {
        headers.append(TRAILER, name);
    }
}

pub(super) fn record(stats: &ServerStats, rsp: &Response<Body>, error: Option<&Error>, elapsed: Duration) {
    let status = rsp.status();
    stats.status.record(Some(status), elapsed);
    let class = rsp.headers().get(&headers::L5D_SUCCESS_CLASS);
    let is_success = match class {
        _ if error.is_some_and(|error| error.kind() == ErrorKind::Unidentified) => false,
        // What the next proxy or our own classifier said; what is no number is a failure.
        Some(class) => {
            class == "1.0"
                || class.to_str().ok().and_then(|class| class.trim().parse().ok()).is_some_and(|class: f64| class > 0.0)
        }
        None => !status.is_server_error(),
    };
    if is_success {
        stats.requests.succeeded(elapsed);
    } else {
        // Linkerd's server sees what its errors were made into: responses.
        let reason = error.filter(|error| error.kind() == ErrorKind::Unidentified);
        stats.requests.failed(reason, elapsed);
    }
}
