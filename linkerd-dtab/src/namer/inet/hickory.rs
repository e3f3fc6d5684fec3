//! DNS by hickory, which tells times to live.

use std::{sync::Arc, time::Instant};

use hickory_resolver::TokioResolver;

use super::lookup::{Answer, Lookup, LookupFuture, is_invalid};
use crate::Failure;

/// DNS asked for directly, with the times to live of its answers.
///
/// Unlike [`System`](super::System) it takes no thread a question. The hosts file is honoured; other sources of names
/// that the system may have (`nsswitch.conf`) are not.
#[derive(Clone)]
pub struct Hickory {
    resolver: TokioResolver,
}

/// The system's DNS configuration cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot use the system's DNS configuration")]
pub struct BadConfiguration {
    source: Failure,
}

impl Hickory {
    /// Asks the name servers that the system is configured with.
    ///
    /// # Errors
    ///
    /// The system's configuration (`/etc/resolv.conf`) cannot be read.
    pub fn from_system() -> Result<Self, BadConfiguration> {
        let resolver = TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build);
        resolver.map(|resolver| Self { resolver }).map_err(|error| BadConfiguration { source: Arc::new(error) })
    }
}

impl Lookup for Hickory {
    fn lookup<'a>(&'a self, host: &'a str) -> LookupFuture<'a> {
        Box::pin(async move {
            if is_invalid(host) {
                return Ok(Answer::NotFound);
            }
            match self.resolver.lookup_ip(host).await {
                Ok(found) => {
                    // hickory dates its answers by the wall's clock, whatever the runtime's says.
                    #[allow(clippy::disallowed_methods)]
                    let ttl = found.valid_until().saturating_duration_since(Instant::now());
                    Ok(Answer::Found { ips: found.iter().collect(), ttl: Some(ttl) })
                }
                Err(error) if error.is_no_records_found() => Ok(Answer::NotFound),
                Err(error) => Err(Arc::new(error) as Failure),
            }
        })
    }
}

impl std::fmt::Debug for Hickory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hickory").finish_non_exhaustive()
    }
}
