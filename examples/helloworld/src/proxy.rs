//! Whether a call goes through the proxy, by the rules of Go's HTTP client.

use std::net::IpAddr;

use http::uri::{Authority, Uri};

use crate::ServeError;

/// Where to connect for a call to `host` and `port`: to the proxy, unless the target is exempt.
///
/// # Errors
///
/// A proxy that cannot be spoken to, also for an exempt target: it is a mistake either way.
pub(crate) fn choose(
    proxy: Option<&str>,
    exempt: Option<&str>,
    host: &str,
    port: u16,
) -> Result<Option<String>, ServeError> {
    let Some(proxy) = proxy else { return Ok(None) };
    let address = address(proxy).map_err(|problem| ServeError::Proxy { proxy: proxy.to_owned(), problem })?;
    Ok((!is_exempt(exempt.unwrap_or_default(), host, port)).then_some(address))
}

fn address(proxy: &str) -> Result<String, &'static str> {
    let url = if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
    let uri: Uri = url.parse().map_err(|_| "is not host:port or an http:// URL")?;
    if uri.scheme_str() != Some("http") {
        return Err("is not an http:// URL, and no other scheme is supported");
    }
    let authority = uri.authority().ok_or("has no host")?;
    host_port(authority)
}

/// `host:port` of an authority, with port 80 if it has none.
pub(crate) fn host_port(authority: &Authority) -> Result<String, &'static str> {
    if authority.as_str().contains('@') {
        return Err("has a user name, which is not supported");
    }
    if authority.host().is_empty() {
        return Err("has no host");
    }
    // A port out of range or an empty one is `None` for `port_u16`, as no port at all is.
    match authority.as_str().strip_prefix(authority.host()) {
        Some("" | ":") => Ok(format!("{}:80", authority.host())),
        _ => authority.port_u16().map(|port| format!("{}:{port}", authority.host())).ok_or("has a bad port"),
    }
}

fn is_exempt(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    let ip: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return true;
    }
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| covers(entry, &host, ip, port))
}

fn covers(entry: &str, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
    let entry = entry.to_ascii_lowercase();
    if entry == "*" {
        return true;
    }
    if let Some((net, bits)) = entry.split_once('/') {
        return matches!((net.parse(), bits.parse(), ip), (Ok(net), Ok(bits), Some(ip)) if contains(net, bits, ip));
    }
    let (name, only) = match entry.rsplit_once(':') {
        // More colons are an IPv6 address.
        Some((name, only)) if !name.contains(':') || name.ends_with(']') => (name, only.parse().ok()),
        _ => (entry.as_str(), None),
    };
    if only.is_some_and(|only: u16| only != port) {
        return false;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']').trim_start_matches('*');
    if let Ok(name) = name.parse::<IpAddr>() {
        return ip == Some(name);
    }
    // `.example.com` is the subdomains alone, `example.com` the domain with them.
    match name.strip_prefix('.') {
        Some(_) => host.ends_with(name),
        None => host == name || host.strip_suffix(name).is_some_and(|head| head.ends_with('.')),
    }
}

fn contains(net: IpAddr, bits: u32, ip: IpAddr) -> bool {
    match (net, ip) {
        (IpAddr::V4(net), IpAddr::V4(ip)) if bits <= 32 => {
            (net.to_bits() ^ ip.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(net), IpAddr::V6(ip)) if bits <= 128 => {
            (net.to_bits() ^ ip.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_host_and_port_with_or_without_scheme() {
        for (proxy, expected) in [
            ("l5d:4140", "l5d:4140"),
            ("http://l5d:4140", "l5d:4140"),
            ("http://l5d:4140/", "l5d:4140"),
            ("l5d", "l5d:80"),
            ("127.0.1.1:4140", "127.0.1.1:4140"),
            ("[::1]:4140", "[::1]:4140"),
        ] {
            assert_eq!(choose(Some(proxy), None, "world", 80).unwrap().as_deref(), Some(expected), "{proxy}");
        }
    }

    #[test]
    fn a_bad_proxy_is_named() {
        for (proxy, text) in [
            (
                "https://l5d:4140",
                "http_proxy \"https://l5d:4140\" is not an http:// URL, and no other scheme is supported",
            ),
            ("me:pw@l5d:4140", "http_proxy \"me:pw@l5d:4140\" has a user name, which is not supported"),
            ("l5d:99999", "http_proxy \"l5d:99999\" has a bad port"),
            ("l 5d", "http_proxy \"l 5d\" is not host:port or an http:// URL"),
            ("http://", "http_proxy \"http://\" is not host:port or an http:// URL"),
        ] {
            assert_eq!(choose(Some(proxy), None, "world", 80).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn loopback_and_listed_targets_are_called_directly() {
        for (list, host, exempt) in [
            ("", "world", false),
            ("", "localhost", true),
            ("", "127.0.1.21", true),
            ("", "[::1]", true),
            ("*", "world", true),
            ("hello, world", "World", true),
            ("world", "world.default", false),
            ("default", "world.default", true),
            (".default", "default", false),
            (".default", "world.default", true),
            ("*.default", "world.default", true),
            ("fault", "world.default", false),
            ("world:80", "world", true),
            ("world:81", "world", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.10", false),
            ("10.0.0.0/8", "10.200.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "11.0.0.1", true),
            ("10.0.0.0/99", "10.0.0.1", false),
            ("fd00::/16", "[fd00::7]", true),
            ("fd00::7", "[fd00::7]", true),
        ] {
            let direct = choose(Some("l5d:4140"), Some(list), host, 80).unwrap().is_none();
            assert_eq!(direct, exempt, "no_proxy={list} {host}");
        }
    }
}
