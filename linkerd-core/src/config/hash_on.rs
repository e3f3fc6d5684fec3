//! `hashOn`: what makes requests go to the same endpoint.

use super::{
    decode::{At, Section},
    router::ProtocolKind,
    value::HeaderName,
};

/// A `hashOn` map, which has exactly one key. An extension.
///
/// A request without it, one that lacks the header for example, goes to an endpoint by chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// `header` (http, h2): the value of this header.
    Header(HeaderName),
    /// `cookie` (http, h2): the value of this cookie.
    Cookie(String),
    /// `path` (http, h2): the path of the request's URI, without its query.
    Path,
    /// `sourceIp`: the address that the request came from.
    SourceIp,
}

const HTTP_KEYS: [&str; 4] = ["header", "cookie", "path", "sourceIp"];
const OTHER_KEYS: [&str; 1] = ["sourceIp"];

impl HashOn {
    pub(super) fn decode(at: &At<'_>, protocol: ProtocolKind) -> Option<Self> {
        let keys = match protocol {
            ProtocolKind::Http | ProtocolKind::H2 => &HTTP_KEYS[..],
            ProtocolKind::Thrift | ProtocolKind::Mux | ProtocolKind::ThriftMux => &OTHER_KEYS[..],
        };
        let mut s = Section::open(at, "hashOn")?;
        let given = keys.iter().filter(|key| s.has(key)).count();
        let mut on = None;
        for key in keys {
            on = s.with(key, |at| part(key, at)).or(on);
        }
        if given != 1 {
            at.problem(format!("must have exactly one of {}, got {given}", keys.join(", ")));
            on = None;
        }
        s.finish();
        on
    }
}

fn part(key: &str, at: &At<'_>) -> Option<HashOn> {
    match key {
        "header" => {
            let name: HeaderName = super::decode::Decode::decode(at)?;
            // `:path` is one in h2 alone, and has a key of its own.
            if name.0.starts_with(':') { at.expected("the name of a header") } else { Some(HashOn::Header(name)) }
        }
        // The same characters as in the name of a header, says RFC 6265.
        "cookie" => match at.text()? {
            name if http::HeaderName::from_bytes(name.as_bytes()).is_ok() => Some(HashOn::Cookie(name.to_owned())),
            _ => at.expected("the name of a cookie"),
        },
        "path" => yes(at).then_some(HashOn::Path),
        _ => yes(at).then_some(HashOn::SourceIp),
    }
}

/// Whether it says `true`. To say no the key is left out.
fn yes(at: &At<'_>) -> bool {
    let yes = at.scalar().and_then(|s| super::node::boolean(&s.text)) == Some(true);
    if !yes {
        let _ = at.expected::<()>("true");
    }
    yes
}
