//! A log file, and when it makes way for a new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{Timestamp, ToSpan, Zoned, tz::TimeZone};

/// When a new log file is begun, by the local clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Roll {
    /// Never.
    #[default]
    Never,
    /// On the hour.
    Hourly,
    /// At midnight.
    Daily,
    /// At midnight before this day of the week: 1 is Sunday, 7 is Saturday.
    Weekly(u8),
    /// Before it would grow longer than so many bytes.
    Size(u64),
}

/// How often it is looked for whether the file is still where it was.
const LOOK: Duration = Duration::from_secs(1);

/// A file that lines are appended to.
///
/// The old file's name gets the time when it was begun: `access.log` becomes `access-20260131-13.log`.
pub(super) struct RollingFile {
    path: PathBuf,
    roll: Roll,
    keep: Option<u32>,
    zone: TimeZone,
    out: BufWriter<File>,
    id: Id,
    size: u64,
    begun: Zoned,
    next: Option<Timestamp>,
    looked: Timestamp,
    // There was none of this name.
    is_new: bool,
}

/// What tells one file from another.
type Id = (u64, u64);

impl Roll {
    /// When the file that is begun at `begun` ends, if the time decides.
    fn next(self, begun: &Zoned) -> Option<Timestamp> {
        let midnight = |days: i64| begun.checked_add(days.days()).ok()?.start_of_day().ok();
        let next = match self {
            Self::Never | Self::Size(_) => None,
            Self::Hourly => {
                let hour = begun.with().minute(0).second(0).subsec_nanosecond(0).build().ok()?;
                hour.checked_add(1.hour()).ok()
            }
            Self::Daily => midnight(1),
            Self::Weekly(day) => {
                let is_it = |at: &Zoned| at.weekday().to_sunday_one_offset() == day.try_into().unwrap_or(1);
                (1..=7).filter_map(midnight).find(is_it)
            }
        };
        next.map(|next| next.timestamp())
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Never => "%Y",
            Self::Hourly => "%Y%m%d-%H",
            Self::Daily | Self::Weekly(_) => "%Y%m%d",
            Self::Size(_) => "%Y%m%d-%H%M%S",
        }
    }
}

impl RollingFile {
    pub(super) fn open(path: &Path, roll: Roll, keep: Option<u32>, zone: TimeZone, now: Timestamp) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let is_new = !path.exists();
        let (out, id, size) = append(&path)?;
        let begun = now.to_zoned(zone.clone());
        let next = roll.next(&begun);
        Ok(Self { path, roll, keep, zone, out, id, size, begun, next, looked: now, is_new })
    }

    /// Leaves things as they were before it was opened: nothing was written.
    pub(super) fn give_up(self) {
        if self.is_new && self.size == 0 {
            // It may be gone already.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Forgets what is in the file.
    pub(super) fn truncate(&mut self) -> io::Result<()> {
        self.out.get_mut().set_len(0)?;
        self.size = 0;
        Ok(())
    }

    /// Makes sure that what follows goes to the file of its name: who moves logs away need tell nobody.
    pub(super) fn look(&mut self, now: Timestamp, at_once: bool) -> io::Result<()> {
        if !at_once && now.duration_since(self.looked).unsigned_abs() < LOOK {
            return Ok(());
        }
        self.looked = now;
        if at_once || fs::metadata(&self.path).map_or(true, |meta| id_of(&meta) != self.id) {
            self.begin(now)?;
        }
        Ok(())
    }

    /// Writes a line, after a new file was begun if it is time for one. It is only on its way until
    /// [`flush`](Self::flush).
    pub(super) fn write(&mut self, line: &[u8], now: Timestamp) -> io::Result<()> {
        let is_full = matches!(self.roll, Roll::Size(max) if self.size > 0 && self.size + line.len() as u64 > max);
        if is_full || self.next.is_some_and(|next| now >= next) {
            self.roll(now)?;
        }
        self.out.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn roll(&mut self, now: Timestamp) -> io::Result<()> {
        self.out.flush()?;
        let old = self.old_name(&self.begun.strftime(self.roll.suffix()).to_string());
        fs::rename(&self.path, old)?;
        self.begin(now)?;
        if let Some(keep) = self.keep {
            self.remove_old(keep as usize);
        }
        Ok(())
    }

    fn begin(&mut self, now: Timestamp) -> io::Result<()> {
        let flushed = self.out.flush();
        (self.out, self.id, self.size) = append(&self.path)?;
        self.begun = now.to_zoned(self.zone.clone());
        self.next = self.roll.next(&self.begun);
        flushed
    }

    /// The name's part before its extension, and the extension with its dot.
    fn parts(&self) -> (String, String) {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        match name.rfind('.') {
            Some(dot) if dot > 0 => (name[..dot].to_owned(), name[dot..].to_owned()),
            _ => (name.into_owned(), String::new()),
        }
    }

    /// A name that no file has: of two that were begun in one second the second gets a number.
    fn old_name(&self, time: &str) -> PathBuf {
        /// So many names are tried before one is taken from another file.
        const TRIES: usize = 1000;
        let (stem, extension) = self.parts();
        let named = |more: &str| self.path.with_file_name(format!("{stem}-{time}{more}{extension}"));
        let others = (1..TRIES).map(|n| named(&format!("-{n:03}")));
        std::iter::once(named("")).chain(others).find(|path| !path.exists()).unwrap_or_else(|| named(""))
    }

    /// Removes all but the latest of the old files. Their names say how old they are.
    fn remove_old(&self, keep: usize) {
        let (stem, extension) = self.parts();
        let Some(entries) = self.path.parent().and_then(|folder| fs::read_dir(folder).ok()) else { return };
        let mut old: Vec<_> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                let time = name.strip_prefix(&stem)?.strip_suffix(&extension)?.strip_prefix('-')?.to_owned();
                let is_time = !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
                is_time.then_some((time, name))
            })
            .collect();
        old.sort_unstable();
        let too_many = old.len().saturating_sub(keep);
        for (_, name) in &old[..too_many] {
            if let Err(error) = fs::remove_file(self.path.with_file_name(name)) {
                tracing::warn!(%error, name, "an old access log could not be removed");
            }
        }
    }
}

