//! Taking back what was made for something that was given up.

use std::sync::Arc;

use super::{Made, Registry, lock};

/// Something that may yet be given up. Dropped, it was not.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(super) registry: Registry,
    pub(super) made: Arc<Made>,
}

impl Attempt {
    /// Takes out what was made since, if nobody has a handle of it: what a request has, which came by meanwhile, stays. Says
    /// whether nothing is left.
    pub(crate) fn undo(&self) -> bool {
        let Self { registry, made } = self;
        let (write, mut removed, mut left) = (lock(&registry.0.write), Vec::new(), Vec::new());
        // What is in something goes before it.
        let so_far = std::mem::take(&mut *lock(made));
        for path in so_far.into_iter().rev() {
            let is_there = || registry.0.root.find(path.iter().map(AsRef::as_ref)).and_then(|child| child.metric());
            match registry.remove_unused(&write, &path) {
                Some(unused) => removed.push(unused),
                None if is_there().is_some() => left.push(path),
                None => {}
            }
        }
        drop(write);
        drop(removed);
        let is_empty = left.is_empty();
        lock(made).extend(left.into_iter().rev());
        is_empty
    }
}
