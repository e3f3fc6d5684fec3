//! Roots that peers need, and bundles that leave them out.

use std::{fs, sync::Arc, time::Duration};

use linkerd_core::{
    Svc,
    telemetry::{Prometheus, Registry},
    tls::{Acceptor, ClientSettings, Connector, HandshakeSettings, Metrics, ServerSettings},
};
use rcgen::CertifiedIssuer;

use super::pki::{Clock, Pki, by, client, eventually, get, metric, ok, replace, serve_with, settings};

/// A server that trusts two authorities, and one client of each. A day is what roots are kept.
struct Served {
    old: Pki,
    new: Pki,
    clock: Arc<Clock>,
    registry: Registry,
    addr: std::net::SocketAddr,
    bundle: std::path::PathBuf,
}

const DAY: Duration = Duration::from_hours(24);

impl Served {
    fn new(keep: Option<Duration>) -> Self {
        Self::of(Pki::new(), Pki::new(), keep)
    }

    fn of(old: Pki, new: Pki, keep: Option<Duration>) -> Self {
        let (clock, registry) = (Clock::at(2031), Registry::new());
        let bundle = old.path("bundle.pem");
        let served = Self { old, new, clock, registry, addr: ([127, 0, 0, 1], 0).into(), bundle };
        served.trust(&[&served.old, &served.new]);
        let settings = ServerSettings {
            require_client_auth: true,
            client_roots: Some(served.bundle.clone()),
            handshake: HandshakeSettings { keep_used_roots: keep, ..by(&served.clock) },
            ..settings(served.old.issue("web", &["web"]))
        };
        let tls = Acceptor::load(settings, &Metrics::new(&served.registry)).unwrap();
        Self { addr: serve_with(tls, ok), ..served }
    }

    /// Writes the bundle.
    fn trust(&self, authorities: &[&Pki]) {
        let all: String = authorities.iter().map(|pki| fs::read_to_string(pki.ca()).unwrap()).collect();
        replace(&self.bundle, &all);
    }

    fn client_of(&self, pki: &Pki) -> Svc {
        let tls = ClientSettings {
            identity: Some(pki.issue("me", &["me"])),
            roots: vec![self.old.ca()],
            handshake: by(&self.clock),
            ..ClientSettings::default()
        };
        client(self.addr, Connector::load(tls, &Metrics::default()).unwrap().named("web"))
    }

    fn metric(&self, name: &str) -> f64 {
        metric(&self.registry, name)
    }

    async fn is_trusted(&self, pki: &Pki) -> bool {
        get(&self.client_of(pki)).await.is_ok()
    }
}

#[tokio::test]
async fn one_by_which_somebody_is_connected_is_kept_and_then_for_its_time() {
    let served = Served::new(Some(DAY));
    let svc = served.client_of(&served.old);
    get(&svc).await.unwrap();
    assert_eq!(served.metric("root:connections"), 1.0);
    served.trust(&[&served.new]);
    eventually("it is refused", async || served.metric("reload_failures") == 1.0).await;
    assert_eq!(served.metric("cert:stale"), 1.0);
    // However long ago it connected.
    served.clock.pass(10 * DAY);
    assert!(served.is_trusted(&served.old).await);

    drop(svc);
    eventually("nobody is connected", async || served.metric("root:connections") == 0.0).await;
    served.clock.pass(Duration::from_secs(24 * 3600 - 1));
    // It is looked at again, and again.
    let looks = 20 * super::pki::FAST;
    tokio::time::sleep(looks).await;
    assert_eq!(served.metric("reloads"), 0.0);
    served.clock.pass(Duration::from_secs(1));
    eventually("nobody needs it", async || served.metric("reloads") == 1.0).await;
    assert_eq!((served.metric("cert:stale"), served.metric("used_roots_dropped")), (0.0, 0.0));
    assert!(!served.is_trusted(&served.old).await);
    assert!(served.is_trusted(&served.new).await);
}

