//! The client's side.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{
    BadTls, HandshakeError, HandshakeSettings, IdentityFiles, Metrics, Negotiated,
    files::Snapshot,
    names::Offer,
    pem::{self, Bearer, Identity},
    roots::{self, Held, Roots},
    watch::{Beginning, Live, Loaded},
};

/// Whom a client trusts, and who it is.
#[derive(Clone, Debug, Default)]
pub struct ClientSettings {
    /// The certificates that those of servers must come from, PEM. The system's, which are read once.
    pub roots: Vec<PathBuf>,
    /// Any certificate will do, whoever signed it and whatever it is for. Off.
    pub disable_validation: bool,
    /// What is shown to servers that ask for it. Nothing.
    pub identity: Option<IdentityFiles>,
    /// How connections are made secure.
    pub handshake: HandshakeSettings,
}

/// Makes connections to endpoints secure.
///
/// Follows its files, as an [`Acceptor`](super::Acceptor) does: connections that are open stay, the next one is made with
/// what the files changed to. A clone is the same one.
#[derive(Clone)]
pub struct Connector {
    live: Arc<Live<ClientConfig>>,
    name: Name,
    handshake_timeout: Duration,
}

/// What a server's certificate must be for.
#[derive(Clone)]
enum Name {
    /// The address that was connected to.
    Address,
    /// This, of which the server is told.
    Known(ServerName<'static>),
    /// What no certificate can be for.
    Bad(Arc<str>),
}

impl ClientSettings {
    fn files(&self) -> Vec<PathBuf> {
        let roots = self.roots.iter().filter(|_| !self.disable_validation);
        self.identity.iter().flat_map(IdentityFiles::all).chain(roots).cloned().collect()
    }

    fn load(&self, offer: &Offer, snapshot: &Snapshot, metrics: &Metrics) -> Result<Loaded<ClientConfig>, BadTls> {
        let identity = match &self.identity {
            Some(files) => Some(Identity::read(files, snapshot, Bearer::Client, offer)?),
            None => None,
        };
        let mut files: Vec<_> = identity.iter().flat_map(|identity| identity.files.clone()).collect();
        let builder =
            ClientConfig::builder_with_details(Arc::clone(&offer.provider), Arc::clone(&self.handshake.clock))
                .with_protocol_versions(&offer.versions)
                .map_err(|error| BadTls::Refused { reason: error.to_string() })?;
        let mut roots = Roots::default();
        let builder = if self.disable_validation {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(Arc::clone(&offer.provider))))
        } else {
            let (store, validities) = pem::roots(&self.roots, snapshot)?;
            files.extend(validities);
            roots = match self.roots[..] {
                [] => Roots::system(&store),
                [..] => Roots::of(&store, roots::for_server, &self.handshake.clock, metrics),
            };
            builder.with_root_certificates(store)
        };
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = Arc::unwrap_or_clone(identity.key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
        };
        config.alpn_protocols = self.handshake.alpn_protocols();
        Ok(Loaded { value: Arc::new(config), files, roots, snapshot: snapshot.clone() })
    }
}

impl Connector {
    /// Reads the files, and follows them. In a tokio runtime. A server's certificate must be for its address, until it is
    /// [named](Self::named).
    ///
    /// # Errors
    ///
    /// The first file, or list of names, that cannot be used.
    pub fn load(settings: ClientSettings, metrics: &Metrics) -> Result<Self, BadTls> {
        let (connector, beginning) = Self::prepare(settings, metrics, None)?;
        beginning.begin();
        Ok(connector)
    }

    /// The same in the place of another one, whose certificates and roots are [kept](Live::prepare) from worse.
    pub(crate) fn prepare(
        settings: ClientSettings,
        metrics: &Metrics,
        before: Option<&Self>,
    ) -> Result<(Self, Beginning), BadTls> {
        let offer = settings.handshake.offer()?;
        let handshake = settings.handshake.clone();
        let files = settings.files();
        let to = metrics.clone();
        let load = Box::new(move |snapshot: &Snapshot| settings.load(&offer, snapshot, &to));
        let before = before.map(|before| before.live.now());
        let (live, beginning) = Live::prepare(files, &handshake, metrics, load, before)?;
        Ok((Self { live, name: Name::Address, handshake_timeout: handshake.timeout }, beginning))
    }

    /// Puts this one, which is used elsewhere, in the place of another one too: as [`prepare`](Self::prepare).
    #[cfg(feature = "config")]
    pub(crate) fn replace(&self, before: &Self) -> Result<Beginning, BadTls> {
        self.live.replace(before.live.now())
    }

    /// The same for servers of this name, or IP address: it is asked for, and their certificates must be for it.
    ///
    /// With what can be no such name every connection fails.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        let name = match ServerName::try_from(name.to_owned()) {
            Ok(name) => Name::Known(name),
            Err(_) => Name::Bad(name.into()),
        };
        Self { name, ..self.clone() }
    }

    /// Whether a certificate can be for this name.
    ///
    /// # Errors
    ///
    /// It cannot.
    pub fn check_name(name: &str) -> Result<(), BadTls> {
        ServerName::try_from(name).map(drop).map_err(|_| BadTls::BadName { name: name.to_owned() })
    }

    /// Makes one connection to this address secure.
    ///
    /// # Errors
    ///
    /// The handshake failed, or took too long.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn connect<I>(
        &self,
        addr: IpAddr,
        stream: I,
    ) -> Result<(impl AsyncRead + AsyncWrite + Unpin + use<I>, Negotiated), HandshakeError>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.name {
            Name::Address => ServerName::from(addr),
            Name::Known(name) => name.clone(),
            Name::Bad(name) => return Err(HandshakeError::BadName(name.to_string())),
        };
        let shown = name.to_str().into_owned();
        let live = self.live.now();
        let config = Arc::clone(&live.value);
        let provider = Arc::clone(config.crypto_provider());
        let handshake = tokio::time::timeout(self.handshake_timeout, TlsConnector::from(config).connect(name, stream));
        let stream = handshake.await.map_err(|_| HandshakeError::Elapsed(self.handshake_timeout))?;
        let stream = stream.map_err(|error| HandshakeError::of(error, &shown))?;
        let negotiated = Negotiated::of(stream.get_ref().1, &provider);
        let lease = live.roots.lease(stream.get_ref().1.peer_certificates(), &provider);
        Ok((Held::new(stream, lease), negotiated))
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match &self.name {
            Name::Address => "its address".into(),
            Name::Known(name) => name.to_str(),
            Name::Bad(name) => (&**name).into(),
        };
        f.debug_struct("Connector").field("name", &name).finish_non_exhaustive()
    }
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
