//! Against our own server.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::watch;

use super::*;
use crate::{
    Dtab, Endpoint, Interpreter as _, State, Weighted,
    delegate::Step,
    interpreter::remote::Remote,
    namer::fixed,
    namerd::{Namerd, Peer, Session, thrift},
    store::{Expect, Memory},
};

/// A namerd that can be asked to leave, and can be away.
struct Namerds {
    session: Session,
    // How many connections there were, and are.
    dialled: AtomicUsize,
    generation: watch::Sender<u32>,
    served: Mutex<Vec<JoinHandle<Result<(), thrift::Broken>>>>,
}

impl Dial for Namerds {
    fn dial(&self) -> Dialling {
        // Relaxed: it only counts.
        self.dialled.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = duplex(1 << 16);
        let (session, mut generation) = (self.session.clone(), self.generation.subscribe());
        let served = tokio::spawn(async move {
            let drain = async { generation.changed().await.unwrap_or_default() };
            thrift::serve(theirs, session, thrift::Settings::default(), drain).await
        });
        self.served.lock().unwrap().push(served);
        Box::pin(async move { Ok(Box::new(ours) as Box<dyn crate::transport::Io>) })
    }
}

fn namerd() -> (fixed::Namer, Arc<Namerds>, Thrift) {
    let store = Memory::new([("default".parse().unwrap(), "/svc => /#/fixed".parse().unwrap())]);
    let names = fixed::Namer::new().with(path("/web"), at(&[1])).with(path("/other"), at(&[2]));
    let namerd = Namerd::builder(store).namer(path("/#/fixed"), names.clone()).build();
    let namerds = Arc::new(Namerds {
        session: namerd.session(Peer::default()),
        dialled: AtomicUsize::new(0),
        generation: watch::Sender::new(0),
        served: Mutex::default(),
    });
    let source = Thrift::new(Arc::clone(&namerds), "default").client_id(path("/proxy"));
    (names, namerds, source)
}

impl Namerds {
    fn connections(&self) -> usize {
        self.dialled.load(Ordering::Relaxed)
    }

