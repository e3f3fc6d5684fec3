//! What a file says of TLS.

use std::{fs, net::SocketAddr};

use http::{Request, header::HOST};
use linkerd_core::{
    Body, Svc,
    config::Config,
    dtab::Endpoint,
    http::{ClientConfig, Connect, HttpConnect, Server, ServerConfig},
    proxy::Proxy,
    telemetry::Registry,
    tls::{Connector, Metrics},
};

use super::pki::{Pki, der, shake};

/// Serves a configuration, in which `{dir}` is the folder of the certificates.
pub(crate) async fn proxy(pki: &Pki, text: &str) -> Vec<SocketAddr> {
    let text = format!("admin: {{port: 0}}\n{}", text.replace("{dir}", pki.dir.path().to_str().unwrap()));
    let config = Config::parse("linkerd.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    let proxy = Proxy::builder(&config).build().unwrap_or_else(|errors| panic!("{errors}")).bind().unwrap();
    let addrs = proxy.servers().map(|(_, addr)| addr).collect();
    tokio::spawn(proxy.serve());
    tokio::task::yield_now().await;
    addrs
}

/// What is wrong with it.
fn problems(pki: &Pki, text: &str) -> String {
    let text = text.replace("{dir}", pki.dir.path().to_str().unwrap());
    let config = Config::parse("f", &text).unwrap_or_else(|errors| panic!("{errors}"));
    config.build(&Registry::new()).err().map(|errors| errors.to_string()).unwrap_or_default()
}

/// A backend in the clear that answers with what it was told of the client.
pub(crate) fn backend() -> SocketAddr {
    let server = Server::bind(ServerConfig { addr: ([127, 0, 0, 1], 0).into(), ..ServerConfig::default() }).unwrap();
    let addr = server.local_addr();
    let svc = Svc::new(tower::service_fn(|req: Request<Body>| async move {
        let all: Vec<_> =
            req.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        Ok::<_, linkerd_core::Error>(http::Response::new(Body::from(all.join("\n"))))
    }));
    tokio::spawn(server.serve(svc, std::future::pending()));
    addr
}

/// A backend in the clear that tells what it sees in `x-forwarded-client-cert`, which the server of our own drops.
async fn tells_client_cert() -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0 {}
                let head = String::from_utf8(head).unwrap();
                let seen: Vec<_> =
                    head.lines().filter_map(|line| line.strip_prefix("x-forwarded-client-cert: ")).collect();
                let seen = seen.join("|");
                let rsp =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{seen}", seen.len());
                let _ = stream.write_all(rsp.as_bytes()).await;
            });
        }
    });
    addr
}

