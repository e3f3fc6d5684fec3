//! One name under one table, evaluated again when something that it depends on changes.

use std::{mem, sync::Arc};

use tokio::select;

use super::{Asked, Namers, evaluate, table::Table};
use crate::{
    Activity, BindError, Bound, Dtab, Failure, NameTree, Path, Publisher, State,
    delegate::{Delegation, explain},
};

/// A name under a table, and what it depends on.
pub(super) struct Binding {
    namers: Arc<Namers>,
    asked: Asked,
    below: Option<Below>,
    dtab: Dtab,
    path: Path,
    max_depth: usize,
}

/// The interpreter's own table.
struct Below {
    dtab: Activity<Dtab>,
    is_final: bool,
    // Each change of it is told.
    is_retold: bool,
    // It was seen that it is another one, which nothing was evaluated under yet.
    is_new: bool,
}

/// A binding, and who watches it.
pub(super) struct Watched<T> {
    binding: Binding,
    publisher: Publisher<T>,
    compute: fn(&mut Binding) -> State<T>,
    same: fn(&T, &T) -> bool,
}

/// What is watched, whatever is made of it.
pub(super) trait Again: Send {
    /// Evaluates it once more.
    fn again(&mut self);

    /// Whether somebody watches it.
    fn is_watched(&self) -> bool;

    /// Whether only the table can change it.
    fn has_only_table(&self) -> bool;

    /// Whether the table has changed since this was evaluated.
    fn is_late(&self) -> bool;

    /// Follows all that it depends on, by a task of its own.
    fn follow(self: Box<Self>);
}

impl Binding {
    pub(super) fn new(namers: Arc<Namers>, table: Option<&Table>, dtab: Dtab, path: Path, max_depth: usize) -> Self {
        let below =
            |table: &Table| Below { dtab: table.dtab(), is_final: false, is_retold: table.is_retold(), is_new: false };
        let below = table.map(below);
        Self { namers, asked: Asked::default(), below, dtab, path, max_depth }
    }

    pub(super) fn watch<T: Clone + Send + Sync + 'static>(
        self,
        table: Option<&Arc<Table>>,
        compute: fn(&mut Self) -> State<T>,
        same: fn(&T, &T) -> bool,
    ) -> Activity<T> {
        let (publisher, activity) = Activity::channel();
        let mut watched = Watched { binding: self, publisher, compute, same };
        // The first answer at once: most names are known, and a caller should not wait for a task to be scheduled.
        watched.again();
        if watched.binding.is_final() {
            return activity;
        }
        // Boxed: the future would have room for it twice.
        let watched = Box::new(watched);
        match table {
            Some(table) => table.follow(watched),
            None => watched.follow(),
        }
        activity
    }

    fn log(&self, error: &Failure) {
        if let Some(BindError::TooDeep { steps, .. }) = error.downcast_ref() {
            tracing::warn!(path = %self.path, %steps, "{error}");
        } else {
            tracing::debug!(path = %self.path, "not bound: {error}");
        }
    }

    pub(super) fn bind(&mut self) -> State<NameTree<Bound>> {
        self.evaluated(evaluate)
    }

    pub(super) fn delegate(&mut self) -> State<Delegation> {
        self.evaluated(|dtab, path, max_depth, namers| State::Ok(explain(dtab, path, max_depth, namers)))
    }

    fn evaluated<T>(
        &mut self,
        evaluate: impl FnOnce(&Dtab, &Path, usize, &mut dyn FnMut(&Path) -> State<NameTree<crate::Name>>) -> State<T>,
    ) -> State<T> {
        let Self { namers, asked, path, max_depth, .. } = self;
        match Below::table(self.below.as_mut(), &self.dtab) {
            State::Pending => State::Pending,
            State::Failed(error) => State::Failed(error),
            State::Ok(dtab) => {
                asked.begin();
                let found = evaluate(&dtab, path, *max_depth, &mut |path| namers.ask(path, asked));
                asked.end();
                found
            }
        }
    }

    fn is_final(&self) -> bool {
        self.asked.is_final() && self.below.as_ref().is_none_or(|below| below.is_final)
    }

    /// Whether what was evaluated last is to be told even if it is what it was: the table was another one.
    fn take_new(&mut self) -> bool {
        self.below.as_mut().is_some_and(|below| mem::take(&mut below.is_new) && below.is_retold)
    }

    /// Whether somebody who was asked has not answered yet.
    #[cfg(feature = "namerd")]
    pub(super) fn waits(&self) -> bool {
        self.asked.waits()
    }

    pub(super) async fn changed(&mut self) {
        match &mut self.below {
            Some(below) => select! {
                () = below.dtab.changed() => below.is_new = true,
                () = self.asked.changed() => {}
            },
            None => self.asked.changed().await,
        }
    }
}

impl Below {
    fn table(below: Option<&mut Self>, dtab: &Dtab) -> State<Dtab> {
        let Some(below) = below else { return State::Ok(dtab.clone()) };
        below.is_final = below.dtab.is_final();
        below.is_new |= below.dtab.has_changed();
        below.dtab.sample_and_update().map(|below| below.concat(dtab))
    }
}

impl<T: Clone + Send + Sync + 'static> Watched<T> {
    async fn followed(mut self: Box<Self>) {
        loop {
            select! {
                biased;
                () = self.publisher.closed() => return,
                () = self.binding.changed() => self.again(),
            }
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Again for Watched<T> {
    fn again(&mut self) {
        let Self { binding, publisher, compute, same } = self;
        match compute(binding) {
            // Of a name that was known, it only means that something is being asked again.
            State::Pending => {}
            State::Ok(value) if binding.take_new() => publisher.ok_again(value, *same),
            State::Ok(value) => publisher.ok_if_changed(value, *same),
            State::Failed(error) => {
                binding.log(&error);
                let last = publisher.sample();
                if !matches!(last, State::Failed(last) if last.to_string() == error.to_string()) {
                    publisher.failed(error);
                }
            }
        }
    }

    fn is_watched(&self) -> bool {
        !self.publisher.is_closed()
    }

    fn has_only_table(&self) -> bool {
        self.binding.asked.is_final()
    }

    fn is_late(&self) -> bool {
        self.binding.below.as_ref().is_some_and(|below| below.dtab.has_changed())
    }

    fn follow(self: Box<Self>) {
        tokio::spawn(self.followed());
    }
}
