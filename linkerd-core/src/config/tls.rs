//! The `tls` maps of servers and clients.
//!
//! Whether their files are there is found out where they are read: what is used already does without them.

use std::{path::PathBuf, time::Duration};

use super::decode::{At, Decode, Section};

/// The `tls` map of a server, also of the admin server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// `certPath`: the server's certificate, PEM. Required.
    pub cert: PathBuf,
    /// `keyPath`: its key, PEM. Required.
    pub key: PathBuf,
    /// `intermediateCertsPath`: the rest of the chain, PEM. Default: none.
    pub intermediate_certs: Option<PathBuf>,
    /// `caCertPath`: whom to trust for client certificates, PEM. Default: the system's roots.
    pub ca_cert: Option<PathBuf>,
    /// `requireClientAuth`: a client without a valid certificate is refused. Default: false, certificates are not asked for.
    pub require_client_auth: bool,
    /// `ciphers`: names of cipher suites. Default: the library's choice.
    pub ciphers: Option<Vec<String>>,
    /// `protocols`: names of protocol versions. Default: the library's choice.
    pub protocols: Option<Vec<String>>,
    /// `certificates`: further ones, each for the DNS names in it, by SNI. Default: none.
    ///
    /// Not a key of Linkerd 1.x.
    pub certificates: Vec<TlsIdentity>,
    /// `handshakeTimeoutMs`: how long a handshake may take, at least 1 ms. Default: 10 s.
    ///
    /// Not a key of Linkerd 1.x.
    pub handshake_timeout: Option<Duration>,
    /// `keepUsedRootsHours`: a root that vouched for a client within so many hours, from 1 to 8,760, is not taken out of `caCertPath`
    /// when that changes. Default: it is, with a warning.
    ///
    /// Not a key of Linkerd 1.x.
    pub keep_used_roots: Option<Duration>,
}

/// The `tls` map of a client, also of namers and interpreters.
///
/// A map that is enabled and validates has a `common_name`: that is checked when the file is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// `enabled`. Default: true. `false` turns off what an earlier matching prefix turned on.
    pub enabled: bool,
    /// `disableValidation`: trust any certificate. Not together with `clientAuth`. Default: false.
    pub disable_validation: bool,
    /// `commonName`: the name to ask for and to verify. `{var}` is filled in from the prefix of a static client.
    pub common_name: Option<String>,
    /// `trustCerts` (several files) or `trustCertsBundle` (one), PEM; not both. Default: the system's roots.
    pub trust_certs: Vec<PathBuf>,
    /// `clientAuth`: the certificate to show. Default: none.
    pub client_auth: Option<TlsIdentity>,
    /// `protocols`: names of protocol versions. Default: the library's choice.
    pub protocols: Option<Vec<String>>,
    /// `handshakeTimeoutMs`: how long a handshake may take once connected, at least 1 ms. Default: 10 s.
    ///
    /// Not a key of Linkerd 1.x.
    pub handshake_timeout: Option<Duration>,
    /// `keepUsedRootsHours`: a root that vouched for a server within so many hours, from 1 to 8,760, is not taken out of `trustCertsBundle`
    /// when that changes. Default: it is, with a warning.
    ///
    /// Not a key of Linkerd 1.x.
    pub keep_used_roots: Option<Duration>,
}

/// A certificate and its key: `clientAuth` of a client's `tls`, and each of `certificates` of a server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// `certPath`: the certificate, PEM. Required.
    pub cert: PathBuf,
    /// `keyPath`: its key, PEM. Required.
    pub key: PathBuf,
    /// `intermediateCertsPath`: the rest of the chain, PEM. Default: none.
    pub intermediate_certs: Option<PathBuf>,
}

impl Decode for ServerTls {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "server tls")?;
        let cert = s.require("certPath");
        let key = s.require("keyPath");
        let intermediate_certs = s.get("intermediateCertsPath");
        let ca_cert = s.get("caCertPath");
        let require_client_auth = s.or("requireClientAuth", false);
        let ciphers = s.with("ciphers", ciphers);
        let protocols = s.with("protocols", protocols);
        let certificates = s.or("certificates", Vec::new());
        let handshake_timeout = s.millis("handshakeTimeoutMs", 1);
        let keep_used_roots = s.int("keepUsedRootsHours", 1..=8_760).map(hours);
        s.finish();
        Some(Self {
            cert: cert?,
            key: key?,
            intermediate_certs,
            ca_cert,
            require_client_auth,
            ciphers,
            protocols,
            certificates,
            handshake_timeout,
            keep_used_roots,
        })
    }
}

