//! The names that a JVM has for protocol versions and cipher suites.

use std::{path::Path, sync::Arc};

use rustls::{
    CipherSuite, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::CryptoProvider,
    sign::SigningKey,
    version::{TLS12, TLS13},
};

use super::{BadTls, choice};

/// What a handshake may choose from: a provider with no more than the suites that are on, and the versions.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
}

/// Each suite by its name in the standard, which is a JVM's too, and by OpenSSL's.
const SUITES: [(CipherSuite, &str, &str); 9] = [
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256", ""),
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384", ""),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256", ""),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ),
];

/// Versions that were, by their names in a JVM, in OpenSSL and in nginx.
const OLD_VERSIONS: [&str; 7] = ["TLSv1.1", "TLSv1", "TLSv1.0", "SSLv3", "SSLv3.0", "SSLv2Hello", "SSLv2"];

/// What OpenSSL's names are made of.
#[rustfmt::skip]
const OPENSSL_PARTS: &[&str] = &[
    "ECDHE", "ECDH", "EECDH", "DHE", "EDH", "DH", "ADH", "AECDH", "RSA", "ECDSA", "DSA", "DSS", "PSK", "SRP", "KRB5",
    "EXP", "EXP1024", "NULL", "RC2", "RC4", "DES", "3DES", "IDEA", "SEED", "AES", "AES128", "AES256", "ARIA", "ARIA128",
    "ARIA256", "CAMELLIA128", "CAMELLIA256", "CHACHA20", "POLY1305", "GOST89", "GOST94", "GOST2001", "GOST2012",
    "128", "256", "CBC", "CBC3", "GCM", "CCM", "CCM8", "MD5", "SHA", "SHA256", "SHA384",
];

/// Whether a name of `protocols` is one of a version that there is; others that were once are passed over.
#[cfg(any(test, feature = "config"))]
pub(crate) fn has_protocol(name: &str) -> Result<bool, BadTls> {
    version(name).map(|version| version.is_some())
}

/// Whether a name of `ciphers` is one of a suite that there is; others that look like one are passed over.
#[cfg(any(test, feature = "config"))]
pub(crate) fn has_cipher(name: &str) -> Result<bool, BadTls> {
    let suite = suite(name)?;
    // A process may install its provider later.
    let Ok(provider) = choice::provider() else { return Ok(suite.is_some()) };
    Ok(provider.cipher_suites.iter().any(|there| Some(there.suite()) == suite))
}

impl Offer {
    /// What is left of these names; with none given, everything.
    pub(super) fn of(protocols: Option<&[String]>, ciphers: Option<&[String]>) -> Result<Self, BadTls> {
        let named = protocols.map(|given| given.iter().map(|name| version(name)).collect::<Result<Vec<_>, _>>());
        let named = named.transpose()?;
        let is_named = |there: &_| named.as_ref().is_none_or(|named| named.contains(&Some(there)));
        let versions: Vec<_> = [&TLS13, &TLS12].into_iter().filter(|there| is_named(there)).collect();
        if versions.is_empty() {
            return Err(BadTls::NoProtocols { given: protocols.unwrap_or_default().to_vec() });
        }
        let provider = choice::provider()?;
        let Some(given) = ciphers else { return Ok(Self { provider, versions }) };
        let fits = |suite: &SupportedCipherSuite| versions.contains(&suite.version());
        // In the order of the file: a server prefers what comes first.
        let mut suites = Vec::new();
        for name in given {
            let named = suite(name)?;
            suites.extend(provider.cipher_suites.iter().filter(|suite| Some(suite.suite()) == named && fits(suite)));
        }
        if suites.is_empty() {
            let there = provider.cipher_suites.iter().filter(|suite| fits(suite));
            return Err(BadTls::NoCiphers { given: given.to_vec(), there: there.map(name).collect() });
        }
        let provider = CryptoProvider { cipher_suites: suites, ..(*provider).clone() };
        Ok(Self { provider: Arc::new(provider), versions })
    }

    /// Whether a handshake can come about with this key of a server, which is in that file.
    pub(super) fn check_key(&self, file: &Path, key: &dyn SigningKey) -> Result<(), BadTls> {
        let is_on = |suite: &&SupportedCipherSuite| self.versions.contains(&suite.version());
        let fits = |suite: &SupportedCipherSuite| match suite {
            SupportedCipherSuite::Tls12(suite) => key.choose_scheme(suite.sign).is_some(),
            SupportedCipherSuite::Tls13(_) => true,
        };
        let on: Vec<_> = self.provider.cipher_suites.iter().filter(is_on).collect();
        if on.iter().any(|suite| fits(suite)) {
            return Ok(());
        }
        let all = choice::provider()?;
        Err(BadTls::NoCipherForKey {
            file: file.to_owned(),
            kind: format!("{:?}", key.algorithm()),
            ciphers: on.into_iter().map(name).collect(),
            there: all.cipher_suites.iter().filter(is_on).filter(|suite| fits(suite)).map(name).collect(),
        })
    }
}

