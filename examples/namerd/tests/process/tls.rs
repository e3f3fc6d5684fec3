//! Clients by the names in their certificates and by tokens, with a role each.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{Conn, Folder, Namerd, request};

const CONFIG: &str = "\
admin: {port: 0}
storage:
  kind: io.l5d.inMemory
  namespaces: {prod: '/svc => /a', team/web: '/svc => /b'}
interfaces:
- kind: io.l5d.httpController
  port: 0
  tls: {certPath: server.pem, keyPath: server.key, caCertPath: ca.pem, requireClientAuth: true}
- kind: io.l5d.httpController
  port: 0
  readOnly: true
access:
- {name: reader.example, role: read}
- {name: '*.team.example', role: write, namespaces: [team/*]}
- {tokenFile: deploy.token, label: deploy, role: admin}
protect:
- {namespaces: [prod], adminOnly: true, noDelete: true}
";

struct Pki(CertifiedIssuer<'static, KeyPair>);

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// A connection of the client of this name; without one it shows no certificate.
    async fn connect(&self, namerd: &Namerd, name: Option<&str>) -> std::io::Result<Conn> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.0.der().to_vec())).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let config = match name.map(|name| self.issue(name)) {
            Some((cert, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                config.with_client_auth_cert(vec![cert.der().clone()], key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(namerd.interfaces[0]).await?;
        let name = ServerName::try_from("namerd.example").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Conn::over(stream).await)
    }
}

#[tokio::test]
async fn each_client_may_do_what_its_name_or_token_is_granted() {
    let (folder, pki) = (Folder::new(), Pki::new());
    let (cert, key) = pki.issue("namerd.example");
    folder.write("ca.pem", &pki.0.pem());
    folder.write("server.pem", &cert.pem());
    folder.write("server.key", &key.serialize_pem());
    folder.write("deploy.token", "s3cret\n");
    let namerd = Namerd::start(&folder, CONFIG).await;

    let mut reader = pki.connect(&namerd, Some("reader.example")).await.unwrap();
    reader.ask("GET /api/1/dtabs/prod", &[], "").await.expect(200);
    let refused = reader.ask("PUT /api/1/dtabs/team/web", &[], "/svc => /c").await.expect(403);
    assert!(refused.body.contains("reader.example at 127.0.0.1"), "{refused:?}");
    assert!(refused.body.contains("may not write namespace team/web"), "{refused:?}");

    let mut team = pki.connect(&namerd, Some("ci.team.example")).await.unwrap();
    team.ask("PUT /api/1/dtabs/team/web", &[], "/svc => /c").await.expect(204);
    team.ask("GET /api/1/dtabs/prod", &[], "").await.expect(403);
    let list = team.ask("GET /api/1/dtabs", &[], "").await.expect(200);
    assert_eq!(list.json(), serde_json::json!(["team/web"]));

    // The token of a request counts beside the name of its connection.
    let token = [("authorization", "Bearer s3cret")];
    team.ask("PUT /api/1/dtabs/prod", &token, "/svc => /c").await.expect(204);
    let wrong = [("authorization", "Bearer s3creT")];
    let refused = team.ask("PUT /api/1/dtabs/prod", &wrong, "/svc => /d").await.expect(401);
    assert_eq!(
        (&*refused.body, &*refused.header("www-authenticate")),
        ("unknown token", "Bearer error=\"invalid_token\"")
    );
    team.ask("DELETE /api/1/dtabs/prod", &token, "").await.expect(400);
    let past = team.ask("GET /api/1/history/prod", &token, "").await.expect(200).json();
    assert!(past[0]["who"].as_str().is_some_and(|who| who.starts_with("deploy at 127.0.0.1")), "{past}");

    // Without a certificate nobody gets in; nor are changes made through an interface that allows none.
    let mut open = Conn::open(namerd.interfaces[1]).await;
    open.ask("GET /api/1/dtabs/prod", &[], "").await.expect(403);
    open.ask("GET /api/1/dtabs/prod", &token, "").await.expect(200);
    open.ask("PUT /api/1/dtabs/prod", &token, "/svc => /d").await.expect(403);
    assert!(!is_served(&pki, &namerd).await);

    // Whoever runs it sees everything but the tokens.
    let page = namerd.page("/dtab/prod").await.expect(200).body;
    assert!(page.contains("/svc =&gt; /c"), "{page}");
    let config = namerd.page("/config.json").await.expect(200).body;
    assert!(config.contains("deploy.token") && !config.contains("s3cret"), "{config}");
}

/// Whether a client without a certificate is answered: the refusal may come after its side of the handshake.
async fn is_served(pki: &Pki, namerd: &Namerd) -> bool {
    let Ok(mut conn) = pki.connect(namerd, None).await else { return false };
    conn.try_begin(request("GET /api/1/dtabs", &[], "")).await.is_ok()
}
