//! A folder of endpoint files (`io.l5d.fs`): each file names a service, each line an endpoint.
//!
//! ```text
//! disco/web          127.0.0.1 8080
//!                    127.0.0.1 8081 * 0.5     # half the traffic
//! disco/eu/web       web.eu.example 80 zone=eu
//! ```
//!
//! `/web` is the first, `/eu/web` the second, and what follows a file's name is residual. A file may be edited in place,
//! replaced by a rename or switched by a link. Bad news (a file that is empty, malformed or gone) is believed once it
//! was the same for 100 ms (1 s if the file was written twice within a second), so that no step of an edit takes a good
//! set away; good news counts at once.
//!
//! On Linux nothing new is believed of a file before its writer closes it, however long that takes: the 100 ms begin
//! then. A writer who never closes it is waited for 5 s after each of his changes, and 50 s in all. Where the system does
//! not tell of closes (other systems, network file systems) a writer who takes longer than 100 ms between two steps of an
//! edit is seen half way; a rename is safe everywhere.

mod file;
mod lines;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    ffi::OsStr,
    fmt, fs, io,
    num::NonZeroUsize,
    path::{Path as FilePath, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    Activity, Addr, Bound, Failure, Name, NameTree, Path, Publisher, Snapshot, State,
    namer::{Inet, Resolve},
    watch::{Folder, SETTLE, Seen, Sink, Trust, entry_name},
};

use file::{File, FileSink};

/// The largest endpoint file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 500 * 1024;

/// How many names are watched at once, unless [`Namer::with_max_names`] says otherwise.
pub const MAX_NAMES: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// How many names [`Namer::names`] lists at most.
const MAX_LISTED: usize = 10_000;

/// Looks names up in a folder of endpoint files.
///
/// | at the path | answer |
/// |---|---|
/// | a file | a bound leaf: the elements that name the file are its id, the rest its residual |
/// | a file without endpoints | a bound leaf with an empty set: the name exists |
/// | a malformed file, too large or not readable | a bound leaf: the last good set, marked as stale; a failed address if there never was one |
/// | nothing, or a folder | [`NameTree::Neg`]; what would lead out of the folder (`..`) too |
/// | the folder itself is gone or not readable | the last answer, marked as stale; a failure if there never was one |
///
/// The operating system tells of changes, one watch for the whole folder; files are also looked at every 10 s, or every
/// second where it does not tell. A name that nobody reads is forgotten within 20 s.
///
/// A clone is the same namer.
#[derive(Clone)]
pub struct Namer {
    inner: Arc<Inner>,
}

/// One name that is, or was lately, looked up.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The path that was looked up.
    pub path: Path,
    /// The file that it names, or would name.
    pub file: PathBuf,
    /// What is known: the address and its age are in the leaf.
    pub tree: Snapshot<NameTree<Name>>,
}

/// Why a file does not say where its endpoints are.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadFile {
    /// A line is not of the form `host port [* weight] [zone=NAME]`.
    #[error("malformed address: {text}")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// The line without its comment, possibly shortened.
        text: String,
    },
    /// It is no text.
    #[error("{file} is not UTF-8", file = file.display())]
    NotText {
        /// The file.
        file: PathBuf,
        /// The line with the first bad byte, counted from one.
        line: usize,
    },
    /// It has more than [`MAX_FILE_BYTES`].
    #[error("{file} is larger than {MAX_FILE_BYTES} bytes", file = file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// The file, or a folder on the way to it, cannot be read.
    #[error("cannot read {file}", file = file.display())]
    Unreadable {
        /// The file or folder.
        file: PathBuf,
        /// What the operating system says.
        source: Arc<io::Error>,
    },
}

/// Endpoints of before are kept, because their file became bad.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the endpoints are those of before {file} became bad{line}", file = file.display(), line = ShowLine(*line))]
pub struct Kept {
    /// The file.
    pub file: PathBuf,
    /// The first bad line, if it is about one, counted from one.
    pub line: Option<usize>,
    /// What is wrong with it.
    pub source: BadFile,
}

/// As many names are watched as may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot watch {path} in {folder}: {limit} names are watched already", folder = folder.display())]
pub struct TooManyNames {
    /// The name that was looked up.
    pub path: Path,
    /// The namer's folder.
    pub folder: PathBuf,
    /// How many names may be watched.
    pub limit: usize,
}

struct Inner {
    folder: Folder,
    resolver: Arc<dyn Resolve>,
    max_names: NonZeroUsize,
    names: Mutex<HashMap<Path, Arc<Publisher<NameTree<Name>>>>>,
    files: Mutex<HashMap<Path, Arc<File>>>,
}

