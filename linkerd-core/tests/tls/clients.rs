//! Clients whose certificates are not good, at a server that requires them.

use std::{fs, sync::Arc};

use linkerd_core::{
    Error, Svc,
    http::{Server, ServerConfig},
    telemetry::{Prometheus, Registry, RouterStats},
    tls::{Acceptor, HandshakeError, Metrics, ServerSettings},
};
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio_rustls::TlsConnector;

use super::pki::{Pki, ask, data, eventually, leaf, ok, settings, shake, signed};

/// What a client shows, the reason in the metrics, and what is said of it.
type Case = (&'static str, Option<(String, String)>, &'static str, &'static str);

fn cases(pki: &Pki) -> Vec<Case> {
    let file = |name| fs::read_to_string(data(name)).unwrap();
    let alone = KeyPair::generate().unwrap();
    let by_itself = (leaf(&["me"]).self_signed(&alone).unwrap().pem(), alone.serialize_pem());
    let expired = pki.changed(&["me"], |params| params.not_after = date_time_ymd(2020, 2, 29));
    let early = pki.changed(&["me"], |params| params.not_before = date_time_ymd(4000, 2, 29));
    let server = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let authority =
        |params: &mut rcgen::CertificateParams| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let stranger = super::pki::authority("stranger");
    let (twin, version1) = (Pki::called(pki.name()), (file("version1.pem"), file("sec1.key")));
    vec![
        ("nothing", None, "no_certificate", "the client showed no certificate, and one is required"),
        ("expired", Some(expired), "expired", "of CN=me expired at Sat, 29 Feb 2020 00:00:00 GMT"),
        ("early", Some(early), "not_yet_valid", "of CN=me is not valid before Tue, 29 Feb 4000 00:00:00 GMT"),
        ("self-signed", Some(by_itself), "self_signed", "of CN=me is signed by itself alone"),
        (
            "wrong authority",
            Some(signed(&["me"], &stranger)),
            "unknown_issuer",
            "of CN=me comes from CN=stranger, which",
        ),
        ("wrong key", Some(twin.issued(&["me"], 1)), "bad_signature", "whose key did not"),
        (
            "version 1",
            Some(version1),
            "old_version",
            "is X.509 version 1, which cannot say what it is for; make a new one",
        ),
        (
            "common name",
            Some(pki.issued(&[], 1)),
            "no_names",
            "of CN=nobody has no subjectAltName, and the common name",
        ),
        ("of servers", Some(pki.changed(&["me"], server)), "wrong_purpose", "lacks clientAuth"),
        ("authority", Some(pki.changed(&["me"], authority)), "authority", "is one to sign others with; make a new one"),
    ]
}

fn config(pki: &Pki, shown: Option<&(String, String)>) -> Arc<ClientConfig> {
    shown.map_or_else(|| pki.raw(&[]), |(cert, key)| pki.raw_as(cert, key))
}

fn required(pki: &Pki) -> ServerSettings {
    ServerSettings { require_client_auth: true, client_roots: Some(pki.ca()), ..settings(pki.issue("web", &["web"])) }
}

#[tokio::test]
async fn each_is_refused_with_the_reason() {
    let pki = Pki::new();
    let tls = Acceptor::load(required(&pki), &Metrics::default()).unwrap();
    for (case, shown, reason, text) in cases(&pki) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let config = config(&pki, shown.as_ref());
        let client = tokio::spawn(TlsConnector::from(config).connect(ServerName::try_from("web").unwrap(), near));
        let error = tls.accept(far).await.err().unwrap_or_else(|| panic!("{case} is let in"));
        assert_eq!(error.reason(), reason, "{case}: {error}");
        assert!(error.to_string().contains(text), "{case}: {error}");
        assert!(!matches!(error, HandshakeError::Failed(_)), "{case}");
        drop(client.await);
    }
}

#[tokio::test]
async fn they_are_counted_by_reason_and_nobody_else_is_disturbed() {
    let pki = Pki::new();
    let registry = Registry::new();
    let config_of_server = ServerConfig {
        addr: ([127, 0, 0, 1], 0).into(),
        tls: Some(Acceptor::load(required(&pki), &Metrics::default()).unwrap()),
        stats: Some(RouterStats::new(&registry, "http")),
        ..ServerConfig::default()
    };
    let server = Server::bind(config_of_server).unwrap();
    let addr = server.local_addr();
    let svc = Svc::new(tower::service_fn(|req| async { Ok::<_, Error>(ok(req)) }));
    tokio::spawn(server.serve(svc, std::future::pending()));
    let good = pki.issued(&["me"], 1);
    let mut other = shake(addr, "web", &config(&pki, Some(&good))).await.unwrap();
    ask(&mut other).await.unwrap();
    let cases = cases(&pki);
    for (case, shown, reason, _) in &cases {
        // With TLS 1.3 a client learns of it by the first thing it reads.
        let shaken = shake(addr, "web", &config(&pki, shown.as_ref())).await;
        let answer = match shaken {
            Ok(mut shaken) => ask(&mut shaken).await,
            Err(error) => Err(error),
        };
        assert!(answer.is_err(), "{case}");
        let name = format!("rt:server:tls:handshake_failures:{reason}{{");
        // It is told before it is counted.
        eventually(case, async || counted(&registry, &name).as_deref() == Some("1")).await;
        ask(&mut other).await.unwrap();
    }
    let all = counted(&registry, "rt:server:tls:handshake_failures{").unwrap();
    assert_eq!(all, cases.len().to_string());
}

/// The value of the line that begins so.
fn counted(registry: &Registry, name: &str) -> Option<String> {
    let text = Prometheus::new().render(registry);
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit_once(' ').map(|(_, value)| value.to_owned())
}
