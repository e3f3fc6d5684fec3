//! Files that change while they are used.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use linkerd_core::{
    telemetry::{Prometheus, Registry},
    tls::{Acceptor, ClientSettings, Connector, IdentityFiles, Metrics, PeerIdentity, ServerSettings},
};

use super::pki::{FAST, Pki, client, data, der, eventually, get, metric, ok, replace, serve_with, settings, shake};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_rotations_under_load_fail_no_request_and_new_handshakes_show_the_new_serial() {
    let pki = Arc::new(Pki::new());
    let files = pki.issue_as("web", &["web"], 1);
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    let server = ServerSettings { require_client_auth: true, client_roots: Some(pki.ca()), ..settings(files.clone()) };
    let addr = serve_with(Acceptor::load(server, &metrics).unwrap(), |req| {
        let peer = req.extensions().get::<PeerIdentity>().unwrap();
        http::Response::new(linkerd_core::Body::from(peer.serial()))
    });
    let me = pki.issue_as("me", &["me"], 1);
    let tls = ClientSettings { identity: Some(me.clone()), ..pki.trusting() };
    let tls = Connector::load(tls, &metrics).unwrap().named("web");

    let is_over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..4)
        .map(|i| {
            let (tls, is_over, served) = (tls.clone(), Arc::clone(&is_over), Arc::clone(&served));
            tokio::spawn(async move {
                let mut svc = client(addr, tls.clone());
                while !is_over.load(Ordering::Relaxed) {
                    get(&svc).await.unwrap();
                    let n = served.fetch_add(1, Ordering::Relaxed);
                    // One of them connects anew for each request.
                    if i == 0 || n.is_multiple_of(50) {
                        svc = client(addr, tls.clone());
                    }
                }
            })
        })
        .collect();

    for serial in 2..=51 {
        let (cert, key) = pki.issued(&["web"], serial);
        let (mine, my_key) = pki.issued(&["me"], serial);
        if serial % 2 == 0 {
            // Not one after the other, and not whole: written in place.
            fs::write(&files.key, &key[..key.len() / 2]).unwrap();
            tokio::time::sleep(FAST).await;
            fs::write(&files.cert, cert).unwrap();
            fs::write(&files.key, key).unwrap();
        } else {
            replace(&files.key, &key);
            replace(&files.cert, &cert);
        }
        replace(&me.cert, &mine);
        replace(&me.key, &my_key);
        let expected = format!("{serial:02x}");
        // Both sides: what the server is shown, and what it shows.
        eventually("the client shows its new certificate", async || {
            get(&client(addr, tls.clone())).await.unwrap() == expected
        })
        .await;
        let raw = pki.raw(&[]);
        let leaf = der(&files.cert);
        eventually("the server shows its new certificate", async || {
            // It wants a certificate of its own, and says so only after its own was seen.
            shake(addr, "web", &raw).await.is_ok_and(|shaken| shaken.leaf() == leaf)
        })
        .await;
    }
    is_over.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert!(served.load(Ordering::Relaxed) >= 100, "{served:?}");
    assert!(metric(&registry, "reloads") >= 100.0);
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing_and_is_told() {
    let pki = Pki::new();
    let files = pki.issue_as("web", &["web"], 1);
    let old = der(&files.cert);
    let registry = Registry::new();
    let addr = serve_with(Acceptor::load(settings(files.clone()), &Metrics::new(&registry)).unwrap(), ok);
    let raw = pki.raw(&[]);
    let (cert, key) = pki.issued(&["web"], 2);
    let (other, _) = pki.issued(&["web"], 3);
    assert_eq!((metric(&registry, "cert:stale"), metric(&registry, "reload_failures")), (0.0, 0.0));

    let mut failures = 0.0;
    for bad in [&cert[..cert.len() / 2], "", other.as_str()] {
        replace(&files.cert, bad);
        failures += 1.0;
        eventually("the failure counts", async || metric(&registry, "reload_failures") == failures).await;
        assert_eq!(metric(&registry, "cert:stale"), 1.0);
        assert_eq!(shake(addr, "web", &raw).await.unwrap().leaf(), old);
    }
    fs::remove_file(&files.cert).unwrap();
    fs::remove_file(&files.key).unwrap();
    eventually("the failure counts", async || metric(&registry, "reload_failures") == failures + 1.0).await;
    assert_eq!(shake(addr, "web", &raw).await.unwrap().leaf(), old);

    replace(&files.key, &key);
    replace(&files.cert, &cert);
    eventually("the new one is shown", async || shake(addr, "web", &raw).await.unwrap().leaf() == der(&files.cert))
        .await;
    assert_eq!((metric(&registry, "cert:stale"), metric(&registry, "reloads")), (0.0, 1.0));
}