/// Keeps the tree of one name: whether there is a file, and which.
struct NameSink {
    inner: Arc<Inner>,
    path: Path,
    tree: Arc<Publisher<NameTree<Name>>>,
    failure: Option<Failure>,
}

struct ShowLine(Option<usize>);

impl Namer {
    /// Names the files below `root`, which need not be there yet. A relative path counts from the current directory.
    ///
    /// Hosts that are names are resolved as [`Inet::default`] does.
    #[must_use]
    pub fn new(root: impl AsRef<FilePath>) -> Self {
        Self::build(root.as_ref(), Arc::new(Inet::default()), MAX_NAMES, SETTLE)
    }

    /// Resolves hosts that are names by `resolver`.
    #[must_use]
    pub fn with_resolver(self, resolver: Arc<dyn Resolve>) -> Self {
        Self::build(self.root(), resolver, self.inner.max_names, self.inner.folder.settle())
    }

    /// Watches at most this many names; another lookup fails with [`TooManyNames`] until one of them is not read any
    /// more. [`MAX_NAMES`] by default.
    #[must_use]
    pub fn with_max_names(self, max_names: NonZeroUsize) -> Self {
        Self::build(self.root(), self.inner.resolver.clone(), max_names, self.inner.folder.settle())
    }

    /// Believes bad news (a file that is empty, malformed or gone) when it was the same for this long; 100 ms by default,
    /// a day at most. Zero believes everything.
    ///
    /// A writer who does not close the file is waited for 50 times as long after each of his changes, and 500 times as
    /// long in all. A file that was written twice within ten times as long must be the same for that long.
    #[must_use]
    pub fn with_settle_time(self, settle: Duration) -> Self {
        Self::build(self.root(), self.inner.resolver.clone(), self.inner.max_names, settle)
    }

    fn build(root: &FilePath, resolver: Arc<dyn Resolve>, max_names: NonZeroUsize, settle: Duration) -> Self {
        let folder = Folder::new(root, settle);
        let inner = Inner { folder, resolver, max_names, names: Mutex::default(), files: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The folder, as an absolute path.
    #[must_use]
    pub fn root(&self) -> &FilePath {
        self.inner.folder.base()
    }

    /// The names of the files at the top of the folder, sorted: the first 10,000 that the operating system lists.
    ///
    /// Reads the folder, so call it where blocking is allowed.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn names(&self) -> io::Result<Vec<Path>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root())?.take(MAX_LISTED) {
            let entry = entry?;
            // Follows links, which `entry.file_type()` would not.
            if fs::metadata(entry.path()).is_ok_and(|meta| meta.is_file())
                && let Ok(name) = Path::from_elements([element(&entry.file_name())])
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// What is watched now, sorted by path, for people.
    #[must_use]
    pub fn state(&self) -> Vec<Watched> {
        let names: Vec<_> = lock(&self.inner.names).iter().map(|(path, tree)| (path.clone(), tree.clone())).collect();
        let watched = names.into_iter().map(|(path, tree)| {
            let tree = tree.subscribe().snapshot();
            let id = match &tree.state {
                State::Ok(NameTree::Leaf(Name::Bound(bound))) => &bound.id,
                _ => &path,
            };
            let file = self.root().join(id.iter().filter_map(entry_name).collect::<PathBuf>());
            Watched { path, file, tree }
        });
        let mut watched: Vec<_> = watched.collect();
        watched.sort_by(|a, b| a.path.cmp(&b.path));
        watched
    }
}

impl crate::Namer for Namer {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        let mut names = lock(&self.inner.names);
        if let Some(known) = names.get(path) {
            return known.subscribe();
        }
        if path.is_empty() {
            return Activity::value(NameTree::Neg);
        }
        if names.len() >= self.inner.max_names.get() {
            names.retain(|_, tree| !tree.is_closed());
        }
        if names.len() >= self.inner.max_names.get() {
            return Activity::failed(Arc::new(self.inner.too_many(path)));
        }
        let (tree, activity) = Activity::channel();
        let tree = Arc::new(tree);
        names.insert(path.clone(), tree.clone());
        drop(names);
        // What can be no entry is not there; it may still be the residual of a file before it.
        let elements = path.iter().map_while(entry_name).map(OsStr::to_owned).collect();
        let sink = NameSink { inner: self.inner.clone(), path: path.clone(), tree, failure: None };
        self.inner.folder.watch(elements, Box::new(sink));
        activity
    }

    fn names(&self) -> Option<io::Result<Vec<Path>>> {
        Some(Self::names(self))
    }
}

impl Inner {
    /// The address of the file that `id` names, shared by all names that lead to it.
    fn file(self: &Arc<Self>, id: &Path) -> Result<Activity<Addr>, TooManyNames> {
        let mut files = lock(&self.files);
        if let Some(known) = files.get(id) {
            return Ok(known.addr.subscribe());
        }
        if files.len() >= self.max_names.get() {
            files.retain(|_, file| !file.addr.is_closed());
        }
        if files.len() >= self.max_names.get() {
            return Err(self.too_many(id));
        }
        let (file, activity) = File::new();
        files.insert(id.clone(), file.clone());
        drop(files);
        let elements = id.iter().map_while(entry_name).map(OsStr::to_owned).collect();
        self.folder.watch(elements, Box::new(FileSink::new(self.clone(), id.clone(), file)));
        Ok(activity)
    }

