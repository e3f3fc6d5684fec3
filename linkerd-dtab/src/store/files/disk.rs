//! One table, one file; and what happens to the files when a table changes.
//!
//! A change is made whole or not at all, whenever the process or the machine stops:
//!
//! 1. `.revision` is locked, so that no other process changes a table.
//! 2. The next revision is written into it, and synced: no revision is used twice.
//! 3. The new table is written to `.new`, and synced.
//! 4. `.new` is renamed to the table's file, which is one step.
//! 5. The folder is synced.
//!
//! The folder itself is begun as one with an empty `.revision`, under another name, and renamed.
//!
//! What is left of a change that stopped before its fourth step is overwritten by the next one.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

use super::super::{
    Expect, Namespace, StoreError, Version, VersionedDtab,
    flat::{flat, unflat},
};
use crate::{Dtab, parse::MAX_LEN};

/// What is behind the name of a namespace in the name of its file.
const SUFFIX: &str = ".dtab";
/// The file that is locked, and that has the last revision.
pub(super) const REVISION: &str = ".revision";
const NEW: &str = ".new";
/// How the first line of a file begins that was written by a store.
const FIRST: &str = "# revision ";

/// A folder of tables.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    /// The highest revision that was seen here.
    seen: AtomicU64,
    /// Stops, as a crash does, when so many steps are done.
    #[cfg(test)]
    steps: std::sync::atomic::AtomicUsize,
}

/// The right to change tables, until it is dropped.
pub(super) struct Locked<'a> {
    disk: &'a Disk,
    revision: File,
}

/// What became of a try to change something.
pub(super) enum Tried<T> {
    /// It is done.
    Done(T),
    /// Another process is changing something.
    Busy,
}

