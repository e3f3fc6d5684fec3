//! What a namerd said last, on disk: for a start without one.

use std::{
    collections::HashMap,
    fmt, fs,
    hash::Hash,
    io::{self, Read, Write},
    path::{Path as FilePath, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::follow::{Id, Named};
use crate::{
    Activity, Addr, Bound, NameTree, State,
    delegate::{Malformed, addr_json, bound_json, parse},
    interpreter::remote::Leaf,
};

/// The largest file that is read, in bytes: 64 MiB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Where a [`Remote`](super::Remote) keeps what it was last told, and for how long that counts.
///
/// The file is JSON, is replaced as a whole, and belongs to one interpreter alone. One of more than 64 MiB, or one that is
/// malformed, is not used; its folder has to be there.
#[derive(Clone, Debug)]
pub struct Snapshots {
    path: PathBuf,
    of: String,
    max_age: Duration,
    interval: Duration,
    after: Duration,
}

/// What is known is from before this process was started: nobody could be asked since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no namerd has answered yet, and this is what was known {age:?} ago")]
pub struct Recalled {
    /// How old it is.
    pub age: Duration,
}

impl Snapshots {
    /// Keeps them in this file, of which they have to be (`dst` and namespace, say: what is of something else is not used).
    ///
    /// # Defaults
    ///
    /// They count for a day, are written at most every 5 s, and are used when nobody answers within 1 s.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, of: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            of: of.into(),
            max_age: Duration::from_hours(24),
            interval: Duration::from_secs(5),
            after: Duration::from_secs(1),
        }
    }

    /// For how long what was known counts, from when a namerd last vouched for it. Zero: not at all.
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// The shortest time between two writes. At least 100 ms.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_millis(100));
        self
    }

    /// How long namerds have to answer before what was known is used.
    #[must_use]
    pub fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }
}

/// Numbers the files of this process on their way: two interpreters may write at once while one takes the other's place.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// What was known, and when a namerd vouched for it.
struct Old<T> {
    value: T,
    at: SystemTime,
}

/// What is on disk, or will be.
pub(super) struct Saved {
    settings: Snapshots,
    max_entries: usize,
    kept: Mutex<Kept>,
    is_read: watch::Sender<bool>,
    changed: Notify,
}

#[derive(Default)]
struct Kept {
    names: HashMap<Named, Old<NameTree<Leaf>>>,
    ids: HashMap<Id, Old<Addr>>,
}

/// What is watched now.
pub(super) struct Live {
    pub(super) names: Vec<(Named, Activity<NameTree<Bound>>)>,
    pub(super) ids: Vec<(Id, Activity<Addr>)>,
}

impl Saved {
    pub(super) fn new(settings: Snapshots, max_entries: usize) -> Self {
        let is_read = watch::channel(false).0;
        Self { settings, max_entries, kept: Mutex::default(), is_read, changed: Notify::new() }
    }

    /// How long namerds have to answer.
    pub(super) fn patience(&self) -> Duration {
        self.settings.after
    }

    /// Something is known that is not on disk.
    pub(super) fn note(&self) {
        self.changed.notify_one();
    }

    /// Waits until it is time to write: something has changed, or what is on disk would grow old.
    pub(super) async fn is_due(&self) {
        tokio::time::sleep(self.settings.interval).await;
        let refresh = (self.settings.max_age / 4).max(self.settings.interval);
        let _ = tokio::time::timeout(refresh, self.changed.notified()).await;
    }