    fn too_many(&self, path: &Path) -> TooManyNames {
        TooManyNames { path: path.clone(), folder: self.folder.base().to_owned(), limit: self.max_names.get() }
    }
}

impl Sink for NameSink {
    fn max_bytes(&self) -> usize {
        0
    }

    fn offer(&mut self, seen: &Seen, trust: Trust) -> bool {
        let known = self.tree.sample().ok();
        let believed = match (seen, &known) {
            (_, None) => true,
            (Seen::File { .. }, Some(_)) => trust >= Trust::Calm,
            (Seen::Missing, Some(tree)) => *tree == NameTree::Neg || trust == Trust::Settled,
            (Seen::Unknown { .. }, Some(_)) => trust == Trust::Settled,
        };
        if !believed {
            return false;
        }
        self.failure = None;
        match seen {
            Seen::Missing => self.tree.ok_if_changed(NameTree::Neg, PartialEq::eq),
            Seen::File { consumed, .. } => {
                let (id, residual) = (self.path.take_first(*consumed), self.path.drop_first(*consumed));
                match self.inner.file(&id) {
                    Ok(addr) => {
                        let leaf = NameTree::Leaf(Name::Bound(Bound::new(id, residual, addr)));
                        self.tree.ok_if_changed(leaf, PartialEq::eq);
                    }
                    Err(error) => self.fail(Arc::new(error)),
                }
            }
            Seen::Unknown { path, error } => {
                self.fail(Arc::new(BadFile::Unreadable { file: path.clone(), source: error.clone() }));
            }
        }
        true
    }

    fn unchanged(&mut self) {
        match &self.failure {
            None => self.tree.contact(),
            Some(failure) => self.tree.failed(failure.clone()),
        }
    }

    fn is_unread(&mut self) -> bool {
        let mut names = lock(&self.inner.names);
        // Under the lock, so that no lookup finds it in between.
        let is_unread = self.tree.is_closed();
        if is_unread {
            remove(&mut names, &self.path, &self.tree);
        }
        is_unread
    }
}

impl NameSink {
    fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure.clone());
        self.tree.failed(failure);
    }
}

impl Drop for NameSink {
    fn drop(&mut self) {
        remove(&mut lock(&self.inner.names), &self.path, &self.tree);
    }
}

impl BadFile {
    /// The file or folder that it is about.
    #[must_use]
    pub fn file(&self) -> &FilePath {
        match self {
            Self::Malformed { file, .. }
            | Self::NotText { file, .. }
            | Self::TooLarge { file }
            | Self::Unreadable { file, .. } => file,
        }
    }

    /// The line that it is about, counted from one.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Malformed { line, .. } | Self::NotText { line, .. } => Some(*line),
            Self::TooLarge { .. } | Self::Unreadable { .. } => None,
        }
    }
}

/// Removes an entry, unless another one has taken its place.
fn remove<T>(map: &mut HashMap<Path, Arc<T>>, path: &Path, value: &Arc<T>) {
    if map.get(path).is_some_and(|known| Arc::ptr_eq(known, value)) {
        map.remove(path);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn element(name: &OsStr) -> &[u8] {
    #[cfg(unix)]
    return std::os::unix::ffi::OsStrExt::as_bytes(name);
    #[cfg(not(unix))]
    return name.to_str().unwrap_or_default().as_bytes();
}

impl fmt::Display for ShowLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, " at line {line}"))
    }
}

impl fmt::Debug for Namer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namer").field("root", &self.root()).finish_non_exhaustive()
    }
}
