//! By HTTP: against what a real namerd sent, and against ours in this process.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use linkerd_dtab::{
    delegate::Step,
    interpreter::remote::{
        self, Http, Snapshots,
        http::{HttpError, MAX_DOCUMENT},
    },
    namer::fixed,
    namerd::{Namerd, Peer, http::Controller},
    store::{Expect, Memory, Namespace},
    transport::{Body, Heartbeat, Sending, Transport},
};
use tower_service::Service;

use super::*;

/// What a real namerd sent over each connection of a real Linkerd.
fn recorded() -> Vec<serde_json::Value> {
    serde_json::from_str(include_str!("../data/namerd/http-session.json")).unwrap()
}

/// Answers each request with these pieces of a body, and then leaves it open.
#[derive(Clone, Default)]
struct Script {
    pieces: Vec<Bytes>,
    status: Option<StatusCode>,
    ends: bool,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn sends(pieces: impl IntoIterator<Item = impl Into<Bytes>>) -> Self {
        Self { pieces: pieces.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    fn ends(self) -> Self {
        Self { ends: true, ..self }
    }

    fn asked(&self) -> MutexGuard<'_, Vec<String>> {
        self.asked.lock().unwrap()
    }
}

impl Transport for Script {
    fn send(&self, request: Request<Body>) -> Sending {
        self.asked().push(format!("{} {}", request.method(), request.uri()));
        let pieces = stream::iter(self.pieces.clone()).map(|piece| Ok(Frame::data(piece)));
        let rest = if self.ends { stream::empty().boxed() } else { stream::pending().boxed() };
        let mut response = Response::new(StreamBody::new(pieces.chain(rest)).boxed_unsync());
        *response.status_mut() = self.status.unwrap_or_default();
        Box::pin(async move { Ok(response) })
    }
}

/// All states that a watch goes through, then why it ended.
async fn all<T: Clone + Send + Sync + 'static>(
    mut states: Activity<T>,
    watching: Watching<'_>,
) -> (Vec<T>, Option<Failure>) {
    let mut seen = Vec::new();
    let mut watching = watching;
    for _ in 0..100 {
        tokio::select! {
            biased;
            () = states.changed() => seen.extend(states.sample().ok()),
            failure = &mut watching => {
                if states.changed().now_or_never().is_some() {
                    seen.extend(states.sample().ok());
                }
                return (seen, Some(failure));
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => return (seen, None),
        }
    }
    panic!("no end of states")
}

async fn trees(script: &Script) -> (Vec<String>, Option<Failure>) {
    let http = Http::new(script.clone(), "default");
    let (publisher, tree) = Activity::channel();
    let (dtab, name) = ("/extra => /svc".parse().unwrap(), path("/svc/web"));
    let (trees, end) = all(tree, http.bind(&dtab, &name, &publisher)).await;
    (trees.iter().map(ToString::to_string).collect(), end)
}

async fn addrs(script: &Script) -> (Vec<Vec<u16>>, Option<Failure>) {
    let http = Http::new(script.clone(), "default");
    let (publisher, addr) = Activity::channel();
    let (addrs, end) = all(addr, http.addr(&path("/#/io.l5d.fs/web"), &publisher)).await;
    let ports = |addr: &Addr| addr.endpoints().iter().map(|endpoint| endpoint.addr.port()).collect();
    (addrs.iter().map(ports).collect(), end)
}

/// One piece a document, whatever they are cut into: a piece is read when all before it are published.
fn documents(connection: &serde_json::Value) -> Vec<String> {
    serde_json::from_value(connection["documents"].clone()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn understands_what_a_real_namerd_sends() {
    let session = recorded();
    // A document at a time: what is published twice before somebody looks is seen once.
    let mut last = Vec::new();
    for document in documents(&session[0]) {
        last.extend(trees(&Script::sends([document])).await.0);
    }
    assert_eq!(last, ["/#/io.l5d.fs/web", "/#/io.l5d.fs/other", "/#/io.l5d.fs/web", "/#/io.l5d.fs/other"]);
    let mut last = Vec::new();
    for document in documents(&session[1]).into_iter().chain(documents(&session[4])) {
        last.extend(addrs(&Script::sends([document])).await.0);
    }
    assert_eq!(last, [vec![37611], vec![37611, 40313], vec![40313], vec![], vec![40313]]);
    assert_eq!(trees(&Script::sends(documents(&session[2]))).await.0, ["~"]);

    let script = Script::sends(documents(&session[5])).ends();
    let http = Http::new(script.clone(), "default");
    let delegation = http.delegate(&"/extra => /svc".parse().unwrap(), &path("/svc/web")).await.unwrap();
    assert_eq!(delegation.to_json().unwrap(), documents(&session[5])[0]);
    assert_eq!(script.asked()[0], format!("GET {}", session[5]["target"].as_str().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn asks_as_a_real_linkerd_does() {
    let session = recorded();
    let script = Script::default();
    trees(&script).await;
    addrs(&script).await;
    for (asked, recorded) in script.asked().iter().zip(&session) {
        let recorded = recorded["target"].as_str().unwrap().replace("watch=1", "watch=true");
        assert_eq!(*asked, format!("GET {recorded}"));
    }
}

#[tokio::test(start_paused = true)]
async fn documents_may_come_in_any_pieces() {
    let whole = documents(&recorded()[1]).concat();
    for size in 1..whole.len() {
        let pieces: Vec<Bytes> = whole.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
        let (seen, end) = addrs(&Script::sends(pieces).ends()).await;
        assert_eq!(seen.last(), Some(&vec![37611, 40313]), "{size}");
        assert!(matches!(end.unwrap().downcast_ref(), Some(HttpError::Ended)), "{size}");
    }
}

#[tokio::test(start_paused = true)]
async fn why_a_watch_ends_is_told() {
    let end = async |script: Script| addrs(&script).await.1.unwrap().to_string();
    assert_eq!(end(Script::default().ends()).await, "namerd ended the watch");
    assert_eq!(end(Script::sends(["Max recursion level\n"])).await, "namerd said: Max recursion level");
    assert_eq!(end(Script::sends(["cut sho"]).ends()).await, "namerd said: cut sho");
    assert_eq!(end(Script::sends(["{\"type\":1}\n"])).await, "namerd sent a document that is malformed");
    let refused = Script { status: Some(StatusCode::FORBIDDEN), ..Script::sends(["go away"]) }.ends();
    assert_eq!(end(refused).await, "namerd answered 403 Forbidden: go away");
    let empty = Script { status: Some(StatusCode::BAD_GATEWAY), ..Script::default() }.ends();
    assert_eq!(end(empty).await, "namerd answered 502 Bad Gateway");
    let long = Script::sends(vec![Bytes::from(vec![b'{'; 1 << 20]); 20]);
    assert_eq!(end(long).await, format!("namerd sent a document of more than {MAX_DOCUMENT} bytes"));
}

#[tokio::test(start_paused = true)]
async fn a_failed_address_there_is_one_here_and_no_end() {
    let http = Http::new(Script::sends(["{\"type\":\"failed\",\"cause\":\"malformed address: x\"}\n"]), "default");
    let remote = Remote::builder(Bound_(http)).build();
    let mut tree = bind(&remote, "/svc/web");
    tree.ready().await.unwrap();
    let error = addr(&tree).ready().await.unwrap_err();
    assert_eq!(error.to_string(), "malformed address: x");
}

/// Every name is bound; addresses are the source's.
struct Bound_(Http);

impl Source for Bound_ {
    fn bind<'a>(&'a self, _: &'a Dtab, _: &'a Path, tree: &'a Publisher<NameTree<Leaf>>) -> Watching<'a> {
        tree.ok(NameTree::Leaf(Leaf { id: path("/#/a"), residual: Path::empty() }));
        Box::pin(std::future::pending())
    }

    fn addr<'a>(&'a self, id: &'a Path, addr: &'a Publisher<Addr>) -> Watching<'a> {
        self.0.addr(id, addr)
    }

    fn delegate<'a>(&'a self, dtab: &'a Dtab, name: &'a Path) -> Explaining<'a> {
        self.0.delegate(dtab, name)
    }
}

/// Our namerd, as if over a network.
#[derive(Clone)]
struct Server {
    namerd: Namerd,
    namer: fixed::Namer,
    // Whoever sends false breaks all connections.
    is_up: watch::Sender<bool>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(tables: &[(&str, &str)]) -> Self {
        let table = |(name, dtab): &(&str, &str)| (name.parse::<Namespace>().unwrap(), dtab.parse().unwrap());
        let namer = fixed::Namer::new().with(path("/a"), at(1)).with(path("/b"), at(2));
        let namerd =
            Namerd::builder(Memory::new(tables.iter().map(table))).namer(path("/#/fixed"), namer.clone()).build();
        Self { namerd, namer, is_up: watch::channel(true).0, asked: Arc::default() }
    }

    fn is_up(&self, is_up: bool) {
        self.is_up.send_replace(is_up);
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    async fn put(&self, namespace: &str, dtab: &str) {
        let session = self.namerd.session(Peer::default());
        session.put(&namespace.parse().unwrap(), &dtab.parse().unwrap(), &Expect::Any).await.unwrap();
    }
}

impl Transport for Server {
    fn send(&self, request: Request<Body>) -> Sending {
        let is_up = self.is_up.subscribe();
        if !*is_up.borrow() {
            return Box::pin(async { Err(failure("connection refused")) });
        }
        self.asked.lock().unwrap().push(request.uri().to_string());
        let answer = Controller::new(self.namerd.clone()).call(request);
        Box::pin(async move {
            let Ok(response) = answer.await;
            let (head, body) = response.into_parts();
            let frames = stream::unfold((body, is_up), |(mut body, mut is_up)| async move {
                let frame = tokio::select! {
                    frame = body.frame() => frame?,
                    _ = is_up.wait_for(|is_up| !is_up) => Err(failure("connection reset")),
                };
                Some((frame, (body, is_up)))
            });
            Ok(Response::from_parts(head, StreamBody::new(frames).boxed_unsync()))
        })
    }
}

fn ask(server: &Server) -> remote::Builder {
    Remote::builder(Http::new(server.clone(), "default")).pauses(PAUSES)
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_table_arrives() {
    let server = Server::new(&[("default", "/svc => /#/fixed/a")]);
    let remote = ask(&server).build();
    let mut tree = bind(&remote, "/svc/web");
    becomes(&mut tree, "/#/fixed/a[/web]").await;
    assert_eq!(addr(&tree).ready().await.unwrap(), at(1));

    server.put("default", "/svc => 3 * /#/fixed/a & /#/fixed/b").await;
    becomes(&mut tree, "3.00*/#/fixed/a[/web] & /#/fixed/b[/web]").await;
    let weights = |tree: &NameTree<Bound>| tree.leaves().into_iter().map(|bound| bound.weight).collect::<Vec<_>>();
    assert_eq!(weights(&tree.sample().ok().unwrap()), [Some(3.0), Some(1.0)]);

    let mut addr = tree.sample().ok().unwrap().leaves()[1].addr.clone();
    assert_eq!(addr.ready().await.unwrap(), at(2));
    server.namer.set(path("/b"), at(3));
    addr.changed().await;
    assert_eq!(addr.sample().ok(), Some(at(3)));
}

#[tokio::test(start_paused = true)]
async fn all_decimals_of_weights_arrive_and_are_kept_on_disk() {
    let server = Server::new(&[("default", "/svc => 0.001 * /#/fixed/a & 0.999 * /#/fixed/b")]);
    let folder = tempfile::tempdir().unwrap();
    let ask = || ask(&server).snapshots(Snapshots::new(folder.path().join("names.json"), "us")).build();
    let extra: Dtab = "/extra => 0.001 * /#/fixed/a & 12.3456789 * /#/fixed/b".parse().unwrap();
    let weights = |tree: &Activity<NameTree<Bound>>| -> Vec<_> {
        match tree.sample() {
            State::Ok(NameTree::Union(branches)) => {
                branches.iter().map(|branch| (branch.weight, branch.tree.leaves()[0].weight)).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    let expected = |weight| vec![(0.001, Some(0.001)), (weight, Some(weight))];
    let all = [(Dtab::empty(), "/svc/web", 0.999), (extra, "/extra/web", 12.345_678_9)];

    let remote = ask();
    for (dtab, name, weight) in &all {
        let mut tree = remote.bind(dtab, &path(name));
        tree.ready().await.unwrap();
        until("both branches", || tree.sample().ok().is_some_and(|tree| tree.leaves().len() == 2)).await;
        assert_eq!(weights(&tree), expected(*weight));
        let explained = remote.delegate(dtab, &path(name)).ready().await.unwrap();
        let found = explained.nodes().find_map(|node| match &node.step {
            Step::Union(branches) => Some(branches.iter().map(|(weight, _)| *weight).collect::<Vec<_>>()),
            _ => None,
        });
        assert_eq!(found.unwrap(), [0.001, *weight]);
        remote.save().await.unwrap();
    }
    drop(remote);
    server.is_up(false);
    let recalled = ask();
    for (dtab, name, weight) in &all {
        let mut tree = recalled.bind(dtab, &path(name));
        tree.ready().await.unwrap();
        assert!(tree.snapshot().stale.is_some());
        assert_eq!(weights(&tree), expected(*weight));
    }
}

#[tokio::test(start_paused = true)]
async fn the_table_of_the_caller_is_on_top() {
    let server = Server::new(&[("default", "/svc => /#/fixed/a")]);
    let dtab = "/svc/web => /#/fixed/b".parse().unwrap();
    let mut tree = ask(&server).build().bind(&dtab, &path("/svc/web"));
    becomes(&mut tree, "/#/fixed/b").await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_namerd_goes_by() {
    let server = Server::new(&[("default", "/svc => /#/fixed/a")]);
    let remote = ask(&server).build();
    let mut tree = bind(&remote, "/svc/web");
    becomes(&mut tree, "/#/fixed/a[/web]").await;
    server.is_up(false);
    until("staleness", || tree.snapshot().stale.is_some()).await;
    server.put("default", "/svc => /#/fixed/b").await;
    assert_eq!(shown(&tree), "/#/fixed/a[/web]");
    server.is_up(true);
    becomes(&mut tree, "/#/fixed/b[/web]").await;
    assert!(tree.snapshot().stale.is_none());
}

#[tokio::test(start_paused = true)]
async fn two_namerds_are_asked_in_order() {
    let first = Server::new(&[("default", "/svc => /#/fixed/a")]);
    let second = Server::new(&[("default", "/svc => /#/fixed/b")]);
    first.is_up(false);
    let remote = ask(&first).or(Http::new(second.clone(), "default")).build();
    let mut tree = bind(&remote, "/svc/web");
    becomes(&mut tree, "/#/fixed/b[/web]").await;
    first.is_up(true);
    becomes(&mut tree, "/#/fixed/a[/web]").await;
}

#[tokio::test(start_paused = true)]
async fn a_start_without_a_namerd_serves_what_was_known() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("names.json");
    let server = Server::new(&[("default", "/svc => /#/fixed/a | /#/fixed/b")]);
    let before = ask(&server).snapshots(Snapshots::new(&file, "default")).build();
    let mut tree = bind(&before, "/svc/web");
    becomes(&mut tree, "/#/fixed/a[/web]").await;
    addr(&tree).ready().await.unwrap();
    before.save().await.unwrap();

    server.is_up(false);
    let after = ask(&server).snapshots(Snapshots::new(&file, "default")).build();
    let mut tree = bind(&after, "/svc/web");
    becomes(&mut tree, "/#/fixed/a[/web]").await;
    assert!(tree.snapshot().stale.is_some());
    let addr = addr(&tree);
    until("an address", || addr.sample().ok() == Some(at(1))).await;
    server.put("default", "/svc => /#/fixed/b").await;
    server.is_up(true);
    becomes(&mut tree, "/#/fixed/b[/web]").await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_who_watch_an_id_are_one_request() {
    let server = Server::new(&[("default", "/svc => /#/fixed/a")]);
    let remote = ask(&server).build();
    let mut trees: Vec<_> = (0..100).map(|i| bind(&remote, &format!("/svc/{i}"))).collect();
    for tree in &mut trees {
        tree.ready().await.unwrap();
        assert_eq!(addr(tree).ready().await.unwrap(), at(1));
    }
    let mut asked = HashMap::new();
    for uri in &*server.asked.lock().unwrap() {
        *asked.entry(uri.split('/').nth(3).unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(asked, HashMap::from([("bind".to_owned(), 100), ("addr".to_owned(), 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_bound_fails_with_the_reason_until_it_can() {
    let server = Server::new(&[("default", "/svc => /loop ; /loop => /svc")]);
    let remote = ask(&server).build();
    let mut tree = bind(&remote, "/svc/web");
    let error = tree.ready().await.unwrap_err().to_string();
    assert!(error.contains("Max recursion level: 100 reached in Namer lookup: /"), "{error}");
    server.put("default", "/svc => /#/fixed/a").await;
    becomes(&mut tree, "/#/fixed/a[/web]").await;
    assert!(server.asked() < 10);
}

#[tokio::test(start_paused = true)]
async fn an_explanation_is_that_of_the_namerd() {
    let server = Server::new(&[("default", "/svc => /#/fixed/a | /#/fixed/b")]);
    let explained = ask(&server).build().delegate(&Dtab::empty(), &path("/svc")).ready().await.unwrap();
    let session = server.namerd.session(Peer::default());
    let mut there = session.delegate(&"default".parse().unwrap(), &Dtab::empty(), &path("/svc")).unwrap();
    assert_eq!(explained.to_json(), there.ready().await.unwrap().to_json());
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_which_nothing_comes_is_asked_for_anew() {
    let namerd = Script::sends([&b"{\"type\":\"neg\"}\n"[..]]);
    let remote = Remote::builder(Http::new(namerd.clone(), "default")).pauses(PAUSES).build();
    let mut tree = bind(&remote, "/svc/web");
    becomes(&mut tree, "~").await;
    tokio::time::sleep(remote::http::QUIET * 4).await;
    let asked = namerd.asked().iter().filter(|asked| asked.starts_with("GET")).count();
    assert!((4..=6).contains(&asked), "asked {asked} times");
    assert!(tree.snapshot().stale.is_none());
    assert_eq!(shown(&tree), "~");
}

/// A namerd behind a wire that may be cut without a word: nothing comes through, and nothing ends.
#[derive(Clone, Default)]
struct Wire {
    namerd: Script,
    is_cut: Arc<std::sync::atomic::AtomicBool>,
}

impl Transport for Wire {
    fn send(&self, request: Request<Body>) -> Sending {
        let sending = self.namerd.send(request);
        if self.is_cut.load(Ordering::SeqCst) { Box::pin(std::future::pending()) } else { sending }
    }
}

#[tokio::test(start_paused = true)]
async fn a_namerd_that_is_gone_without_a_word_is_noticed_by_all_watches_at_once() {
    let wire = Wire { namerd: Script::sends([&b"{\"type\":\"neg\"}\n"[..]]), ..Wire::default() };
    let heartbeat = Heartbeat { period: Duration::from_secs(5), timeout: Duration::from_secs(4) };
    let remote = Remote::builder(Http::new(wire.clone(), "default").heartbeat(heartbeat)).pauses(PAUSES).build();
    let mut trees: Vec<_> = (0..100).map(|n| bind(&remote, &format!("/svc/{n}"))).collect();
    for tree in &mut trees {
        becomes(tree, "~").await;
    }
    let checks = || wire.namerd.asked().iter().filter(|asked| **asked == "HEAD /api/1/dtabs/default").count();
    tokio::time::sleep(Duration::from_secs(101)).await;
    assert_eq!(checks(), 20, "once for all");
    let stale = || trees.iter().filter(|tree| tree.snapshot().stale.is_some()).count();
    assert_eq!(stale(), 0);
    wire.is_cut.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(stale(), 0, "one check that fails is not enough");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(stale(), 100);
    assert!(trees.iter().all(|tree| shown(tree) == "~"));
    wire.is_cut.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(stale(), 0);
    // Nobody is checked whom nobody watches.
    drop(trees);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = checks();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(checks(), before);
}
