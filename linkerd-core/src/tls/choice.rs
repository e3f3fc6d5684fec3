//! Which crypto there is.

use std::sync::Arc;

use rustls::{crypto::CryptoProvider, server::ProducesTickets};

use super::BadTls;

/// The process's provider, or one that was compiled in.
#[allow(clippy::unnecessary_wraps, reason = "nothing need be compiled in")]
pub(super) fn provider() -> Result<Arc<CryptoProvider>, BadTls> {
    if let Some(installed) = CryptoProvider::get_default() {
        return Ok(Arc::clone(installed));
    }
    #[cfg(feature = "aws-lc-rs")]
    return Ok(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return Ok(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    Err(BadTls::NoProvider)
}

/// Seals sessions into tickets, so that the server need not remember them. `None` where nothing is compiled in that can:
/// then it remembers the last few hundred.
#[allow(clippy::unnecessary_wraps, reason = "nothing need be compiled in")]
pub(super) fn ticketer() -> Option<Arc<dyn ProducesTickets>> {
    #[cfg(feature = "aws-lc-rs")]
    return rustls::crypto::aws_lc_rs::Ticketer::new().ok();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return rustls::crypto::ring::Ticketer::new().ok();
    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    None
}
