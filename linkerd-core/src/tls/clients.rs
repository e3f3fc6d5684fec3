//! The clients of a server that requires certificates: which it lets in, and what is said of the others.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    error::{RENEW, date},
    x509::{self, Certificate},
};

/// Why the certificate of a client is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadCertificate {
    /// It has ended.
    #[error("expired at {}", date(*ended))]
    Expired {
        /// When it did.
        ended: SystemTime,
    },
    /// One that it comes from has ended.
    #[error("comes from one that expired at {}", date(*ended))]
    ChainExpired {
        /// When that did.
        ended: SystemTime,
    },
    /// It, or one that it comes from, has not begun.
    #[error("is not valid before {}", date(*begins))]
    NotYetValid {
        /// When it begins.
        begins: SystemTime,
    },
    /// Nobody signed it but itself.
    #[error("is signed by itself alone: it has to come from an authority that is trusted here")]
    SelfSigned,
    /// It comes from somebody else.
    #[error("comes from {issuer}, which is not trusted here")]
    UnknownIssuer {
        /// Whom it names.
        issuer: String,
    },
    /// It names an authority that is trusted, which did not sign it.
    #[error("names {issuer} as who signed it, whose key did not")]
    BadSignature {
        /// Whom it names.
        issuer: String,
    },
    /// It is older than X.509 version 3.
    #[error("is X.509 version {version}, which cannot say what it is for; {RENEW}")]
    OldVersion {
        /// Its version, 1 or 2.
        version: u8,
    },
    /// Its name is in the common name alone, if at all.
    #[error("has no subjectAltName, and the common name is not looked at any more; {RENEW}")]
    NoNames,
    /// It is one to sign others with.
    #[error("is one to sign others with; {RENEW}")]
    Authority,
    /// It says what it is for, and that is not this.
    #[error("is not for clients: its extendedKeyUsage lacks clientAuth")]
    WrongPurpose,
    /// Something else.
    #[error("cannot be verified: {reason}")]
    Other {
        /// What rustls said.
        reason: String,
    },
}

impl BadCertificate {
    /// A word for it, in metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Expired { .. } | Self::ChainExpired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::SelfSigned => "self_signed",
            Self::UnknownIssuer { .. } => "unknown_issuer",
            Self::BadSignature { .. } => "bad_signature",
            Self::OldVersion { .. } => "old_version",
            Self::NoNames => "no_names",
            Self::Authority => "authority",
            Self::WrongPurpose => "wrong_purpose",
            Self::Other { .. } => "bad_certificate",
        }
    }

    fn of(error: &Error, leaf: &CertificateDer<'_>, read: Option<&Certificate>) -> Self {
        let at = |time: &UnixTime| UNIX_EPOCH + Duration::from_secs(time.as_secs());
        let other = || Self::Other { reason: error.to_string() };
        let Error::InvalidCertificate(why) = error else { return other() };
        let is_self_signed = x509::issuer(leaf).is_some_and(|issuer| x509::subject(leaf) == Some(issuer));
        let issuer = || x509::issuer(leaf).and_then(x509::shown).unwrap_or_default();
        match why {
            CertificateError::ExpiredContext { not_after, .. } => {
                let ended = at(not_after);
                let is_own = read.is_none_or(|read| read.not_after == ended);
                if is_own { Self::Expired { ended } } else { Self::ChainExpired { ended } }
            }
            CertificateError::NotValidYetContext { not_before, .. } => Self::NotYetValid { begins: at(not_before) },
            CertificateError::UnknownIssuer | CertificateError::BadSignature if is_self_signed => Self::SelfSigned,
            CertificateError::UnknownIssuer => Self::UnknownIssuer { issuer: issuer() },
            CertificateError::BadSignature => Self::BadSignature { issuer: issuer() },
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::WrongPurpose,
            // The parser of certificates has its own errors, which rustls passes on as something else.
            CertificateError::Other(inner) => match (format!("{inner:?}"), read) {
                (text, Some(read)) if text.contains("UnsupportedCertVersion") => {
                    Self::OldVersion { version: read.version }
                }
                (text, _) if text.contains("CaUsedAsEndEntity") => Self::Authority,
                _ => other(),
            },
            _ => other(),
        }
    }
}

/// A client's certificate that was refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// Whose it says it is.
    pub(super) subject: String,
    pub(super) why: BadCertificate,
}

tokio::task_local! {
    /// What the handshake of this task refused: rustls passes on no more than a word.
    static REFUSED: RefCell<Option<Refused>>;
}

/// Runs a handshake. With its error comes the certificate that it is about.
pub(super) async fn watched<T, E>(handshake: impl Future<Output = Result<T, E>>) -> Result<T, (E, Option<Refused>)> {
    let watched = async { handshake.await.map_err(|error| (error, REFUSED.with(RefCell::take))) };
    REFUSED.scope(RefCell::new(None), watched).await
}

/// Verifies as rustls does, wants a name of the kind that is looked at, and keeps what is wrong.
#[derive(Debug)]
pub(super) struct Clients(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(leaf, intermediates, now);
        let read = Certificate::read(leaf);
        let (error, why) = match verified {
            Ok(_) if read.as_ref().is_some_and(|read| !read.has_names) => {
                (CertificateError::NotValidForName.into(), BadCertificate::NoNames)
            }
            Ok(verified) => return Ok(verified),
            Err(error) => {
                let why = BadCertificate::of(&error, leaf, read.as_ref());
                (error, why)
            }
        };
        let subject = read.map_or_else(|| "nobody that can be read".to_owned(), |read| read.subject);
        // Without a task of `watched` nobody asks.
        let _ = REFUSED.try_with(|refused| refused.replace(Some(Refused { subject, why })));
        Err(error)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
