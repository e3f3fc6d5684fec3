//! Make before break: a name that is bound to another client keeps its requests where they went until that one is ready.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use linkerd_core::{
    ErrorKind, Svc,
    admin::mesh_state,
    dtab::{
        Addr, Dtab, Endpoint, NameTree, Path, Publisher,
        interpreter::remote::{Explaining, Leaf, Remote, Source, Watching},
    },
    http::Connect,
};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::*;

/// Endpoints of which some refuse connections, before any request.
#[derive(Clone, Default)]
struct Doors {
    endpoints: Scripted,
    shut: Arc<Mutex<HashSet<SocketAddr>>>,
    dials: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Doors {
    fn shut(&self, addr: SocketAddr) {
        self.shut.lock().unwrap().insert(addr);
    }

    fn open(&self, addr: SocketAddr) {
        self.shut.lock().unwrap().remove(&addr);
    }
}

impl Connect for Doors {
    fn connect(&self, endpoint: &Endpoint) -> Svc {
        self.endpoints.connect(endpoint)
    }

    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, io::Result<()>> {
        self.dials.lock().unwrap().push(endpoint.addr);
        let is_shut = self.shut.lock().unwrap().contains(&endpoint.addr);
        let reached = if is_shut { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(()) };
        Box::pin(std::future::ready(reached))
    }
}

/// A namerd that says what it is told to, by a watch for each answer.
#[derive(Clone)]
struct Namerd {
    tree: watch::Sender<NameTree<Leaf>>,
    addrs: Arc<Mutex<HashMap<Path, watch::Sender<Option<Addr>>>>>,
}

impl Default for Namerd {
    fn default() -> Self {
        Self { tree: watch::Sender::new(NameTree::Neg), addrs: Arc::default() }
    }
}

impl Namerd {
    fn bind(&self, id: &str) {
        let leaf = Leaf { id: id.parse().unwrap(), residual: Path::empty() };
        self.tree.send_replace(NameTree::Leaf(leaf));
    }

    fn addr(&self, id: &str, addr: Addr) {
        self.said(&id.parse().unwrap()).send_replace(Some(addr));
    }

    fn said(&self, id: &Path) -> watch::Sender<Option<Addr>> {
        let mut addrs = self.addrs.lock().unwrap();
        addrs.entry(id.clone()).or_insert_with(|| watch::Sender::new(None)).clone()
    }
}

impl Source for Namerd {
    fn bind<'a>(&'a self, _: &'a Dtab, _: &'a Path, tree: &'a Publisher<NameTree<Leaf>>) -> Watching<'a> {
        let mut said = self.tree.subscribe();
        Box::pin(async move {
            loop {
                tree.ok(said.borrow_and_update().clone());
                said.changed().await.expect("kept");
            }
        })
    }

    fn addr<'a>(&'a self, id: &'a Path, addr: &'a Publisher<Addr>) -> Watching<'a> {
        let mut said = self.said(id).subscribe();
        Box::pin(async move {
            loop {
                if let Some(said) = &*said.borrow_and_update() {
                    addr.ok(said.clone());
                }
                said.changed().await.expect("kept");
            }
        })
    }

    fn delegate<'a>(&'a self, _: &'a Dtab, _: &'a Path) -> Explaining<'a> {
        Box::pin(std::future::pending())
    }
}

/// `/svc/users` is bound to `/v1`, which has one endpoint, and was asked for once.
async fn world(more: impl FnOnce(MeshBuilder) -> MeshBuilder) -> (World, Doors, Client) {
    let doors = Doors::default();
    let connect = doors.clone();
    let world = World::with(|builder| more(builder.connect(connect)));
    world.namer.addrs("/v1", [ep(1)]);
    world.namer.tree("/users", "/v1");
    let client = world.client("/svc/users");
    assert_eq!(asked(&client, &doors).await, Ok(1));
    (world, doors, client)
}

/// Who answers a request that is sent now: the last number of its address. Or why nobody does.
async fn asked(client: &Client, doors: &Doors) -> Result<u8, ErrorKind> {
    let counts = || (1..10).map(|n| doors.endpoints.count(ep(n))).collect::<Vec<_>>();
    let before = counts();
    client.send(get()).await.map_err(|error| error.kind())?;
    let after = counts();
    let who = before.iter().zip(&after).position(|(before, after)| before != after);
    Ok(who.expect("somebody was asked") as u8 + 1)
}

