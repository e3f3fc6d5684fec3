//! Headers with a meaning of their own: Linkerd's, and those that end at each hop.

use std::slice;

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, Entry},
};
use linkerd_retry::limit::Criticality;
use percent_encoding::percent_encode_byte;
#[cfg(feature = "server")]
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// A local dtab that one Linkerd hands to the next.
pub const L5D_CTX_DTAB: HeaderName = HeaderName::from_static("l5d-ctx-dtab");
/// A local dtab that a user sets.
pub const L5D_DTAB: HeaderName = HeaderName::from_static("l5d-dtab");
/// When the request was sent, and when its answer is no longer wanted.
pub const L5D_CTX_DEADLINE: HeaderName = HeaderName::from_static("l5d-ctx-deadline");
/// Which attempt at a request this is, counted over all hops; the first, which is 1, goes without.
pub const L5D_CTX_ATTEMPT: HeaderName = HeaderName::from_static("l5d-ctx-attempt");
/// The flavour of a request: its name, when it expires, in seconds since 1970, and its rules.
pub const L5D_CTX_FLAVOUR: HeaderName = HeaderName::from_static("l5d-ctx-flavour");
/// The caller's span.
pub const L5D_CTX_TRACE: HeaderName = HeaderName::from_static("l5d-ctx-trace");
/// How much the request matters: `sheddable`, `sheddable_plus`, `critical`, `critical_plus`, or 0 to 3. Passed on as it came.
pub const L5D_CTX_CRITICALITY: HeaderName = HeaderName::from_static("l5d-ctx-criticality");
/// The share of requests to trace, from 0 to 1.
pub const L5D_SAMPLE: HeaderName = HeaderName::from_static("l5d-sample");
/// The logical name that a request was routed by.
pub const L5D_DST_SERVICE: HeaderName = HeaderName::from_static("l5d-dst-service");
/// The bound name that a request was sent to.
pub const L5D_DST_CLIENT: HeaderName = HeaderName::from_static("l5d-dst-client");
/// The part of the logical name that the bound name left over.
pub const L5D_DST_RESIDUAL: HeaderName = HeaderName::from_static("l5d-dst-residual");
/// The trace that a request belongs to, for logs.
pub const L5D_REQID: HeaderName = HeaderName::from_static("l5d-reqid");
/// Why a response is not the endpoint's own.
pub const L5D_ERR: HeaderName = HeaderName::from_static("l5d-err");
/// All that is known of a failure, as JSON: where a server [says so](super::respond::ErrorLimits::detail).
pub const L5D_ERR_JSON: HeaderName = HeaderName::from_static("l5d-err-json");
/// On a `TRACE`: the answer tells how the request was named and where it went.
pub const L5D_ADD_CONTEXT: HeaderName = HeaderName::from_static("l5d-add-context");
/// On a request: sending it twice is as good as once, because its server knows it again by this.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// On a response: `true` if the request may be sent again; `false` if it was, as often as it should be.
pub const L5D_RETRYABLE: HeaderName = HeaderName::from_static("l5d-retryable");
/// On a response: whether it counts as a success.
pub const L5D_SUCCESS_CLASS: HeaderName = HeaderName::from_static("l5d-success-class");
/// Who the client is, by its certificate.
pub const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// On a 503: the request was refused unprocessed, and may be sent again.
pub const NACK: HeaderName = HeaderName::from_static("finagle-http-nack");
/// On a 503: the request was refused, and must not be sent again.
pub const NONRETRYABLE_NACK: HeaderName = HeaderName::from_static("finagle-http-nonretryable-nack");
/// On a request: its body is here whole, so that it can be sent again.
pub const RETRYABLE_REQUEST: HeaderName = HeaderName::from_static("finagle-http-retryable-request");

/// What a head carries from hop to hop: read where it comes in, and written anew for the next hop.
#[cfg(feature = "server")]
pub(crate) const CONTEXT: [HeaderName; 10] = [
    L5D_CTX_DTAB,
    L5D_DTAB,
    L5D_CTX_DEADLINE,
    L5D_CTX_FLAVOUR,
    L5D_CTX_TRACE,
    L5D_SAMPLE,
    L5D_DST_SERVICE,
    L5D_DST_CLIENT,
    L5D_DST_RESIDUAL,
    L5D_REQID,
];

