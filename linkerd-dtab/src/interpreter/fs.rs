//! A watched file with a delegation table in it (`io.l5d.fs`): rules that change while they are used.

use std::{
    io,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use crate::{
    Activity, Dtab, Failure, ParseError, Publisher, State,
    parse::MAX_LEN,
    watch::{Content, Folder, SETTLE, Seen, Sink, Trust, entry_name},
};

/// A file with a delegation table.
///
/// ```no_run
/// # use std::sync::Arc;
/// use linkerd_dtab::{interpreter::{Local, fs::DtabFile}, namer::Inet};
///
/// # async fn example() {
/// let interpreter = Local::new(Vec::new(), Arc::new(Inet::default())).with_dtab(DtabFile::watch("rules.dtab"));
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DtabFile;

/// Why a file is no delegation table.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadDtabFile {
    /// It does not parse.
    #[error("{file}, line {line}, column {column}: not a dtab", file = file.display(), line = source.line(), column = source.column())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Where and why.
        source: ParseError,
    },
    /// It is no text.
    #[error("{file} is not UTF-8", file = file.display())]
    NotText {
        /// The file.
        file: PathBuf,
    },
    /// It has more than [`MAX_LEN`] bytes.
    #[error("{file} is larger than {MAX_LEN} bytes", file = file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// There is no such file (any more).
    #[error("there is no file {file}", file = file.display())]
    Missing {
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

struct DtabSink {
    file: PathBuf,
    dtab: Publisher<Dtab>,
    failure: Option<Failure>,
}

impl DtabFile {
    /// Watches the file at `path`; a relative path counts from the current directory.
    ///
    /// The table is pending until the file is there. Once it was, it stays what it was when the file is gone, does not
    /// parse or cannot be read, and is marked as stale with a [`BadDtabFile`]; a first file that does not parse fails it.
    /// The file may be edited in place, replaced by a rename or switched by a link: as with
    /// [`fs::Namer`](crate::namer::fs::Namer), bad news (an empty table too) must hold for 100 ms to be believed
    /// (1 s if the file was written twice within a second), and a writer is waited for until he closes the file (5 s after each of his changes, 50 s in all), where that is told.
    ///
    /// The watch ends within 20 s after the last clone of the activity was dropped. Called inside a tokio runtime.
    #[must_use]
    pub fn watch(path: impl AsRef<FilePath>) -> Activity<Dtab> {
        let path = path.as_ref();
        let name = path.file_name().and_then(|name| entry_name(name.as_encoded_bytes()));
        let (Some(parent), Some(name)) = (path.parent(), name) else {
            return Activity::failed(Arc::new(BadDtabFile::Missing { file: path.to_owned() }));
        };
        // The parent of a bare name is empty, and stands for the current directory.
        let parent = if parent.as_os_str().is_empty() { FilePath::new(".") } else { parent };
        let (dtab, activity) = Activity::channel();
        let sink = DtabSink { file: path.to_owned(), dtab, failure: None };
        Folder::new(parent, SETTLE).watch(vec![name.to_owned()], Box::new(sink));
        activity
    }
}

impl DtabSink {
    fn read(&self, seen: &Seen) -> Result<Dtab, BadDtabFile> {
        let file = self.file.clone();
        match seen {
            Seen::Missing => Err(BadDtabFile::Missing { file }),
            Seen::Unknown { path, error } => Err(BadDtabFile::Unreadable { file: path.clone(), source: error.clone() }),
            Seen::File { content: Content::Unreadable(error), .. } => {
                Err(BadDtabFile::Unreadable { file, source: error.clone() })
            }
            Seen::File { content: Content::TooLarge | Content::Unread, .. } => Err(BadDtabFile::TooLarge { file }),
            Seen::File { content: Content::Bytes(bytes), .. } => match std::str::from_utf8(bytes) {
                Ok(text) => text.parse().map_err(|source| BadDtabFile::Malformed { file, source }),
                Err(_) => Err(BadDtabFile::NotText { file }),
            },
        }
    }

    fn fail(&mut self, error: BadDtabFile) {
        let is_kept = matches!(self.dtab.sample(), State::Ok(_));
        let is_absent = match &error {
            BadDtabFile::Missing { .. } => true,
            BadDtabFile::Unreadable { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        };
        let reason = match &error {
            BadDtabFile::Malformed { source, .. } => source.summary().to_string(),
            error => error.to_string(),
        };
        tracing::warn!(file = %self.file.display(), reason, is_kept, "bad dtab file");
        let failure: Failure = Arc::new(error);
        // A file that is not there yet is being waited for.
        if is_kept || !is_absent {
            self.dtab.failed(failure.clone());
            self.failure = Some(failure);
        }
    }
}

impl Sink for DtabSink {
    fn max_bytes(&self) -> usize {
        MAX_LEN
    }

    fn offer(&mut self, seen: &Seen, trust: Trust) -> bool {
        let read = self.read(seen);
        // A table is shorter than it was meant to be until its last line is whole.
        let is_whole = matches!(seen, Seen::File { content: Content::Bytes(bytes), .. } if bytes.ends_with(b"\n"));
        let is_good = matches!(&read, Ok(dtab) if !dtab.is_empty());
        let enough = match self.dtab.sample() {
            State::Pending | State::Failed(_) if is_good => Trust::Passing,
            State::Ok(_) if is_good && is_whole => Trust::Calm,
            // Bad news takes time even if it is the first: it may be one half of an edit.
            _ => Trust::Settled,
        };
        if trust < enough {
            return false;
        }
        self.failure = None;
        match read {
            Ok(dtab) => self.dtab.ok_if_changed(dtab, PartialEq::eq),
            Err(error) => self.fail(error),
        }
        true
    }

    fn unchanged(&mut self) {
        match (&self.failure, self.dtab.sample()) {
            (Some(failure), _) => self.dtab.failed(failure.clone()),
            (None, State::Ok(_)) => self.dtab.contact(),
            (None, State::Pending | State::Failed(_)) => {}
        }
    }

    fn is_unread(&mut self) -> bool {
        self.dtab.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tokio::time::{sleep, timeout};

    use super::*;

    const LONG: Duration = Duration::from_mins(2);

    async fn until(activity: &mut Activity<Dtab>, expected: &str) {
        let expected: Dtab = expected.parse().unwrap();
        let wait = async {
            while activity.sample_and_update().ok().as_ref() != Some(&expected) {
                activity.changed().await;
            }
        };
        timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{activity:?} is not {expected}"));
    }

    async fn stale(activity: &Activity<Dtab>) -> Failure {
        let wait = async {
            loop {
                if let Some(failure) = activity.snapshot().stale {
                    return failure;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, wait).await.expect("never stale")
    }

    #[tokio::test]
    async fn a_table_follows_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules.dtab");
        fs::write(&file, "/svc => /a").unwrap();
        let mut dtab = DtabFile::watch(&file);
        until(&mut dtab, "/svc => /a").await;
        fs::write(&file, "# changed\n/svc => 9 * /a & 1 * /b ;\n").unwrap();
        until(&mut dtab, "/svc => 9 * /a & 1 * /b").await;
        fs::write(dir.path().join("new"), "/svc => /c\n").unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        until(&mut dtab, "/svc => /c").await;
        fs::write(&file, "").unwrap();
        until(&mut dtab, "").await;
    }

    #[tokio::test]
    async fn a_bad_edit_keeps_the_table_and_names_line_and_column() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules.dtab");
        fs::write(&file, "/svc => /a\n").unwrap();
        let mut dtab = DtabFile::watch(&file);
        until(&mut dtab, "/svc => /a").await;
        fs::write(&file, "/svc => /b ;\n/x -> /y\n").unwrap();
        let failure = stale(&dtab).await;
        assert_eq!(failure.to_string(), format!("{}, line 2, column 4: not a dtab", file.display()));
        until(&mut dtab, "/svc => /a").await;
        fs::remove_file(&file).unwrap();
        while dtab.snapshot().stale.is_none_or(|failure| !failure.to_string().starts_with("there is no file")) {
            tokio::task::yield_now().await;
        }
        until(&mut dtab, "/svc => /a").await;
        fs::write(&file, "/svc => /d\n").unwrap();
        until(&mut dtab, "/svc => /d").await;
        assert!(dtab.snapshot().stale.is_none());
    }

    /// Closes are told there.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[tokio::test]
    async fn a_table_is_kept_until_its_writer_closes_the_file() {
        use std::io::Write;

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules.dtab");
        fs::write(&file, "/svc => /a ;\n/host => /b\n").unwrap();
        let mut dtab = DtabFile::watch(&file);
        until(&mut dtab, "/svc => /a ; /host => /b").await;
        let _ = dtab.sample_and_update();
        let mut writer = fs::File::create(&file).unwrap();
        for (step, text) in [(0, ""), (1, "/svc => /a ;\n"), (2, "/host =")] {
            writer.write_all(text.as_bytes()).unwrap();
            let seen = timeout(3 * SETTLE, dtab.changed()).await;
            assert!(seen.is_err() && dtab.snapshot().stale.is_none(), "step {step}: {dtab:?}");
        }
        writer.write_all(b"> /c\n").unwrap();
        drop(writer);
        until(&mut dtab, "/svc => /a ; /host => /c").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_whose_file_is_missing_is_pending() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("not/yet/rules.dtab");
        let mut dtab = DtabFile::watch(&file);
        sleep(Duration::from_secs(30)).await;
        assert!(matches!(dtab.sample(), State::Pending), "{dtab:?}");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "/svc => /a\n").unwrap();
        until(&mut dtab, "/svc => /a").await;
    }

    #[tokio::test]
    async fn a_first_file_that_does_not_parse_fails() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules.dtab");
        for bad in [&b"/svc => "[..], b"/svc => /\xff", &vec![b' '; MAX_LEN + 1]] {
            fs::write(&file, bad).unwrap();
            let error = timeout(LONG, DtabFile::watch(&file).ready()).await.unwrap().unwrap_err();
            assert!(error.to_string().starts_with(&*file.to_string_lossy()), "{error}");
        }
    }
}
