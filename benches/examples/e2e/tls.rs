//! One certificate, made once for a run, that both proxies show and the load trusts.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::BoxError;

/// The name that the certificate is for.
pub(super) const NAME: &str = "bench.local";
/// The files of it, in the directory that all processes of a run work in.
pub(super) const CERT: &str = "cert.pem";
/// Its key.
pub(super) const KEY: &str = "key.pem";

/// Makes the certificate.
pub(super) fn issue(dir: &Path) -> Result<(), BoxError> {
    let issued = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    fs::write(dir.join(CERT), issued.cert.pem())?;
    fs::write(dir.join(KEY), issued.signing_key.serialize_pem())?;
    Ok(())
}

/// What the floor terminates TLS with.
pub(super) fn acceptor() -> Result<TlsAcceptor, BoxError> {
    let certs = CertificateDer::pem_file_iter(CERT)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(KEY)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certs, key)?;
    Ok(Arc::new(config).into())
}

/// What the load speaks TLS with: one version and one cipher, so that no proxy gains by what it prefers.
pub(super) fn connector() -> Result<TlsConnector, BoxError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(CERT)?)?;
    let mut provider: CryptoProvider = ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}
