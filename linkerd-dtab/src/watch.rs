//! Files below a folder, watched: what is read is believed only when it can be.
//!
//! The operating system tells which directory entries change; a slow poll finds what it did not tell. What would take
//! something away (a file that is gone, emptied or malformed) may be one half of an edit, so a [`Sink`] can ask to see
//! it again after [`SETTLE`], unchanged. That time begins when the writer closes the file, where the operating system
//! tells: a writer may be held up for long between two steps of one edit.

mod os;
mod trust;
mod walk;

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fmt, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

pub(crate) use trust::Trust;
use trust::{Burst, Held};
pub(crate) use walk::entry_name;
use walk::{Found, Walk, walk};

/// For how long bad news must stay the same to be believed, if nobody says otherwise.
pub(crate) const SETTLE: Duration = Duration::from_millis(100);
/// The longest settle time: what is multiplied by it stays a time that clocks know.
const MAX_SETTLE: Duration = Duration::from_hours(24);
/// How often a file is read in the hope that nobody writes meanwhile.
const READS: usize = 3;
/// How often every file is looked at where the operating system tells of changes, and where it does not.
const POLL: Duration = Duration::from_secs(10);
const POLL_UNTOLD: Duration = Duration::from_secs(1);
/// Up to so many entries those that nobody reads may wait for the poll.
const CROWD: usize = 256;
/// A file that was written this shortly before it was read may change again without a trace in its times.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);
/// Folders that appear while they are being walked are walked again, so often.
const WALKS: usize = 4;

/// Takes what is found for one path. Called on a blocking thread.
pub(crate) trait Sink: Send + 'static {
    /// How much of a file is wanted, in bytes; zero if only that it is there.
    fn max_bytes(&self) -> usize;

    /// This is there now. `false`: it is not believed yet, and must be shown again with more trust.
    ///
    /// What has [settled](Trust::Settled) must be believed.
    fn offer(&mut self, seen: &Seen, trust: Trust) -> bool;

    /// What was last believed was looked at again, and is still so.
    fn unchanged(&mut self);

    /// Whether nobody reads any more. If so the sink is dropped, and must not be found by a new reader.
    fn is_unread(&mut self) -> bool;
}

/// What is at a path.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A file, named by the first `consumed` elements.
    File { path: PathBuf, consumed: usize, content: Content },
    /// No file, for sure.
    Missing,
    /// It cannot be told.
    Unknown { path: PathBuf, error: Arc<io::Error> },
}

/// What is in a file.
#[derive(Debug)]
pub(crate) enum Content {
    /// Nobody asked.
    Unread,
    /// This.
    Bytes(Vec<u8>),
    /// More than was asked for.
    TooLarge,
    /// It cannot be told.
    Unreadable(Arc<io::Error>),
}

/// A folder and the paths below it that are watched, by one task and one watch of the operating system.
///
/// A clone is the same folder. The task ends when the last clone and the last sink are gone.
#[derive(Clone)]
pub(crate) struct Folder {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
}

struct Shared {
    base: PathBuf,
    settle: Duration,
    desk: Mutex<Desk>,
    wake: Notify,
    /// Something happened to an entry that nobody watches.
    strange: Notify,
    running: AtomicBool,
    /// Whether the operating system is asked to tell of changes; tests say no.
    is_told: AtomicBool,
    /// Whether the last thing that was believed is that nothing can be told.
    is_unknown: AtomicBool,
}

#[derive(Default)]
struct Desk {
    next_id: u64,
    /// Which paths depend on a directory entry: the operating system tells of many others too.
    interest: HashMap<PathBuf, Interest>,
    inbox: Inbox,
}

/// A directory entry that paths depend on.
#[derive(Default)]
struct Interest {
    /// Which.
    ids: HashSet<u64>,
    /// Whether it was written to and not closed since.
    is_written: bool,
    /// How often writers closed it.
    closed: u64,
}

