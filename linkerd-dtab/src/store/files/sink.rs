//! Takes up what other hands do to the file of one namespace.

use std::sync::{Arc, Weak};

use super::{
    Namespace, Shared,
    disk::{is_ours, table},
};
use crate::{
    Failure,
    interpreter::fs::BadDtabFile,
    parse::MAX_LEN,
    store::{VersionedDtab, mirror::Reading},
    watch::{Content, Seen, Sink, Trust},
};

pub(super) struct TableSink {
    shared: Weak<Shared>,
    namespace: Namespace,
    /// Whether the folder was not the right one when this was last looked at: once it is, what is there counts all the same.
    is_unsure: bool,
}

/// What is in a file.
enum Held {
    Table(VersionedDtab),
    /// There is no file.
    Nothing,
    Bad(Failure),
}

impl TableSink {
    pub(super) fn new(shared: &Arc<Shared>, namespace: &Namespace) -> Self {
        Self { shared: Arc::downgrade(shared), namespace: namespace.clone(), is_unsure: false }
    }

    fn held(&self, shared: &Shared, seen: &Seen) -> Held {
        let file = shared.disk.path(&self.namespace);
        let bad = match seen {
            Seen::Missing => return Held::Nothing,
            Seen::Unknown { path, error } => BadDtabFile::Unreadable { file: path.clone(), source: error.clone() },
            Seen::File { content: Content::Unreadable(error), .. } => {
                BadDtabFile::Unreadable { file, source: error.clone() }
            }
            Seen::File { content: Content::TooLarge | Content::Unread, .. } => BadDtabFile::TooLarge { file },
            Seen::File { content: Content::Bytes(bytes), .. } => match std::str::from_utf8(bytes).map(table) {
                Ok(Ok(table)) => return Held::Table(table),
                Ok(Err(source)) => BadDtabFile::Malformed { file, source },
                Err(_) => BadDtabFile::NotText { file },
            },
        };
        Held::Bad(Arc::new(bad))
    }

    /// There is no file; but only a folder that is the right one can tell that there is no table.
    fn gone(&mut self, shared: &Shared) {
        match shared.disk.names() {
            Ok(_) => shared.mirror.remove(&self.namespace),
            Err(error) => self.doubt(shared, error),
        }
    }

    /// This is another folder, or an older one: what is known stays.
    fn doubt(&mut self, shared: &Shared, error: std::io::Error) {
        self.is_unsure = true;
        if shared.mirror.knows(&self.namespace) {
            shared.mirror.set(&self.namespace, Reading::Bad(Arc::new(error)));
        }
    }
}

/// How sure it must be that this is not one half of an edit.
fn enough(seen: &Seen, held: &Held, is_known: bool) -> Trust {
    let Seen::File { content: Content::Bytes(bytes), .. } = seen else { return Trust::Settled };
    match held {
        // An empty table that a store wrote is meant to be one.
        Held::Table(table) if table.dtab.is_empty() && !is_ours(bytes) => Trust::Settled,
        Held::Table(_) if !is_known => Trust::Passing,
        // A table is shorter than it was meant to be until its last line is whole.
        Held::Table(_) if bytes.ends_with(b"\n") => Trust::Calm,
        _ => Trust::Settled,
    }
}

/// Whether this is still what is there: a change of our own may have come between, and is not to be undone.
fn is_still(shared: &Shared, namespace: &Namespace, seen: &Seen) -> bool {
    match (seen, shared.disk.read(namespace)) {
        (Seen::File { content: Content::Bytes(bytes), .. }, Ok(Some(now))) => *bytes == now,
        (Seen::File { content: Content::Bytes(_), .. }, _) | (Seen::Missing, Ok(Some(_))) => false,
        _ => true,
    }
}

impl Sink for TableSink {
    fn max_bytes(&self) -> usize {
        MAX_LEN
    }

    fn offer(&mut self, seen: &Seen, trust: Trust) -> bool {
        let Some(shared) = self.shared.upgrade() else { return true };
        let held = self.held(&shared, seen);
        let _changing = shared.changes();
        let is_known = shared.mirror.table(&self.namespace).is_some();
        if trust < enough(seen, &held, is_known) || !is_still(&shared, &self.namespace, seen) {
            return trust == Trust::Settled;
        }
        self.is_unsure = false;
        if is_known
            && !matches!(held, Held::Nothing)
            && let Err(error) = shared.disk.check()
        {
            self.doubt(&shared, error);
            return true;
        }
        match held {
            Held::Table(table) => shared.mirror.set(&self.namespace, Reading::Table(table)),
            // That nothing can be told of a file does not mean that there is one.
            Held::Bad(_) if matches!(seen, Seen::Unknown { .. }) && !shared.mirror.knows(&self.namespace) => {}
            Held::Bad(error) => shared.mirror.set(&self.namespace, Reading::Bad(error)),
            Held::Nothing => self.gone(&shared),
        }
        true
    }

    fn unchanged(&mut self) {
        if self.is_unsure
            && let Some(shared) = self.shared.upgrade()
        {
            let _changing = shared.changes();
            if let Ok(Some(bytes)) = shared.disk.read(&self.namespace) {
                self.is_unsure = shared.disk.check().is_err();
                if !self.is_unsure
                    && let Ok(Ok(table)) = std::str::from_utf8(&bytes).map(table)
                {
                    shared.mirror.set(&self.namespace, Reading::Table(table));
                }
            } else {
                self.is_unsure = false;
                self.gone(&shared);
            }
        }
    }

    fn is_unread(&mut self) -> bool {
        let Some(shared) = self.shared.upgrade() else { return true };
        let mut attended = shared.attended();
        let is_unread = !shared.mirror.knows(&self.namespace) && !shared.mirror.watched().contains(&self.namespace);
        if is_unread {
            attended.remove(&self.namespace);
        }
        is_unread
    }
}