/// As the standard has it.
fn name(suite: &SupportedCipherSuite) -> String {
    let known = SUITES.iter().find(|(known, ..)| *known == suite.suite());
    known.map_or_else(|| format!("{:?}", suite.suite()), |(_, name, _)| (*name).to_owned())
}

/// The version of a name, if it is there; an error if none ever had it.
fn version(name: &str) -> Result<Option<&'static SupportedProtocolVersion>, BadTls> {
    match name {
        "TLSv1.3" => Ok(Some(&TLS13)),
        "TLSv1.2" => Ok(Some(&TLS12)),
        old if OLD_VERSIONS.contains(&old) => Ok(None),
        _ => Err(BadTls::UnknownProtocol { name: name.to_owned() }),
    }
}

/// The suite of a name, if rustls may have it; an error if it does not look like one.
fn suite(name: &str) -> Result<Option<CipherSuite>, BadTls> {
    let known = SUITES.iter().find(|(_, standard, openssl)| [*standard, *openssl].contains(&name) && !name.is_empty());
    match known {
        Some((suite, ..)) => Ok(Some(*suite)),
        None if is_like_a_suite(name) => Ok(None),
        None => Err(BadTls::UnknownCipher { name: name.to_owned() }),
    }
}

fn is_like_a_suite(name: &str) -> bool {
    let is_plain = |rest: &str| rest.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    match name.strip_prefix("TLS_").or_else(|| name.strip_prefix("SSL_")) {
        Some(rest) => !rest.is_empty() && is_plain(rest),
        None => name.contains('-') && name.split('-').all(|part| OPENSSL_PARTS.contains(&part)),
    }
}

#[cfg(all(test, any(feature = "ring", feature = "aws-lc-rs")))]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn offer(protocols: &[&str], ciphers: &[&str]) -> Result<Offer, String> {
        Offer::of(Some(&strings(protocols)), Some(&strings(ciphers))).map_err(|error| error.to_string())
    }

    #[test]
    fn names_of_a_jvm_and_of_openssl_are_known_and_what_is_gone_is_passed_over() {
        let offer = offer(
            &["TLSv1", "TLSv1.2", "TLSv1.3"],
            &[
                "TLS_RSA_WITH_AES_128_CBC_SHA",
                "ECDHE-RSA-AES256-GCM-SHA384",
                "TLS_AES_128_GCM_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            ],
        );
        let suites = offer.unwrap().provider.cipher_suites.clone();
        let suites: Vec<_> = suites.iter().map(SupportedCipherSuite::suite).collect();
        assert_eq!(
            suites,
            [
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            ]
        );
    }

    #[test]
    fn every_suite_that_there_is_has_a_name() {
        let all = choice::provider().unwrap();
        for suite in &all.cipher_suites {
            assert!(SUITES.iter().any(|(known, ..)| *known == suite.suite()), "{suite:?}");
        }
    }

    #[test]
    fn a_list_that_leaves_nothing_names_the_choices() {
        let error = offer(&["TLSv1", "SSLv3"], &[]).unwrap_err();
        assert_eq!(error, r#"none of the protocols ["TLSv1", "SSLv3"] is available; there are TLSv1.2 and TLSv1.3"#);
        let error = offer(&["TLSv1.3"], &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]).unwrap_err();
        assert!(error.starts_with("none of the ciphers [\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"] is"), "{error}");
        assert!(error.contains("TLS_AES_256_GCM_SHA384") && !error.contains("ECDHE_ECDSA"), "{error}");
        assert!(offer(&[], &[]).is_err());
    }

    #[test]
    fn a_name_that_is_none_is_an_error() {
        for name in ["TLSv1.4", "tlsv1.3", "TLS1.2", "TLSv1.3 ", ""] {
            let error = offer(&["TLSv1.2", name], &["TLS_AES_128_GCM_SHA256"]).unwrap_err();
            assert_eq!(error, format!("'{name}' is no protocol version; there are TLSv1.2 and TLSv1.3"));
        }
        let bad =
            ["TYPO_CIPHER", "TLS_", "TLS_aes_128_gcm_sha256", "TLS_AES-128", "ECDHE-RZA-AES128-GCM-SHA256", "HIGH", ""];
        for name in bad {
            let error = offer(&["TLSv1.3"], &["TLS_AES_128_GCM_SHA256", name]).unwrap_err();
            assert!(error.starts_with(&format!("'{name}' is no cipher: ")), "{error}");
            assert!(has_cipher(name).is_err());
        }
        let gone = [
            "SSL_RSA_WITH_3DES_EDE_CBC_SHA",
            "TLS_DHE_RSA_WITH_AES_128_CBC_SHA",
            "AES128-SHA",
            "DHE-RSA-AES256-SHA256",
        ];
        for name in gone {
            assert!(!has_cipher(name).unwrap(), "{name}");
        }
        assert!(OLD_VERSIONS.iter().all(|name| !has_protocol(name).unwrap()));
        for (_, name, openssl) in &SUITES {
            assert!(has_cipher(name).unwrap() && (openssl.is_empty() || has_cipher(openssl).unwrap()), "{name}");
        }
    }
}