/// What the operating system tells of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A file was written to, or made in order to be. It will be told when it is closed.
    Written,
    /// A writer closed it.
    Closed,
    /// Another file took its place, or it got its first name.
    Replaced,
    /// There is no such entry any more; if it was a watched folder, the watch is gone too.
    Gone,
    /// Something else about it changed, or it is not told what.
    Other,
}

/// What happened since the last look.
#[derive(Default)]
struct Inbox {
    added: Vec<Entry>,
    touched: HashMap<u64, Trust>,
    /// Entries that went away: if one was a watched folder, its watch went with it.
    gone: HashSet<PathBuf>,
    all: bool,
}

/// Wakes the task when the last of them is gone.
struct Handle(Arc<Shared>);

/// Tells that the task is gone, however it ended.
struct Running(Arc<Shared>);

struct Entry {
    id: u64,
    elements: Vec<OsString>,
    sink: Box<dyn Sink>,
    depends_on: Vec<PathBuf>,
    /// What the last look cost nothing to compare, `None` if it would not tell.
    stamp: Option<Stamp>,
    believed: Option<u64>,
    held: Option<Held>,
    burst: Burst,
}

/// Tells two states of a file apart without reading it.
#[derive(Clone, Debug, PartialEq)]
enum Stamp {
    File { path: PathBuf, identity: (u64, u64), len: u64, modified: Option<SystemTime>, changed: (i64, i64) },
    Missing { dir_modified: Option<SystemTime> },
}

struct Scanner {
    shared: Arc<Shared>,
    os: os::Watches,
    entries: HashMap<u64, Entry>,
    /// From how many on those that nobody reads are looked for before the next poll.
    crowd: usize,
}

impl Folder {
    /// The folder at `base`, which need not be there (yet). A relative path counts from the current directory.
    ///
    /// Bad news must stay the same for `settle` to be believed, a day at most.
    pub(crate) fn new(base: &Path, settle: Duration) -> Self {
        let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
        let desk = Mutex::default();
        let shared = Arc::new(Shared {
            base,
            settle: settle.min(MAX_SETTLE),
            desk,
            wake: Notify::new(),
            strange: Notify::new(),
            running: AtomicBool::new(false),
            is_told: AtomicBool::new(true),
            is_unknown: AtomicBool::new(false),
        });
        Self { handle: Arc::new(Handle(shared.clone())), shared }
    }

    /// Watches as if the operating system could not.
    #[cfg(test)]
    pub(crate) fn tell_nothing(&self) {
        self.shared.is_told.store(false, Ordering::Relaxed);
    }

    /// Where it is, as an absolute path.
    pub(crate) fn base(&self) -> &Path {
        &self.shared.base
    }

    /// For how long bad news must stay the same to be believed.
    pub(crate) fn settle(&self) -> Duration {
        self.shared.settle
    }

    /// Waits for a change of an entry of one of the watched folders that nobody watches: a new one, maybe. Only what the
    /// operating system tells is known.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe, for one who waits.
    #[cfg(feature = "files")]
    pub(crate) async fn strange(&self) {
        self.shared.strange.notified().await;
    }

    /// Shows `sink` what is at these elements, now and whenever it changes.
    ///
    /// Called inside a tokio runtime.
    pub(crate) fn watch(&self, elements: Vec<OsString>, sink: Box<dyn Sink>) {
        {
            let mut desk = self.shared.desk();
            let id = desk.next_id;
            desk.next_id += 1;
            desk.inbox.added.push(Entry {
                id,
                elements,
                sink,
                depends_on: Vec::new(),
                stamp: None,
                believed: None,
                held: None,
                burst: Burst::default(),
            });
        }
        // AcqRel: whoever finds the task gone must also see what it left behind.
        if self.shared.running.swap(true, Ordering::AcqRel) {
            self.shared.wake.notify_one();
            return;
        }
        let running = Running(self.shared.clone());
        tokio::spawn(drive(running, Arc::downgrade(&self.handle)));
    }
}

