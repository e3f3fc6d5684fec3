//! Certificates that expire, and files that are reloaded meanwhile.

use std::sync::Arc;

use http::{Request, header::HOST};
use linkerd_core::{
    Body, Error,
    dtab::Endpoint,
    http::{ClientConfig, Connect, HttpConnect},
    tls::{ClientSettings, Connector, Metrics},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

use crate::harness::{Folder, Linkerd, SIMPLE, replace, server};

/// A folder with `ca.pem`, and who writes more certificates to it.
struct Authority {
    folder: Arc<Folder>,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = Folder::new();
        folder.write("ca.pem", &issuer.pem());
        Self { folder, issuer }
    }

    /// `NAME.pem`, until the end of a year, of the only key.
    fn issue(&self, name: &str, end: i32) {
        let key = std::fs::read_to_string(self.folder.path("web.key"));
        let key = key.map_or_else(|_| KeyPair::generate().unwrap(), |pem| KeyPair::from_pem(&pem).unwrap());
        self.folder.write("web.key", &key.serialize_pem());
        let mut params = CertificateParams::new(["web".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(end, 12, 31));
        replace(&self.folder.path(&format!("{name}.pem")), &params.signed_by(&key, &self.issuer).unwrap().pem());
    }

    /// A request on a new connection.
    async fn get(&self, linkerd: &Linkerd) -> Result<u16, Error> {
        let tls = ClientSettings { roots: vec![self.folder.path("ca.pem")], ..ClientSettings::default() };
        let tls = Connector::load(tls, &Metrics::default()).unwrap().named("web");
        let svc = HttpConnect::new(ClientConfig { tls: Some(tls), ..ClientConfig::default() });
        let req = Request::get("/").header(HOST, "web").body(Body::empty()).unwrap();
        let rsp = svc.connect(&Endpoint::new(linkerd.servers[0])).send(req).await?;
        Ok(rsp.status().as_u16())
    }
}

#[tokio::test]
async fn no_reload_gives_up_a_good_certificate_for_one_that_expired() {
    let authority = Authority::new();
    let web = server("web").await;
    authority.folder.list("web", &[web.addr()]);
    authority.issue("web", 2090);
    authority.issue("old", 2024);
    let config = |cert: &str, more: &str| {
        let tls = format!("  - port: 0\n    tls: {{certPath: {cert}.pem, keyPath: web.key{more}}}\n");
        format!("reload: {{watch: false}}\n{}", SIMPLE.replace("  - port: 0\n", &tls))
    };
    let linkerd = Linkerd::start(&authority.folder, &config("web", "")).await;
    assert_eq!(authority.get(&linkerd).await.unwrap(), 200);

    // In the file that is used, as the keys of the server change.
    authority.issue("web", 2024);
    let answer = linkerd.reload(&config("web", ", handshakeTimeoutMs: 7000")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(authority.get(&linkerd).await.unwrap(), 200);
    assert_eq!(linkerd.metric("tls/cert/web.pem/stale").await, Some(1.0));
    linkerd.logged("web.pem: a certificate in it expired at").await;
    // In another one.
    let answer = linkerd.reload(&config("old", "")).await;
    assert_eq!(answer.status, 422, "{answer:?}");
    assert!(answer.body.contains("routers[0].servers[0].tls: old.pem: a certificate in it expired at"), "{answer:?}");
    assert_eq!(linkerd.metric("config/reload_failed").await, Some(1.0));
    assert_eq!(authority.get(&linkerd).await.unwrap(), 200);

    authority.issue("new", 2090);
    assert_eq!(linkerd.reload(&config("new", "")).await.status, 200);
    assert_eq!(authority.get(&linkerd).await.unwrap(), 200);
    assert_eq!(linkerd.metric("tls/cert/new.pem/stale").await, Some(0.0));
}
