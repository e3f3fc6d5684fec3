//! The `tls` maps of servers and clients.

use super::{
    decode::{At, Decode, Section},
    value::File,
};

/// The `tls` map of a server, also of the admin server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// `certPath`: the server's certificate, PEM. Required.
    pub cert: File,
    /// `keyPath`: its key, PEM. Required.
    pub key: File,
    /// `intermediateCertsPath`: the rest of the chain, PEM. Default: none.
    pub intermediate_certs: Option<File>,
    /// `caCertPath`: whom to trust for client certificates, PEM. Default: the system's roots.
    pub ca_cert: Option<File>,
    /// `requireClientAuth`: a client without a valid certificate is refused. Default: false, certificates are not asked for.
    pub require_client_auth: bool,
    /// `ciphers`: names of cipher suites. Default: the library's choice.
    pub ciphers: Option<Vec<String>>,
    /// `protocols`: names of protocol versions. Default: the library's choice.
    pub protocols: Option<Vec<String>>,
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
    pub trust_certs: Vec<File>,
    /// `clientAuth`: the certificate to show. Default: none.
    pub client_auth: Option<ClientAuth>,
    /// `protocols`: names of protocol versions. Default: the library's choice.
    pub protocols: Option<Vec<String>>,
}

/// The `clientAuth` part of a client's `tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// `certPath`: the client's certificate, PEM. Required.
    pub cert: File,
    /// `keyPath`: its key, PEM. Required.
    pub key: File,
    /// `intermediateCertsPath`: the rest of the chain, PEM. Default: none.
    pub intermediate_certs: Option<File>,
}

impl Decode for ServerTls {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "server tls")?;
        let cert = s.require("certPath");
        let key = s.require("keyPath");
        let intermediate_certs = s.get("intermediateCertsPath");
        let ca_cert = s.get("caCertPath");
        let require_client_auth = s.or("requireClientAuth", false);
        let ciphers = s.get("ciphers");
        let protocols = s.get("protocols");
        s.finish();
        Some(Self { cert: cert?, key: key?, intermediate_certs, ca_cert, require_client_auth, ciphers, protocols })
    }
}

impl Decode for ClientTls {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "client tls")?;
        let enabled = s.or("enabled", true);
        let disable_validation = s.or("disableValidation", false);
        let common_name: Option<String> = s.get("commonName");
        let several: Option<Vec<File>> = s.get("trustCerts");
        let bundle: Option<File> = s.get("trustCertsBundle");
        let client_auth = s.get("clientAuth");
        let protocols = s.get("protocols");

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
        Some(Self { enabled, disable_validation, common_name, trust_certs, client_auth, protocols })
    }
}

impl Decode for ClientAuth {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "client auth")?;
        let cert = s.require("certPath");
        let key = s.require("keyPath");
        let intermediate_certs = s.get("intermediateCertsPath");
        s.finish();
        Some(Self { cert: cert?, key: key?, intermediate_certs })
    }
}