impl Decode for ClientTls {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "client tls")?;
        let enabled = s.or("enabled", true);
        let disable_validation = s.or("disableValidation", false);
        let common_name: Option<String> = s.get("commonName");
        let several: Option<Vec<PathBuf>> = s.get("trustCerts");
        let bundle: Option<PathBuf> = s.get("trustCertsBundle");
        let client_auth = s.get("clientAuth");
        let protocols = s.with("protocols", protocols);
        let handshake_timeout = s.millis("handshakeTimeoutMs", 1);
        let keep_used_roots = s.int("keepUsedRootsHours", 1..=8_760).map(hours);

        if enabled && !disable_validation && !s.has("commonName") {
            at.problem("tls is configured with validation but commonName is not set");
        }
        if disable_validation && s.has("clientAuth") {
            s.problem("disableValidation", "cannot be true together with clientAuth");
        }
        if s.has("trustCerts") && s.has("trustCertsBundle") {
            s.problem("trustCertsBundle", "cannot be set together with trustCerts");
        }
        s.finish();
        let trust_certs = several.into_iter().flatten().chain(bundle).collect();
        Some(Self {
            enabled,
            disable_validation,
            common_name,
            trust_certs,
            client_auth,
            protocols,
            handshake_timeout,
            keep_used_roots,
        })
    }
}

impl Decode for TlsIdentity {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "certificate")?;
        let cert = s.require("certPath");
        let key = s.require("keyPath");
        let intermediate_certs = s.get("intermediateCertsPath");
        s.finish();
        Some(Self { cert: cert?, key: key?, intermediate_certs })
    }
}

/// What a name in a `tls` map is passed over with, if it is: `key` is the list's, without indices.
#[cfg(feature = "tls")]
pub(super) fn passed_over(key: &str, name: &str) -> Option<&'static str> {
    if key.ends_with("tls.protocols") && crate::tls::has_protocol(name).is_ok_and(|has| !has) {
        Some("is passed over: there are TLSv1.2 and TLSv1.3 alone")
    } else if key.ends_with("tls.ciphers") && crate::tls::has_cipher(name).is_ok_and(|has| !has) {
        Some("is passed over: rustls has no such cipher")
    } else {
        None
    }
}

fn protocols(at: &At<'_>) -> Option<Vec<String>> {
    #[cfg(feature = "tls")]
    return names(at, crate::tls::has_protocol);
    #[cfg(not(feature = "tls"))]
    Vec::decode(at)
}

fn ciphers(at: &At<'_>) -> Option<Vec<String>> {
    #[cfg(feature = "tls")]
    return names(at, crate::tls::has_cipher);
    #[cfg(not(feature = "tls"))]
    Vec::decode(at)
}

/// A list of names, each of which may be one.
#[cfg(feature = "tls")]
fn names(at: &At<'_>, check: fn(&str) -> Result<bool, crate::tls::BadTls>) -> Option<Vec<String>> {
    at.list(|at| {
        let name = String::decode(at)?;
        check(&name).inspect_err(|error| at.problem(error.to_string())).ok().map(|_| name)
    })
}

fn hours(n: i64) -> Duration {
    Duration::from_hours(n.unsigned_abs())
}

#[cfg(feature = "tls")]
mod build {
    //! From a section to what makes connections secure.

    use std::time::Duration;

    use super::{ClientTls, ServerTls, TlsIdentity};
    #[cfg(feature = "admin")]
    use crate::tls::{Acceptor, Metrics};
    use crate::{
        config::{Client, NamerdTls, Scoped},
        tls::{Alpn, BadTls, ClientSettings, Connector, HandshakeSettings, IdentityFiles, ServerSettings},
    };

    impl TlsIdentity {
        fn files(&self) -> IdentityFiles {
            let Self { cert, key, intermediate_certs } = self;
            IdentityFiles { cert: cert.clone(), key: key.clone(), intermediates: intermediate_certs.clone() }
        }
    }

    impl ServerTls {
        /// Reads the files, and follows them.
        #[cfg(feature = "admin")]
        pub(crate) fn acceptor(&self, alpn: &[Alpn], metrics: &Metrics) -> Result<Acceptor, BadTls> {
            Acceptor::load(self.settings(alpn), metrics)
        }

        pub(in crate::config) fn settings(&self, alpn: &[Alpn]) -> ServerSettings {
            let Self {
                cert,
                key,
                intermediate_certs,
                ca_cert,
                require_client_auth,
                ciphers,
                protocols,
                certificates,
                handshake_timeout,
                keep_used_roots,
            } = self.clone();
            let first = TlsIdentity { cert, key, intermediate_certs };
            let mut settings = ServerSettings::new(first.files());
            settings.identities.extend(certificates.iter().map(TlsIdentity::files));
            settings.client_roots = ca_cert;
            settings.require_client_auth = require_client_auth;
            settings.handshake =
                HandshakeSettings { ciphers, keep_used_roots, ..handshake(protocols, alpn, handshake_timeout) };
            settings
        }

