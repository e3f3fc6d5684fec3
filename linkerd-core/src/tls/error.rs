//! What can be wrong with files, names and handshakes.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::AlertDescription;

use super::clients::{BadCertificate, Refused};
use crate::error::Chain;

/// How to make a certificate that is taken.
pub(super) const RENEW: &str = "make a new one, for instance by openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 \
                     -nodes -subj /CN=web \
                     -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:web -keyout key.pem -out cert.pem";

/// Why files, or names of ciphers and versions, cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadTls {
    /// The file is not there, or cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The file has more than 4 MiB.
    #[error("{}: has more than 4 MiB", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// The file is broken off, or no PEM.
    #[error("{}: is no PEM file: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file has no certificate in it.
    #[error("{}: holds no certificate (a PEM section CERTIFICATE)", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// The file has no key in it.
    #[error("{}: holds no private key (a PEM section PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY)", file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// The key is behind a password.
    #[error("{}: the private key is encrypted; decrypt it, for instance by openssl pkey -in {} -out key.pem", file.display(), file.display())]
    Encrypted {
        /// The file.
        file: PathBuf,
    },
    /// The key is of a kind or a size that is not known.
    #[error("{}: the private key cannot be used: {reason}", file.display())]
    BadKey {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A certificate is no X.509.
    #[error("{}: certificate {number} is no X.509 certificate: {reason}", file.display())]
    BadCertificate {
        /// The file.
        file: PathBuf,
        /// Which one in the file, counted from 1.
        number: usize,
        /// What is wrong.
        reason: String,
    },
    /// A certificate is older than X.509 version 3.
    #[error(
        "{}: certificate {number} is X.509 version {version}, which TLS libraries refuse since it cannot say what it is \
         for; {RENEW}", file.display()
    )]
    OldVersion {
        /// The file.
        file: PathBuf,
        /// Which one in the file, counted from 1.
        number: usize,
        /// Its version, 1 or 2.
        version: u8,
    },
    /// A server's certificate has its name in the common name alone.
    #[error(
        "{}: the certificate of {subject} has no subjectAltName, and clients do not look at the common name any more; \
         {RENEW}", file.display()
    )]
    NoNames {
        /// The file.
        file: PathBuf,
        /// Whose it is.
        subject: String,
    },
    /// The key belongs to another certificate.
    #[error("{}: is not the key of the certificate in {}", key.display(), cert.display())]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A certificate has ended.
    #[error("{}: a certificate in it expired at {}", file.display(), date(*ended))]
    Expired {
        /// The file.
        file: PathBuf,
        /// When the first of its certificates ended.
        ended: SystemTime,
    },
    /// A certificate has not begun.
    #[error("{}: a certificate in it is not valid before {}", file.display(), date(*begins))]
    NotYetValid {
        /// The file.
        file: PathBuf,
        /// When the last of its certificates begins.
        begins: SystemTime,
    },
    /// A bundle leaves out a root that is to be [kept](super::HandshakeSettings::keep_used_roots).
    #[error(
        "{root} is left out, and peers need it: it vouches for {connections} open connections, and did so {} s ago; it is \
         kept until it did not for {} s", idle.as_secs(), keep.as_secs()
    )]
    RootInUse {
        /// Whose root it is.
        root: String,
        /// How many open connections there are of peers that it vouches for.
        connections: usize,
        /// How long ago it last did.
        idle: Duration,
        /// For how long it is kept.
        keep: Duration,
    },
    /// A server without a certificate.
    #[error("a server needs a certificate")]
    NoIdentity,
    /// The system has no roots, and no file was given.
    #[error("the system has no trusted certificates, and no file of them is given: {reason}")]
    NoSystemRoots {
        /// What was found instead.
        reason: String,
    },
    /// A name of `protocols` that no version ever had.
    #[error("'{name}' is no protocol version; there are TLSv1.2 and TLSv1.3")]
    UnknownProtocol {
        /// The name.
        name: String,
    },
    /// A name of `ciphers` that is in the manner of none.
    #[error(
        "'{name}' is no cipher: names are like TLS_AES_128_GCM_SHA256 or, as OpenSSL has them, ECDHE-RSA-AES128-GCM-SHA256"
    )]
    UnknownCipher {
        /// The name.
        name: String,
    },
    /// No name of `protocols` is one of a version that there is.
    #[error("none of the protocols {given:?} is available; there are TLSv1.2 and TLSv1.3")]
    NoProtocols {
        /// What was asked for.
        given: Vec<String>,
    },
    /// No name of `ciphers` is one of a suite that there is, for the versions that are on.
    #[error("none of the ciphers {given:?} is available; there are {}", there.join(", "))]
    NoCiphers {
        /// What was asked for.
        given: Vec<String>,
        /// What there is.
        there: Vec<String>,
    },
    /// A server's key can be used with none of the ciphers that are on, so that each handshake would fail.
    #[error(
        "{}: is a key of the kind {kind}, for which none of the ciphers {} is; there are {}", file.display(),
        ciphers.join(", "), there.join(", ")
    )]
    NoCipherForKey {
        /// The key's file.
        file: PathBuf,
        /// The key's kind: `RSA`, `ECDSA` or `ED25519`.
        kind: String,
        /// What is on.
        ciphers: Vec<String>,
        /// What there is for such a key, in the versions that are on.
        there: Vec<String>,
    },
    /// A certificate cannot be asked for, or verified against, this name.
    #[error("'{name}' is no name that a certificate can be for")]
    BadName {
        /// The name.
        name: String,
    },
    /// No crypto provider was installed or compiled in.
    #[error("no crypto is compiled in: build with the feature ring or aws-lc-rs")]
    NoProvider,
    /// What rustls refused.
    #[error("{reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
}