#[tokio::test]
async fn a_key_of_a_kind_that_no_cipher_is_for_changes_nothing() {
    let pki = Pki::new();
    // In one file, so that there is one change.
    let file = pki.path("web.pem");
    let rsa = ["pkcs1.pem", "pkcs1.key"].map(|name| fs::read_to_string(data(name)).unwrap());
    fs::write(&file, rsa.concat()).unwrap();
    let registry = Registry::new();
    let mut server = settings(IdentityFiles::new(&file, &file));
    server.handshake.ciphers = Some(vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()]);
    let addr = serve_with(Acceptor::load(server, &Metrics::new(&registry)).unwrap(), ok);
    let any = ClientSettings { disable_validation: true, ..pki.trusting() };
    let any = Connector::load(any, &Metrics::default()).unwrap();
    get(&client(addr, any.clone())).await.unwrap();

    let (cert, key) = pki.issued(&["web"], 2);
    replace(&file, &[cert, key].concat());
    eventually("the failure counts", async || metric(&registry, "reload_failures") == 1.0).await;
    assert_eq!((metric(&registry, "cert:stale"), metric(&registry, "reloads")), (1.0, 0.0));
    get(&client(addr, any)).await.unwrap();
}

#[tokio::test]
async fn roots_are_followed_on_both_sides() {
    let (old, new) = (Pki::new(), Pki::new());
    let both = [old.ca(), new.ca()].map(|file| fs::read_to_string(file).unwrap());
    let roots = old.path("roots.pem");
    fs::write(&roots, &both[0]).unwrap();
    let server = ServerSettings {
        require_client_auth: true,
        client_roots: Some(roots.clone()),
        ..settings(old.issue("web", &["web"]))
    };
    let addr = serve_with(Acceptor::load(server, &Metrics::default()).unwrap(), ok);
    let with = |identity: IdentityFiles, roots| {
        let settings = ClientSettings { identity: Some(identity), roots: vec![roots], ..old.trusting() };
        Connector::load(settings, &Metrics::default()).unwrap().named("web")
    };
    let theirs = old.path("theirs.pem");
    fs::write(&theirs, &both[0]).unwrap();
    let (mine, newcomer) = (with(old.issue("me", &["me"]), theirs.clone()), with(new.issue("me", &["me"]), old.ca()));
    get(&client(addr, mine.clone())).await.unwrap();
    get(&client(addr, newcomer.clone())).await.unwrap_err();

    // Both are trusted for a while: nobody is cut off.
    replace(&roots, &both.concat());
    eventually("the newcomer is let in", async || get(&client(addr, newcomer.clone())).await.is_ok()).await;
    get(&client(addr, mine.clone())).await.unwrap();
    replace(&roots, &both[1]);
    eventually("the old one is kept out", async || get(&client(addr, mine.clone())).await.is_err()).await;
    get(&client(addr, newcomer.clone())).await.unwrap();

    // And whom the client trusts.
    let open = serve_with(Acceptor::load(settings(new.issue("open", &["web"])), &Metrics::default()).unwrap(), ok);
    get(&client(open, mine.clone())).await.unwrap_err();
    replace(&theirs, &both[1]);
    eventually("the new authority is trusted", async || get(&client(open, mine.clone())).await.is_ok()).await;
}

#[tokio::test]
async fn it_is_shown_for_how_long_each_file_is_good() {
    let pki = Pki::new();
    let registry = Registry::new();
    let files = IdentityFiles { intermediates: Some(pki.ca()), ..pki.issue("web", &["web"]) };
    let acceptor = Acceptor::load(settings(files.clone()), &Metrics::new(&registry)).unwrap();
    let text = Prometheus::new().render(&registry);
    for file in [&files.cert, &pki.ca()] {
        let label = format!("tls:cert:expires_in_secs{{cert=\"{}\"}} ", file.display());
        let line = text.lines().find(|line| line.starts_with(&label)).unwrap_or_else(|| panic!("{text}"));
        // rcgen's are good until the year 4096.
        let secs: f64 = line[label.len()..].parse().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((secs + now - 67_090_377_600.0).abs() < 400.0 * 86_400.0, "{line}");
    }
    assert!(!text.contains("web.key"), "a key does not expire");
    drop(acceptor);
    eventually("what is gone is not shown", async || !Prometheus::new().render(&registry).contains("expires_in")).await;
}