impl Disk {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            seen: AtomicU64::new(0),
            #[cfg(test)]
            steps: std::sync::atomic::AtomicUsize::new(usize::MAX),
        }
    }

    /// Where the table of a namespace is.
    pub(super) fn path(&self, namespace: &Namespace) -> PathBuf {
        self.dir.join(file_name(namespace))
    }

    /// Makes the folder, if it is not there, and marks it as one of tables: it is there with its mark or not at all.
    pub(super) fn begin(&self) -> io::Result<()> {
        if self.dir.try_exists()? {
            return self.mark(&self.dir);
        }
        let (Some(parent), Some(name)) = (self.dir.parent(), self.dir.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is no folder that can be made"));
        };
        let mut new = OsString::from(".");
        new.push(name);
        new.push(NEW);
        let new = parent.join(new);
        fs::create_dir_all(&new)?;
        self.step()?;
        self.mark(&new)?;
        match fs::rename(&new, &self.dir) {
            // Another process has begun it meanwhile.
            Err(_) if self.dir.join(REVISION).try_exists()? => {
                fs::remove_file(new.join(REVISION)).and(fs::remove_dir(new))
            }
            Err(error) => Err(error),
            Ok(()) => {
                self.step()?;
                sync(parent)
            }
        }
    }

    fn mark(&self, dir: &Path) -> io::Result<()> {
        OpenOptions::new().append(true).create(true).open(dir.join(REVISION))?;
        self.step()?;
        sync(dir)
    }

    /// Whether the folder is not there because there never was one: the one above it is in use, or was mounted. An empty
    /// one may be where a file system is yet to be mounted.
    pub(super) fn is_new(&self) -> io::Result<bool> {
        let Some(parent) = self.dir.parent().filter(|parent| parent.is_dir()) else { return Ok(false) };
        Ok(!self.dir.try_exists()? && (is_mounted(parent)? || fs::read_dir(parent)?.next().is_some()))
    }

    /// Marks a folder that is one of tables for sure, or was mounted to be one. An empty one otherwise is refused.
    pub(super) fn claim(&self) -> io::Result<()> {
        if self.dir.join(REVISION).try_exists()? {
            return Ok(());
        }
        if !self.list()?.is_empty() || is_mounted(&self.dir)? {
            return self.mark(&self.dir);
        }
        let text = format!(
            "the folder {} is empty, with no {REVISION} in it: if something is to be mounted there, mount it; if it is to be a new \
             store, remove it or say `create: true`",
            self.dir.display()
        );
        Err(io::Error::new(io::ErrorKind::NotFound, text))
    }

    /// The last revision, `None` if that was half written. Fails if the folder is not what was claimed.
    pub(super) fn position(&self) -> io::Result<Option<u64>> {
        let marker = self.dir.join(REVISION);
        match File::open(&marker) {
            Ok(file) => last_revision(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let gone =
                    format!("{} is gone: this is another folder now, or nothing is mounted there", marker.display());
                Err(io::Error::new(io::ErrorKind::NotFound, gone))
            }
            Err(error) => Err(error),
        }
    }

    /// The highest revision that was seen here.
    pub(super) fn seen(&self) -> u64 {
        // Relaxed: whoever makes changes has the lock, and others look again.
        self.seen.load(Relaxed)
    }

    /// Takes the folder for one that is at this revision, though it was further.
    pub(super) fn go_back(&self, position: u64) {
        self.seen.store(position, Relaxed);
    }

    /// Fails if the folder is not what was claimed, or an older one.
    /// Whether the folder is what was claimed, and no older one.
    pub(super) fn check(&self) -> io::Result<()> {
        let (position, seen) = (self.position()?, self.seen());
        match position {
            Some(position) if position < seen => {
                let marker = self.dir.join(REVISION);
                let older =
                    format!("{} went back from {seen} to {position}: this is an older folder", marker.display());
                Err(io::Error::other(older))
            }
            _ => {
                self.seen.fetch_max(position.unwrap_or(0), Relaxed);
                Ok(())
            }
        }
    }

    /// The namespaces that have files. Fails if the folder is not what was claimed, or an older one.
    pub(super) fn names(&self) -> io::Result<Vec<Namespace>> {
        self.check()?;
        self.list()
    }

    /// The namespaces that have files, whatever the folder is.
    pub(super) fn list(&self) -> io::Result<Vec<Namespace>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            names.extend(namespace_of(&entry?.file_name()));
        }
        Ok(names)
    }

    /// What is in the file of a namespace, at most a byte more than a table can have.
    pub(super) fn read(&self, namespace: &Namespace) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.path(namespace)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Locks the folder, if no other process has.
    pub(super) fn lock(&self) -> io::Result<Tried<Locked<'_>>> {
        // Not made here: a folder without it is not the one that was read.
        self.position()?;
        let revision = OpenOptions::new().read(true).write(true).open(self.dir.join(REVISION))?;
        match revision.try_lock() {
            Ok(()) => {
                self.check()?;
                Ok(Tried::Done(Locked { disk: self, revision }))
            }
            Err(TryLockError::WouldBlock) => Ok(Tried::Busy),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn sync(&self) -> io::Result<()> {
        sync(&self.dir)
    }

    /// Between two steps of a change.
    #[cfg(test)]
    fn step(&self) -> io::Result<()> {
        let left = self.steps.load(Relaxed);
        if left == 0 {
            return Err(io::Error::other("stopped"));
        }
        self.steps.store(left - 1, Relaxed);
        Ok(())
    }

    #[cfg(not(test))]
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "tests stop here")]
    fn step(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Locked<'_> {
    /// Writes a table if what is there is as expected.
    pub(super) fn put(&mut self, namespace: &Namespace, dtab: &Dtab, expect: &Expect) -> Result<Version, StoreError> {
        self.expect(namespace, expect)?;
        let unfit = |reason: String| StoreError::Unfit { namespace: namespace.clone(), reason };
        if shown(u64::MAX, dtab).len() > MAX_LEN {
            return Err(unfit(format!("its file would have more than {MAX_LEN} bytes")));
        }
        let wrote = self.count().and_then(|revision| {
            let text = shown(revision, dtab);
            self.replace(namespace, text.as_bytes())?;
            Ok(version(text.as_bytes()))
        });
        match wrote {
            Ok(version) => Ok(version),
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                Err(unfit("the file system has no file name as long".into()))
            }
            Err(error) => Err(StoreError::Unavailable(std::sync::Arc::new(error))),
        }
    }

    /// Deletes a table if what is there is as expected.
    pub(super) fn delete(&mut self, namespace: &Namespace, expect: &Expect) -> Result<(), StoreError> {
        if !self.expect(namespace, expect)? {
            return Err(StoreError::Missing(namespace.clone()));
        }
        let deleted = self.count().and_then(|_| {
            fs::remove_file(self.disk.path(namespace))?;
            self.disk.step()?;
            self.disk.sync()
        });
        deleted.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing(namespace.clone()),
            _ => StoreError::Unavailable(std::sync::Arc::new(error)),
        })
    }

    /// Whether there is a table, if what is there is as expected.
    fn expect(&self, namespace: &Namespace, expect: &Expect) -> Result<bool, StoreError> {
        let stored = match self.disk.read(namespace) {
            Ok(stored) => stored.map(|bytes| version(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => None,
            Err(error) => return Err(StoreError::Unavailable(std::sync::Arc::new(error))),
        };
        expect.check(namespace, stored.as_ref())?;
        Ok(stored.is_some())
    }

    /// Takes the next revision.
    fn count(&mut self) -> io::Result<u64> {
        self.disk.step()?;
        self.revision.seek(SeekFrom::Start(0))?;
        let last = match last_revision(&self.revision)? {
            Some(0) => self.disk.revision_of_files()?,
            Some(last) => last,
            // Torn. What was counted is in the files, but for those that are deleted: it was less than milliseconds.
            None => self.disk.revision_of_files()?.max(millis()),
        };
        let next = u64::checked_add(last, 1).ok_or_else(|| io::Error::other("the revisions are used up"))?;
        self.revision.seek(SeekFrom::Start(0))?;
        // As long as every other: it is replaced in one step, and never shorter.
        self.revision.write_all(format!("{next:020}\n").as_bytes())?;
        self.disk.step()?;
        self.revision.sync_data()?;
        self.disk.step()?;
        self.disk.seen.fetch_max(next, Relaxed);
        Ok(next)
    }

    fn replace(&self, namespace: &Namespace, text: &[u8]) -> io::Result<()> {
        let disk = self.disk;
        let new = disk.dir.join(NEW);
        let mut file = File::create(&new)?;
        disk.step()?;
        let (head, tail) = text.split_at(text.len() / 2);
        file.write_all(head)?;
        disk.step()?;
        file.write_all(tail)?;
        disk.step()?;
        file.sync_all()?;
        disk.step()?;
        fs::rename(&new, disk.path(namespace))?;
        disk.step()?;
        disk.sync()?;
        disk.step()
    }
}

impl Disk {
    fn revision_of_files(&self) -> io::Result<u64> {
        let mut last = 0;
        for namespace in self.names()? {
            last = last.max(self.read(&namespace)?.map_or(0, |bytes| revision(&bytes)));
        }
        Ok(last)
    }
}

/// The revision in a marker: zero before the first, `None` if it is torn.
fn last_revision(marker: &File) -> io::Result<Option<u64>> {
    let mut text = Vec::new();
    marker.take(64).read_to_end(&mut text)?;
    if text.is_empty() {
        return Ok(Some(0));
    }
    Ok(std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()))
}

