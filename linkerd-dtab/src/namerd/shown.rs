//! Reading one's writes where tasks stand between a store and who reads: composed tables, and the tables that names are
//! bound under.

use std::{iter, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{Composition, Namerd, Role, Session, Table, compose};
use crate::{
    Activity, Dtab, State,
    store::{Namespace, Stored},
};

/// How long the answer to a write waits for all namespaces that show it.
const PATIENCE: Duration = Duration::from_secs(2);

impl Session {
    /// Waits until a namespace that was written shows it, and so do those that it is a fragment of. What is said of those
    /// that do not in time.
    pub(super) async fn shown(&self, namespace: &Namespace) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let wholes = self.namerd.composing(namespace).map(|composition| &composition.namespace);
        let mut late = Vec::new();
        for shows in iter::once(namespace).chain(wholes) {
            if timeout_at(deadline, self.namerd.shown(shows)).await.is_err() {
                let is_known = self.may(shows, Role::Read).is_ok();
                let name =
                    if is_known { format!("namespace {shows}") } else { "a namespace that it is part of".into() };
                late.push(format!("{name} does not show it yet"));
            }
        }
        late
    }
}

impl Namerd {
    /// Waits until a namespace shows what the store has.
    async fn shown(&self, namespace: &Namespace) {
        // One that nobody follows is made of what there is when somebody asks.
        let Some(held) = self.inner.tables.hold(namespace, None) else { return };
        let Table { stored, local, .. } = held.value();
        // What is followed is read before what it follows, which is as new then: if both are the same it is not late, and
        // else a change is to come.
        if let Some(composition) = self.composition(namespace) {
            until(stored.clone(), |shown| self.is_current(composition, shown)).await;
        }
        let Some(dtab) = local.table() else { return };
        let is_current = |dtab: &Dtab| match stored.sample() {
            State::Ok(Some(stored)) => *dtab == stored.dtab,
            State::Ok(None) => dtab.is_empty(),
            State::Pending | State::Failed(_) => false,
        };
        until(dtab, is_current).await;
    }

    /// Whether this is what a composed namespace is by its fragments as they are, all of which are known.
    fn is_current(&self, composition: &Composition, shown: &Stored) -> bool {
        let State::Ok(all) = self.inner.store.list().sample() else { return false };
        let names = composition.fragments(&all).into_iter().map(|(_, name)| name);
        let fragments = names.map(|name| {
            let stored = self.inner.store.watch(&name).sample().ok()?;
            Some((name, stored))
        });
        let Some(fragments) = fragments.collect::<Option<Vec<_>>>() else { return false };
        shown.as_ref().map(|shown| &shown.version) == compose::version(&fragments).as_ref()
    }
}

/// Waits for a value that is current.
async fn until<T: Clone + Send + Sync + 'static>(mut activity: Activity<T>, is_current: impl Fn(&T) -> bool) {
    while !matches!(activity.sample_and_update(), State::Ok(value) if is_current(&value)) {
        activity.changed().await;
    }
}
