//! Certificates and keys in PEM files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject, SectionKind},
    },
    sign::CertifiedKey,
};

use super::{BadTls, IdentityFiles, files::Snapshot, names::Offer, x509::Certificate};

/// For how long all certificates of a file are good.
#[derive(Clone, Debug)]
pub(super) struct Validity {
    pub(super) file: PathBuf,
    /// Peers are shown them, and look at this. Nobody looks at it in those to trust.
    pub(super) is_shown: bool,
    /// When the last of them begins.
    begins: SystemTime,
    /// When the first of them ends.
    pub(super) ends: SystemTime,
}

impl Validity {
    fn of(file: &Path, certificates: &[Certificate]) -> Self {
        let begins = certificates.iter().map(|certificate| certificate.not_before).max();
        let ends = certificates.iter().map(|certificate| certificate.not_after).min();
        let known = "a file without certificates is an error";
        Self { file: file.to_owned(), is_shown: true, begins: begins.expect(known), ends: ends.expect(known) }
    }

    /// Why peers do not take these at a time.
    pub(super) fn objection(&self, now: SystemTime) -> Option<BadTls> {
        if !self.is_shown {
            None
        } else if now > self.ends {
            Some(BadTls::Expired { file: self.file.clone(), ended: self.ends })
        } else if now < self.begins {
            Some(BadTls::NotYetValid { file: self.file.clone(), begins: self.begins })
        } else {
            None
        }
    }
}

/// A certificate with its key, and what is known of it.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) leaf: Certificate,
    pub(super) files: Vec<Validity>,
}

/// What its bearer is to be: a server is looked for by its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bearer {
    Server,
    Client,
}

impl Identity {
    /// Reads a chain and its key, which must belong together.
    pub(super) fn read(
        files: &IdentityFiles,
        snapshot: &Snapshot,
        bearer: Bearer,
        offer: &Offer,
    ) -> Result<Self, BadTls> {
        let (mut chain, read) = certificates(&files.cert, snapshot)?;
        let mut validities = vec![Validity::of(&files.cert, &read)];
        let leaf = read.into_iter().next().expect("a file without certificates is an error");
        if bearer == Bearer::Server && !leaf.has_names {
            return Err(BadTls::NoNames { file: files.cert.clone(), subject: leaf.subject });
        }
        if let Some(file) = &files.intermediates {
            let (more, read) = certificates(file, snapshot)?;
            chain.extend(more);
            validities.push(Validity::of(file, &read));
        }
        let key = private_key(&files.key, snapshot)?;
        let key = CertifiedKey::from_der(chain, key, &offer.provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => BadTls::Mismatch { cert: files.cert.clone(), key: files.key.clone() },
            error => BadTls::BadKey { file: files.key.clone(), reason: error.to_string() },
        })?;
        // The suite says nothing of a client's key.
        if bearer == Bearer::Server {
            offer.check_key(&files.key, &*key.key)?;
        }
        Ok(Self { key: Arc::new(key), leaf, files: validities })
    }
}

/// The certificates to trust, from these files, or from the system if there are none.
pub(super) fn roots(files: &[PathBuf], snapshot: &Snapshot) -> Result<(Arc<RootCertStore>, Vec<Validity>), BadTls> {
    let mut store = RootCertStore::empty();
    let mut validities = Vec::new();
    if files.is_empty() {
        let found = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(found.certs);
        if store.is_empty() {
            let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            let reason = if errors.is_empty() { "none was found".to_owned() } else { errors.join("; ") };
            return Err(BadTls::NoSystemRoots { reason });
        }
    }
    for file in files {
        let ders = sections(file, snapshot)?;
        let mut read = Vec::new();
        for (at, der) in ders.into_iter().enumerate() {
            // Roots may be of version 1: nothing in them is looked at but the name and the key.
            read.push(certificate(file, at, &der)?);
            store.add(der).map_err(|error| BadTls::BadCertificate {
                file: file.clone(),
                number: at + 1,
                reason: error.to_string(),
            })?;
        }
        validities.push(Validity { is_shown: false, ..Validity::of(file, &read) });
    }
    Ok((Arc::new(store), validities))
}

/// A chain: each certificate as it is, and as it is read.
fn certificates(file: &Path, snapshot: &Snapshot) -> Result<(Vec<CertificateDer<'static>>, Vec<Certificate>), BadTls> {
    let ders = sections(file, snapshot)?;
    let read = ders.iter().enumerate().map(|(at, der)| {
        let read = certificate(file, at, der)?;
        match read.version {
            3.. => Ok(read),
            version => Err(BadTls::OldVersion { file: file.to_owned(), number: at + 1, version }),
        }
    });
    let read = read.collect::<Result<_, _>>()?;
    Ok((ders, read))
}

fn certificate(file: &Path, at: usize, der: &[u8]) -> Result<Certificate, BadTls> {
    Certificate::read(der).ok_or_else(|| BadTls::BadCertificate {
        file: file.to_owned(),
        number: at + 1,
        reason: "its bytes are no DER of one".to_owned(),
    })
}

fn sections(file: &Path, snapshot: &Snapshot) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let sections = CertificateDer::pem_slice_iter(snapshot.file(file)?);
    let sections = sections.collect::<Result<Vec<_>, _>>().map_err(|error| malformed(file, &error))?;
    if sections.is_empty() { Err(BadTls::NoCertificate { file: file.to_owned() }) } else { Ok(sections) }
}

/// The first key of a file. What else is in it (parameters of a curve, certificates) is passed over.
fn private_key(file: &Path, snapshot: &Snapshot) -> Result<PrivateKeyDer<'static>, BadTls> {
    let bytes = snapshot.file(file)?;
    let is_encrypted = |mark: &[u8]| bytes.windows(mark.len()).any(|bytes| bytes == mark);
    if is_encrypted(b"BEGIN ENCRYPTED PRIVATE KEY") || is_encrypted(b"Proc-Type: 4,ENCRYPTED") {
        return Err(BadTls::Encrypted { file: file.to_owned() });
    }
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|error| malformed(file, &error))?;
        if let Some(key) = PrivateKeyDer::from_pem(kind, der) {
            return Ok(key);
        }
    }
    Err(BadTls::NoKey { file: file.to_owned() })
}

fn malformed(file: &Path, error: &pem::Error) -> BadTls {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let reason = match error {
        pem::Error::MissingSectionEnd { end_marker } => format!("there is no -----END {}-----", text(end_marker)),
        // Not the line itself: in a file of a key it may be a part of the key.
        pem::Error::IllegalSectionStart { .. } => "a section begins in a line that does not end".to_owned(),
        pem::Error::Base64Decode(_) => "what is in a section is no base64".to_owned(),
        error => error.to_string(),
    };
    BadTls::Malformed { file: file.to_owned(), reason }
}
