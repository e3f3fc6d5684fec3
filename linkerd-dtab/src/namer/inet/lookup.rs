//! Who is asked for the addresses of a name.

use std::{future::Future, io, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use crate::Failure;

/// What DNS says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its addresses, in any order, and for how long they are good if that is known.
    Found {
        /// The addresses.
        ips: Vec<IpAddr>,
        /// For how long they may be used.
        ttl: Option<Duration>,
    },
    /// There is no such name, or it has no address: for sure, unlike a failure.
    NotFound,
}

/// What [`Lookup::lookup`] returns.
pub type LookupFuture<'a> = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send + 'a>>;

/// Asks for the addresses of a name.
pub trait Lookup: Send + Sync + 'static {
    /// Asks for the addresses of `host`, a name in lower case.
    ///
    /// # Errors
    ///
    /// The question could not be answered, which tells nothing of the name.
    fn lookup<'a>(&'a self, host: &'a str) -> LookupFuture<'a>;
}

/// The system's resolver, `getaddrinfo`: hosts file, search domains and all. It tells no time to live.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Lookup for System {
    fn lookup<'a>(&'a self, host: &'a str) -> LookupFuture<'a> {
        Box::pin(async move {
            if is_invalid(host) {
                return Ok(Answer::NotFound);
            }
            match tokio::net::lookup_host((host, 0)).await {
                Ok(found) => Ok(Answer::Found { ips: found.map(|addr| addr.ip()).collect(), ttl: None }),
                Err(error) if is_not_found(&error) => Ok(Answer::NotFound),
                Err(error) => Err(Arc::new(error) as Failure),
            }
        })
    }
}

/// Names that never exist, by RFC 6761: no need to ask, and no chance to be told otherwise.
pub(super) fn is_invalid(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "invalid" || host.ends_with(".invalid")
}

/// `std` has no kind for `EAI_NONAME` and `EAI_NODATA`: only the text of the C library tells them from a failure to ask.
fn is_not_found(error: &io::Error) -> bool {
    const TEXTS: [&str; 6] = [
        "Name or service not known",
        "No address associated with hostname",
        "Name does not resolve",
        "Name has no usable address",
        "nodename nor servname provided",
        "No such host is known",
    ];
    let text = error.to_string();
    TEXTS.iter().any(|known| text.contains(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_is_known_without_a_network() {
        let Answer::Found { ips, .. } = System.lookup("localhost").await.unwrap() else { panic!("not found") };
        assert!(!ips.is_empty() && ips.iter().all(IpAddr::is_loopback), "{ips:?}");
    }

    #[tokio::test]
    async fn names_that_never_exist_are_not_asked_for() {
        for host in ["invalid", "no-such-host.invalid", "x.y.invalid."] {
            assert_eq!(System.lookup(host).await.unwrap(), Answer::NotFound, "{host}");
        }
        assert!(!is_invalid("valid") && !is_invalid("notinvalid"));
    }

    #[test]
    fn only_a_sure_no_is_not_found() {
        let error = |text: &str| io::Error::other(format!("failed to lookup address information: {text}"));
        assert!(is_not_found(&error("Name or service not known")));
        assert!(!is_not_found(&error("Temporary failure in name resolution")));
    }
}