/// Says who the client is, if it showed a certificate, in place of whatever it says itself.
#[cfg(feature = "tls")]
pub(crate) fn forward_client_cert(headers: &mut HeaderMap, extensions: &http::Extensions) {
    headers.remove(&FORWARDED_CLIENT_CERT);
    if let Some(identity) = extensions.get::<crate::tls::PeerIdentity>() {
        headers.insert(FORWARDED_CLIENT_CERT, identity.forwarded().clone());
    }
}

/// What one pass over the headers saw, so that nothing is looked up that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    seen: u16,
    /// Bytes of names, values and the `: ` between them.
    pub(crate) bytes: usize,
}

impl Scan {
    pub(crate) const HOP_BY_HOP: u16 = 1;
    pub(crate) const VIA: u16 = 1 << 1;
    pub(crate) const EXPECT: u16 = 1 << 2;
    pub(crate) const L5D: u16 = 1 << 3;
    pub(crate) const CLIENT_CERT: u16 = 1 << 4;
    pub(crate) const CONTENT_LENGTH: u16 = 1 << 5;
    pub(crate) const CHUNKED: u16 = 1 << 6;
    pub(crate) const TE: u16 = 1 << 7;
    pub(crate) const TRAILER: u16 = 1 << 8;
    pub(crate) const CONNECTION: u16 = 1 << 9;
    pub(crate) const ACCEPT_ENCODING: u16 = 1 << 10;
    pub(crate) const GRPC_TIMEOUT: u16 = 1 << 11;
    /// A trace, in another way than Linkerd's.
    pub(crate) const TRACE: u16 = 1 << 15;
    pub(crate) const UPGRADE: u16 = 1 << 12;

    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut scan = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            scan.bytes += name.len() + value.len() + 2;
            scan.seen |= match name {
                "connection" => Self::HOP_BY_HOP | Self::CONNECTION,
                "te" => Self::HOP_BY_HOP | Self::TE,
                "trailer" => Self::HOP_BY_HOP | Self::TRAILER,
                "transfer-encoding" => Self::HOP_BY_HOP | Self::CHUNKED,
                "upgrade" => Self::HOP_BY_HOP | Self::UPGRADE,
                "proxy-authenticate" | "proxy-authorization" => Self::HOP_BY_HOP,
                "via" => Self::VIA,
                "expect" => Self::EXPECT,
                "accept-encoding" => Self::ACCEPT_ENCODING,
                "grpc-timeout" => Self::GRPC_TIMEOUT,
                "content-length" => Self::CONTENT_LENGTH,
                "x-forwarded-client-cert" => Self::CLIENT_CERT,
                "traceparent" | "tracestate" | "b3" => Self::TRACE,
                _ if name.starts_with("l5d-") => Self::L5D,
                _ if name.starts_with("x-b3-") => Self::TRACE,
                _ => 0,
            };
        }
        scan
    }

    pub(crate) fn saw(self, what: u16) -> bool {
        self.seen & what != 0
    }
}

/// Whether a message is coded for its transfer otherwise than by `chunked`, once. Nothing here undoes that, and the next
/// hop would not know of it.
pub(crate) fn has_other_codings(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    let mut codings = codings.filter(|coding| !coding.is_empty());
    let is_chunked = codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    !is_chunked || codings.next().is_some()
}

