//! Interpreters that ask namerds: what changes, outages and starts without one look like from here.
#![cfg(feature = "remote")]

mod cold;
mod follow;
#[cfg(feature = "namerd")]
mod http;
mod session;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use linkerd_dtab::{
    Activity, Addr, Bound, Delegation, Dtab, Failure, Interpreter, NameTree, Path, Publisher, State,
    interpreter::remote::{Explaining, Leaf, Pauses, Remote, Source, Watching},
};
use tokio::{sync::watch, time::timeout};

/// Longer than anything takes. On a paused clock it costs nothing.
const PATIENCE: Duration = Duration::from_hours(1);

const PAUSES: Pauses = Pauses::new(Duration::from_secs(1), Duration::from_mins(1));

/// A namerd that does as it is told.
#[derive(Clone)]
struct Fake(Arc<State_>);

struct State_ {
    mode: watch::Sender<Mode>,
    names_asked: AtomicUsize,
    ids_asked: AtomicUsize,
    watches: AtomicUsize,
}

#[derive(Clone, Debug)]
enum Mode {
    /// Every name is bound to this id, which is at this port.
    Up(&'static str, u16),
    /// It refuses.
    Down,
    /// It takes questions and says nothing.
    Silent,
}

/// Counts a watch as long as it is there.
struct Counted<'a>(&'a AtomicUsize);

impl Fake {
    fn new(mode: Mode) -> Self {
        let mode = watch::channel(mode).0;
        Self(Arc::new(State_ {
            mode,
            names_asked: AtomicUsize::new(0),
            ids_asked: AtomicUsize::new(0),
            watches: AtomicUsize::new(0),
        }))
    }

    fn becomes(&self, mode: Mode) {
        self.0.mode.send_replace(mode);
    }

    fn asked(&self) -> (usize, usize) {
        (self.0.names_asked.load(Ordering::SeqCst), self.0.ids_asked.load(Ordering::SeqCst))
    }

    fn watches(&self) -> usize {
        self.0.watches.load(Ordering::SeqCst)
    }

    async fn follow(&self, publish: impl Fn(&'static str, u16)) -> Failure {
        self.0.watches.fetch_add(1, Ordering::SeqCst);
        let _counted = Counted(&self.0.watches);
        let mut mode = self.0.mode.subscribe();
        loop {
            match mode.borrow_and_update().clone() {
                Mode::Up(id, port) => publish(id, port),
                Mode::Down => return failure("down"),
                Mode::Silent => {}
            }
            mode.changed().await.expect("it is in `self`");
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Source for Fake {
    fn bind<'a>(&'a self, _: &'a Dtab, _: &'a Path, tree: &'a Publisher<NameTree<Leaf>>) -> Watching<'a> {
        self.0.names_asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(self.follow(|id, _| {
            let leaf = Leaf { id: path(id), residual: Path::empty() };
            tree.ok_if_changed(NameTree::Leaf(leaf), PartialEq::eq);
        }))
    }

    fn addr<'a>(&'a self, _: &'a Path, addr: &'a Publisher<Addr>) -> Watching<'a> {
        self.0.ids_asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(self.follow(|_, port| addr.ok_if_changed(at(port), PartialEq::eq)))
    }

    fn delegate<'a>(&'a self, _: &'a Dtab, name: &'a Path) -> Explaining<'a> {
        let mode = self.0.mode.borrow().clone();
        Box::pin(async move {
            match mode {
                Mode::Up(..) => Ok(Delegation::from_json(&format!(r#"{{"type":"neg","path":"{name}"}}"#)).unwrap()),
                Mode::Down => Err(failure("down")),
                Mode::Silent => std::future::pending().await,
            }
        })
    }
}

fn failure(text: &str) -> Failure {
    Failure::from(Box::<dyn std::error::Error + Send + Sync>::from(text))
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn at(port: u16) -> Addr {
    Addr::of([SocketAddr::from((Ipv4Addr::LOCALHOST, port))])
}

fn bind(remote: &Remote, name: &str) -> Activity<NameTree<Bound>> {
    remote.bind(&Dtab::empty(), &path(name))
}

fn shown(tree: &Activity<NameTree<Bound>>) -> String {
    match tree.sample() {
        State::Ok(tree) => tree.to_string(),
        State::Pending => "pending".to_owned(),
        State::Failed(error) => format!("failed: {error}"),
    }
}

/// Waits until a tree is this.
async fn becomes(tree: &mut Activity<NameTree<Bound>>, expected: &str) {
    let wait = async {
        while shown(tree) != expected {
            tree.changed().await;
        }
    };
    let waited = timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "{expected} expected, {} found", shown(tree));
}

/// Waits until something is so that nobody tells of.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come to be");
}

/// The address of the one leaf.
fn addr(tree: &Activity<NameTree<Bound>>) -> Activity<Addr> {
    match tree.sample() {
        State::Ok(NameTree::Leaf(bound)) => bound.addr,
        other => panic!("{other:?}"),
    }
}
