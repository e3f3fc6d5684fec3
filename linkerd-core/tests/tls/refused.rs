//! Endpoints that refuse this side's certificate, which in TLS 1.3 they say after the handshake; and what callers read of
//! that.

use std::net::SocketAddr;

use http::{Request, header::HOST};
use linkerd_core::{
    Body, ErrorKind, Mesh,
    dtab::Endpoint,
    http::{
        ClientConfig, Connect, H2Config, HttpConnect, PoolConfig, Wire,
        respond::{ErrorLimits, error_response},
    },
    telemetry::{Prometheus, Registry, RouterStats},
    tls::{Alpn, ClientSettings, Connector, HandshakeSettings, IdentityFiles, Metrics, ServerSettings},
};

use super::{
    pki::{Pki, eventually, fast, ok, serve, settings},
    routers::proxy,
};

const REFUSED: &str = "cause: TLS handshake failed: received fatal alert: ";

/// A server that asks for certificates of its own authority, by one version of TLS.
fn demanding(pki: &Pki, version: &str) -> SocketAddr {
    let handshake =
        HandshakeSettings { protocols: Some(vec![version.to_owned()]), alpn: vec![Alpn::H2, Alpn::Http1], ..fast() };
    serve(
        ServerSettings {
            require_client_auth: true,
            client_roots: Some(pki.ca()),
            handshake,
            ..settings(pki.issue("web", &["web"]))
        },
        ok,
    )
}

fn connect(pki: &Pki, identity: Option<IdentityFiles>, wire: Wire, pool: PoolConfig) -> HttpConnect {
    let tls = ClientSettings { identity, ..pki.trusting() };
    let tls = Connector::load(tls, &Metrics::default()).unwrap().named("web");
    HttpConnect::new(ClientConfig { tls: Some(tls), wire, pool, ..ClientConfig::default() })
}