fn append(path: &Path) -> io::Result<(BufWriter<File>, Id, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let meta = file.metadata()?;
    Ok((BufWriter::new(file), id_of(&meta), meta.len()))
}

#[cfg(unix)]
fn id_of(meta: &fs::Metadata) -> Id {
    use std::os::unix::fs::MetadataExt;
    (meta.dev(), meta.ino())
}

#[cfg(not(unix))]
fn id_of(_meta: &fs::Metadata) -> Id {
    // Only that it is gone can be seen.
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn open(folder: &Path, roll: Roll, keep: Option<u32>, now: &str) -> RollingFile {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        RollingFile::open(&folder.join("logs/access.log"), roll, keep, zone, at(now)).unwrap()
    }

    /// The files of the folder, each with what is in it.
    fn files(folder: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(folder.join("logs")).unwrap().map(Result::unwrap);
        let mut files: Vec<_> = entries
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
            .collect();
        files.sort_unstable();
        files
    }

    fn named(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect()
    }

    #[test]
    fn the_time_rolls_by_the_local_clock() {
        // One hour east of here.
        for (roll, begun, before, after, old) in [
            (Roll::Hourly, "2026-01-31T12:30:00Z", "2026-01-31T12:59:59Z", "2026-01-31T13:00:00Z", "20260131-13"),
            (Roll::Daily, "2026-01-31T12:30:00Z", "2026-01-31T22:59:59Z", "2026-01-31T23:00:00Z", "20260131"),
            // From a Saturday to the Sunday, and from that Sunday to the next.
            (Roll::Weekly(1), "2026-01-31T12:30:00Z", "2026-01-31T22:59:59Z", "2026-01-31T23:00:00Z", "20260131"),
            (Roll::Weekly(1), "2026-02-01T12:30:00Z", "2026-02-07T22:59:59Z", "2026-02-07T23:00:00Z", "20260201"),
            (Roll::Weekly(4), "2026-01-31T12:30:00Z", "2026-02-03T22:59:59Z", "2026-02-03T23:00:00Z", "20260131"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut file = open(folder.path(), roll, None, begun);
            file.write(b"1\n", at(before)).unwrap();
            file.write(b"2\n", at(after)).unwrap();
            file.flush().unwrap();
            let old = format!("access-{old}.log");
            assert_eq!(files(folder.path()), named(&[(&old, "1\n"), ("access.log", "2\n")]), "{roll:?}");
        }
    }

    #[test]
    fn a_file_grows_to_its_size_and_no_line_is_lost_in_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let now = "2026-01-31T12:30:00Z";
        let mut file = open(folder.path(), Roll::Size(4), None, now);
        for line in ["1\n", "2\n", "3\n", "4\n", "longer than that\n", "5\n"] {
            file.write(line.as_bytes(), at(now)).unwrap();
        }
        file.flush().unwrap();
        assert_eq!(
            files(folder.path()),
            named(&[
                ("access-20260131-133000-001.log", "3\n4\n"),
                ("access-20260131-133000-002.log", "longer than that\n"),
                ("access-20260131-133000.log", "1\n2\n"),
                ("access.log", "5\n"),
            ])
        );
    }

    #[test]
    fn the_latest_old_files_stay_and_others_are_none_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(folder.path(), Roll::Hourly, Some(1), "2026-01-31T12:30:00Z");
        for other in ["access-other.log", "access-.log", "access-1.txt"] {
            fs::write(folder.path().join("logs").join(other), "").unwrap();
        }
        for hour in 13..16 {
            file.write(b"x\n", at(&format!("2026-01-31T{hour}:00:00Z"))).unwrap();
        }
        let names: Vec<_> = files(folder.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["access-.log", "access-1.txt", "access-20260131-15.log", "access-other.log", "access.log"]);
    }

    #[test]
    fn what_was_there_is_appended_to_or_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let now = "2026-01-31T12:30:00Z";
        for (line, truncates, text) in [("1\n", false, "1\n"), ("2\n", false, "1\n2\n"), ("3\n", true, "3\n")] {
            let mut file = open(folder.path(), Roll::Never, None, now);
            if truncates {
                file.truncate().unwrap();
            }
            file.write(line.as_bytes(), at(now)).unwrap();
            drop(file);
            assert_eq!(files(folder.path()), named(&[("access.log", text)]));
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(folder.path(), Roll::Never, None, "2026-01-31T12:30:00Z");
        let line = |file: &mut RollingFile, line: &str, now: &str, at_once| {
            file.look(at(now), at_once).unwrap();
            file.write(line.as_bytes(), at(now)).unwrap();
            file.flush().unwrap();
        };
        let logs = folder.path().join("logs");
        line(&mut file, "1\n", "2026-01-31T12:30:00Z", false);
        fs::rename(logs.join("access.log"), logs.join("moved")).unwrap();
        line(&mut file, "2\n", "2026-01-31T12:30:00.9Z", false);
        line(&mut file, "3\n", "2026-01-31T12:30:01Z", false);
        fs::remove_file(logs.join("access.log")).unwrap();
        line(&mut file, "4\n", "2026-01-31T12:30:01Z", true);
        assert_eq!(files(folder.path()), named(&[("access.log", "4\n"), ("moved", "1\n2\n")]));
    }
}