/// Looks whenever something happened, until nobody can ask any more.
async fn drive(running: Running, handle: std::sync::Weak<Handle>) {
    let shared = running.0.clone();
    let mut scanner =
        Scanner { os: os::Watches::new(&shared), shared: shared.clone(), entries: HashMap::new(), crowd: CROWD };
    let mut poll_at = Instant::now() + POLL;
    loop {
        let polled = Instant::now() >= poll_at;
        let looked = tokio::task::spawn_blocking(move || {
            scanner.look(polled);
            scanner
        });
        // A panic of a sink ends the watch; its readers keep what they have, and the next lookup starts afresh.
        let Ok(back) = looked.await else { return };
        scanner = back;
        if scanner.entries.is_empty() && handle.strong_count() == 0 {
            return;
        }
        if polled {
            poll_at = Instant::now() + if scanner.os.is_told() { POLL } else { POLL_UNTOLD };
        } else if !scanner.os.is_told() {
            poll_at = poll_at.min(Instant::now() + POLL_UNTOLD);
        }
        if scanner.entries.is_empty() {
            shared.wake.notified().await;
            continue;
        }
        let due = scanner.entries.values().filter_map(|entry| entry.held.as_ref()).map(|held| held.due).min();
        tokio::select! {
            () = shared.wake.notified() => {}
            () = sleep_until(due.map_or(poll_at, |at| at.min(poll_at))) => {}
        }
    }
}

impl Scanner {
    /// Looks at what was added, what changed, what has settled, and at everything if it is time to.
    fn look(&mut self, poll: bool) {
        let mut forget = poll;
        // A sink may add others while it is shown something: they are looked at here too.
        loop {
            // Names that nobody has may be asked for by the thousand, each once, and without a pause.
            if std::mem::take(&mut forget) || self.entries.len() >= self.crowd {
                self.forget_unread();
                self.crowd = CROWD.max(self.entries.len() * 3 / 2);
            }
            self.os.next_round();
            let Inbox { added, mut touched, gone, all } = std::mem::take(&mut self.shared.desk().inbox);
            // Not under the lock: the thread that must answer may be waiting for it.
            for dir in &gone {
                self.os.lost(dir);
            }
            let now = Instant::now();
            if all {
                self.entries.keys().for_each(|&id| _ = touched.entry(id).or_insert(Trust::Passing));
            }
            let due = |entry: &&Entry| entry.held.as_ref().is_some_and(|held| held.due <= now);
            let due: Vec<_> = self.entries.values().filter(due).map(|entry| entry.id).collect();
            if added.is_empty() && touched.is_empty() && due.is_empty() {
                break;
            }
            for (id, told) in
                due.into_iter().map(|id| (id, None)).chain(touched.into_iter().map(|(id, t)| (id, Some(t))))
            {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.look(&self.shared, &mut self.os, told);
                }
            }
            for mut entry in added {
                entry.look(&self.shared, &mut self.os, Some(Trust::Passing));
                self.entries.insert(entry.id, entry);
            }
        }
        if poll {
            for entry in self.entries.values_mut() {
                entry.look(&self.shared, &mut self.os, None);
            }
        }
    }

    fn forget_unread(&mut self) {
        let Self { shared, os, entries, .. } = self;
        entries.retain(|_, entry| {
            if !entry.sink.is_unread() {
                return true;
            }
            entry.depend_on(Vec::new(), shared, os);
            false
        });
        // What was there in a crowd need not be for ever.
        entries.shrink_to(2 * entries.len());
    }
}