/// Removes the headers that end at this hop: `Connection` and every header that it names, `Proxy-Authenticate`,
/// `Proxy-Authorization`, `TE`, `Trailer`, `Transfer-Encoding` and `Upgrade`.
///
/// `Keep-Alive` and `Proxy-Connection` stay unless `Connection` names them, as Linkerd 1 has it.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let connection: Vec<HeaderValue> = match headers.entry(header::CONNECTION) {
        Entry::Occupied(entry) => entry.remove_entry_mult().1.collect(),
        Entry::Vacant(_) => Vec::new(),
    };
    for name in connection.iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b',')) {
        // What frames or addresses the message is not an option of the connection.
        if let Ok(name) = HeaderName::from_bytes(name.trim_ascii())
            && name != header::CONTENT_LENGTH
            && name != header::HOST
        {
            headers.remove(name);
        }
    }
    for name in [
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// How many proxies say in `Via` that they passed the message on, over all `Via` headers.
pub fn via_depth(headers: &HeaderMap) -> usize {
    let entries = |value: &HeaderValue| {
        value.as_bytes().split(|&byte| byte == b',').filter(|entry| !entry.trim_ascii().is_empty()).count()
    };
    headers.get_all(header::VIA).iter().map(entries).sum()
}

/// Adds this proxy to the chain in `Via`: one header with all entries of those that were there, in order.
pub fn append_via(headers: &mut HeaderMap, version: Version) {
    let ours = match version {
        Version::HTTP_10 => "1.0 linkerd",
        Version::HTTP_2 => "h2 linkerd",
        _ => "1.1 linkerd",
    };
    match headers.entry(header::VIA) {
        Entry::Vacant(entry) => {
            entry.insert(HeaderValue::from_static(ours));
        }
        Entry::Occupied(mut entry) => {
            let mut chain = Vec::new();
            for value in entry.iter() {
                chain.extend_from_slice(value.as_bytes());
                chain.extend_from_slice(b", ");
            }
            chain.extend_from_slice(ours.as_bytes());
            // Valid values joined by valid bytes are valid.
            if let Ok(chain) = HeaderValue::try_from(chain) {
                entry.insert(chain);
            }
        }
    }
}

/// Whether one of the words of a header, over all its lines, is this one, in any case of letters.
#[cfg(feature = "server")]
pub(crate) fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter();
    let mut words = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    words.any(|said| said.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// Whether a header says `true`, in any case of letters.
pub fn is_true(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get(name).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// Takes the class off that only a trusted caller may ask for: that of a request which matters more than others.
pub(crate) fn strip_class(headers: &mut HeaderMap) {
    let class = |value: &HeaderValue| value.to_str().ok()?.parse().ok();
    if headers.get_all(L5D_CTX_CRITICALITY).iter().any(|value| class(value) == Some(Criticality::CriticalPlus)) {
        headers.remove(L5D_CTX_CRITICALITY);
    }
}

/// Removes every header whose name starts with `l5d-`.
pub fn remove_l5d(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| name.as_str().starts_with("l5d-")).cloned() {
        headers.remove(name);
    }
}

/// Removes what says to which trace a message belongs, in whatever form but ours.
#[cfg(feature = "server")]
pub(crate) fn remove_traces(headers: &mut HeaderMap) {
    let is_trace = |name: &HeaderName| {
        let name = name.as_str();
        matches!(name, "traceparent" | "tracestate" | "b3") || name.starts_with("x-b3-")
    };
    while let Some(name) = headers.keys().find(|name| is_trace(name)).cloned() {
        headers.remove(name);
    }
}

/// Makes one header of those of this name, if they say the same. `false` if they do not: who reads the first and who reads
/// the last one would not read the same message.
pub(crate) fn unite(headers: &mut HeaderMap, name: &HeaderName) -> bool {
    // So it is of most messages: there is nothing twice.
    if headers.len() == headers.keys_len() {
        return true;
    }
    let Entry::Occupied(mut entry) = headers.entry(name) else { return true };
    let first = entry.get().clone();
    let is_one = entry.iter().all(|value| *value == first);
    if is_one {
        entry.insert(first);
    }
    is_one
}

/// A text as `l5d-err` carries it: form-URL-encoded ISO-8859-1, a space as `+`, at most `max_bytes` long. An escape is
/// never cut in two.
#[must_use]
pub fn encode_err(text: &str, max_bytes: usize) -> HeaderValue {
    let mut out = Vec::with_capacity(text.len().saturating_mul(3).min(max_bytes));
    for char in text.chars() {
        // What ISO-8859-1 lacks becomes a question mark, as in Java.
        let byte = u8::try_from(u32::from(char)).unwrap_or(b'?');
        let encoded = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'*' | b'_' => slice::from_ref(&byte),
            b' ' => b"+",
            _ => percent_encode_byte(byte).as_bytes(),
        };
        if out.len() + encoded.len() > max_bytes {
            break;
        }
        out.extend_from_slice(encoded);
    }
    HeaderValue::try_from(out).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A text as a `grpc-message` has it: UTF-8, of which what is not visible ASCII or a space is percent-encoded. Of a text
/// that is longer than `max_bytes`, its beginning.
#[cfg(feature = "server")]
pub(crate) fn encode_grpc(text: &str, max_bytes: usize) -> HeaderValue {
    let mut out = String::with_capacity(text.len().min(max_bytes));
    for char in text.chars() {
        let mut utf8 = [0; 4];
        let bytes = char.encode_utf8(&mut utf8);
        let encoded = utf8_percent_encode(bytes, GRPC_MESSAGE);
        if out.len() + encoded.clone().map(str::len).sum::<usize>() > max_bytes {
            break;
        }
        out.extend(encoded);
    }
    HeaderValue::try_from(out).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(feature = "server")]
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// A header map has room for more, and more are of no use.
pub(crate) const MOST_HEADERS: u16 = 16 * 1024;

/// What hyper must be told so that a head of more than the default size fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// How many headers, if more than hyper's 100: room for them is allocated for each head.
    pub(crate) headers: Option<usize>,
    /// The size of the buffer, if more than hyper's own.
    pub(crate) buf: Option<usize>,
}

impl Room {
    /// The limit up to which hyper's own limits are kept.
    const USUAL: usize = 8 * 1024;
    /// hyper's buffer when it is told nothing.
    const USUAL_BUF: usize = 8192 + 4096 * 100;
    /// One header for so many bytes: most are longer.
    const BYTES_A_HEADER: usize = 32;

    /// For headers of so many bytes, below a first line of so many.
    pub(crate) fn of(header_bytes: usize, line_bytes: usize) -> Self {
        if header_bytes <= Self::USUAL {
            return Self { headers: None, buf: None };
        }
        let headers = (header_bytes / Self::BYTES_A_HEADER).min(usize::from(MOST_HEADERS));
        // The limit is on names, values and what is between; the ends of lines come on top.
        let ends = 2 * (headers + 2);
        let buf = header_bytes.saturating_add(line_bytes).saturating_add(ends);
        Self { headers: Some(headers), buf: (buf >= Self::USUAL_BUF).then_some(buf.saturating_add(1)) }
    }

    /// The same for so many headers, if that is said.
    #[cfg(feature = "server")]
    pub(crate) fn with_headers(self, headers: Option<usize>) -> Self {
        let Some(headers) = headers else { return self };
        let more = headers.saturating_sub(self.headers.unwrap_or_default());
        Self { headers: Some(headers), buf: self.buf.map(|buf| buf.saturating_add(2 * more)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_scan_sees_what_is_there_and_how_long_it_is() {
        let scan = Scan::of(&map(&[("via", "1.1 a"), ("l5d-dtab", "x")]));
        assert!(scan.saw(Scan::VIA) && scan.saw(Scan::L5D));
        assert!(!scan.saw(Scan::HOP_BY_HOP) && !scan.saw(Scan::EXPECT));
        assert_eq!(scan.bytes, "via: 1.1 a".len() + "l5d-dtab: x".len());
        for name in ["connection", "te", "trailer", "transfer-encoding", "upgrade", "proxy-authorization"] {
            assert!(Scan::of(&map(&[(name, "x")])).saw(Scan::HOP_BY_HOP), "{name}");
        }
    }

    #[test]
    fn a_connection_cannot_take_away_what_frames_a_message() {
        let mut headers =
            map(&[("connection", "content-length, host, , x-a"), ("content-length", "1"), ("host", "h"), ("x-a", "1")]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("content-length", "1"), ("host", "h")]));
    }

    #[test]
    fn an_encoded_error_is_cut_between_escapes() {
        for (max, encoded) in [(0, ""), (1, "a"), (3, "a+"), (5, "a+%E9"), (100, "a+%E9%3F*")] {
            assert_eq!(encode_err("a \u{e9}\u{20ac}*", max), encoded, "{max}");
        }
    }

    #[test]
    fn all_entries_of_all_via_headers_count() {
        let mut headers = HeaderMap::new();
        assert_eq!(via_depth(&headers), 0);
        for via in ["1.1 a, 1.0 b", "", "1.1 c"] {
            headers.append(header::VIA, HeaderValue::from_static(via));
        }
        assert_eq!(via_depth(&headers), 3);
    }

    #[test]
    fn what_is_said_twice_is_said_once_and_what_differs_stays() {
        let mut headers = map(&[("host", "a"), ("x", "1"), ("host", "a"), ("x", "2"), ("host", "a")]);
        assert!(unite(&mut headers, &header::HOST));
        assert!(!unite(&mut headers, &HeaderName::from_static("x")));
        assert!(unite(&mut headers, &header::VIA));
        assert_eq!(headers, map(&[("host", "a"), ("x", "1"), ("x", "2")]));
    }

    #[test]
    fn removing_ours_leaves_the_others() {
        let mut headers = map(&[("l5d-a", "1"), ("x-l5d-b", "1"), ("l5d-", "2"), ("l5dx", "1")]);
        remove_l5d(&mut headers);
        assert_eq!(headers, map(&[("x-l5d-b", "1"), ("l5dx", "1")]));
    }
}
