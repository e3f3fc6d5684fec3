//! Certificates before their time, and after it.

use std::{fs, sync::Arc};

use linkerd_core::{
    telemetry::Registry,
    tls::{Acceptor, ClientSettings, Connector, IdentityFiles, Metrics, PeerIdentity, ServerSettings},
};
use rustls::pki_types::CertificateDer;

use super::pki::{Clock, Pki, by, client, der, eventually, get, metric, ok, replace, serve_with, settings, shake};

/// A server of one certificate that is good from 2030 to 2034, in 2031.
struct Served {
    pki: Pki,
    files: IdentityFiles,
    clock: Arc<Clock>,
    registry: Registry,
    addr: std::net::SocketAddr,
}

impl Served {
    fn new() -> Self {
        Self::at(2031)
    }

    fn at(year: u64) -> Self {
        let pki = Pki::new();
        let files = IdentityFiles::new(pki.path("web.pem"), pki.path("web.key"));
        pki.issue_for(&files, &["web"], 2030..2034);
        let (clock, registry) = (Clock::at(year), Registry::new());
        let settings = ServerSettings { handshake: by(&clock), ..settings(files.clone()) };
        let addr = serve_with(Acceptor::load(settings, &Metrics::new(&registry)).unwrap(), ok);
        Self { pki, files, clock, registry, addr }
    }

    /// The certificate that it shows, if that is good in a year.
    async fn shown(&self, year: u64) -> Option<CertificateDer<'static>> {
        let config = self.pki.raw_at(&[], Clock::at(year));
        shake(self.addr, "web", &config).await.ok().map(|shaken| shaken.leaf())
    }

    /// Whether it shows what is in the file.
    async fn shows_the_file(&self, year: u64) -> bool {
        self.shown(year).await == Some(der(&self.files.cert))
    }

    fn replace(&self, years: std::ops::Range<i32>) {
        self.pki.issue_for(&self.files, &["web"], years);
    }

    fn metric(&self, name: &str) -> f64 {
        metric(&self.registry, name)
    }

    async fn refused(&self, failures: f64) {
        eventually("it is refused", async || self.metric("reload_failures") >= failures).await;
    }
}

#[tokio::test]
async fn one_that_expired_does_not_take_the_place_of_a_good_one() {
    let served = Served::new();
    let good = served.shown(2031).await;
    assert!(good.is_some());
    assert_eq!((served.metric("cert:invalid"), served.metric("cert:stale")), (0.0, 0.0));
    served.replace(2020..2030);
    served.refused(1.0).await;
    assert_eq!(served.shown(2031).await, good);
    assert_eq!((served.metric("cert:invalid"), served.metric("cert:stale")), (0.0, 1.0));
    assert!(served.metric("cert:expires_in_secs") > 0.0, "of the one that is used");
    served.replace(2030..2040);
    eventually("the good one is used", async || served.shows_the_file(2031).await).await;
    assert_eq!((served.metric("reloads"), served.metric("cert:stale")), (1.0, 0.0));
}

#[tokio::test]
async fn one_before_its_time_waits_for_it() {
    let served = Served::new();
    let good = served.shown(2031).await;
    assert!(good.is_some());
    served.replace(2032..2040);
    served.refused(1.0).await;
    assert_eq!(served.shown(2031).await, good);
    served.clock.set(2032);
    eventually("its time came", async || served.shows_the_file(2032).await).await;
    assert_eq!(
        (served.metric("reload_failures"), served.metric("reloads"), served.metric("cert:stale")),
        (1.0, 1.0, 0.0)
    );
}

#[tokio::test]
async fn in_place_of_one_that_expired_anything_is_taken() {
    // It begins with one that expired.
    let served = Served::at(2036);
    assert_eq!(served.metric("cert:invalid"), 1.0);
    served.replace(2020..2035);
    eventually("it is no worse", async || served.metric("reloads") == 1.0).await;
    assert!(served.shows_the_file(2025).await);
    assert_eq!((served.metric("cert:invalid"), served.metric("reload_failures")), (1.0, 0.0));
    served.replace(2035..2040);
    eventually("it is good", async || served.metric("cert:invalid") == 0.0).await;
    assert!(served.shows_the_file(2036).await);
}

