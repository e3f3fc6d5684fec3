//! An interpreter's own table, and the names that nothing else can change.

use std::{
    fmt,
    future::ready,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{select, task::yield_now, time::sleep};

use super::binding::Again;
use crate::{Activity, Dtab};

/// How many names are evaluated before other tasks have their turn.
const AT_ONCE: usize = 32;

/// How long a name is kept at most after the last who watched it has gone.
const SWEPT: Duration = Duration::from_secs(1);

/// A table that names are bound under.
///
/// Most names lead to places that do not change, so that only the table can change what they are bound to. One task
/// evaluates all of these when it does: for ten thousand names as many tasks would take longer, and 600 bytes each. It
/// ends when there are none.
pub(super) struct Table {
    dtab: Activity<Dtab>,
    is_retold: bool,
    names: Mutex<Names>,
}

/// Who evaluates the names.
struct Following(Arc<Table>);

#[derive(Default)]
struct Names {
    // As many as are watched, and what was not swept yet.
    all: Vec<Box<dyn Again>>,
    is_followed: bool,
}

impl Table {
    /// `is_retold`: a name is published after each change, also when that leaves it what it was.
    pub(super) fn new(dtab: Activity<Dtab>, is_retold: bool) -> Arc<Self> {
        Arc::new(Self { dtab, is_retold, names: Mutex::default() })
    }

    /// The table, of which nothing was seen yet.
    pub(super) fn dtab(&self) -> Activity<Dtab> {
        self.dtab.clone()
    }

    pub(super) fn is_retold(&self) -> bool {
        self.is_retold
    }

    /// Evaluates this again when the table changes, for as long as somebody watches it.
    pub(super) fn follow(self: &Arc<Self>, mut watched: Box<dyn Again>) {
        loop {
            if !watched.has_only_table() {
                return watched.follow();
            }
            let mut names = self.names();
            // Under the lock: a change after this finds it among the others.
            if !watched.is_late() {
                names.all.push(watched);
                if !mem::replace(&mut names.is_followed, true) {
                    tokio::spawn(Following(Arc::clone(self)).run());
                }
                return;
            }
            drop(names);
            watched.again();
        }
    }

    /// Lets go what nobody watches. False: there is nothing left, and nobody follows from now on.
    fn sweep(&self) -> bool {
        let mut names = self.names();
        names.all.retain(|name| name.is_watched());
        if names.all.len() < names.all.capacity() / 4 {
            names.all.shrink_to_fit();
        }
        names.is_followed = !names.all.is_empty();
        names.is_followed
    }

    /// Evaluates what was not evaluated under this table yet.
    async fn evaluate(&self, is_final: bool) {
        let mut all = mem::take(&mut self.names().all);
        let mut kept = Vec::with_capacity(all.len());
        while !all.is_empty() {
            for mut name in all.drain(all.len().saturating_sub(AT_ONCE)..) {
                if is_final || name.is_late() {
                    name.again();
                }
                if name.has_only_table() {
                    kept.push(name);
                } else {
                    name.follow();
                }
            }
            yield_now().await;
        }
        let mut names = self.names();
        // Those that came meanwhile are fewer.
        kept.append(&mut names.all);
        names.all = kept;
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Following {
    async fn run(self) {
        let mut dtab = self.0.dtab();
        while self.0.sweep() {
            // Before the table is read: after it, a last change may have come in between.
            let is_final = dtab.is_final();
            select! {
                () = dtab.changed(), if !is_final => {}
                () = sleep(SWEPT), if !is_final => continue,
                () = ready(()), if is_final => {}
            }
            self.0.evaluate(is_final).await;
            if is_final {
                // What they are now they stay.
                self.0.names().all.clear();
            }
        }
    }
}

impl Drop for Following {
    /// Also when its runtime ends: the next name begins anew.
    fn drop(&mut self) {
        self.0.names().is_followed = false;
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dtab.fmt(f)
    }
}
