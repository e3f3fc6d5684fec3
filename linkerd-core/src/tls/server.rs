//! The server's side.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::{
    BadTls, HandshakeError, HandshakeSettings, IdentityFiles, Metrics, Negotiated, choice,
    clients::{self, Clients},
    files::Snapshot,
    names::Offer,
    pem::{self, Bearer, Identity},
    roots::{self, Held, Roots},
    watch::{Beginning, Live, Loaded},
};

/// Who a server is, and whom it lets in.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Its certificates: each for the DNS names in it, wildcards too; the first for all other names, and for clients that
    /// say none. At least one.
    pub identities: Vec<IdentityFiles>,
    /// The certificates that those of clients must come from, PEM. The system's.
    pub client_roots: Option<PathBuf>,
    /// A client without a valid certificate is refused, [with the reason](super::BadCertificate). Off: none is asked for.
    pub require_client_auth: bool,
    /// How connections are made secure.
    pub handshake: HandshakeSettings,
}

/// Makes connections to a server secure.
///
/// Follows its files: what they change to is used for the next handshake once it was read whole, was the same for 50 ms
/// and fits together; otherwise what there was stays, and the log and the metrics tell. Sessions of before are not
/// resumed. A clone is the same one.
#[derive(Clone)]
pub struct Acceptor {
    live: Arc<Live<ServerConfig>>,
    handshake_timeout: Duration,
}

impl ServerSettings {
    /// With this certificate, and else the defaults.
    #[must_use]
    pub fn new(identity: IdentityFiles) -> Self {
        Self {
            identities: vec![identity],
            client_roots: None,
            require_client_auth: false,
            handshake: HandshakeSettings::default(),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let roots = self.client_roots.iter().filter(|_| self.require_client_auth);
        self.identities.iter().flat_map(IdentityFiles::all).chain(roots).cloned().collect()
    }

    fn load(&self, offer: &Offer, snapshot: &Snapshot, metrics: &Metrics) -> Result<Loaded<ServerConfig>, BadTls> {
        let refused = |error: &dyn std::error::Error| BadTls::Refused { reason: error.to_string() };
        let identities = self
            .identities
            .iter()
            .map(|files| Identity::read(files, snapshot, Bearer::Server, offer))
            .collect::<Result<Vec<_>, _>>()?;
        let mut files: Vec<_> = identities.iter().flat_map(|identity| identity.files.clone()).collect();
        let builder =
            ServerConfig::builder_with_details(Arc::clone(&offer.provider), Arc::clone(&self.handshake.clock))
                .with_protocol_versions(&offer.versions)
                .map_err(|error| refused(&error))?;
        let mut roots = Roots::default();
        let builder = if self.require_client_auth {
            let bundle: Vec<_> = self.client_roots.iter().cloned().collect();
            let (store, validities) = pem::roots(&bundle, snapshot)?;
            files.extend(validities);
            roots = match bundle[..] {
                [] => Roots::system(&store),
                [..] => Roots::of(&store, roots::for_client, &self.handshake.clock, metrics),
            };
            let verifier = WebPkiClientVerifier::builder_with_provider(store, Arc::clone(&offer.provider)).build();
            builder.with_client_cert_verifier(Arc::new(Clients(verifier.map_err(|error| refused(&error))?)))
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(Arc::new(Identities::of(identities)));
        config.alpn_protocols = self.handshake.alpn_protocols();
        config.ignore_client_order = self.handshake.ciphers.is_some();
        // A new one each time: what was vouched for by the files of before is asked for again.
        if let Some(ticketer) = choice::ticketer() {
            config.ticketer = ticketer;
        }
        Ok(Loaded { value: Arc::new(config), files, roots, snapshot: snapshot.clone() })
    }
}

impl Acceptor {
    /// Reads the files, and follows them. In a tokio runtime.
    ///
    /// # Errors
    ///
    /// The first file, or list of names, that cannot be used.
    pub fn load(settings: ServerSettings, metrics: &Metrics) -> Result<Self, BadTls> {
        let (acceptor, beginning) = Self::prepare(settings, metrics, None)?;
        beginning.begin();
        Ok(acceptor)
    }

    /// The same in the place of another one, whose certificates and roots are [kept](Live::prepare) from worse.
    pub(crate) fn prepare(
        settings: ServerSettings,
        metrics: &Metrics,
        before: Option<&Self>,
    ) -> Result<(Self, Beginning), BadTls> {
        if settings.identities.is_empty() {
            return Err(BadTls::NoIdentity);
        }
        let offer = settings.handshake.offer()?;
        let handshake = settings.handshake.clone();
        let files = settings.files();
        let to = metrics.clone();
        let load = Box::new(move |snapshot: &Snapshot| settings.load(&offer, snapshot, &to));
        let before = before.map(|before| before.live.now());
        let (live, beginning) = Live::prepare(files, &handshake, metrics, load, before)?;
        Ok((Self { live, handshake_timeout: handshake.timeout }, beginning))
    }

    /// Puts this one, which is used elsewhere, in the place of another one too: as [`prepare`](Self::prepare).
    #[cfg(feature = "config")]
    pub(crate) fn replace(&self, before: &Self) -> Result<Beginning, BadTls> {
        self.live.replace(before.live.now())
    }

    /// Makes one connection secure.
    ///
    /// # Errors
    ///
    /// The handshake failed, or took too long.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn accept<I>(
        &self,
        stream: I,
    ) -> Result<(impl AsyncRead + AsyncWrite + Unpin + use<I>, Negotiated), HandshakeError>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let live = self.live.now();
        let config = Arc::clone(&live.value);
        let provider = Arc::clone(config.crypto_provider());
        let handshake = clients::watched(TlsAcceptor::from(config).accept(stream));
        let handshake = tokio::time::timeout(self.handshake_timeout, handshake);
        let stream = handshake.await.map_err(|_| HandshakeError::Elapsed(self.handshake_timeout))?;
        let stream = stream.map_err(|(error, refused)| HandshakeError::of_client(error, refused))?;
        let negotiated = Negotiated::of(stream.get_ref().1, &provider);
        let lease = live.roots.lease(stream.get_ref().1.peer_certificates(), &provider);
        Ok((Held::new(stream, lease), negotiated))
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("handshake_timeout", &self.handshake_timeout).finish_non_exhaustive()
    }
}

/// The certificates of a server, by the names that they are for.
#[derive(Debug)]
struct Identities {
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
}

impl Identities {
    fn of(identities: Vec<Identity>) -> Self {
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for Identity { key, leaf, .. } in &identities {
            for name in &leaf.dns_names {
                by_name.entry(name.to_ascii_lowercase()).or_default().push(Arc::clone(key));
            }
        }
        Self { by_name, all: identities.into_iter().map(|identity| identity.key).collect() }
    }

    /// Those for a name, or all if there is none for it.
    fn named(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name else { return &self.all };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || Some(format!("*.{}", name.split_once('.')?.1));
        let named = self.by_name.get(&name).or_else(|| self.by_name.get(&wildcard()?));
        named.unwrap_or(&self.all)
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = self.named(hello.server_name());
        // Of two for one name, with keys of two kinds, the one that the client can verify.
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        named.iter().find(fits).or(named.first()).cloned()
    }
}
