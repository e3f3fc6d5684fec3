//! Who the other side of a connection is.

use std::{
    fmt::{self, Write},
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use http::HeaderValue;
use rustls::{SupportedCipherSuite, crypto::CryptoProvider, crypto::hash::HashAlgorithm, pki_types::CertificateDer};

use super::x509::{Certificate, hex};

/// Who the client of a connection is, by the certificate that it showed and that was verified.
///
/// A server that [requires one](super::ServerSettings::require_client_auth) puts this into the extensions of each
/// request, for identifiers, layers and logs. A clone is the same, and costs a count.
#[derive(Clone)]
pub struct PeerIdentity(Arc<Peer>);

struct Peer {
    certificate: Certificate,
    fingerprint: String,
    header: OnceLock<HeaderValue>,
}

impl PeerIdentity {
    /// `None` if the certificate cannot be read, though rustls could.
    pub(super) fn of(leaf: &CertificateDer<'_>, provider: &CryptoProvider) -> Option<Self> {
        let certificate = Certificate::read(leaf)?;
        let fingerprint = sha256(leaf, provider).unwrap_or_default();
        Some(Self(Arc::new(Peer { certificate, fingerprint, header: OnceLock::new() })))
    }

    /// The subject's whole name, the last element first: `CN=web, O=Example`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.certificate.subject
    }

    /// The common name in it, the last one.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.0.certificate.common_name.as_deref()
    }

    /// The DNS names that it is for.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.0.certificate.dns_names
    }

    /// The URIs that it is for, as SPIFFE has them.
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.0.certificate.uris
    }

    /// What to call it: the first of its URIs, else of its DNS names, else the subject. What could end a field of a log is
    /// percent-encoded.
    #[must_use]
    pub fn name(&self) -> String {
        let Certificate { subject, dns_names, uris, .. } = &self.0.certificate;
        Plain(uris.first().or(dns_names.first()).unwrap_or(subject)).to_string()
    }

    /// The serial number in hexadecimal digits.
    #[must_use]
    pub fn serial(&self) -> String {
        self.0.certificate.serial_hex()
    }

    /// The SHA-256 of the certificate in hexadecimal digits. Empty if the crypto provider has no SHA-256.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// When the certificate ends. It may have since the connection was made.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.certificate.not_after
    }

    /// What `x-forwarded-client-cert` says of it.
    pub(crate) fn forwarded(&self) -> &HeaderValue {
        self.0.header.get_or_init(|| {
            let Certificate { subject, dns_names, uris, .. } = &self.0.certificate;
            let mut text = format!("Hash={}", self.0.fingerprint);
            for (key, names) in [("SAN", uris), ("DNS", dns_names)] {
                for name in names {
                    let _ = write!(text, ";{key}={}", Plain(name));
                }
            }
            let subject = subject.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = write!(text, ";Subject=\"{subject}\"");
            HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
        })
    }
}

/// A name without anything that ends it in a header: whoever signed the certificate need not know of that.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'!'..=b'~' if !matches!(byte, b';' | b',' | b'"' | b'\\') => f.write_char(char::from(byte))?,
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerIdentity")
            .field("subject", &self.subject())
            .field("serial", &self.serial())
            .finish_non_exhaustive()
    }
}

fn sha256(bytes: &[u8], provider: &CryptoProvider) -> Option<String> {
    let mut hashes = provider.cipher_suites.iter().map(|suite| match suite {
        SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider,
        SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
    });
    let sha256 = hashes.find(|hash| hash.algorithm() == HashAlgorithm::SHA256)?;
    Some(hex(sha256.hash(bytes).as_ref()))
}

#[cfg(all(test, any(feature = "ring", feature = "aws-lc-rs")))]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;
    use crate::tls::choice;

    #[test]
    fn what_is_in_a_certificate_ends_nothing_in_the_header() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "x\";Hash=0,y");
        params.distinguished_name.push(DnType::CommonName, "web");
        params.subject_alt_names = vec![
            SanType::DnsName("web.example.com".try_into().unwrap()),
            SanType::DnsName("b.example.com".try_into().unwrap()),
            SanType::URI("spiffe://a/b;DNS=root,c\"".try_into().unwrap()),
        ];
        let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let peer = PeerIdentity::of(cert.der(), &choice::provider().unwrap()).unwrap();
        assert_eq!(peer.fingerprint().len(), 64);
        assert_eq!(
            peer.forwarded().to_str().unwrap(),
            format!(
                "Hash={};SAN=spiffe://a/b%3BDNS=root%2Cc%22;DNS=web.example.com;DNS=b.example.com;\
                 Subject=\"CN=web, O=x\\\\\\\"\\\\;Hash=0\\\\,y\"",
                peer.fingerprint()
            )
        );
        assert_eq!(peer.name(), "spiffe://a/b%3BDNS=root%2Cc%22");
        assert_eq!((peer.common_name(), peer.dns_names().len(), peer.uris().len()), (Some("web"), 2, 1));
    }
}
