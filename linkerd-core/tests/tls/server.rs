//! What a server shows, takes and says.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response, request::Parts};
use linkerd_core::{
    Body, Mesh, Svc,
    http::{RequestContext, Scheme, Server, ServerConfig},
    identify::{Identified, Identifier, Unidentified},
    tls::{Acceptor, Connector, HandshakeSettings, IdentityFiles, Metrics, PeerIdentity, ServerSettings},
};
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::pki::{Pki, client, data, der, fast, get, ok, serve, settings, shake};

#[tokio::test]
async fn a_request_through_tls_is_served_and_known_as_such() {
    let pki = Pki::new();
    let addr = serve(settings(pki.issue("web", &["web"])), |req| {
        let cx = req.extensions().get::<RequestContext>().unwrap();
        assert!(req.extensions().get::<PeerIdentity>().is_none());
        Response::new(Body::from(format!("{:?}", cx.scheme)))
    });
    let tls = Connector::load(pki.trusting(), &Metrics::default()).unwrap();
    assert_eq!(get(&client(addr, tls.named("web"))).await.unwrap(), format!("{:?}", Scheme::Https));
}

#[tokio::test]
async fn each_name_has_its_certificate_and_the_first_is_for_the_rest() {
    let pki = Pki::new();
    let first = pki.issue("first", &["first.test", "*.deep.test", "unknown.test"]);
    let second = pki.issue("second", &["second.test", "*.wild.test"]);
    let third = pki.issue("third", &["third.wild.test"]);
    let addr = serve(
        ServerSettings { identities: vec![first.clone(), second.clone(), third.clone()], ..settings(first.clone()) },
        ok,
    );
    let config = pki.raw(&[]);
    for (name, files) in [
        ("first.test", &first),
        ("second.test", &second),
        ("Second.Test", &second),
        ("a.wild.test", &second),
        ("third.wild.test", &third),
        ("a.deep.test", &first),
        ("unknown.test", &first),
    ] {
        let shaken = shake(addr, name, &config).await.unwrap();
        assert_eq!(shaken.leaf(), der(&files.cert), "{name}");
    }
}

#[tokio::test]
async fn keys_of_pkcs1_and_sec1_shake_hands() {
    let pki = Pki::new();
    for name in ["pkcs1", "sec1"] {
        let files = IdentityFiles::new(data(&format!("{name}.pem")), data(&format!("{name}.key")));
        let mut trusting = pki.trusting();
        trusting.disable_validation = true;
        let tls = Connector::load(trusting, &Metrics::default()).unwrap();
        assert_eq!(get(&client(serve(settings(files), ok), tls)).await.unwrap(), "ok", "{name}");
    }
}

#[tokio::test]
async fn http_1_is_what_is_agreed_on_and_sessions_are_resumed() {
    let pki = Pki::new();
    let addr = serve(settings(pki.issue("web", &["web"])), ok);
    let config = pki.raw(&[b"h2", b"http/1.1"]);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut shaken = shake(addr, "web", &config).await.unwrap();
        assert_eq!(shaken.conn().alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(shaken.conn().handshake_kind(), Some(kind));
        // The ticket comes with the answer.
        shaken.stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        shaken.stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("ok"), "{answer}");
    }
    // Without ALPN it is HTTP/1.1; with nothing in common there is no connection.
    assert!(shake(addr, "web", &pki.raw(&[])).await.is_ok());
    assert!(shake(addr, "web", &pki.raw(&[b"spdy/3"])).await.is_err());
}