    /// Reads the file, if there is one. What is wrong with it is logged, and then there is nothing.
    pub(super) async fn read(self: &Arc<Self>) {
        let path = self.settings.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(Some(json)) => {
                if let Err(error) = self.load(&json) {
                    tracing::warn!(path = %self.settings.path.display(), "snapshot not used: {error}");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(path = %self.settings.path.display(), "snapshot not read: {error}"),
        }
        self.is_read.send_replace(true);
    }

    /// Waits until the file is read.
    pub(super) async fn ready(&self) {
        // The sender is in `self`, so it is not gone.
        let _ = self.is_read.subscribe().wait_for(|is_read| *is_read).await;
    }

    pub(super) fn name(&self, name: &Named) -> Option<(NameTree<Leaf>, Recalled)> {
        recall(&self.lock().names, name, self.settings.max_age)
    }

    pub(super) fn id(&self, id: &Id) -> Option<(Addr, Recalled)> {
        recall(&self.lock().ids, id, self.settings.max_age)
    }

    /// Writes what is known: of what is watched if a namerd vouches for it, and what was known before.
    pub(super) async fn write(self: &Arc<Self>, live: Live) -> io::Result<()> {
        let saved = Arc::clone(self);
        let write = move || {
            let json = saved.keep(&live).to_string();
            replace(&saved.settings.path, json.as_bytes())
        };
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }

    fn keep(&self, live: &Live) -> Value {
        let now = SystemTime::now();
        let mut kept = self.lock();
        let Kept { names, ids } = &mut *kept;
        keep(names, &live.names, self, now, |tree| {
            tree.clone().map(&mut |Bound { id, residual, .. }| Leaf { id, residual })
        });
        keep(ids, &live.ids, self, now, Clone::clone);
        let parsed = |json: String| serde_json::from_str::<Value>(&json).unwrap_or_default();
        let names = names.iter().map(|(Named { dtab, path }, Old { value, at })| {
            let unwatched = |Leaf { id, residual }| Bound::new(id, residual, Activity::value(Addr::Neg));
            let tree = parsed(bound_json(&value.clone().map(&mut { unwatched })));
            json!({"dtab": format!("{dtab:#}"), "path": path.to_string(), "at": seconds(*at), "tree": tree})
        });
        let names: Vec<_> = names.collect();
        let ids = ids.iter().map(|(Id(id), Old { value, at })| {
            let addr = parsed(addr_json(&Activity::value(value.clone())));
            json!({"id": id.to_string(), "at": seconds(*at), "addr": addr})
        });
        json!({"of": self.settings.of, "names": names, "ids": ids.collect::<Vec<_>>()})
    }

    fn load(&self, json: &[u8]) -> Result<(), Malformed> {
        let bad = |text: &str| Malformed(text.to_owned());
        let json = parse::value(json)?;
        if json["of"] != *self.settings.of {
            return Err(Malformed(format!("it is of {}, not of {:?}", json["of"], self.settings.of)));
        }
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| bad("a text is missing"));
        let at = |value: &Value| {
            let at = value["at"].as_u64().and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at)));
            at.ok_or_else(|| bad("a time is missing"))
        };
        let list = |name: &str| json[name].as_array().ok_or_else(|| bad("a list is missing"));
        let mut loaded = Kept::default();
        for entry in list("names")?.iter().take(self.max_entries) {
            let dtab = text(&entry["dtab"])?.parse().map_err(|_| bad("a dtab is malformed"))?;
            let path = text(&entry["path"])?.parse().map_err(|_| bad("a path is malformed"))?;
            let old = Old { value: parse::tree(&entry["tree"])?, at: at(entry)? };
            loaded.names.insert(Named { dtab, path }, old);
        }
        for entry in list("ids")?.iter().take(self.max_entries) {
            let id = Id(text(&entry["id"])?.parse().map_err(|_| bad("an id is malformed"))?);
            let State::Ok(value) = parse::addr(&entry["addr"])? else { continue };
            loaded.ids.insert(id, Old { value, at: at(entry)? });
        }
        *self.lock() = loaded;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes over what is vouched for now, and lets go of what is too old, and the oldest of what is too much.
fn keep<K, V, T>(
    kept: &mut HashMap<K, Old<T>>,
    live: &[(K, Activity<V>)],
    saved: &Saved,
    now: SystemTime,
    of: impl Fn(&V) -> T,
) where
    K: Clone + Eq + Hash,
    V: Clone + Send + Sync + 'static,
{
    for (key, activity) in live {
        let known = activity.snapshot();
        if known.stale.is_none()
            && let State::Ok(value) = &known.state
        {
            kept.insert(key.clone(), Old { value: of(value), at: now });
        }
    }
    kept.retain(|_, old| age(old.at, now) <= saved.settings.max_age);
    if kept.len() > saved.max_entries {
        let mut times: Vec<_> = kept.values().map(|old| old.at).collect();
        times.sort_unstable();
        let oldest = times[kept.len() - saved.max_entries];
        kept.retain(|_, old| old.at >= oldest);
    }
}

fn recall<K: Eq + Hash, T: Clone>(kept: &HashMap<K, Old<T>>, key: &K, max_age: Duration) -> Option<(T, Recalled)> {
    let old = kept.get(key)?;
    let age = age(old.at, SystemTime::now());
    (age <= max_age && !max_age.is_zero()).then(|| (old.value.clone(), Recalled { age }))
}

/// A time that is still to come, because a clock was set back, is now.
fn age(at: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(at).unwrap_or_default()
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn read(path: &FilePath) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut json = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut json)?;
    if json.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(Some(json))
}

/// At any moment there is the old file or the new one, whole.
fn replace(path: &FilePath, bytes: &[u8]) -> io::Result<()> {
    // Relaxed: only that each has another number matters.
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}-{number}.new", std::process::id()));
    let new = path.with_file_name(name);
    let written = write(&new, bytes).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn write(path: &FilePath, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

impl fmt::Debug for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saved").field("settings", &self.settings).finish_non_exhaustive()
    }
}
