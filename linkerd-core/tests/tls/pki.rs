//! Certificates, and both ends of a connection that use them.

use std::{
    fs,
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use linkerd_core::{
    Body, Error, Svc,
    dtab::Endpoint,
    http::{ClientConfig, Connect, HttpConnect, Server, ServerConfig},
    telemetry::{Prometheus, Registry},
    tls::{Acceptor, ClientSettings, Connector, HandshakeSettings, IdentityFiles, Metrics, ServerSettings},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType, date_time_ymd};
use rustls::{
    ClientConnection, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::{DefaultTimeProvider, TimeProvider},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// How many authorities there were.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// A folder, and a certificate authority that writes to it.
pub(crate) struct Pki {
    pub(crate) dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
    name: String,
}

impl Pki {
    pub(crate) fn new() -> Self {
        // No two have the same name.
        Self::called(&format!("authority {}", NUMBER.fetch_add(1, Ordering::Relaxed)))
    }

    /// The authority has this name.
    pub(crate) fn called(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = authority(name);
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer, name: name.to_owned() }
    }

    /// The authority's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The certificates to trust.
    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Writes `NAME.pem` and `NAME.key`, for these names.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> IdentityFiles {
        self.issue_as(file, names, 1)
    }

    /// The same, with a serial number.
    pub(crate) fn issue_as(&self, file: &str, names: &[&str], serial: u64) -> IdentityFiles {
        let (cert, key) = self.issued(names, serial);
        let files = IdentityFiles::new(self.path(&format!("{file}.pem")), self.path(&format!("{file}.key")));
        fs::write(&files.cert, cert).unwrap();
        fs::write(&files.key, key).unwrap();
        files
    }

    /// A certificate and its key as PEM.
    pub(crate) fn issued(&self, names: &[&str], serial: u64) -> (String, String) {
        self.changed(names, |params| params.serial_number = Some(serial.into()))
    }

    /// Writes a certificate that is good from the first of these years to the last, of the key that is there or a new one.
    pub(crate) fn issue_for(&self, files: &IdentityFiles, names: &[&str], years: Range<i32>) {
        let mut params = leaf(names);
        (params.not_before, params.not_after) = (date_time_ymd(years.start, 1, 1), date_time_ymd(years.end, 1, 1));
        let key = fs::read_to_string(&files.key).map(|pem| KeyPair::from_pem(&pem).unwrap());
        let key = key.unwrap_or_else(|_| KeyPair::generate().unwrap());
        if !files.key.exists() {
            fs::write(&files.key, key.serialize_pem()).unwrap();
        }
        replace(&files.cert, &params.signed_by(&key, &self.issuer).unwrap().pem());
    }

    /// Another authority, by this one's leave.
    pub(crate) fn authority(&self, name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let key = KeyPair::generate().unwrap();
        CertifiedIssuer::signed_by(authority_params(name), key, &self.issuer).unwrap()
    }

    /// The client of [`raw`](Self::raw), which shows this, whatever it is.
    pub(crate) fn raw_as(&self, cert: &str, key: &str) -> Arc<rustls::ClientConfig> {
        let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let key = CertifiedKey::new(chain, provider().key_provider.load_private_key(key).unwrap());
        let mut config = Arc::unwrap_or_clone(self.raw(&[]));
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
        Arc::new(config)
    }

    /// A certificate and its key as PEM, after a change of what is signed.
    pub(crate) fn changed(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = leaf(names);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Trusts this authority.
    pub(crate) fn trusting(&self) -> ClientSettings {
        ClientSettings { roots: vec![self.ca()], handshake: fast(), ..ClientSettings::default() }
    }

    /// What the authority's clients trust.
    pub(crate) fn store(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// A client that knows no more than the authority, for a look at what a server says.
    pub(crate) fn raw(&self, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
        self.raw_at(alpn, Arc::new(DefaultTimeProvider))
    }

    /// The same, at a time.
    pub(crate) fn raw_at(&self, alpn: &[&[u8]], clock: Arc<dyn TimeProvider>) -> Arc<rustls::ClientConfig> {
        let mut config = rustls::ClientConfig::builder_with_details(provider(), clock)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.store())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
        Arc::new(config)
    }
}

/// The end of a certificate, for these names.
pub(crate) fn leaf(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("nobody"));
    params.subject_alt_names = names.iter().map(|name| san(name)).collect();
    params
}

/// As a careful writer does it.
pub(crate) fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

/// A clock that stands still until it is set.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    /// At the middle of a year.
    pub(crate) fn at(year: u64) -> Arc<Self> {
        let clock = Arc::new(Self::default());
        clock.set(year);
        clock
    }

    pub(crate) fn set(&self, year: u64) {
        self.0.store((2 * (year - 1970) + 1) * (31_557_600 / 2), Ordering::Relaxed);
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_secs(), Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

/// Looks at files often, by this clock.
pub(crate) fn by(clock: &Arc<Clock>) -> HandshakeSettings {
    HandshakeSettings { clock: Arc::<Clock>::clone(clock), ..fast() }
}

/// A metric of TLS.
pub(crate) fn metric(registry: &Registry, name: &str) -> f64 {
    let text = Prometheus::new().render(registry);
    let line = text.lines().find(|line| line.starts_with(&format!("tls:{name}"))).unwrap_or_else(|| panic!("{text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Waits for something of a task that looks every few milliseconds.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = tokio::time::Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(FAST).await;
    }
}

/// How often files are looked at in tests.
pub(crate) const FAST: Duration = Duration::from_millis(5);

/// Looks at files as often.
pub(crate) fn fast() -> HandshakeSettings {
    HandshakeSettings { reload_interval: FAST, ..HandshakeSettings::default() }
}

/// A certificate authority of this name.
pub(crate) fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A certificate and its key as PEM, by this authority.
pub(crate) fn signed(names: &[&str], issuer: &CertifiedIssuer<'static, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (leaf(names).signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

fn san(name: &str) -> SanType {
    match name.parse() {
        Ok(ip) => SanType::IpAddress(ip),
        Err(_) if name.contains("://") => SanType::URI(name.try_into().unwrap()),
        Err(_) => SanType::DnsName(name.try_into().unwrap()),
    }
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    return Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    #[cfg(not(feature = "aws-lc-rs"))]
    return Arc::new(rustls::crypto::ring::default_provider());
}

/// Material that openssl made.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/data").join(name)
}

/// A server that answers with what `answer` makes of each request.
pub(crate) fn serve(
    settings: ServerSettings,
    answer: impl Fn(Request<Body>) -> Response<Body> + Clone + Send + Sync + 'static,
) -> SocketAddr {
    serve_with(Acceptor::load(settings, &Metrics::default()).unwrap(), answer)
}

pub(crate) fn serve_with(
    tls: Acceptor,
    answer: impl Fn(Request<Body>) -> Response<Body> + Clone + Send + Sync + 'static,
) -> SocketAddr {
    let config = ServerConfig { addr: ([127, 0, 0, 1], 0).into(), tls: Some(tls), ..ServerConfig::default() };
    let server = Server::bind(config).unwrap();
    let addr = server.local_addr();
    let svc = Svc::new(tower::service_fn(move |req| std::future::ready(Ok::<_, Error>(answer(req)))));
    tokio::spawn(server.serve(svc, std::future::pending()));
    addr
}

pub(crate) fn settings(identity: IdentityFiles) -> ServerSettings {
    ServerSettings { handshake: fast(), ..ServerSettings::new(identity) }
}

/// What says ok.
pub(crate) fn ok(_: Request<Body>) -> Response<Body> {
    Response::new(Body::from("ok"))
}

/// The service of a server that is reached through TLS.
pub(crate) fn client(addr: SocketAddr, tls: Connector) -> Svc {
    HttpConnect::new(ClientConfig { tls: Some(tls), ..ClientConfig::default() }).connect(&Endpoint::new(addr))
}

/// One request, and the body of its answer.
pub(crate) async fn get(svc: &Svc) -> Result<String, Error> {
    let rsp = svc.send(Request::get("http://web/").body(Body::empty()).unwrap()).await?;
    let body = http_body_util::BodyExt::collect(rsp.into_body()).await.unwrap();
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

/// Why a request failed, with all that led to it.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = vec![error.to_string()];
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push(error.to_string());
        cause = error.source();
    }
    text.join(": ")
}

/// One request in a connection, and its answer.
pub(crate) async fn ask(shaken: &mut Shaken) -> std::io::Result<String> {
    shaken.stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await?;
    let mut answer = Vec::new();
    // The body of an answer that is this short comes with its head, or soon.
    while !answer.ends_with(b"ok") {
        if shaken.stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(String::from_utf8(answer).unwrap())
}

/// A handshake of a client that says this name, and what it came to.
pub(crate) async fn shake(addr: SocketAddr, name: &str, config: &Arc<rustls::ClientConfig>) -> std::io::Result<Shaken> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let tcp = TcpStream::connect(addr).await?;
    let stream = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
    Ok(Shaken { stream })
}

pub(crate) struct Shaken {
    pub(crate) stream: tokio_rustls::client::TlsStream<TcpStream>,
}

impl Shaken {
    pub(crate) fn conn(&self) -> &ClientConnection {
        self.stream.get_ref().1
    }

    pub(crate) fn leaf(&self) -> CertificateDer<'static> {
        self.conn().peer_certificates().unwrap()[0].clone().into_owned()
    }
}

/// The certificate of a PEM file.
pub(crate) fn der(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}
