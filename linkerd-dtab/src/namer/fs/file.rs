//! The endpoints of one file.

use std::sync::{Arc, Mutex};

use tokio::task::AbortHandle;

use super::{
    BadFile, Inner, Kept, MAX_FILE_BYTES,
    lines::{BadLine, Lines, NameLine, unique},
    lock, remove,
};
use crate::{
    Activity, Addr, Endpoint, Failure, Path, Publisher, State,
    watch::{Content, Seen, Sink, Trust},
};

/// The address of a file, and which of its contents may publish it.
pub(super) struct File {
    pub(super) addr: Publisher<Addr>,
    /// Counts the contents: a task that joins the names of an older one must not speak any more.
    edition: Mutex<u64>,
}

/// Keeps the address of one file.
pub(super) struct FileSink {
    inner: Arc<Inner>,
    id: Path,
    file: Arc<File>,
    failure: Option<Failure>,
    joining: Option<AbortHandle>,
}

impl File {
    pub(super) fn new() -> (Arc<Self>, Activity<Addr>) {
        let (addr, activity) = Activity::channel();
        (Arc::new(Self { addr, edition: Mutex::new(0) }), activity)
    }

    fn next_edition(&self) -> u64 {
        let mut edition = lock(&self.edition);
        *edition += 1;
        *edition
    }

    /// Publishes, unless a newer content has taken over.
    fn publish(&self, edition: u64, state: State<Addr>) {
        let current = lock(&self.edition);
        if *current != edition {
            return;
        }
        match state {
            State::Ok(addr) => self.addr.ok_if_changed(addr, PartialEq::eq),
            State::Failed(failure) => self.addr.failed(failure),
            State::Pending => {}
        }
    }
}

impl FileSink {
    pub(super) fn new(inner: Arc<Inner>, id: Path, file: Arc<File>) -> Self {
        Self { inner, id, file, failure: None, joining: None }
    }

    fn read(&self, seen: &Seen) -> Result<Option<Lines>, BadFile> {
        let (path, content) = match seen {
            Seen::File { path, consumed, content } if *consumed == self.id.size() => (path.clone(), content),
            // A file has taken the place of a folder on the way.
            Seen::File { .. } | Seen::Missing => return Ok(None),
            Seen::Unknown { path, error } => {
                return Err(BadFile::Unreadable { file: path.clone(), source: error.clone() });
            }
        };
        let bytes = match content {
            Content::Bytes(bytes) => bytes,
            Content::TooLarge => return Err(BadFile::TooLarge { file: path }),
            Content::Unreadable(error) => return Err(BadFile::Unreadable { file: path, source: error.clone() }),
            Content::Unread => return Ok(None),
        };
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            BadFile::NotText { file: path.clone(), line: before.split(|byte| *byte == b'\n').count() }
        })?;
        Lines::parse(text).map(Some).map_err(|BadLine { number, text }| BadFile::Malformed {
            file: path,
            line: number,
            text,
        })
    }

    fn replace(&mut self, lines: Lines) {
        let edition = self.file.next_edition();
        if let Some(joining) = self.joining.take() {
            joining.abort();
        }
        let Lines { endpoints, names } = lines;
        if names.is_empty() {
            self.file.publish(edition, State::Ok(Addr::Bound(endpoints.into())));
            return;
        }
        // Asked for before those of the last content are let go, so that what is in both is not asked for again.
        let resolver = &self.inner.resolver;
        let names =
            names.into_iter().map(|line| (resolver.resolve(&line.host, &line.port.to_string()), line)).collect();
        let file = self.file.clone();
        self.joining = Some(tokio::spawn(join(file, edition, endpoints, names)).abort_handle());
    }

    fn fail(&mut self, error: BadFile, is_file: bool) {
        let is_kept = matches!(self.file.addr.sample(), State::Ok(_));
        let (file, line) = (error.file().to_owned(), error.line());
        // What is wrong with the folder is said once, by who watches it.
        if is_file {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(file = %file.display(), line, reason = %error, source, is_kept, "bad endpoint file");
        }
        let failure: Failure = if is_kept { Arc::new(Kept { file, line, source: error }) } else { Arc::new(error) };
        self.file.addr.failed(failure.clone());
        self.failure = Some(failure);
    }
}

impl Sink for FileSink {
    fn max_bytes(&self) -> usize {
        MAX_FILE_BYTES
    }

    fn offer(&mut self, seen: &Seen, trust: Trust) -> bool {
        let read = self.read(seen);
        let is_good = matches!(&read, Ok(Some(lines)) if !lines.is_empty());
        let enough = match self.file.addr.sample() {
            State::Pending if is_good => Trust::Passing,
            // Bad news takes time even if it is the first: who asks waits for it, and gets the rest of an edit.
            _ if !is_good || !is_whole(seen) => Trust::Settled,
            State::Ok(addr) if !addr.endpoints().is_empty() => Trust::Calm,
            // Nothing is lost if there will be more.
            _ => Trust::Passing,
        };
        if trust < enough {
            return false;
        }
        self.failure = None;
        match read {
            Ok(Some(lines)) => self.replace(lines),
            Ok(None) => {
                let edition = self.file.next_edition();
                self.file.publish(edition, State::Ok(Addr::Neg));
                // A file that comes back has another life, in which this one's last good set is not known.
                remove(&mut lock(&self.inner.files), &self.id, &self.file);
            }
            Err(error) => self.fail(error, matches!(seen, Seen::File { .. })),
        }
        true
    }

    fn unchanged(&mut self) {
        match &self.failure {
            None => self.file.addr.contact(),
            Some(failure) => self.file.addr.failed(failure.clone()),
        }
    }

    fn is_unread(&mut self) -> bool {
        let mut files = lock(&self.inner.files);
        // Under the lock, so that no lookup finds it in between.
        let is_unread = self.file.addr.is_closed();
        if is_unread {
            remove(&mut files, &self.id, &self.file);
        }
        is_unread
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if let Some(joining) = &self.joining {
            joining.abort();
        }
        remove(&mut lock(&self.inner.files), &self.id, &self.file);
    }
}

/// Good news needs no proof but that its last line is whole.
fn is_whole(seen: &Seen) -> bool {
    matches!(seen, Seen::File { content: Content::Bytes(bytes), .. } if bytes.last() == Some(&b'\n'))
}

/// Publishes the endpoints of a file with names in it, for as long as its content stands.
async fn join(file: Arc<File>, edition: u64, fixed: Vec<Endpoint>, mut names: Vec<(Activity<Addr>, NameLine)>) {
    loop {
        let mut endpoints = fixed.clone();
        let (mut is_pending, mut failure) = (false, None);
        for (addr, line) in &mut names {
            match addr.sample_and_update() {
                State::Ok(addr) => endpoints.extend(addr.endpoints().iter().map(|found| line.endpoint(found))),
                State::Pending => is_pending = true,
                State::Failed(error) => failure = Some(error),
            }
        }
        let state = match failure {
            // Some are better than none while the others are being asked for.
            _ if !endpoints.is_empty() => State::Ok(Addr::Bound(unique(endpoints).into())),
            _ if is_pending => State::Pending,
            Some(failure) => State::Failed(failure),
            None => State::Ok(Addr::Bound([].into())),
        };
        file.publish(edition, state);
        let changes = names.iter_mut().map(|(addr, _)| Box::pin(addr.changed()));
        futures::future::select_all(changes).await;
    }
}