impl Entry {
    /// Looks at the path; `told` if there is a reason to, else only to be sure.
    fn look(&mut self, shared: &Shared, os: &mut os::Watches, told: Option<Trust>) {
        let mut found = Found::Missing;
        for _ in 0..WALKS {
            let Walk { found: latest, entries } = walk(&shared.base, &self.elements);
            found = latest;
            if !self.depend_on(entries, shared, os) {
                break;
            }
        }
        let stamp = Stamp::of(&found, &self.depends_on);
        if told.is_none() && self.held.is_none() && stamp.is_some() && self.stamp == stamp {
            self.sink.unchanged();
            return;
        }
        let (seen, is_calm) = Seen::read(found, self.sink.max_bytes());
        let digest = seen.digest();
        let now = Instant::now();
        // Asked for after reading: who began to write before is known by now.
        let (is_written, closed) = shared.writers(&seen);
        let is_busy = self.burst.goes_on(now, shared.settle, closed);
        let held = self.held.take();
        self.stamp = stamp.clone().filter(|stamp| !stamp.is_fresh());
        if self.believed == Some(digest) {
            self.sink.unchanged();
            return;
        }
        let first = held.as_ref().map_or(now, |held| held.first);
        let mut next = Held { digest, stamp, untouched: now, first, is_busy, due: now };
        // A file may have come and gone since the last look: what is there now is new, though it looks the same.
        if let Some(held) = held
            && (held.digest, &held.stamp) == (digest, &next.stamp)
            && told.is_none()
            && is_calm
        {
            next.untouched = held.untouched;
            next.is_busy = held.is_busy;
        }
        let trust = next.trust(now, shared.settle, is_written, told.filter(|_| is_calm));
        if self.sink.offer(&seen, trust) {
            self.believed = Some(digest);
            shared.note(&seen);
        } else {
            self.held = Some(next);
        }
    }

    /// Watches the directory entries that the last walk saw. `true` if one of their folders was not watched before,
    /// so that a change since the walk may have been missed.
    fn depend_on(&mut self, entries: Vec<PathBuf>, shared: &Shared, os: &mut os::Watches) -> bool {
        if entries != self.depends_on {
            let mut desk = shared.desk();
            for path in &entries {
                desk.interest.entry(path.clone()).or_default().ids.insert(self.id);
            }
            for path in self.depends_on.iter().filter(|path| !entries.contains(path)) {
                if let Some(interest) = desk.interest.get_mut(path) {
                    interest.ids.remove(&self.id);
                    if interest.ids.is_empty() {
                        desk.interest.remove(path);
                    }
                }
            }
        }
        let before = std::mem::replace(&mut self.depends_on, entries);
        os.replace(&before, &self.depends_on)
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened to a directory entry. Called by the operating system's thread.
    fn tell(&self, path: &Path, event: Event) {
        let mut desk = self.desk();
        let Desk { interest, inbox: Inbox { touched, gone, .. }, .. } = &mut *desk;
        let Some(known) = interest.get_mut(path) else {
            drop(desk);
            self.strange.notify_one();
            return;
        };
        match event {
            Event::Written => known.is_written = true,
            Event::Closed | Event::Replaced | Event::Gone => known.is_written = false,
            Event::Other => {}
        }
        known.closed += u64::from(event == Event::Closed);
        if event == Event::Gone {
            gone.insert(path.to_owned());
        }
        let trust = match event {
            Event::Closed | Event::Replaced | Event::Gone => Trust::Calm,
            Event::Written | Event::Other => Trust::Passing,
        };
        for &id in &known.ids {
            // The latest event counts: after a close somebody may have begun to write again.
            touched.insert(id, trust);
        }
        drop(desk);
        self.wake.notify_one();
    }

    /// Whether a file's writer did not close it yet, and how often writers did, as far as was told.
    fn writers(&self, seen: &Seen) -> (bool, u64) {
        let Seen::File { path, .. } = seen else { return (false, 0) };
        self.desk().interest.get(path).map_or((false, 0), |known| (known.is_written, known.closed))
    }

    /// Says when it cannot be told any more what is there: once, since all names below a folder share its fate.
    fn note(&self, seen: &Seen) {
        let is_unknown = matches!(seen, Seen::Unknown { .. });
        // Relaxed: only the scanner writes it.
        let was_unknown = self.is_unknown.swap(is_unknown, Ordering::Relaxed);
        if let (Seen::Unknown { path, error }, false) = (seen, was_unknown) {
            let (folder, path) = (self.base.display(), path.display());
            tracing::warn!(%folder, %path, %error, "cannot look into a watched folder: what is known is kept");
        }
    }

    /// Events were lost.
    fn tell_all(&self) {
        self.desk().inbox.all = true;
        self.wake.notify_one();
    }
}

impl Stamp {
    fn of(found: &Found, entries: &[PathBuf]) -> Option<Self> {
        match found {
            Found::File { path, .. } => {
                let meta = fs::metadata(path).ok()?;
                Some(Self::File {
                    path: path.clone(),
                    identity: os::identity(&meta),
                    len: meta.len(),
                    modified: meta.modified().ok(),
                    changed: os::changed(&meta),
                })
            }
            Found::Missing => {
                // The entry that is not there; its folder's time tells whether it was, for a while.
                let dir = entries.last().and_then(|entry| entry.parent());
                Some(Self::Missing { dir_modified: dir.and_then(|dir| fs::metadata(dir).ok()?.modified().ok()) })
            }
            Found::Unknown { .. } => None,
        }
    }