    async fn put(&self, dtab: &str) {
        self.session.put(&"default".parse().unwrap(), &dtab.parse().unwrap(), &Expect::Any).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn changes_arrive() {
    let (names, namerds, source) = namerd();
    let mut tree = bind(&source, "", "/svc/web/users");
    let residual = |id| NameTree::Leaf(Leaf { id: path(id), residual: path("/users") });
    assert_eq!(tree.next().await, residual("/#/fixed/web"));
    let mut addr = addr(&source, "/#/fixed/web");
    assert_eq!(addr.next().await, at(&[1]));

    namerds.put("/svc => /#/fixed; /svc/web => /#/fixed/other").await;
    assert_eq!(tree.next().await, residual("/#/fixed/other"));
    names.remove(&path("/other"));
    assert_eq!(tree.next().await, residual("/#/fixed/web"));
    let endpoint = Endpoint::new(([0, 0, 0, 0, 0, 0, 0, 1], 7).into()).with_weight(0.5);
    let endpoints = [endpoint.clone(), endpoint.with_node("n").with_authority("a")];
    names.set(path("/web"), Addr::Bound(endpoints.clone().into()));
    assert_eq!(addr.next().await, Addr::Bound(endpoints.into()));
    assert_eq!(namerds.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_table_of_the_caller_goes_on_top() {
    let (_, _, source) = namerd();
    let mut tree = bind(&source, "/a => /svc/web | /svc/other; /b => 3 * /svc/web & 0.001 * /a", "/b");
    let shown = tree.next().await.map(&mut |leaf: Leaf| leaf.id.to_string());
    let NameTree::Union(branches) = &shown else { panic!("{shown:?}") };
    assert_eq!(branches.iter().map(|branch| branch.weight).collect::<Vec<_>>(), [3.0, 0.001]);
    assert_eq!(shown.leaves()[0], "/#/fixed/web");
}

#[tokio::test(start_paused = true)]
async fn all_decimals_of_weights_arrive() {
    let (_, namerds, source) = namerd();
    namerds.put("/svc => /#/fixed; /canary => 0.001 * /svc/web & 0.999 * /svc/other").await;
    let extra = "/canary => 0.001 * /svc/web & 12.3456789 * /svc/other";
    for (dtab, weight) in [("", 0.999), (extra, 12.345_678_9)] {
        let branches = vec![Weighted::new(0.001, leaf("/#/fixed/web")), Weighted::new(weight, leaf("/#/fixed/other"))];
        assert_eq!(bind(&source, dtab, "/canary").next().await, NameTree::Union(branches));
        let explained = source.delegate(&dtab.parse().unwrap(), &path("/canary")).await.unwrap();
        let weights = explained.nodes().find_map(|node| match &node.step {
            Step::Union(branches) => Some(branches.iter().map(|(weight, _)| *weight).collect::<Vec<_>>()),
            _ => None,
        });
        assert_eq!(weights.unwrap(), [0.001, weight]);
    }
}

#[tokio::test(start_paused = true)]
async fn many_watches_share_a_connection() {
    let (_, namerds, source) = namerd();
    let mut watches: Vec<_> = (0..200).map(|i| bind(&source, "", &format!("/svc/{i}"))).collect();
    for watch in &mut watches {
        assert_eq!(watch.next().await, NameTree::Neg);
    }
    namerds.put("/svc => /#/fixed | /#/fixed/web").await;
    for watch in &mut watches {
        assert!(matches!(watch.next().await, NameTree::Leaf(_)));
    }
    assert_eq!(namerds.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_namerd_that_leaves_is_followed() {
    let (names, namerds, source) = namerd();
    let mut addr = addr(&source, "/#/fixed/web");
    assert_eq!(addr.next().await, at(&[1]));
    for round in 2..5_usize {
        // Not at once again, which is how a namerd looks that does not work.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        namerds.generation.send_modify(|generation| *generation += 1);
        let old = namerds.served.lock().unwrap().pop().unwrap();
        old.await.unwrap().unwrap();
        let port = 10 + round as u16;
        names.set(path("/web"), at(&[port]));
        assert_eq!(addr.next().await, at(&[port]));
        assert_eq!(namerds.connections(), round);
    }
    assert!(!addr.end.is_finished(), "the watch goes on");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_namerd_ends_watches_and_the_next_connects() {
    let (_, namerds, source) = namerd();
    let mut tree = bind(&source, "", "/svc/web");
    tree.next().await;
    let served = namerds.served.lock().unwrap().pop().unwrap();
    served.abort();
    assert_eq!(tree.failure().await, "namerd closed the connection");
    assert_eq!(bind(&source, "", "/svc/web").next().await, leaf("/#/fixed/web"));
    assert_eq!(namerds.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_needs_is_closed() {
    let (names, namerds, source) = namerd();
    let mut watch = bind(&source, "", "/svc/web");
    watch.next().await;
    let served = namerds.served.lock().unwrap().pop().unwrap();
    drop(source);
    // The watch still has the source.
    names.remove(&path("/web"));
    assert_eq!(watch.next().await, NameTree::Neg);
    watch.end.abort();
    served.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_explanation_has_addresses() {
    let (names, _, source) = namerd();
    names.fail(path("/bad"), Arc::new(io::Error::other("no such disk")));
    let dtab: Dtab = "/a => /svc/bad | /svc/web & 0.5 * /svc/none".parse().unwrap();
    let delegation = source.delegate(&dtab, &path("/a")).await.unwrap();
    let Step::Alt(nodes) = &delegation.root.step else { panic!("{delegation}") };
    assert_eq!(nodes.len(), 2);
    let mut found = Vec::new();
    for node in delegation.nodes() {
        if let Step::Leaf(bound) = &node.step {
            let addr = match bound.addr.sample() {
                State::Ok(addr) => format!("{:?}", addr.endpoints()[0].addr),
                State::Failed(error) => error.to_string(),
                State::Pending => "pending".to_owned(),
            };
            found.push((bound.id.to_string(), addr));
        }
    }
    let expected = [("/#/fixed/bad", "namerd says: no such disk"), ("/#/fixed/web", "127.0.0.1:1")];
    assert_eq!(found, expected.map(|(id, addr)| (id.to_owned(), addr.to_owned())));
    let entries: Vec<_> = delegation.nodes().filter_map(|node| Some(node.dentry.as_ref()?.to_string())).collect();
    assert!(entries.contains(&"/svc=>/#/fixed".to_owned()), "{entries:?}");
    assert!(delegation.root.dentry.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_namerd_says_is_wrong_is_a_failure() {
    let (_, _, source) = namerd();
    let loops = bind(&source, "/loop => /loop", "/loop").failure().await;
    assert_eq!(loops, "namerd says: Max recursion level: 100 reached in Namer lookup");
    let error = source.delegate(&"/loop => /loop".parse().unwrap(), &path("/loop")).await.unwrap_err();
    assert_eq!(error.to_string(), "namerd says: Max recursion level reached.");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_fails_at_namerd_is_asked_for_again() {
    let (names, namerds, source) = namerd();
    names.fail(path("/bad"), Arc::new(io::Error::other("no such disk")));
    let mut addr = addr(&source, "/#/fixed/bad");
    addr.shown.changed().await;
    let State::Failed(error) = addr.shown.sample() else { panic!("{:?}", addr.shown) };
    assert_eq!(error.to_string(), "namerd says: no such disk");
    tokio::time::sleep(std::time::Duration::from_mins(1)).await;
    names.set(path("/bad"), at(&[3]));
    tokio::time::sleep(std::time::Duration::from_secs(9)).await;
    assert_eq!(addr.shown.sample().ok(), Some(at(&[3])));
    assert_eq!(namerds.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_interpreter_is_made_of_it() {
    let (names, _, source) = namerd();
    let away = client(0).0;
    let remote = Remote::builder(away).or(source).build();
    let mut tree = remote.bind(&Dtab::empty(), &path("/svc/web"));
    let NameTree::Leaf(mut bound) = tree.ready().await.unwrap() else { panic!("{tree:?}") };
    assert_eq!(bound.addr.ready().await.unwrap(), at(&[1]));
    names.set(path("/web"), at(&[4]));
    bound.addr.changed().await;
    assert_eq!(bound.addr.sample().ok(), Some(at(&[4])));
}
