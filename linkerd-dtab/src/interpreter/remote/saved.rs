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

/// The largest file that is read or written, in bytes: 64 MiB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Where a [`Remote`](super::Remote) keeps what it was last told, and for how long that counts.
///
/// The file is JSON, is replaced as a whole, and belongs to one interpreter alone. It has at most 64 MiB: of more, what was
/// vouched for longest ago is left out. One that is longer, or one that is malformed, is not used; its folder has to be
/// there.
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
    max_bytes: u64,
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
        Self {
            settings,
            max_entries,
            max_bytes: MAX_FILE_BYTES,
            kept: Mutex::default(),
            is_read,
            changed: Notify::new(),
        }
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
            let json = saved.keep(&live);
            replace(&saved.settings.path, json.as_bytes())
        };
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }

    /// What is to be written.
    fn keep(&self, live: &Live) -> String {
        let now = SystemTime::now();
        let mut kept = self.lock();
        let Kept { names, ids } = &mut *kept;
        keep(names, &live.names, self, now, |tree| {
            tree.clone().map(&mut |Bound { id, residual, .. }| Leaf { id, residual })
        });
        keep(ids, &live.ids, self, now, Clone::clone);
        self.document(&kept)
    }

    /// What is known, without what was vouched for longest ago if it is too much.
    fn document(&self, Kept { names, ids }: &Kept) -> String {
        let names = names.iter().map(|(name, old)| (old.at, true, name_json(name, old)));
        let ids = ids.iter().map(|(id, old)| (old.at, false, id_json(id, old)));
        let mut entries: Vec<_> = names.chain(ids).collect();
        // The newest first; of those, names before ids, which are of no use without.
        entries.sort_by_key(|(at, is_name, _)| std::cmp::Reverse((*at, *is_name)));
        let of = Value::from(self.settings.of.as_str());
        let mut length = format!(r#"{{"of":{of},"names":[],"ids":[]}}"#).len();
        let all = entries.len();
        let fits = |(_, _, entry): &(SystemTime, bool, String)| {
            // With a comma.
            length += entry.len() + 1;
            length as u64 <= self.max_bytes
        };
        let count = entries.iter().map(fits).take_while(|fits| *fits).count();
        entries.truncate(count);
        if count < all {
            tracing::warn!(?self, "snapshot too large: {} of {all} entries are left out", all - count);
        }
        let list = |of_names| {
            let entries = entries.iter().filter(|(_, is_name, _)| *is_name == of_names);
            entries.map(|(_, _, entry)| &**entry).collect::<Vec<_>>().join(",")
        };
        format!(r#"{{"of":{of},"names":[{}],"ids":[{}]}}"#, list(true), list(false))
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

fn name_json(Named { dtab, path }: &Named, Old { value, at }: &Old<NameTree<Leaf>>) -> String {
    let unwatched = |Leaf { id, residual }| Bound::new(id, residual, Activity::value(Addr::Neg));
    let tree = parsed(&bound_json(&value.clone().map(&mut { unwatched })));
    json!({"dtab": format!("{dtab:#}"), "path": path.to_string(), "at": seconds(*at), "tree": tree}).to_string()
}

fn id_json(Id(id): &Id, Old { value, at }: &Old<Addr>) -> String {
    let addr = parsed(&addr_json(&Activity::value(value.clone())));
    json!({"id": id.to_string(), "at": seconds(*at), "addr": addr}).to_string()
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(max_bytes: u64) -> Saved {
        Saved { max_bytes, ..Saved::new(Snapshots::new("unused", "all"), 1000) }
    }

    #[test]
    fn what_is_written_can_be_read_and_has_the_newest() {
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut kept = Kept::default();
        for n in 0..100 {
            let at = begin + Duration::from_secs(n);
            let path = format!("/svc/{n}").parse().unwrap();
            let id = format!("/#/fs/{n}").parse::<crate::Path>().unwrap();
            let leaf = Leaf { id: id.clone(), residual: crate::Path::empty() };
            kept.names.insert(Named { dtab: crate::Dtab::empty(), path }, Old { value: NameTree::Leaf(leaf), at });
            kept.ids.insert(Id(id), Old { value: Addr::of([([127, 0, 0, 1], 80).into()]), at });
        }
        let whole = saved(MAX_FILE_BYTES).document(&kept);
        // The first of each list has no comma.
        for max in [whole.len() as u64 + 2, 5000, 100, 0] {
            let written = saved(max).document(&kept);
            let read = saved(max);
            read.load(written.as_bytes()).unwrap();
            let Kept { names: read_names, ids: read_ids } = &*read.lock();
            let (names, ids) = (read_names.len(), read_ids.len());
            match max {
                5000 => {
                    assert!((4500..=5000).contains(&written.len()), "{}", written.len());
                    assert!(names.abs_diff(ids) <= 1 && ids > 10, "{names} and {ids}");
                    let newest = Id("/#/fs/99".parse().unwrap());
                    assert!(read_ids.contains_key(&newest));
                }
                100 | 0 => assert_eq!((names, ids), (0, 0)),
                _ => assert!((names, ids) == (100, 100) && written == whole, "{names} and {ids}"),
            }
        }
    }
}
