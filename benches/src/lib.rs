//! What the benches have in common: short runs, tables of any size, an engine without a network.

pub mod retries;

use std::{fmt::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use criterion::Criterion;
use http::{Request, Response};
use linkerd_core::{Body, Error, Svc, http::Connect};
use linkerd_dtab::{Activity, Addr, Bound, Dtab, Endpoint, Name, NameTree, Namer, Path, namer::Resolve};
use tokio::runtime::{Builder, Runtime};

pub mod policies;

/// Runs the benches of one file as the command line says.
///
/// Each takes about a second; `--measurement-time`, `--warm-up-time` and `--sample-size` after `--` make it longer.
pub fn run(benches: &[fn(&mut Criterion)]) {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(20)
        .configure_from_args();
    for bench in benches {
        bench(&mut criterion);
    }
    criterion.final_summary();
}

/// One thread, as the rig of the proxy has it: what is measured is work, not scheduling.
///
/// # Panics
///
/// If the system gives no event queue.
#[must_use]
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The text of a table of this many entries, of every shape that tables have.
#[must_use]
pub fn table(entries: usize) -> String {
    let mut text = String::new();
    for n in 0..entries {
        let entry = match n % 4 {
            0 => format!("/svc/users{n} => /#/io.l5d.fs/users ;\n"),
            1 => format!("/env{n}/* => 0.9 * /srv/a{n} & 0.1 * /srv/b{n} ;\n"),
            2 => format!("/host{n} => /$/inet/127.1/80 | /#/io.l5d.fs/host{n} | ! ;\n"),
            _ => format!("/srv/v{n} => /#/io.l5d.fs/v{n}\\x2e1 ;\n"),
        };
        let _ = write!(text, "{entry}");
    }
    text
}

/// [`table`], parsed.
///
/// # Panics
///
/// Not: such a table parses.
#[must_use]
pub fn dtab(entries: usize) -> Dtab {
    table(entries).parse().expect("a table")
}

/// A path from a literal.
///
/// # Panics
///
/// If it is none.
#[must_use]
pub fn path(text: &str) -> Path {
    text.parse().expect("a path")
}

/// Addresses of endpoints that nobody calls.
pub fn addrs(endpoints: u16) -> impl Iterator<Item = SocketAddr> {
    (0..endpoints).map(|n| SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80)))
}

/// Has one bound name for each first element of a path, with endpoints that never change.
#[derive(Debug)]
pub struct Static {
    addr: Addr,
}

impl Static {
    /// With these endpoints, whatever the name.
    pub fn new(endpoints: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { addr: Addr::of(endpoints) }
    }
}

impl Namer for Static {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        if path.is_empty() {
            return Activity::value(NameTree::Neg);
        }
        let id = self::path("/#/static").concat(&path.take_first(1));
        let bound = Bound::new(id, path.drop_first(1), Activity::value(self.addr.clone()));
        Activity::value(NameTree::Leaf(Name::Bound(bound)))
    }
}

/// Knows no host.
#[derive(Debug)]
pub struct Nowhere;

impl Resolve for Nowhere {
    fn resolve(&self, _: &str, _: &str) -> Activity<Addr> {
        Activity::value(Addr::Neg)
    }

    fn resolve_once(&self, _: &str, _: &str) -> Activity<Addr> {
        Activity::value(Addr::Neg)
    }
}

/// Answers at once in the place of the network.
#[derive(Clone, Copy, Debug)]
pub struct Stub;

impl Connect for Stub {
    fn connect(&self, _: &Endpoint) -> Svc {
        Svc::new(tower::service_fn(|_: Request<Body>| {
            std::future::ready(Ok::<_, Error>(Response::new(Body::from("hello"))))
        }))
    }
}

/// A namer behind what an interpreter takes.
#[must_use]
pub fn mounted(prefix: &str, namer: impl Namer) -> Vec<(Path, Arc<dyn Namer>)> {
    vec![(path(prefix), Arc::new(namer))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_as_many_entries_as_asked_for() {
        for entries in [0, 1, 7, 100] {
            assert_eq!(dtab(entries).len(), entries);
        }
    }

    #[test]
    fn the_namer_binds_what_it_is_asked_for() {
        let State::Ok(NameTree::Leaf(Name::Bound(bound))) = Static::new(addrs(3)).lookup(&path("/a/b")).sample() else {
            panic!("not bound");
        };
        assert_eq!((bound.id, bound.residual), (path("/#/static/a"), path("/b")));
    }

    use linkerd_dtab::State;
}
