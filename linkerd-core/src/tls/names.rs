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

impl Offer {
    /// What is left of these names; with none given, everything.
    pub(super) fn of(protocols: Option<&[String]>, ciphers: Option<&[String]>) -> Result<Self, BadTls> {
        let versions: Vec<_> = [("TLSv1.3", &TLS13), ("TLSv1.2", &TLS12)]
            .into_iter()
            .filter(|(name, _)| protocols.is_none_or(|given| given.iter().any(|given| given == name)))
            .map(|(_, version)| version)
            .collect();
        if versions.is_empty() {
            return Err(BadTls::NoProtocols { given: protocols.unwrap_or_default().to_vec() });
        }
        let provider = choice::provider()?;
        let Some(given) = ciphers else { return Ok(Self { provider, versions }) };
        let fits = |suite: &SupportedCipherSuite| versions.contains(&suite.version());
        // In the order of the file: a server prefers what comes first.
        let mut suites = Vec::new();
        for (suite, _, _) in given.iter().filter_map(|given| find(given)) {
            suites.extend(provider.cipher_suites.iter().filter(|s| s.suite() == *suite && fits(s)));
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

fn find(given: &str) -> Option<&'static (CipherSuite, &'static str, &'static str)> {
    SUITES.iter().find(|(_, name, openssl)| given == *name || given == *openssl && !openssl.is_empty())
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
}
