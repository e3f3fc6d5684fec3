//! The operating system's own watch, one for a whole folder.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode},
};

use super::{Event, Shared};

/// Whether it is told when a file that was written to is closed.
const TELLS_CLOSE: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// The folders that the operating system watches, each as often as it is needed.
pub(super) struct Watches {
    watcher: Option<RecommendedWatcher>,
    dirs: HashMap<PathBuf, Dir>,
    warned: bool,
    /// Counts the looks: one is enough to tell whether a folder is still the same.
    round: u64,
}

struct Dir {
    users: usize,
    checked: u64,
    /// Which folder it was when the watch began, `None` if it could not be watched. Another one may be there by now.
    identity: Option<(u64, u64)>,
}

impl Watches {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let target = shared.clone();
        // Relaxed: set before the first watch, if ever.
        if !shared.is_told.load(Ordering::Relaxed) {
            return Self { watcher: None, dirs: HashMap::new(), warned: true, round: 0 };
        }
        let watcher = notify::recommended_watcher(move |event| forward(&target, event));
        let warned = watcher.is_err();
        if let Err(error) = &watcher {
            warn(&shared.base, error);
        }
        Self { watcher: watcher.ok(), dirs: HashMap::new(), warned, round: 0 }
    }

    /// Begins another look at everything.
    pub(super) fn next_round(&mut self) {
        self.round += 1;
    }

    /// Whether every change will be told.
    pub(super) fn is_told(&self) -> bool {
        self.watcher.is_some() && self.dirs.values().all(|dir| dir.identity.is_some())
    }

    /// Watches the folders of the entries `after` instead of those of `before`. `true` if a watch was begun.
    pub(super) fn replace(&mut self, before: &[PathBuf], after: &[PathBuf]) -> bool {
        let mut begun = false;
        for entry in after {
            let Some(dir) = entry.parent() else { continue };
            if !self.dirs.contains_key(dir) {
                self.dirs.insert(dir.to_owned(), Dir { users: 0, checked: 0, identity: None });
            }
            self.dirs.get_mut(dir).expect("just inserted").users += 1;
            begun |= self.begin(dir);
        }
        for entry in before {
            let Some(dir) = entry.parent() else { continue };
            let Some(known) = self.dirs.get_mut(dir) else { continue };
            known.users -= 1;
            if known.users > 0 {
                continue;
            }
            self.dirs.remove(dir);
            if let Some(watcher) = &mut self.watcher {
                // It fails if the folder is gone, and the watch with it.
                _ = watcher.unwatch(dir);
            }
        }
        begun
    }

    /// The entry `dir` is gone; if it was a watched folder, another one of its name must be watched anew.
    pub(super) fn lost(&mut self, dir: &Path) {
        let Some(known) = self.dirs.get_mut(dir) else { return };
        if known.identity.take().is_some()
            && let Some(watcher) = &mut self.watcher
        {
            _ = watcher.unwatch(dir);
        }
    }

    /// Sees to it that the folder that is at `dir` now is watched. `true` if it was not.
    fn begin(&mut self, dir: &Path) -> bool {
        let known = self.dirs.get_mut(dir).expect("the caller inserted it");
        if known.identity.is_some() && known.checked == self.round {
            return false;
        }
        known.checked = self.round;
        let now = fs::metadata(dir).ok().map(|meta| identity(&meta));
        if now.is_some() && known.identity == now {
            return false;
        }
        let Some(watcher) = &mut self.watcher else { return false };
        if known.identity.take().is_some() {
            _ = watcher.unwatch(dir);
        }
        if now.is_none() {
            return false;
        }
        match watcher.watch(dir, RecursiveMode::NonRecursive) {
            Ok(()) => {
                known.identity = now;
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    warn(dir, &error);
                }
                false
            }
        }
    }
}

fn warn(dir: &Path, error: &notify::Error) {
    tracing::warn!(dir = %dir.display(), %error, "cannot watch a folder for changes: its files are polled every second");
}

fn forward(shared: &Shared, event: notify::Result<notify::Event>) {
    let Ok(event) = event else { return shared.tell_all() };
    if event.need_rescan() {
        return shared.tell_all();
    }
    let what = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Event::Closed,
        // Reading, our own too, is no change.
        EventKind::Access(_) => return,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From | RenameMode::Any)) => Event::Gone,
        EventKind::Modify(ModifyKind::Name(_)) => Event::Replaced,
        EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) if TELLS_CLOSE => Event::Written,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Other => Event::Other,
    };
    event.paths.iter().for_each(|path| shared.tell(path, what));
}

/// Which file this is, whatever it is called.
#[cfg(unix)]
pub(super) fn identity(meta: &fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (meta.dev(), meta.ino())
}

/// When anything about the file last changed, which nobody can set back.
#[cfg(unix)]
pub(super) fn changed(meta: &fs::Metadata) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt;
    (meta.ctime(), meta.ctime_nsec())
}

#[cfg(not(unix))]
pub(super) fn identity(meta: &fs::Metadata) -> (u64, u64) {
    let created = meta.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    (0, created.map_or(0, |at| at.as_nanos() as u64))
}

#[cfg(not(unix))]
pub(super) fn changed(_: &fs::Metadata) -> (i64, i64) {
    (0, 0)
}