/// Moves `/svc/users` to another tree, and lets that sink in.
async fn move_to(world: &World, tree: &str) {
    world.namer.tree("/users", tree);
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn requests_stay_until_an_endpoint_of_the_new_client_is_known_and_connected_to() {
    let (world, doors, client) = world(|builder| builder).await;
    move_to(&world, "/v2").await;
    assert_eq!(world.metric("bindcache/switch/waiting"), Some(1.0));
    let shown = || mesh_state(&world.mesh)["paths"][0].clone();
    assert_eq!((&shown()["value"], &shown()["serving"]), (&json!("/#/fake/v2"), &json!("/#/fake/v1")));
    // Nobody knows where it is, for however long.
    sleep(100 * SEC).await;
    assert_eq!(asked(&client, &doors).await, Ok(1));
    world.namer.fail_addr("/v2", "away");
    settle().await;
    assert_eq!(asked(&client, &doors).await, Ok(1));

    let (world, doors, client) = self::world(|builder| builder).await;
    doors.shut(ep(2));
    move_to(&world, "/v2").await;
    world.namer.addrs("/v2", [ep(2)]);
    sleep(SEC).await;
    assert_eq!(asked(&client, &doors).await, Ok(1));
    doors.open(ep(2));
    sleep(150 * MS).await;
    assert_eq!(asked(&client, &doors).await, Ok(2));
    assert_eq!(world.metric("bindcache/switch/waiting"), Some(0.0));
    assert_eq!(world.count("bindcache/switch/timeouts"), 0);
    let shown = &mesh_state(&world.mesh)["paths"][0];
    assert_eq!((&shown["value"], &shown["serving"]), (&json!("/#/fake/v2"), &json!(null)));
    // It was reached once: nobody has to find out again.
    let dials = doors.dials.lock().unwrap().len();
    move_to(&world, "/v1").await;
    move_to(&world, "/v2").await;
    assert_eq!(asked(&client, &doors).await, Ok(2));
    let dialed = doors.dials.lock().unwrap()[dials..].to_vec();
    assert_eq!(dialed, [ep(1)], "once for the client that was never new");
}

#[tokio::test(start_paused = true)]
async fn what_the_table_says_is_done_in_time_whether_or_not_it_can_be_reached() {
    let empty: [SocketAddr; 0] = [];
    let known = [
        (Addr::of(empty), Err(ErrorKind::NoEndpoints)),
        (Addr::Neg, Err(ErrorKind::NoEndpoints)),
        (Addr::of([ep(2)]), Ok(2)),
    ];
    for (addr, then) in known {
        let (world, doors, client) = world(|builder| builder).await;
        doors.shut(ep(2));
        world.namer.addr("/v2", addr);
        move_to(&world, "/v2").await;
        sleep(1990 * MS).await;
        assert_eq!(asked(&client, &doors).await, Ok(1), "{then:?}");
        sleep(20 * MS).await;
        assert_eq!(asked(&client, &doors).await, then);
        assert_eq!(world.count("bindcache/switch/timeouts"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_unknown_when_it_is_late_goes_over_as_soon_as_it_is_known() {
    let (world, doors, client) = world(|builder| builder).await;
    doors.shut(ep(2));
    move_to(&world, "/v2").await;
    sleep(10 * SEC).await;
    assert_eq!(asked(&client, &doors).await, Ok(1));
    world.namer.addrs("/v2", [ep(2)]);
    settle().await;
    assert_eq!(asked(&client, &doors).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_stands_for_nothing_any_more_does_so_at_once() {
    for tree in ["~", "!", "$"] {
        let (world, doors, client) = world(|builder| builder).await;
        move_to(&world, tree).await;
        assert!(asked(&client, &doors).await.is_err(), "{tree}");
    }
    // And one that stood for nothing has nothing to wait for.
    let (world, doors, client) = world(|builder| builder).await;
    doors.shut(ep(2));
    world.namer.addrs("/v2", [ep(2)]);
    move_to(&world, "~").await;
    move_to(&world, "/v2").await;
    assert_eq!(asked(&client, &doors).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn of_a_union_each_new_branch_that_gets_requests_is_waited_for() {
    let (world, doors, client) = world(|builder| builder).await;
    world.namer.addrs("/v3", [ep(3)]);
    move_to(&world, "/v2 & /v3").await;
    for _ in 0..20 {
        assert_eq!(asked(&client, &doors).await, Ok(1));
    }
    world.namer.addrs("/v2", [ep(2)]);
    settle().await;
    let mut who = HashSet::new();
    for _ in 0..100 {
        who.insert(asked(&client, &doors).await.unwrap());
    }
    assert_eq!(who, HashSet::from([2, 3]));
    // Shares of who is there already change at once, and what gets nothing is not waited for.
    move_to(&world, "0 * /v4 & 1 * /v3").await;
    assert_eq!(asked(&client, &doors).await, Ok(3));
}

#[tokio::test(start_paused = true)]
async fn the_latest_tree_wins_and_one_that_went_back_was_never_left() {
    let (world, doors, client) = world(|builder| builder).await;
    move_to(&world, "/v2").await;
    world.namer.addrs("/v3", [ep(3)]);
    move_to(&world, "/v3").await;
    assert_eq!(asked(&client, &doors).await, Ok(3));
    move_to(&world, "/v2").await;
    move_to(&world, "/v3").await;
    assert_eq!(world.metric("bindcache/switch/waiting"), Some(0.0));
    world.namer.addrs("/v2", [ep(2)]);
    sleep(5 * SEC).await;
    assert_eq!(asked(&client, &doors).await, Ok(3));
}

#[tokio::test(start_paused = true)]
async fn a_table_that_never_rests_does_not_keep_a_name_where_it_was() {
    let (world, doors, client) = world(|builder| builder).await;
    for n in [2, 3] {
        doors.shut(ep(n));
        world.namer.addrs(&format!("/v{n}"), [ep(n)]);
    }
    let begun = Instant::now();
    let mut last = 1;
    for change in 0..40 {
        move_to(&world, if change % 2 == 0 { "/v2" } else { "/v3" }).await;
        sleep(100 * MS).await;
        last = asked(&client, &doors).await.unwrap();
        if last != 1 {
            break;
        }
    }
    assert_ne!(last, 1, "still at the first after {:?}", begun.elapsed());
    assert!((SEC * 2..SEC * 2 + 200 * MS).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_waited_for_when_there_is_nothing_to_keep() {
    let empty: [SocketAddr; 0] = [];
    let (world, doors, client) = world(|builder| builder).await;
    doors.shut(ep(2));
    world.namer.addrs("/v2", [ep(2)]);
    move_to(&world, "/v2").await;
    assert_eq!(asked(&client, &doors).await, Ok(1));
    world.namer.addrs("/v1", empty);
    settle().await;
    assert_eq!(asked(&client, &doors).await, Ok(2));

    let (world, doors, client) = self::world(|builder| builder.switch_timeout(Duration::ZERO)).await;
    doors.shut(ep(2));
    world.namer.addrs("/v2", [ep(2)]);
    move_to(&world, "/v2").await;
    assert_eq!(asked(&client, &doors).await, Ok(2));
}

/// Asks all the time, every 10 ms: how many times it did, once it is told to stop. None of these may fail.
struct Load {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Result<usize, String>>,
}

impl Load {
    fn start(client: &Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, stopped) = (client.clone(), Arc::clone(&stop));
        let asking = tokio::spawn(async move {
            let mut asked = FuturesUnordered::new();
            while !stopped.load(Ordering::Relaxed) {
                let client = client.clone();
                asked.push(tokio::spawn(async move { client.send(get()).await.map_err(|error| error.to_string()) }));
                sleep(10 * MS).await;
            }
            let count = asked.len();
            while let Some(answer) = asked.next().await {
                answer.unwrap()?;
            }
            Ok(count)
        });
        Self { stop, asking }
    }

    async fn stop(self) -> Result<usize, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_fails_over_fails_nothing_if_its_addresses_go_before_its_tree_moves() {
    let (world, doors, client) = world(|builder| builder).await;
    world.namer.addrs("/v2", [ep(2)]);
    for gone in [Addr::Neg, Addr::of([])] {
        let load = Load::start(&client);
        sleep(100 * MS).await;
        world.namer.addr("/v1", gone);
        sleep(500 * MS).await;
        let before = doors.endpoints.count(ep(1));
        assert!((49.0..=52.0).contains(&world.metric("bindcache/switch/holding").unwrap()));
        move_to(&world, "/v2").await;
        assert_eq!(world.metric("bindcache/switch/holding"), Some(0.0));
        sleep(100 * MS).await;
        assert!(load.stop().await.unwrap() >= 70);
        assert_eq!(doors.endpoints.count(ep(1)), before, "what is gone is asked nothing");
        world.namer.addrs("/v1", [ep(1)]);
        move_to(&world, "/v1").await;
        assert_eq!(asked(&client, &doors).await, Ok(1));
    }
    assert!(world.count("bindcache/switch/held") >= 98);
}

#[tokio::test(start_paused = true)]
async fn a_namerd_may_tell_that_addresses_are_gone_long_before_the_tree_that_leaves_them() {
    let namerd = Namerd::default();
    namerd.bind("/v1");
    namerd.addr("/v1", Addr::of([ep(1)]));
    let (doors, remote) = (Doors::default(), Remote::builder(namerd.clone()).build());
    let mesh = Mesh::builder().interpreter(remote).connect(doors.clone()).build().unwrap();
    let client = mesh.client("/svc/users").unwrap();
    assert_eq!(asked(&client, &doors).await, Ok(1));
    for (gone, next, of) in [("/v1", "/v2", 2), ("/v2", "/v3", 3), ("/v3", "/v1", 1)] {
        let load = Load::start(&client);
        sleep(50 * MS).await;
        namerd.addr(gone, Addr::Neg);
        sleep(500 * MS).await;
        namerd.bind(next);
        // Nor is it known where that is, at first.
        sleep(500 * MS).await;
        namerd.addr(next, Addr::of([ep(of)]));
        sleep(50 * MS).await;
        assert!(load.stop().await.unwrap() >= 100);
        assert_eq!(asked(&client, &doors).await, Ok(of));
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_whose_endpoints_come_back_in_a_moment_fails_nothing() {
    let (world, _, client) = world(|builder| builder).await;
    let load = Load::start(&client);
    for _ in 0..10 {
        sleep(50 * MS).await;
        world.namer.addr("/v1", Addr::Neg);
        sleep(300 * MS).await;
        world.namer.addrs("/v1", [ep(1)]);
    }
    load.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_is_held_for_no_longer_than_the_endpoints_have_been_gone() {
    let (world, doors, client) = world(|builder| builder).await;
    let gone = Instant::now();
    world.namer.addr("/v1", Addr::Neg);
    settle().await;
    for pause in [1500 * MS, Duration::ZERO, SEC] {
        sleep(pause).await;
        let begun = Instant::now();
        assert_eq!(asked(&client, &doors).await, Err(ErrorKind::NoEndpoints));
        let held = (gone + 2 * SEC).saturating_duration_since(begun);
        assert!((held..held + 2 * MS).contains(&begun.elapsed()), "{held:?}: {:?}", begun.elapsed());
    }
    // One that loses them again and again is not held for longer.
    let (world, doors, client) = self::world(|builder| builder).await;
    move_to(&world, "1 * /v1 & 0 * /v3").await;
    world.namer.addr("/v1", Addr::Neg);
    settle().await;
    let begun = Instant::now();
    let held = asked(&client, &doors);
    let moving = async {
        for change in 0..40 {
            sleep(90 * MS).await;
            move_to(&world, if change % 2 == 0 { "1 * /v1 & 0 * /v4" } else { "1 * /v1 & 0 * /v3" }).await;
        }
    };
    let (outcome, ()) = tokio::join!(async { (held.await, begun.elapsed()) }, moving);
    assert_eq!(outcome.0, Err(ErrorKind::NoEndpoints));
    assert!((1900 * MS..2100 * MS).contains(&outcome.1), "{:?}", outcome.1);

    // Nor one that has a limit of its own, and none at all without a time for it.
    let (world, doors, client) = self::world(|builder| builder.switch_timeout(Duration::ZERO)).await;
    world.namer.addr("/v1", Addr::Neg);
    settle().await;
    let begun = Instant::now();
    assert_eq!(asked(&client, &doors).await, Err(ErrorKind::NoEndpoints));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_are_held_than_there_is_room_for() {
    let (world, _, client) = world(|builder| builder).await;
    world.namer.addr("/v1", Addr::Neg);
    settle().await;
    let begun = Instant::now();
    let asking: Vec<_> = (0..10_010)
        .map(|_| {
            tokio::spawn({
                let client = client.clone();
                async move { (client.send(get()).await.unwrap_err().kind(), Instant::now()) }
            })
        })
        .collect();
    let ended: Vec<_> = join_all(asking).await.into_iter().map(Result::unwrap).collect();
    assert!(ended.iter().all(|(kind, _)| *kind == ErrorKind::NoEndpoints));
    assert_eq!(ended.iter().filter(|(_, at)| *at == begun).count(), 10);
    assert_eq!(world.metric("bindcache/switch/holding"), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_changes_under_load_fail_no_request() {
    let (world, doors, client) = world(|builder| builder).await;
    let load = tokio::spawn({
        let client = client.clone();
        async move {
            for _ in 0..10_000 {
                client.send(get()).await.map_err(|error| error.to_string())?;
                sleep(20 * MS).await;
            }
            Ok::<(), String>(())
        }
    });
    let mut moved = 0;
    for change in 0_u32..1000 {
        // A name that nobody has looked at, which has its endpoint a while later.
        let (name, addr) = (format!("/v{}", change + 10), ep((change % 200) as u8 + 10));
        let before = doors.endpoints.count(addr);
        doors.shut(addr);
        move_to(&world, &name).await;
        sleep(20 * MS).await;
        world.namer.addrs(&name, []);
        sleep(20 * MS).await;
        world.namer.addrs(&name, [addr]);
        sleep(20 * MS).await;
        assert_eq!(doors.endpoints.count(addr), before, "asked before it is there");
        doors.open(addr);
        sleep(140 * MS).await;
        moved += usize::from(doors.endpoints.count(addr) > before);
    }
    load.await.unwrap().unwrap();
    assert_eq!(moved, 1000);
}
