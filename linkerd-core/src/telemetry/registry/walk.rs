//! A way through the tree that can be left and taken up again.

use std::sync::Arc;

use super::{
    Reading,
    tree::{Child, Children, Metric},
};

/// Every metric in a scope, in the order of their names, a scope's own before those below it.
///
/// It holds the rows of names on the way to where it is as they were when it came to them. What is made or taken out
/// elsewhere meanwhile is seen as it then is.
pub(crate) struct Walk {
    // From the scope to what was shown last.
    path: Vec<Arc<str>>,
    // The scopes on that way, each with what comes next in it.
    rows: Vec<(Arc<Children>, usize)>,
    // Of the scope at `path`, before it is shown or while it is.
    own: Option<Metric>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was shown yet.
    New,
    /// A metric of the last row was shown, whose name is the end of the path.
    Leaf,
    /// The metric of the scope at the path was shown, or there is none.
    Scope,
}

impl Walk {
    pub(super) fn new(start: Child) -> Self {
        let (own, rows) = match start {
            Child::Metric(metric) => (Some(metric), Vec::new()),
            Child::Scope(node) => {
                let (own, children) = node.read();
                (own, vec![(children, 0)])
            }
        };
        Self { path: Vec::new(), rows, own, state: State::New }
    }

    /// The next metric, by its path.
    pub(super) fn metric(&mut self) -> Option<(&[Arc<str>], &Metric)> {
        match std::mem::replace(&mut self.state, State::Scope) {
            State::New if self.own.is_some() => return Some((&self.path, self.own.as_ref()?)),
            State::Leaf => drop(self.path.pop()),
            State::New | State::Scope => {}
        }
        loop {
            let (row, at) = self.rows.last_mut()?;
            let Some((name, child)) = row.0.get(*at) else {
                self.rows.pop();
                self.path.pop();
                continue;
            };
            *at += 1;
            self.path.push(Arc::clone(name));
            let Child::Scope(node) = child else { break };
            let (own, children) = node.read();
            self.rows.push((children, 0));
            self.own = own;
            if self.own.is_some() {
                return Some((&self.path, self.own.as_ref()?));
            }
        }
        self.state = State::Leaf;
        let (row, at) = self.rows.last()?;
        let Child::Metric(metric) = &row.0[at - 1].1 else { return None };
        Some((&self.path, metric))
    }

    /// The next metric, read. No lock is held meanwhile.
    pub(crate) fn reading(&mut self) -> Option<(&[Arc<str>], Reading)> {
        self.metric().map(|(path, metric)| (path, metric.read()))
    }
}
