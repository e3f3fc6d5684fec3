//! https: whom it trusts, and who it is.

use std::{net::Ipv4Addr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer, server::WebPkiClientVerifier};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{Ctl, fake::Fake};

#[tokio::test]
async fn https_needs_a_certificate_that_is_trusted_and_shows_its_own() {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let issued = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        (params.signed_by(&key, &ca).expect("a certificate"), key)
    };
    let (server, server_key) = issued("127.0.0.1");
    let (client, client_key) = issued("deployer");

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).expect("a root");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(
            vec![server.der().clone()],
            PrivateKeyDer::try_from(server_key.serialize_der()).expect("a key"),
        )
        .expect("a configuration");

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let addr = listener.local_addr().expect("is bound");
    let namerd = Arc::new(Fake::start().await);
    namerd.put("a", "/b => /c");
    let served = Arc::clone(&namerd);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                served.serve(stream);
            }
        }
    });

    let ctl = Ctl::at(&format!("https://{addr}"));
    let files = [("ca", ca.pem()), ("cert", client.pem()), ("key", client_key.serialize_pem())];
    let [ca, cert, key] = files.map(|(name, pem)| ctl.write(name, &pem));
    assert_eq!(ctl.run(&format!("dtab list --ca {ca} --cert {cert} --key {key}")).await.ok(), "a\n");
    for flags in [format!("--cert {cert} --key {key}"), format!("--ca {ca}")] {
        let ran = ctl.run(&format!("dtab list {flags}")).await;
        assert!(ran.code == 255 && ran.out.starts_with("Get \"https://"), "{flags}: {ran:?}");
    }
    assert_eq!(ctl.run(&format!("dtab list --ca {ca} --cert {cert}")).await.out, "--cert and --key go together\n");
    assert_eq!(ctl.run("dtab list --ca no.pem").await.code, 255);
    assert_eq!(namerd.lines(), ["GET /api/1/dtabs"]);
    task.abort();
}
