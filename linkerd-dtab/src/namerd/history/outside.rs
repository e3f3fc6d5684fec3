//! Changes that are made past this namerd.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    select,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use super::History;
use crate::{
    State,
    store::{DtabStore, Namespace},
};

/// After a namespace that is listed had no table: a list and a table need not change at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Watches all tables until it is dropped, and records what others make of them.
#[derive(Debug)]
pub(crate) struct Recorder(AbortHandle);

impl Recorder {
    /// `None` outside a runtime.
    pub(crate) fn start(store: Arc<dyn DtabStore>, history: Arc<History>) -> Option<Self> {
        let task = Handle::try_current().ok()?.spawn(watch_all(store, history));
        Some(Self(task.abort_handle()))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch_all(store: Arc<dyn DtabStore>, history: Arc<History>) {
    let mut list = store.list();
    let (mut tasks, mut watched) = (JoinSet::new(), HashSet::new());
    loop {
        if let State::Ok(all) = list.sample_and_update() {
            for namespace in all.iter().filter(|namespace| !watched.contains(*namespace)).cloned().collect::<Vec<_>>() {
                watched.insert(namespace.clone());
                tasks.spawn(watch_one(Arc::clone(&store), Arc::clone(&history), namespace, Duration::ZERO));
            }
        }
        select! {
            () = list.changed() => {}
            Some(ended) = tasks.join_next() => if let Ok(namespace) = ended {
                let is_listed = matches!(list.sample(), State::Ok(all) if all.contains(&namespace));
                if is_listed {
                    tasks.spawn(watch_one(Arc::clone(&store), Arc::clone(&history), namespace, PAUSE));
                } else {
                    watched.remove(&namespace);
                }
            },
        }
    }
}

/// Until the namespace is gone.
async fn watch_one(
    store: Arc<dyn DtabStore>,
    history: Arc<History>,
    namespace: Namespace,
    pause: Duration,
) -> Namespace {
    sleep(pause).await;
    let mut table = store.watch(&namespace);
    loop {
        if let State::Ok(_) = table.sample_and_update() {
            // Whoever is changing it has the turn until that is recorded.
            let turn = history.turn(&namespace).await;
            if let State::Ok(table) = table.sample_and_update() {
                let is_gone = table.is_none();
                history.add_seen(&turn, table).await;
                if is_gone {
                    return namespace;
                }
            }
        }
        table.changed().await;
    }
}
