//! The head of a request: what gets no further, what ends at this hop, and what it carries.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri, Version,
    header::{EXPECT, HOST},
    request,
};

use super::{Ends, Peer, answer::strip};
use crate::{
    Error, ErrorKind,
    http::{
        RequestContext,
        client::{host_of, origin_form},
        flavour::Lost,
        headers::{self, Scan},
        overrides::{self, Overrides},
        trace::TraceId,
        tunnel,
    },
};

/// Why a request gets no further.
pub(in crate::http) enum Refusal {
    /// It is no request that can be understood; the connection ends.
    Unreadable(StatusCode),
    /// It can be answered.
    Failed(Error),
}

impl Peer {
    /// Checks the head of a request, takes out what ends at this hop, and reads what it carries.
    pub(in crate::http) fn admit(&self, parts: &mut request::Parts, scan: Scan) -> Result<RequestContext, Refusal> {
        let config = &self.shared.config;
        if initial_line(parts) > config.max_initial_line_bytes {
            return Err(Refusal::Unreadable(StatusCode::URI_TOO_LONG));
        }
        let has_too_many = config.max_headers.is_some_and(|max| parts.headers.len() > max);
        if has_too_many || scan.bytes > config.max_header_bytes {
            return Err(Refusal::Unreadable(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
        if !parts.uri.path_and_query().is_none_or(|path| path.as_str().is_ascii()) {
            return Err(Refusal::Unreadable(StatusCode::BAD_REQUEST));
        }
        if !has_one_host(parts) {
            return Err(Refusal::Unreadable(StatusCode::BAD_REQUEST));
        }
        if parts.method == Method::CONNECT {
            let error =
                Error::new(ErrorKind::BadRequest).with_text("CONNECT is not supported: there are no tunnels here");
            return Err(Refusal::Failed(error));
        }
        let forwarded = config.forwarded.as_ref().map(|forwarded| (forwarded, parts.uri.scheme().cloned()));
        // In HTTP/2 the target has them, and what ends at a hop is no header.
        let is_http1 = parts.version != Version::HTTP_2;
        // A target that is an authority alone is for CONNECT.
        let is_authority = parts.uri.scheme().is_none() && parts.uri.authority().is_some();
        if is_http1 && (is_authority || scan.saw(Scan::CHUNKED) && headers::has_other_codings(&parts.headers)) {
            return Err(Refusal::Unreadable(StatusCode::BAD_REQUEST));
        }
        if is_http1 && (parts.uri.scheme().is_some() || parts.uri.authority().is_some()) {
            if let Some(host) = host_of(&parts.uri) {
                parts.headers.insert(HOST, host);
            }
            parts.uri = origin_form(&parts.uri);
        }
        let headers = &mut parts.headers;
        if scan.saw(Scan::VIA) && headers::via_depth(headers) > config.max_call_depth {
            let max = config.max_call_depth;
            let text = format!("Maximum number of calls ({max}) has been exceeded. Please check for proxy loops.");
            return Err(Refusal::Failed(Error::new(ErrorKind::TooManyHops).with_text(text)));
        }
        if is_http1 && scan.saw(Scan::HOP_BY_HOP) {
            let may_switch = config.upgrades && scan.saw(Scan::UPGRADE);
            let protocol = may_switch.then(|| tunnel::asked(headers, parts.version)).flatten();
            // hyper writes those trailers that are announced, so a stream keeps its announcement.
            strip(headers, scan.saw(Scan::TRAILER) && scan.saw(Scan::CHUNKED));
            if may_switch {
                // Of the upgrade to HTTP/2, which ends here.
                headers.remove("http2-settings");
            }
            if let Some(protocol) = protocol {
                tunnel::write(headers, protocol);
            }
        }
        if config.via {
            headers::append_via(headers, parts.version);
        }
        if is_http1
            && scan.saw(Scan::EXPECT)
            && headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        {
            // hyper answers it when the body is first read.
            headers.remove(EXPECT);
        }
        if scan.saw(Scan::CLIENT_CERT) {
            headers.remove(&headers::FORWARDED_CLIENT_CERT);
        }
        if let Some((forwarded, scheme)) = forwarded {
            // A target of HTTP/1 has lost its own by now.
            let authority = parts.uri.authority();
            let Ends { local, remote, .. } = self.ends;
            forwarded.write(headers, scheme.as_ref(), authority, local, remote, self.forwarded_ids);
        }
        if let Some(name) = &config.timestamp_header {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            if let Ok(now) = HeaderValue::try_from(now.as_millis().to_string()) {
                headers.append(name, now);
            }
        }
        let mut cx = if config.clear_context {
            let is_forged = scan.saw(Scan::L5D) && headers.contains_key(&headers::L5D_CTX_FLAVOUR);
            let lost_flavour = is_forged.then_some(Lost::Refused);
            if scan.saw(Scan::L5D) {
                headers::remove_l5d(headers);
            }
            if scan.saw(Scan::TRACE) {
                config.propagation.clear(headers, false);
            }
            // As Linkerd 1 has it: of h2 the attempts are children of one span, of http each begins a trace.
            let trace = (!is_http1).then(TraceId::root);
            RequestContext { trace, propagation: config.propagation, lost_flavour, ..RequestContext::default() }
        } else {
            RequestContext::read_seen(headers, scan, config.propagation).map_err(Refusal::Failed)?
        };
        self.flavour(&mut cx, &parts.headers);
        let headers = &mut parts.headers;
        if scan.saw(Scan::L5D) {
            cx.overrides = config.per_request.and_then(|bounds| Overrides::read(headers, bounds));
            overrides::strip(headers);
            if !config.per_request.is_some_and(|bounds| bounds.criticality) {
                headers::strip_class(headers);
            }
        }
        #[cfg(feature = "tls")]
        if let Some(identity) = &self.ends.identity {
            parts.extensions.insert(identity.clone());
        }
        let Ends { remote, local, scheme, .. } = self.ends;
        Ok(RequestContext { remote: Some(remote), local: Some(local), scheme, version: parts.version, ..cx })
    }

    /// Gives a request its flavour, if it comes without one that is for it, and counts what became of it.
    fn flavour(&self, cx: &mut RequestContext, headers: &HeaderMap) {
        if cx.flavour.is_none() && !self.shared.config.flavours.is_empty() {
            let now = SystemTime::now();
            cx.flavour = self.shared.config.flavours.iter().find_map(|rule| rule.apply(headers, now));
        }
        if let Some(stats) = self.shared.stats() {
            match (&cx.flavour, cx.lost_flavour.take()) {
                (_, Some(Lost::Expired)) => stats.flavour_expired(),
                (_, Some(Lost::Refused)) => stats.flavour_refused(),
                (Some(_), None) => stats.flavoured(),
                (None, None) => {}
            }
        }
    }
}

/// How long the first line was.
fn initial_line(parts: &request::Parts) -> usize {
    parts.method.as_str().len() + 1 + target(&parts.uri) + " HTTP/1.1".len()
}

fn target(uri: &Uri) -> usize {
    let scheme = uri.scheme_str().map_or(0, |scheme| scheme.len() + "://".len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    scheme + authority + uri.path_and_query().map_or(0, |path| path.as_str().len())
}

/// Leaves one `Host`: whoever routes by the one and whoever answers by the other would not see the same request. `false` if
/// there is none to leave.
fn has_one_host(parts: &mut request::Parts) -> bool {
    if headers::unite(&mut parts.headers, &HOST) {
        return true;
    }
    if parts.version == Version::HTTP_2 {
        return false;
    }
    // It has its name by the first, as in Linkerd 1, and so that is the only one that goes on.
    if let Some(first) = parts.headers.get(HOST).cloned() {
        parts.headers.insert(HOST, first);
    }
    true
}
