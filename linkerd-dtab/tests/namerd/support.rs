//! A namerd over memory with a namer that tests change.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use linkerd_dtab::{
    Activity, Addr, Dtab, Name, NameTree, Namer, Path,
    namer::fixed,
    namerd::{Builder, Namerd, Peer, Session, Watched},
    store::{Memory, Namespace},
};

/// `/#/fixed`, with `/web` at one address; counts what is asked.
#[derive(Clone)]
pub(crate) struct Counted {
    pub(crate) names: fixed::Namer,
    pub(crate) lookups: Arc<AtomicUsize>,
}

impl Counted {
    pub(crate) fn new() -> Self {
        let names = fixed::Namer::new().with(path("/web"), at(1)).with(path("/web-v2"), at(2)).with(path("/db"), at(3));
        Self { names, lookups: Arc::default() }
    }

    pub(crate) fn lookups(&self) -> usize {
        self.lookups.load(Ordering::SeqCst)
    }
}

impl Namer for Counted {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        self.names.lookup(path)
    }
}

pub(crate) fn at(port: u16) -> Addr {
    Addr::of([([127, 0, 0, 1], port).into()])
}

pub(crate) fn path(text: &str) -> Path {
    text.parse().unwrap()
}

pub(crate) fn ns(text: &str) -> Namespace {
    text.parse().unwrap()
}

pub(crate) fn dtab(text: &str) -> Dtab {
    text.parse().unwrap()
}

/// With namespace `default`: `/svc => /#/fixed`.
pub(crate) fn builder(namer: &Counted) -> Builder {
    let store = Memory::new([(ns("default"), dtab("/svc => /#/fixed"))]);
    Namerd::builder(store).namer(path("/#/fixed"), namer.clone())
}

pub(crate) fn peer(port: u16) -> Peer {
    Peer { addr: Some(([127, 0, 0, 1], port).into()), ..Peer::default() }
}

pub(crate) fn named(name: &str) -> Peer {
    Peer { name: Some(name.into()), ..Peer::default() }
}

pub(crate) fn session(namerd: &Namerd) -> Session {
    namerd.session(peer(1))
}

/// The value, or the failure's text, within what is a long time even for a machine that is busy.
pub(crate) async fn value<T: Clone + Send + Sync + 'static>(watched: &mut Watched<T>) -> Result<T, String> {
    let ready = tokio::time::timeout(Duration::from_mins(1), watched.ready());
    ready.await.expect("it should not take that long").map_err(|error| error.to_string())
}