async fn get(addr: SocketAddr, host: &str) -> (u16, String) {
    let svc = HttpConnect::new(ClientConfig::default()).connect(&Endpoint::new(addr));
    let req = Request::get("/").header(HOST, host).header("x-forwarded-client-cert", "Hash=forged");
    let rsp = svc.send(req.body(Body::empty()).unwrap()).await.unwrap();
    let status = rsp.status().as_u16();
    let body = http_body_util::BodyExt::collect(rsp.into_body()).await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn one_proxy_wraps_and_the_next_unwraps_and_says_who_it_was() {
    let pki = Pki::new();
    pki.issue("server", &["web.mesh", "users.mesh"]);
    pki.issue("me", &["me.mesh", "spiffe://mesh/me"]);
    let end = tells_client_cert().await;
    let inner = proxy(
        &pki,
        &format!(
            "routers:
- protocol: http
  label: incoming
  httpAccessLog: {{dir}}/incoming.log
  httpAccessLogFormat: '{{peer}} {{status}}'
  dtab: /svc => /$/inet/127.0.0.1/{end}
  client: {{forwardClientCert: true}}
  servers:
  - port: 0
    tls: {{certPath: {{dir}}/server.pem, keyPath: {{dir}}/server.key, caCertPath: {{dir}}/ca.pem, requireClientAuth: true}}
",
            end = end.port()
        ),
    )
    .await[0];
    let outer = proxy(
        &pki,
        &format!(
            "namers: [{{kind: io.l5d.rewrite, prefix: /to, pattern: '/{{service}}', name: /$/inet/127.0.0.1/{inner}}}]
routers:
- protocol: http
  label: outgoing
  dtab: |
    /svc => /#/to;
  servers: [{{port: 0}}]
  client:
    kind: io.l5d.static
    configs:
    - prefix: /$/inet/{{ip}}
      tls: {{commonName: other.mesh, trustCertsBundle: {{dir}}/ca.pem}}
    - prefix: /$/inet/{{ip}}/{inner}
      tls:
        commonName: users.mesh
        trustCertsBundle: {{dir}}/ca.pem
        clientAuth: {{certPath: {{dir}}/me.pem, keyPath: {{dir}}/me.key}}
- protocol: http
  label: forging
  httpAccessLog: {{dir}}/forging.log
  httpAccessLogFormat: '{{peer}} {{status}}'
  dtab: /svc => /$/inet/127.0.0.1/{end}
  servers: [{{port: 0}}]
  client: {{forwardClientCert: true}}
- protocol: http
  label: quiet
  dtab: /svc => /$/inet/127.0.0.1/{end}
  servers: [{{port: 0}}]
",
            inner = inner.port(),
            end = end.port()
        ),
    )
    .await;
    let (status, said) = get(outer[0], "web").await;
    assert_eq!(status, 200, "{said}");
    assert!(said.starts_with("Hash=") && !said.contains("forged") && !said.contains('|'), "{said}");
    assert!(said.contains(";SAN=spiffe://mesh/me;DNS=me.mesh;Subject=\"CN=me.mesh"), "{said}");
    // Who shows no certificate has no say in it, whether it is passed on or not.
    for clear in &outer[1..] {
        assert_eq!(get(*clear, "web").await, (200, String::new()));
    }
    for (log, line) in [("incoming.log", "spiffe://mesh/me 200\n"), ("forging.log", "- 200\n")] {
        let log = pki.path(log);
        for _ in 0..2000 {
            if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(fs::read_to_string(&log).unwrap(), line);
    }
}

#[tokio::test]
async fn prefixes_name_servers_and_turn_tls_off_again() {
    let pki = Pki::new();
    pki.issue("web", &["web.mesh"]);
    pki.issue("users", &["users.mesh"]);
    let end = backend();
    let servers = proxy(
        &pki,
        &format!(
            "routers:
- protocol: http
  dtab: /svc => /$/inet/127.0.0.1/{}
  servers:
  - {{port: 0, tls: {{certPath: {{dir}}/web.pem, keyPath: {{dir}}/web.key}}}}
  - {{port: 0, tls: {{certPath: {{dir}}/users.pem, keyPath: {{dir}}/users.key}}}}
",
            end.port()
        ),
    )
    .await;
    fs::create_dir(pki.path("disco")).unwrap();
    for (name, addr) in [("web", servers[0]), ("users", servers[1]), ("wrong", servers[0]), ("plain", end)] {
        fs::write(pki.path("disco").join(name), format!("{} {}\n", addr.ip(), addr.port())).unwrap();
    }
    // The same address as `web`, and not its connections.
    fs::write(pki.path("disco/off"), format!("{} {}\n", servers[0].ip(), servers[0].port())).unwrap();
    let outer = proxy(
        &pki,
        "namers: [{kind: io.l5d.fs, rootDir: '{dir}/disco'}]
routers:
- protocol: http
  dtab: /svc => /#/io.l5d.fs
  servers: [{port: 0}]
  client:
    kind: io.l5d.static
    configs:
    - prefix: /#/io.l5d.fs/{service}
      tls: {commonName: '{service}.mesh', trustCerts: ['{dir}/ca.pem']}
    - prefix: /#/io.l5d.fs/plain
      tls: {enabled: false}
    - prefix: /#/io.l5d.fs/off
      tls: {enabled: false}
",
    )
    .await[0];
    for (host, expected) in [("web", 200), ("users", 200), ("plain", 200), ("wrong", 502), ("off", 502), ("web", 200)] {
        let (status, body) = get(outer, host).await;
        assert_eq!(status, expected, "{host}: {body}");
    }
}

#[tokio::test]
async fn the_admin_pages_are_served_through_tls_alone() {
    let pki = Pki::new();
    let files = pki.issue("admin", &["admin.mesh"]);
    let text = "
admin: {port: 0, tls: {certPath: '{dir}/admin.pem', keyPath: '{dir}/admin.key'}}
routers:
- {protocol: http, servers: [{port: 0}]}
";
    let config = Config::parse("f", &text.replace("{dir}", pki.dir.path().to_str().unwrap()));
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    let proxy = Proxy::builder(&config).build().unwrap_or_else(|errors| panic!("{errors}")).bind().unwrap();
    let addr = proxy.admin_addr();
    let serving = tokio::spawn(proxy.serve());
    let shaken = shake(addr, "admin.mesh", &pki.raw(&[])).await.unwrap();
    assert_eq!(shaken.leaf(), der(&files.cert));
    let tls = Connector::load(pki.trusting(), &Metrics::default()).unwrap().named("admin.mesh");
    let config = ClientConfig { tls: Some(tls), ..ClientConfig::default() };
    let svc = HttpConnect::new(config).connect(&Endpoint::new(addr));
    let req = || Request::get("/admin/ping").header(HOST, "admin").body(Body::empty()).unwrap();
    let rsp = svc.send(req()).await.unwrap();
    let body = http_body_util::BodyExt::collect(rsp.into_body()).await.unwrap().to_bytes();
    assert_eq!(body, "pong");
    assert!(HttpConnect::default().connect(&Endpoint::new(addr)).send(req()).await.is_err());
    serving.abort();
}

#[tokio::test]
async fn what_cannot_be_built_is_said_with_its_place() {
    let pki = Pki::new();
    pki.issue("web", &["web"]);
    fs::write(pki.path("half.key"), "-----BEGIN PRIVATE KEY-----\nAAAA\n").unwrap();
    let found = problems(
        &pki,
        "routers:
- protocol: http
  servers:
  - {port: 1, tls: {certPath: '{dir}/web.pem', keyPath: '{dir}/half.key'}}
  - {port: 2, tls: {certPath: '{dir}/web.pem', keyPath: '{dir}/web.key', ciphers: [TLS_RSA_WITH_RC4_128_MD5]}}
  client:
    kind: io.l5d.static
    configs:
    - {prefix: /a, tls: {commonName: 'not a name', trustCertsBundle: '{dir}/half.key'}}
    - {prefix: '/b/{x}', tls: {commonName: '{x}', trustCertsBundle: '{dir}/ca.pem'}}
",
    );
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(lines.len(), 4, "{found}");
    for (line, place, text) in [
        (0, "f:4:", "routers[0].servers[0].tls: "),
        (1, "f:5:", "routers[0].servers[1].tls: none of the ciphers"),
        (2, "f:9:", "routers[0].client.configs[0].tls"),
        (3, "f:9:", "routers[0].client.configs[0].tls"),
    ] {
        assert!(lines[line].starts_with(place) && lines[line].contains(text), "{text}: {found}");
    }
    assert!(lines[0].contains("half.key: is no PEM file: there is no -----END PRIVATE KEY-----"), "{found}");
    assert!(found.contains("commonName: 'not a name' is no name that a certificate can be for"), "{found}");
}

#[tokio::test]
async fn names_in_lists_are_known_or_told() {
    let pki = Pki::new();
    pki.issue("web", &["web"]);
    let server = |more: &str| {
        format!(
            "routers:
- protocol: http
  servers:
  - port: 1
    tls: {{certPath: '{{dir}}/web.pem', keyPath: '{{dir}}/web.key', {more}}}
  client:
    kind: io.l5d.static
    configs:
    - {{prefix: /a, tls: {{commonName: web, protocols: [TLSv1.2, SSLv3]}}}}
"
        )
        .replace("{dir}", pki.dir.path().to_str().unwrap())
    };
    // Those that are none at the place where they are.
    let typos = server("protocols: [TLSv1.2, TLSv1.4], ciphers: [TYPO_CIPHER, TLS_AES_128_GCM_SHA256]");
    let found = Config::parse("f", &typos).unwrap_err().to_string();
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(lines.len(), 2, "{found}");
    for text in [
        "routers[0].servers[0].tls.protocols[1]: 'TLSv1.4' is no protocol version; there are TLSv1.2 and TLSv1.3",
        "routers[0].servers[0].tls.ciphers[0]: 'TYPO_CIPHER' is no cipher: ",
    ] {
        assert!(lines.iter().any(|line| line.starts_with("f:5:") && line.contains(text)), "{text}: {found}");
    }
    // Those that were once do no harm, and are told.
    let old =
        "protocols: [TLSv1, TLSv1.2], ciphers: [TLS_AES_128_GCM_SHA256, AES128-SHA, ECDHE-ECDSA-AES128-GCM-SHA256]";
    let config = Config::parse("f", &server(old)).unwrap();
    config.build(&Registry::new()).unwrap();
    let told: Vec<_> = config.warnings().into_iter().map(|warning| (warning.key, warning.message)).collect();
    let versions = "is passed over: there are TLSv1.2 and TLSv1.3 alone";
    let expected = [
        ("routers[0].servers[0].tls.protocols[0]", format!("'TLSv1' {versions}")),
        ("routers[0].servers[0].tls.ciphers[1]", "'AES128-SHA' is passed over: rustls has no such cipher".to_owned()),
        ("routers[0].client.configs[0].tls.protocols[1]", format!("'SSLv3' {versions}")),
    ];
    assert_eq!(told, expected.map(|(key, message)| (key.to_owned(), message)));
}
