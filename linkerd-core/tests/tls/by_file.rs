//! Certificates and authorities of a configuration file, and what becomes of them while it is served.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, header::HOST};
use linkerd_core::{
    Body, Svc,
    config::Config,
    dtab::Endpoint,
    http::{ClientConfig, Connect, HttpConnect},
    proxy::Proxy,
    tls::{ClientSettings, Connector, IdentityFiles, Metrics},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use super::pki::{Pki, client, der, get, ok, replace, serve, settings, shake};

/// A proxy of a file, in which `{dir}` is the folder of the certificates.
struct Served {
    admin: SocketAddr,
    addr: SocketAddr,
}

impl Served {
    fn new(pki: &Pki, router: &str) -> Self {
        let text = format!("admin: {{port: 0}}\nrouters:\n- protocol: http\n{router}");
        let text = text.replace("{dir}", pki.dir.path().to_str().unwrap());
        let config = Config::parse("linkerd.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
        let proxy = Proxy::builder(&config).build().unwrap_or_else(|errors| panic!("{errors}")).bind().unwrap();
        let (admin, addr) = (proxy.admin_addr(), proxy.servers().next().unwrap().1);
        tokio::spawn(proxy.serve());
        Self { admin, addr }
    }

    /// How often it read its files anew, and used them.
    async fn reloads(&self) -> u64 {
        metrics(self.admin).await["tls/reloads"].as_u64().unwrap_or_default()
    }
}

/// All metrics of a proxy.
pub(crate) async fn metrics(admin: SocketAddr) -> Value {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(b"GET /admin/metrics.json HTTP/1.0\r\n\r\n").await.unwrap();
    let mut rsp = String::new();
    stream.read_to_string(&mut rsp).await.unwrap();
    serde_json::from_str(rsp.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Waits for something that a task brings about which looks every second.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..1200 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}");
}

/// Requests one after the other, on a connection that is kept and on new ones, none of which may fail, until it is told that
/// it is over. Its output is how many there were.
fn load(connect: impl Fn() -> Svc + Send + 'static, is_over: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let is_over = Arc::clone(is_over);
    tokio::spawn(async move {
        let (served, kept) = (AtomicUsize::new(0), connect());
        while !is_over.load(Ordering::Relaxed) {
            for svc in [&kept, &connect()] {
                let req = Request::get("/").header(HOST, "web").body(Body::empty()).unwrap();
                let rsp = svc.send(req).await.unwrap();
                assert_eq!(rsp.status(), 200);
                served.fetch_add(1, Ordering::Relaxed);
                http_body_util::BodyExt::collect(rsp.into_body()).await.unwrap();
            }
        }
        served.into_inner()
    })
}

#[tokio::test]
async fn each_name_has_the_certificate_that_the_file_has_for_it() {
    let pki = Pki::new();
    let names = [("first", "first.example"), ("second", "second.example"), ("wild", "*.wild.example")];
    let leaves = names.map(|(file, name)| der(&pki.issue(file, &[name]).cert));
    let proxy = Served::new(
        &pki,
        "  servers:
  - port: 0
    tls:
      certPath: {dir}/first.pem
      keyPath: {dir}/first.key
      certificates:
      - {certPath: {dir}/second.pem, keyPath: {dir}/second.key}
      - {certPath: {dir}/wild.pem, keyPath: {dir}/wild.key}
",
    );
    for (name, expected) in [("first.example", 0), ("second.example", 1), ("any.wild.example", 2)] {
        let shaken = shake(proxy.addr, name, &pki.raw(&[])).await.unwrap();
        assert_eq!(shaken.leaf(), leaves[expected], "{name}");
    }
    // The first is for all others, who find that it is not theirs.
    let error = shake(proxy.addr, "other.example", &pki.raw(&[])).await.err().expect("another name").to_string();
    assert!(error.contains("other.example") && error.contains("first.example"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_rotations_fail_no_request_and_the_last_serial_is_shown() {
    let pki = Pki::new();
    let files = pki.issue_as("web", &["web"], 1);
    let end = serve(settings(pki.issue("end", &["end"])), ok);
    let proxy = Served::new(
        &pki,
        &format!(
            "  dtab: /svc => /$/inet/127.0.0.1/{}
  client: {{tls: {{commonName: end, trustCertsBundle: {{dir}}/ca.pem}}}}
  servers: [{{port: 0, tls: {{certPath: {{dir}}/web.pem, keyPath: {{dir}}/web.key}}}}]
",
            end.port()
        ),
    );
    let tls = Connector::load(pki.trusting(), &Metrics::default()).unwrap().named("web");
    let is_over = Arc::new(AtomicBool::new(false));
    let addr = proxy.addr;
    let loaded = load(move || client(addr, tls.clone()), &is_over);
    // The files are looked at every second: some are read, some in the middle of their change, and some never.
    for serial in 2..=51 {
        let (cert, key) = pki.issued(&["web"], serial);
        if serial % 2 == 0 {
            fs::write(&files.key, &key[..key.len() / 2]).unwrap();
            fs::write(&files.cert, cert).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            fs::write(&files.key, key).unwrap();
        } else {
            replace(&files.key, &key);
            replace(&files.cert, &cert);
        }
        tokio::time::sleep(Duration::from_millis(130)).await;
    }
    let (last, raw) = (der(&files.cert), pki.raw(&[]));
    eventually("the last certificate is shown", async || shake(addr, "web", &raw).await.unwrap().leaf() == last).await;
    assert!(proxy.reloads().await >= 2);
    is_over.store(true, Ordering::Relaxed);
    assert!(loaded.await.unwrap() >= 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_makes_way_for_another_without_a_failed_request() {
    let (old, new) = (Pki::new(), Pki::new());
    let roots = [old.ca(), new.ca()].map(|file| fs::read_to_string(file).unwrap());
    let bundles = [old.path("clients.pem"), old.path("servers.pem")];
    let [clients, servers] = &bundles;
    for file in &bundles {
        fs::write(file, &roots[0]).unwrap();
    }
    let (server, me) = (old.issue("web", &["web"]), old.issue("me", &["me"]));
    let before = old.issue("before", &["before"]);
    let after = new.issue("after", &["after"]);
    let end = super::routers::backend();
    let inner = Served::new(
        &old,
        &format!(
            "  dtab: /svc => /$/inet/127.0.0.1/{}
  servers:
  - port: 0
    tls: {{certPath: {{dir}}/web.pem, keyPath: {{dir}}/web.key, caCertPath: {{dir}}/clients.pem, requireClientAuth: true}}
",
            end.port()
        ),
    );
    // It makes a connection for each request: each is a handshake.
    let outer = Served::new(
        &old,
        &format!(
            "  dtab: /svc => /$/inet/127.0.0.1/{}
  client:
    clientSession: {{lifeTimeMs: 1}}
    tls:
      commonName: web
      trustCertsBundle: {{dir}}/servers.pem
      clientAuth: {{certPath: {{dir}}/me.pem, keyPath: {{dir}}/me.key}}
  servers: [{{port: 0}}]
",
            inner.addr.port()
        ),
    );
    let is_over = Arc::new(AtomicBool::new(false));
    let addr = outer.addr;
    let loaded = load(move || HttpConnect::new(ClientConfig::default()).connect(&Endpoint::new(addr)), &is_over);
    let with = |identity: &IdentityFiles, pki: &Pki| {
        let settings = ClientSettings { identity: Some(identity.clone()), ..pki.trusting() };
        client(inner.addr, Connector::load(settings, &Metrics::default()).unwrap().named("web"))
    };
    assert!(get(&with(&after, &old)).await.is_err());

    // First both are trusted everywhere, ...
    let read = outer.reloads().await;
    for file in &bundles {
        replace(file, &roots.concat());
    }
    eventually("clients of the new authority are let in", async || get(&with(&after, &old)).await.is_ok()).await;
    eventually("servers of both are trusted", async || outer.reloads().await > read).await;
    // ... then each shows what the new one issued, ...
    for (files, name) in [(&server, "web"), (&me, "me")] {
        let read = [inner.reloads().await, outer.reloads().await];
        let (cert, key) = new.issued(&[name], 2);
        replace(&files.key, &key);
        replace(&files.cert, &cert);
        let is_server = name == "web";
        eventually("the new certificate is used", async || {
            if is_server { inner.reloads().await > read[0] } else { outer.reloads().await > read[1] }
        })
        .await;
    }
    get(&with(&before, &new)).await.unwrap();
    // ... and then the old one is trusted no longer.
    let read = outer.reloads().await;
    for file in [clients, servers] {
        replace(file, &roots[1]);
    }
    eventually("clients of the old one are kept out", async || get(&with(&before, &new)).await.is_err()).await;
    eventually("servers of the old one are not trusted", async || outer.reloads().await > read).await;
    get(&with(&after, &new)).await.unwrap();
    is_over.store(true, Ordering::Relaxed);
    assert!(loaded.await.unwrap() >= 10);
}