/// Why a connection could not be made secure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// It took too long.
    #[error("no TLS handshake within {0:?}")]
    Elapsed(Duration),
    /// The peer's certificate has the name in its common name alone, if at all.
    #[error(
        "the peer's certificate has no subjectAltName, so that it is not for '{0}': its common name is not looked at \
         any more, and it has to be renewed with one"
    )]
    NoNames(String),
    /// The peer's certificate is X.509 version 1.
    #[error("the peer's certificate is older than X.509 version 3, and has to be renewed as such")]
    OldVersion(#[source] io::Error),
    /// The peer's certificate is that of an authority.
    #[error(
        "the peer's certificate is one to sign others with, as openssl makes them unless told          basicConstraints=CA:FALSE: it has to be renewed as one of a server or client"
    )]
    Authority(#[source] io::Error),
    /// The peer cannot be asked for by this name.
    #[error("'{0}' is no name that a certificate can be for")]
    BadName(String),
    /// The client has to show a certificate.
    #[error("the client showed no certificate, and one is required")]
    NoCertificate,
    /// The client's certificate is refused.
    #[error("the certificate of {subject} {why}")]
    Client {
        /// Whose it says it is.
        subject: String,
        /// What is wrong with it.
        why: BadCertificate,
    },
    /// Something else.
    #[error("TLS handshake failed")]
    Failed(#[source] io::Error),
}

impl HandshakeError {
    /// The server [refused](refusal) this side's certificate.
    pub(crate) fn refused(alert: AlertDescription) -> Self {
        Self::Failed(io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert)))
    }

    /// What callers of a proxy read of it: all of it but whose certificate it was, which is not theirs to know.
    pub(crate) fn told(&self) -> String {
        use rustls::{CertificateError, Error};
        if let Self::Failed(error) = self {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
            if let Some(Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })) = cause {
                return format!("{self}: the peer's certificate is for another name");
            }
        }
        if let Self::NoNames(_) = self {
            return "the peer's certificate has no subjectAltName, and its common name is not looked at any more"
                .to_owned();
        }
        Chain(self).to_string()
    }

    /// Whether the peer said nothing that could be wrong, as probes of a port do.
    #[cfg(feature = "server")]
    pub(crate) fn is_hang_up(&self) -> bool {
        use io::ErrorKind::{ConnectionReset, UnexpectedEof};
        matches!(self, Self::Failed(error) if matches!(error.kind(), UnexpectedEof | ConnectionReset))
    }

    /// A word for what went wrong, in metrics. There are about twenty.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        use rustls::{CertificateError, Error};
        match self {
            Self::Elapsed(_) => "timeout",
            Self::NoNames(_) => "no_names",
            Self::OldVersion(_) => "old_version",
            Self::Authority(_) => "authority",
            Self::BadName(_) => "bad_name",
            Self::NoCertificate => "no_certificate",
            Self::Client { why, .. } => why.reason(),
            Self::Failed(error) => match error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
                None => "closed",
                Some(Error::AlertReceived(_)) => "refused_by_peer",
                Some(Error::InvalidMessage(_) | Error::InappropriateMessage { .. }) => "not_tls",
                Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => "nothing_in_common",
                Some(Error::InvalidCertificate(why)) => match why {
                    CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
                    CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not_yet_valid",
                    CertificateError::UnknownIssuer => "unknown_issuer",
                    CertificateError::BadSignature => "bad_signature",
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "other_name",
                    CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                        "wrong_purpose"
                    }
                    _ => "bad_certificate",
                },
                Some(_) => "other",
            },
        }
    }

    /// What is wrong, with its cause.
    pub(crate) fn whole(&self) -> String {
        let cause = std::error::Error::source(self);
        cause.map_or_else(|| self.to_string(), |cause| format!("{self}: {cause}"))
    }

    /// The same of a client whose certificate may have been refused.
    pub(super) fn of_client(error: io::Error, refused: Option<Refused>) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match (refused, cause) {
            (Some(Refused { subject, why }), _) => Self::Client { subject, why },
            (None, Some(rustls::Error::NoCertificatesPresented)) => Self::NoCertificate,
            (None, _) => Self::Failed(error),
        }
    }

    /// What a failed handshake means; `name` is the peer's, if it has one.
    pub(super) fn of(error: io::Error, name: &str) -> Self {
        use rustls::{CertificateError, Error};
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
        match cause {
            Some(Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }))
                if presented.is_empty() =>
            {
                Self::NoNames(name.to_owned())
            }
            Some(Error::InvalidCertificate(CertificateError::Other(other))) => {
                // The parser of certificates has its own errors, which rustls passes on as something else.
                match format!("{other:?}") {
                    text if text.contains("UnsupportedCertVersion") => Self::OldVersion(error),
                    text if text.contains("CaUsedAsEndEntity") => Self::Authority(error),
                    _ => Self::Failed(error),
                }
            }
            _ => Self::Failed(error),
        }
    }
}

/// Why a server refuses this side's certificate, if that is what it says. In TLS 1.3 that comes after the handshake, in the
/// place of all that is read.
pub(crate) fn refusal(error: &io::Error) -> Option<AlertDescription> {
    use AlertDescription as Alert;
    let Some(rustls::Error::AlertReceived(alert)) = error.get_ref()?.downcast_ref() else { return None };
    let is_about_it = matches!(
        alert,
        Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
            | Alert::CertificateRequired
            | Alert::HandshakeFailure
    );
    is_about_it.then_some(*alert)
}

/// As people read it. Certificates know no year after 9999.
pub(super) fn date(at: SystemTime) -> String {
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    httpdate::fmt_http_date(at.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST))
}
