//! What of TLS goes on when another configuration comes.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use linkerd_core::{
    Body,
    config::{Config, Plan},
    proxy::{Proxy, ReloadError},
    telemetry::{Prometheus, Registry},
    tls::{Acceptor, ClientSettings, Connector, IdentityFiles, Metrics},
};

use super::{
    by_file::{eventually, metrics},
    pki::{Clock, Pki, client, der, get, ok, replace, serve, serve_with, settings, shake},
};

/// A folder of certificates, and the plan of the last file that was built.
struct Planned {
    pki: Pki,
    registry: Registry,
    plan: Option<Plan>,
}

impl Planned {
    fn new() -> Self {
        Self { pki: Pki::new(), registry: Registry::new(), plan: None }
    }

    /// `NAME.pem` and `NAME.key`, good from the first of these years to the last.
    fn issue(&self, name: &str, years: std::ops::Range<i32>) -> IdentityFiles {
        let files = IdentityFiles::new(self.pki.path(&format!("{name}.pem")), self.pki.path(&format!("{name}.key")));
        self.pki.issue_for(&files, &["web"], years);
        files
    }

    fn config(&self, router: &str) -> Config {
        let text = format!("routers:\n- protocol: http\n{}", router.replace("{dir}", &self.dir()));
        Config::parse("f", &text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn dir(&self) -> String {
        self.pki.dir.path().to_str().unwrap().to_owned()
    }

    /// Builds a file, in the place of the one before, and says what is wrong with it.
    fn build(&mut self, router: &str) -> Result<(), String> {
        let config = self.config(router);
        let built = match &self.plan {
            Some(before) => config.rebuild(before, &self.registry),
            None => config.build(&self.registry),
        };
        self.plan = Some(built.map_err(|errors| errors.to_string())?);
        Ok(())
    }

    /// The same with servers of these ports and `tls` keys.
    fn servers(&mut self, servers: &[(u16, &str)]) -> Result<(), String> {
        let each = servers.iter().map(|(port, tls)| format!("  - {{port: {port}, tls: {{{}}}}}\n", named(tls)));
        self.build(&format!("  servers:\n{}", each.collect::<String>()))
    }

    fn plan(&self) -> &Plan {
        self.plan.as_ref().unwrap()
    }

    fn acceptor(&self, number: usize) -> Acceptor {
        self.plan().routers[0].servers[number].tls.clone().unwrap()
    }

    /// Whether a server shows this certificate, to who thinks that it is 2023: then all are good.
    async fn shows(&self, number: usize, file: &Path) -> bool {
        let addr = serve_with(self.acceptor(number), ok);
        let config = self.pki.raw_at(&[], Clock::at(2023));
        shake(addr, "web", &config).await.unwrap().leaf() == der(file)
    }

    /// A metric of TLS; of all files together, if each has one.
    fn metric(&self, name: &str) -> f64 {
        let text = Prometheus::new().render(&self.registry);
        let lines = text.lines().filter(|line| line.starts_with(&format!("tls:{name}")));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }
}

/// `a, x: y` is `certPath: {dir}/a.pem, keyPath: {dir}/a.key, x: y`.
fn named(tls: &str) -> String {
    let (name, more) = tls.split_once(',').unwrap_or((tls, ""));
    format!("certPath: '{{dir}}/{name}.pem', keyPath: '{{dir}}/{name}.key',{more}")
}

#[tokio::test]
async fn a_good_certificate_stays_when_keys_change_and_the_file_has_one_that_expired() {
    let mut planned = Planned::new();
    let web = planned.issue("web", 2020..2090);
    planned.servers(&[(1, "web")]).unwrap();
    let good = planned.pki.path("good.pem");
    fs::copy(&web.cert, &good).unwrap();
    planned.issue("web", 2020..2024);
    // However often; and elsewhere too.
    for (port, tls) in [(1, "web, handshakeTimeoutMs: 7"), (1, "web, protocols: [TLSv1.3]"), (2, "web")] {
        planned.servers(&[(port, tls)]).unwrap();
        assert!(planned.shows(0, &good).await, "{tls}");
        assert_eq!((planned.metric("cert:stale"), planned.metric("cert:invalid")), (1.0, 0.0), "{tls}");
    }
    assert!(planned.metric("reload_failures") >= 2.0);
    // Half of a key is no reason to lose what there is either.
    let key = fs::read_to_string(&web.key).unwrap();
    fs::write(&web.key, &key[..key.len() / 2]).unwrap();
    planned.servers(&[(2, "web, handshakeTimeoutMs: 8")]).unwrap();
    assert!(planned.shows(0, &good).await);
    // Nor is one that is not there while it is being changed.
    let away = planned.pki.path("away.pem");
    fs::rename(&web.cert, &away).unwrap();
    for tls in ["web, handshakeTimeoutMs: 8", "web, handshakeTimeoutMs: 9"] {
        planned.servers(&[(2, tls)]).unwrap();
        assert!(planned.shows(0, &good).await, "{tls}");
    }
    fs::rename(&away, &web.cert).unwrap();
    // What comes at last is used, by what the last file says.
    fs::write(&web.key, &key).unwrap();
    planned.issue("web", 2021..2091);
    eventually("the good one is used", async || planned.shows(0, &web.cert).await).await;
    assert_eq!(planned.metric("cert:stale"), 0.0);
}

#[tokio::test]
async fn a_file_of_another_name_is_taken_unless_it_is_worse() {
    let mut planned = Planned::new();
    for (name, years) in [("good", 2020..2090), ("other", 2020..2090), ("old", 2020..2024), ("older", 2019..2024)] {
        planned.issue(name, years);
    }
    planned.servers(&[(1, "good")]).unwrap();
    let refused = planned.servers(&[(1, "old")]).unwrap_err();
    assert!(refused.contains("routers[0].servers[0].tls: "), "{refused}");
    assert!(refused.contains("old.pem: a certificate in it expired at Mon, 01 Jan 2024"), "{refused}");
    assert_eq!(planned.metric("reload_failures"), 1.0);
    // Another one beside it would be shown to who was shown the good one.
    let more = "good, certificates: [{certPath: '{dir}/old.pem', keyPath: '{dir}/old.key'}]";
    planned.servers(&[(1, more)]).unwrap_err();
    assert!(planned.shows(0, &planned.pki.path("good.pem")).await);
    planned.servers(&[(1, "other")]).unwrap();
    assert!(planned.shows(0, &planned.pki.path("other.pem")).await);
    assert_eq!(planned.metric("cert:stale"), 0.0);

    // Where nothing is served yet it is taken, and told; there anything is as good, but in the place of a good one it is not.
    planned.servers(&[(1, "other"), (2, "old")]).unwrap();
    assert_eq!(planned.metric("cert:invalid"), 1.0);
    planned.servers(&[(1, "other"), (2, "older")]).unwrap();
    assert!(planned.shows(1, &planned.pki.path("older.pem")).await);
    planned.servers(&[(1, "older"), (2, "other")]).unwrap_err();
    planned.servers(&[(1, "other"), (2, "other")]).unwrap();
}

#[tokio::test]
async fn ciphers_that_are_not_for_the_key_that_is_used_are_refused() {
    let mut planned = Planned::new();
    let web = planned.issue("web", 2020..2090);
    planned.servers(&[(1, "web")]).unwrap();
    for tls in [
        "web, ciphers: [ECDHE-RSA-AES128-GCM-SHA256]",
        "web, protocols: [TLSv1.2], ciphers: [ECDHE-RSA-AES128-GCM-SHA256]",
    ] {
        let refused = planned.servers(&[(1, tls)]).unwrap_err();
        assert!(refused.contains("routers[0].servers[0].tls: "), "{refused}");
        assert!(refused.contains("web.key: is a key of the kind ECDSA, for which none of the ciphers "), "{refused}");
    }
    assert!(planned.shows(0, &web.cert).await);
    planned.servers(&[(1, "web, ciphers: [ECDHE-ECDSA-AES128-GCM-SHA256]")]).unwrap();
    assert!(planned.shows(0, &web.cert).await);
}

#[tokio::test]
async fn the_clients_of_a_router_that_begins_anew_trust_what_they_trusted() {
    let mut planned = Planned::new();
    let other = Pki::new();
    let addr = serve(settings(planned.pki.issue("web", &["web"])), ok);
    let bundle = planned.pki.path("bundle.pem");
    fs::copy(planned.pki.ca(), &bundle).unwrap();
    fs::copy(other.ca(), planned.pki.path("other.pem")).unwrap();
    let router = |dtab: &str, tls: &str| {
        format!("  dtab: {dtab}\n  client: {{tls: {{commonName: web, {tls}}}}}\n  servers: [{{port: 1}}]\n")
    };
    let keep = "trustCertsBundle: '{dir}/bundle.pem', keepUsedRootsHours: 1";
    let to = format!("/$/inet/{}/{}", addr.ip(), addr.port());
    let ask = async |planned: &Planned| {
        let client = planned.plan().routers[0].mesh.client(&to).unwrap();
        client.send(http::Request::new(Body::empty())).await.map(|rsp| rsp.status())
    };
    planned.build(&router("/a => /b", keep)).unwrap();
    ask(&planned).await.unwrap();
    replace(&bundle, &fs::read_to_string(other.ca()).unwrap());
    // It begins anew with the same `tls`, and with other ones.
    let timeout = format!("{keep}, handshakeTimeoutMs: 7000");
    for (dtab, tls) in [("/a => /c", keep), ("/a => /c", &timeout), ("/a => /d", &timeout)] {
        planned.build(&router(dtab, tls)).unwrap();
        assert!(!planned.plan().routers[0].is_kept);
        assert_eq!(ask(&planned).await.unwrap(), 200, "{tls}");
    }
    assert_eq!((planned.metric("used_roots_dropped"), planned.metric("cert:stale")), (0.0, 1.0));
    assert!(planned.metric("reload_failures") >= 1.0);

    // Another file is held to the same, ...
    let elsewhere = "trustCertsBundle: '{dir}/other.pem'";
    let refused = planned.build(&router("/a => /d", &format!("{elsewhere}, keepUsedRootsHours: 1"))).unwrap_err();
    let name = planned.pki.name();
    assert!(refused.contains(&format!("routers[0].client.tls: CN={name} is left out, and peers need it")), "{refused}");
    assert_eq!(planned.metric("used_roots_dropped"), 0.0);
    // ... and without the key it is taken, and told.
    planned.build(&router("/a => /d", elsewhere)).unwrap();
    assert_eq!(planned.metric("used_roots_dropped"), 1.0);
    ask(&planned).await.unwrap_err();
}

#[tokio::test]
async fn who_is_not_asked_for_a_certificate_misses_no_root() {
    let mut planned = Planned::new();
    let web = planned.issue("web", 2020..2090);
    let asks = "web, caCertPath: '{dir}/ca.pem', requireClientAuth: true, keepUsedRootsHours: 1";
    planned.servers(&[(1, asks)]).unwrap();
    let addr = serve_with(planned.acceptor(0), ok);
    let tls = ClientSettings { identity: Some(web), ..planned.pki.trusting() };
    let tls = Connector::load(tls, &Metrics::default()).unwrap().named("web");
    get(&client(addr, tls)).await.unwrap();
    planned.servers(&[(1, "web, keepUsedRootsHours: 1")]).unwrap();
    assert_eq!(planned.metric("used_roots_dropped"), 0.0);
}

#[tokio::test]
async fn a_reload_that_comes_to_nothing_leaves_alarms_to_what_is_served() {
    let pki = Pki::new();
    let files = IdentityFiles::new(pki.path("web.pem"), pki.path("web.key"));
    pki.issue_for(&files, &["web"], 2020..2090);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = named("web").replace("{dir}", pki.dir.path().to_str().unwrap());
    let first = format!("admin: {{port: 0}}\nrouters:\n- protocol: http\n  servers:\n  - {{port: 0, tls: {{{server}");
    let text = Arc::new(Mutex::new(format!("{first}}}}}\n")));
    let read = {
        let text = Arc::clone(&text);
        move || Config::parse("f", &text.lock().unwrap())
    };
    let config = read().unwrap();
    let proxy = Proxy::builder(&config).source(read).build().unwrap().bind().unwrap();
    let (admin, reloader) = (proxy.admin_addr(), proxy.reloader());
    tokio::spawn(proxy.serve());
    let port = taken.local_addr().unwrap().port();
    *text.lock().unwrap() = format!("{first} handshakeTimeoutMs: 7}}}}\n  - {{port: {port}}}\n");
    assert!(matches!(reloader.reload().await, Err(ReloadError::Bind(_))));
    pki.issue_for(&files, &["web"], 2020..2024);
    let stale = format!("tls/cert/{}/stale", files.cert.display());
    eventually("it is told", async || metrics(admin).await[&stale] == 1.0).await;
}
