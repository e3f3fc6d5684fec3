//! TLS on either side, by rustls: who a server is, whom a client trusts, and files that may change while they are used.
//!
//! ```text
//! files ──read──► checked, matched ──► rustls ──► Acceptor, Connector
//!   └── looked at each second; what cannot be used changes nothing
//! ```
//!
//! The crypto is the process's [`CryptoProvider`](rustls::crypto::CryptoProvider) if one was installed; else that of the
//! `aws-lc-rs` feature, else that of the `ring` feature.

mod choice;
mod client;
mod clients;
mod error;
mod files;
mod handshake;
mod identity;
mod metrics;
mod names;
mod pem;
mod probe;
mod roots;
mod server;
mod watch;
mod x509;

pub use client::{ClientSettings, Connector};
pub use clients::BadCertificate;
pub(crate) use error::refusal;
pub use error::{BadTls, HandshakeError};
pub use files::IdentityFiles;
pub use handshake::HandshakeSettings;
pub use identity::PeerIdentity;
pub use metrics::Metrics;
#[cfg(feature = "config")]
pub(crate) use names::{has_cipher, has_protocol};
pub use server::{Acceptor, ServerSettings};
#[cfg(feature = "config")]
pub(crate) use watch::Beginning;

/// What is spoken inside of TLS, as ALPN has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `http/1.1`
    Http1,
    /// `h2`
    H2,
}

impl Alpn {
    /// As it is on the wire.
    #[must_use]
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::H2 => b"h2",
        }
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        [Self::Http1, Self::H2].into_iter().find(|alpn| alpn.as_bytes() == bytes)
    }
}

/// What the two sides agreed on.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Negotiated {
    /// What is spoken inside; `None` if one of the sides did not say.
    pub alpn: Option<Alpn>,
    /// Who the peer is, if it showed a certificate.
    pub peer: Option<PeerIdentity>,
    /// Whether a client is done before the server looks at its certificate, as in TLS 1.3.
    is_looked_at_later: bool,
}

impl Negotiated {
    fn of(conn: &rustls::CommonState, provider: &rustls::crypto::CryptoProvider) -> Self {
        let leaf = conn.peer_certificates().and_then(<[_]>::first);
        Self {
            alpn: conn.alpn_protocol().and_then(Alpn::of),
            peer: leaf.and_then(|leaf| PeerIdentity::of(leaf, provider)),
            is_looked_at_later: conn.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3),
        }
    }
}