fn sync(dir: &Path) -> io::Result<()> {
    // Where folders cannot be opened, renaming has to be enough.
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Whether a file system is mounted at this folder, as far as that can be told.
#[cfg(unix)]
fn is_mounted(dir: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;

    let above = fs::metadata(dir.join(".."))?;
    let here = fs::metadata(dir)?;
    // What is its own parent is the root, which is always mounted.
    Ok(here.dev() != above.dev() || here.ino() == above.ino())
}

#[cfg(not(unix))]
fn is_mounted(_: &Path) -> io::Result<bool> {
    Ok(false)
}

fn millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The name of a namespace's file.
pub(super) fn file_name(namespace: &Namespace) -> OsString {
    format!("{}{SUFFIX}", flat(namespace)).into()
}

fn namespace_of(file_name: &OsStr) -> Option<Namespace> {
    let name = file_name.to_str()?.strip_suffix(SUFFIX)?;
    // Editors and we ourselves hide what is not meant to be seen.
    if name.starts_with('.') { None } else { unflat(name) }
}

/// A table as it is in its file.
fn shown(revision: u64, dtab: &Dtab) -> String {
    let mut text = format!("{FIRST}{revision}\n");
    for entry in dtab.entries() {
        writeln!(text, "{} => {:#} ;", entry.prefix, entry.dst).expect("a string takes what it is given");
    }
    text
}

/// The version of what is in a file: its revision, and a digest by which another hand's edit is another version.
pub(super) fn version(bytes: &[u8]) -> Version {
    let mut version = revision(bytes).to_be_bytes().to_vec();
    version.extend_from_slice(&digest(bytes).to_be_bytes());
    Version::new(version)
}

/// The table in a file, of which it is known that it is text.
pub(super) fn table(text: &str) -> Result<VersionedDtab, crate::ParseError> {
    Ok(VersionedDtab { version: version(text.as_bytes()), dtab: text.parse()? })
}

/// Whether a file was written by a store.
pub(super) fn is_ours(bytes: &[u8]) -> bool {
    bytes.starts_with(FIRST.as_bytes())
}

/// The revision that is written in a file; zero if another hand made it.
fn revision(bytes: &[u8]) -> u64 {
    let line = bytes.strip_prefix(FIRST.as_bytes()).and_then(|rest| rest.split(|&byte| byte == b'\n').next());
    line.and_then(|line| std::str::from_utf8(line).ok()).and_then(|line| line.trim().parse().ok()).unwrap_or(0)
}

/// FNV-1a, 64 bits: the same in every version of this crate.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Which file a path is, for messages.
pub(super) fn display(path: &Path) -> std::path::Display<'_> {
    path.display()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done<T>(tried: Tried<T>) -> T {
        match tried {
            Tried::Done(done) => done,
            Tried::Busy => panic!("busy"),
        }
    }

    fn name() -> Namespace {
        "team/web".parse().unwrap()
    }

    fn dtab(text: &str) -> Dtab {
        text.parse().unwrap()
    }

    fn put(disk: &Disk, text: &str) -> Result<Version, StoreError> {
        done(disk.lock().unwrap()).put(&name(), &dtab(text), &Expect::Any)
    }

    fn stored(disk: &Disk) -> Option<VersionedDtab> {
        let bytes = disk.read(&name()).unwrap()?;
        Some(table(std::str::from_utf8(&bytes).unwrap()).expect("never half a table"))
    }

    /// A store that stops after each step of a change, and one that comes after it.
    #[test]
    fn a_change_that_stops_anywhere_is_made_or_not() {
        let mut states = Vec::new();
        for steps in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let disk = Disk::new(dir.path().to_owned());
            disk.begin().unwrap();
            let before = put(&disk, "/a => /before").unwrap();
            disk.steps.store(steps, Relaxed);
            let stopped = put(&disk, "/a => /after | /and/more").is_err();
            drop(disk);

            let disk = Disk::new(dir.path().to_owned());
            let now = stored(&disk).expect("it was there before");
            let is_after = now.dtab == dtab("/a => /after | /and/more");
            assert!(is_after || now.version == before, "{steps}: {now:?}");
            assert_eq!(disk.names().unwrap(), [name()], "{steps}");
            let next = put(&disk, "/a => /next").unwrap();
            assert_ne!(next, now.version);
            assert!(next.as_bytes()[..8] > now.version.as_bytes()[..8], "{steps}");
            assert_eq!(stored(&disk).unwrap().dtab, dtab("/a => /next"));
            states.push((stopped, is_after));
        }
        assert!(states.contains(&(true, false)) && states.contains(&(true, true)) && states.contains(&(false, true)));
        assert!(!states.contains(&(false, false)));
    }

    #[test]
    fn a_delete_that_stops_anywhere_is_made_or_not_and_uses_up_its_revision() {
        for steps in 0..8 {
            let dir = tempfile::tempdir().unwrap();
            let disk = Disk::new(dir.path().to_owned());
            disk.begin().unwrap();
            let before = put(&disk, "/a => /b").unwrap();
            disk.steps.store(steps, Relaxed);
            let deleted = done(disk.lock().unwrap()).delete(&name(), &Expect::Any);
            drop(disk);
            let disk = Disk::new(dir.path().to_owned());
            assert!(deleted.is_err() || stored(&disk).is_none(), "{steps}");
            assert_ne!(put(&disk, "/a => /b").unwrap(), before, "{steps}");
        }
    }

    #[test]
    fn a_folder_that_is_begun_is_there_with_its_mark_or_not_at_all() {
        for steps in 0..6 {
            let above = tempfile::tempdir().unwrap();
            let dir = above.path().join("new/tables");
            let disk = Disk::new(dir.clone());
            disk.steps.store(steps, Relaxed);
            let begun = disk.begin();
            assert!(begun.is_ok() || steps < 3, "{steps}: {begun:?}");
            assert_eq!(dir.exists(), dir.join(REVISION).exists(), "{steps}");
            // The next start begins it, or finds it begun.
            let disk = Disk::new(dir.clone());
            disk.begin().unwrap();
            put(&disk, "/a => /b").unwrap();
            assert_eq!(fs::read_dir(above.path().join("new")).unwrap().count(), 1, "{steps}");
        }
    }

    #[test]
    fn only_a_folder_that_cannot_be_a_mount_point_is_new() {
        let above = tempfile::tempdir().unwrap();
        let disk = Disk::new(above.path().join("tables"));
        assert!(!disk.is_new().unwrap(), "the one above is empty, and may be yet to be mounted");
        assert!(!Disk::new(above.path().join("not/there")).is_new().unwrap());
        fs::write(above.path().join("namerd.yaml"), "").unwrap();
        assert!(disk.is_new().unwrap());
        disk.begin().unwrap();
        assert!(!disk.is_new().unwrap());
        if cfg!(target_os = "linux") {
            assert!(is_mounted(Path::new("/")).unwrap() && is_mounted(Path::new("/proc")).unwrap());
        }
        assert!(!is_mounted(above.path()).unwrap());
    }

    #[test]
    fn an_older_folder_is_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path().to_owned());
        disk.begin().unwrap();
        put(&disk, "/a => /1").unwrap();
        let marker = dir.path().join(REVISION);
        let one = fs::read(&marker).unwrap();
        put(&disk, "/a => /2").unwrap();
        for older in [&one[..], b""] {
            fs::write(&marker, older).unwrap();
            let Err(error) = disk.lock() else { panic!("locked") };
            assert!(error.to_string().contains("went back from 2 to"), "{error}");
            assert!(disk.names().is_err());
            assert_eq!(fs::read(&marker).unwrap(), older);
        }
        fs::remove_file(&marker).unwrap();
        assert!(disk.lock().is_err() && disk.names().is_err() && !marker.exists());
    }

    #[test]
    fn what_is_not_done_uses_up_no_revision() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path().to_owned());
        disk.begin().unwrap();
        put(&disk, "/a => /b").unwrap();
        let counted = || fs::read(dir.path().join(REVISION)).unwrap();
        let before = counted();
        let none: Namespace = "none".parse().unwrap();
        let missing = done(disk.lock().unwrap()).delete(&none, &Expect::Any);
        assert!(matches!(&missing, Err(StoreError::Missing(_))), "{missing:?}");
        let long: Dtab = (0..12).map(|i| format!("/{i} => /{}", "x".repeat(100_000)).parse().unwrap()).collect();
        let unfit = done(disk.lock().unwrap()).put(&name(), &long, &Expect::Any);
        assert!(matches!(&unfit, Err(StoreError::Unfit { .. })), "{unfit:?}");
        let lost = done(disk.lock().unwrap()).put(&name(), &dtab("/a => /c"), &Expect::Absent);
        assert!(matches!(&lost, Err(StoreError::Exists(_))), "{lost:?}");
        assert_eq!(counted(), before);
    }

    #[test]
    fn leftovers_are_neither_tables_nor_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in
            [(NEW, "# revision 9\n/ha"), (".team%2Fweb.dtab.swp", "x"), ("note.txt", "x"), ("a b.dtab", "")]
        {
            fs::write(dir.path().join(file), text).unwrap();
        }
        fs::write(dir.path().join(REVISION), "").unwrap();
        let disk = Disk::new(dir.path().to_owned());
        assert!(disk.names().unwrap().is_empty());
        put(&disk, "/a => /b").unwrap();
        assert_eq!(disk.names().unwrap(), [name()]);
        assert_eq!(stored(&disk).unwrap().dtab, dtab("/a => /b"));
        assert!(!dir.path().join(NEW).exists());
    }

    #[test]
    fn a_folder_is_changed_by_one_at_a_time_and_freed_by_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, other) = (Disk::new(dir.path().to_owned()), Disk::new(dir.path().to_owned()));
        disk.begin().unwrap();
        let locked = done(disk.lock().unwrap());
        assert!(matches!(other.lock().unwrap(), Tried::Busy));
        drop(locked);
        assert!(matches!(other.lock().unwrap(), Tried::Done(_)));
    }

    #[test]
    fn a_name_that_is_too_long_for_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path().to_owned());
        disk.begin().unwrap();
        let long: Namespace = "a".repeat(253).parse().unwrap();
        let refused = done(disk.lock().unwrap()).put(&long, &dtab("/a => /b"), &Expect::Any);
        assert!(matches!(&refused, Err(StoreError::Unfit { .. })), "{refused:?}");
        let refused = done(disk.lock().unwrap()).delete(&long, &Expect::Any);
        assert!(matches!(&refused, Err(StoreError::Missing(_))), "{refused:?}");
    }

    #[test]
    fn another_hands_edit_is_another_version() {
        let ours = shown(7, &dtab("/a => /b"));
        assert_eq!(table(&ours).unwrap().dtab, dtab("/a => /b"));
        assert_ne!(version(ours.as_bytes()), version(ours.replace("/b", "/c").as_bytes()));
        assert_eq!(revision(ours.as_bytes()), 7);
        assert_eq!(revision(b"/a => /b"), 0);
        assert_eq!(revision(b"# revision x\n"), 0);
    }
}
