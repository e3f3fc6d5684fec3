//! Whom a client trusts.

use std::sync::Arc;

use linkerd_core::{
    Body, ErrorKind, Mesh,
    http::{
        ClientConfig, H2Config, HttpConnect, Wire,
        respond::{ErrorLimits, error_response},
    },
    telemetry::{Prometheus, Registry, RouterStats},
    tls::{Acceptor, Alpn, ClientSettings, Connector, IdentityFiles, Metrics},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::pki::{Pki, chain, client, data, get, ok, provider, serve, settings};

fn connector(settings: ClientSettings) -> Connector {
    Connector::load(settings, &Metrics::default()).unwrap()
}

#[tokio::test]
async fn another_name_another_authority_or_none_at_all_is_refused() {
    let pki = Pki::new();
    let addr = serve(settings(pki.issue("web", &["web", "127.0.0.1"])), ok);
    let tls = connector(pki.trusting());
    for name in ["web", "127.0.0.1"] {
        assert_eq!(get(&client(addr, tls.named(name))).await.unwrap(), "ok");
    }
    // Without a name it is for the address.
    assert_eq!(get(&client(addr, tls.clone())).await.unwrap(), "ok");
    let system = ClientSettings::default();
    for (tls, expected) in [
        (tls.named("other"), "not valid for name"),
        (tls.named("no name"), "'no name' is no name that a certificate can be for"),
        (connector(Pki::new().trusting()).named("web"), "UnknownIssuer"),
        (connector(system).named("web"), "UnknownIssuer"),
    ] {
        let error = get(&client(addr, tls)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect);
        assert!(error.never_sent(), "{}", chain(&error));
        assert!(chain(&error).contains(expected), "{expected}: {}", chain(&error));
    }
    let any = ClientSettings { disable_validation: true, ..ClientSettings::default() };
    assert_eq!(get(&client(addr, connector(any))).await.unwrap(), "ok");
}

#[tokio::test]
async fn endpoints_whose_certificate_is_not_good_are_counted() {
    let pki = Pki::new();
    let addr = serve(settings(pki.issue("web", &["web"])), ok);
    let tls = connector(pki.trusting()).named("other");
    let registry = Registry::new();
    let mesh = Mesh::builder()
        .connect(HttpConnect::new(ClientConfig { tls: Some(tls), ..ClientConfig::default() }))
        .metrics(RouterStats::new(&registry, "web"))
        .build()
        .unwrap();
    let client = mesh.client(&format!("/$/inet/{}/{}", addr.ip(), addr.port())).unwrap();
    let error = client.send(http::Request::new(Body::empty())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    let text = Prometheus::new().render(&registry);
    let line =
        text.lines().find(|line| line.contains("rt:client:tls:handshake_failures")).unwrap_or_else(|| panic!("{text}"));
    assert!(!line.ends_with(" 0"), "{line}");
}

#[tokio::test]
async fn callers_read_why_there_is_no_tls_and_not_whose_certificate_it_is() {
    let pki = Pki::new();
    let addr = serve(settings(pki.issue("web", &["secret.internal"])), ok);
    let other_name = connector(pki.trusting()).named("other");
    let other_authority = connector(Pki::new().trusting()).named("secret.internal");
    for (tls, expected) in [
        (other_name, "cause: TLS handshake failed: the peer's certificate is for another name\n"),
        (other_authority, "cause: TLS handshake failed: invalid peer certificate: UnknownIssuer\n"),
    ] {
        for wire in [Wire::Http1, Wire::H2(H2Config::default())] {
            let connect = HttpConnect::new(ClientConfig { tls: Some(tls.clone()), wire, ..ClientConfig::default() });
            let mesh = Mesh::builder().connect(connect).build().unwrap();
            let client = mesh.client(&format!("/$/inet/{}/{}", addr.ip(), addr.port())).unwrap();
            let error = client.send(http::Request::new(Body::empty())).await.unwrap_err();
            let text = error.text();
            assert!(text.starts_with(&format!("Unable to establish connection to {addr}.\n")), "{text}");
            assert!(text.ends_with(expected) && !text.contains("secret"), "{text}");
            let rsp = error_response(&error, ErrorLimits::default());
            let told = rsp.headers()["l5d-err"].to_str().unwrap();
            assert!(rsp.status() == 502 && told.contains("cause%3A+TLS+handshake+failed"), "{told}");
            // Those who run it read all of it.
            assert!(chain(&error).contains("invalid peer certificate"), "{}", chain(&error));
        }
    }
}

/// A server that shows whatever is in a file.
async fn old_server(cert: &str) -> std::net::SocketAddr {
    let chain = vec![CertificateDer::from_pem_file(data(cert)).unwrap()];
    let key = PrivateKeyDer::from_pem_file(data("sec1.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let key = provider().key_provider.load_private_key(key).unwrap();
    let key = rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(chain, key));
    let acceptor = TlsAcceptor::from(Arc::new(config.with_cert_resolver(Arc::new(key))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    addr
}

#[tokio::test]
async fn old_certificates_of_servers_are_refused_with_the_reason() {
    for (cert, expected) in [
        ("version1.pem", "is older than X.509 version 3, and has to be renewed"),
        ("authority.pem", "is one to sign others with"),
        ("no-names.pem", "has no subjectAltName, so that it is not for 'old.test'"),
    ] {
        let tls = connector(ClientSettings { roots: vec![data(cert)], ..ClientSettings::default() });
        let error = get(&client(old_server(cert).await, tls.named("old.test"))).await.unwrap_err();
        assert!(chain(&error).contains(expected), "{expected}: {}", chain(&error));
    }
}

#[tokio::test]
async fn a_chain_is_sent_whole() {
    let pki = Pki::new();
    // The chain's rest is the authority itself: a client that trusts it takes either.
    let mut files = pki.issue("web", &["web"]);
    files.intermediates = Some(pki.ca());
    let addr = serve(settings(files), ok);
    let shaken = super::pki::shake(addr, "web", &pki.raw(&[])).await.unwrap();
    assert_eq!(shaken.conn().peer_certificates().unwrap().len(), 2);
    let identity = IdentityFiles::new(pki.path("web.pem"), pki.path("web.key"));
    assert_eq!(identity.intermediates, None);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_idle_costs_no_request() {
    let pki = Pki::new();
    let tls = settings(pki.issue("web", &["web"]));
    let acceptor = Acceptor::load(tls, &Metrics::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (closed, mut was_closed) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for i in 0.. {
            let Ok((tcp, _)) = listener.accept().await else { return };
            let (mut stream, negotiated) = acceptor.accept(tcp).await.unwrap();
            assert_eq!(negotiated.alpn, Some(Alpn::Http1));
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut head).await.unwrap();
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            stream.flush().await.unwrap();
            if i % 2 == 0 {
                // As TLS wants it; otherwise the connection just ends.
                stream.shutdown().await.unwrap();
            }
            drop(stream);
            closed.send(()).await.unwrap();
        }
    });
    let svc = client(addr, connector(pki.trusting()).named("web"));
    for _ in 0..20 {
        assert_eq!(get(&svc).await.unwrap(), "ok");
        was_closed.recv().await.unwrap();
    }
}
