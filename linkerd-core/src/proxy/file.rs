//! The file that a proxy is made from, and what it was the last time that somebody looked.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::config::{Config, Errors, MAX_BYTES};

/// A configuration file that may change. A clone is of the same file.
#[derive(Clone, Debug)]
pub struct ConfigFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    // Of the bytes that were last read, whatever became of them.
    seen: AtomicU64,
}

impl ConfigFile {
    /// The file at this path, through links as they are when it is read.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Inner { path: path.into(), seen: AtomicU64::new(0) }))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Reads and checks it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file, or why it cannot be read.
    pub fn load(&self) -> Result<Config, Errors> {
        // Before it is read: what it becomes in between is a change that is still to be seen.
        self.set_seen(self.digest());
        Config::load(&self.0.path)
    }

    /// What it is now, if that is something else than what was last read or [passed over](Self::set_seen).
    pub(super) fn changed(&self) -> Option<u64> {
        let digest = self.digest();
        // Relaxed: whoever reads a digest that is just being replaced looks again.
        (digest != self.0.seen.load(Ordering::Relaxed)).then_some(digest)
    }

    pub(super) fn set_seen(&self, digest: u64) {
        self.0.seen.store(digest, Ordering::Relaxed);
    }

    /// Of its bytes; of a file that cannot be read, or is too long to be one, of why.
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match fs::metadata(&self.0.path) {
            Ok(meta) if meta.len() <= MAX_BYTES as u64 && meta.is_file() => {
                fs::read(&self.0.path).map_err(|error| error.kind()).hash(&mut hasher);
            }
            Ok(meta) => meta.len().hash(&mut hasher),
            Err(error) => error.kind().hash(&mut hasher),
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_until_it_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("l.yaml");
        fs::write(&path, "routers: [{protocol: http, servers: [{}]}]").unwrap();
        let file = ConfigFile::new(&path);
        assert!(file.changed().is_some());
        file.load().unwrap();
        assert_eq!(file.changed(), None);
        // Read and refused is read.
        fs::write(&path, "routers: []").unwrap();
        let first = file.changed();
        assert!(first.is_some());
        file.load().unwrap_err();
        assert_eq!(file.changed(), None);
        fs::remove_file(&path).unwrap();
        assert!(file.changed().is_some_and(|gone| Some(gone) != first));
    }
}
