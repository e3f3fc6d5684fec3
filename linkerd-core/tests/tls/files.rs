//! What can be wrong with files, and what is said of it.

use std::fs;

use linkerd_core::tls::{
    Acceptor, ClientSettings, Connector, HandshakeSettings, IdentityFiles, Metrics, ServerSettings,
};

use super::pki::{Pki, data};

fn server(identity: IdentityFiles) -> Result<(), String> {
    load(ServerSettings::new(identity))
}

fn load(settings: ServerSettings) -> Result<(), String> {
    Acceptor::load(settings, &Metrics::default()).map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn keys_of_each_kind_are_taken_whatever_the_file_is_called() {
    let pki = Pki::new();
    for name in ["pkcs1", "sec1"] {
        let key = pki.path(&format!("{name}.pk8"));
        fs::copy(data(&format!("{name}.key")), &key).unwrap();
        server(IdentityFiles::new(data(&format!("{name}.pem")), key)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let pkcs8 = pki.issue("pkcs8", &["web"]);
    server(pkcs8.clone()).unwrap();
    // Both in one file, lines of other systems, and words around them.
    let both = pki.path("both");
    let text = [&pkcs8.key, &pkcs8.cert].map(|file| fs::read_to_string(file).unwrap()).join("some words\n\n");
    fs::write(&both, text.replace('\n', "\r\n")).unwrap();
    server(IdentityFiles::new(&both, &both)).unwrap();
}

#[tokio::test]
async fn a_bad_file_is_named_with_what_is_wrong() {
    let pki = Pki::new();
    let good = pki.issue("good", &["web"]);
    let other = pki.issue("other", &["web"]);
    let write = |name: &str, text: &str| {
        fs::write(pki.path(name), text).unwrap();
        pki.path(name)
    };
    let cert = fs::read_to_string(&good.cert).unwrap();
    let key = fs::read_to_string(&good.key).unwrap();
    let with_cert = |cert| IdentityFiles { cert, ..good.clone() };
    let with_key = |key| IdentityFiles { key, ..good.clone() };
    let cases = [
        (with_cert(pki.path("gone.pem")), "gone.pem: cannot be read: No such file"),
        (with_cert(write("empty.pem", "")), "empty.pem: holds no certificate"),
        (with_cert(write("half.pem", &cert[..cert.len() / 2])), "half.pem: is no PEM file: there is no"),
        (with_cert(write("bad.pem", &cert.replace('M', "*"))), "bad.pem: is no PEM file: what is in a section"),
        (
            with_cert(write("der.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
            "der.pem: certificate 1 is no X.509 certificate",
        ),
        (with_key(write("empty.key", "")), "empty.key: holds no private key"),
        (with_key(write("half.key", &key[..key.len() / 2])), "half.key: is no PEM file: there is no"),
        (with_key(good.cert.clone()), "good.pem: holds no private key"),
        (with_key(data("encrypted.key")), "encrypted.key: the private key is encrypted; decrypt it"),
        (with_key(other.key), "other.key: is not the key of the certificate in"),
        (
            IdentityFiles { intermediates: Some(write("chain.pem", "")), ..good.clone() },
            "chain.pem: holds no certificate",
        ),
    ];
    for (identity, expected) in cases {
        let error = server(identity).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!error.contains(&key[60..90]), "{error}");
    }
    let clients = ServerSettings {
        require_client_auth: true,
        client_roots: Some(write("roots.pem", "")),
        ..ServerSettings::new(good)
    };
    assert!(load(clients).unwrap_err().contains("roots.pem: holds no certificate"));
    let roots = ClientSettings { roots: vec![pki.path("gone")], ..ClientSettings::default() };
    let error = Connector::load(roots, &Metrics::default()).unwrap_err().to_string();
    assert!(error.contains("gone: cannot be read"), "{error}");
}

#[tokio::test]
async fn old_certificates_are_refused_with_how_to_renew_them() {
    for (cert, expected) in [
        ("version1.pem", "certificate 1 is X.509 version 1"),
        ("no-names.pem", "the certificate of CN=old.test, O=Example has no subjectAltName"),
    ] {
        let error = server(IdentityFiles::new(data(cert), data("sec1.key"))).unwrap_err();
        assert!(error.contains(expected) && error.contains("openssl req -x509"), "{error}");
    }
    // Clients are told apart by whatever is in theirs: only the version counts.
    let client = |cert| {
        let identity = Some(IdentityFiles::new(data(cert), data("sec1.key")));
        let settings = ClientSettings { identity, disable_validation: true, ..ClientSettings::default() };
        Connector::load(settings, &Metrics::default()).map(drop)
    };
    client("no-names.pem").unwrap();
    assert!(client("version1.pem").is_err());
}

#[tokio::test]
async fn lists_that_leave_nothing_are_refused() {
    let pki = Pki::new();
    let settings = ServerSettings::new(pki.issue("web", &["web"]));
    let old = Some(vec!["TLSv1.1".to_owned()]);
    let handshake = HandshakeSettings { protocols: old, ..HandshakeSettings::default() };
    let error = load(ServerSettings { handshake: handshake.clone(), ..settings.clone() }).unwrap_err();
    assert!(error.contains("there are TLSv1.2 and TLSv1.3"), "{error}");
    let ciphers = Some(vec!["TLS_RSA_WITH_AES_128_CBC_SHA".to_owned()]);
    let named = HandshakeSettings { ciphers, ..HandshakeSettings::default() };
    let error = load(ServerSettings { handshake: named, ..settings }).unwrap_err();
    assert!(error.contains("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), "{error}");
    let error = Connector::load(ClientSettings { handshake, ..pki.trusting() }, &Metrics::default());
    assert!(error.is_err());
}

#[tokio::test]
async fn a_key_that_no_cipher_is_for_is_refused() {
    let pki = Pki::new();
    let rsa = IdentityFiles::new(data("pkcs1.pem"), data("pkcs1.key"));
    let ec = pki.issue("web", &["web"]);
    let with = |identities: &[&IdentityFiles], protocols: Option<&[&str]>, ciphers: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (protocols, ciphers) = (protocols.map(list), Some(list(ciphers)));
        let mut settings = ServerSettings::new(ec.clone());
        settings.identities = identities.iter().map(|&files| files.clone()).collect();
        load(ServerSettings {
            handshake: HandshakeSettings { protocols, ciphers, ..HandshakeSettings::default() },
            ..settings
        })
    };
    let for_rsa = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
    let for_ec = "ECDHE-ECDSA-AES128-GCM-SHA256";
    let for_any = "TLS_AES_128_GCM_SHA256";
    for (files, good, bad) in [(&rsa, for_rsa, for_ec), (&ec, for_ec, for_rsa)] {
        with(&[files], None, &[good]).unwrap();
        with(&[files], None, &[bad, for_any]).unwrap();
        with(&[files], None, &[bad]).unwrap_err();
        // What is for any key is so in TLS 1.3 alone.
        with(&[files], Some(&["TLSv1.2"]), &[bad, for_any]).unwrap_err();
    }
    let error = with(&[&ec], Some(&["TLSv1.2"]), &[for_rsa]).unwrap_err();
    let expected =
        format!("web.key: is a key of the kind ECDSA, for which none of the ciphers {for_rsa} is; there are ");
    assert!(error.contains(&expected) && error.contains("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"), "{error}");
    assert!(!error.contains(for_any), "{error}");
    // Each by itself, whatever the others can do.
    let error = with(&[&rsa, &ec], None, &[for_rsa]).unwrap_err();
    assert!(error.contains("web.key: is a key of the kind ECDSA"), "{error}");
    with(&[&rsa, &ec], None, &[for_rsa, for_ec]).unwrap();
}

#[tokio::test]
async fn a_clients_own_key_is_free_of_the_ciphers() {
    let pki = Pki::new();
    let ciphers = Some(vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()]);
    let handshake = HandshakeSettings { ciphers, ..HandshakeSettings::default() };
    let identity = Some(pki.issue("me", &["me"]));
    Connector::load(ClientSettings { identity, handshake, ..pki.trusting() }, &Metrics::default()).unwrap();
}
