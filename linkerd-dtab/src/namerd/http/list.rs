//! `/api/1/bound-names`: the bound names that namers can list.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Method, StatusCode, request::Parts};
use tokio::{select, time::sleep};

use super::{
    params::Params,
    reply::{self, Answer},
    stream::Documents,
};
use crate::{
    Activity, Path, Publisher,
    namerd::{Namerd, Session},
};

/// How often namers are asked while somebody watches: they do not tell of changes.
const PERIOD: Duration = Duration::from_secs(1);

const JSON: &str = "application/json";

type Names = Arc<BTreeSet<String>>;

/// The listing, shared by all who watch it.
pub(super) struct BoundNames {
    namerd: Namerd,
    watched: Arc<Mutex<Option<Arc<Publisher<Names>>>>>,
}

impl BoundNames {
    pub(super) fn new(namerd: Namerd) -> Self {
        Self { namerd, watched: Arc::default() }
    }

    pub(super) async fn serve(&self, session: &Session, head: &Parts) -> Answer {
        if head.method != Method::GET && head.method != Method::HEAD {
            return Ok(reply::empty(StatusCode::NOT_FOUND));
        }
        // The names are those of all namespaces.
        let counted = session.everything()?;
        if !Params::of(&head.uri)?.watch() {
            let names = listed(self.namerd.clone()).await;
            return Ok(reply::document(Some(JSON), shown(&names)));
        }
        let documents = Documents::new(self.watch(), counted, |names: &Names| Some(shown(names)));
        Ok(reply::body(Some(JSON), documents.body()))
    }

    fn watch(&self) -> Activity<Names> {
        let mut watched = lock(&self.watched);
        if let Some(names) = &*watched {
            return names.subscribe();
        }
        let (publisher, names) = Activity::channel();
        let publisher = Arc::new(publisher);
        *watched = Some(Arc::clone(&publisher));
        tokio::spawn(follow(self.namerd.clone(), publisher, Arc::clone(&self.watched)));
        names
    }
}

async fn follow(namerd: Namerd, names: Arc<Publisher<Names>>, watched: Arc<Mutex<Option<Arc<Publisher<Names>>>>>) {
    loop {
        names.ok_if_changed(listed(namerd.clone()).await, PartialEq::eq);
        select! {
            () = names.closed() => {}
            () = sleep(PERIOD) => {}
        }
        // Under the lock, so that nobody finds it in between.
        let mut watched = lock(&watched);
        if names.is_closed() {
            *watched = None;
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shown(names: &BTreeSet<String>) -> String {
    format!("{}\n", serde_json::json!(names))
}

/// What cannot be listed now is left out.
async fn listed(namerd: Namerd) -> Names {
    let list = move || {
        let whole = |prefix: &Path, name: &Path| prefix.concat(name).to_string();
        let names = namerd.namers().iter().filter_map(|(prefix, namer)| match namer.names()? {
            Ok(names) => Some(names.iter().map(|name| whole(prefix, name)).collect::<Vec<_>>()),
            Err(error) => {
                tracing::debug!(%prefix, "names not listed: {error}");
                None
            }
        });
        names.flatten().collect()
    };
    Arc::new(tokio::task::spawn_blocking(list).await.unwrap_or_default())
}