    /// Whether the file was written so lately that a second write might leave the same stamp.
    fn is_fresh(&self) -> bool {
        let (Self::File { modified: Some(modified), .. } | Self::Missing { dir_modified: Some(modified) }) = self
        else {
            return false;
        };
        SystemTime::now().duration_since(*modified).map_or(true, |age| age < CLOCK_GRAIN)
    }
}

impl Seen {
    /// Reads what was found. Also whether nobody seems to have written meanwhile.
    fn read(found: Found, max_bytes: usize) -> (Self, bool) {
        let (path, consumed) = match found {
            Found::Missing => return (Self::Missing, true),
            Found::Unknown { path, error } => return (Self::Unknown { path, error: Arc::new(error) }, true),
            Found::File { path, consumed } => (path, consumed),
        };
        if max_bytes == 0 {
            return (Self::File { path, consumed, content: Content::Unread }, true);
        }
        let (content, is_calm) = match read(&path, max_bytes) {
            Ok((bytes, is_calm)) if bytes.len() > max_bytes => (Content::TooLarge, is_calm),
            Ok((bytes, is_calm)) => (Content::Bytes(bytes), is_calm),
            // Gone between the walk and now: the next event tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Self::Missing, false),
            Err(error) => (Content::Unreadable(Arc::new(error)), true),
        };
        (Self::File { path, consumed, content }, is_calm)
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        std::mem::discriminant(self).hash(&mut hasher);
        match self {
            Self::Missing => {}
            Self::Unknown { path, error } => (path, error.kind()).hash(&mut hasher),
            Self::File { consumed, content, .. } => {
                consumed.hash(&mut hasher);
                std::mem::discriminant(content).hash(&mut hasher);
                match content {
                    Content::Unread | Content::TooLarge => {}
                    Content::Bytes(bytes) => bytes.hash(&mut hasher),
                    Content::Unreadable(error) => error.kind().hash(&mut hasher),
                }
            }
        }
        hasher.finish()
    }
}

/// Reads one byte more than `max_bytes` at most, which tells that there is more.
///
/// A read is not one step: a writer may be at work between two parts of it, and file times are too coarse to show that.
/// What is the same twice was not torn. `false` if it never was the same.
fn read(path: &Path, max_bytes: usize) -> io::Result<(Vec<u8>, bool)> {
    let mut last = read_once(path, max_bytes)?;
    for _ in 1..READS {
        let next = read_once(path, max_bytes)?;
        if next == last {
            return Ok((next, true));
        }
        last = next;
    }
    Ok((last, false))
}

fn read_once(path: &Path, max_bytes: usize) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    // All at once: with no room, the first read would be a small one.
    let mut bytes = Vec::with_capacity(size.min(max_bytes) + 64);
    file.take(max_bytes as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Drop for Scanner {
    fn drop(&mut self) {
        self.shared.desk().interest.clear();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.wake.notify_one();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // AcqRel: see `Folder::watch`.
        self.0.running.store(false, Ordering::Release);
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Folder").field(&self.shared.base).finish()
    }
}