#[tokio::test]
async fn versions_and_ciphers_are_those_of_the_file() {
    let pki = Pki::new();
    let list = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let identity = pki.issue("web", &["web"]);
    let addr = serve(
        ServerSettings {
            handshake: HandshakeSettings {
                protocols: list(&["TLSv1", "TLSv1.2"]),
                ciphers: list(&["TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]),
                ..fast()
            },
            ..settings(identity)
        },
        ok,
    );
    let shaken = shake(addr, "web", &pki.raw(&[])).await.unwrap();
    assert_eq!(shaken.conn().protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let suite = shaken.conn().negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
}

#[tokio::test]
async fn a_client_without_a_valid_certificate_is_refused_and_one_with_it_is_known() {
    let pki = Pki::new();
    let addr = serve(
        ServerSettings {
            require_client_auth: true,
            client_roots: Some(pki.ca()),
            ..settings(pki.issue("web", &["web"]))
        },
        |req| {
            let peer = req.extensions().get::<PeerIdentity>().unwrap();
            let uri = peer.uris().first().map_or("", String::as_str);
            Response::new(Body::from(format!("{} {} {uri}", peer.serial(), peer.common_name().unwrap_or_default())))
        },
    );
    let with = |identity| {
        let mut settings = pki.trusting();
        settings.identity = identity;
        client(addr, Connector::load(settings, &Metrics::default()).unwrap().named("web"))
    };
    let known = with(Some(pki.issue_as("me", &["me.test", "spiffe://test/me"], 0x1234)));
    assert_eq!(get(&known).await.unwrap(), "1234 me.test spiffe://test/me");
    assert!(get(&with(None)).await.is_err());
}

/// Names a request by who sent it.
struct ByPeer;

impl Identifier for ByPeer {
    fn identify(&self, req: &Parts) -> Result<Identified, Unidentified> {
        let peer = req.extensions.get::<PeerIdentity>().and_then(PeerIdentity::common_name);
        let peer = peer.ok_or_else(|| Unidentified::new("nobody"))?;
        Ok(Identified { path: format!("/svc/{peer}").parse().unwrap(), target: None })
    }
}

#[tokio::test]
async fn who_a_client_is_decides_about_names_and_is_known_to_layers() {
    let pki = Pki::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let layer = tower::util::MapRequestLayer::new(move |req: Request<Body>| {
        log.lock().unwrap().push(req.extensions().get::<PeerIdentity>().map(PeerIdentity::name));
        req
    });
    let dtab = "/svc/me.test => /$/io.buoyant.http.status/204; /svc/other.test => /$/io.buoyant.http.status/403;";
    let mesh = Mesh::builder().dtab(dtab.parse().unwrap()).path_layer(layer).build().unwrap();
    let settings = ServerSettings {
        require_client_auth: true,
        client_roots: Some(pki.ca()),
        ..settings(pki.issue("web", &["web"]))
    };
    let tls = Some(Acceptor::load(settings, &Metrics::default()).unwrap());
    let server =
        Server::bind(ServerConfig { addr: ([127, 0, 0, 1], 0).into(), tls, ..ServerConfig::default() }).unwrap();
    let addr = server.local_addr();
    tokio::spawn(server.serve(Svc::new(mesh.router(ByPeer)), std::future::pending()));
    for (names, status) in [(["me.test", "spiffe://test/me"], 204), (["other.test", "b.test"], 403)] {
        let mut settings = pki.trusting();
        settings.identity = Some(pki.issue(names[0], &names));
        let svc = client(addr, Connector::load(settings, &Metrics::default()).unwrap().named("web"));
        let rsp = svc.send(Request::get("http://web/").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(rsp.status(), status, "{names:?}");
    }
    let seen = seen.lock().unwrap();
    assert_eq!(*seen, [Some("spiffe://test/me".to_owned()), Some("other.test".to_owned())]);
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_ends_and_counts() {
    let pki = Pki::new();
    let handshake = HandshakeSettings { timeout: Duration::from_millis(20), ..fast() };
    let tls = ServerSettings { handshake, ..settings(pki.issue("web", &["web"])) };
    let registry = linkerd_core::telemetry::Registry::new();
    let stats = linkerd_core::telemetry::RouterStats::new(&registry, "http");
    let config = ServerConfig {
        addr: ([127, 0, 0, 1], 0).into(),
        tls: Some(Acceptor::load(tls, &Metrics::default()).unwrap()),
        stats: Some(stats),
        ..ServerConfig::default()
    };
    let server = linkerd_core::http::Server::bind(config).unwrap();
    let addr = server.local_addr();
    tokio::spawn(server.serve(
        linkerd_core::Svc::new(tower::service_fn(|req| async { Ok::<_, linkerd_core::Error>(ok(req)) })),
        std::future::pending(),
    ));
    let mut silent = TcpStream::connect(addr).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    // What speaks in the clear is told so.
    let mut clear = TcpStream::connect(addr).await.unwrap();
    clear.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = clear.read_to_end(&mut answer).await;
    assert_ne!(answer.first(), Some(&b'H'));
    let text = linkerd_core::telemetry::Prometheus::new().render(&registry);
    let line = text.lines().find(|line| line.contains("tls:handshake_failures")).unwrap();
    assert!(line.ends_with(" 2"), "{line}");
}

#[tokio::test]
async fn a_handshake_does_not_hold_up_the_end() {
    let pki = Pki::new();
    let config = ServerConfig {
        addr: ([127, 0, 0, 1], 0).into(),
        tls: Some(Acceptor::load(settings(pki.issue("web", &["web"])), &Metrics::default()).unwrap()),
        grace: Duration::from_hours(1),
        ..ServerConfig::default()
    };
    let server = linkerd_core::http::Server::bind(config).unwrap();
    let addr = server.local_addr();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let svc = linkerd_core::Svc::new(tower::service_fn(|req| async { Ok::<_, linkerd_core::Error>(ok(req)) }));
    let serving = tokio::spawn(server.serve(svc, async { drop(ended.await) }));
    let mut silent = TcpStream::connect(addr).await.unwrap();
    // Accepted: another one, later in the queue, was served.
    shake(addr, "web", &pki.raw(&[])).await.unwrap();
    drop(end);
    assert_eq!(serving.await.unwrap().aborted, 0);
    assert!(matches!(silent.read(&mut [0]).await, Ok(0) | Err(_)));
}