/// A counter of the only client.
fn count(registry: &Registry, name: &str) -> u64 {
    let text = Prometheus::new().render(registry);
    let line = text.lines().find(|line| line.starts_with(&format!("rt:client:{name}{{")));
    line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

#[tokio::test]
async fn it_counts_as_a_handshake_that_failed_and_callers_read_the_cause() {
    let (pki, other) = (Pki::new(), Pki::new());
    let stranger = other.issue("stranger", &["stranger"]);
    for version in ["TLSv1.2", "TLSv1.3"] {
        let addr = demanding(&pki, version);
        for identity in [None, Some(stranger.clone())] {
            for wire in [Wire::Http1, Wire::H2(H2Config::default())] {
                let (registry, case) = (Registry::new(), format!("{version} {identity:?} {wire:?}"));
                let mesh = Mesh::builder()
                    .connect(connect(&pki, identity.clone(), wire, PoolConfig::default()))
                    .metrics(RouterStats::new(&registry, "web"))
                    .build()
                    .unwrap();
                let client = mesh.client(&format!("/$/inet/{}/{}", addr.ip(), addr.port())).unwrap();
                let get = || client.send(Request::get("http://web/").body(Body::empty()).unwrap());
                // It is still being written when the answer comes.
                let long = Body::from(vec![b'x'; 4 << 20]);
                let post = client.send(Request::post("http://web/").body(long).unwrap());
                let (first, second, third) = tokio::join!(get(), get(), post);
                for answer in [first, second, third] {
                    let error = answer.unwrap_err();
                    assert_eq!((error.kind(), error.never_sent()), (ErrorKind::Connect, true), "{case}: {error:?}");
                    assert!(error.text().contains(REFUSED), "{case}: {}", error.text());
                    let rsp = error_response(&error, ErrorLimits::default());
                    let told = rsp.headers()["l5d-err"].to_str().unwrap();
                    assert!(rsp.status() == 502 && told.contains("cause%3A+TLS+handshake+failed"), "{case}: {told}");
                }
                let failures = count(&registry, "tls:handshake_failures");
                assert_eq!(failures, count(&registry, "tls:handshake_failures:refused_by_peer"), "{case}");
                assert!(failures > 0, "{case}");
                if version == "TLSv1.3" {
                    assert!(failures <= count(&registry, "connects"), "{case}: once for each connection");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_kept_for_nobody_yet_is_counted_too() {
    let pki = Pki::new();
    let addr = demanding(&pki, "TLSv1.3");
    let registry = Registry::new();
    let mesh = Mesh::builder()
        .connect(connect(&pki, None, Wire::Http1, PoolConfig { min_size: 1, ..PoolConfig::default() }))
        .metrics(RouterStats::new(&registry, "web"))
        .build()
        .unwrap();
    let client = mesh.client(&format!("/$/inet/{}/{}", addr.ip(), addr.port())).unwrap();
    client.send(Request::get("http://web/").body(Body::empty()).unwrap()).await.unwrap_err();
    let asked = count(&registry, "tls:handshake_failures");
    eventually("they are counted", async || count(&registry, "tls:handshake_failures") > asked).await;
}

#[tokio::test]
async fn programs_read_it_in_the_details_without_the_names_of_the_peer() {
    let (pki, other) = (Pki::new(), Pki::new());
    let demanding = demanding(&pki, "TLSv1.3");
    let shows = |identity| {
        let handshake = HandshakeSettings { alpn: vec![Alpn::H2, Alpn::Http1], ..fast() };
        serve(ServerSettings { handshake, ..settings(identity) }, ok)
    };
    let unknown = shows(other.issue("web", &["web", "secret.internal"]));
    let another = shows(pki.issue("secret", &["secret.internal"]));
    let expected =
        [(demanding, REFUSED), (unknown, "UnknownIssuer"), (another, "the peer's certificate is for another")];
    for (to, cause) in expected {
        let router = |protocol: &str| {
            format!(
                "- protocol: {protocol}
  label: {protocol}
  dtab: /svc => /$/inet/127.0.0.1/{}
  client: {{tls: {{commonName: web, trustCertsBundle: '{{dir}}/ca.pem'}}}}
  servers: [{{port: 0, errorDetail: true}}]
",
                to.port()
            )
        };
        let addrs = proxy(&pki, &format!("routers:\n{}{}", router("http"), router("h2"))).await;
        for (addr, wire) in addrs.into_iter().zip([Wire::Http1, Wire::H2(H2Config::default())]) {
            let config = ClientConfig { wire, ..ClientConfig::default() };
            let req = Request::get("http://web/").header(HOST, "web").body(Body::empty()).unwrap();
            let rsp = HttpConnect::new(config).connect(&Endpoint::new(addr)).send(req).await.unwrap();
            assert_eq!(rsp.status(), 502);
            let line = rsp.headers()["l5d-err-json"].to_str().unwrap();
            let detail: serde_json::Value = serde_json::from_str(line).unwrap();
            let said = (&detail["kind"], &detail["status"], &detail["mayHaveBeenProcessed"]);
            assert_eq!(said, (&"connect".into(), &502.into(), &false.into()), "{detail}");
            let reason = detail["reason"].as_str().unwrap();
            assert!(reason.starts_with("Unable to establish connection to ") && reason.contains(cause), "{detail}");
            assert!(!line.contains("secret"), "{detail}");
        }
    }
}

#[tokio::test]
async fn who_only_finds_out_whether_it_can_be_connected_to_hears_of_it_too() {
    let (pki, other) = (Pki::new(), Pki::new());
    let (ours, stranger) = (pki.issue("ours", &["ours"]), other.issue("stranger", &["stranger"]));
    for version in ["TLSv1.2", "TLSv1.3"] {
        let endpoint = Endpoint::new(demanding(&pki, version));
        let dial = |identity| connect(&pki, identity, Wire::Http1, PoolConfig::default());
        dial(Some(ours.clone())).dial(&endpoint).await.unwrap();
        for identity in [None, Some(stranger.clone())] {
            let connect = dial(identity);
            // A server that is slow to say so is taken for a good one.
            eventually("it is refused", async || match connect.dial(&endpoint).await {
                Ok(()) => false,
                Err(error) => error.to_string().contains("TLS handshake failed"),
            })
            .await;
        }
    }
}
