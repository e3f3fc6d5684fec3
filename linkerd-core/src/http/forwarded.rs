//! `Forwarded`: who passed a request on, and for whom.

use std::{
    fmt::{self, Write},
    net::{IpAddr, SocketAddr},
};

use http::{
    HeaderMap, HeaderValue,
    header::{FORWARDED, HOST},
    uri::{Authority, Scheme},
};

/// How a server writes `Forwarded` (RFC 7239) on requests: one more value, behind those that they came with.
///
/// It says `by` and `for`; `host` if the request has one, or `authority` in HTTP/2; `proto` if its target was absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// How this side is called.
    pub by: ForwardedLabel,
    /// How the client is called.
    pub for_: ForwardedLabel,
}

/// What stands for an address in `Forwarded`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardedLabel {
    /// The address without its port.
    Ip,
    /// The address with its port.
    IpPort,
    /// Six random characters, the same for all requests of a connection.
    ConnectionRandom,
    /// Six random characters.
    RequestRandom,
    /// This text, with an underscore before it if it begins with none. Quoted if it has to be.
    Fixed(String),
}

/// The random labels of a connection: by whom, and for whom.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ids([u64; 2]);

impl Ids {
    pub(crate) fn random() -> Self {
        Self([crate::random::next(), crate::random::next()])
    }
}

impl Forwarded {
    /// Adds the header. `scheme` is that of an absolute target, and `authority` that of a request of HTTP/2, which Linkerd 1
    /// does not call a host.
    pub(crate) fn write(
        &self,
        headers: &mut HeaderMap,
        scheme: Option<&Scheme>,
        authority: Option<&Authority>,
        local: SocketAddr,
        remote: SocketAddr,
        ids: Ids,
    ) {
        let by = Node { label: &self.by, addr: local, id: ids.0[0] };
        let for_ = Node { label: &self.for_, addr: remote, id: ids.0[1] };
        let mut value = format!("by={by};for={for_}");
        // Writing to a string does not fail.
        if let Some(authority) = authority {
            let _ = write!(value, ";authority={}", Text(authority.as_str()));
        } else if let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) {
            let _ = write!(value, ";host={}", Text(host));
        }
        if let Some(scheme) = scheme {
            let _ = write!(value, ";proto={scheme}");
        }
        // A label from a file may hold what no header does.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(FORWARDED, value);
        }
    }
}

/// One side, as it is written.
struct Node<'a> {
    label: &'a ForwardedLabel,
    addr: SocketAddr,
    id: u64,
}

impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.addr.ip().to_canonical();
        let is_known = !ip.is_unspecified();
        match self.label {
            ForwardedLabel::Ip | ForwardedLabel::IpPort if !is_known => f.write_str("unknown"),
            ForwardedLabel::Ip => match ip {
                IpAddr::V4(ip) => write!(f, "{ip}"),
                IpAddr::V6(ip) => write!(f, "\"[{ip}]\""),
            },
            ForwardedLabel::IpPort => write!(f, "\"{}\"", SocketAddr::new(ip, self.addr.port())),
            ForwardedLabel::ConnectionRandom => random(f, self.id),
            ForwardedLabel::RequestRandom => random(f, crate::random::next()),
            ForwardedLabel::Fixed(text) if text.starts_with('_') => write!(f, "{}", Text(text)),
            ForwardedLabel::Fixed(text) => write!(f, "{}", Text(&format!("_{text}"))),
        }
    }
}

fn random(f: &mut fmt::Formatter<'_>, mut bits: u64) -> fmt::Result {
    const CHARS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    f.write_char('_')?;
    for _ in 0..6 {
        f.write_char(char::from(CHARS[(bits % 62) as usize]))?;
        bits /= 62;
    }
    Ok(())
}

/// A token as it is, any other text in quotes: a client's `Host` must not say who it came from.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if !self.0.is_empty() && self.0.bytes().all(is_token) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for char in self.0.chars() {
            if matches!(char, '"' | '\\') {
                f.write_char('\\')?;
            }
            f.write_char(char)?;
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(label: &ForwardedLabel, addr: &str) -> String {
        Node { label, addr: addr.parse().unwrap(), id: 0 }.to_string()
    }

    #[test]
    fn addresses_are_written_as_the_rfc_has_them() {
        for (addr, ip, ip_port) in [
            ("10.0.0.1:80", "10.0.0.1", "\"10.0.0.1:80\""),
            ("[::1]:80", "\"[::1]\"", "\"[::1]:80\""),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1", "\"10.0.0.1:80\""),
            ("0.0.0.0:80", "unknown", "unknown"),
            ("[::]:80", "unknown", "unknown"),
        ] {
            assert_eq!(written(&ForwardedLabel::Ip, addr), ip);
            assert_eq!(written(&ForwardedLabel::IpPort, addr), ip_port);
        }
    }

    #[test]
    fn labels_begin_with_an_underscore_and_are_quoted_where_they_must_be() {
        for (text, label) in [("gw", "_gw"), ("_gw", "_gw"), ("a b", "\"_a b\""), ("\"", "\"_\\\"\"")] {
            assert_eq!(written(&ForwardedLabel::Fixed(text.to_owned()), "10.0.0.1:80"), label);
        }
    }

    #[test]
    fn a_random_label_lasts_for_a_request_or_for_a_connection() {
        let of = |ids, label: &ForwardedLabel| {
            let forwarded = Forwarded { by: label.clone(), for_: label.clone() };
            let mut headers = HeaderMap::new();
            let addr = SocketAddr::from(([127, 0, 0, 1], 1));
            forwarded.write(&mut headers, None, None, addr, addr, ids);
            headers[FORWARDED].to_str().unwrap().to_owned()
        };
        let label = ForwardedLabel::ConnectionRandom;
        let ids = [(); 2].map(|()| Ids::random());
        let first = of(ids[0], &label);
        assert_eq!(of(ids[0], &label), first);
        assert_ne!(of(ids[1], &label), first);
        let (by, for_) = first.split_once(';').unwrap();
        assert_ne!(by.trim_start_matches("by="), for_.trim_start_matches("for="));
        assert_eq!(by.len(), "by=_".len() + 6);
        assert_ne!(of(ids[0], &ForwardedLabel::RequestRandom), of(ids[0], &ForwardedLabel::RequestRandom));
    }

    #[test]
    fn a_host_cannot_say_who_it_came_from() {
        let forwarded = Forwarded { by: ForwardedLabel::Ip, for_: ForwardedLabel::Ip };
        let addr = SocketAddr::from(([10, 0, 0, 1], 1));
        for (host, written) in [("web", "web"), ("web:80", "\"web:80\""), ("a;for=evil", "\"a;for=evil\"")] {
            let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            forwarded.write(&mut headers, Some(&Scheme::HTTPS), None, addr, addr, Ids::default());
            assert_eq!(headers[FORWARDED], format!("by=10.0.0.1;for=10.0.0.1;host={written};proto=https"));
        }
    }
}