#[tokio::test]
async fn one_that_nobody_needs_is_dropped_at_once() {
    let served = Served::new(Some(DAY));
    assert!(served.is_trusted(&served.new).await);
    served.trust(&[&served.new]);
    eventually("it is taken", async || served.metric("reloads") == 1.0).await;
    assert_eq!(served.metric("reload_failures"), 0.0);
    // What is known of the other one outlives the change.
    served.trust(&[&served.old]);
    eventually("it is refused", async || served.metric("reload_failures") == 1.0).await;
}

#[tokio::test]
async fn unless_it_is_to_be_kept_a_used_one_is_dropped_and_told() {
    let served = Served::new(None);
    assert!(served.is_trusted(&served.old).await);
    served.trust(&[&served.new]);
    eventually("it is taken", async || served.metric("reloads") == 1.0).await;
    assert_eq!((served.metric("used_roots_dropped"), served.metric("reload_failures")), (1.0, 0.0));
    assert!(!served.is_trusted(&served.old).await);
}

#[tokio::test]
async fn two_of_one_name_are_told_apart_by_their_keys() {
    let (old, new) = (Pki::called("twin"), Pki::called("twin"));
    let served = Served::of(old, new, Some(DAY));
    assert!(served.is_trusted(&served.new).await);
    served.trust(&[&served.new]);
    eventually("nobody needs the other one", async || served.metric("reloads") == 1.0).await;
    assert_eq!(served.metric("reload_failures"), 0.0);
}

#[tokio::test]
async fn what_a_client_trusts_is_kept_too_and_what_it_does_not_verify_is_not_counted() {
    let (old, new, clock, registry) = (Pki::new(), Pki::new(), Clock::at(2031), Registry::new());
    let addr = serve_with(Acceptor::load(settings(old.issue("web", &["web"])), &Metrics::default()).unwrap(), ok);
    let bundle = old.path("bundle.pem");
    replace(&bundle, &fs::read_to_string(old.ca()).unwrap());
    let handshake = HandshakeSettings { keep_used_roots: Some(DAY), ..by(&clock) };
    let tls = ClientSettings { roots: vec![bundle.clone()], handshake, ..ClientSettings::default() };
    let any = ClientSettings { disable_validation: true, ..tls.clone() };
    let any = Connector::load(any, &Metrics::new(&registry)).unwrap().named("web");
    get(&client(addr, any)).await.unwrap();
    assert!(!Prometheus::new().render(&registry).contains("tls:root"));
    let tls = Connector::load(tls, &Metrics::new(&registry)).unwrap().named("web");
    get(&client(addr, tls.clone())).await.unwrap();
    replace(&bundle, &fs::read_to_string(new.ca()).unwrap());
    eventually("it is refused", async || metric(&registry, "reload_failures") == 1.0).await;
    get(&client(addr, tls)).await.unwrap();
}

#[tokio::test]
async fn a_chain_is_followed_to_its_root() {
    let served = Served::new(Some(DAY));
    let between: CertifiedIssuer<'static, _> = served.old.authority("between");
    let mut me = served.new.issue("me", &["me"]);
    let (cert, key) = super::pki::signed(&["me"], &between);
    (me.cert, me.key) = (served.old.path("deep.pem"), served.old.path("deep.key"));
    fs::write(&me.cert, cert + &between.pem()).unwrap();
    fs::write(&me.key, key).unwrap();
    let tls = ClientSettings { identity: Some(me), handshake: by(&served.clock), ..served.old.trusting() };
    let svc = client(served.addr, Connector::load(tls, &Metrics::default()).unwrap().named("web"));
    get(&svc).await.unwrap();
    served.trust(&[&served.new]);
    eventually("it is refused", async || served.metric("reload_failures") == 1.0).await;
    assert_eq!(served.metric("root:connections"), 1.0);
}