        /// Whether both show the same certificate first.
        pub(in crate::config) fn shows_what(&self, other: &Self) -> bool {
            (&self.cert, &self.key) == (&other.cert, &other.key)
        }
    }

    fn handshake(protocols: Option<Vec<String>>, alpn: &[Alpn], timeout: Option<Duration>) -> HandshakeSettings {
        let default = HandshakeSettings::default();
        let timeout = timeout.unwrap_or(default.timeout);
        HandshakeSettings { protocols, alpn: alpn.to_vec(), timeout, ..default }
    }

    impl NamerdTls {
        /// The same as of a client.
        pub(crate) fn as_client(&self) -> ClientTls {
            let Self { common_name, ca_cert } = self.clone();
            ClientTls {
                enabled: true,
                disable_validation: false,
                common_name: Some(common_name),
                trust_certs: ca_cert.into_iter().collect(),
                client_auth: None,
                protocols: None,
                handshake_timeout: None,
                keep_used_roots: None,
            }
        }
    }

    impl ClientTls {
        /// The same of a client.
        #[cfg(feature = "namerd")]
        pub(crate) fn connector(&self, alpn: &[Alpn], metrics: &Metrics) -> Result<Connector, BadTls> {
            Connector::load(self.settings(alpn), metrics)
        }

        pub(in crate::config) fn settings(&self, alpn: &[Alpn]) -> ClientSettings {
            let Self {
                enabled: _,     // It is.
                common_name: _, // Another one for each client.
                disable_validation,
                trust_certs,
                client_auth,
                protocols,
                handshake_timeout,
                keep_used_roots,
            } = self.clone();
            ClientSettings {
                roots: trust_certs,
                disable_validation,
                identity: client_auth.as_ref().map(TlsIdentity::files),
                handshake: HandshakeSettings { keep_used_roots, ..handshake(protocols, alpn, handshake_timeout) },
            }
        }

        /// The same for any server.
        pub(in crate::config) fn nameless(&self) -> Self {
            Self { common_name: None, ..self.clone() }
        }

        /// Whether both have files, and the same ones.
        pub(in crate::config) fn reads_what(&self, other: &Self) -> bool {
            let has_some = !self.trust_certs.is_empty() || self.client_auth.is_some();
            has_some && (&self.trust_certs, &self.client_auth) == (&other.trust_certs, &other.client_auth)
        }
    }

    /// The TLS of a router's clients: files are followed once, however many names they are used for.
    #[derive(Debug, Default)]
    pub(crate) struct Connectors(Vec<(ClientTls, Connector)>);

    impl Connectors {
        /// For all the `tls` of a section, as `connect` makes one in the place that it is told. What cannot be built is told to
        /// `problem`, with its key below `client`.
        pub(crate) fn build(
            client: &Scoped<Client>,
            connect: impl Fn(String, &ClientTls) -> Result<Connector, BadTls>,
            mut problem: impl FnMut(&str, String),
        ) -> Self {
            let mut built = Self::default();
            for (i, (prefix, settings)) in client.iter().enumerate() {
                let Some(tls) = settings.tls() else { continue };
                let key = if prefix.is_some() { format!("configs[{i}].tls") } else { "tls".to_owned() };
                // What is filled in from a prefix is known later.
                let name = tls.common_name.as_deref().filter(|name| !name.contains('{'));
                if let Some(Err(error)) = name.map(Connector::check_name) {
                    problem(&format!("{key}.commonName"), error.to_string());
                }
                let place = prefix.map_or_else(|| "client".to_owned(), |prefix| format!("client {prefix}"));
                match connect(place, tls) {
                    Ok(_) if built.of(tls).is_some() => {}
                    Ok(connector) => built.0.push((tls.nameless(), connector)),
                    Err(error) => problem(&key, error.to_string()),
                }
            }
            built
        }

        /// What reaches the endpoints of a client.
        pub(crate) fn of(&self, tls: &ClientTls) -> Option<Connector> {
            let nameless = tls.nameless();
            let (_, connector) = self.0.iter().find(|(known, _)| *known == nameless)?;
            Some(match &tls.common_name {
                Some(name) => connector.named(name),
                None => connector.clone(),
            })
        }
    }
}

#[cfg(feature = "tls")]
pub(super) use build::Connectors;
