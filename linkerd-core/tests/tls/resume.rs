//! Sessions that go on in another connection.

use std::{fs, sync::Arc};

use linkerd_core::{
    Body,
    telemetry::Registry,
    tls::{Acceptor, Metrics, PeerIdentity, ServerSettings},
};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, SupportedProtocolVersion, version};

use super::pki::{Pki, ask, eventually, metric, provider, replace, serve_with, settings, shake};

/// A server that requires certificates, and a client that has one and speaks this version alone.
struct Resuming {
    pki: Pki,
    registry: Registry,
    addr: std::net::SocketAddr,
    bundle: std::path::PathBuf,
    config: Arc<ClientConfig>,
}

impl Resuming {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let (pki, registry) = (Pki::new(), Registry::new());
        let bundle = pki.path("bundle.pem");
        fs::copy(pki.ca(), &bundle).unwrap();
        let settings = ServerSettings {
            require_client_auth: true,
            client_roots: Some(bundle.clone()),
            ..settings(pki.issue("web", &["web"]))
        };
        let addr = serve_with(Acceptor::load(settings, &Metrics::new(&registry)).unwrap(), |req| {
            // Of a session that is resumed too.
            assert_eq!(req.extensions().get::<PeerIdentity>().unwrap().name(), "me");
            http::Response::new(Body::from("ok"))
        });
        let (cert, key) = pki.issued(&["me"], 1);
        let whole = pki.raw_as(&cert, &key);
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(pki.store())
            .with_no_client_auth();
        config.client_auth_cert_resolver = Arc::clone(&whole.client_auth_cert_resolver);
        Self { pki, registry, addr, bundle, config: Arc::new(config) }
    }

    /// One connection, which is answered, and how it began.
    async fn kind(&self) -> std::io::Result<HandshakeKind> {
        let mut shaken = shake(self.addr, "web", &self.config).await?;
        // The ticket comes with the answer.
        ask(&mut shaken).await?;
        Ok(shaken.conn().handshake_kind().unwrap())
    }

    async fn write(&self, bundle: &str) {
        let reloads = metric(&self.registry, "reloads");
        replace(&self.bundle, bundle);
        eventually("the bundle is used", async || metric(&self.registry, "reloads") > reloads).await;
    }
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

#[tokio::test]
async fn the_second_handshake_is_short_in_both_versions() {
    for version in VERSIONS {
        let resuming = Resuming::new(version);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            assert_eq!(resuming.kind().await.unwrap(), kind, "{version:?}");
        }
        let shaken = shake(resuming.addr, "web", &resuming.config).await.unwrap();
        let expected = if version == VERSIONS[0] { ProtocolVersion::TLSv1_2 } else { ProtocolVersion::TLSv1_3 };
        assert_eq!(shaken.conn().protocol_version(), Some(expected));
    }
}

#[tokio::test]
async fn a_session_does_not_outlive_the_authority_that_vouched_for_it() {
    for version in VERSIONS {
        let resuming = Resuming::new(version);
        assert_eq!(resuming.kind().await.unwrap(), HandshakeKind::Full);
        assert_eq!(resuming.kind().await.unwrap(), HandshakeKind::Resumed);
        let (own, other) = (fs::read_to_string(resuming.pki.ca()).unwrap(), Pki::new());
        let other = fs::read_to_string(other.ca()).unwrap();
        // With another one beside it, it has to show its certificate once more, which is still good.
        resuming.write(&[own, other.clone()].concat()).await;
        assert_eq!(resuming.kind().await.unwrap(), HandshakeKind::Full, "{version:?}");
        assert_eq!(resuming.kind().await.unwrap(), HandshakeKind::Resumed, "{version:?}");
        resuming.write(&other).await;
        assert!(resuming.kind().await.is_err(), "{version:?}");
    }
}