#[tokio::test]
async fn what_waits_is_taken_once_the_one_in_use_has_expired() {
    let served = Served::new();
    served.replace(2020..2030);
    served.refused(1.0).await;
    served.clock.set(2035);
    eventually("neither is good, and this one is newer", async || served.shows_the_file(2025).await).await;
    assert_eq!((served.metric("reloads"), served.metric("cert:stale")), (1.0, 0.0));
}

#[tokio::test]
async fn what_expired_further_up_in_a_chain_counts_and_what_is_trusted_does_not() {
    let (pki, clock, registry) = (Pki::new(), Clock::at(2031), Registry::new());
    let web = IdentityFiles::new(pki.path("web.pem"), pki.path("web.key"));
    let other = IdentityFiles::new(pki.path("other.pem"), pki.path("other.key"));
    pki.issue_for(&web, &["web"], 2030..2034);
    pki.issue_for(&other, &["other"], 2020..2030);
    let chain = pki.path("chain.pem");
    fs::copy(pki.ca(), &chain).unwrap();
    let roots = pki.path("roots.pem");
    fs::copy(pki.ca(), &roots).unwrap();
    let files = IdentityFiles { intermediates: Some(chain.clone()), ..web };
    let settings = ServerSettings {
        require_client_auth: true,
        client_roots: Some(roots.clone()),
        handshake: by(&clock),
        ..settings(files)
    };
    let _acceptor = Acceptor::load(settings, &Metrics::new(&registry)).unwrap();
    let expired = fs::read_to_string(&other.cert).unwrap();
    replace(&chain, &expired);
    eventually("the chain is refused", async || metric(&registry, "reload_failures") == 1.0).await;
    replace(&chain, &fs::read_to_string(pki.ca()).unwrap());
    eventually("it is as it was", async || metric(&registry, "cert:stale") == 0.0).await;
    let reloads = metric(&registry, "reloads");
    replace(&roots, &(fs::read_to_string(pki.ca()).unwrap() + &expired));
    eventually("the bundle is taken", async || metric(&registry, "reloads") > reloads).await;
    assert_eq!(metric(&registry, "reload_failures"), 1.0);
}

#[tokio::test]
async fn what_a_client_shows_is_held_to_the_same() {
    let (pki, clock, registry) = (Pki::new(), Clock::at(2031), Registry::new());
    let server = ServerSettings {
        require_client_auth: true,
        client_roots: Some(pki.ca()),
        handshake: by(&clock),
        ..settings(pki.issue("web", &["web"]))
    };
    let addr = serve_with(Acceptor::load(server, &Metrics::default()).unwrap(), |req| {
        let name = req.extensions().get::<PeerIdentity>().unwrap().name();
        http::Response::new(linkerd_core::Body::from(name))
    });
    let me = IdentityFiles::new(pki.path("me.pem"), pki.path("me.key"));
    pki.issue_for(&me, &["old"], 2030..2034);
    let tls = ClientSettings { identity: Some(me.clone()), handshake: by(&clock), ..pki.trusting() };
    let tls = Connector::load(tls, &Metrics::new(&registry)).unwrap().named("web");
    assert_eq!(get(&client(addr, tls.clone())).await.unwrap(), "old");
    pki.issue_for(&me, &["expired"], 2020..2030);
    eventually("it is refused", async || metric(&registry, "reload_failures") >= 1.0).await;
    assert_eq!(get(&client(addr, tls.clone())).await.unwrap(), "old");
    pki.issue_for(&me, &["new"], 2030..2040);
    eventually("the new one is shown", async || get(&client(addr, tls.clone())).await.unwrap() == "new").await;
}
