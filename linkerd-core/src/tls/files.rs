//! Files as they were at one moment: what is compared is what is parsed.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::BadTls;

/// The files of a certificate and its key, all PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdentityFiles {
    /// The certificate; the rest of its chain may follow in the same file.
    pub cert: PathBuf,
    /// Its key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
    /// The rest of the chain, if it has a file of its own.
    pub intermediates: Option<PathBuf>,
}

impl IdentityFiles {
    /// A certificate and its key, without a chain of its own.
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { cert: cert.into(), key: key.into(), intermediates: None }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.cert, &self.key].into_iter().chain(&self.intermediates)
    }
}

/// What was in some files, or why that is not known. A clone is the same one.
#[derive(Clone)]
pub(super) struct Snapshot(Arc<BTreeMap<PathBuf, Result<Vec<u8>, BadTls>>>);

/// The most bytes of a file: a bundle of all public roots has a quarter of a megabyte.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

impl Snapshot {
    /// Reads each file once. Blocks.
    pub(super) fn read<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        Self(Arc::new(files.into_iter().map(|file| (file.clone(), read(file))).collect()))
    }

    /// The same files as they were before, those of them that could be read then.
    pub(super) fn as_in(&self, before: &Self) -> Self {
        let was = |file| before.0.get(file).filter(|read| read.is_ok());
        Self(Arc::new(self.0.iter().map(|(file, read)| (file.clone(), was(file).unwrap_or(read).clone())).collect()))
    }

    /// One of the files that were read.
    pub(super) fn file(&self, file: &Path) -> Result<&[u8], BadTls> {
        match self.0.get(file) {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(error)) => Err(error.clone()),
            None => Err(BadTls::Unreadable { file: file.to_owned(), source: Arc::new(io::ErrorKind::NotFound.into()) }),
        }
    }

    /// Tells two snapshots of the same files apart.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (file, read) in &*self.0 {
            (file, read.as_ref().ok()).hash(&mut hasher);
        }
        hasher.finish()
    }
}

fn read(file: &Path) -> Result<Vec<u8>, BadTls> {
    let unreadable = |source: io::Error| BadTls::Unreadable { file: file.to_owned(), source: Arc::new(source) };
    let mut bytes = Vec::new();
    let opened = fs::File::open(file).map_err(unreadable)?;
    opened.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(BadTls::TooLarge { file: file.to_owned() });
    }
    Ok(bytes)
}
