//! What may stand where a host is expected.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name that DNS knows.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A host as somebody wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host<'a> {
    /// A literal address, which nobody needs to be asked for.
    Ip(IpAddr),
    /// A name for DNS.
    Name(&'a str),
}

/// Reads a host: a name, an IPv6 address (in brackets or not) or an IPv4 address, which may be short: `127.1`.
///
/// A host that ends in a number is an address or nothing: resolvers disagree on what `010.1` or `1.2.3.4.5` mean.
pub(crate) fn parse(text: &str) -> Option<Host<'_>> {
    if let Some(ip) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return ip.parse::<Ipv6Addr>().ok().map(|ip| Host::Ip(ip.into()));
    }
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(|ip| Host::Ip(ip.into()));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next()?;
    if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) {
        return short_ipv4(text).map(|ip| Host::Ip(ip.into()));
    }
    (name.len() <= MAX_NAME && name.split('.').all(is_label)).then_some(Host::Name(text))
}

/// Reads a port: 1 to 65535.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|port| *port != 0)
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// One to four decimal numbers; the last one fills the bytes that are left.
fn short_ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    let (last, bytes) = parts.split_last()?;
    if bytes.len() > 3 {
        return None;
    }
    let mut ip = 0;
    for part in bytes {
        ip = ip << 8 | u32::from(u8::try_from(number(part)?).ok()?);
    }
    let left = 32 - 8 * bytes.len() as u32;
    let last = number(last)?;
    if last >= 1 << left {
        return None;
    }
    Some(Ipv4Addr::from((u64::from(ip) << left | last) as u32))
}

/// A decimal number. A zero in front would make it octal to some.
fn number(text: &str) -> Option<u64> {
    let plain = text.len() <= 10 && (text == "0" || !text.starts_with('0'));
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (plain && digits).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_addresses_are_read_in_every_form() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("10.1.2", "10.1.0.2"),
            ("10.1.258", "10.1.1.2"),
            ("8080", "0.0.31.144"),
            ("4294967295", "255.255.255.255"),
            ("0", "0.0.0.0"),
            ("::1", "::1"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
        ] {
            assert_eq!(parse(text), Some(Host::Ip(expected.parse().unwrap())), "{text}");
        }
    }

    #[test]
    fn names_are_kept_as_they_are() {
        for text in ["localhost", "web.example.com", "web.example.com.", "a_b-c", "1a", "4.example", "xn--bcher-kva.ch"]
        {
            assert_eq!(parse(text), Some(Host::Name(text)), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long = format!("{}.com", "a".repeat(64));
        let longer = vec!["a".repeat(50); 6].join(".");
        for text in [
            "",
            ".",
            "a..b",
            "127.0.0.256",
            "256.1",
            "1.2.3.4.5",
            "127.010.0.1",
            "4294967296",
            "1.2.3.",
            "a b",
            "a/b",
            "ä.de",
            "::g",
            "[::1",
            "[127.0.0.1]",
            "a:80",
            &long,
            &longer,
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_port_is_a_plain_number_from_1_to_65535() {
        for (text, expected) in [("1", Some(1)), ("0080", Some(80)), ("65535", Some(65535))] {
            assert_eq!(parse_port(text), expected, "{text}");
        }
        for text in ["", "0", "65536", "-1", "+80", "80 ", "http", "99999999999999999999"] {
            assert_eq!(parse_port(text), None, "{text}");
        }
    }
}
